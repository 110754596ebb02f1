#include "cli/http.h"
#include "cli/client.h"
#include "os/os.h"
#include <errno.h>
#include <llhttp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK_BYTES ((size_t)64 << 10)

enum err http_url(struct str url, char host[256], char port[8], struct errctx *ec)
{
    static const struct str scheme = {"http://", 7};
    struct str s = url;
    if (!str_starts_with(s, scheme)) {
        err_set(ec, ERR_INVALID_REQUEST, "--url: not an http:// address: %.*s", STR_FMT(url));
        err_hint(ec, "Behind TLS, use curl with the same path and a token from `kalamdb token`.");
        return ec->code;
    }
    s = str_n(s.ptr + scheme.len, s.len - scheme.len);
    while (s.len > 0 && s.ptr[s.len - 1] == '/')
        s.len--;
    size_t colon = s.len;
    while (colon > 0 && s.ptr[colon - 1] != ':' && s.ptr[colon - 1] != ']')
        colon--;
    bool has_port = colon > 0 && s.ptr[colon - 1] == ':';
    struct str h = has_port ? str_n(s.ptr, colon - 1) : s,
               p = has_port ? str_n(s.ptr + colon, s.len - colon) : STR("80");
    int64_t number = 0;
    if (h.len > 2 && h.ptr[0] == '[' && h.ptr[h.len - 1] == ']')
        h = str_n(h.ptr + 1, h.len - 2);
    if (h.len == 0 || h.len > 255 || str_find(h, '/') < h.len || p.len > 5 || !str_to_i64(p, &number) ||
        number < 1 || number > 65535)
        return err_set(ec, ERR_INVALID_REQUEST, "--url: not an address: %.*s", STR_FMT(url));
    snprintf(host, 256, "%.*s", STR_FMT(h));
    snprintf(port, 8, "%.*s", STR_FMT(p));
    return ERR_OK;
}

/* False: the other side takes nothing more; its answer may say why. */
static bool send_all(int fd, struct str bytes)
{
    while (bytes.len > 0) {
        ssize_t n = send(fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        bytes = str_n(bytes.ptr + n, bytes.len - (size_t)n);
    }
    return true;
}

/* An answer before the end of the body means that nobody wants the rest. */
static bool answered_early(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0 && p.revents != 0;
}

static enum err send_body(int fd, int body_fd, struct errctx *ec)
{
    char chunk[CHUNK_BYTES], size[24];
    int64_t n = 1;
    while (n > 0 && !answered_early(fd)) {
        n = os_read_all(body_fd, chunk, sizeof chunk);
        if (n < 0)
            return err_set(ec, ERR_IO, "reading the archive failed: %s", strerror((int)-n));
        int digits = snprintf(size, sizeof size, "%llx\r\n", (unsigned long long)n);
        if (!send_all(fd, str_n(size, (size_t)digits)) || !send_all(fd, str_n(chunk, (size_t)n)) ||
            !send_all(fd, STR("\r\n")))
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

static enum err read_answer(int fd, struct http_exchange *x, struct errctx *ec)
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
        ssize_t n = recv(fd, chunk, sizeof chunk, 0);
        if (n < 0 && errno == EINTR)
            continue;
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
    int fd = -1;
    bool v6 = strchr(x->host, ':') != NULL;
    x->answer = BUF_INIT((size_t)1 << 20);
    buf_printf(&head,
        "%s %.*s HTTP/1.1\r\nHost: %s%s%s:%s\r\nConnection: close\r\nAuthorization: Bearer %.*s\r\n%s\r\n",
        x->method, STR_FMT(x->target), v6 ? "[" : "", x->host, v6 ? "]" : "", x->port, STR_FMT(x->token),
        x->body_fd >= 0 ? "Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n" : "");
    enum err e =
        head.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : client_dial(x->host, x->port, &fd, ec);
    if (e == ERR_OK && send_all(fd, buf_view(&head)) && x->body_fd >= 0)
        e = send_body(fd, x->body_fd, ec);
    if (e == ERR_OK)
        e = read_answer(fd, x, ec);
    if (fd >= 0)
        close(fd);
    buf_release(&head);
    return e;
}
