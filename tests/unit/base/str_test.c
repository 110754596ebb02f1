#include "../test.h"

static void compares_by_bytes_shorter_first(void **state)
{
    (void)state;
    assert_true(str_cmp(STR("a"), STR("b")) < 0);
    assert_true(str_cmp(STR("a"), STR("aa")) < 0);
    assert_true(str_cmp(STR("\xc3\xa9"), STR("z")) > 0);
    assert_int_equal(str_cmp(STR(""), STR_NULL), 0);
    assert_true(str_ieq(STR("BeArEr"), STR("bearer")));
    assert_false(str_ieq(STR("@"), STR("`")));
}

static void parses_integers_to_the_last_bit(void **state)
{
    (void)state;
    int64_t v = 7;
    assert_true(str_to_i64(STR("9223372036854775807"), &v) && v == INT64_MAX);
    assert_true(str_to_i64(STR("-9223372036854775808"), &v) && v == INT64_MIN);
    assert_true(str_to_i64(STR("+0"), &v) && v == 0);
    const char *bad[] = {
        "", "-", "9223372036854775808", "-9223372036854775809", "1 ", "0x1", "1.0", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(str_to_i64(str_c(bad[i]), &v));
}

static void utf8_accepts_only_rfc3629(void **state)
{
    (void)state;
    const char *good[] = {"", "abcdefghijk", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\x9f\xbf",
        "\xf4\x8f\xbf\xbf", "12345678\xc3\xa9"};
    const char *bad[] = {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80", "\xc3", "\xe2\x82", "abcdefgh\xff", "\xf0\x8f\xbf\xbf"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(utf8_valid(str_c(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(utf8_valid(str_c(bad[i])));
}

static void cuts_on_a_character(void **state)
{
    (void)state;
    struct str s = STR("a\xe2\x82\xac"
                       "b");
    assert_int_equal(utf8_cut(s, 0), 0);
    assert_int_equal(utf8_cut(s, 1), 1);
    assert_int_equal(utf8_cut(s, 2), 1);
    assert_int_equal(utf8_cut(s, 3), 1);
    assert_int_equal(utf8_cut(s, 4), 4);
    assert_int_equal(utf8_cut(s, 99), 5);
}

static void finds_trims_and_prefixes(void **state)
{
    (void)state;
    assert_int_equal(str_find(STR("abc"), 'c'), 2);
    assert_int_equal(str_find(STR("abc"), 'x'), 3);
    assert_str(str_trim(STR(" \t a b\r\n")), "a b");
    assert_true(str_starts_with(STR("tool:x"), STR("tool:")) && !str_starts_with(STR("to"), STR("tool")));
    assert_true(str_ends_with(STR("a.tmp"), STR(".tmp")) && !str_ends_with(STR("p"), STR("tmp")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compares_by_bytes_shorter_first),
        cmocka_unit_test(parses_integers_to_the_last_bit),
        cmocka_unit_test(utf8_accepts_only_rfc3629),
        cmocka_unit_test(cuts_on_a_character),
        cmocka_unit_test(finds_trims_and_prefixes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
