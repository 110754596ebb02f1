/* A subscriber with a thread of its own, over the real store: it sleeps until it is woken, so that a lost
 * wake is a test that never ends, and keeps every change it was given. */
#ifndef TESTS_LIVE_FOLLOWER_H
#define TESTS_LIVE_FOLLOWER_H

#include "live/live.h"
#include <pthread.h>

struct seen {
    enum change_op op;
    uint64_t seq;
    int64_t id;
    char content[40];
};
struct follower {
    struct live_sub *sub;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool ready, acked, resync, complete;
    uint64_t ack_seq, count, complete_seq;
    int64_t complete_last;
    struct seen *seen;
    size_t n, cap;
    char feed[64];
    unsigned conversations;
    enum err closed;
};

/* wake and arg are set here. */
void follower_start(struct follower *r, struct live *l, struct live_subscribe o);
void follower_stop(struct follower *r);
void sleep_until_woken(struct follower *r);
/* False: nothing now. */
bool take_one(struct follower *r);
void read_ack(struct follower *r);
/* Until `seq` was seen, or the replay is complete (seq 0). */
void read_to(struct follower *r, uint64_t seq);
struct live_subscribe from_seq(uint64_t seq);

#endif
