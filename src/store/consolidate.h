/* Consolidation: fresh rows of a user into Parquet, small files into larger ones, overlays into their files.
 *
 *   snapshot → rows chosen → worker writes <folder>/batch-….parquet.tmp → fsync, sha256 → rename, fsync
 * folder → ONE commit: manifest (files, W, as-of, release_pending)         nothing is deleted yet, every
 * answer stays → release (release.h): hot copies that left the tail are deleted in chunks, then
 * release_pending is cleared
 *
 * Before the commit a crash leaves a file that nobody names; after it, the pending mark, which the next open
 * finishes. Rows changed between snapshot and commit are overlays by derivation: their _seq is above the
 * file's as-of.
 *
 * Threading: consolidator_note() on the committer; the rest any other thread. One consolidation at a time. */
#ifndef KALAMDB_STORE_CONSOLIDATE_H
#define KALAMDB_STORE_CONSOLIDATE_H

#include "store/store.h"
#include <pthread.h>

struct consolidator;

/* Finishes releases that a crash interrupted, counts the cold tier, starts the background thread unless
 * consolidate_interval_ms <= 0. The store must be ready for commits. */
enum err consolidator_open(struct store *s, struct consolidator **ret, struct errctx *ec) CHECKED;
/* Interrupts at the next step, joins, frees. What was begun is undone or finished at the next open. NULL
 * allowed. */
void consolidator_close(struct consolidator *c);
/* A durable commit left the user with this many fresh rows, the first since `first_fresh_us` (wall clock).
 * Cheap; never blocks. c may be NULL (not open yet). */
void consolidator_note(struct consolidator *c, uint64_t user_no, uint64_t fresh_rows, int64_t first_fresh_us);

struct consolidate_counts {
    uint64_t consolidations, failures;
};
void consolidator_counts(const struct consolidator *c, struct consolidate_counts *ret);

/* Where a test may look, change rows, or stop the work as a crash would (return false). */
enum consolidate_step {
    STEP_SNAPSHOT, /* rows chosen, nothing written */
    STEP_TEMP,     /* temporary written and synced */
    STEP_RENAMED,  /* final name, folder synced */
    STEP_MANIFEST, /* committed */
    STEP_CHUNK,    /* after each chunk of releases */
    STEP_RELEASED  /* release_pending cleared */
};
struct consolidate_hook {
    bool (*step)(void *arg, enum consolidate_step step);
    void *arg;
};
/* Set while nothing is consolidated. */
void consolidator_set_hook(struct consolidator *c, const struct consolidate_hook *hook);

#endif
