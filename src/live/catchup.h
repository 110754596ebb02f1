/* A session: what a subscription owns while it is not simply following the ring. It begins on the committer,
 * where the subscription takes its place at the ring's tail and, in the same breath, a snapshot that shows
 * everything before; it reads the changes in (from, to] out of that snapshot, and ends when they were given.
 *
 *   subscribe ─→ [barrier] ─→ RESOLVE ─→ ACK ─→ ROWS ─→ STREAMS ─→ COMPLETE ─→ CONVERSATIONS ─→ following
 *                               ↑ ↓              ↑ ↓               (of replays)   (when some     the ring
 *                              [job]            [job]                              were missed)     │
 *                                                ↑                                                  │
 *                                            [barrier] ←──────── ring lost, store reset ────────────┘
 *
 * Appends to open messages have no numbers. The rows of a session show the text as of its snapshot, and the
 * ring goes on from there; STREAMS gives the text so far of those open messages whose rows are no part of
 * this session, because the client may have missed some of it (or has just come).
 *
 * In brackets: an operation is under way on another thread and owns the session (PHASE_WAITING); else
 * live_next does. A snapshot that is held too long is taken away (catchups_reap); the session then opens
 * again from where it is, as a client would that comes back with its last _seq. */
#ifndef KALAMDB_LIVE_CATCHUP_H
#define KALAMDB_LIVE_CATCHUP_H

#include "live/feed.h"

/* One read on the calling thread, and the _seq range it may look at. */
#define HOT_ROWS 256
#define HOT_BYTES (64u << 10)
#define HOT_WINDOW 2048
/* One read by a worker. */
#define COLD_ROWS 1024
#define COLD_BYTES (256u << 10)
#define COLD_WINDOW 1024
#define COLD_TIMEOUT_MS 30000
/* Failed reads in a row before the subscription is closed; its client resumes. */
#define CATCHUP_FAILURES_MAX 5
#define CATCHUP_STALE_MAX 50 /* the same for snapshots that a reopened store made void */
/* How long a snapshot may lie unused, and be held at all. */
#define SNAPSHOT_IDLE_US (30 * INT64_C(1000000))
#define SNAPSHOT_AGE_US (300 * INT64_C(1000000))

enum catchup_step { STEP_RESOLVE, STEP_ACK, STEP_ROWS, STEP_STREAMS, STEP_COMPLETE, STEP_CONVERSATIONS };

struct catchup {
    struct barrier_op barrier;
    struct analytic_job job;
    struct analytic_cancel cancel;
    struct live_sub *sub;
    struct catchup *next, **pprev; /* l->lock: all sessions */

    pthread_mutex_t lock;        /* held while the snapshot is used; the reaper only tries */
    struct snapshot *snap;       /* lock; NULL: none, or taken away */
    struct hot_iter *iter;       /* lock: STEP_CONVERSATIONS */
    struct analytic_input input; /* lock: of snap */
    bool has_input;
    int64_t opened_us, used_us; /* lock */
    struct stream_note *notes;  /* lock: what may be open at the snapshot */
    size_t nnotes, note_at;     /* lock */

    enum catchup_step step;
    bool replay; /* counts, and says so at its end */
    bool resync;
    bool conversations; /* the subscriber missed some: give the latest state of all */
    uint64_t from;      /* what the client has: decides between insert and update */
    uint64_t to;        /* what the snapshot shows */
    uint64_t done;      /* given or passed so far */
    uint64_t cold_max;  /* up to here rows may be in files */
    uint64_t window;    /* of the next read by a worker */
    size_t rows_max;
    unsigned failures, stale;
    struct batch *batch; /* read, being given */
    uint32_t given;      /* of it */
    uint64_t count;
    int64_t last_msg_id;

    bool has_last_seq, has_last_msg_id, has_feed; /* the cursor as asked for */
    uint64_t last_seq;
    int64_t last_msg_id_asked;
    uint8_t user_len, feed_len;
    char bytes[]; /* user id, feed asked for */
};
static inline struct str catchup_user(const struct catchup *s)
{
    return str_n(s->bytes, s->user_len);
}
static inline struct str catchup_feed(const struct catchup *s)
{
    return str_n(s->bytes + s->user_len, s->feed_len);
}

enum step_result {
    CATCHUP_GIVEN, /* *ev is an event */
    CATCHUP_WAIT,  /* an operation is under way */
    CATCHUP_PAUSE, /* much was looked at, nothing found: let others run, then go on */
    CATCHUP_OVER   /* the session is gone */
};

/* Begins the subscription's first session. */
enum err catchup_begin(struct live_sub *sub, const struct live_subscribe *options) CHECKED;
/* Begins one from the subscription's position, which the ring cannot serve. */
enum err catchup_resume(struct live_sub *sub) CHECKED;
enum step_result catchup_step(struct live_sub *sub, struct live_event *ev);
void catchup_free(struct catchup *s);
/* With `lock` held. */
void catchup_drop_snapshot(struct catchup *s);
/* Takes away snapshots that were held too long; does something at most once a second. */
void catchups_reap(struct live *l);

/* Reads, in catchup_read.c. With `lock` held and a snapshot; on OK `done` has moved and `batch` holds rows or
 * is NULL. UNAVAILABLE: the snapshot is stale. */
enum err catchup_read_hot(struct catchup *s) CHECKED;
enum err catchup_read_cold(struct catchup *s) CHECKED;
/* ins_seq of the message, or of the last one before it. */
enum err catchup_find_arrival(struct catchup *s, uint64_t *ret) CHECKED;
/* The next open messages as a batch; none: all were given. */
enum err catchup_read_streams(struct catchup *s) CHECKED;
/* The next conversation rows as a batch; none: all were given. */
enum err catchup_read_conversations(struct catchup *s) CHECKED;

void sub_free(struct live_sub *sub);

#endif
