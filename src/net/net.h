/* Event loops, HTTP/1.1 and WebSocket connections: bytes and connection lifetimes, no routes and no JSON.
 *
 * Threading: one thread per loop; everything about a connection, its requests and its stream happens on its
 * loop's thread. Other threads reach a loop through net_post only.
 *
 * Lifetimes: a request belongs to the handler from `request` (or `failed`, or net_request_stream) until it
 * calls exactly one of net_respond, net_respond_file, net_stream_websocket, net_stream_chunked and
 * net_stream_answer, also after `aborted`. A stream belongs to its connection; its owner is told `closed`
 * exactly once, after which it must not touch the connection. */
#ifndef KALAMDB_NET_NET_H
#define KALAMDB_NET_NET_H

#include "base/arena.h"
#include "base/err.h"
#include "net/http.h"
#include "net/limit.h"
#include "net/tls.h"
#include "net/ws.h"

struct net;
struct net_loop;
struct net_conn;

struct net_options {
    struct str listen; /* host:port, [v6]:port, :port */
    int loops;         /* 0: one per core */
    size_t max_body_bytes;
    size_t max_connections;
    uint32_t max_connections_per_address; /* 0: as many as there are */
    size_t max_frame_bytes;
    size_t max_socket_buffer_bytes;
    int header_timeout_ms, idle_timeout_ms, shutdown_timeout_ms;
    /* With a certificate: `tls_listen` speaks TLS and `listen` does not; where it is empty, `listen` does. */
    struct tls_options tls;
    struct str tls_listen;
    int tls_handshake_timeout_ms;
    size_t max_tls_handshakes; /* under way */
    int tls_check_ms;          /* how often the files are looked at; 0: never */
    int hsts_max_age_s;        /* Strict-Transport-Security on answers under TLS; 0: none */
};

/* ---- requests
 * ------------------------------------------------------------------------------------------------- */

struct net_request {
    struct net_conn *conn; /* NULL: the client is gone */
    struct net_loop *loop;
    struct net_request *next; /* net's own: pipeline, pool */
    struct http_message in;
    struct arena arena; /* lives until the answer */
    struct buf body;    /* the answer's body is built here */
    void *user;         /* the handler's; NULL at first */
    uint64_t started_us;
    int failed_status; /* != 0: what `failed` was told, or why a streamed body was aborted */
    const char *failed_why;
    /* net's own: an answer that waits for the ones before it, a body that comes in pieces */
    struct buf head;
    size_t counted; /* body bytes in the loop's budget */
    const struct net_body_ops *body_ops;
    void *body_arg;
    struct file_answer *file;
    bool answered, begun, close_after;
};

struct net_handler {
    void *arg;
    /* The head of a request with a body is complete; NULL: nobody wants to know. Before it returns it may
     * take the body as it comes (net_request_stream), or answer at once (the body is not read, the connection
     * closed after the answer); if it does neither, the body is collected up to max_body_bytes and `request`
     * called with it. req->user is kept. */
    void (*head)(void *arg, struct net_request *req);
    /* A whole request. */
    void (*request)(void *arg, struct net_request *req);
    /* A request that is none, or is too large or late: answer it; the connection is closed after. */
    void (*failed)(void *arg, struct net_request *req, enum http_failure failure, const char *why);
    /* The client went away before the answer. */
    void (*aborted)(void *arg, struct net_request *req);
    /* SIGHUP came (net_run with `signals`). On the first loop's thread; NULL: the signal is ignored. */
    void (*reload)(void *arg);
    /* The certificate's files are not those that were read. As `reload`. */
    void (*certificate_changed)(void *arg);
    /* For each loop, on the caller's thread: in net_run before it serves, in net_close. Kept for
     * net_loop_user; NULL: out of memory. */
    void *(*loop_start)(void *arg, struct net_loop *loop);
    void (*loop_stop)(void *arg, struct net_loop *loop, void *user);
};

/* Answers with req->body. `headers` are whole lines ending in CRLF beyond Content-Type, Content-Length, Date,
 * Connection and the fixed security headers; content_type ptr NULL: none (204). The request is gone after. */
void net_respond(struct net_request *req, int status, struct str content_type, struct str headers);
/* An open file: read by its descriptor, or where that is -1 by `read`, which may wait for the disk and is
 * called on a thread of the pool, one call at a time: bytes from the offset on, fewer at the end only;
 * negative: it cannot be read. `close` ends either; on any thread. */
struct net_file {
    int fd;
    int64_t (*read)(void *arg, uint64_t at, void *p, size_t n);
    void (*close)(void *arg);
    void *arg;
};
/* Answers with bytes of an open file, which is net's from here on and read in pieces at the pace of the
 * client; nothing of it for HEAD. A file that ends early or cannot be read cuts the connection. `headers` as
 * in net_respond; a Cache-Control among them replaces the usual one. */
void net_respond_file(struct net_request *req, int status, struct str content_type, struct str headers,
    struct net_file file, uint64_t offset, uint64_t length);
static inline struct str net_header(const struct net_request *req, struct str lower_name)
{
    return http_message_header(&req->in, lower_name);
}

/* ---- bodies as they come
 * --------------------------------------------------------------------------------------------------- */

struct net_body_ops {
    void (*data)(void *arg, struct str bytes); /* the bytes live until it returns */
    void (*end)(void *arg);                    /* all of it came */
    /* It will not come whole. req->conn is NULL when the client is gone, else req->failed_status (408, 413,
     * 400) and failed_why say what to answer. */
    void (*aborted)(void *arg);
};
/* From inside of `head`: the body goes to ops, then one of `end` and `aborted` is called. False: more than
 * max_bytes are announced; nothing was taken, answer it (413). The request may be answered before the end:
 * no more of the ops is called then, and the connection is closed after the answer. A client that sends
 * slower than 1 KiB/s, or nothing for idle_timeout_ms, is aborted; while paused that clock stands.
 *
 * Answered by net_stream_chunked before the end, body and answer flow at the same time: the request stays
 * valid until `end` or `aborted` has returned or the stream's `closed` is called (after which no body op
 * comes), and time is the stream owner's matter (ops->timer, net_stream_last_input). */
bool net_request_stream(
    struct net_request *req, const struct net_body_ops *ops, void *arg, uint64_t max_bytes) CHECKED;
/* Backpressure: no `data` and no `end` until resumed, also from inside of `data`. */
void net_body_pause(struct net_request *req);
void net_body_resume(struct net_request *req);

/* ---- streams: WebSocket and chunked answers
 * --------------------------------------------------------------------- */

struct net_stream_ops {
    void (*text)(void *arg, struct str text); /* WebSocket: a message came */
    void (*drained)(void *arg); /* few bytes wait now, after net_stream_pending had reached the cap */
    void (*timer)(void *arg, uint64_t now_ms); /* not for net_stream_answer */
    void (*closed)(void *arg);
};

/* NULL when the request is a handshake that can be taken, else what is wrong with it and the status to
 * answer. */
const char *net_websocket_refusal(const struct net_request *req, int *ret_status);
/* Answers 101; only from inside `request`, after net_websocket_refusal gave NULL. `protocol` ptr NULL: none.
 * NULL when the client is gone. */
struct net_conn *net_stream_websocket(struct net_request *req, struct str protocol, struct str headers,
    const struct net_stream_ops *ops, void *arg);
/* May this request be answered by a stream (no answers wait before it)? */
bool net_stream_possible(const struct net_request *req);
/* Answers 200 with a body without end (chunked, or until close in HTTP/1.0). NULL when the client is gone. */
struct net_conn *net_stream_chunked(struct net_request *req, struct str content_type, struct str headers,
    const struct net_stream_ops *ops, void *arg);
/* As net_stream_chunked, for an answer that has an end, such as a download that is made while it is sent: a
 * shutdown waits for it as for any request, a client that takes nothing for idle_timeout_ms is cut off, and
 * net_stream_close says that it is complete, net_stream_abort that it is not. `length` < 0: not known. Send
 * while net_stream_pending is below max_socket_buffer_bytes, then wait for `drained`. */
struct net_conn *net_stream_answer(struct net_request *req, struct str content_type, struct str headers,
    int64_t length, const struct net_stream_ops *ops, void *arg);
/* Cuts the connection, so that nobody takes what was sent for the whole. `closed` is called before this
 * returns. */
void net_stream_abort(struct net_conn *c);
size_t net_stream_room(
    const struct net_conn *c); /* bytes until max_socket_buffer_bytes wait; 0: it is full */
/* One message: a text frame or a chunk. It is queued; the socket is written when control returns to the loop.
 */
void net_stream_send(struct net_conn *c, struct str text);
/* prefix + shared + suffix as one message; release(owner) when `shared` is no longer needed (at once for
 * small ones, which are copied). */
void net_stream_send_shared(struct net_conn *c, struct str prefix, struct str shared, struct str suffix,
    void (*release)(void *owner), void *owner);
void net_stream_ping(struct net_conn *c); /* RFC 6455 ping; nothing on chunked streams */
/* Ends the stream: a close frame with the code after what waits (with `drop`: instead of what has not begun
 * to be sent), or the last chunk. `closed` is called before this returns. */
void net_stream_close(struct net_conn *c, int ws_code, struct str reason, bool drop);
/* The other end's IP address as text; "" when there is none any more (c NULL: likewise). */
#define NET_ADDRESS_BYTES 46
void net_address(const struct net_conn *c, char ret[NET_ADDRESS_BYTES]);
size_t net_stream_pending(const struct net_conn *c);
/* Has the socket taken nothing since this time, with something waiting? 0: no. */
uint64_t net_stream_stalled_since(struct net_conn *c);
uint64_t net_stream_last_input(const struct net_conn *c);
/* One timer per stream; calls ops->timer once at or a little after due_ms. */
void net_stream_set_timer(struct net_conn *c, uint64_t due_ms);
struct net_loop *net_stream_loop(const struct net_conn *c);

/* ---- loops
 * ------------------------------------------------------------------------------------------------------ */

struct net_task {
    struct net_task *next;
    void (*run)(struct net_task *task); /* on the loop's thread; may free the task */
};
/* Any thread. A task may be posted again once it runs. */
void net_post(struct net_loop *loop, struct net_task *task);
/* Work that would keep a loop's connections waiting: `work` runs on a thread of a small pool, then `done` on
 * the loop's. Only from the loop's thread. False: it could not be handed over; nothing will be called. */
struct net_job {
    void (*work)(struct net_job *job);
    void (*done)(struct net_job *job);
};
bool net_offload(struct net_loop *loop, struct net_job *job);
uint64_t net_now_ms(const struct net_loop *loop); /* monotonic; advances once per loop iteration */
int64_t net_now_s(struct net_loop *loop);         /* wall clock */
void *net_loop_user(const struct net_loop *loop);
struct net *net_loop_net(const struct net_loop *loop);

struct net_stats {
    uint64_t connections, websockets, chunked, accepted_total, refused_total, bytes_in_total, bytes_out_total;
    uint64_t requests_in_flight;
    /* handshakes done and not; connections cut without close_notify */
    uint64_t tls_handshakes_total, tls_failed_total, tls_truncated_total;
};

/* Binds. INVALID_REQUEST for an address that cannot be had. The handler must outlive the net. */
enum err net_open(const struct net_options *options, const struct net_handler *handler, struct net **ret,
    struct errctx *ec) CHECKED;
int net_port(const struct net *n);
int net_tls_port(const struct net *n); /* 0: no TLS; net_port's: nothing is plain */
/* Reads the certificate's files again, for connections from now on. On an error (INVALID_REQUEST, an
 * operator's message) the old one stays. From `reload` or `certificate_changed`. */
enum err net_tls_reload(struct net *n, struct errctx *ec) CHECKED;
/* Any thread. False: no TLS. */
bool net_tls_certificate(struct net *n, uint8_t ret_pin[32], int64_t *ret_expires_s);
/* Whence it came, as limits count it; NULL: the client is gone. */
const uint8_t *net_request_address(const struct net_request *req);
const uint8_t *net_stream_address(const struct net_conn *c);
bool net_request_secure(const struct net_request *req); /* did it come under TLS? */
/* Serves until net_stop; with `signals`, SIGTERM and SIGINT stop it too, and SIGHUP is handler->reload. */
enum err net_run(struct net *n, bool signals, struct errctx *ec) CHECKED;
void net_stop(struct net *n); /* any thread; a second call ends at once */
bool net_stopping(const struct net *n);
/* Calls fn for each loop's user pointer, from any thread, while running. */
void net_each_loop(struct net *n, void (*fn)(void *arg, void *loop_user), void *arg);
void net_stats(const struct net *n, struct net_stats *ret);
/* False: work at the handler never reported back and may still do so, so nothing was freed. */
bool net_close(struct net *n);

#endif
