#include "client.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

struct client client_open(int port)
{
    struct client c = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c.fd, (struct sockaddr *)&addr, sizeof addr) != 0) {
        close(c.fd);
        c.fd = -1;
    }
    return c;
}

void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    buf_release(&c->in);
}

void client_send(struct client *c, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t rc = send(c->fd, bytes, n, MSG_NOSIGNAL);
        if (rc <= 0)
            return;
        bytes += rc;
        n -= (size_t)rc;
    }
}

void client_puts(struct client *c, const char *text)
{
    client_send(c, text, strlen(text));
}

bool client_more(struct client *c)
{
    char chunk[65536];
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    if (poll(&p, 1, 20000) <= 0) {
        fprintf(stderr, "client: nothing came for 20 s\n");
        return false;
    }
    ssize_t n = recv(c->fd, chunk, sizeof chunk, 0);
    if (n <= 0)
        return false;
    if (c->at > 1u << 20) {
        memmove(c->in.ptr, c->in.ptr + c->at, c->in.len - c->at);
        c->in.len -= c->at;
        c->at = 0;
    }
    buf_append(&c->in, chunk, (size_t)n);
    return true;
}

bool client_at_end(struct client *c)
{
    return c->at == c->in.len && !client_more(c);
}

static bool have(struct client *c, size_t n)
{
    while (c->in.len - c->at < n) {
        if (!client_more(c))
            return false;
    }
    return true;
}

/* One line ending in CRLF; false at the end. */
static bool line(struct client *c, char *out, size_t cap)
{
    size_t n = 0;
    for (;;) {
        if (!have(c, 1))
            return false;
        char ch = c->in.ptr[c->at++];
        if (ch == '\n' && n > 0 && out[n - 1] == '\r') {
            out[n - 1] = '\0';
            return true;
        }
        if (n + 1 < cap)
            out[n++] = ch;
    }
}

const char *reply_header(const struct reply *r, const char *name)
{
    static char value[4096];
    size_t n = strlen(name);
    for (const char *p = r->head; p != NULL && *p != '\0'; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
        if (strncasecmp(p, name, n) == 0 && p[n] == ':') {
            snprintf(value, sizeof value, "%.*s", (int)strcspn(p + n + 2, "\n"), p + n + 2);
            return value;
        }
    }
    return NULL;
}

static bool chunked_body(struct client *c, struct buf *body)
{
    char text[64];
    for (;;) {
        if (!line(c, text, sizeof text))
            return false;
        size_t n = strtoul(text, NULL, 16);
        if (!have(c, n + 2))
            return false;
        buf_append(body, c->in.ptr + c->at, n);
        c->at += n + 2;
        if (n == 0)
            return true;
    }
}

struct reply client_reply(struct client *c, bool head_only)
{
    struct reply r = {0};
    struct buf head = {0};
    char text[8192];
    if (!line(c, text, sizeof text))
        return r;
    int status = atoi(text + 9);
    while (line(c, text, sizeof text) && text[0] != '\0')
        buf_printf(&head, "%s\n", text);
    buf_u8(&head, 0);
    r.head = head.ptr;
    const char *length = reply_header(&r, "content-length"), *coding;
    size_t n = length != NULL ? strtoul(length, NULL, 10) : 0;
    coding = reply_header(&r, "transfer-encoding");
    if (!head_only && coding != NULL && !chunked_body(c, &r.body))
        return r;
    if (!head_only && n > 0) {
        if (!have(c, n))
            return r;
        buf_append(&r.body, c->in.ptr + c->at, n);
        c->at += n;
    }
    buf_u8(&r.body, 0);
    r.body.len--;
    r.status = status;
    return r;
}

void reply_release(struct reply *r)
{
    free(r->head);
    buf_release(&r->body);
}

struct reply http(int port, const char *method, const char *target, const char *headers, const char *body)
{
    struct client c = client_open(port);
    struct buf b = {0};
    buf_printf(&b, "%s %s HTTP/1.1\r\nHost: t\r\n%s", method, target, headers != NULL ? headers : "");
    if (body != NULL)
        buf_printf(&b, "Content-Length: %zu\r\n\r\n", strlen(body));
    else
        buf_printf(&b, "\r\n");
    client_send(&c, b.ptr, b.len);
    if (body != NULL)
        client_puts(&c, body);
    buf_release(&b);
    struct reply r = client_reply(&c, strcmp(method, "HEAD") == 0);
    client_close(&c);
    return r;
}

/* ---- WebSocket
 * ---------------------------------------------------------------------------------------------------- */

int ws_connect(struct client *c, int port, const char *target, const char *headers, char protocol[64])
{
    struct buf b = {0};
    *c = client_open(port);
    buf_printf(&b,
        "GET %s HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n",
        target, headers != NULL ? headers : "");
    client_send(c, b.ptr, b.len);
    buf_release(&b);
    struct reply r = client_reply(c, false);
    int status = r.status;
    const char *accept = reply_header(&r, "sec-websocket-accept");
    if (status == 101 && (accept == NULL || strcmp(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") != 0))
        status = -1;
    const char *p = reply_header(&r, "sec-websocket-protocol");
    if (protocol != NULL)
        snprintf(protocol, 64, "%s", p != NULL ? p : "");
    reply_release(&r);
    return status;
}

void ws_send(struct client *c, int op, const char *payload, size_t n)
{
    static const uint8_t mask[4] = {0x12, 0x34, 0x56, 0x78};
    struct buf b = {0};
    buf_u8(&b, (uint8_t)(0x80 | op));
    if (n < 126) {
        buf_u8(&b, (uint8_t)(0x80 | n));
    } else if (n < 65536) {
        buf_u8(&b, 0xFE);
        buf_be16(&b, (uint16_t)n);
    } else {
        buf_u8(&b, 0xFF);
        buf_be64(&b, n);
    }
    buf_append(&b, mask, 4);
    for (size_t i = 0; i < n; i++)
        buf_u8(&b, (uint8_t)payload[i] ^ mask[i & 3]);
    client_send(c, b.ptr, b.len);
    buf_release(&b);
}

void ws_text(struct client *c, const char *text)
{
    ws_send(c, 1, text, strlen(text));
}

struct frame ws_next(struct client *c)
{
    struct frame f = {.op = -1, .close_code = -1};
    if (!have(c, 2))
        return f;
    const uint8_t *h = (const uint8_t *)c->in.ptr + c->at;
    size_t n = h[1] & 0x7F, head = n == 126 ? 4 : n == 127 ? 10 : 2;
    if (!have(c, head))
        return f;
    h = (const uint8_t *)c->in.ptr + c->at;
    if (n == 126)
        n = get_be16(h + 2);
    else if (n == 127)
        n = (size_t)get_be64(h + 2);
    int op = h[0] & 15;
    bool fin = h[0] >> 7;
    if (!have(c, head + n))
        return f;
    buf_append(&f.payload, c->in.ptr + c->at + head, n);
    buf_u8(&f.payload, 0);
    f.payload.len--;
    c->at += head + n;
    f.op = op;
    f.fin = fin;
    if (op == 8 && n >= 2)
        f.close_code = get_be16(f.payload.ptr);
    return f;
}

const char *ws_next_text(struct client *c)
{
    static char text[1 << 16];
    for (;;) {
        struct frame f = ws_next(c);
        bool wanted = f.op == 1 && strcmp(f.payload.ptr, "{\"type\":\"server_ping\"}") != 0;
        if (f.op == 9)
            ws_send(c, 10, f.payload.ptr, f.payload.len);
        if (wanted)
            snprintf(text, sizeof text, "%s", f.payload.ptr);
        bool ended = f.op == -1 || f.op == 8;
        buf_release(&f.payload);
        if (ended)
            return NULL;
        if (wanted)
            return text;
    }
}

int ws_close_code(struct client *c)
{
    for (;;) {
        struct frame f = ws_next(c);
        int op = f.op, code = f.close_code;
        buf_release(&f.payload);
        if (op == -1)
            return -1;
        if (op == 8)
            return code;
    }
}
