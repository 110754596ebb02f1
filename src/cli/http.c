#include "cli/http.h"
#include "os/os.h"
#include <llhttp.h>
#include <stdio.h>

#define CHUNK_BYTES ((size_t)64 << 10)

enum err http_url(struct str url, struct link_target *ret, struct errctx *ec)
{
    bool tls = str_starts_with(url, STR("https://"));
    if (!tls && !str_starts_with(url, STR("http://")))
        return err_set(ec, ERR_INVALID_REQUEST, "--url: neither http:// nor https://: %.*s", STR_FMT(url));
    size_t scheme = tls ? 8 : 7;
    struct str s = str_n(url.ptr + scheme, url.len - scheme);
    while (s.len > 0 && s.ptr[s.len - 1] == '/')
        s.len--;
    size_t colon = s.len;
    while (colon > 0 && s.ptr[colon - 1] != ':' && s.ptr[colon - 1] != ']')
        colon--;
    bool has_port = colon > 0 && s.ptr[colon - 1] == ':';
    struct str h = has_port ? str_n(s.ptr, colon - 1) : s, p = has_port ? str_n(s.ptr + colon, s.len - colon)
                                                               : tls    ? STR("443")
                                                                        : STR("80");
    int64_t number = 0;
    if (h.len > 2 && h.ptr[0] == '[' && h.ptr[h.len - 1] == ']')
        h = str_n(h.ptr + 1, h.len - 2);
    if (h.len == 0 || h.len > 255 || str_find(h, '/') < h.len || p.len > 5 || !str_to_i64(p, &number) ||
        number < 1 || number > 65535)
        return err_set(ec, ERR_INVALID_REQUEST, "--url: not an address: %.*s", STR_FMT(url));
    snprintf(ret->host, sizeof ret->host, "%.*s", STR_FMT(h));
    snprintf(ret->port, sizeof ret->port, "%.*s", STR_FMT(p));
    ret->tls = tls;
    return ERR_OK;
}

/* An answer before the end of the body means that nobody wants the rest. */
static enum err send_body(struct link *l, int body_fd, struct errctx *ec)
{
    char chunk[CHUNK_BYTES], size[24];
    int64_t n = 1;
    while (n > 0 && !link_readable(l)) {
        n = os_read_all(body_fd, chunk, sizeof chunk);
        if (n < 0)
            return err_set(ec, ERR_IO, "reading the archive failed: %s", strerror((int)-n));
        int digits = snprintf(size, sizeof size, "%llx\r\n", (unsigned long long)n);
        if (!link_send(l, str_n(size, (size_t)digits)) || !link_send(l, str_n(chunk, (size_t)n)) ||
            !link_send(l, STR("\r\n")))
            break;
    }
    return ERR_OK;
}

/* ---- the answer ---- */

struct answer {
    llhttp_t parser;
    struct http_exchange *x;
    bool complete, stopped;
};

static int on_body(llhttp_t *parser, const char *at, size_t n)
{
    struct answer *a = parser->data;
    a->x->status = parser->status_code;
    if (parser->status_code == 200 && a->x->take != NULL) {
        a->stopped = !a->x->take(a->x->arg, str_n(at, n));
        return a->stopped ? -1 : 0;
    }
    buf_append(&a->x->answer, at, n);
    return a->x->answer.failed ? -1 : 0;
}

static int on_complete(llhttp_t *parser)
{
    struct answer *a = parser->data;
    a->x->status = parser->status_code;
    a->complete = parser->status_code >= 200; /* 100 Continue is none */
    return a->complete ? HPE_PAUSED : 0;
}

static enum err read_answer(struct link *l, struct http_exchange *x, struct errctx *ec)
{
    llhttp_settings_t settings;
    struct answer a = {.x = x};
    char chunk[CHUNK_BYTES];
    llhttp_settings_init(&settings);
    settings.on_body = on_body;
    settings.on_message_complete = on_complete;
    llhttp_init(&a.parser, HTTP_RESPONSE, &settings);
    a.parser.data = &a;
    while (!a.complete) {
        int64_t n = link_recv(l, chunk, sizeof chunk);
        if (n <= 0) {
            /* A body may end with the connection, where nothing else says how long it is. */
            if (n == 0 && llhttp_finish(&a.parser) == HPE_OK && a.complete)
                break;
            return err_set(ec, ERR_UNAVAILABLE, "the connection to the server was cut");
        }
        llhttp_errno_t e = llhttp_execute(&a.parser, chunk, (size_t)n);
        if (a.stopped)
            return err_set(ec, ERR_IO, "the answer could not be written");
        if (e != HPE_OK && !a.complete)
            return err_set(ec, ERR_UNAVAILABLE, "the server's answer is no HTTP");
    }
    return ERR_OK;
}

enum err http_run(struct http_exchange *x, struct errctx *ec)
{
    struct buf head = BUF_INIT(65536);
    struct link *l = NULL;
    bool v6 = strchr(x->at->host, ':') != NULL;
    x->answer = BUF_INIT((size_t)1 << 20);
    buf_printf(&head,
        "%s %.*s HTTP/1.1\r\nHost: %s%s%s:%s\r\nConnection: close\r\nAuthorization: Bearer %.*s\r\n%s\r\n",
        x->method, STR_FMT(x->target), v6 ? "[" : "", x->at->host, v6 ? "]" : "", x->at->port,
        STR_FMT(x->token),
        x->body_fd >= 0 ? "Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n" : "");
    enum err e = head.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : link_open(x->at, &l, ec);
    if (e == ERR_OK && link_send(l, buf_view(&head)) && x->body_fd >= 0)
        e = send_body(l, x->body_fd, ec);
    if (e == ERR_OK)
        e = read_answer(l, x, ec);
    link_close(l);
    buf_release(&head);
    return e;
}
