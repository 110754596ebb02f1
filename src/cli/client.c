#include "cli/client.h"
#include <stdio.h>
#include <stdlib.h>
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
enum err client_publish(const struct config *c, int port, const uint8_t *pin, struct errctx *ec)
{
    struct str listen = str_c(c->listen), host;
    size_t colon = listen.len;
    char text[400];
    while (colon > 0 && listen.ptr[colon - 1] != ':')
        colon--;
    host = str_n(listen.ptr, colon > 0 ? colon - 1 : 0);
    if (host.len == 0 || str_eq(host, STR("0.0.0.0")) || str_eq(host, STR("*")))
        host = STR("127.0.0.1");
    else if (str_eq(host, STR("[::]")))
        host = STR("[::1]");
    int n = snprintf(text, sizeof text, "%.*s:%d\n%s", STR_FMT(host), port, pin != NULL ? "tls " : "");
    for (int i = 0; pin != NULL && i < 32 && n + 3 < (int)sizeof text; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%02x", pin[i]);
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

/* "tls " and 64 hex digits. */
static bool read_pin(struct str line, struct link_target *ret)
{
    static const char digits[] = "0123456789abcdef";
    if (line.len != 68 || !str_starts_with(line, STR("tls ")))
        return false;
    for (size_t i = 0; i < 64; i++) {
        const char *d = memchr(digits, line.ptr[4 + i], 16);
        if (d == NULL)
            return false;
        ret->pin[i / 2] = (uint8_t)(ret->pin[i / 2] << 4 | (d - digits));
    }
    ret->tls = ret->pinned = true;
    return true;
}

/* "host:port", an IPv6 host in brackets; on the next line the pin, if the server speaks TLS there. */
static bool read_address(struct str text, struct link_target *ret)
{
    size_t end = str_find(text, '\n'), colon = end;
    struct str rest = end < text.len ? str_trim(str_n(text.ptr + end + 1, text.len - end - 1)) : STR("");
    while (colon > 0 && text.ptr[colon - 1] != ':')
        colon--;
    struct str h = str_n(text.ptr, colon > 0 ? colon - 1 : 0), p = str_n(text.ptr + colon, end - colon);
    if (h.len > 2 && h.ptr[0] == '[')
        h = str_n(h.ptr + 1, h.len - 2);
    if (h.len == 0 || h.len >= sizeof ret->host || p.len == 0 || p.len >= sizeof ret->port)
        return false;
    snprintf(ret->host, sizeof ret->host, "%.*s", STR_FMT(h));
    snprintf(ret->port, sizeof ret->port, "%.*s", STR_FMT(p));
    return rest.len == 0 || read_pin(rest, ret);
}

enum err client_address(const struct config *c, struct link_target *ret, struct errctx *ec)
{
    struct buf text = BUF_INIT(1024);
    char *path = address_path(c);
    enum err e = path != NULL ? os_read_file(path, &text, ec) : err_set(ec, ERR_NO_MEMORY, "out of memory");
    free(path);
    *ret = (struct link_target){.tls = false};
    if (e == ERR_OK && !read_address(buf_view(&text), ret))
        e = ERR_NOT_FOUND;
    if (e != ERR_OK)
        err_set(ec, ERR_NOT_FOUND, "no server has left its address in %s", c->data);
    buf_release(&text);
    return e == ERR_OK ? ERR_OK : ERR_NOT_FOUND;
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

static enum err exchange(struct link *l, struct str head, struct str body, int *ret_status,
    struct buf *ret_body, struct errctx *ec)
{
    struct buf answer = BUF_INIT(ANSWER_BYTES_MAX);
    bool sent = link_send(l, head) && link_send(l, body);
    int64_t n = sent ? 1 : -1;
    while (n > 0 && !answer.failed) {
        char *at = buf_reserve(&answer, 65536);
        n = at != NULL ? link_recv(l, at, 65536) : -1;
        if (n > 0)
            answer.len += (size_t)n;
    }
    enum err e = n < 0 ? err_set(ec, ERR_UNAVAILABLE, "the connection to the server broke")
                       : parse_answer(buf_view(&answer), ret_status, ret_body, ec);
    buf_release(&answer);
    return e;
}

enum err client_request(const struct config *c, const char *method, const char *path, struct str body,
    int *ret_status, struct buf *ret_body, struct errctx *ec)
{
    struct link_target at;
    struct link *l = NULL;
    struct auth *auth = NULL;
    struct buf token = BUF_INIT(16384), head = BUF_INIT(0);
    enum err e = client_address(c, &at, ec);
    if (e == ERR_OK)
        e = cli_open_auth(c, &auth, ec);
    if (e == ERR_OK)
        e = auth_mint(
            auth, CALLER, ROLE_ADMIN, os_realtime_us(os_posix()) / 1000000, TOKEN_TTL_S, &token, ec);
    if (e == ERR_OK)
        e = link_open(&at, &l, ec);
    if (e == ERR_OK) {
        buf_printf(&head,
            "%s %s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\nContent-Type: application/json\r\n"
            "Content-Length: %zu\r\nAuthorization: Bearer %.*s\r\n\r\n",
            method, path, at.host, at.port, body.len, STR_FMT(buf_view(&token)));
        e = head.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory")
                        : exchange(l, buf_view(&head), body, ret_status, ret_body, ec);
    }
    link_close(l);
    buf_release(&token);
    buf_release(&head);
    auth_close(auth);
    return e;
}
