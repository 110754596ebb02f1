#include "cli/client.h"
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define CALLER STR("kalamdb-cli")
#define TOKEN_TTL_S 60
#define ANSWER_BYTES_MAX ((size_t)16 << 20)

static char *address_path(const struct config *c)
{
    char *path;
    return asprintf(&path, "%s/.kalamdb/address", c->data) < 0 ? NULL : path;
}

/* host:port of what `listen` says, for somebody on this machine. */
enum err client_publish(const struct config *c, int port, struct errctx *ec)
{
    struct str listen = str_c(c->listen), host;
    size_t colon = listen.len;
    char text[300];
    while (colon > 0 && listen.ptr[colon - 1] != ':')
        colon--;
    host = str_n(listen.ptr, colon > 0 ? colon - 1 : 0);
    if (host.len == 0 || str_eq(host, STR("0.0.0.0")) || str_eq(host, STR("*")))
        host = STR("127.0.0.1");
    else if (str_eq(host, STR("[::]")))
        host = STR("[::1]");
    int n = snprintf(text, sizeof text, "%.*s:%d\n", STR_FMT(host), port);
    char *path = n < (int)sizeof text ? address_path(c) : NULL;
    enum err e = path != NULL ? os_write_file(os_posix(), path, str_n(text, (size_t)n), 0600, ec)
                              : err_set(ec, ERR_NO_MEMORY, "out of memory");
    free(path);
    return e;
}

void client_unpublish(const struct config *c)
{
    char *path = address_path(c);
    if (path != NULL)
        (void)unlink(path); /* one left behind is only asked when somebody holds the lock */
    free(path);
}

/* "host:port" of the file, cut in two; an IPv6 host without its brackets. */
enum err client_address(const struct config *c, char host[256], char port[8], struct errctx *ec)
{
    struct buf text = BUF_INIT(512);
    char *path = address_path(c);
    enum err e = path != NULL ? os_read_file(path, &text, ec) : err_set(ec, ERR_NO_MEMORY, "out of memory");
    free(path);
    struct str s = str_trim(buf_view(&text));
    size_t colon = s.len;
    while (colon > 0 && s.ptr[colon - 1] != ':')
        colon--;
    struct str h = str_n(s.ptr, colon > 0 ? colon - 1 : 0), p = str_n(s.ptr + colon, s.len - colon);
    if (h.len > 2 && h.ptr[0] == '[')
        h = str_n(h.ptr + 1, h.len - 2);
    if (e == ERR_OK && (h.len == 0 || h.len > 255 || p.len == 0 || p.len >= 8))
        e = ERR_NOT_FOUND;
    if (e == ERR_OK) {
        snprintf(host, 256, "%.*s", STR_FMT(h));
        snprintf(port, 8, "%.*s", STR_FMT(p));
    } else {
        err_set(ec, ERR_NOT_FOUND, "no server has left its address in %s", c->data);
    }
    buf_release(&text);
    return ec->code == ERR_NOT_FOUND ? ERR_NOT_FOUND : e;
}

enum err client_dial(const char *host, const char *port, int *ret, struct errctx *ec)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    int rc = getaddrinfo(host, port, &hints, &found), fd = -1;
    if (rc != 0)
        return err_set(ec, ERR_UNAVAILABLE, "cannot find %s: %s", host, gai_strerror(rc));
    for (struct addrinfo *a = found; a != NULL && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
            int error = errno;
            close(fd);
            fd = -1;
            errno = error;
        }
    }
    int error = errno;
    freeaddrinfo(found);
    if (fd < 0)
        return err_set(
            ec, ERR_UNAVAILABLE, "the server at %s port %s does not answer: %s", host, port, strerror(error));
    *ret = fd;
    return ERR_OK;
}

/* "HTTP/1.1 200 OK", headers, body until the end of the connection. */
static enum err parse_answer(struct str text, int *ret_status, struct buf *ret_body, struct errctx *ec)
{
    int64_t status = 0;
    const char *end = text.ptr != NULL ? memmem(text.ptr, text.len, "\r\n\r\n", 4) : NULL;
    bool ok = end != NULL && text.len > 12 && memcmp(text.ptr, "HTTP/1.1 ", 9) == 0 &&
              str_to_i64(str_n(text.ptr + 9, 3), &status);
    if (!ok)
        return err_set(ec, ERR_UNAVAILABLE, "the server ended the connection without an answer");
    size_t at = (size_t)(end - text.ptr) + 4;
    buf_append(ret_body, text.ptr + at, text.len - at);
    *ret_status = (int)status;
    return ret_body->failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
}

static enum err exchange(
    int fd, struct str head, struct str body, int *ret_status, struct buf *ret_body, struct errctx *ec)
{
    struct buf answer = BUF_INIT(ANSWER_BYTES_MAX);
    int rc = os_write_all(fd, head.ptr, head.len);
    if (rc == 0 && body.len > 0)
        rc = os_write_all(fd, body.ptr, body.len);
    ssize_t n = rc == 0 ? 1 : 0;
    while (n > 0 && !answer.failed) {
        char *at = buf_reserve(&answer, 65536);
        do
            n = at != NULL ? read(fd, at, 65536) : 0;
        while (n < 0 && errno == EINTR);
        if (n > 0)
            answer.len += (size_t)n;
    }
    enum err e = rc < 0 || n < 0 ? err_set(ec, ERR_UNAVAILABLE, "the connection to the server broke: %s",
                                       strerror(rc < 0 ? -rc : errno))
                                 : parse_answer(buf_view(&answer), ret_status, ret_body, ec);
    buf_release(&answer);
    return e;
}

enum err client_request(const struct config *c, const char *method, const char *path, struct str body,
    int *ret_status, struct buf *ret_body, struct errctx *ec)
{
    char host[256], port[8];
    int fd = -1;
    struct auth *auth = NULL;
    struct buf token = BUF_INIT(16384), head = BUF_INIT(0);
    enum err e = client_address(c, host, port, ec);
    if (e == ERR_OK)
        e = cli_open_auth(c, &auth, ec);
    if (e == ERR_OK)
        e = auth_mint(
            auth, CALLER, ROLE_ADMIN, os_realtime_us(os_posix()) / 1000000, TOKEN_TTL_S, &token, ec);
    if (e == ERR_OK)
        e = client_dial(host, port, &fd, ec);
    if (e == ERR_OK) {
        buf_printf(&head,
            "%s %s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\nContent-Type: application/json\r\n"
            "Content-Length: %zu\r\nAuthorization: Bearer %.*s\r\n\r\n",
            method, path, host, port, body.len, STR_FMT(buf_view(&token)));
        e = head.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory")
                        : exchange(fd, buf_view(&head), body, ret_status, ret_body, ec);
    }
    if (fd >= 0)
        close(fd);
    buf_release(&token);
    buf_release(&head);
    auth_close(auth);
    return e;
}
