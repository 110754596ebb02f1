/* Event loops, HTTP/1.1 and WebSocket connections: bytes and connection lifetimes, no routes and no JSON.
 *
 * Threading: one thread per loop; everything about a connection, its requests and its stream happens on its
 * loop's thread. Other threads reach a loop through net_post only.
 *
 * Lifetimes: a request belongs to the handler from `request` (or `failed`) until it calls exactly one of
 * net_respond, net_stream_websocket and net_stream_chunked, also after `aborted`. A stream belongs to its
 * connection; its owner is told `closed` exactly once, after which it must not touch the connection. */
#ifndef KALAMDB_NET_NET_H
#define KALAMDB_NET_NET_H

#include "base/arena.h"
#include "base/err.h"
#include "net/http.h"
#include "net/ws.h"

struct net;
struct net_loop;
struct net_conn;

struct net_options {
    struct str listen; /* host:port, [v6]:port, :port */
    int loops;         /* 0: one per core */
    size_t max_body_bytes;
    size_t max_connections;
    size_t max_frame_bytes;
    size_t max_socket_buffer_bytes;
    int header_timeout_ms, idle_timeout_ms, shutdown_timeout_ms;
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
    int failed_status; /* != 0: what `failed` was told */
    /* net's own: an answer that waits for the ones before it */
    struct buf head;
    size_t counted; /* body bytes in the loop's budget */
    bool answered, close_after;
};

struct net_handler {
    void *arg;
    /* A whole request. */
    void (*request)(void *arg, struct net_request *req);
    /* A request that is none, or is too large or late: answer it; the connection is closed after. */
    void (*failed)(void *arg, struct net_request *req, enum http_failure failure, const char *why);
    /* The client went away before the answer. */
    void (*aborted)(void *arg, struct net_request *req);
    /* For each loop, on the caller's thread: in net_run before it serves, in net_close. Kept for
     * net_loop_user; NULL: out of memory. */
    void *(*loop_start)(void *arg, struct net_loop *loop);
    void (*loop_stop)(void *arg, struct net_loop *loop, void *user);
};

/* Answers with req->body. `headers` are whole lines ending in CRLF beyond Content-Type, Content-Length, Date,
 * Connection and the fixed security headers; content_type ptr NULL: none (204). The request is gone after. */
void net_respond(struct net_request *req, int status, struct str content_type, struct str headers);
static inline struct str net_header(const struct net_request *req, struct str lower_name)
{
    return http_message_header(&req->in, lower_name);
}

/* ---- streams: WebSocket and chunked answers
 * --------------------------------------------------------------------- */

struct net_stream_ops {
    void (*text)(void *arg, struct str text); /* WebSocket: a message came */
    void (*drained)(void *arg); /* few bytes wait now, after net_stream_pending had reached the cap */
    void (*timer)(void *arg, uint64_t now_ms);
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
};

/* Binds. INVALID_REQUEST for an address that cannot be had. The handler must outlive the net. */
enum err net_open(const struct net_options *options, const struct net_handler *handler, struct net **ret,
    struct errctx *ec) CHECKED;
int net_port(const struct net *n);
/* Serves until net_stop; with `signals`, SIGTERM and SIGINT stop it too. */
enum err net_run(struct net *n, bool signals, struct errctx *ec) CHECKED;
void net_stop(struct net *n); /* any thread; a second call ends at once */
bool net_stopping(const struct net *n);
/* Calls fn for each loop's user pointer, from any thread, while running. */
void net_each_loop(struct net *n, void (*fn)(void *arg, void *loop_user), void *arg);
void net_stats(const struct net *n, struct net_stats *ret);
/* False: work at the handler never reported back and may still do so, so nothing was freed. */
bool net_close(struct net *n);

#endif
