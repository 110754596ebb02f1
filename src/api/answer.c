/* Answers: JSON shapes of errors, CORS lines, counting. */
#include "api/audited.h"
#include "base/json.h"
#include "base/log.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#define JSON_TYPE STR("application/json")

static const int statuses[STATUS_COUNT] = {200, 101, 201, 204, 206, 304, 400, 401, 403, 404, 405, 408, 409,
    412, 413, 414, 415, 416, 417, 426, 429, 431, 500, 501, 503, 505, 499, 0};

int status_of_index(int i)
{
    return statuses[i];
}

void count_answer(struct call *c, int status)
{
    struct route_counters *rc = &c->worker->routes[c->route];
    int i = 0;
    audit_call(c, status);
    while (i < STATUS_COUNT - 1 && statuses[i] != status)
        i++;
    counter_add(&rc->by_status[i], 1);
    hist_add(&rc->latency, uv_hrtime() / 1000 - c->req->started_us);
}

bool origin_allowed(const struct server *s, struct str origin)
{
    if (s->any_origin)
        return true;
    for (int i = 0; i < s->norigins; i++) {
        if (str_ieq(s->origins[i], origin))
            return true;
    }
    return false;
}

void cors_headers(const struct call *c, struct buf *h)
{
    const struct server *s = c->worker->server;
    if (!s->origins_set)
        return;
    struct str origin = net_header(c->req, STR("origin"));
    if (!s->any_origin)
        buf_str(h, STR("Vary: Origin\r\n"));
    if (origin.ptr == NULL || origin.len > 255 || !origin_allowed(s, origin))
        return;
    buf_str(h, STR("Access-Control-Allow-Origin: "));
    buf_str(h, s->any_origin ? STR("*") : origin);
    buf_str(h,
        STR("\r\nAccess-Control-Expose-Headers: Retry-After, ETag, Content-Range, Content-Disposition\r\n"));
}

void call_release(struct call *c)
{
    principal_unref(c->who);
    c->who = NULL;
    if (c->query != NULL)
        kalamdb_query_free(c->query);
    c->query = NULL;
    if (c->result != NULL)
        kalamdb_result_free(c->result);
    c->result = NULL;
    free(c->error);
    c->error = NULL;
    free(c->erased);
    c->erased = NULL;
    free(c->backup);
    c->backup = NULL;
}

/* Head lines of an answer that ends the call. */
static void close_call(struct call *c, int status, struct str headers, struct buf *h)
{
    count_answer(c, c->abandoned ? 499 : status);
    call_release(c);
    cors_headers(c, h);
    buf_str(h, headers);
}

void answer(struct call *c, int status, struct str content_type, struct str headers)
{
    struct net_request *req = c->req;
    struct buf h = BUF_INIT(8192);
    close_call(c, status, headers, &h);
    if (h.failed)
        req->body.failed = true; /* without memory for the head there is no whole answer */
    if (c->audit.wait) {
        audit_hold(c, status, content_type, &h);
        return;
    }
    net_respond(req, status, content_type, buf_view(&h));
    buf_release(&h);
}

void answer_file(struct call *c, int status, struct str content_type, struct str headers,
    struct net_file file, uint64_t offset, uint64_t length)
{
    struct buf h = BUF_INIT(8192);
    close_call(c, status, headers, &h);
    net_respond_file(c->req, status, content_type, buf_view(&h), file, offset, length);
    buf_release(&h);
}

void answer_json(struct call *c, int status)
{
    answer(c, status, JSON_TYPE, STR(""));
}

static struct str extra_headers(int status, const char *message)
{
    if (status == 401)
        return strstr(message, "token is") != NULL
                   ? STR("WWW-Authenticate: Bearer realm=\"kalamdb\"\r\n")
                   : STR("WWW-Authenticate: Bearer realm=\"kalamdb\", error=\"invalid_token\"\r\n");
    if (status == 503 || status == 429)
        return STR("Retry-After: 1\r\n");
    return STR("");
}

static void error_open(struct buf *b, struct str code, struct str message)
{
    buf_clear(b);
    buf_str(b, STR("{\"error\":"));
    json_str(b, code);
    buf_str(b, STR(",\"message\":"));
    json_str(b, message);
}

void answer_status(struct call *c, int status, struct str code, struct str message, struct str headers)
{
    error_open(&c->req->body, code, message);
    buf_u8(&c->req->body, '}');
    answer(c, status, JSON_TYPE, headers);
}

void answer_http_failure(struct call *c, int status, const char *why)
{
    struct str code = STR("INVALID_REQUEST"), headers = STR("");
    if (status == HTTP_TIMED_OUT)
        code = STR("TIMEOUT");
    else if (status == HTTP_BODY_TOO_LARGE || status == HTTP_HEAD_TOO_LARGE || status == HTTP_URI_TOO_LONG)
        code = STR("TOO_LARGE");
    else if (status == HTTP_TOO_MANY) {
        code = STR("RATE_LIMITED");
        headers = STR("Retry-After: 1\r\n");
    } else if (status == HTTP_OVERLOADED) {
        code = STR("UNAVAILABLE");
        headers = STR("Retry-After: 1\r\n");
    }
    answer_status(c, status, code, str_c(why), headers);
}

/* Ours went wrong: the client gets a number to quote, the log gets what happened. */
static void put_incident(struct call *c, struct buf *b, const char *internal)
{
    uint64_t id;
    char text[17];
    os_posix()->random(os_posix()->ctx, &id, sizeof id);
    snprintf(text, sizeof text, "%016llx", (unsigned long long)id);
    buf_printf(b, ",\"incident\":\"%s\"", text);
    log_event(LOG_ERROR, "internal_error", "s:incident", text, "s:route", route_label(c->route), "s:cause",
        internal, NULL);
}

struct error_text {
    const char *code, *message, *detail, *hint, *internal;
    int status, position;
};

static void answer_text(struct call *c, const struct error_text *e)
{
    struct buf *b = &c->req->body;
    error_open(b, str_c(e->code), str_c(e->message));
    if (e->detail[0] != '\0') {
        buf_str(b, STR(",\"detail\":"));
        json_str(b, str_c(e->detail));
    }
    if (e->hint[0] != '\0') {
        buf_str(b, STR(",\"hint\":"));
        json_str(b, str_c(e->hint));
    }
    if (e->position > 0)
        buf_printf(b, ",\"position\":%d", e->position);
    if (e->status == 500)
        put_incident(c, b, e->internal);
    buf_u8(b, '}');
    answer(c, e->status, JSON_TYPE, extra_headers(e->status, e->message));
}

void answer_errctx(struct call *c, const struct errctx *ec)
{
    answer_text(c, &(struct error_text){err_wire(ec->code), ec->message, ec->detail, ec->hint, ec->internal,
                       err_status(ec->code), ec->position});
}

void answer_engine_error(struct call *c, const struct kalamdb_error *e)
{
    answer_text(c, &(struct error_text){kalamdb_code_name(e->code), e->message, e->detail, e->hint,
                       e->internal, kalamdb_code_status(e->code), e->position});
}

void answer_failure(struct call *c)
{
    struct kalamdb_error *e = c->error;
    c->error = NULL;
    if (e != NULL)
        answer_engine_error(c, e);
    else
        answer_error(c, ERR_INTERNAL, "internal error");
    free(e);
}

void answer_timed(struct call *c)
{
    buf_printf(&c->req->body, ",\"executionTimeMs\":%.2f}",
        ((double)uv_hrtime() / 1e3 - (double)c->req->started_us) / 1e3);
    answer_json(c, 200);
}

void answer_error(struct call *c, enum err code, const char *fmt, ...)
{
    char message[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    answer_text(c, &(struct error_text){err_wire(code), message, "", "", message, err_status(code), 0});
}
