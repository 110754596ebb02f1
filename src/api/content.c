/* GET /api/v1/content/<content_ref>: a file for whoever holds a row that names it; POST /api/v1/tickets: the
 * same for those that cannot send a header, such as <img>.
 *
 * A ref holds percent-encoded names and is compared as it stands. A path may carry it as it stands, or
 * encoded once more, as a client's URL library may insist on. */
#include "api/json_in.h"
#include "api/server.h"
#include "base/json.h"
#include "base/log.h"
#include "base/timefmt.h"
#include "net/range.h"
#include <stdio.h>
#include <stdlib.h>

#define TICKET_S 300

struct refs {
    struct str raw, decoded; /* ptr NULL: not another one */
};

/* The path's end before decoding, where the path is written plainly so far. */
static struct refs refs_of(struct call *c)
{
    static const struct str prefix = {"/api/v1/content/", 16};
    struct str target = http_message_target(&c->req->in), decoded = route_rest(c->route, c->path);
    target.len = str_find(target, '?');
    if (!str_starts_with(target, prefix))
        return (struct refs){decoded, STR_NULL};
    struct str raw = str_n(target.ptr + prefix.len, target.len - prefix.len);
    return (struct refs){raw, str_eq(raw, decoded) ? STR_NULL : decoded};
}

/* By token, or else by ticket. False: it is answered. */
static bool identify_reader(struct call *c, const struct refs *refs)
{
    struct errctx ec = {0};
    struct str ticket;
    if (!query_param(&c->req->arena, c->query_string, STR("ticket"), &ticket)) {
        answer_error(c, ERR_INVALID_REQUEST, "malformed query string");
        return false;
    }
    if (ticket.ptr == NULL || bearer_token(c->req).ptr != NULL)
        return authenticate(c);
    enum err e = identify_ticket(c->worker, ticket, refs->raw, &c->who, &ec);
    if (e == ERR_UNAUTHENTICATED && refs->decoded.ptr != NULL && strstr(ec.message, "expired") == NULL)
        e = identify_ticket(c->worker, ticket, refs->decoded, &c->who, &ec);
    if (e != ERR_OK && (e != ERR_UNAUTHENTICATED || !limited_failure(c)))
        answer_errctx(c, &ec);
    return e == ERR_OK && !limited_user(c);
}

/* What is not there and what is not one's own are answered alike. */
static bool open_content(struct call *c, struct str ref, struct kalamdb_content *ret, kalamdb_code *ret_code)
{
    struct kalamdb_error e = {0};
    *ret_code = kalamdb_content_open(c->worker->server->db, principal_caller(c->who), kstr(ref), ret, &e);
    if (*ret_code == KALAMDB_OK)
        return true;
    if (*ret_code != (kalamdb_code)ERR_NOT_FOUND)
        answer_engine_error(c, &e);
    return false;
}

/* Shown in place by browsers without running anything of it. */
static bool is_inert(struct str type)
{
    static const struct str images[] = {{"image/png", 9}, {"image/jpeg", 10}, {"image/gif", 9},
        {"image/webp", 10}, {"image/avif", 10}, {"image/bmp", 9}};
    for (size_t i = 0; i < sizeof images / sizeof *images; i++) {
        if (str_eq(type, images[i]))
            return true;
    }
    return str_starts_with(type, STR("audio/")) || str_starts_with(type, STR("video/"));
}

static void put_headers(struct buf *h, struct str ref, const struct kalamdb_content *content, struct str etag)
{
    size_t slash = ref.len;
    while (slash > 0 && ref.ptr[slash - 1] != '/')
        slash--;
    buf_str(h, STR("ETag: "));
    buf_str(h, etag);
    /* Under its name a file never changes, but may go: a cache keeps it as long as a ticket lives. Another
     * caller of the same browser may not read it. */
    buf_printf(h, "\r\nCache-Control: private, max-age=%d, immutable\r\nVary: Authorization\r\n", TICKET_S);
    buf_str(
        h, STR("Accept-Ranges: bytes\r\nReferrer-Policy: no-referrer\r\nContent-Security-Policy: sandbox; "
               "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'\r\n"));
    if (!is_inert(str_c(content->content_type))) /* refs are plain ASCII without quotes */
        buf_printf(h, "Content-Disposition: attachment; filename=\"%.*s\"\r\n", (int)(ref.len - slash),
            ref.ptr + slash);
}

/* ---- an answer out of a file, on any thread ---- */

struct sending {
    struct kalamdb_content content;
    size_t len;
    char ref[];
};

static int64_t sending_read(void *arg, uint64_t at, void *p, size_t n)
{
    struct sending *s = arg;
    struct kalamdb_error error = {0};
    size_t got = 0;
    if (kalamdb_content_read(&s->content, at, p, n, &got, &error) == KALAMDB_OK)
        return (int64_t)got;
    log_event(LOG_ERROR, "content_unreadable", "s:error", err_wire((enum err)error.code), "s:ref", s->ref,
        "i:at", (long long)at, NULL);
    return -1;
}

static void sending_close(void *arg)
{
    struct sending *s = arg;
    kalamdb_content_close(&s->content);
    free(s);
}

/* Takes the content over. */
static void send_file(struct call *c, struct str ref, const struct kalamdb_content *content,
    struct str headers, const struct range_answer *a)
{
    struct sending *s = malloc(sizeof *s + ref.len + 1);
    struct kalamdb_content own = *content;
    if (s == NULL) {
        kalamdb_content_close(&own);
        answer_error(c, ERR_NO_MEMORY, "out of memory");
        return;
    }
    s->content = own;
    s->len = ref.len;
    memcpy(s->ref, ref.ptr, ref.len);
    s->ref[ref.len] = '\0';
    answer_file(c, a->status, str_c(s->content.content_type), headers,
        (struct net_file){s->content.fd, sending_read, sending_close, s}, a->offset, a->length);
}

static void send_content(struct call *c, struct str ref, struct kalamdb_content *content)
{
    char etag[sizeof content->sha256 + 2];
    struct buf h = BUF_INIT(8192);
    const struct net_request *req = c->req;
    struct range_request r = {net_header(req, STR("if-match")), net_header(req, STR("if-none-match")),
        net_header(req, STR("if-range")), net_header(req, STR("range"))};
    if (req->in.method == HTTP_M_HEAD)
        r.range = STR_NULL; /* RFC 9110, 14.2: of GET only */
    snprintf(etag, sizeof etag, "\"%s\"", content->sha256);
    struct range_answer a = range_decide(&r, str_c(etag), content->size);
    put_headers(&h, ref, content, str_c(etag));
    if (a.status == 206)
        buf_printf(&h, "Content-Range: bytes %llu-%llu/%llu\r\n", (unsigned long long)a.offset,
            (unsigned long long)(a.offset + a.length - 1), (unsigned long long)content->size);
    if (a.status == 200 || a.status == 206) {
        send_file(c, ref, content, buf_view(&h), &a);
        buf_release(&h);
        return;
    }
    uint64_t size = content->size; /* closing clears it */
    kalamdb_content_close(content);
    if (a.status == 304) {
        answer(c, 304, STR_NULL, buf_view(&h));
    } else if (a.status == 412) {
        answer_status(c, 412, STR("INVALID_REQUEST"), STR("If-Match names another content"), STR(""));
    } else {
        buf_clear(&h);
        buf_printf(&h, "Content-Range: bytes */%llu\r\n", (unsigned long long)size);
        answer_status(c, 416, STR("INVALID_REQUEST"), STR("the range is beyond the end"), buf_view(&h));
    }
    buf_release(&h);
}

void serve_content(struct call *c)
{
    struct refs refs = refs_of(c);
    struct kalamdb_content content;
    kalamdb_code code;
    if (!identify_reader(c, &refs))
        return;
    if (open_content(c, refs.raw, &content, &code)) {
        send_content(c, refs.raw, &content);
        return;
    }
    if (code != (kalamdb_code)ERR_NOT_FOUND)
        return;
    if (refs.decoded.ptr != NULL && open_content(c, refs.decoded, &content, &code)) {
        send_content(c, refs.decoded, &content);
        return;
    }
    if (code == (kalamdb_code)ERR_NOT_FOUND)
        answer_error(c, ERR_NOT_FOUND, "no such content");
}

/* ---- tickets
 * ------------------------------------------------------------------------------------------------------- */

/* {"content_ref": "…"}. NULL, or what is wrong. */
static const char *read_ref(struct str text, struct arena *arena, struct str *ret_ref)
{
    if (!utf8_valid(text))
        return "the body is not UTF-8";
    struct json_in in = json_in(text, arena);
    struct json_item item;
    struct str key;
    if (!json_in_object(&in))
        return text.len == 0 ? "the body is empty" : "the body must be a JSON object";
    while (json_in_member(&in, &key) && json_in_value(&in, &item)) {
        if (!str_eq(key, STR("content_ref")))
            continue;
        if (item.kind != JSON_IS_STRING)
            return "content_ref must be a string";
        *ret_ref = item.s;
    }
    if (in.why == NULL && json_in_end(&in) && ret_ref->ptr == NULL)
        return "content_ref is missing";
    return in.why;
}

static void answer_ticket(struct call *c, struct str ref)
{
    struct errctx ec = {0};
    struct buf ticket = BUF_INIT(4096), *b = &c->req->body;
    struct identity who = {.role = c->who->role,
        .expires_s = net_now_s(c->worker->loop) + TICKET_S,
        .issued_s = c->who->issued_s,
        .key_id = c->who->key_id,
        .user_id_len = c->who->user_id_len,
        .jti_len = c->who->jti_len};
    memcpy(who.user_id, c->who->user_id, who.user_id_len);
    memcpy(who.jti, principal_jti(c->who).ptr != NULL ? principal_jti(c->who).ptr : "", who.jti_len);
    int64_t token_ends = c->who->expires_s + c->worker->server->cfg->jwt_leeway_s;
    if (who.expires_s > token_ends) /* it is no way to stay longer */
        who.expires_s = token_ends;
    if (auth_ticket_mint(c->worker->server->auth, &who, ref, &ticket, &ec) != ERR_OK) {
        buf_release(&ticket);
        answer_errctx(c, &ec);
        return;
    }
    buf_str(b, STR("{\"ticket\":"));
    json_str(b, buf_view(&ticket));
    buf_str(b, STR(",\"expires_at\":\""));
    time_format(b, who.expires_s * 1000000);
    buf_str(b, STR("\",\"url\":\"/api/v1/content/")); /* refs and tickets hold nothing to escape */
    buf_str(b, ref);
    buf_str(b, STR("?ticket="));
    buf_str(b, buf_view(&ticket));
    buf_str(b, STR("\"}"));
    buf_release(&ticket);
    answer_json(c, 200);
}

void serve_tickets(struct call *c)
{
    struct str ref = STR_NULL;
    struct kalamdb_content content;
    kalamdb_code code;
    const char *why = read_ref(buf_view(&c->req->in.body), &c->req->arena, &ref);
    if (why != NULL) {
        answer_error(c, ERR_INVALID_REQUEST, "%s", why);
    } else if (open_content(c, ref, &content, &code)) {
        kalamdb_content_close(&content);
        answer_ticket(c, ref);
    } else if (code == (kalamdb_code)ERR_NOT_FOUND) {
        answer_error(c, ERR_NOT_FOUND, "no such content");
    }
}
