/* The server's side of the zygote and its workers: who is free, who belongs to whom, who must go.
 *
 *            FORK/FORKED             take                give(reuse)
 *   zygote ─────────────▶ reserved ───────▶ busy(user) ─────────────▶ idle(user) ──▶ gone
 *                            │                ▲   │ give(discard)        │  ▲ idle_ms, evicted, server closes
 *                            │                └───┼─── take(same user) ──┘
 *                            └── zygote lost ─────┴──▶ gone
 *
 * Two workers are kept reserved, so that a take seldom waits for a fork. One keeper thread owns the zygote:
 * it starts it, asks it for forks, ends idle workers and begins again when it dies. Everything else may be
 * called from any thread; a taken worker belongs to its taker until it is given back. Killing goes by pidfd,
 * which cannot mean another process, whatever died meanwhile. */
#ifndef KALAMDB_ANALYTIC_POOL_H
#define KALAMDB_ANALYTIC_POOL_H

#include "analytic/analytic.h"

struct pool;

struct pool_worker {
    int sock; /* blocking reads and writes with channel.h */
    int pidfd;
    bool fresh; /* serves its first request */

    /* The pool's own. */
    uint32_t id;
    char *user;
    size_t user_len;
    int64_t idle_since_us;
    struct pool_worker *next;
};

/* Starts the zygote and waits until it is ready. ERR_UNAVAILABLE with `internal` saying why it is not. */
enum err pool_open(const struct analytic_config *cfg, struct pool **ret, struct errctx *ec) CHECKED;
/* A worker of this user, or one of nobody's, which is then the user's. Callers are served in the order they
 * came. ERR_TIMEOUT (deadline, or *cancelled became non-zero), ERR_UNAVAILABLE (stopped, or the zygote does
 * not start). */
enum err pool_take(struct pool *p, struct str user, int64_t deadline_us, const _Atomic int *cancelled,
    struct pool_worker **ret, struct errctx *ec) CHECKED;
enum pool_fate { POOL_REUSE, POOL_RETIRED, POOL_DIED, POOL_KILL };
void pool_give(struct pool *p, struct pool_worker *w, enum pool_fate fate);
/* From now on takes fail and running workers are dead. */
void pool_stop(struct pool *p);
/* After pool_stop; waits for takers to give back. */
void pool_close(struct pool *p);
void pool_stats(struct pool *p, struct analytic_stats *ret);

/* SIGKILL; harmless when it is already gone. */
void pool_kill_pidfd(int pidfd);

#endif
