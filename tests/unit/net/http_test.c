/* Requests as they come, cut at every byte; shapes that smuggle or overload, refused. */
#include "net/http.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void log_message(struct buf *log, const struct http_message *m)
{
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "OTHER"};
    struct str t = http_message_target(m), x = http_message_header(m, STR("x-a"));
    buf_printf(log, "%s %.*s %s%s%s", methods[m->method], STR_FMT(t), m->keep_alive ? "keep" : "close",
        m->websocket ? " ws" : "", m->expects_continue ? " expect" : "");
    if (x.ptr != NULL)
        buf_printf(log, " a=%.*s", STR_FMT(x));
    if (m->body.len > 0)
        buf_printf(log, " [%.*s]", (int)m->body.len, m->body.ptr);
    buf_printf(log, ";");
}

/* How bodies are taken: by the parser alone, collected after being asked, handed out. */
enum mode { PLAIN, ASKED, HANDED_OUT, MODES };

/* The messages in `in`, fed in pieces of `piece` bytes, then the failure if one came and what was not used.
 */
static void run(const char *in, size_t n, size_t piece, size_t max_body, enum mode mode, struct buf *log)
{
    struct http_parser p;
    struct http_message m;
    enum http_progress progress = HTTP_MORE;
    int failure = 0;
    http_parser_init(&p, max_body);
    p.ask = mode != PLAIN;
    http_message_init(&m);
    buf_clear(log);
    for (size_t at = 0; at < n || progress == HTTP_HEAD_READ || progress == HTTP_BODY_PIECE;) {
        size_t k = n - at < piece ? n - at : piece, used;
        char *copy = malloc(k + 1);
        memcpy(copy, in + at, k);
        p.message = &m;
        progress = http_parser_feed(&p, copy, k, &used);
        if (progress == HTTP_BODY_PIECE) {
            assert_int_equal(mode, HANDED_OUT);
            assert_true(p.piece.len > 0 && p.piece.ptr >= copy && p.piece.ptr + p.piece.len <= copy + k);
            buf_str(&m.body, p.piece);
        }
        free(copy);
        assert_true(used <= k);
        at += used;
        if (progress == HTTP_HEAD_READ) {
            assert_true(mode != PLAIN && m.headers_done);
            if (!http_parser_body(&p, max_body, mode == HANDED_OUT))
                failure = 413;
        } else if (progress == HTTP_FAILED) {
            failure = p.failure;
        } else if (progress == HTTP_MESSAGE) {
            bool ws = m.websocket, close_after = !m.keep_alive;
            log_message(log, &m);
            http_message_clear(&m);
            if (ws)
                buf_printf(log, "rest=%.*s", (int)(n - at), in + at);
            if (ws || close_after)
                break;
        }
        if (failure != 0) {
            buf_printf(log, "!%d", failure);
            break;
        }
    }
    http_message_release(&m);
    buf_u8(log, 0);
}

static void expect_max(const char *in, size_t max_body, const char *want)
{
    struct buf log = {0};
    size_t n = strlen(in);
    for (int mode = PLAIN; mode < MODES; mode++) {
        for (size_t piece = 1; piece <= n; piece++) {
            run(in, n, piece, max_body, (enum mode)mode, &log);
            assert_string_equal(log.ptr, want);
        }
    }
    buf_release(&log);
}

static void expect(const char *in, const char *want)
{
    expect_max(in, 100, want);
}

#define HOST "Host: h\r\n"

static void whole_requests(void **state)
{
    (void)state;
    expect("GET / HTTP/1.1\r\n" HOST "\r\n", "GET / keep;");
    expect("\r\nGET /x?y=%20 HTTP/1.1\r\n" HOST "X-A:  v v \t\r\n\r\n", "GET /x?y=%20 keep a=v v;");
    expect("POST /q HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello", "POST /q keep [hello];");
    expect("POST /q HTTP/1.1\r\n" HOST
           "Transfer-Encoding: chunked\r\n\r\n3;ext=1\r\nhel\r\n2\r\nlo\r\n0\r\nT: x\r\n\r\n",
        "POST /q keep [hello];");
    expect("GET /a HTTP/1.1\r\n" HOST "\r\nPOST /b HTTP/1.1\r\n" HOST
           "Content-Length: 1\r\n\r\nxGET /c HTTP/1.1\r\n" HOST
           "Connection: close\r\n\r\nGET /d HTTP/1.1\r\n" HOST "\r\n",
        "GET /a keep;POST /b keep [x];GET /c close;");
    expect("GET / HTTP/1.0\r\n\r\n", "GET / close;");
    expect("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET / keep;");
    expect("POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        "POST / keep expect [x];");
    expect("PATCH / HTTP/1.1\r\n" HOST "\r\n", "OTHER / keep;");
    expect("GET http://h/p HTTP/1.1\r\n" HOST "\r\n", "GET http://h/p keep;");
    expect("OPTIONS * HTTP/1.1\r\n" HOST "\r\n", "OPTIONS * keep;");
    expect("GET / HTTP/1.1\r\n" HOST "X-A:\r\nB: c\r\n\r\n", "GET / keep a=;");
}

static void upgrades(void **state)
{
    (void)state;
    expect("GET /ws HTTP/1.1\r\n" HOST "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\nFRAME",
        "GET /ws keep ws;rest=FRAME");
    /* other protocols are not taken: the request stands as it is */
    expect("GET / HTTP/1.1\r\n" HOST "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET /2 HTTP/1.1\r\n" HOST
           "\r\n",
        "GET / keep;GET /2 keep;");
    expect("POST /ws HTTP/1.1\r\n" HOST
           "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
        "POST /ws keep [x];");
}

static void smuggling_shapes(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\n" HOST "Content-Length: 5, 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\n" HOST "Content-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\n" HOST "Content-Length: -5\r\n\r\nhello",
        "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x5\r\n\r\nhello",
        "POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\nhello",
        "POST / HTTP/1.1\r\n" HOST
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nz\r\n",
        "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        "GET / HTTP/1.1\n" HOST "\n",                /* LF only */
        "GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",   /* one LF */
        "GET / HTTP/1.1\r\n" HOST "X: a\rb\r\n\r\n", /* bare CR */
        "GET / HTTP/1.1\r\n" HOST "X : y\r\n\r\n",   /* space before the colon */
        "GET / HTTP/1.1\r\n" HOST " X: y\r\n\r\n",   /* folding */
        "GET / HTTP/1.1\r\n" HOST "X: y\r\n z\r\n\r\n",
        "GET / HTTP/1.1\r\n" HOST "X\r\n\r\n", /* no colon */
        "GET / HTTP/1.1\r\n\r\n",              /* no Host */
        "GET / HTTP/1.1\r\n" HOST HOST "\r\n", /* two */
        "GET / HTTP/1.1\r\n: y\r\n" HOST "\r\n",
        "GET /a b HTTP/1.1\r\n" HOST "\r\n",
        "BREW / HTTP/1.1\r\n" HOST "\r\n",
        "hello\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    };
    struct buf log = {0};
    int taken = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        for (size_t piece = 1; piece <= strlen(bad[i]); piece++) {
            run(bad[i], strlen(bad[i]), piece, 100, (enum mode)(piece % MODES), &log);
            if (strncmp(log.ptr, "!4", 2) != 0 && strncmp(log.ptr, "!5", 2) != 0) {
                print_error("taken in pieces of %zu: %s -> %s\n", piece, bad[i], log.ptr);
                taken++;
            }
        }
    }
    buf_release(&log);
    assert_int_equal(taken, 0);
}

static void limits(void **state)
{
    (void)state;
    expect_max("POST / HTTP/1.1\r\n" HOST "Content-Length: 101\r\n\r\n", 100, "!413");
    expect_max("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n", 5, "!413");
    expect("GET / HTTP/2.0\r\n" HOST "\r\n", "!505");
    expect("POST / HTTP/1.1\r\n" HOST "Expect: tea\r\nContent-Length: 1\r\n\r\nx", "!417");
    expect("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", "!501");
    struct buf in = {0}, log = {0};
    buf_printf(&in, "GET / HTTP/1.1\r\n" HOST "X: ");
    for (int i = 0; i < HTTP_HEAD_BYTES_MAX; i++)
        buf_u8(&in, 'x');
    run(in.ptr, in.len, 1000, 100, PLAIN, &log);
    assert_string_equal(log.ptr, "!431");
    buf_clear(&in);
    buf_printf(&in, "GET / HTTP/1.1\r\n" HOST);
    for (int i = 0; i < HTTP_HEADERS_MAX; i++)
        buf_printf(&in, "X: y\r\n");
    run(in.ptr, in.len, 1000, 100, PLAIN, &log);
    assert_string_equal(log.ptr, "!431");
    buf_clear(&in);
    buf_printf(&in, "GET /");
    for (int i = 0; i < HTTP_HEAD_BYTES_MAX / 2; i++)
        buf_u8(&in, 'x');
    run(in.ptr, in.len, 1000, 100, PLAIN, &log);
    assert_string_equal(log.ptr, "!414");
    buf_release(&in);
    buf_release(&log);
}

/* n bytes of extension at the first of two chunks, or of a trailer. */
static void framed(size_t n, bool trailer, const char *want)
{
    struct buf in = {0}, log = {0};
    buf_printf(&in, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1%s", trailer ? "" : ";");
    for (size_t i = 0; i < n && !trailer; i++)
        buf_u8(&in, 'e');
    buf_printf(&in, "\r\na\r\n1\r\nb\r\n0\r\n%s", trailer ? "T: " : "");
    for (size_t i = 0; i < n && trailer; i++)
        buf_u8(&in, 't');
    buf_printf(&in, "%s\r\n", trailer ? "\r\n" : "");
    for (int mode = PLAIN; mode < MODES; mode++) {
        for (size_t piece = 1; piece < 2 * in.len; piece = piece * 3 + 1) {
            run(in.ptr, in.len, piece, 100, (enum mode)mode, &log);
            assert_string_equal(log.ptr, want);
        }
    }
    buf_release(&in);
    buf_release(&log);
}

static void framing(void **state)
{
    (void)state;
    /* what stands around: "1;" and CR LF; CR LF "0" CR LF, "T: ", CR LF CR LF */
    framed(HTTP_FRAMING_BYTES_MAX - 4, false, "POST / keep [ab];");
    framed(HTTP_FRAMING_BYTES_MAX - 3, false, "!431");
    framed(HTTP_FRAMING_BYTES_MAX - 12, true, "POST / keep [ab];");
    framed(HTTP_FRAMING_BYTES_MAX - 11, true, "!431");
    framed(1000000, false, "!431");
}

static void blank_lines(void **state)
{
    (void)state;
    struct buf in = {0};
    for (int i = 0; i < HTTP_BLANK_LINES_MAX; i++)
        buf_str(&in, STR("\r\n"));
    buf_printf(&in, "GET / HTTP/1.1\r\n" HOST "\r\n");
    buf_u8(&in, 0);
    expect(in.ptr, "GET / keep;");
    buf_clear(&in);
    for (int i = 0; i <= HTTP_BLANK_LINES_MAX; i++)
        buf_str(&in, STR("\r\n"));
    buf_u8(&in, 0);
    expect(in.ptr, "!400");
    buf_release(&in);
}

static void coded_bodies(void **state)
{
    (void)state;
    expect("POST / HTTP/1.1\r\n" HOST "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", "!415");
    expect("POST / HTTP/1.1\r\n" HOST "Content-Encoding: identity, br\r\nContent-Length: 1\r\n\r\nx", "!415");
    expect("POST / HTTP/1.1\r\n" HOST "Content-Encoding: identity\r\nContent-Length: 1\r\n\r\nx",
        "POST / keep [x];");
}

static void dates(void **state)
{
    (void)state;
    char d[30];
    http_date(784111777, d); /* the RFC's example */
    assert_string_equal(d, "Sun, 06 Nov 1994 08:49:37 GMT");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_requests), cmocka_unit_test(upgrades),
        cmocka_unit_test(smuggling_shapes), cmocka_unit_test(limits), cmocka_unit_test(framing),
        cmocka_unit_test(blank_lines), cmocka_unit_test(coded_bodies), cmocka_unit_test(dates)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
