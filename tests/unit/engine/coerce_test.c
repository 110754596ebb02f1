#include "../test.h"
#include "engine/coerce.h"
#include <math.h>

static struct arena arena;
static struct errctx ec;

static const struct column *column(int table_column)
{
    return &schema_messages.columns[table_column];
}

static enum err coerce(int c, struct value in, struct value *ret)
{
    errctx_clear(&ec);
    return coerce_value(&arena, column(c), in, ret, &ec);
}

static struct value text(const char *s)
{
    return value_text(str_c(s));
}

static struct value real(double d)
{
    return (struct value){.type = VALUE_DOUBLE, .d = d};
}

static void to_bigint(void **state)
{
    (void)state;
    struct value v;
    assert_int_equal(coerce(MSG_ID, text(" 42 "), &v), ERR_OK);
    assert_int_equal(v.type, VALUE_BIGINT);
    assert_int_equal(v.i, 42);
    assert_int_equal(coerce(MSG_ID, text("+7"), &v), ERR_OK);
    assert_int_equal(v.i, 7);
    assert_int_equal(coerce(MSG_ID, text("x"), &v), ERR_INVALID_VALUE);
    assert_str(str_c(ec.message), "invalid input syntax for type bigint: \"x\"");
    assert_int_equal(coerce(MSG_ID, text(""), &v), ERR_INVALID_VALUE);
    assert_int_equal(coerce(MSG_ID, text("1.5"), &v), ERR_INVALID_VALUE);
    assert_int_equal(coerce(MSG_ID, text("9223372036854775808"), &v), ERR_INVALID_VALUE);
    assert_str(str_c(ec.message), "value \"9223372036854775808\" is out of range for type bigint");
    assert_int_equal(coerce(MSG_ID, real(2.5), &v), ERR_OK);
    assert_int_equal(v.i, 2);
    assert_int_equal(coerce(MSG_ID, real(3.5), &v), ERR_OK);
    assert_int_equal(v.i, 4);
    assert_int_equal(coerce(MSG_ID, real(9.3e18), &v), ERR_INVALID_VALUE);
    assert_int_equal(coerce(MSG_ID, real(NAN), &v), ERR_INVALID_VALUE);
    struct value d = {.type = VALUE_DECIMAL, .s = STR("-2.5")};
    assert_int_equal(coerce(MSG_ID, d, &v), ERR_OK);
    assert_int_equal(v.i, -3);
    d.s = STR("-0.4");
    assert_int_equal(coerce(MSG_ID, d, &v), ERR_OK);
    assert_int_equal(v.i, 0);
    d = (struct value){.type = VALUE_HUGEINT, .s = STR("170141183460469231731687303715884105727")};
    assert_int_equal(coerce(MSG_ID, d, &v), ERR_INVALID_VALUE);
    assert_int_equal(coerce(MSG_ID, value_bool(true), &v), ERR_TYPE_MISMATCH);
    assert_str(str_c(ec.message), "column \"msg_id\" is of type bigint but expression is of type boolean");
    assert_int_equal(coerce(MSG_ID, VALUE_OF_NULL, &v), ERR_OK);
    assert_int_equal(v.type, VALUE_NULL);
}

static void to_timestamp(void **state)
{
    (void)state;
    struct value v;
    assert_int_equal(coerce(MSG_TIMESTAMP, text("2025-10-13T12:00:00.5+02:00"), &v), ERR_OK);
    assert_int_equal(v.type, VALUE_TIMESTAMPTZ);
    assert_int_equal(v.i, INT64_C(1760349600500000));
    assert_int_equal(coerce(MSG_TIMESTAMP, value_i64(1760349600500000), &v), ERR_OK);
    assert_int_equal(v.i, INT64_C(1760349600500000));
    assert_int_equal(coerce(MSG_TIMESTAMP, real(1e15), &v), ERR_OK);
    assert_int_equal(v.i, INT64_C(1000000000000000));
    assert_int_equal(coerce(MSG_TIMESTAMP, real(1.5), &v), ERR_TYPE_MISMATCH);
    assert_int_equal(coerce(MSG_TIMESTAMP, text("yesterday-ish"), &v), ERR_INVALID_VALUE);
    assert_str(
        str_c(ec.message), "invalid input syntax for type timestamp with time zone: \"yesterday-ish\"");
    assert_int_equal(coerce(MSG_TIMESTAMP, value_i64(INT64_MAX), &v), ERR_INVALID_VALUE);
    assert_int_equal(coerce(MSG_TIMESTAMP, value_ts(INT64_MIN), &v), ERR_INVALID_VALUE);
    assert_int_equal(coerce(MSG_TIMESTAMP, value_bool(true), &v), ERR_TYPE_MISMATCH);
}

static void to_text_and_json(void **state)
{
    (void)state;
    struct value v;
    assert_int_equal(coerce(MSG_CONTENT, value_i64(5), &v), ERR_OK);
    assert_str(v.s, "5");
    assert_int_equal(coerce(MSG_CONTENT, value_bool(false), &v), ERR_OK);
    assert_str(v.s, "false");
    assert_int_equal(coerce(MSG_CONTENT, real(1.5), &v), ERR_OK);
    assert_str(v.s, "1.5");
    assert_int_equal(coerce(MSG_CONTENT, real(INFINITY), &v), ERR_OK);
    assert_str(v.s, "Infinity");
    assert_int_equal(coerce(MSG_CONTENT, value_json(STR("{\"a\": 1}")), &v), ERR_OK);
    assert_int_equal(v.type, VALUE_TEXT);
    assert_str(v.s, "{\"a\": 1}");
    assert_int_equal(coerce(MSG_CONTENT, value_text(str_n("a\0b", 3)), &v), ERR_INVALID_REQUEST);
    assert_int_equal(coerce(MSG_CONTENT, text("\xff"), &v), ERR_INVALID_VALUE);
    assert_int_equal(
        coerce(MSG_CONTENT, (struct value){.type = VALUE_BLOB, .s = STR("x")}, &v), ERR_TYPE_MISMATCH);
    assert_int_equal(coerce(MSG_METADATA, text("{\"a\":[1,2]}"), &v), ERR_OK);
    assert_int_equal(v.type, VALUE_JSON);
    assert_str(v.s, "{\"a\":[1,2]}"); /* as given */
    assert_int_equal(coerce(MSG_METADATA, text("{a:1}"), &v), ERR_INVALID_VALUE);
    assert_str(str_c(ec.message), "invalid input syntax for type json");
    assert_int_equal(coerce(MSG_METADATA, text(""), &v), ERR_INVALID_VALUE);
    assert_int_equal(coerce(MSG_METADATA, value_i64(-3), &v), ERR_OK);
    assert_int_equal(v.type, VALUE_JSON);
    assert_str(v.s, "-3");
    assert_int_equal(coerce(MSG_METADATA, real(NAN), &v), ERR_TYPE_MISMATCH);
    assert_int_equal(coerce(MSG_METADATA, value_ts(0), &v), ERR_TYPE_MISMATCH);
}

int main(void)
{
    arena_init(&arena, 1 << 20);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(to_bigint),
        cmocka_unit_test(to_timestamp),
        cmocka_unit_test(to_text_and_json),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_release(&arena);
    return failed;
}
