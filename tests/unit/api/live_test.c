/* WebSocket and Server-Sent Events over real sockets: authentication, messages, slow readers, ends.
 * Long: one case per rule, one server for all. */
#include "fixture.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static struct fixture *f;

static int start(void **state)
{
    (void)state;
    static const char *const flags[] = {"--max-subscriptions", "3", "--max-frame-bytes", "2048", NULL};
    f = fixture_start(flags);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    fixture_stop(f);
    return 0;
}

static struct client open_ws(struct fixture *g)
{
    struct client c;
    assert_int_equal(ws_connect(&c, g->port, "/ws", g->alice, NULL), 101);
    return c;
}

/* Says it, and expects an answer that reads `want` (up to its length). */
static void say(struct client *c, const char *text, const char *want)
{
    ws_text(c, text);
    const char *got = ws_next_text(c);
    assert_non_null(got);
    if (strncmp(got, want, strlen(want)) != 0)
        fail_msg("%s\n   got  %s\n   want %s", text, got, want);
}

static void bye(struct client *c)
{
    ws_send(c, 8, "\x03\xE8", 2);
    assert_int_equal(ws_close_code(c), 1000);
    assert_true(client_at_end(c));
    client_close(c);
}

/* ---- who
 * ------------------------------------------------------------------------------------------------------------
 */

static void every_way_to_bring_a_token(void **state)
{
    (void)state;
    struct client c;
    char text[2048], protocol[64];
    snprintf(text, sizeof text, "/api/v1/ws?x=1&token=%s", token_of(f->alice));
    assert_int_equal(ws_connect(&c, f->port, text, NULL, protocol), 101);
    assert_string_equal(protocol, "");
    say(&c, "{\"type\":\"ping\"}", "{\"type\":\"pong\"}");
    bye(&c);
    snprintf(text, sizeof text, "Sec-WebSocket-Protocol: kalamdb, bearer.%s\r\n", token_of(f->alice));
    assert_int_equal(ws_connect(&c, f->port, "/ws", text, protocol), 101);
    assert_string_equal(protocol, "kalamdb");
    say(&c, "{\"type\":\"ping\",\"id\":\"p\\n\"}", "{\"type\":\"pong\",\"id\":\"p\\n\"}");
    bye(&c);
    assert_int_equal(ws_connect(&c, f->port, "/ws", NULL, NULL), 101);
    snprintf(text, sizeof text, "{\"type\":\"auth\",\"token\":\"%s\"}", token_of(f->alice));
    ws_text(&c, text); /* no answer when it is right */
    say(&c, "{\"type\":\"ping\"}", "{\"type\":\"pong\"}");
    ws_text(&c, text); /* renewed */
    snprintf(text, sizeof text, "{\"type\":\"auth\",\"token\":\"%s\"}", token_of(f->service));
    say(&c, text, "{\"type\":\"error\",\"code\":\"FORBIDDEN\"");
    bye(&c);
}

static void bad_tokens_close_4401(void **state)
{
    (void)state;
    struct client c;
    char text[2048];
    static const char *const targets[] = {"/ws?token=junk", "/ws?token="};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(ws_connect(&c, f->port, targets[i], NULL, NULL), 101);
        struct frame fr = ws_next(&c);
        assert_int_equal(fr.op, 8);
        assert_int_equal(fr.close_code, 4401);
        assert_string_equal(fr.payload.ptr + 2, "invalid token");
        buf_release(&fr.payload);
        client_close(&c);
    }
    assert_int_equal(ws_connect(&c, f->port, "/ws", f->expired, NULL), 101);
    struct frame fr = ws_next(&c);
    assert_int_equal(fr.close_code, 4401);
    assert_string_equal(fr.payload.ptr + 2, "token expired");
    buf_release(&fr.payload);
    client_close(&c);
    static const char *const firsts[] = {"{\"type\":\"ping\"}", "{\"type\":\"auth\"}",
        "{\"type\":\"auth\",\"token\":\"x\"}", "{\"type\":\"subscribe\"}", "junk"};
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(ws_connect(&c, f->port, "/ws", NULL, NULL), 101);
        ws_text(&c, firsts[i]);
        assert_int_equal(ws_close_code(&c), 4401);
        client_close(&c);
    }
    assert_int_equal(ws_connect(&c, f->port, "/ws", NULL, NULL), 101); /* says nothing: 5 s */
    assert_int_equal(ws_close_code(&c), 4401);
    client_close(&c);
    char *token = fixture_token(f, "alice", ROLE_USER, 1);
    snprintf(text, sizeof text, "/ws?token=%s", token);
    free(token);
    assert_int_equal(ws_connect(&c, f->port, text, NULL, NULL), 101);
    assert_int_equal(ws_close_code(&c), 4401); /* when it runs out */
    client_close(&c);
}

static void handshakes(void **state)
{
    (void)state;
    static const struct {
        const char *lines;
        int status;
    } table[] = {
        {"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n"
         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            426},
        {"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", 400},
        {"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n",
            400},
        {"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            400},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct reply r = http(f->port, "GET", "/ws", table[i].lines, NULL);
        assert_int_equal(r.status, table[i].status);
        if (r.status == 426)
            assert_string_equal(reply_header(&r, "Sec-WebSocket-Version"), "13");
        reply_release(&r);
    }
    /* frames in the same segment as the handshake are not lost */
    struct client c = client_open(f->port);
    struct buf b = {0};
    buf_printf(&b,
        "GET /ws HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%s"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        f->alice);
    buf_append(&b, "\x81\x8F\0\0\0\0{\"type\":\"ping\"}", 21);
    client_send(&c, b.ptr, b.len);
    struct reply r = client_reply(&c, false);
    assert_int_equal(r.status, 101);
    reply_release(&r);
    assert_string_equal(ws_next_text(&c), "{\"type\":\"pong\"}");
    client_close(&c);
    buf_release(&b);
}

/* ---- messages
 * ------------------------------------------------------------------------------------------------------ */

static void wrong_messages(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } table[] = {
        {"junk", "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\""},
        {"[]",
            "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\",\"message\":\"a message is a JSON object\"}"},
        {"{}", "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\",\"message\":\"type is missing\"}"},
        {"{\"type\":1}",
            "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\",\"message\":\"type must be a string\"}"},
        {"{\"type\":\"dance\",\"id\":\"x\"}", "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\",\"message\":"
                                              "\"unknown message type\",\"id\":\"x\"}"},
        {"{\"type\":\"stream_begin\",\"id\":\"x\",\"conversationId\":\"c\"}",
            "{\"type\":\"stream_ack\",\"id\":\"x\",\"msgId\":77,\"offset\":0}"},
        {"{\"type\":\"stream_begin\",\"id\":\"y\"}",
            "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\",\"message\":\"conversationId is "
            "missing\",\"id\":\"y\"}"},
        {"{\"type\":\"append\",\"msgId\":7,\"offset\":0,\"text\":5}",
            "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\",\"message\":\"text must be a "
            "string\",\"msgId\":7}"},
        {"{\"type\":\"stream_begin\",\"id\":\"y\",\"conversationId\":\"\"}",
            "{\"type\":\"error\",\"id\":\"y\",\"code\":\"INVALID_MESSAGE\",\"message\":\"no conversation\"}"},
        {"{\"type\":\"append\",\"msgId\":1,\"offset\":0,\"text\":\"t\"}",
            "{\"type\":\"append_ack\",\"msgId\":1,\"offset\":1}"},
        {"{\"type\":\"append\",\"msgId\":\"9007199254740993\",\"offset\":2000,\"text\":\"t\"}",
            "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\",\"message\":\"a hole\",\"msgId\":"
            "\"9007199254740993\",\"offset\":3}"},
        {"{\"type\":\"append\",\"msgId\":1,\"text\":\"t\"}",
            "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\",\"message\":\"offset is "
            "missing\",\"msgId\":1}"},
        {"{\"type\":\"append\",\"msgId\":1,\"offset\":-1,\"text\":\"t\"}",
            "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\",\"message\":\"offset must be"},
        {"{\"type\":\"stream_end\"}",
            "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\",\"message\":\"msgId is missing\"}"},
        {"{\"type\":\"stream_end\",\"id\":\"e\",\"msgId\":5,\"metadata\": {\"a\" : 1} }",
            "{\"type\":\"stream_end_ack\",\"id\":\"e\",\"msgId\":5,\"offset\":9}"},
        {"{\"type\":\"signal\"}",
            "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\",\"message\":\"no kind\"}"},
        {"{\"type\":\"unsubscribe\"}", "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\""},
        {"{\"type\":\"unsubscribe\",\"id\":\"no\"}", "{\"type\":\"error\",\"code\":\"INVALID_SUBSCRIPTION\","
                                                     "\"message\":\"no such subscription\",\"id\":\"no\"}"},
        {"{\"type\":\"subscribe\",\"id\":5}", "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\""},
        {"{\"type\":\"subscribe\",\"id\":\"\"}", "{\"type\":\"error\",\"code\":\"INVALID_SUBSCRIPTION\""},
        {"{\"type\":\"subscribe\",\"lastSeq\":-1}", "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\""},
        {"{\"type\":\"subscribe\",\"lastSeq\":1.5}", "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\""},
        {"{\"type\":\"subscribe\",\"lastMsgId\":true}", "{\"type\":\"error\",\"code\":\"INVALID_MESSAGE\""},
        {"{\"type\":\"subscribe\",\"conversationId\":\"\"}",
            "{\"type\":\"error\",\"code\":\"INVALID_SUBSCRIPTION\""},
        {"{\"type\":\"subscribe\",\"userId\":\"shared\"}",
            "{\"type\":\"error\",\"code\":\"INVALID_SUBSCRIPTION\""},
        {"{\"type\":\"subscribe\",\"id\":\"b\",\"userId\":\"bob\"}",
            "{\"type\":\"error\",\"code\":\"FORBIDDEN\",\"message\":\"another user's "
            "messages\",\"id\":\"b\"}"},
    };
    struct client c = open_ws(f);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        say(&c, table[i].text, table[i].want);
    assert_int_equal(fake_subscriptions(f->db), 0);
    bye(&c);
}

static void subscribing(void **state)
{
    (void)state;
    struct client c = open_ws(f);
    uint64_t seq = fake_publish(f->db, "{\"msg_id\":1}");
    char want[300];
    ws_text(&c, "{\"type\":\"subscribe\",\"id\":\"s\\\"1\",\"userId\":\"alice\",\"conversationId\":null}");
    const char *got = ws_next_text(&c);
    assert_memory_equal(got, "{\"type\":\"subscribe_ack\",\"id\":\"s\\\"1\",\"subscriptionId\":\"", 54);
    snprintf(want, sizeof want, "\",\"conversationId\":null,\"feed\":\"feedA\",\"seq\":%d}", (int)seq);
    assert_string_equal(got + 54 + 16, want);
    fake_publish(f->db, "{\"msg_id\":2}");
    snprintf(want, sizeof want,
        "{\"type\":\"message\",\"id\":\"s\\\"1\",\"op\":\"insert\",\"seq\":%d,\"message\":{\"msg_id\":2}}",
        (int)seq + 1);
    assert_string_equal(ws_next_text(&c), want);
    fake_publish_conversation(f->db, "{\"title\":\"t\"}");
    assert_string_equal(
        ws_next_text(&c), "{\"type\":\"conversation\",\"id\":\"s\\\"1\",\"conversation\":{\"title\":\"t\"}}");
    say(&c, "{\"type\":\"subscribe\",\"id\":\"s\\u00221\"}",
        "{\"type\":\"error\",\"code\":\"INVALID_SUBSCRIPTION\"");
    /* replay of what there is, then live */
    say(&c, "{\"type\":\"subscribe\",\"id\":\"r\",\"conversationId\":\"c\\n\",\"lastSeq\":\"0\"}",
        "{\"type\":\"subscribe_ack\",\"id\":\"r\"");
    uint64_t last = seq + 2;
    for (uint64_t i = 1; i <= last; i++)
        assert_non_null(ws_next_text(&c));
    snprintf(want, sizeof want,
        "{\"type\":\"replay_complete\",\"id\":\"r\",\"messageCount\":%d,\"lastMsgId\":%d,\"seq\":%d}",
        (int)last, (int)last, (int)last);
    assert_string_equal(ws_next_text(&c), want);
    say(&c, "{\"type\":\"subscribe\",\"lastSeq\":1,\"feed\":\"old\"}",
        "{\"type\":\"subscribe_ack\",\"id\":\"");
    for (uint64_t i = 0; i <= last; i++)
        assert_non_null(ws_next_text(&c));
    say(&c, "{\"type\":\"subscribe\",\"id\":\"four\"}",
        "{\"type\":\"error\",\"code\":\"INVALID_SUBSCRIPTION\",\"message\":\"at most 3 "
        "subscriptions\",\"id\":\"four\"}");
    assert_int_equal(fake_subscriptions(f->db), 3);
    say(&c, "{\"type\":\"unsubscribe\",\"id\":\"s\\\"1\"}",
        "{\"type\":\"unsubscribe_ack\",\"id\":\"s\\\"1\",\"subscriptionId\":\"");
    say(&c, "{\"type\":\"unsubscribe\",\"id\":\"r\"}", "{\"type\":\"unsubscribe_ack\",\"id\":\"r\"");
    assert_int_equal(fake_subscriptions(f->db), 1);
    bye(&c);
    assert_true(fake_wait(f->db, fake_subscriptions, 0));
    assert_int_equal(fake_live_changes(f->db), 0);
}

static void a_resync_is_told(void **state)
{
    (void)state;
    struct client c = open_ws(f);
    ws_text(&c, "{\"type\":\"subscribe\",\"id\":\"x\",\"lastSeq\":0,\"feed\":\"other\"}");
    assert_non_null(strstr(ws_next_text(&c), ",\"resync\":true}"));
    client_close(&c);
    assert_true(fake_wait(f->db, fake_subscriptions, 0));
}

static void an_unnamed_subscription_has_its_subscription_id(void **state)
{
    (void)state;
    struct client c = open_ws(f);
    char id[17] = "", sub[17] = "", text[200];
    ws_text(&c, "{\"type\":\"subscribe\"}");
    const char *got = ws_next_text(&c);
    assert_int_equal(
        sscanf(got, "{\"type\":\"subscribe_ack\",\"id\":\"%16[0-9a-f]\",\"subscriptionId\":\"%16[0-9a-f]\"",
            id, sub),
        2);
    assert_string_equal(id, sub);
    snprintf(text, sizeof text, "{\"type\":\"unsubscribe\",\"subscriptionId\":\"%s\"}", sub);
    say(&c, text, "{\"type\":\"unsubscribe_ack\"");
    bye(&c);
}

static void the_engine_ends_a_subscription(void **state)
{
    (void)state;
    struct client c = open_ws(f);
    say(&c, "{\"type\":\"subscribe\",\"id\":\"x\"}", "{\"type\":\"subscribe_ack\"");
    fake_end_subscriptions(f->db, ERR_FORBIDDEN);
    assert_string_equal(ws_next_text(&c), "{\"type\":\"error\",\"id\":\"x\",\"code\":\"FORBIDDEN\","
                                          "\"message\":\"the subscription has ended\"}");
    assert_true(fake_wait(f->db, fake_subscriptions, 0));
    say(&c, "{\"type\":\"subscribe\",\"id\":\"x\"}", "{\"type\":\"subscribe_ack\"");
    fake_end_subscriptions(f->db, ERR_UNAVAILABLE);
    assert_int_equal(ws_close_code(&c), 1001); /* come back with your cursor */
    client_close(&c);
}

static void protocol_errors(void **state)
{
    (void)state;
    struct client c = open_ws(f);
    char big[3000];
    memset(big, ' ', sizeof big);
    ws_send(&c, 9, "ping!", 5);
    struct frame fr = ws_next(&c);
    assert_int_equal(fr.op, 10);
    assert_string_equal(fr.payload.ptr, "ping!");
    buf_release(&fr.payload);
    ws_send(&c, 1, big, 2049);
    assert_int_equal(ws_close_code(&c), 1009);
    assert_true(client_at_end(&c));
    client_close(&c);
    c = open_ws(f);
    ws_send(&c, 2, "x", 1);
    assert_int_equal(ws_close_code(&c), 1003);
    client_close(&c);
    c = open_ws(f);
    ws_send(&c, 1, "\xFF", 1);
    assert_int_equal(ws_close_code(&c), 1007);
    client_close(&c);
    c = open_ws(f);
    client_send(&c, "\x81\x01x", 3);
    assert_int_equal(ws_close_code(&c), 1002);
    client_close(&c);
    c = open_ws(f); /* without a code: answered without one */
    ws_send(&c, 8, "", 0);
    fr = ws_next(&c);
    assert_int_equal(fr.op, 8);
    assert_int_equal(fr.payload.len, 0);
    buf_release(&fr.payload);
    client_close(&c);
}

static void large_changes_are_shared_and_let_go(void **state)
{
    (void)state;
    struct client a = open_ws(f), b = open_ws(f);
    say(&a, "{\"type\":\"subscribe\",\"id\":\"a\"}", "{\"type\":\"subscribe_ack\"");
    say(&b, "{\"type\":\"subscribe\",\"id\":\"b\"}", "{\"type\":\"subscribe_ack\"");
    static const size_t sizes[] = {100, 4096, 4097, 70000, 300000};
    for (size_t i = 0; i < 5; i++) {
        char *json = malloc(sizes[i] + 1);
        memset(json, 'x', sizes[i]);
        json[0] = json[sizes[i] - 1] = '"';
        json[sizes[i]] = '\0';
        fake_publish(f->db, json);
        struct client *both[2] = {&a, &b};
        for (int k = 0; k < 2; k++) {
            struct frame fr = ws_next(both[k]);
            assert_int_equal(fr.op, 1);
            assert_non_null(strstr(fr.payload.ptr, json));
            assert_string_equal(fr.payload.ptr + fr.payload.len - 2, "\"}");
            buf_release(&fr.payload);
        }
        free(json);
    }
    bye(&a);
    bye(&b);
    assert_true(fake_wait(f->db, fake_subscriptions, 0));
    assert_int_equal(fake_live_changes(f->db), 0);
}

/* ---- time
 * -----------------------------------------------------------------------------------------------------------
 */

static void pings_and_idleness(void **state)
{
    (void)state;
    static const char *const flags[] = {"--ping-interval-ms", "100", "--idle-timeout-ms", "500", NULL};
    struct fixture *g = fixture_start(flags);
    struct client c = open_ws(g);
    for (int i = 0; i < 8; i++) { /* answering keeps it open past the idle timeout */
        struct frame fr = ws_next(&c);
        assert_int_equal(fr.op, 1);
        assert_string_equal(fr.payload.ptr, "{\"type\":\"server_ping\"}");
        buf_release(&fr.payload);
        fr = ws_next(&c);
        assert_int_equal(fr.op, 9);
        buf_release(&fr.payload);
        ws_send(&c, 10, "", 0);
    }
    assert_int_equal(ws_close_code(&c), 1001); /* silence does not */
    client_close(&c);
    fixture_stop(g);
}

#define BURST 20000

/* Reads up to the frame with this seq, checking that none is skipped; the last one seen. */
static uint64_t read_changes(struct client *c, uint64_t from, uint64_t until, int *ret_close)
{
    uint64_t seq = from;
    *ret_close = 0;
    while (seq < until) {
        struct frame fr = ws_next(c);
        if (fr.op == 9)
            ws_send(c, 10, "", 0);
        const char *at = fr.op == 1 ? strstr(fr.payload.ptr, "\"op\":\"insert\",\"seq\":") : NULL;
        if (at != NULL) {
            uint64_t got = strtoull(at + 20, NULL, 10);
            assert_int_equal(got, seq + 1);
            seq = got;
        }
        bool ended = fr.op == 8 || fr.op == -1;
        if (ended)
            *ret_close = fr.op == 8 ? fr.close_code : -1;
        buf_release(&fr.payload);
        if (ended)
            break;
    }
    return seq;
}

static void publish_burst(struct fixture *g)
{
    char json[1100];
    memset(json, 'x', sizeof json);
    json[0] = json[1024] = '"';
    json[1025] = '\0';
    for (int i = 0; i < BURST; i++)
        fake_publish(g->db, json);
}

/* A reader asleep through 20 MB costs bounded memory, is closed with 4408, and gets the rest when it comes
 * back. */
static void a_sleeping_reader(void **state)
{
    (void)state;
    static const char *const flags[] = {
        "--slow-subscriber-timeout-ms", "400", "--max-socket-buffer-bytes", "65536", NULL};
    struct fixture *g = fixture_start(flags);
    struct client c = client_open(g->port);
    int small = 65536, code;
    setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    char text[2048];
    snprintf(text, sizeof text,
        "GET /ws HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%s"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        g->alice);
    client_puts(&c, text);
    struct reply r = client_reply(&c, false);
    assert_int_equal(r.status, 101);
    reply_release(&r);
    say(&c, "{\"type\":\"subscribe\",\"id\":\"s\"}", "{\"type\":\"subscribe_ack\"");
    publish_burst(g);
    assert_true(fake_wait(g->db, fake_subscriptions, 0)); /* given up; nothing is held for it any more */
    uint64_t seen = read_changes(&c, 0, BURST, &code);
    assert_true(seen < BURST);
    assert_int_equal(code, 4408);
    client_close(&c);
    c = open_ws(g);
    snprintf(text, sizeof text, "{\"type\":\"subscribe\",\"id\":\"s\",\"feed\":\"feedA\",\"lastSeq\":%llu}",
        (unsigned long long)seen);
    say(&c, text, "{\"type\":\"subscribe_ack\"");
    assert_int_equal(read_changes(&c, seen, BURST, &code), BURST);
    bye(&c);
    assert_int_equal(fake_live_changes(g->db), 0);
    fixture_stop(g);
}

/* One that reads all the time, however large the backlog, is never closed and misses nothing. Others are
 * served. */
static void a_steady_reader(void **state)
{
    (void)state;
    static const char *const flags[] = {
        "--slow-subscriber-timeout-ms", "2000", "--max-socket-buffer-bytes", "4096", NULL};
    struct fixture *g = fixture_start(flags);
    struct client c = open_ws(g), other;
    int code;
    publish_burst(g);
    say(&c, "{\"type\":\"subscribe\",\"id\":\"s\",\"lastSeq\":0}", "{\"type\":\"subscribe_ack\"");
    uint64_t seen = 0;
    for (int i = 1; i <= 4; i++) {
        seen = read_changes(&c, seen, (uint64_t)BURST * (uint64_t)i / 4, &code);
        assert_int_equal(code, 0);
        other = open_ws(g);
        say(&other, "{\"type\":\"ping\"}", "{\"type\":\"pong\"}");
        client_close(&other);
    }
    assert_int_equal(seen, BURST);
    bye(&c);
    fixture_stop(g);
}

/* ---- Server-Sent Events
 * -------------------------------------------------------------------------------------------- */

/* Next event block ("…\n\n") of a chunked stream, in a static buffer; NULL at the end. */
static const char *next_event(struct client *c)
{
    static char event[1 << 16];
    size_t n = 0;
    for (;;) {
        while (c->in.len - c->at < 1) {
            if (!client_more(c))
                return NULL;
        }
        char ch = c->in.ptr[c->at++];
        event[n++] = ch;
        if (n >= 2 && event[n - 1] == '\n' && event[n - 2] == '\r') { /* a chunk's size line, or its end */
            size_t line = n - 2;
            while (line > 0 && event[line - 1] != '\n')
                line--;
            bool last = strncmp(event + line, "0\r\n", 3) == 0;
            n = line;
            if (last)
                return NULL;
        }
        if (n >= 2 && event[n - 1] == '\n' && event[n - 2] == '\n') {
            event[n] = '\0';
            return event;
        }
    }
}

static struct client open_events(struct fixture *g, const char *target, const char *headers, int want)
{
    struct client c = client_open(g->port);
    char text[8192], line[256];
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: t\r\n%s\r\n", target, headers);
    client_puts(&c, text);
    if (want != 200) {
        struct reply r = client_reply(&c, false);
        assert_int_equal(r.status, want);
        reply_release(&r);
        return c;
    }
    size_t n = 0;
    int status = 0;
    for (;;) { /* the head; the body goes on for ever */
        while (c.at == c.in.len)
            assert_true(client_more(&c));
        char ch = c.in.ptr[c.at++];
        if (ch == '\n') {
            line[n > 0 ? n - 1 : 0] = '\0';
            if (n <= 1)
                break;
            if (strncmp(line, "HTTP/1.1 ", 9) == 0)
                status = atoi(line + 9);
            n = 0;
        } else if (n + 1 < sizeof line) {
            line[n++] = ch;
        }
    }
    assert_int_equal(status, 200);
    assert_string_equal(next_event(&c), "retry: 1000\n\n");
    return c;
}

static void events_follow_and_resume(void **state)
{
    (void)state;
    struct fixture *g = fixture_start(NULL);
    char target[2048], want[300];
    fake_publish(g->db, "{\"msg_id\":1}");
    snprintf(target, sizeof target, "/api/v1/events?conversationId=a%%20b+c&token=%s", token_of(g->alice));
    struct client c = open_events(g, target, "", 200);
    const char *got = next_event(&c);
    assert_memory_equal(got, "id: feedA:1\ndata: {\"type\":\"subscribe_ack\",\"id\":\"", 47);
    assert_non_null(strstr(got, "\"conversationId\":\"a b c\",\"feed\":\"feedA\",\"seq\":1}\n\n"));
    fake_publish(g->db, "{\"msg_id\":2,\r\n\"x\":1}");
    got = next_event(&c);
    assert_memory_equal(got, "id: feedA:2\ndata: {\"type\":\"message\",\"id\":\"", 42);
    assert_string_equal(
        strstr(got, "\"op\""), "\"op\":\"insert\",\"seq\":2,\"message\":{\"msg_id\":2,  \"x\":1}}\n\n");
    fake_publish_conversation(g->db, "{\"title\":\"t\"}");
    assert_memory_equal(next_event(&c), "data: {\"type\":\"conversation\"", 28);
    client_close(&c);
    assert_true(fake_wait(g->db, fake_subscriptions, 0));
    /* back with what was seen last */
    char headers[2048];
    snprintf(headers, sizeof headers, "%sLast-Event-ID: feedA:1\r\n", g->alice);
    c = open_events(g, "/api/v1/events", headers, 200);
    got = next_event(&c);
    assert_memory_equal(got, "data: {\"type\":\"subscribe_ack\"", 29); /* no id: the replay is not done */
    assert_null(strstr(got, "resync"));
    assert_memory_equal(next_event(&c), "id: feedA:2\n", 12);
    assert_memory_equal(next_event(&c), "data: {\"type\":\"conversation\"", 28);
    snprintf(want, sizeof want, "id: feedA:3\ndata: {\"type\":\"replay_complete\"");
    assert_memory_equal(next_event(&c), want, strlen(want));
    client_close(&c);
    static const char *const foreign[] = {"feedB:1", "junk", "feedA:x", ":5"};
    for (size_t i = 0; i < 4; i++) {
        snprintf(headers, sizeof headers, "%sLast-Event-ID: %s\r\n", g->alice, foreign[i]);
        c = open_events(g, "/api/v1/events", headers, 200);
        assert_non_null(strstr(next_event(&c), "\"resync\":true"));
        client_close(&c);
    }
    fixture_stop(g);
}

static void events_are_refused(void **state)
{
    (void)state;
    struct client c = open_events(f, "/api/v1/events", "", 401);
    client_close(&c);
    c = open_events(f, "/api/v1/events?token=junk", "", 401);
    client_close(&c);
    c = open_events(f, "/api/v1/events?userId=bob", f->alice, 403);
    client_close(&c);
    c = open_events(f, "/api/v1/events?lastSeq=-1", f->alice, 400);
    client_close(&c);
    c = open_events(f, "/api/v1/events?conversationId=%ff", f->alice, 400);
    client_close(&c);
    struct reply r = http(f->port, "HEAD", "/api/v1/events", f->alice, NULL);
    assert_int_equal(r.status, 200);
    reply_release(&r);
    assert_int_equal(fake_subscriptions(f->db), 0);
}

static void events_beat_and_end(void **state)
{
    (void)state;
    static const char *const flags[] = {"--ping-interval-ms", "100", NULL};
    struct fixture *g = fixture_start(flags);
    struct client c = open_events(g, "/api/v1/events", g->alice, 200), ws = open_ws(g);
    assert_non_null(next_event(&c));
    assert_string_equal(next_event(&c), ": ping\n\n");
    assert_string_equal(next_event(&c), ": ping\n\n");
    server_stop(g->server);
    while (next_event(&c) != NULL) {
    }
    while (client_more(&c)) {
    }
    assert_memory_equal(c.in.ptr + c.in.len - 5, "0\r\n\r\n", 5); /* ended in order, by the last chunk */
    assert_int_equal(ws_close_code(&ws), 1001);
    client_close(&c);
    client_close(&ws);
    fixture_stop(g);
}

/* Subscriptions come and go from many connections while changes are published and readers leave at any point.
 */
static void coming_and_going(void **state)
{
    (void)state;
    struct fixture *g = fixture_start(NULL);
    for (int round = 0; round < 60; round++) {
        struct client c = open_ws(g);
        ws_text(&c, "{\"type\":\"subscribe\",\"id\":\"a\",\"lastSeq\":0}");
        ws_text(&c, "{\"type\":\"subscribe\",\"id\":\"b\"}");
        for (int i = 0; i < 20; i++)
            fake_publish(g->db, "{\"msg_id\":1}");
        if (round % 3 == 0)
            ws_text(&c, "{\"type\":\"unsubscribe\",\"id\":\"a\"}");
        for (int i = 0; i < round % 7; i++)
            assert_non_null(ws_next_text(&c));
        client_close(&c);
    }
    assert_true(fake_wait(g->db, fake_subscriptions, 0));
    fixture_stop(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_way_to_bring_a_token),
        cmocka_unit_test(bad_tokens_close_4401), cmocka_unit_test(handshakes),
        cmocka_unit_test(wrong_messages), cmocka_unit_test(subscribing), cmocka_unit_test(a_resync_is_told),
        cmocka_unit_test(an_unnamed_subscription_has_its_subscription_id),
        cmocka_unit_test(the_engine_ends_a_subscription), cmocka_unit_test(protocol_errors),
        cmocka_unit_test(large_changes_are_shared_and_let_go), cmocka_unit_test(pings_and_idleness),
        cmocka_unit_test(a_sleeping_reader), cmocka_unit_test(a_steady_reader),
        cmocka_unit_test(events_follow_and_resume), cmocka_unit_test(events_are_refused),
        cmocka_unit_test(events_beat_and_end), cmocka_unit_test(coming_and_going)};
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, start, stop);
}
