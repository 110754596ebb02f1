#include "../test.h"
#include "base/json.h"
#include <math.h>

static void check_value(struct value v, const char *want)
{
    struct buf b = BUF_INIT(0);
    json_value(&b, v);
    assert_str(buf_view(&b), want);
    buf_release(&b);
}

static void escapes_what_rfc8259_says(void **state)
{
    (void)state;
    check_value(
        value_text(STR("plain text of more than eight bytes")), "\"plain text of more than eight bytes\"");
    check_value(value_text(STR("a\"b\\c\n\r\t\b\f\x01/")), "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001/\"");
    check_value(value_text(STR("12345678\"")), "\"12345678\\\"\"");
    check_value(value_text(STR("\xf0\x9f\x98\x80\xc3\xa9")), "\"\xf0\x9f\x98\x80\xc3\xa9\"");
    /* An escape at each place of a word, so that the eight-byte scan misses none. */
    for (size_t at = 0; at < 16; at++) {
        char text[17] = "aaaaaaaaaaaaaaaa", want[32];
        text[at] = '\n';
        size_t n = 0;
        want[n++] = '"';
        for (size_t i = 0; i < 16; i++) {
            if (i == at)
                want[n++] = '\\';
            want[n++] = i == at ? 'n' : 'a';
        }
        want[n++] = '"';
        want[n] = '\0';
        check_value(value_text(str_c(text)), want);
    }
}

static void maps_values_as_the_contract_says(void **state)
{
    (void)state;
    check_value(VALUE_OF_NULL, "null");
    check_value(value_bool(true), "true");
    check_value(value_i64(INT64_C(9007199254740991)), "9007199254740991");
    check_value(value_i64(INT64_C(9007199254740992)), "\"9007199254740992\"");
    check_value(value_i64(-INT64_C(9007199254740992)), "\"-9007199254740992\"");
    check_value((struct value){.type = VALUE_DOUBLE, .d = 0.1}, "0.1");
    check_value((struct value){.type = VALUE_DOUBLE, .d = 1e300}, "1e+300");
    check_value((struct value){.type = VALUE_DOUBLE, .d = NAN}, "\"NaN\"");
    check_value((struct value){.type = VALUE_DOUBLE, .d = -INFINITY}, "\"-Infinity\"");
    check_value((struct value){.type = VALUE_HUGEINT, .s = STR("12")}, "\"12\"");
    check_value((struct value){.type = VALUE_DECIMAL, .s = STR("1.50")}, "\"1.50\"");
    check_value(value_ts(0), "\"1970-01-01T00:00:00.000000Z\"");
    check_value(value_json(STR("{\"a\":1}")), "{\"a\":1}");
    check_value((struct value){.type = VALUE_BLOB, .s = STR("\x00\xff\x10")}, "\"AP8Q\"");
    check_value((struct value){.type = VALUE_BLOB, .s = STR("ab")}, "\"YWI=\"");
}

static void validates_json(void **state)
{
    (void)state;
    const char *good[] = {"{}", "[]", " {\"a\" : [1, -0.5e+10, true, false, null, \"x\\u00e9\\n\"]} ", "0",
        "\"\"", "[[[]],{\"b\":{}}]", "\"\\ud83d\\ude00\"", "123456789012345678901234567890", "1e400"};
    const char *bad[] = {"", " ", "{", "]", "[1,]", "{\"a\":1,}", "{a:1}", "{\"a\" 1}", "01", "1.", ".5",
        "+1", "-", "1e", "tru", "nulll", "\"\\x\"", "\"\\u12\"", "\"\n\"", "'a'", "[1 2]", "{} {}",
        "\"\\ud83d\"", "\"\\udc00\"", "\"\\u0000\"", "[1,,2]", "\"abc", "\xff", "{\"a\":}", "[}"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (!json_valid(str_c(good[i])))
            fail_msg("refused: %s", good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (json_valid(str_c(bad[i])))
            fail_msg("accepted: %s", bad[i]);
    }
    char deep[2000];
    memset(deep, '[', 512);
    memset(deep + 512, ']', 512);
    assert_true(json_valid(str_n(deep, 1024)));
    memset(deep, '[', 513);
    memset(deep + 513, ']', 513);
    assert_false(json_valid(str_n(deep, 1026)));
}

static void put(const char *object, const char *raw, const char *want)
{
    struct buf b = BUF_INIT(0);
    bool ok = json_object_put(&b, str_c(object), STR("k"), raw != NULL ? str_c(raw) : STR_NULL);
    assert_int_equal(ok, want != NULL);
    assert_str(buf_view(&b), want != NULL ? want : "");
    buf_release(&b);
}

static void puts_a_member_into_an_object(void **state)
{
    (void)state;
    put("{}", "1", "{\"k\":1}");
    put(" { } ", NULL, "{}");
    put("{\"k\":{\"k\":[1,\"}\"]},\"a\":1.50}", "true", "{\"a\":1.50,\"k\":true}");
    put("{\"a\" : [ {\"k\":2}, [] ] , \"k\": \"x\\\"\" , \"b\":null}", NULL,
        "{\"a\" : [ {\"k\":2}, [] ],\"b\":null}");
    put("{\"k\":1,\"k\":2}", "3", "{\"k\":3}");
    put("[1]", "1", NULL);
    put("{\"a\":1", "1", NULL);
    put("null", "1", NULL);
}

static void base64url_is_strict(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(0);
    assert_true(base64url_decode(&b, STR("-_8")));
    assert_memory_equal(b.ptr, "\xfb\xff", 2);
    buf_clear(&b);
    base64url_encode(&b, STR("\xfb\xff"));
    assert_str(buf_view(&b), "-_8");
    const char *bad[] = {"a", "ab=", "a+bc", "ab/c", "-_9", "a b"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        buf_clear(&b);
        if (base64url_decode(&b, str_c(bad[i])))
            fail_msg("accepted: %s", bad[i]);
    }
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escapes_what_rfc8259_says),
        cmocka_unit_test(maps_values_as_the_contract_says),
        cmocka_unit_test(validates_json),
        cmocka_unit_test(puts_a_member_into_an_object),
        cmocka_unit_test(base64url_is_strict),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
