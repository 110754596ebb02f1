/* A subscriber as an application would write it: keeps a replica by msg_id and checks, event by event, that
 * the stream makes sense (order, gaps, operations that fit what it holds). */
#ifndef TESTS_LIVE_CLIENT_H
#define TESTS_LIVE_CLIENT_H

#include "live/live.h"

struct held {
    int64_t msg_id;
    char conversation[24], content[40];
    bool there;
};
struct client {
    struct live_sub *sub;
    _Atomic int wakes;
    struct held *held; /* by msg_id - 1000 */
    size_t cap;
    const char *filter;
    uint64_t seq; /* last one seen, or where the ack began */
    bool acked, resync, replaying, closed;
    bool loose; /* a session was opened again in the middle: an update may be of an unknown row */
    enum err code;
    char feed[32];
    uint64_t ack_seq, complete_seq, complete_count;
    int64_t complete_last;
    unsigned inserts, updates, deletes, conversations, completes;
    char trace[4096]; /* "A9 i1 u2 d3 C C(…)": what came, for scripts */
    size_t trace_len;
    bool quiet; /* no trace */
};

void client_start(struct client *c, struct live *l, struct live_subscribe *o);
/* Takes at most `max` events (0: until PENDING or CLOSED); how many came. */
int client_pump(struct client *c, int max);
void client_stop(struct client *c);
/* The trace since the last call. */
const char *client_trace(struct client *c);
/* Also for listeners: one event. */
void client_event(struct client *c, const struct live_event *ev);
void client_release(struct client *c);

#endif
