/* One statement on its way: where it stands, who answers for it, what dies with it.
 *
 *   caller's thread ──parse──► read in C ──────────────────────────────► finish
 *                       │          │ files needed, or long
 *                       │          ▼
 *                       │      job thread: worker, read phase of a change ─► finish
 *                       │          │  ▲
 *                       ▼          ▼  │ ERR_RETRY, RETURNING by a worker
 *                      committer: apply, done ─────────────────────────► finish
 *
 * Threading: a query is on one thread at a time; only `cancelled` and `cancel` are touched by others. It has
 * two references at most: the engine's, until finished, and the caller's handle. */
#ifndef KALAMDB_ENGINE_QUERY_H
#define KALAMDB_ENGINE_QUERY_H

#include "chat/chat.h"
#include "engine/engine.h"
#include "engine/result.h"

/* Rows that may be visited, and returned by RETURNING, on a thread that must not wait (an event loop, the
 * committer); at 1–2 µs a row this stays below a millisecond. Above: a job thread. */
#define QUERY_ROWS_INLINE_MAX 512
#define QUERY_BYTES_INLINE_MAX ((size_t)1 << 20)
/* Rows visited in C on a job thread, before a worker takes over. */
#define QUERY_ROWS_JOB_MAX 50000
/* How often a change is read again before it gives up. */
#define QUERY_ATTEMPTS_MAX 100
/* After so many it goes on in its user's lane; after so many more the others of this user queue up behind it,
 * so that a slow read phase gets through as well. */
#define QUERY_ATTEMPTS_LANE 2
#define QUERY_ATTEMPTS_BARRIER 6

struct insert;
struct kalamdb_upload;
struct modify;

struct kalamdb_query {
    _Atomic int refs;
    _Atomic bool cancelled;
    struct kalamdb *db;
    struct kalamdb_query *prev, *next; /* db->queries, under db->lock */
    bool away;                         /* left its caller's thread: counted, cancellable */
    kalamdb_done *done;
    void *arg;
    struct kalamdb_query **ret_query;

    struct arena arena; /* the statement's own: text, parameters, plan */
    struct caller caller;
    struct str sql;
    struct stmt *stmt;
    enum durability durability;
    bool for_everyone;
    int64_t start_us, deadline_us;
    int64_t reopens; /* UPDATE of this interrupted message, to open it again: stream.h; 0: none */
    int attempts;
    struct query_lane *lane; /* NULL: in none */
    struct kalamdb_query *lane_next;
    struct insert *insert; /* in arena, by kind of statement */
    struct modify *modify;
    struct kalamdb_upload *upload; /* INSERT of one message with a file; upload.h */

    struct analytic_cancel cancel;
    struct analytic_job job;
    void (*step)(struct kalamdb_query *q); /* what the job thread does next */
    struct commit_op op;
    struct kalamdb_result *result; /* ours until done */
    struct errctx ec;
};

/* A statement of `caller`, before it is known what it says. NULL: it has answered already, by `done`. */
struct kalamdb_query *query_begin(struct kalamdb *db, const struct kalamdb_caller *caller,
    enum kalamdb_durability durability, int timeout_ms, kalamdb_done *done, void *arg,
    struct kalamdb_query **ret_query);
/* A text from the host, copied: INVALID_REQUEST unless it is UTF-8 without NUL. */
enum err query_take_text(struct kalamdb_query *q, struct kalamdb_str in, struct str *ret) CHECKED;
/* Ends the statement: with e == OK hands out q->result (made when NULL), else q->ec under the code e. Frees.
 */
/* What a statement computes is more than it may: no body or text of the client's is too large (413), its
 * statement asks for too much (400). Other errors, OK too, are as they were. */
enum err query_costly(struct kalamdb_query *q, enum err e) CHECKED;
void query_finish(struct kalamdb_query *q, enum err e);
/* Goes on in `step` on a job thread. */
void query_to_job(struct kalamdb_query *q, void (*step)(struct kalamdb_query *q));
/* A commit answered ERR_RETRY: goes on in `step` on a job thread, in its lane after a few times, or ends with
 * CONFLICT. */
void query_retry(struct kalamdb_query *q, void (*step)(struct kalamdb_query *q));
/* Before the first attempt: waits in the lane where somebody cannot get through otherwise; then `step` is
 * called on a job thread, and true is returned. */
bool query_waits(struct kalamdb_query *q, void (*step)(struct kalamdb_query *q));
/* Goes on through the committer: `apply`, then `done`, which gets the query by query_of_op. */
void query_to_committer(struct kalamdb_query *q,
    enum err (*apply)(struct commit_op *op, struct txn *txn, struct errctx *ec),
    void (*done)(struct commit_op *op, enum err e, const struct errctx *ec));
static inline struct kalamdb_query *query_of_op(struct commit_op *op)
{
    return (struct kalamdb_query *)((char *)op - offsetof(struct kalamdb_query, op));
}
/* kalamdb_exec_async of an UPDATE whose one message is opened again instead of being set. */
void query_reopen(struct kalamdb *db, const struct kalamdb_statement *statement, int64_t msg_id,
    kalamdb_done *done, void *arg);
/* TIMEOUT when it was cancelled or its time is over. */
enum err query_alive(struct kalamdb_query *q) CHECKED;
/* Milliseconds left; at least 1. */
int query_timeout_ms(const struct kalamdb_query *q);
/* q->result, made on first call; NULL: out of memory. */
struct kalamdb_result *query_result(struct kalamdb_query *q);
static inline enum err query_no_memory(struct kalamdb_query *q, const char *what)
{
    return err_internal(&q->ec, ERR_NO_MEMORY, "%s", what);
}

/* revoke.c: kalamdb_on_access. */
void query_tell_access(const struct kalamdb_query *q);

#endif
