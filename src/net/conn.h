/* Inside of net: connections and loops, shared by its files. See net.h for the rules.
 *
 *   HANDSHAKE  TLS, on a listener that speaks it; else a connection begins in HTTP
 *    ▼
 *   HTTP ──101──▶ WEBSOCKET ─┐
 *    │ └──200 chunked──▶ CHUNKED
 *    │                  │    │
 *    └──────┬───────────┴────┘
 *           ▼ last answer or close frame queued
 *        ENDING   out queue drains; a websocket waits for the peer's close frame; under TLS close_notify goes
 * last ▼ LINGER   our direction is shut; input is read and dropped, so that no reset destroys what we sent ▼
 * end of input, or deadline CLOSED   uv_close under way; memory goes with its callback
 */
#ifndef KALAMDB_NET_CONN_H
#define KALAMDB_NET_CONN_H

#include "net/net.h"
#include "net/out.h"
#include "net/tls.h"
#include "net/wheel.h"
#include <limits.h>
#include <stdatomic.h>
#include <uv.h>

#define READ_BUFFER_BYTES 65536
#define PIPELINE_MAX 32
#define PARSERS_MAX 64 /* kept for reuse, per loop */
#define LINGER_MS 2000
#define WS_CLOSE_WAIT_MS 2000
#define SLOW_CLOSE_WAIT_MS 60000 /* how long a slow reader may take to find its close frame */
#define LINGER_TOTAL_MS 30000
#define ENDING_STALL_MS 10000
#define BODY_BYTES_PER_S_MIN 16384
#define STREAMED_BYTES_PER_S_MIN 1024 /* of a body that is handed out: it costs little to wait for */
#define PIPELINE_BYTES_MAX (1u << 20)
#define BODY_BYTES_TOTAL_MAX ((size_t)512 << 20) /* over all loops; beyond it bodies are refused with 503 */
#define REFUSALS_MAX 256 /* connections over max_connections that still get an answer */

enum conn_state {
    CONN_HANDSHAKE,
    CONN_HTTP,
    CONN_WEBSOCKET,
    CONN_CHUNKED,
    CONN_ENDING,
    CONN_LINGER,
    CONN_CLOSED
};

struct net_conn {
    uv_tcp_t tcp; /* tcp.data: this */
    struct wheel_entry timer;
    struct net_conn *prev, *next; /* of the loop */
    struct net_conn *dirty_next;
    uint8_t address[LIMIT_KEY_BYTES];
    bool counted; /* at its address */
    struct out out;
    struct tls *tls;                              /* NULL: plain */
    struct buf sealed;                            /* TLS: ciphertext that `write` is sending */
    struct net_conn *shaking_prev, *shaking_next; /* CONN_HANDSHAKE: of the loop, oldest first */
    uv_write_t *write;                            /* under way */
    uint64_t last_input_ms, last_progress_ms, ending_ms;
    size_t kernel_left; /* of `write`, when last looked at */
    uint8_t state;      /* enum conn_state */
    bool dirty, reading, was_full, stop_parsing, websocket, close_frame_seen, close_frame_sent, raw,
        slow_close, eof, shaking, step_waits; /* raw: no chunk framing */
    struct {
        struct http_parser *parser; /* NULL between requests */
        struct net_request *current, *first, *last;
        struct net_request *asked; /* in the pipeline: its head is before the handler */
        struct net_request
            *incoming; /* its body is handed out; in the pipeline, or (CONN_CHUNKED) on its own */
        char *carry;   /* bytes read, not yet parsed */
        size_t carry_len;
        uint64_t began_ms; /* first byte of `current`, or of the body of `incoming` */
        uint64_t paused_ms;
        size_t pipelined_bytes;
        uint32_t depth;
        bool paused; /* `incoming` takes no more for now */
        bool again;  /* the parser has more to say even without bytes */
    } http;
    struct { /* CONN_WEBSOCKET, CONN_CHUNKED; the decoder until the end */
        struct ws_decoder decoder;
        const struct net_stream_ops *ops;
        void *arg;
        uint64_t left; /* of an announced length */
        bool sized;    /* the length was announced */
        bool finite;   /* net_stream_answer */
    } stream;
};

struct net_loop {
    uv_loop_t uv;
    uv_async_t async;
    uv_timer_t timer;
    uv_tcp_t listener, tls_listener; /* one of them may be closed */
    uv_prepare_t prepare;
    struct net_conn *shaking, *shaking_last;
    size_t nshaking;
    int steps; /* of handshakes that may still be taken in this turn */
    bool steps_wait;
    char *plain; /* TLS_RECORD_BYTES: what is decrypted, or gathered to be encrypted */
    uv_signal_t sigterm, sigint, sighup;
    _Atomic(struct net_task *) queue;
    struct wheel wheel;
    struct net_conn *conns, *dirty;
    struct net_request *pool;
    struct http_parser *parsers[PARSERS_MAX];
    int nparsers;
    size_t pooled;
    size_t inflight;   /* requests at the handler */
    size_t body_bytes; /* of requests not yet answered */
    char *read_buffer;
    char date[30];
    int64_t date_s;
    bool timer_on, listening, tls_listening, stopping, accept_due, tls_accept_due, initialised;
    uint64_t stop_deadline_ms;
    struct net *net;
    void *user;
    uv_thread_t thread;
    /* read by other threads */
    _Atomic uint64_t nconns, nws, nchunked, accepted, refused, bytes_in, bytes_out, ninflight, shaken,
        shake_failed, truncated;
};

struct net {
    struct net_options options;
    char listen[300], tls_listen[300];
    const struct net_handler *handler;
    struct net_loop *loops;
    int nloops;
    int port, tls_port; /* tls_port 0: nothing speaks TLS; both the same: nothing speaks plain */
    char certificate_file[PATH_MAX], key_file[PATH_MAX], client_ca_file[PATH_MAX];
    struct limit_count *per_address; /* NULL: no limit */
    uv_mutex_t tls_lock;
    struct tls_context *tls; /* the current one, under tls_lock */
    struct tls_watch *watch; /* of the first loop */
    _Atomic int stops;
    _Atomic uint64_t connections;
    int *sockets, *tls_sockets;
    _Atomic bool abandoned;
};

/* counters are written by their loop only */
static inline void count_add(_Atomic uint64_t *c, int64_t by)
{
    atomic_store_explicit(
        c, atomic_load_explicit(c, memory_order_relaxed) + (uint64_t)by, memory_order_relaxed);
}

/* listen.c: bound, listening sockets, one per loop. */
enum err listen_sockets(const char *address, int n, int *ret_fds, int *ret_port, struct errctx *ec) CHECKED;

/* conn.c */
void conn_accept(struct net_loop *loop, bool tls);
void conn_dirty(struct net_conn *c); /* write what is queued when control returns to the loop */
void conn_flush_dirty(struct net_loop *loop);
void conn_close(struct net_conn *c); /* now */
void conn_end(struct net_conn *c);   /* when the queue is empty */
void conn_set_reading(struct net_conn *c, bool on);
void conn_timer_fired(struct net_conn *c, uint64_t now_ms);
void conn_arm(struct net_conn *c, uint64_t due_ms);

/* Bytes that are not with the kernel yet. Before encryption and after they differ a little in number. */
static inline size_t conn_pending(const struct net_conn *c)
{
    return c->out.bytes + (c->tls != NULL ? tls_output(c->tls)->len + c->sealed.len : 0);
}
void conn_input(struct net_conn *c, char *data, size_t n); /* plaintext */
void conn_end_of_input(struct net_conn *c, bool orderly);

/* secure.c: connections under TLS, the certificate */
enum err secure_open(struct net *n, struct errctx *ec) CHECKED;
enum err secure_watch(struct net *n, struct errctx *ec) CHECKED; /* the files, on the first loop */
void secure_release(struct net *n);
/* The connection is new: it waits for a handshake. False: out of memory. */
bool secure_begin(struct net_conn *c) CHECKED;
void secure_forget(struct net_conn *c); /* no longer among those that shake hands */
void secure_input(struct net_conn *c, struct str bytes);
void secure_more(struct net_conn *c); /* what had to wait in secure_input */
/* Encrypts some of what waits into tls_output. False: broken. */
bool secure_seal(struct net_conn *c);
void secure_turn(struct net_loop *loop); /* once per turn of the loop */

/* serve.c: the HTTP state */
void http_conn_input(struct net_conn *c, const char *data, size_t n);
void http_conn_resume(struct net_conn *c); /* after a flush: send more of a file, parse what had to wait */
void http_continue(struct net_conn *c);    /* 100, where one is due */
void http_parser_put(struct net_conn *c);
void http_conn_refuse(struct net_conn *c, enum http_failure failure, const char *why);
void http_conn_release(struct net_conn *c); /* aborts its requests */
uint64_t http_conn_deadline(const struct net_conn *c);
void http_conn_expired(struct net_conn *c);
void http_conn_shutdown(struct net_conn *c);
void request_free(struct net_request *req);
void request_head(struct net_request *req, struct buf *head, int status, struct str content_type,
    struct str headers, int64_t content_length);

/* answer.c: what is sent back */
void http_answers_advance(struct net_conn *c); /* sends the answers that are due, in order */

/* body.c: a body that is handed out */
void body_piece(struct net_conn *c, struct str bytes);
void body_end(struct net_conn *c);
void body_fail(struct net_conn *c, enum http_failure failure, const char *why);
void body_forget(struct net_conn *c); /* CONN_CHUNKED ends: nobody is told */
uint64_t body_deadline(const struct net_conn *c);

/* file.c: answers out of files */
struct file_answer *file_answer_new(
    struct net_loop *loop, struct net_file file, uint64_t offset, uint64_t length);
void file_answer_free(struct file_answer *f); /* NULL allowed; a read under way ends first */
/* Queues what there is room for. True: all of it is queued. False: more will be; or the connection was
 * closed. */
bool file_advance(struct net_conn *c, struct file_answer *f);

/* stream.c: the stream states */
void stream_input(struct net_conn *c, char *data, size_t n);
void stream_release(struct net_conn *c); /* tells `closed` */
void stream_expired(struct net_conn *c, uint64_t now_ms);

#endif
