/* Content, tickets and media over real sockets: paths, conditions, ranges, multipart, and uploads that end in
 * every way. */
#include "fixture.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static struct fixture *f;

static int start(void **state)
{
    (void)state;
    static const char *const flags[] = {
        "--max-body-bytes", "2000", "--max-media-bytes", "100000", "--max-content-bytes", "1000", NULL};
    f = fixture_start(flags);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    fixture_stop(f);
    return 0;
}

static void expect(struct reply r, int status, const char *body)
{
    if (r.status != status || (body != NULL && strstr(r.body.ptr != NULL ? r.body.ptr : "", body) == NULL))
        fail_msg("%d %s\n%.*s", r.status, r.head, (int)r.body.len, r.body.ptr);
    reply_release(&r);
}

static struct reply get(const char *target, const char *more)
{
    char headers[2048];
    snprintf(headers, sizeof headers, "%s%s", f->alice, more);
    return http(f->port, "GET", target, headers, NULL);
}

#define TEXT "/api/v1/content/user%3Aalice/msg-1.bin"
#define IMAGE "/api/v1/content/alice/media-2.png"
#define TAG0 "\"0000000000000000000000000000000000000000000000000000000000000000\""

static void assert_header(const struct reply *r, const char *name, const char *want)
{
    const char *got = reply_header(r, name);
    if (want == NULL)
        assert_null(got);
    else if (got == NULL || strcmp(got, want) != 0)
        fail_msg("%s: %s instead of %s", name, got != NULL ? got : "nothing", want);
}

static void content_is_served(void **state)
{
    (void)state;
    struct reply r = get(TEXT, "");
    assert_int_equal(r.status, 200);
    assert_header(&r, "Content-Type", "text/plain; charset=utf-8");
    assert_header(&r, "Content-Length", "10");
    assert_header(&r, "ETag", TAG0);
    assert_header(&r, "Accept-Ranges", "bytes");
    assert_header(&r, "Cache-Control", "private, max-age=300, immutable");
    assert_header(&r, "Vary", "Authorization");
    assert_header(&r, "X-Content-Type-Options", "nosniff");
    assert_header(&r, "Content-Disposition", "attachment; filename=\"msg-1.bin\"");
    assert_true(strncmp(reply_header(&r, "Content-Security-Policy"), "sandbox; default-src 'none'", 27) == 0);
    expect(r, 200, "0123456789");
    r = get(IMAGE, "");
    assert_header(&r, "Content-Type", "image/png");
    assert_header(&r, "Content-Disposition", NULL);
    assert_true(strncmp(reply_header(&r, "Content-Security-Policy"), "sandbox", 7) == 0);
    expect(r, 200, "PNG");
    /* encoded once more, wholly or in parts */
    expect(get("/api/v1/content/user%253Aalice/msg-1.bin", ""), 200, "0123456789");
    expect(get("/api/v1/content/user%253Aalice%2Fmsg-1.bin", ""), 200, "0123456789");
    expect(get("/api/v1/content/alice%2fmedia-2.png", ""), 200, "PNG");
    /* another ref, and nobody's: the same answer */
    expect(get("/api/v1/content/user:alice/msg-1.bin", ""), 404, "no such content");
    expect(get("/api/v1/content/alice/../alice/media-2.png", ""), 404, "no such content");
    expect(get("/api/v1/content/", ""), 404, "no such path");
    char *bob = fixture_token(f, "bob", ROLE_USER, 60), line[2048];
    snprintf(line, sizeof line, "Authorization: Bearer %s\r\n", bob);
    expect(http(f->port, "GET", IMAGE, line, NULL), 404, "no such content");
    free(bob);
    expect(http(f->port, "GET", IMAGE, f->service, NULL), 200, "PNG");
    expect(http(f->port, "GET", IMAGE, "", NULL), 401, "a bearer token is required");
    expect(http(f->port, "POST", IMAGE, f->alice, ""), 405, NULL);
    struct client c = client_open(f->port);
    char request[2048];
    snprintf(request, sizeof request,
        "HEAD %s HTTP/1.1\r\nHost: h\r\n%sRange: bytes=1-2\r\n\r\nGET %s HTTP/1.1\r\nHost: h\r\n%s\r\n", TEXT,
        f->alice, IMAGE, f->alice);
    client_puts(&c, request);
    r = client_reply(&c, true);
    assert_header(&r, "Content-Length", "10");
    expect(r, 200, NULL);
    expect(client_reply(&c, false), 200, "PNG");
    client_close(&c);
}

static void ranges_and_conditions(void **state)
{
    (void)state;
    struct reply r = get(TEXT, "Range: bytes=2-4\r\n");
    assert_header(&r, "Content-Range", "bytes 2-4/10");
    assert_header(&r, "Content-Length", "3");
    assert_int_equal(r.body.len, 3);
    expect(r, 206, "234");
    r = get(TEXT, "Range: bytes=-3\r\n");
    assert_header(&r, "Content-Range", "bytes 7-9/10");
    expect(r, 206, "789");
    r = get(TEXT, "Range: bytes=10-\r\n");
    assert_header(&r, "Content-Range", "bytes */10");
    assert_header(&r, "Content-Type", "application/json");
    expect(r, 416, "beyond the end");
    expect(get(TEXT, "Range: bytes=0-1,3-4\r\n"), 200, "0123456789");
    expect(get(TEXT, "Range: bytes=0-1\r\nIf-Range: " TAG0 "\r\n"), 206, "01");
    expect(get(TEXT, "Range: bytes=0-1\r\nIf-Range: \"x\"\r\n"), 200, "0123456789");
    r = get(TEXT, "If-None-Match: " TAG0 "\r\n");
    assert_header(&r, "ETag", TAG0);
    assert_header(&r, "Content-Length", NULL);
    assert_header(&r, "Cache-Control", "private, max-age=300, immutable");
    assert_int_equal(r.body.len, 0);
    expect(r, 304, NULL);
    expect(get(TEXT, "If-Match: \"x\"\r\n"), 412, "If-Match");
    expect(get(TEXT, "If-Match: " TAG0 "\r\n"), 200, NULL);
}

static void field(struct reply *r, const char *name, char ret[1024])
{
    char key[64];
    snprintf(key, sizeof key, "\"%s\":\"", name);
    const char *at = strstr(r->body.ptr, key);
    assert_non_null(at);
    at += strlen(key);
    snprintf(ret, 1024, "%.*s", (int)strcspn(at, "\""), at);
}

static void tickets(void **state)
{
    (void)state;
    char url[1024], ticket[1024], expires[1024], target[2048];
    struct reply r =
        http(f->port, "POST", "/api/v1/tickets", f->alice, "{\"content_ref\":\"user%3Aalice/msg-1.bin\"}");
    assert_int_equal(r.status, 200);
    field(&r, "url", url);
    field(&r, "ticket", ticket);
    field(&r, "expires_at", expires);
    assert_int_equal(strlen(expires), strlen("2026-01-01T00:00:00.000000Z"));
    reply_release(&r);
    assert_true(strncmp(url, TEXT "?ticket=", strlen(TEXT "?ticket=")) == 0);
    expect(http(f->port, "GET", url, "Range: bytes=0-0\r\n", NULL), 206, "0");
    snprintf(target, sizeof target, "/api/v1/content/user%%253Aalice/msg-1.bin?a=b&ticket=%s", ticket);
    expect(http(f->port, "GET", target, "", NULL), 200, "0123456789");
    snprintf(target, sizeof target, "%s?ticket=%s", IMAGE, ticket); /* of another file */
    expect(http(f->port, "GET", target, "", NULL), 401, "invalid ticket");
    snprintf(target, sizeof target, "%s?ticket=%.*s", TEXT, (int)strlen(ticket) - 1, ticket);
    expect(http(f->port, "GET", target, "", NULL), 401, "invalid ticket");
    expect(http(f->port, "GET", TEXT "?ticket=", "", NULL), 401, "invalid ticket");
    /* a token goes before a ticket; a ticket is no token; nor does it open another path */
    expect(get(TEXT "?ticket=x", ""), 200, NULL);
    snprintf(target, sizeof target, "Authorization: Bearer %s\r\n", ticket);
    expect(http(f->port, "GET", TEXT, target, NULL), 401, "invalid token");
    snprintf(target, sizeof target, "/api/v1/events?ticket=%s", ticket);
    expect(http(f->port, "GET", target, "", NULL), 401, "a bearer token is required");
    struct errctx ec;
    struct buf old = {0};
    struct identity alice = {.expires_s = os_realtime_us(os_posix()) / 1000000 - 1, .user_id_len = 5};
    memcpy(alice.user_id, "alice", 5);
    assert_int_equal(auth_ticket_mint(f->auth, &alice, STR("user%3Aalice/msg-1.bin"), &old, &ec), ERR_OK);
    snprintf(target, sizeof target, "%s?ticket=%.*s", TEXT, (int)old.len, old.ptr);
    expect(http(f->port, "GET", target, "", NULL), 401, "ticket expired");
    buf_release(&old);
    expect(http(f->port, "POST", "/api/v1/tickets", f->alice, "{\"content_ref\":\"x/y\"}"), 404,
        "no such content");
    expect(http(f->port, "POST", "/api/v1/tickets", f->alice, "{}"), 400, "content_ref is missing");
    expect(http(f->port, "POST", "/api/v1/tickets", f->alice, "{\"content_ref\":1}"), 400, "a string");
    expect(http(f->port, "POST", "/api/v1/tickets", f->alice, "[]"), 400, "a JSON object");
    expect(http(f->port, "POST", "/api/v1/tickets", "", "{}"), 401, NULL);
}

/* ---- media
 * ------------------------------------------------------------------------------------------------------ */

#define D "--x\r\nContent-Disposition: form-data; name="
#define FILE_PART(bytes) D "file; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n" bytes "\r\n"
#define CONVERSATION D "conversation_id\r\n\r\nc1\r\n"
#define TYPE "Content-Type: multipart/form-data; boundary=x\r\n"

static struct reply upload(const char *target, const char *who, const char *type, const char *body)
{
    char headers[2048];
    snprintf(headers, sizeof headers, "%s%s", who, type);
    return http(f->port, "POST", target, headers, body);
}

static void media(void **state)
{
    (void)state;
    char ref[1024], target[2048];
    static const char *const good[] = {FILE_PART("0123456789abcdef") CONVERSATION D
        "content\r\n\r\ncap\r\n" D "metadata\r\n\r\n{}\r\n--x--",
        D "metadata\r\n\r\n{}\r\n" D
          "content\r\n\r\ncap\r\n" CONVERSATION FILE_PART("0123456789abcdef") "--x--\r\n"};
    for (int i = 0; i < 2; i++) {
        struct reply r = upload("/api/v1/media", f->alice, TYPE, good[i]);
        assert_int_equal(r.status, 200);
        assert_non_null(strstr(r.body.ptr, "{\"msg_id\":4503599627370497,\"conversation_id\":\"c1\","));
        assert_non_null(strstr(
            r.body.ptr, "\"content_type\":\"application/octet-stream\",\"size\":16,\"sha256\":\"0000000"));
        assert_non_null(strstr(r.body.ptr, "\"width\":3,\"height\":2,\"rowsAffected\":1}"));
        field(&r, "content_ref", ref);
        reply_release(&r);
        snprintf(target, sizeof target, "/api/v1/content/%s", ref);
        expect(get(target, ""), 200, "0123456789abcdef");
    }
    expect(upload("/api/v1/media?user=carol", f->service, TYPE, good[0]), 200, "\"carol/media-");
    expect(upload("/api/v1/media?user=carol", f->alice, TYPE, good[0]), 403, "user is not the token's user");
    expect(upload("/api/v1/media", f->alice, TYPE, FILE_PART("x") D "conversation_id\r\n\r\nsecret\r\n--x--"),
        403, "no member");
    assert_int_equal(fake_uploads(), 0);
}

static void media_refused(void **state)
{
    (void)state;
    static const struct {
        const char *type, *body, *why;
        int status;
    } bad[] = {
        {"Content-Type: application/json\r\n", "{}", "must be multipart/form-data", 400},
        {"", "--x--", "must be multipart/form-data", 400},
        {TYPE, "", "the body is empty", 400},
        {TYPE, "--x--", "\\\"file\\\" is missing", 400},
        {TYPE, CONVERSATION "--x--", "\\\"file\\\" is missing", 400},
        {TYPE, FILE_PART("1") "--x--", "conversation_id is missing", 400},
        {TYPE, FILE_PART("1") CONVERSATION, "before its closing boundary", 400},
        {TYPE, FILE_PART("1") CONVERSATION "--x\r\nX: y\r\n\r\n", "no Content-Disposition", 400},
        {TYPE, FILE_PART("1") FILE_PART("2") "--x--", "one file a request", 400},
        {TYPE, FILE_PART("1") CONVERSATION CONVERSATION "--x--", "a field is given twice", 400},
        {TYPE, FILE_PART("1") D "other\r\n\r\n1\r\n--x--", "unknown field", 400},
        {TYPE, FILE_PART("1") D "content\r\n\r\n\xff\r\n--x--", "not UTF-8", 400},
        {TYPE "X-Durability: maybe\r\n", FILE_PART("1") CONVERSATION "--x--", "X-Durability", 400},
        {TYPE "Content-Length: 9999999\r\n", NULL, "over max_media_bytes", 413},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect(upload("/api/v1/media", f->alice, bad[i].type, bad[i].body), bad[i].status, bad[i].why);
    expect(upload("/api/v1/media", "", TYPE, FILE_PART("1") CONVERSATION "--x--"), 401, "bearer token");
    expect(upload("/api/v1/media", f->expired, TYPE, FILE_PART("1") CONVERSATION "--x--"), 401, "expired");
    char *large = malloc(200000), *body = malloc(300000);
    memset(large, 'y', 150000);
    large[150000] = '\0';
    snprintf(body, 300000, D "file\r\n\r\n%s\r\n--x--", large);
    expect(upload("/api/v1/media", f->alice, TYPE, body), 413, "over max_media_bytes");
    large[1001] = '\0';
    snprintf(body, 300000, FILE_PART("1") D "content\r\n\r\n%s\r\n--x--", large);
    expect(upload("/api/v1/media", f->alice, TYPE, body), 413, "max_content_bytes");
    free(large);
    free(body);
    for (int i = 0; i < 500 && fake_uploads() != 0; i++)
        usleep(10000);
    assert_int_equal(fake_uploads(), 0);
}

/* The client leaves after each byte: no upload is left behind, and none is finished. */
static void media_interrupted(void **state)
{
    (void)state;
    static const char body[] = FILE_PART("0123") CONVERSATION "--x--";
    char head[2048];
    snprintf(head, sizeof head,
        "POST /api/v1/media HTTP/1.1\r\nHost: h\r\n%s" TYPE "Content-Length: %zu\r\n\r\n", f->alice,
        sizeof body - 1);
    for (size_t n = 0; n < sizeof body - 1; n++) {
        struct client c = client_open(f->port);
        client_puts(&c, head);
        client_send(&c, body, n);
        client_close(&c);
    }
    struct client c = client_open(f->port);
    client_puts(&c, head);
    client_send(&c, body, 120);
    for (int i = 0; i < 500 && fake_uploads() != 1; i++)
        usleep(10000);
    assert_int_equal(fake_uploads(), 1);
    client_close(&c);
    for (int i = 0; i < 500 && fake_uploads() != 0; i++)
        usleep(10000);
    assert_int_equal(fake_uploads(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(content_is_served),
        cmocka_unit_test(ranges_and_conditions), cmocka_unit_test(tickets), cmocka_unit_test(media),
        cmocka_unit_test(media_refused), cmocka_unit_test(media_interrupted)};
    return cmocka_run_group_tests(tests, start, stop);
}
