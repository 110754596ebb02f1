/* Multipart bodies cut at every byte; what a careful server refuses. */
#include "base/buf.h"
#include "net/multipart.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define TYPE "multipart/form-data; boundary=x"
#define D "Content-Disposition: form-data; "

static void run(const char *type, struct str in, size_t piece, struct buf *log)
{
    struct multipart m;
    struct str got;
    buf_clear(log);
    const char *why = multipart_init(&m, str_c(type));
    if (why != NULL) {
        buf_printf(log, "%s", why);
        return;
    }
    bool over = false;
    for (size_t at = 0; at < in.len && !over;) {
        size_t k = in.len - at < piece ? in.len - at : piece;
        char *copy = malloc(k);
        const char *p = copy;
        memcpy(copy, in.ptr + at, k);
        enum multipart_kind kind;
        while (!over && (kind = multipart_next(&m, &p, copy + k, &got)) != MULTIPART_MORE) {
            if (kind == MULTIPART_PART)
                buf_printf(
                    log, "<%.*s|%.*s|%.*s:", STR_FMT(m.name), STR_FMT(m.filename), STR_FMT(m.content_type));
            else if (kind == MULTIPART_DATA)
                buf_str(log, got);
            else if (kind == MULTIPART_PART_END)
                buf_str(log, STR(">"));
            else if (kind == MULTIPART_BROKEN)
                buf_printf(log, "!%s", m.why);
            over = kind == MULTIPART_BROKEN;
        }
        free(copy);
        at += k;
    }
    if (multipart_complete(&m))
        buf_str(log, STR("."));
}

static void expect_bytes(const char *type, struct str in, struct str want)
{
    struct buf log = {0};
    for (size_t piece = 1; piece <= in.len + 1; piece++) {
        run(type, in, piece, &log);
        if (!str_eq(buf_view(&log), want))
            fail_msg("in pieces of %zu: %.*s\nwanted: %.*s", piece, (int)log.len, log.ptr, STR_FMT(want));
    }
    buf_release(&log);
}

static void expect(const char *in, const char *want)
{
    expect_bytes(TYPE, str_c(in), str_c(want));
}

static void whole_bodies(void **state)
{
    (void)state;
    expect("--x\r\n" D "name=\"a\"\r\n\r\none\r\n--x\r\n" D
           "name=\"f\"; filename=\"x y.png\"\r\nContent-Type: image/png\r\n\r\ntwo\r\n--x--\r\n",
        "<a||:one><f|x y.png|image/png:two>.");
    expect("preamble\r\nmore\r\n--x \t\r\n" D "name=a\r\n\r\n1\r\n--x-- \r\nepilogue --x\r\n--x\r\n",
        "<a||:1>.");
    expect("--x\r\nX-Other: y\r\ncontent-disposition:form-data;name=a;filename=\"\"\r\n\r\n\r\n--x--",
        "<a||:>.");
    expect("--x--", ".");
    /* data that nearly is a delimiter */
    expect("--x\r\n" D "name=a\r\n\r\n\r\n-\r\n--\r\n--y\r\r\n\n--x\r\n--X\r\n\r\n--x--",
        "<a||:\r\n-\r\n--\r\n--y\r\r\n\n--x\r\n--X\r\n>.");
    /* a part without data: the blank line's end belongs to the delimiter */
    expect("--x\r\n" D "name=a\r\n\r\n--x\r\n" D "name=b\r\n\r\n\r\n--x--", "<a||:><b||:>.");
    expect("--x\r\n" D "name=a\r\n\r\n--y\r\n--x--", "<a||:--y>.");
    /* without its closing boundary a body is not whole */
    expect("--x\r\n" D "name=a\r\n\r\none", "<a||:one");
    expect("--x\r\n" D "name=a\r\n\r\none\r\n--x\r\n", "<a||:one>");
    expect("--x\r\n" D "name=a\r\n\r\none\r\n--x-", "<a||:one>");
    expect("", "");
    static const char bytes[] = "--x\r\n" D "name=a\r\n\r\n\0\xff\r\n--x\0\r\n--x--";
    expect_bytes(TYPE, str_n(bytes, sizeof bytes - 1),
        STR("<a||:\0\xff>!a boundary is followed by neither a line break nor two dashes"));
}

static void names(void **state)
{
    (void)state;
    expect("--x\r\n" D "name=\"q\\\"u\\\\o\\te\"; filename=\"C:\\dir\\f.txt\"\r\n\r\n\r\n--x--",
        "<q\"u\\o\\te|C:\\dir\\f.txt|:>.");
    expect("--x\r\n" D "name=\"\xc3\xa9\"; filename*=UTF-8''%41\r\n\r\n\r\n--x--", "<\xc3\xa9||:>.");
    expect("--x\r\n" D "name=a; ; other=\"b;c\";\r\n\r\n\r\n--x--", "<a||:>.");
}

static void refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"--x\r\n\r\n", "a part has no Content-Disposition"},
        {"--x\r\nContent-Type: a\r\n\r\n", "a part has no Content-Disposition"},
        {"--x\r\n" D "name=a\n\r\n", "header lines of a part end in CR LF and hold neither nor NUL"},
        {"--x\r\n" D "na\rme=a\r\n\r\n", "header lines of a part end in CR LF and hold neither nor NUL"},
        {"--x\r\n" D "\r\n name=a\r\n\r\n", "a part's name must have 1 to 255 bytes"},
        {"--x\r\n" D "name=a\r\n name=b\r\n\r\n", "malformed header of a part"},
        {"--x\r\n: a\r\n\r\n", "malformed header of a part"},
        {"--x\r\nA B: c\r\n\r\n", "malformed header of a part"},
        {"--x\r\nContent-Disposition: attachment; name=a\r\n\r\n",
            "a part's Content-Disposition must be form-data"},
        {"--x\r\nContent-Disposition: form-datax; name=a\r\n\r\n",
            "a part's Content-Disposition must be form-data"},
        {"--x\r\n" D "\r\n\r\n", "a part's name must have 1 to 255 bytes"},
        {"--x\r\n" D "name=\"\"\r\n\r\n", "a part's name must have 1 to 255 bytes"},
        {"--x\r\n" D "name=\"a\r\n\r\n", "malformed Content-Disposition of a part"},
        {"--x\r\n" D "name=\"a\\\"\r\n\r\n", "malformed Content-Disposition of a part"},
        {"--x\r\n" D "name=\"a\"b\r\n\r\n", "malformed Content-Disposition of a part"},
        {"--x\r\n" D "name\r\n\r\n", "malformed Content-Disposition of a part"},
        {"--x\r\n" D "name=a; name=b\r\n\r\n", "a part has two names"},
        {"--x\r\n" D "name=a\r\n" D "name=a\r\n\r\n", "a part has two Content-Dispositions"},
        {"--x\r\n" D "name=\"\xff\"\r\n\r\n", "a part's name is not UTF-8"},
        {"--x\r\n" D "name=a\r\nContent-Transfer-Encoding: base64\r\n\r\n",
            "a part with a Content-Transfer-Encoding is not accepted"},
        {"--x\r\n" D "name=a\r\nContent-Type: a\r\nContent-Type: a\r\n\r\n", "a part has two Content-Types"},
        {"--xy\r\n", "a boundary is followed by neither a line break nor two dashes"},
        {"--x\r \n", "a boundary's line ends in CR LF"},
        {"--x \n", "a boundary is followed by neither a line break nor two dashes"},
        {"--x-y", "a boundary is followed by neither a line break nor two dashes"},
    };
    struct buf want = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        buf_clear(&want);
        buf_printf(&want, "!%s", bad[i][1]);
        expect_bytes(TYPE, str_c(bad[i][0]), buf_view(&want));
    }
    expect("--x\r\n" D "name=a\r\nContent-Transfer-Encoding: Binary\r\n\r\n\r\n--x--", "<a||:>.");
    buf_release(&want);
}

static void content_types(void **state)
{
    (void)state;
    static const char *const types[][2] = {
        {"Multipart/Form-Data;charset=utf-8; BOUNDARY=\"x\"", "."},
        {"multipart/form-data", "Content-Type has no boundary"},
        {"multipart/form-data; boundary=", "malformed Content-Type"},
        {"multipart/form-data; boundary=\"\"", "Content-Type has a bad boundary"},
        {"multipart/form-data; boundary=\"x \"", "Content-Type has a bad boundary"},
        {"multipart/form-data; boundary=\"x\\\"\"", "Content-Type has a bad boundary"},
        {"multipart/form-data; boundary=x; boundary=x", "Content-Type has two boundaries"},
        {"multipart/form-data; boundary=x y", "malformed Content-Type"},
        {"multipart/form-datax; boundary=x", "the body must be multipart/form-data"},
        {"multipart/mixed; boundary=x", "the body must be multipart/form-data"},
        {"application/json", "the body must be multipart/form-data"},
        {"", "the body must be multipart/form-data"},
        {"multipart/form-data; "
         "boundary=01234567890123456789012345678901234567890123456789012345678901234567890",
            "Content-Type has a bad boundary"},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        expect_bytes(types[i][0], STR("--x--"), str_c(types[i][1]));
    static const char longest[] = "0123456789012345678901234567890123456789012345678901234567890123456789";
    struct buf type = {0}, body = {0};
    buf_printf(&type, "multipart/form-data; boundary=%s%c", longest, 0);
    buf_printf(&body, "--%s\r\n" D "name=a\r\n\r\n1\r\n--%s--", longest, longest);
    expect_bytes(type.ptr, buf_view(&body), STR("<a||:1>."));
    buf_release(&type);
    buf_release(&body);
}

static void limits(void **state)
{
    (void)state;
    struct buf in = {0}, log = {0};
    for (int i = 0; i <= MULTIPART_PARTS_MAX; i++)
        buf_printf(&in, "--x\r\n" D "name=a\r\n\r\n\r\n");
    run(TYPE, buf_view(&in), 7, &log);
    buf_u8(&log, 0);
    assert_non_null(strstr(log.ptr, "!too many parts"));
    buf_clear(&in);
    buf_printf(&in, "--x\r\n");
    for (int i = 0; i <= MULTIPART_HEADERS_MAX; i++)
        buf_printf(&in, "A: b\r\n");
    run(TYPE, buf_view(&in), 7, &log);
    buf_u8(&log, 0);
    assert_string_equal(log.ptr, "!a part has too many header lines");
    buf_clear(&in);
    buf_printf(&in, "--x\r\nA: ");
    for (int i = 0; i < MULTIPART_HEAD_BYTES_MAX; i++)
        buf_u8(&in, 'b');
    run(TYPE, buf_view(&in), 7, &log);
    buf_u8(&log, 0);
    assert_string_equal(log.ptr, "!the header of a part is too large");
    buf_release(&in);
    buf_release(&log);
}

/* Data that is cut into few runs stays in few: a piece of 64 KiB with a CR in each 16 bytes is one event. */
static void runs_are_long(void **state)
{
    (void)state;
    struct multipart m;
    struct buf in = {0};
    struct str got;
    int pieces = 0;
    assert_null(multipart_init(&m, STR(TYPE)));
    buf_printf(&in, "--x\r\n" D "name=a\r\n\r\n");
    for (int i = 0; i < 4096; i++)
        buf_printf(&in, "0123\r\n-4567\r89ab");
    const char *p = in.ptr;
    while (multipart_next(&m, &p, in.ptr + in.len, &got) != MULTIPART_MORE)
        pieces += got.len > 0;
    assert_int_equal(pieces, 1);
    buf_release(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_bodies), cmocka_unit_test(names),
        cmocka_unit_test(refused), cmocka_unit_test(content_types), cmocka_unit_test(limits),
        cmocka_unit_test(runs_are_long)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
