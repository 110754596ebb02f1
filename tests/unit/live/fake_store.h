/* A small store in memory behind the functions of store.h and analytic.h that live uses, so that a test can
 * write every interleaving as a script: barriers and jobs wait until the test runs them, commits happen when
 * the test says.
 *
 * Rows carry their history; a snapshot is a copy. "Cold" rows are seen by the fake worker only, as in the
 * real store. The threaded mode runs barriers and jobs on threads of their own, for the races that scripts
 * cannot show. */
#ifndef TESTS_FAKE_STORE_H
#define TESTS_FAKE_STORE_H

#include "store/store.h"

struct fake_row {
    int64_t msg_id;
    char conversation[24], content[40];
    uint64_t seq, ins_seq;
    bool deleted, cold;
};
struct fake_user {
    char id[24], feed[24];
    uint64_t no, seq, cold_max, forgotten;
    struct fake_row *rows; /* by msg_id */
    size_t nrows, cap;
    bool with_conversations; /* SCAN_TABLE yields the conversations of its rows */
};

struct store *fake_open(bool threaded);
void fake_close(struct store *s);
struct analytic *fake_analytic(struct store *s);

/* Each is a commit of its own, published at once, unless fake_group_begin was called: then fake_group_end
 * commits. */
int64_t fake_insert(struct store *s, const char *user, const char *conversation);
void fake_update(struct store *s, const char *user, int64_t msg_id);
void fake_delete(struct store *s, const char *user, int64_t msg_id);
void fake_announce(struct store *s, const char *user, const char *conversation);
void fake_group_begin(struct store *s);
void fake_group_end(struct store *s);
/* A commit that is stored and never published: its outcome was unknown. */
void fake_silent(struct store *s, bool on);

void fake_consolidate(struct store *s, const char *user);
void fake_forget(struct store *s, const char *user, uint64_t seq);
void fake_new_history(struct store *s, const char *user, const char *feed);
/* Snapshots taken before are stale from now on; the listener hears of it. */
void fake_reset(struct store *s);
/* The next n reads, of either tier, fail so. */
void fake_fail_reads(struct store *s, int n, enum err e);
/* Barriers get this error until ERR_OK is set. */
void fake_fail_barriers(struct store *s, enum err e);

/* Run what is queued; number run. */
int fake_run_barriers(struct store *s);
int fake_run_jobs(struct store *s);
int fake_open_snapshots(struct store *s);
int fake_jobs_done(struct store *s);
/* Runs that found themselves cancelled. */
int fake_cancelled(struct store *s);
struct fake_user *fake_user(struct store *s, const char *id);

#endif
