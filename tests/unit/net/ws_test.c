/* RFC 6455: what a client may send, cut at every byte boundary; everything it may not. */
#include "net/ws.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct bytes {
    uint8_t b[512];
    size_t n;
};

static void frame_to(struct bytes *out, int first, const char *payload, size_t n)
{
    static const uint8_t mask[4] = {0xA1, 0x00, 0xFF, 0x37};
    out->b[out->n++] = (uint8_t)first;
    if (n < 126) {
        out->b[out->n++] = (uint8_t)(0x80 | n);
    } else {
        out->b[out->n++] = 0xFE;
        put_be16(out->b + out->n, (uint16_t)n);
        out->n += 2;
    }
    memcpy(out->b + out->n, mask, 4);
    out->n += 4;
    for (size_t i = 0; i < n; i++)
        out->b[out->n++] = (uint8_t)payload[i] ^ mask[i & 3];
}

/* Feeds [b, n) in two pieces cut at `cut` (and byte by byte for cut SIZE_MAX); writes what happened into
 * `log`. */
static void run(const uint8_t *b, size_t n, size_t cut, uint32_t max, struct buf *log)
{
    struct ws_decoder d;
    struct ws_event ev;
    ws_decoder_init(&d, max);
    buf_clear(log);
    for (size_t at = 0; at < n;) {
        size_t piece = cut == SIZE_MAX ? 1 : at < cut && cut < n ? cut - at : n - at;
        char *copy = malloc(piece), *p = copy, *end = copy + piece; /* exact size: ASan sees overreads */
        memcpy(copy, b + at, piece);
        while (ws_decode(&d, &p, end, &ev) != WS_MORE) {
            static const char kinds[] = " TPOCB";
            buf_printf(log, "%c", kinds[ev.kind]);
            if (ev.kind == WS_CLOSED || ev.kind == WS_BROKEN)
                buf_printf(log, "%d", ev.code);
            if (ev.kind != WS_BROKEN)
                buf_printf(log, "(%.*s)", (int)ev.payload.len, ev.payload.len ? ev.payload.ptr : "");
        }
        assert_ptr_equal(p, end);
        free(copy);
        at += piece;
    }
    if (!d.broken && !d.in_frame && !d.message_open)
        assert_null(d.partial); /* at rest: no memory */
    ws_decoder_release(&d);
    buf_u8(log, 0);
}

static void expect_max(const struct bytes *in, uint32_t max, const char *want)
{
    struct buf log = {0};
    for (size_t cut = 0; cut <= in->n; cut++) {
        run(in->b, in->n, cut == 0 ? SIZE_MAX : cut, max, &log);
        assert_string_equal(log.ptr, want);
    }
    buf_release(&log);
}

static void expect(const struct bytes *in, const char *want)
{
    expect_max(in, 1000, want);
}

static void good_frames_at_every_cut(void **state)
{
    (void)state;
    struct bytes b = {.n = 0};
    frame_to(&b, 0x81, "hello", 5);
    expect(&b, "T(hello)");
    frame_to(&b, 0x81, "", 0);
    frame_to(&b, 0x89, "p", 1);
    frame_to(&b, 0x8A, "", 0);
    expect(&b, "T(hello)T()P(p)O()");
    frame_to(&b, 0x01, "h\xC3", 2); /* a character over two fragments, a ping and an empty one between */
    frame_to(&b, 0x89, "in", 2);
    frame_to(&b, 0x00, "", 0);
    frame_to(&b, 0x80, "\xA9!", 2);
    expect(&b, "T(hello)T()P(p)O()P(in)T(h\xC3\xA9!)");
    frame_to(&b, 0x88,
        "\x03\xE8"
        "bye",
        5);
    expect(&b, "T(hello)T()P(p)O()P(in)T(h\xC3\xA9!)C1000(bye)");
}

static void lengths(void **state)
{
    (void)state;
    char text[200];
    memset(text, 'a', sizeof text);
    struct bytes b = {.n = 0};
    frame_to(&b, 0x81, text, 200);
    struct buf log = {0};
    run(b.b, b.n, SIZE_MAX, 200, &log);
    assert_int_equal(log.len, 1 + 2 + 200 + 1);
    buf_release(&log);
    expect_max(&b, 199, "B1009");
    b.n = 0; /* too big only by its sum */
    frame_to(&b, 0x01, text, 100);
    frame_to(&b, 0x80, text, 100);
    expect_max(&b, 199, "B1009");
    /* 1009 comes from the header: no payload byte is needed */
    struct bytes h = {.b = {0x81, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4}, .n = 14};
    expect(&h, "B1009");
}

/* One byte, then empty frames: they bring nothing, so the message's size never ends them. */
static void fragments(void **state)
{
    (void)state;
    for (size_t n = WS_FRAGMENTS_MAX; n <= WS_FRAGMENTS_MAX + 1; n++) {
        uint8_t *in = malloc(7 + 6 * n);
        static const uint8_t first[] = {0x01, 0x81, 0, 0, 0, 0, 'a'}, more[] = {0x00, 0x80, 0, 0, 0, 0};
        struct buf log = {0};
        memcpy(in, first, 7);
        for (size_t i = 1; i < n; i++)
            memcpy(in + 7 + 6 * (i - 1), more, 6);
        in[7 + 6 * (n - 2)] = 0x80; /* the last one */
        for (size_t cut = 1; cut < 7 + 6 * (n - 1); cut = cut * 5 + 1) {
            run(in, 7 + 6 * (n - 1), cut, 1000, &log);
            assert_string_equal(log.ptr, n > WS_FRAGMENTS_MAX ? "B1009" : "T(a)");
        }
        free(in);
        buf_release(&log);
    }
}

static void close_frames(void **state)
{
    (void)state;
    static const struct {
        const char *payload;
        size_t n;
        const char *want;
    } table[] = {
        {"", 0, "C1005()"},
        {"\x03", 1, "B1002"},
        {"\x03\xE8", 2, "C1000()"},
        {"\x03\xE9", 2, "C1001()"},
        {"\x03\xEB", 2, "C1003()"},
        {"\x03\xEC", 2, "B1002"}, /* 1004 */
        {"\x03\xED", 2, "B1002"}, /* 1005 */
        {"\x03\xEE", 2, "B1002"}, /* 1006 */
        {"\x03\xEF", 2, "C1007()"},
        {"\x03\xF6", 2, "C1014()"},
        {"\x03\xF7", 2, "B1002"}, /* 1015 */
        {"\x03\xE7", 2, "B1002"}, /* 999 */
        {"\x07\xD0", 2, "B1002"}, /* 2000 */
        {"\x0B\xB8", 2, "C3000()"},
        {"\x13\x87", 2, "C4999()"},
        {"\x13\x88", 2, "B1002"}, /* 5000 */
        {"\x03\xE8\xFF", 3, "B1007"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct bytes b = {.n = 0};
        frame_to(&b, 0x88, table[i].payload, table[i].n);
        expect(&b, table[i].want);
    }
}

static void bad_frames(void **state)
{
    (void)state;
    static const struct {
        struct bytes in;
        const char *want;
    } table[] = {
        {{{0x81, 0x01, 'a'}, 3}, "B1002"},             /* not masked */
        {{{0x91, 0x80, 0, 0, 0, 0}, 6}, "B1002"},      /* RSV3 */
        {{{0xA1, 0x80, 0, 0, 0, 0}, 6}, "B1002"},      /* RSV2 */
        {{{0xC1, 0x80, 0, 0, 0, 0}, 6}, "B1002"},      /* RSV1: no deflate */
        {{{0x82, 0x81, 0, 0, 0, 0, 'a'}, 7}, "B1003"}, /* binary */
        {{{0x02, 0x81, 0, 0, 0, 0, 'a'}, 7}, "B1003"},
        {{{0x80, 0x81, 0, 0, 0, 0, 'a'}, 7}, "B1002"}, /* continuation of nothing */
        {{{0x83, 0x80, 0, 0, 0, 0}, 6}, "B1002"},      /* reserved opcodes */
        {{{0x87, 0x80, 0, 0, 0, 0}, 6}, "B1002"}, {{{0x8B, 0x80, 0, 0, 0, 0}, 6}, "B1002"},
        {{{0x8F, 0x80, 0, 0, 0, 0}, 6}, "B1002"},
        {{{0x09, 0x80, 0, 0, 0, 0}, 6}, "B1002"},                                       /* fragmented ping */
        {{{0x08, 0x80, 0, 0, 0, 0}, 6}, "B1002"}, {{{0x89, 0xFE, 0, 126}, 4}, "B1002"}, /* long ping */
        {{{0x81, 0xFE, 0, 125, 0, 0, 0, 0}, 8}, "B1002"}, /* length not minimal */
        {{{0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0}, 14}, "B1002"},
        {{{0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 14}, "B1002"}, /* top bit */
        {{{0x01, 0x81, 0, 0, 0, 0, 'a', 0x81, 0x81, 0, 0, 0, 0, 'b'}, 14},
            "B1002"}, /* message in a message */
        {{{0x81, 0x81, 0, 0, 0, 0, 0xFF}, 7}, "B1007"},
        {{{0x81, 0x82, 0, 0, 0, 0, 0xC0, 0x80}, 8}, "B1007"},              /* overlong */
        {{{0x81, 0x83, 0, 0, 0, 0, 0xED, 0xA0, 0x80}, 9}, "B1007"},        /* surrogate */
        {{{0x81, 0x84, 0, 0, 0, 0, 0xF4, 0x90, 0x80, 0x80}, 10}, "B1007"}, /* past U+10FFFF */
        {{{0x81, 0x81, 0, 0, 0, 0, 0xC3}, 7}, "B1007"},                    /* ends within a character */
        {{{0x01, 0x82, 0, 0, 0, 0, 'a', 0xFF}, 8}, "B1007"},               /* found before the message ends */
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        expect(&table[i].in, table[i].want);
}

static void nothing_after_a_bad_frame(void **state)
{
    (void)state;
    struct bytes b = {.b = {0x83, 0x80, 0, 0, 0, 0}, .n = 6};
    frame_to(&b, 0x81, "late", 4);
    expect(&b, "B1002");
}

static void utf8_table(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        bool ok;
    } table[] = {{"plain ascii of some length", 26, true}, {"\xC2\x80", 2, true}, {"\xC1\xBF", 2, false},
        {"\xE0\xA0\x80", 3, true}, {"\xE0\x9F\x80", 3, false}, {"\xED\x9F\xBF", 3, true},
        {"\xEE\x80\x80", 3, true}, {"\xF0\x90\x80\x80", 4, true}, {"\xF0\x8F\x80\x80", 4, false},
        {"\xF4\x8F\xBF\xBF", 4, true}, {"\xF5\x80\x80\x80", 4, false}, {"\x80", 1, false},
        {"12345678\xC3(", 10, false}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct utf8_state u = {0};
        assert_int_equal(utf8_feed(&u, str_n(table[i].text, table[i].n)) && u.need == 0, table[i].ok);
        assert_int_equal(utf8_valid(str_n(table[i].text, table[i].n)), table[i].ok);
    }
}

static void encoding(void **state)
{
    (void)state;
    uint8_t h[WS_HEAD_BYTES_MAX], c[125];
    assert_int_equal(ws_encode_head(h, WS_OP_TEXT, 125), 2);
    assert_memory_equal(h, "\x81\x7D", 2);
    assert_int_equal(ws_encode_head(h, WS_OP_TEXT, 126), 4);
    assert_memory_equal(h, "\x81\x7E\x00\x7E", 4);
    assert_int_equal(ws_encode_head(h, WS_OP_TEXT, 65535), 4);
    assert_int_equal(ws_encode_head(h, WS_OP_PING, 65536), 10);
    assert_memory_equal(h, "\x89\x7F\x00\x00\x00\x00\x00\x01\x00\x00", 10);
    assert_int_equal(ws_encode_close(c, 4408, STR("slow")), 6);
    assert_memory_equal(c, "\x11\x38slow", 6);
    assert_int_equal(ws_encode_close(c, WS_NO_STATUS, STR("x")), 0);
    char reason[200];
    memset(reason, 'a', 122);
    memcpy(reason + 122, "\xC3\xA9", 2);
    assert_int_equal(ws_encode_close(c, 1000, str_n(reason, 124)), 2 + 122); /* not within a character */
}

static void keys(void **state)
{
    (void)state;
    char accept[29];
    assert_true(ws_key_valid(STR("dGhlIHNhbXBsZSBub25jZQ==")));
    ws_accept_key(STR("dGhlIHNhbXBsZSBub25jZQ=="), accept); /* the RFC's example */
    assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_false(ws_key_valid(STR("dGhlIHNhbXBsZSBub25jZQ=")));
    assert_false(ws_key_valid(STR("dGhlIHNhbXBsZSBub25jZ!==")));
    assert_false(ws_key_valid(STR_NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(good_frames_at_every_cut), cmocka_unit_test(lengths),
        cmocka_unit_test(fragments), cmocka_unit_test(close_frames), cmocka_unit_test(bad_frames),
        cmocka_unit_test(nothing_after_a_bad_frame), cmocka_unit_test(utf8_table), cmocka_unit_test(encoding),
        cmocka_unit_test(keys)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
