/* A blocking client for the server's tests: raw bytes, HTTP answers, WebSocket frames, over loopback. */
#ifndef TEST_CLIENT_H
#define TEST_CLIENT_H

#include "base/buf.h"

struct client {
    int fd;
    struct buf in; /* received, not yet taken */
    size_t at;
};

struct client client_open(int port);
void client_close(struct client *c);
void client_send(struct client *c, const char *bytes, size_t n);
void client_puts(struct client *c, const char *text);
/* Waits up to 20 s for more bytes: false at end of input or on a reset. */
bool client_more(struct client *c);
bool client_at_end(struct client *c); /* nothing left and the peer has closed */

struct reply {
    int status; /* 0: none came */
    char *head; /* NUL-terminated, owned */
    struct buf body;
};
/* The next HTTP answer (Content-Length or chunked); `head_only` for HEAD. */
struct reply client_reply(struct client *c, bool head_only);
/* Value of a header, or NULL; valid until the next call. */
const char *reply_header(const struct reply *r, const char *name);
void reply_release(struct reply *r);
/* One request on a connection of its own. */
struct reply http(int port, const char *method, const char *target, const char *headers, const char *body);

struct frame {
    int op; /* -1: connection ended */
    bool fin;
    struct buf payload; /* NUL behind it */
    int close_code;
};
/* Handshake; the status of the answer (101). */
int ws_connect(struct client *c, int port, const char *target, const char *headers, char protocol[64]);
void ws_send(struct client *c, int op, const char *payload, size_t n);
void ws_text(struct client *c, const char *text);
struct frame ws_next(struct client *c);
/* The next text frame's bytes (answering pings, skipping server_ping) in a static buffer; NULL at the end. */
const char *ws_next_text(struct client *c);
/* Reads until the close frame: its code, or -1. */
int ws_close_code(struct client *c);

#endif
