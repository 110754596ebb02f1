/* Conditions and ranges, by the examples and rules of RFC 9110. */
#include "net/range.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define TAG "\"abc\""

static void expect(const char *range, uint64_t size, int status, uint64_t offset, uint64_t length)
{
    struct range_request r = {.range = str_c(range)};
    struct range_answer a = range_decide(&r, STR(TAG), size);
    if (a.status != status || a.offset != offset || a.length != length)
        fail_msg("%s of %d: %d %d+%d", range, (int)size, a.status, (int)a.offset, (int)a.length);
}

static void ranges(void **state)
{
    (void)state;
    expect("bytes=0-499", 10000, 206, 0, 500);
    expect("bytes=500-999", 10000, 206, 500, 500);
    expect("bytes=-500", 10000, 206, 9500, 500);
    expect("bytes=9500-", 10000, 206, 9500, 500);
    expect("BYTES=0-0", 10000, 206, 0, 1);
    expect("bytes= 9999-99999 ", 10000, 206, 9999, 1);
    expect("bytes=0-99999999999999999999999", 10000, 206, 0, 10000);
    expect("bytes=-99999", 10000, 206, 0, 10000);
    expect("bytes=10000-", 10000, 416, 0, 0);
    expect("bytes=99999999999999999999999-", 10000, 416, 0, 0);
    expect("bytes=-0", 10000, 416, 0, 0);
    expect("bytes=0-", 0, 416, 0, 0);
    expect("bytes=-1", 0, 416, 0, 0);
    /* ignored: malformed, another unit, several */
    static const char *const ignored[] = {"bytes=5-2", "bytes=", "bytes=-", "bytes", "lines=0-1", "bytes=a-b",
        "bytes=0x1-2", "bytes=+1-2", "bytes=1-2-3", "bytes=0-1,5-6", "bytes=,0-1", "", "bytes 0-1",
        "bytes=1 -2", "bytes=-5-"};
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        expect(ignored[i], 100, 200, 0, 100);
}

static int status(const char *if_match, const char *if_none_match, const char *if_range)
{
    struct range_request r = {str_c(if_match), str_c(if_none_match), str_c(if_range), STR("bytes=1-2")};
    return range_decide(&r, STR(TAG), 10).status;
}

static void conditions(void **state)
{
    (void)state;
    assert_int_equal(status(NULL, NULL, NULL), 206);
    assert_int_equal(status(NULL, TAG, NULL), 304);
    assert_int_equal(status(NULL, "W/" TAG, NULL), 304);
    assert_int_equal(status(NULL, "*", NULL), 304);
    assert_int_equal(status(NULL, "\"x\" , ,W/\"a,b\",\t" TAG, NULL), 304);
    assert_int_equal(status(NULL, "\"x\"", NULL), 206);
    assert_int_equal(status(NULL, "abc", NULL), 206);
    assert_int_equal(status(NULL, "\"abc", NULL), 206);
    assert_int_equal(status(NULL, "\"", NULL), 206);
    assert_int_equal(status(NULL, "W/", NULL), 206);
    assert_int_equal(status(NULL, "\"x\" " TAG, NULL), 206);
    assert_int_equal(status(NULL, "", NULL), 206);
    assert_int_equal(status(TAG, NULL, NULL), 206);
    assert_int_equal(status("*", NULL, NULL), 206);
    assert_int_equal(status("W/" TAG, NULL, NULL), 412);
    assert_int_equal(status("\"x\"", TAG, NULL), 412);
    assert_int_equal(status(TAG, TAG, NULL), 304);
    assert_int_equal(status(NULL, NULL, TAG), 206);
    assert_int_equal(status(NULL, NULL, "W/" TAG), 200);
    assert_int_equal(status(NULL, NULL, "\"x\""), 200);
    assert_int_equal(status(NULL, NULL, "Wed, 21 Oct 2026 07:28:00 GMT"), 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ranges), cmocka_unit_test(conditions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
