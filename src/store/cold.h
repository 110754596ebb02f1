/* The parts of consolidation that share a struct: consolidate.c (what is written), release.c (what is deleted
 * afterwards), upkeep.c (when), batch.c (one file).
 *
 * Threading: consolidator.work is held through all of one user's consolidation; no commit and no worker is
 * waited for under any other lock. */
#ifndef KALAMDB_STORE_COLD_H
#define KALAMDB_STORE_COLD_H

#include "store/internal.h"

enum {
    BATCH_ROWS_MAX = 200000, /* arrivals per consolidation; the rest follows in the next */
    MERGE_ROWS_MAX = 400000, /* of a merged file: what a worker sorts within its memory */
    MERGE_RATIO = 3,         /* a file joins while it is at most this many times what is merged so far */
    REWRITE_RATIO = 4,       /* a file is rewritten when one in so many of its rows is overlaid */
    RELEASE_CHUNK = 100,     /* rows deleted per commit, some 2 ms: the delay of a writer behind it */
    RELEASE_PAUSE_US = 4000, /* between chunks in the background */
    TAIL_CONVERSATIONS = 32, /* most recently active conversations that keep a hot tail */
    MARKS_PER_RETENTION = 16 /* seq_marks: how finely the age of tombstones is known */
};
#define BATCH_BYTES_MAX (UINT64_C(64) << 20) /* of hot rows per consolidation */
#define MERGE_BYTES_MAX (UINT64_C(64) << 20) /* of Parquet files read for one merge */
#define TAIL_AGE_US (INT64_C(7) * 24 * 3600 * 1000000)

struct due_user {
    uint64_t user_no; /* 0: empty slot */
    int64_t due_us;   /* wall clock */
};

struct consolidator {
    struct store *store;
    pthread_mutex_t work;
    struct consolidate_hook hook; /* zero: none */
    _Atomic bool stop;            /* asked to end, or "crashed" by the hook */
    _Atomic bool crashed;
    struct analytic_cancel cancel; /* of the worker that writes a file; with `stop` */
    _Atomic uint64_t consolidations, failures;
    int64_t name_s; /* second and number of the last file name given; with `work` */
    int name_no;

    pthread_t thread;
    bool running;
    pthread_mutex_t lock; /* what follows; leaf */
    pthread_cond_t wake;
    struct due_user *due; /* open addressing, power of two */
    size_t due_cap, due_count;
    uint64_t sweep_next; /* user number: thread only */
};

/* Runs the hook. UNAVAILABLE when the work is to end here. */
enum err cold_step(struct store *s, enum consolidate_step step, struct errctx *ec) CHECKED;
/* A hook that played a crash leaves the disk as it is. */
bool cold_crashed(const struct store *s);

enum consolidate_mode {
    CONSOLIDATE_DUE,    /* what the thresholds ask for; pauses between chunks */
    CONSOLIDATE_REQUEST /* everything fresh, every overlay */
};
/* consolidate.c: one user, releases included; on request until all that was fresh or overlaid when it began
 * is in files. `work` is held. */
enum err consolidate_user(
    struct store *s, uint64_t user_no, enum consolidate_mode mode, struct errctx *ec) CHECKED;
/* Rewrites the files that hold rows deleted at or before `seq`, so that their tombstones hide nothing any
 * more. */
enum err consolidate_absorb(
    struct store *s, uint64_t user_no, uint64_t seq, enum consolidate_mode mode, struct errctx *ec) CHECKED;

/* release.c: deletes hot copies that left the tail, recounts the head, clears release_pending. `work` is
 * held. */
enum err release_user(
    struct store *s, uint64_t user_no, enum consolidate_mode mode, struct errctx *ec) CHECKED;
/* forget.c: forgets tombstones older than tombstone_retention and keeps the marks that tell their age. `work`
 * is held. */
enum err release_tombstones(
    struct store *s, uint64_t user_no, enum consolidate_mode mode, struct errctx *ec) CHECKED;

/* upkeep.c: all of one user that is fresh or overlaid, and what deletions may be forgotten. `work` is held.
 */
enum err consolidate_now(struct store *s, uint64_t user_no, struct errctx *ec) CHECKED;
/* UNAVAILABLE when the work is to end. */
enum err cold_stopping(const struct store *s, struct errctx *ec) CHECKED;

/* Is it time, by these counters? *ret_due_us: when it will be; INT64_MAX: not before more rows come. */
bool consolidate_due(const struct store_config *cfg, uint64_t fresh_rows, int64_t since_us, int64_t now_us,
    int64_t *ret_due_us);

#endif
