#include "../test.h"
#include "base/timefmt.h"

static void check(const char *text, int64_t us, const char *canonical)
{
    int64_t got = 0;
    if (!time_parse(str_c(text), &got))
        fail_msg("refused: %s", text);
    assert_true(got == us);
    struct buf b = BUF_INIT(0);
    time_format(&b, got);
    assert_str(buf_view(&b), canonical);
    buf_release(&b);
}

static void parses_and_formats(void **state)
{
    (void)state;
    check("1970-01-01T00:00:00Z", 0, "1970-01-01T00:00:00.000000Z");
    check("2025-10-13T12:34:56.789012Z", INT64_C(1760358896789012), "2025-10-13T12:34:56.789012Z");
    check("2025-10-13 12:34:56.7+02:30", INT64_C(1760349896700000), "2025-10-13T10:04:56.700000Z");
    check("2025-10-13T12:34:56.7890124999Z", INT64_C(1760358896789012), "2025-10-13T12:34:56.789012Z");
    check("2025-10-13T12:34:56.7890115Z", INT64_C(1760358896789012), "2025-10-13T12:34:56.789012Z");
    check("2025-10-13T12:34:55.999999500Z", INT64_C(1760358896000000), "2025-10-13T12:34:56.000000Z");
    check("2025-10-13T12:34:56-0800", INT64_C(1760387696000000), "2025-10-13T20:34:56.000000Z");
    check("2025-10-13T12:34:56+02", INT64_C(1760351696000000), "2025-10-13T10:34:56.000000Z");
    check("2024-02-29", INT64_C(1709164800000000), "2024-02-29T00:00:00.000000Z");
    check("1969-12-31T23:59:59.999999Z", -1, "1969-12-31T23:59:59.999999Z");
    check("0001-01-01", INT64_C(-62135596800000000), "0001-01-01T00:00:00.000000Z");
    check("9999-12-31T23:59:59.999999Z", INT64_C(253402300799999999), "9999-12-31T23:59:59.999999Z");
    check("2016-12-31T23:59:60Z", INT64_C(1483228800000000), "2017-01-01T00:00:00.000000Z");
}

static void refuses_what_is_no_instant(void **state)
{
    (void)state;
    const char *bad[] = {"", "now", "2025-13-01", "2025-02-29", "2025-00-10", "2025-01-32", "2025-1-1",
        "2025-01-01T24:00:00Z", "2025-01-01T10:60:00Z", "2025-01-01T10:00:00.Z",
        "2025-01-01T10:00:00.123456x", "2025-01-01T10:00:00+99:00", "2025-01-01T10:00:00 Z x", "20250101",
        "2025-01-01T", "0000-01-01"};
    int64_t us;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (time_parse(str_c(bad[i]), &us))
            fail_msg("accepted: %s", bad[i]);
    }
}

static void compact_form_for_file_names(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(0);
    time_format_compact(&b, INT64_C(1760358896789012));
    assert_str(buf_view(&b), "20251013T123456Z");
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses_and_formats),
        cmocka_unit_test(refuses_what_is_no_instant),
        cmocka_unit_test(compact_form_for_file_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
