#include "../test.h"
#include "base/buf.h"

static void varints_come_back(void **state)
{
    (void)state;
    const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX - 1, UINT64_MAX};
    const int64_t signed_values[] = {0, -1, 1, INT64_MIN, INT64_MAX, -64, 64};
    struct buf b = BUF_INIT(0);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        buf_varint(&b, values[i]);
    for (size_t i = 0; i < sizeof signed_values / sizeof *signed_values; i++)
        buf_zigzag(&b, signed_values[i]);
    struct reader r = reader_of(buf_view(&b));
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        assert_true(read_varint(&r) == values[i]);
    for (size_t i = 0; i < sizeof signed_values / sizeof *signed_values; i++)
        assert_true(read_zigzag(&r) == signed_values[i]);
    assert_false(r.bad);
    assert_int_equal(reader_left(&r), 0);
    buf_release(&b);
}

static void reader_refuses_bad_bytes(void **state)
{
    (void)state;
    struct reader r = reader_of(STR("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02")); /* 65 bits */
    read_varint(&r);
    assert_true(r.bad);
    r = reader_of(STR("\x80"));
    read_varint(&r);
    assert_true(r.bad);
    r = reader_of(STR("\x05"
                      "abc"));
    assert_int_equal(read_lstr(&r).len, 0);
    assert_true(r.bad);
    r = reader_of(STR("abc"));
    assert_int_equal(read_be32(&r), 0);
    assert_true(r.bad);
    assert_int_equal(read_u8(&r), 0);
    assert_int_equal(reader_left(&r), 0);
}

static void stops_at_its_cap(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(10);
    buf_str(&b, STR("12345678"));
    buf_str(&b, STR("abc"));
    assert_true(b.failed);
    buf_str(&b, STR("x"));
    assert_str(buf_view(&b), "12345678");
    buf_clear(&b);
    buf_str(&b, STR("1234567890"));
    assert_false(b.failed);
    buf_release(&b);
}

static void integers_in_decimal_and_big_endian(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(0);
    buf_i64(&b, INT64_MIN);
    buf_u8(&b, ' ');
    buf_i64(&b, 0);
    buf_printf(&b, " %s", "x");
    assert_str(buf_view(&b), "-9223372036854775808 0 x");
    buf_clear(&b);
    buf_be16(&b, 0x0102);
    buf_be32(&b, 0x03040506);
    buf_be64(&b, 0x0708090a0b0c0d0e);
    for (size_t i = 0; i < b.len; i++)
        assert_int_equal(b.ptr[i], i + 1);
    struct reader r = reader_of(buf_view(&b));
    assert_int_equal(read_be16(&r), 0x0102);
    assert_int_equal(read_be32(&r), 0x03040506);
    assert_true(read_be64(&r) == 0x0708090a0b0c0d0e);
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(varints_come_back),
        cmocka_unit_test(reader_refuses_bad_bytes),
        cmocka_unit_test(stops_at_its_cap),
        cmocka_unit_test(integers_in_decimal_and_big_endian),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
