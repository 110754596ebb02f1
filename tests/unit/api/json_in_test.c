#include "api/json_in.h"
#include "base/json.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* One value in, what was understood out: "i5", "s<text>", "o<text>" … or "!why". */
static const char *read_one(const char *text, size_t n)
{
    static char out[600];
    struct arena a;
    struct json_item item;
    char *copy = malloc(n > 0 ? n : 1); /* exact size: ASan sees overreads */
    memcpy(copy, text, n);
    arena_init(&a, 1 << 20);
    struct json_in in = json_in(str_n(copy, n), &a);
    if (!json_in_value(&in, &item) || !json_in_end(&in)) {
        snprintf(out, sizeof out, "!%s", in.why);
    } else {
        switch (item.kind) {
        case JSON_IS_NULL:
            snprintf(out, sizeof out, "n");
            break;
        case JSON_IS_BOOL:
            snprintf(out, sizeof out, "b%d", item.b);
            break;
        case JSON_IS_INT:
            snprintf(out, sizeof out, "i%lld", (long long)item.i);
            break;
        case JSON_IS_DOUBLE:
            snprintf(out, sizeof out, "d%.17g", item.d);
            break;
        case JSON_IS_STRING:
            snprintf(out, sizeof out, "s%.*s", STR_FMT(item.s));
            break;
        case JSON_IS_OBJECT:
        case JSON_IS_ARRAY:
            snprintf(out, sizeof out, "%c%.*s", item.kind == JSON_IS_OBJECT ? 'o' : 'a', STR_FMT(item.s));
            break;
        }
    }
    arena_release(&a);
    free(copy);
    return out;
}

static void values(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } table[] = {
        {"null", "n"},
        {" true\n", "b1"},
        {"false", "b0"},
        {"0", "i0"},
        {"-0", "i0"},
        {"-12", "i-12"},
        {"9223372036854775807", "i9223372036854775807"},
        {"9223372036854775808", "d9.2233720368547758e+18"},
        {"1.5", "d1.5"},
        {"1E2", "d100"},
        {"1e-400", "d0"},
        {"\"\"", "s"},
        {"\"a\"", "sa"},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "s\"\\/\b\f\n\r\t"},
        {"\"\\u0041\\u00e9\\u20AC\"", "sA\xC3\xA9\xE2\x82\xAC"},
        {"\"\\uD83D\\uDE00\"", "s\xF0\x9F\x98\x80"},
        {"{}", "o{}"},
        {"[ 1 , {\"a\":\"]\"} ]", "a[ 1 , {\"a\":\"]\"} ]"},
        {"", "!unexpected end"},
        {"tru", "!bad value"},
        {"nul", "!bad value"},
        {"01", "!bad number"},
        {"-", "!bad number"},
        {"1.", "!bad number"},
        {"1e", "!bad number"},
        {".5", "!malformed JSON"},
        {"+1", "!malformed JSON"},
        {"1e999", "!number out of range"},
        {"\"", "!unterminated string"},
        {"\"\\", "!bad escape in a string"},
        {"\"\\u12\"", "!bad escape in a string"},
        {"\"\\uD800x\"", "!bad escape in a string"},
        {"\"\\uDC00\"", "!bad escape in a string"},
        {"\"\\uD800\\u0041\"", "!bad escape in a string"},
        {"\"\\u0000\"", "!NUL characters are not accepted"},
        {"\"\t\"", "!control character in a string"},
        {"[", "!unterminated value"},
        {"{\"a\"}", "!malformed JSON"},
        {"[1,]", "!malformed JSON"},
        {"[1}", "!malformed JSON"},
        {"1 2", "!more than one JSON value"},
        {"}", "!malformed JSON"},
        {"{\"a\":\"\\ud800\"}", "!bad escape in a string"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_string_equal(read_one(table[i].text, strlen(table[i].text)), table[i].want);
}

/* No prefix of a valid text crashes or is taken for the whole, unless it is one. */
static void every_prefix(void **state)
{
    (void)state;
    static const char text[] = "{\"a\":[1,2.5e3,\"x\\u00e9\\n\",{\"b\":null}],\"c\":true}";
    for (size_t n = 0; n < sizeof text - 1; n++)
        assert_int_equal(read_one(text, n)[0], '!');
    assert_int_equal(read_one(text, sizeof text - 1)[0], 'o');
}

static void members_and_elements(void **state)
{
    (void)state;
    struct arena a;
    struct str key;
    struct json_item item;
    char got[200] = "";
    arena_init(&a, 1 << 20);
    struct json_in in = json_in(STR(" { \"a\" : 1 , \"b\\n\":[ ], \"c\":\"{\" } "), &a);
    assert_true(json_in_object(&in));
    while (json_in_member(&in, &key) && json_in_value(&in, &item))
        snprintf(got + strlen(got), sizeof got - strlen(got), "%.*s=%d;", STR_FMT(key), (int)item.kind);
    assert_true(json_in_end(&in));
    assert_string_equal(got, "a=2;b\n=6;c=4;");
    static const char *const bad[] = {
        "{\"a\"1}", "{\"a\":1 \"b\":2}", "{,}", "{\"a\":1,}", "{1:2}", "{", "{\"a\":1", "{a:1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        in = json_in(str_c(bad[i]), &a);
        assert_true(json_in_object(&in));
        while (json_in_member(&in, &key) && json_in_value(&in, &item)) {
        }
        assert_false(json_in_end(&in));
        assert_non_null(in.why);
    }
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values), cmocka_unit_test(every_prefix), cmocka_unit_test(members_and_elements)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
