/* Answers: their heads, their order, their bytes. One that is not the first of its pipeline waits in its
 * request; one whose body is a file stays the first until the last byte is queued. */
#include "net/conn.h"
#include <stdlib.h>
#include <unistd.h>

#define COPY_BYTES_MAX 16384

const uint8_t *net_request_address(const struct net_request *r)
{
    return r->conn != NULL ? r->conn->address : NULL;
}

bool net_request_secure(const struct net_request *r)
{
    return r->conn != NULL && r->conn->tls != NULL;
}

/* Is there a line of that name (lower case, with its colon)? */
static bool has_header(struct str headers, struct str name)
{
    for (size_t at = 0; at < headers.len;) {
        struct str line = str_n(headers.ptr + at, headers.len - at);
        if (line.len >= name.len && str_ieq(str_n(line.ptr, name.len), name))
            return true;
        at += str_find(line, '\n') + 1;
    }
    return false;
}

void request_head(struct net_request *r, struct buf *head, int status, struct str content_type,
    struct str headers, int64_t content_length)
{
    (void)net_now_s(r->loop); /* refreshes the date */
    buf_str(head, STR("HTTP/1.1 "));
    buf_i64(head, status);
    buf_u8(head, ' ');
    buf_str(head, str_c(http_reason(status)));
    buf_str(head, STR("\r\nDate: "));
    buf_append(head, r->loop->date, 29);
    if (content_type.ptr != NULL) {
        buf_str(head, STR("\r\nContent-Type: "));
        buf_str(head, content_type);
    }
    if (content_length >= 0) {
        buf_str(head, STR("\r\nContent-Length: "));
        buf_i64(head, content_length);
    } else if (status == 200 && r->in.minor > 0) {
        buf_str(head, STR("\r\nTransfer-Encoding: chunked"));
    }
    buf_str(head, STR("\r\nX-Content-Type-Options: nosniff\r\n"));
    if (!has_header(headers, STR("cache-control:")))
        buf_str(head, STR("Cache-Control: no-store\r\n"));
    if (!has_header(headers, STR("referrer-policy:")))
        buf_str(head, STR("Referrer-Policy: no-referrer\r\n"));
    /* Nothing that is answered here is a page: it loads nothing and is shown in no frame. */
    if (!has_header(headers, STR("content-security-policy:")))
        buf_str(head, STR("Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"));
    buf_str(head, headers);
    if (net_request_secure(r) && r->loop->net->options.hsts_max_age_s > 0)
        buf_printf(head, "Strict-Transport-Security: max-age=%d\r\n", r->loop->net->options.hsts_max_age_s);
    if (r->close_after)
        buf_str(head, STR("Connection: close\r\n"));
    else if (r->in.minor == 0)
        buf_str(head, STR("Connection: keep-alive\r\n"));
    buf_str(head, STR("\r\n"));
}

static void free_bytes(void *owner)
{
    free(owner);
}

static void emit(struct net_conn *c, struct net_request *r)
{
    size_t body = r->in.method == HTTP_M_HEAD ? 0 : r->body.len;
    if (body <= COPY_BYTES_MAX) {
        char *p = out_reserve(&c->out, r->head.len + body, false);
        if (p != NULL) {
            memcpy(p, r->head.ptr, r->head.len);
            if (body > 0)
                memcpy(p + r->head.len, r->body.ptr, body);
        }
    } else {
        out_copy(&c->out, buf_view(&r->head), false);
        out_borrow(&c->out, buf_view(&r->body), true, free_bytes, r->body.ptr);
        r->body = BUF_INIT(r->body.max_bytes);
    }
    conn_dirty(c);
}

void http_answers_advance(struct net_conn *c)
{
    struct net_request *r;
    while ((r = c->http.first) != NULL && r->answered) {
        if (!r->begun)
            emit(c, r);
        r->begun = true;
        if (r->file != NULL && !file_advance(c, r->file))
            return;
        bool close_after = r->close_after;
        c->http.first = r->next;
        if (c->http.first == NULL)
            c->http.last = NULL;
        c->http.depth--;
        c->http.pipelined_bytes -= r->in.body.len;
        request_free(r);
        conn_dirty(c);
        if (close_after) {
            conn_end(c);
            return;
        }
    }
    http_continue(c);
}

/* The handler's part is done. False: the client is gone, and so is the request. */
static bool begin_answer(struct net_request *r)
{
    struct net_conn *c = r->conn;
    r->loop->inflight--;
    count_add(&r->loop->ninflight, -1);
    if (c == NULL) {
        request_free(r);
        return false;
    }
    if (r == c->http.asked || r == c->http.incoming) { /* the rest of its body is not read */
        c->http.asked = c->http.incoming = NULL;
        c->http.paused = c->http.again = false;
        c->stop_parsing = true;
        r->in.keep_alive = false;
    }
    bool last_of_all =
        r->loop->stopping && r == c->http.last && c->http.current == NULL && c->http.carry == NULL;
    r->close_after = !r->in.keep_alive || last_of_all;
    r->answered = true;
    return true;
}

/* The head is written: the answer goes when its turn comes. */
static void end_answer(struct net_request *r)
{
    if (r->head.failed || r->body.failed) /* it is not whole: a cut connection is the honest one */
        conn_close(r->conn);
    else if (r == r->conn->http.first)
        http_answers_advance(r->conn);
}

void net_respond(struct net_request *r, int status, struct str content_type, struct str headers)
{
    if (!begin_answer(r))
        return;
    bool no_body = status == 204 || status == 304 || status < 200;
    request_head(r, &r->head, status, content_type, headers, no_body ? -1 : (int64_t)r->body.len);
    end_answer(r);
}

void net_respond_file(struct net_request *r, int status, struct str content_type, struct str headers,
    struct net_file from, uint64_t offset, uint64_t length)
{
    bool wanted = r->in.method != HTTP_M_HEAD;
    struct file_answer *file = wanted ? file_answer_new(r->loop, from, offset, length) : NULL;
    buf_clear(&r->body);
    r->body.failed = file == NULL && wanted;
    if (begin_answer(r)) {
        r->file = file;
        request_head(r, &r->head, status, content_type, headers, (int64_t)length);
        end_answer(r);
    } else {
        file_answer_free(file);
    }
    if (file == NULL) /* last: content_type may live in it */
        from.close(from.arg);
}
