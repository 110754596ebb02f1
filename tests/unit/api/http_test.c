/* HTTP over real sockets: routes, bodies, pipelining, limits, disconnects. Long: one
 * case per rule, one server for all. */
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
    static const char *const flags[] = {"--max-body-bytes", "100000", "--max-sql-bytes", "1024", NULL};
    f = fixture_start(flags);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    fixture_stop(f);
    return 0;
}

static void assert_header(const struct reply *r, const char *name, const char *want)
{
    const char *got = reply_header(r, name);
    if (want == NULL) {
        assert_null(got);
        return;
    }
    assert_non_null(got);
    assert_string_equal(got, want);
}

static void routes(void **state)
{
    (void)state;
    struct reply r = http(f->port, "GET", "/nope", NULL, NULL);
    assert_int_equal(r.status, 404);
    assert_string_equal(r.body.ptr, "{\"error\":\"NOT_FOUND\",\"message\":\"no such path\"}");
    assert_header(&r, "Content-Type", "application/json");
    assert_header(&r, "X-Content-Type-Options", "nosniff");
    assert_header(&r, "Cache-Control", "no-store");
    assert_header(&r, "Access-Control-Allow-Origin", NULL);
    assert_non_null(reply_header(&r, "Date"));
    reply_release(&r);
    r = http(f->port, "GET", "/api/v1/query", f->alice, NULL);
    assert_int_equal(r.status, 405);
    assert_header(&r, "Allow", "POST, OPTIONS");
    assert_string_equal(r.body.ptr, "{\"error\":\"METHOD_NOT_ALLOWED\",\"message\":\"method not allowed\"}");
    reply_release(&r);
    r = http(f->port, "DELETE", "/healthz", NULL, NULL);
    assert_int_equal(r.status, 405);
    assert_header(&r, "Allow", "GET, HEAD, OPTIONS");
    reply_release(&r);
    r = http(f->port, "OPTIONS", "/api/v1/query", NULL, NULL);
    assert_int_equal(r.status, 204);
    assert_header(&r, "Allow", "POST, OPTIONS");
    assert_header(&r, "Content-Length", NULL);
    assert_header(&r, "Access-Control-Allow-Methods", NULL);
    reply_release(&r);
    assert_reply(http(f->port, "GET", "/healthz", NULL, NULL), 200, "ok\n");
    assert_reply(http(f->port, "GET", "/%68ealthz?x=1", NULL, NULL), 200, "ok\n");
    assert_reply(http(f->port, "GET", "http://other/healthz", NULL, NULL), 200, "ok\n");
    assert_reply(http(f->port, "GET", "/readyz", NULL, NULL), 200, "ok\n");
    r = http(f->port, "GET", "/health%zz", NULL, NULL);
    assert_int_equal(r.status, 400);
    reply_release(&r);
    r = http(f->port, "GET", "/healthz/", NULL, NULL);
    assert_int_equal(r.status, 404);
    reply_release(&r);
    r = http(f->port, "HEAD", "/healthz", NULL, NULL);
    assert_int_equal(r.status, 200);
    assert_header(&r, "Content-Length", "3");
    reply_release(&r);
    r = http(f->port, "GET", "/ws", f->alice, NULL);
    assert_int_equal(r.status, 400);
    reply_release(&r);
}

static void health_tells_of_refused_writes(void **state)
{
    (void)state;
    struct reply r = http(f->port, "GET", "/api/v1/health", NULL, NULL);
    assert_int_equal(r.status, 200);
    assert_memory_equal(r.body.ptr, "{\"status\":\"ok\",\"version\":\"" KALAMDB_VERSION "\",\"uptime\":", 42);
    reply_release(&r);
    fake_set_writable(f->db, false);
    r = http(f->port, "GET", "/api/v1/health", NULL, NULL);
    assert_int_equal(r.status, 200);
    assert_non_null(strstr(r.body.ptr, "\"status\":\"degraded\""));
    assert_non_null(strstr(r.body.ptr, "\"writes\":\"disk space is low\""));
    reply_release(&r);
    fake_set_writable(f->db, true);
}

static void tokens(void **state)
{
    (void)state;
    static const struct {
        const char *headers, *message, *challenge;
    } table[] = {
        {"", "a bearer token is required", "Bearer realm=\"kalamdb\""},
        {"Authorization: Basic eDp5\r\n", "a bearer token is required", "Bearer realm=\"kalamdb\""},
        {"Authorization: Bearer junk\r\n", "invalid token",
            "Bearer realm=\"kalamdb\", error=\"invalid_token\""},
        {"Authorization: Bearer \r\n", "a bearer token is required", "Bearer realm=\"kalamdb\""},
    };
    char want[200];
    for (size_t i = 0; i < 4; i++) {
        struct reply r = http(f->port, "POST", "/api/v1/query", table[i].headers, "{\"sql\":\"sync\"}");
        snprintf(want, sizeof want, "{\"error\":\"UNAUTHENTICATED\",\"message\":\"%s\"}", table[i].message);
        assert_string_equal(r.body.ptr, want);
        assert_int_equal(r.status, 401);
        assert_header(&r, "WWW-Authenticate", table[i].challenge);
        reply_release(&r);
    }
    assert_reply(http(f->port, "POST", "/api/v1/query", f->expired, "{\"sql\":\"sync\"}"), 401,
        "{\"error\":\"UNAUTHENTICATED\",\"message\":\"token expired\"}");
    /* a token in the query string counts on streams only */
    char target[2048];
    snprintf(target, sizeof target, "/api/v1/query?token=%s", token_of(f->alice));
    struct reply r = http(f->port, "POST", target, NULL, "{\"sql\":\"sync\"}");
    assert_int_equal(r.status, 401);
    reply_release(&r);
    assert_reply(http(f->port, "POST", "/api/v1/query", f->service, "{\"sql\":\"who\"}"), 200,
        "{\"user\":\"worker\",\"role\":1,\"durability\":0}");
    assert_reply(query(f, "{\"sql\":\"who\"}"), 200, "{\"user\":\"alice\",\"role\":0,\"durability\":0}");
}

static void a_cached_token_still_expires(void **state)
{
    (void)state;
    char *token = fixture_token(f, "bob", ROLE_USER, 2), headers[1024];
    snprintf(headers, sizeof headers, "Authorization: bearer %s\r\n", token);
    free(token);
    int status = 0, good = 0;
    while (status != 401) { /* ends: the token has two seconds */
        struct reply r = http(f->port, "POST", "/api/v1/query", headers, "{\"sql\":\"sync\"}");
        status = r.status;
        good += status == 200;
        if (status == 401)
            assert_string_equal(r.body.ptr, "{\"error\":\"UNAUTHENTICATED\",\"message\":\"token expired\"}");
        reply_release(&r);
    }
    assert_true(good > 1);
}

/* More tokens than the cache holds, each used twice, by turns: nobody is taken for somebody else. */
static void more_tokens_than_the_cache_holds(void **state)
{
    (void)state;
    enum { USERS = 1500 };
    static char *tokens[USERS];
    static const char *const flags[] = {"--loops", "1", NULL};
    struct fixture *g = fixture_start(flags);
    struct client c = client_open(g->port);
    char text[2048], want[100];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < USERS; i++) {
            int u = round == 0 ? i : USERS - 1 - i; /* back over the newest: hits, then misses */
            snprintf(text, sizeof text, "user%d", u);
            if (round == 0)
                tokens[u] = fixture_token(g, text, ROLE_USER, 3600);
            snprintf(text, sizeof text,
                "POST /api/v1/query HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %s\r\n"
                "Content-Length: 13\r\n\r\n{\"sql\":\"who\"}",
                tokens[u]);
            client_puts(&c, text);
            snprintf(want, sizeof want, "{\"user\":\"user%d\",\"role\":0,\"durability\":0}", u);
            assert_reply(client_reply(&c, false), 200, want);
        }
    }
    struct reply r = http(g->port, "GET", "/metrics", NULL, NULL);
    assert_non_null(
        strstr(r.body.ptr, "\nkalamdb_tokens_verified_total 1976\n")); /* 1500, then 1500 - 1024 */
    assert_non_null(strstr(r.body.ptr, "\nkalamdb_tokens_cached_total 1024\n"));
    reply_release(&r);
    for (int i = 0; i < USERS; i++)
        free(tokens[i]);
    client_close(&c);
    fixture_stop(g);
}

static void statements(void **state)
{
    (void)state;
    assert_reply(query(f, "{\"sql\":\"sync \\u00e9\\n\\ud83d\\ude00\"}"), 200,
        "{\"echo\":\"sync \xC3\xA9\\n\xF0\x9F\x98\x80\"}");
    assert_reply(
        query(f, " {\"x\":[{}],\"sql\":\"async one\",\"params\":null} "), 200, "{\"echo\":\"async one\"}");
    assert_reply(query(f, "{\"sql\":\"fail\"}"), 400,
        "{\"error\":\"SYNTAX_ERROR\",\"message\":\"syntax error at or near \\\"x\\\"\",\"detail\":\"a "
        "detail\","
        "\"hint\":\"a hint\",\"position\":7}");
    struct reply r = query(f, "{\"sql\":\"unavailable\"}");
    assert_int_equal(r.status, 503);
    assert_header(&r, "Retry-After", "1");
    assert_string_equal(r.body.ptr, "{\"error\":\"UNAVAILABLE\",\"message\":\"no space\"}");
    reply_release(&r);
    r = query(f, "{\"sql\":\"internal\"}");
    assert_int_equal(r.status, 500);
    assert_null(strstr(r.body.ptr, "secret"));
    assert_memory_equal(
        r.body.ptr, "{\"error\":\"INTERNAL\",\"message\":\"internal error\",\"incident\":\"", 58);
    reply_release(&r);
}

static void parameters(void **state)
{
    (void)state;
    assert_reply(
        query(f, "{\"params\":[null,true,false,1,-9223372036854775808,1.5,1e2,\"x\\\"\",{\"a\": 1.10},[1 ],"
                 "9223372036854775808],\"sql\":\"params\"}"),
        200,
        "[[0,null],[1,1],[1,0],[2,1],[2,-9223372036854775808],[3,1.5],[3,100],[4,\"x\\\"\"],"
        "[5,\"{\\\"a\\\": 1.10}\"],[5,\"[1 ]\"],[3,9.223372036854776e+18]]");
    assert_reply(query(f, "{\"sql\":\"params\",\"params\":[]}"), 200, "[]");
}

static void bad_bodies(void **state)
{
    (void)state;
    static const struct {
        const char *body, *message;
    } table[] = {
        {"", "the body is empty"},
        {"[]", "the body must be a JSON object"},
        {"{", "unexpected end"},
        {"{}", "sql is missing"},
        {"{\"sql\":1}", "sql must be a string"},
        {"{\"sql\":null}", "sql must be a string"},
        {"{\"sql\":\"a\",\"sql\":\"b\"}", "sql is given twice"},
        {"{\"sql\":\"a\",\"params\":{}}", "params must be an array"},
        {"{\"sql\":\"a\",\"params\":\"x\"}", "params must be an array"},
        {"{\"sql\":\"a\",\"params\":[1],\"params\":[1]}", "params is given twice"},
        {"{\"sql\":\"a\",\"userId\":1}", "userId must be a string"},
        {"{\"sql\":\"a\"} x", "more than one JSON value"},
        {"{\"sql\":\"a\\u0000b\"}", "NUL characters are not accepted"},
        {"{\"sql\":\"a\",\"params\":[{\"k\":\"\\u0000\"}]}", "NUL characters are not accepted"},
        {"{\"sql\":\"a\\ud800\"}", "bad escape in a string"},
        {"{\"sql\":\"a\\x\"}", "bad escape in a string"},
        {"{\"sql\":\"a\nb\"}", "control character in a string"},
        {"{\"sql\":\"\xFF\"}", "the body is not UTF-8"},
        {"{\"sql\":\"a\",}", "malformed JSON"},
        {"{\"sql\":\"a\",\"params\":[1,]}", "malformed JSON"},
        {"{\"sql\":\"a\",\"params\":[1 2]}", "malformed JSON"},
        {"{\"sql\":\"a\",\"params\":[01]}", "bad number"},
        {"{\"sql\":\"a\",\"params\":[1.]}", "bad number"},
        {"{\"sql\":\"a\",\"params\":[1e999]}", "number out of range"},
        {"{\"sql\":\"a\",\"params\":[tru]}", "bad value"},
        {"{\"sql\":\"a\",\"params\":[{\"a\":}]}", "malformed JSON"},
        {"{\"sql\":\"a\",\"params\":[NaN]}", "malformed JSON"},
        {"{'sql':\"a\"}", "malformed JSON"},
    };
    char want[300];
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        snprintf(want, sizeof want, "{\"error\":\"INVALID_REQUEST\",\"message\":\"%s\"}", table[i].message);
        assert_reply(query(f, table[i].body), 400, want);
    }
    char deep[2000] = "{\"sql\":\"a\",\"params\":[";
    for (int i = 0; i < 300; i++)
        strcat(deep, "[");
    for (int i = 0; i < 300; i++)
        strcat(deep, "]");
    strcat(deep, "]}");
    assert_reply(query(f, deep), 400, "{\"error\":\"INVALID_REQUEST\",\"message\":\"nested too deeply\"}");
}

static void headers_and_identity(void **state)
{
    (void)state;
    char h[2048];
    static const char *const table[] = {"sync", "1", "ASYNC", "2"};
    for (size_t i = 0; i < 4; i += 2) {
        char want[100];
        snprintf(h, sizeof h, "%sX-Durability: %s\r\n", f->alice, table[i]);
        snprintf(want, sizeof want, "{\"user\":\"alice\",\"role\":0,\"durability\":%s}", table[i + 1]);
        assert_reply(http(f->port, "POST", "/api/v1/query", h, "{\"sql\":\"who\"}"), 200, want);
    }
    snprintf(h, sizeof h, "%sX-Durability: maybe\r\n", f->alice);
    assert_reply(http(f->port, "POST", "/api/v1/query", h, "{\"sql\":\"who\"}"), 400,
        "{\"error\":\"INVALID_REQUEST\",\"message\":\"X-Durability must be sync or async\"}");
    assert_reply(query(f, "{\"sql\":\"who\",\"userId\":\"alice\"}"), 200,
        "{\"user\":\"alice\",\"role\":0,\"durability\":0}");
    assert_reply(query(f, "{\"sql\":\"who\",\"userId\":\"bob\"}"), 403,
        "{\"error\":\"FORBIDDEN\",\"message\":\"userId is not the token's user\"}");
    assert_reply(http(f->port, "POST", "/api/v1/query", f->service, "{\"sql\":\"who\",\"userId\":\"bob\"}"),
        200, "{\"user\":\"worker\",\"role\":1,\"durability\":0}");
}

static void sizes(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_printf(&b, "{\"sql\":\"sync ");
    for (int i = 0; i < 1020; i++)
        buf_u8(&b, 'x');
    buf_append(&b, "\"}", 3);
    assert_reply(query(f, b.ptr), 413, "{\"error\":\"TOO_LARGE\",\"message\":\"sql is over 1024 bytes\"}");
    buf_clear(&b);
    for (int i = 0; i < 100001; i++)
        buf_u8(&b, ' ');
    buf_u8(&b, 0);
    struct reply r = query(f, b.ptr); /* told while the body is still coming, and the answer is not lost */
    assert_int_equal(r.status, 413);
    assert_string_equal(r.body.ptr, "{\"error\":\"TOO_LARGE\",\"message\":\"request body is too large\"}");
    assert_header(&r, "Connection", "close");
    reply_release(&r);
    buf_release(&b);
    r = query(f, "{\"sql\":\"big 3000000\"}");
    assert_int_equal(r.status, 200);
    assert_int_equal(r.body.len, 3000010);
    reply_release(&r);
}

/* Large answers are written off the loop: in order still, and dropped when nobody waits for them. */
static void large_answers(void **state)
{
    (void)state;
    struct client c = client_open(f->port);
    char text[2048];
    static const char *const sql[] = {"big 500000", "sync", "big 50000", "async"};
    for (size_t i = 0; i < 12; i++) {
        snprintf(text, sizeof text,
            "POST /api/v1/query HTTP/1.1\r\nHost: t\r\n%sContent-Length: %zu\r\n\r\n{\"sql\":\"%s\"}",
            f->alice, strlen(sql[i % 4]) + 10, sql[i % 4]);
        client_puts(&c, text);
    }
    static const size_t sizes[] = {500010, 15, 50010, 16};
    for (size_t i = 0; i < 8; i++) {
        struct reply r = client_reply(&c, false);
        assert_int_equal(r.status, 200);
        assert_int_equal(r.body.len, sizes[i % 4]);
        reply_release(&r);
    }
    client_close(&c);
}

/* Answers come in the order of the requests, whichever is ready first, however many are sent at once. */
static void pipelining(void **state)
{
    (void)state;
    struct client c = client_open(f->port);
    struct buf b = {0};
    for (int i = 0; i < 300; i++) {
        char body[64];
        snprintf(body, sizeof body, "{\"sql\":\"%s %d\"}", i % 3 == 0 ? "sync" : "async", i);
        buf_printf(&b, "POST /api/v1/query HTTP/1.1\r\nHost: t\r\n%sContent-Length: %zu\r\n\r\n%s", f->alice,
            strlen(body), body);
    }
    client_send(&c, b.ptr, b.len);
    for (int i = 0; i < 300; i++) {
        char want[64];
        snprintf(want, sizeof want, "{\"echo\":\"%s %d\"}", i % 3 == 0 ? "sync" : "async", i);
        assert_reply(client_reply(&c, false), 200, want);
    }
    client_close(&c);
    buf_release(&b);
}

static void a_client_that_leaves_cancels(void **state)
{
    (void)state;
    struct client c = client_open(f->port);
    char text[2048];
    int before = fake_cancelled(f->db);
    snprintf(text, sizeof text,
        "POST /api/v1/query HTTP/1.1\r\nHost: t\r\n%sContent-Length: 14\r\n\r\n{\"sql\":\"hang\"}", f->alice);
    client_puts(&c, text);
    client_puts(&c, text);
    assert_true(fake_wait(f->db, fake_hanging, 2));
    client_close(&c);
    assert_true(fake_wait(f->db, fake_hanging, 0));
    assert_int_equal(fake_cancelled(f->db), before + 2);
}

static void connection_lifetimes(void **state)
{
    (void)state;
    struct client c = client_open(f->port);
    client_puts(&c, "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_reply(client_reply(&c, false), 200, "ok\n");
    client_puts(&c, "GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    struct reply r = client_reply(&c, false);
    assert_header(&r, "Connection", "close");
    reply_release(&r);
    assert_true(client_at_end(&c));
    client_close(&c);
    c = client_open(f->port);
    client_puts(&c, "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    r = client_reply(&c, false);
    assert_header(&r, "Connection", "keep-alive");
    reply_release(&r);
    client_puts(&c, "GET /healthz HTTP/1.0\r\n\r\n");
    r = client_reply(&c, false);
    assert_header(&r, "Connection", "close");
    reply_release(&r);
    assert_true(client_at_end(&c));
    client_close(&c);
}

static void continue_is_said_when_it_is_time(void **state)
{
    (void)state;
    struct client c = client_open(f->port);
    char text[2048];
    snprintf(text, sizeof text,
        "POST /api/v1/query HTTP/1.1\r\nHost: t\r\n%sExpect: 100-continue\r\nContent-Length: 16\r\n\r\n",
        f->alice);
    client_puts(&c, text);
    struct reply r = client_reply(&c, false);
    assert_int_equal(r.status, 100);
    reply_release(&r);
    client_puts(&c, "{\"sql\":\"sync 1\"}");
    assert_reply(client_reply(&c, false), 200, "{\"echo\":\"sync 1\"}");
    /* too large: refused instead */
    client_puts(&c,
        "POST /api/v1/query HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 100001\r\n\r\n");
    r = client_reply(&c, false);
    assert_int_equal(r.status, 413);
    reply_release(&r);
    client_close(&c);
}

static void bad_requests_get_an_answer_and_a_close(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int status;
    } table[] = {
        {"POST /api/v1/query HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nTransfer-Encoding: "
         "chunked\r\n\r\n0\r\n\r\n",
            400},
        {"POST /api/v1/query HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400},
        {"GET /healthz HTTP/1.1\nHost: t\n\n", 400},
        {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400}, /* TLS */
        {"GET /healthz HTTP/1.1\r\n\r\n", 400},
        {"GET /healthz HTTP/3.0\r\nHost: t\r\n\r\n", 505},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct client c = client_open(f->port);
        client_puts(&c, table[i].text);
        struct reply r = client_reply(&c, false);
        assert_int_equal(r.status, table[i].status);
        assert_memory_equal(r.body.ptr, "{\"error\":\"INVALID_REQUEST\",", 26);
        assert_header(&r, "Connection", "close");
        reply_release(&r);
        assert_true(client_at_end(&c));
        client_close(&c);
    }
}

static void consolidation(void **state)
{
    (void)state;
    static const char path[] = "/api/v1/admin/consolidate";
    struct reply r = http(f->port, "POST", path, f->admin, "");
    assert_int_equal(r.status, 200);
    assert_memory_equal(r.body.ptr, "{\"status\":\"ok\",\"executionTimeMs\":", 33);
    reply_release(&r);
    r = http(f->port, "POST", path, f->admin, "{\"user\":\"alice\"}");
    assert_int_equal(r.status, 200);
    reply_release(&r);
    assert_reply(http(f->port, "POST", path, f->admin, "{\"user\":\"fail\"}"), 503,
        "{\"error\":\"UNAVAILABLE\",\"message\":\"no space\"}");
    assert_reply(http(f->port, "POST", path, f->admin, "{\"user\":\"shared\"}"), 400,
        "{\"error\":\"INVALID_REQUEST\",\"message\":\"user must be a user id\"}");
    assert_reply(http(f->port, "POST", path, f->service, ""), 403,
        "{\"error\":\"FORBIDDEN\",\"message\":\"this endpoint asks for role admin\"}");
    r = http(f->port, "POST", path, NULL, "");
    assert_int_equal(r.status, 401);
    reply_release(&r);
}

static void sweeping(void **state)
{
    (void)state;
    static const char path[] = "/api/v1/admin/sweep";
    struct reply r = http(f->port, "POST", path, f->admin, "");
    static const char want[] =
        "{\"users\":1,\"blobs\":2,\"refs\":3,\"refsRepaired\":4,\"blobsRepaired\":5,"
        "\"blobsMissing\":6,\"filesSetAside\":7,\"uploadsRemoved\":8,\"executionTimeMs\":";
    assert_int_equal(r.status, 200);
    assert_memory_equal(r.body.ptr, want, sizeof want - 1);
    reply_release(&r);
    assert_reply(http(f->port, "POST", path, f->service, ""), 403,
        "{\"error\":\"FORBIDDEN\",\"message\":\"this endpoint asks for role admin\"}");
    r = http(f->port, "GET", path, f->admin, NULL);
    assert_int_equal(r.status, 405);
    reply_release(&r);
}

static void metrics(void **state)
{
    (void)state;
    struct reply r = query(f, "{\"sql\":\"sync\"}");
    reply_release(&r);
    r = http(f->port, "GET", "/metrics", NULL, NULL);
    assert_int_equal(r.status, 200);
    assert_header(&r, "Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_string_equal(r.body.ptr + r.body.len - 6, "# EOF\n");
    assert_non_null(strstr(r.body.ptr, "# TYPE kalamdb_http_requests counter\n"));
    assert_non_null(
        strstr(r.body.ptr, "kalamdb_http_requests_total{route=\"/api/v1/query\",status=\"200\"} "));
    assert_non_null(strstr(r.body.ptr, "duration_seconds_bucket{route=\"/api/v1/query\",le=\"+Inf\"} "));
    assert_non_null(strstr(r.body.ptr, "\nkalamdb_commits_total 5\n"));
    assert_non_null(
        strstr(r.body.ptr, "\nkalamdb_workers{state=\"busy\"} 1\nkalamdb_workers{state=\"idle\"} 1\n"));
    assert_null(strstr(r.body.ptr, "alice"));
    /* one TYPE line per family */
    const char *first = strstr(r.body.ptr, "# TYPE kalamdb_workers gauge\n");
    assert_non_null(first);
    assert_null(strstr(first + 1, "# TYPE kalamdb_workers gauge\n"));
    reply_release(&r);
}

/* ---- servers with settings of their own
 * ---------------------------------------------------------------------------- */

static void late_requests(void **state)
{
    (void)state;
    static const char *const flags[] = {
        "--header-timeout-ms", "200", "--idle-timeout-ms", "400", "--ping-interval-ms", "300", NULL};
    struct fixture *g = fixture_start(flags);
    static const char *const parts[] = {"GET /healthz HT", "POST /api/v1/query HTTP/1.1\r\nHost: t\r\n",
        "POST /api/v1/query HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhal"};
    for (size_t i = 0; i < 3; i++) {
        struct client c = client_open(g->port);
        client_puts(&c, parts[i]);
        assert_reply(client_reply(&c, false), 408,
            "{\"error\":\"TIMEOUT\",\"message\":\"the request did not arrive in time\"}");
        assert_true(client_at_end(&c));
        client_close(&c);
    }
    struct client c = client_open(g->port); /* idle: closed without a word */
    client_puts(&c, "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_reply(client_reply(&c, false), 200, "ok\n");
    assert_true(client_at_end(&c));
    client_close(&c);
    fixture_stop(g);
}

static void connections_are_bounded(void **state)
{
    (void)state;
    static const char *const flags[] = {"--max-connections", "2", NULL};
    struct fixture *g = fixture_start(flags);
    struct client a = client_open(g->port), b = client_open(g->port);
    client_puts(&a, "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    client_puts(&b, "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_reply(client_reply(&a, false), 200, "ok\n");
    assert_reply(client_reply(&b, false), 200, "ok\n");
    struct client c = client_open(g->port);
    struct reply r = client_reply(&c, false);
    assert_int_equal(r.status, 503);
    assert_string_equal(r.body.ptr, "{\"error\":\"UNAVAILABLE\",\"message\":\"too many connections\"}");
    assert_header(&r, "Retry-After", "1");
    reply_release(&r);
    assert_true(client_at_end(&c));
    client_close(&c);
    client_close(&a);
    client_close(&b);
    fixture_stop(g);
}

static void cors(void **state)
{
    (void)state;
    static const char *const flags[] = {
        "--allowed-origins", "https://app.example, http://localhost:3000/", NULL};
    struct fixture *g = fixture_start(flags);
    struct reply r = http(g->port, "OPTIONS", "/api/v1/query",
        "Origin: http://localhost:3000\r\nAccess-Control-Request-Method: POST\r\n", NULL);
    assert_int_equal(r.status, 204);
    assert_header(&r, "Access-Control-Allow-Origin", "http://localhost:3000");
    assert_header(&r, "Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE, OPTIONS");
    assert_header(&r, "Access-Control-Allow-Headers",
        "Authorization, Content-Type, X-Durability, Last-Event-ID, Range, If-Range, If-Match, If-None-Match");
    assert_header(&r, "Vary", "Origin");
    reply_release(&r);
    char h[1024];
    snprintf(h, sizeof h, "%sOrigin: https://app.example\r\n", g->alice);
    r = http(g->port, "POST", "/api/v1/query", h, "{\"sql\":\"sync\"}");
    assert_int_equal(r.status, 200);
    assert_header(&r, "Access-Control-Allow-Origin", "https://app.example");
    reply_release(&r);
    r = http(g->port, "POST", "/api/v1/query", "Origin: https://app.example\r\n",
        "{}"); /* errors are readable too */
    assert_int_equal(r.status, 401);
    assert_header(&r, "Access-Control-Allow-Origin", "https://app.example");
    reply_release(&r);
    r = http(g->port, "GET", "/healthz", "Origin: https://evil.example\r\n", NULL);
    assert_int_equal(r.status, 200);
    assert_header(&r, "Access-Control-Allow-Origin", NULL);
    assert_header(&r, "Vary", "Origin");
    reply_release(&r);
    struct client c;
    assert_int_equal(ws_connect(&c, g->port, "/ws", "Origin: https://evil.example\r\n", NULL), 403);
    client_close(&c);
    assert_int_equal(ws_connect(&c, g->port, "/ws", "Origin: https://app.example\r\n", NULL), 101);
    client_close(&c);
    assert_int_equal(ws_connect(&c, g->port, "/ws", NULL, NULL), 101); /* no browser */
    client_close(&c);
    fixture_stop(g);
    static const char *const any[] = {"--allowed-origins", "*", NULL};
    g = fixture_start(any);
    r = http(g->port, "GET", "/healthz", "Origin: https://x.example\r\n", NULL);
    assert_header(&r, "Access-Control-Allow-Origin", "*");
    reply_release(&r);
    fixture_stop(g);
}

static void probes_behind_a_token(void **state)
{
    (void)state;
    static const char *const flags[] = {"--metrics-token", "open sesame", NULL};
    struct fixture *g = fixture_start(flags);
    static const char *const paths[] = {"/metrics", "/healthz", "/readyz", "/api/v1/health"};
    for (size_t i = 0; i < 4; i++) {
        struct reply r = http(g->port, "GET", paths[i], NULL, NULL);
        assert_int_equal(r.status, 401);
        reply_release(&r);
        r = http(g->port, "GET", paths[i], "Authorization: Bearer open sesamf\r\n", NULL);
        assert_int_equal(r.status, 401);
        reply_release(&r);
        r = http(g->port, "GET", paths[i], "Authorization: Bearer open sesame\r\n", NULL);
        assert_int_equal(r.status, 200);
        reply_release(&r);
    }
    fixture_stop(g);
}

/* ---- the end
 * ------------------------------------------------------------------------------------------------------- */

static void a_taken_port_is_an_error(void **state)
{
    (void)state;
    struct config cfg;
    struct errctx ec = {0};
    struct server *s = NULL;
    char address[32], *argv[] = {"--listen", address}, *envp[] = {NULL};
    snprintf(address, sizeof address, "127.0.0.1:%d", f->port);
    assert_int_equal(config_load(&cfg, 2, argv, envp, NULL, NULL, &ec), ERR_OK);
    assert_int_equal(server_open(&cfg, f->db, f->auth, &s, &ec), ERR_INVALID_REQUEST);
    assert_non_null(strstr(ec.message, "Address already in use"));
    config_release(&cfg);
    static const char *const bad[] = {"nonsense", "127.0.0.1:99999", "1::2:80", "[::1]", "127.0.0.1:", ":x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char copy[64];
        snprintf(copy, sizeof copy, "%s", bad[i]);
        struct config c = f->cfg;
        c.listen = copy;
        assert_int_equal(server_open(&c, f->db, f->auth, &s, &ec), ERR_INVALID_REQUEST);
    }
}

static void signals_stop_gracefully(void **state)
{
    (void)state;
    struct fixture *g = fixture_start(NULL);
    struct client busy = client_open(g->port), idle = client_open(g->port), ws;
    char text[2048];
    client_puts(&idle, "GET /readyz HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_reply(client_reply(&idle, false), 200, "ok\n");
    assert_int_equal(ws_connect(&ws, g->port, "/ws", g->alice, NULL), 101);
    snprintf(text, sizeof text,
        "POST /api/v1/query HTTP/1.1\r\nHost: t\r\n%sContent-Length: 14\r\n\r\n{\"sql\":\"hang\"}", g->alice);
    client_puts(&busy, text);
    assert_true(fake_wait(g->db, fake_hanging, 1));
    kill(getpid(), SIGTERM);
    assert_int_equal(ws_close_code(&ws), 1001);
    ws_send(&ws, 8, "\x03\xE9", 2);
    /* the listeners are gone; an open connection is told that this server is leaving */
    struct client late;
    do {
        late = client_open(g->port);
        client_close(&late);
    } while (late.fd >= 0);
    client_puts(&idle, "GET /readyz HTTP/1.1\r\nHost: t\r\n\r\n");
    struct reply r = client_reply(&idle, false);
    assert_int_equal(r.status, 503);
    assert_header(&r, "Connection", "close");
    reply_release(&r);
    fake_release_hanging(g->db);
    assert_reply(client_reply(&busy, false), 200, "{\"echo\":\"hang\"}"); /* what was in flight is finished */
    assert_true(client_at_end(&busy));
    fixture_join(g);
    client_close(&busy);
    client_close(&idle);
    client_close(&ws);
    fixture_stop(g);
}

static void the_deadline_cancels_what_hangs(void **state)
{
    (void)state;
    static const char *const flags[] = {"--shutdown-timeout-ms", "200", NULL};
    struct fixture *g = fixture_start(flags);
    struct client busy = client_open(g->port), silent;
    char text[2048];
    assert_int_equal(
        ws_connect(&silent, g->port, "/ws", g->alice, NULL), 101); /* never answers the close frame */
    snprintf(text, sizeof text,
        "POST /api/v1/query HTTP/1.1\r\nHost: t\r\n%sContent-Length: 14\r\n\r\n{\"sql\":\"hang\"}", g->alice);
    client_puts(&busy, text);
    assert_true(fake_wait(g->db, fake_hanging, 1));
    server_stop(g->server);
    fixture_join(g);
    assert_int_equal(fake_cancelled(g->db), 1);
    assert_true(client_at_end(&busy));
    client_close(&busy);
    client_close(&silent);
    fixture_stop(g);
}

static void conversations(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        int status;
        const char *want;
    } cases[] = {
        {"{\"conversation_id\":\"g\",\"conversation_type\":\"group\",\"metadata\":{\"a\":1.50},"
         "\"members\":[\"bob\",{\"user_id\":\"carol\",\"role\":\"admin\",\"other\":[]}]}",
            201, "{\"made\":\"alice g group {\\\"a\\\":1.50} bob: carol:admin\"}"},
        {"{\"conversation_id\":\"c\",\"members\":null}", 201, "{\"made\":\"alice c  \"}"},
        {"{}", 400, "conversation_id is missing"},
        {"", 400, "the body is empty"},
        {"[]", 400, "the body must be a JSON object"},
        {"{\"conversation_id\":1}", 400, "conversation_id must be a string"},
        {"{\"conversation_id\":\"g\",\"metadata\":[]}", 400, "metadata must be an object"},
        {"{\"conversation_id\":\"g\",\"members\":\"bob\"}", 400, "members must be an array"},
        {"{\"conversation_id\":\"g\",\"members\":[1]}", 400, "members must be an array"},
        {"{\"conversation_id\":\"g\",\"members\":[{}]}", 400, "a member has no user_id"},
        {"{\"conversation_id\":\"g\",\"members\":[{\"user_id\":1}]}", 400, "user_id of a member"},
        {"{\"conversation_id\":\"g\",\"members\":[],\"members\":[]}", 400, "given twice"},
        {"{\"conversation_id\":\"g\"", 400, "INVALID_REQUEST"},
        {"{\"conversation_id\":\"g\",\"userId\":\"bob\"}", 403, "FORBIDDEN"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct reply r = http(f->port, "POST", "/api/v1/conversations", f->alice, cases[i].body);
        if (r.status != cases[i].status || strstr(r.body.ptr, cases[i].want) == NULL)
            fail_msg("case %zu: %d %s", i, r.status, r.body.ptr);
        reply_release(&r);
    }
    struct reply r = http(f->port, "POST", "/api/v1/conversations", NULL, cases[1].body);
    assert_int_equal(r.status, 401);
    reply_release(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(routes), cmocka_unit_test(conversations),
        cmocka_unit_test(health_tells_of_refused_writes), cmocka_unit_test(tokens),
        cmocka_unit_test(a_cached_token_still_expires), cmocka_unit_test(more_tokens_than_the_cache_holds),
        cmocka_unit_test(statements), cmocka_unit_test(parameters), cmocka_unit_test(bad_bodies),
        cmocka_unit_test(headers_and_identity), cmocka_unit_test(sizes), cmocka_unit_test(pipelining),
        cmocka_unit_test(large_answers), cmocka_unit_test(a_client_that_leaves_cancels),
        cmocka_unit_test(connection_lifetimes), cmocka_unit_test(continue_is_said_when_it_is_time),
        cmocka_unit_test(bad_requests_get_an_answer_and_a_close), cmocka_unit_test(consolidation),
        cmocka_unit_test(sweeping), cmocka_unit_test(metrics), cmocka_unit_test(late_requests),
        cmocka_unit_test(connections_are_bounded), cmocka_unit_test(cors),
        cmocka_unit_test(probes_behind_a_token), cmocka_unit_test(a_taken_port_is_an_error),
        cmocka_unit_test(signals_stop_gracefully), cmocka_unit_test(the_deadline_cancels_what_hangs)};
    return cmocka_run_group_tests(tests, start, stop);
}
