/* A live client: one WebSocket or one event stream, its subscriptions, and what flows to it. One loop's
 * thread, but for subscription wake-ups.
 *
 * A subscription with something to deliver stands in the session's ready queue. `session_pump` serves the
 * queue in turns of TURN_EVENTS, until it is empty, or the connection's queue has reached
 * max_socket_buffer_bytes (then `drained` goes on), or its share of this loop iteration is used (then a task
 * of its own goes on). */
#ifndef KALAMDB_API_SESSION_H
#define KALAMDB_API_SESSION_H

#include "api/server.h"

enum { WS_CODE_AUTH = 4401, WS_CODE_SLOW = 4408, WS_CODE_LIMITED = 4429 };

struct session;

struct subscription {
    struct net_task task;
    _Atomic bool posted;     /* task is in the loop's queue */
    struct session *session; /* NULL: gone; freed when the task has run */
    struct net_loop *loop;
    struct kalamdb_subscription *engine;
    struct subscription *next, *ready_next;
    bool ready, live_only; /* live_only: no replay was asked for */
    uint16_t id_len;       /* of text: the id as JSON */
    char sub_id[17];       /* hex */
    char text[];           /* id as JSON, then conversation id as JSON (or null) */
};

struct session {
    struct net_task task;
    struct net_conn *conn; /* NULL: closed; freed when nothing is posted */
    struct worker *worker;
    struct session *next, **pprev; /* of the worker, while it is not discarded */
    struct principal *who;         /* NULL: not yet authenticated */
    struct subscription *subs, *ready_first, *ready_last;
    uint64_t next_ping_ms, auth_due_ms, timer_ms;
    uint32_t nsubs;
    struct session_signals *signals;   /* NULL: there was none yet */
    struct session_producer *producer; /* NULL: nothing was streamed yet */
    bool events;                       /* Server-Sent Events; else WebSocket */
    bool task_posted, pumping, counted;
    uint8_t offences; /* messages over the rate, in a row */
};

struct subscribe_request {
    struct str id;              /* ptr NULL: none given */
    struct str user_id;         /* ptr NULL: the caller's */
    struct str conversation_id; /* ptr NULL: all */
    struct str feed;
    bool has_last_seq, has_last_msg_id;
    uint64_t last_seq;
    int64_t last_msg_id;
};

/* `who` is taken. NULL: out of memory. */
struct session *session_new(struct worker *w, struct principal *who, bool events);
/* The connection is there: timers run from now on. */
void session_start(struct session *s, struct net_conn *conn);
/* For a session that never got a connection. */
void session_discard(struct session *s);
extern const struct net_stream_ops session_ops;

/* Checks and registers; the ack comes by the pump. The error's code is the engine's. */
enum err session_subscribe(struct session *s, const struct subscribe_request *r, struct errctx *ec) CHECKED;
/* By the JSON text of the id. */
struct subscription *session_find(struct session *s, struct str id_json);
void session_unsubscribe(struct session *s, struct subscription *sub);
void session_pump(struct session *s);
/* The first time that the signal comes to this connection? One that cannot be told from another is lost, as
 * signals may be. */
bool session_signal_is_new(struct session *s, uint64_t seq);
/* A whole message that is no event (pong, error …). */
void session_send(struct session *s, struct str json);
void session_set_timer(struct session *s);

/* limits.c. A message came: is it within the rates? PACE_CLOSED: no, and once too often. */
enum session_pace { PACE_FINE, PACE_TOO_FAST, PACE_CLOSED };
enum session_pace session_pace(struct session *s);
/* A bad token came. True: once too often from this address, the session was closed. */
bool session_limited_failure(struct session *s, const uint8_t *address);
/* Among the connections of its user. False: there are as many as may be. */
bool session_enter(struct session *s);
void session_leave(struct session *s);

/* messages.c: a text message from a WebSocket client. */
void session_text(struct session *s, struct str text);

#endif
