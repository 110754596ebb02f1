/* What the files of the engine share: the handle behind kalamdb.h, and the way from an internal error to the
 * caller's.
 *
 * Threading: `struct kalamdb` is immutable after kalamdb_open but for what `lock` guards. */
#ifndef KALAMDB_ENGINE_ENGINE_H
#define KALAMDB_ENGINE_ENGINE_H

#include "analytic/analytic.h"
#include "base/err.h"
#include "kalamdb.h"
#include "kalamdb_admin.h"
#include "live/live.h"
#include "os/os.h"
#include "sql/shape.h"
#include "sql/sql.h"
#include "store/store.h"
#include <pthread.h>

/* Bytes of rows one answer, or the rows one UPDATE or DELETE reads, may hold in memory. */
#define ENGINE_RESULT_BYTES_MAX ((size_t)256 << 20)

/* Which way a read goes. Tests force one to compare the answers; everybody else leaves PATH_AUTO. */
enum engine_path {
    PATH_AUTO,
    PATH_FAST,    /* C over the hot tier wherever the plan and the tiers allow it, at any cost */
    PATH_ANALYTIC /* a worker for everything that is not an INSERT of constants */
};

struct kalamdb_query;
struct kalamdb_upload;
struct upkeep_job;
struct transfer;
struct erasures;

/* Changes of one user's rows that keep meeting each other, one at a time: the first is at work, the rest
 * wait. */
struct query_lane {
    struct kalamdb_query *first, *last; /* under kalamdb.lock */
    bool barrier;                       /* newcomers wait behind the first */
};
#define QUERY_LANES 64 /* by a hash of the user's id */

struct streams;

struct kalamdb {
    struct kalamdb_options options; /* strings are copies */
    const struct os *os;
    struct analytic *analytic;
    struct vault *vault; /* NULL: no encryption */
    int lock_fd;         /* of the directory, until the store has it; -1: none */
    struct {
        pthread_mutex_t changing; /* held by a rotation, until files and ring agree; and by copies of both */
        char *own, *next;    /* <data>/.kalamdb/master.key, and what becomes it at the end of a rotation */
        _Atomic bool is_own; /* the key in force is in `own`, not in a file or variable that is configured */
        bool is_next;        /* it is in `next` as yet */
        bool rotating;       /* lock */
    } master;
    struct store *store;
    struct live *live;
    struct streams *streams; /* stream.h */
    struct sql_shapes *shapes;
    struct erasures *erasures;
    _Atomic int path; /* enum engine_path */
    /* kalamdb_on_access; set before the first statement */
    void (*access)(void *arg, const struct kalamdb_access *access);
    void *access_arg;

    pthread_mutex_t lock;
    pthread_cond_t idle;           /* inflight became 0 */
    bool closing;                  /* lock */
    size_t inflight;               /* lock: statements that left their caller's thread */
    struct kalamdb_query *queries; /* lock: those, for kalamdb_close to cancel */

    struct kalamdb_upload *uploads; /* lock: being written */
    struct transfer *transfers;     /* lock: exports and imports, for kalamdb_close to cancel */

    struct query_lane lanes[QUERY_LANES];

    pthread_t upkeep;
    bool upkeep_started;        /* lock */
    pthread_cond_t upkeep_wake; /* lock: upkeep_first or closing */
    struct upkeep_job *upkeep_first, **upkeep_last;
    struct history *history;           /* history.c */
    struct hist exec_read, exec_write; /* statement latency */
    _Atomic uint64_t statements_failed, fast_reads, analytic_reads, retries;
};

/* vault.c: the vault of the directory, as the options say; leaves db->vault NULL where a directory is to be
 * opened whose ring is missing: store_open says why. */
enum err engine_open_vault(struct kalamdb *db, const struct kalamdb_options *o, struct errctx *ec) CHECKED;
/* Once the directory is this process's: a rotation of the master key that was cut short is brought to its
 * end, or what is left of it removed. */
enum err engine_settle_master_key(struct kalamdb *db, struct errctx *ec) CHECKED;
/* The file that the master key in force lies in, where it is the directory's own; else NULL. `changing` is
 * held. */
const char *engine_own_master_key(const struct kalamdb *db);
/* Runs `main` on a thread of its own, which ends with engine_detached_ends; kalamdb_close waits for it.
 * False: the database is closing, or there is no thread. */
bool engine_detach(struct kalamdb *db, void *(*main)(void *job), void *job);
void engine_detached_ends(struct kalamdb *db);
/* What operators get: the reason is theirs to read, also where it names paths. */
kalamdb_code engine_operator_error(
    struct kalamdb_error *error, enum err e, const char *what, struct errctx *ec);
/* Copies what a client may read; codes that never leave the engine become INTERNAL. `ret` may be NULL. */
kalamdb_code engine_error(struct kalamdb_error *ret, const struct errctx *ec);
static inline struct str engine_str(struct kalamdb_str s)
{
    return str_n(s.ptr, s.len);
}
/* A caller's role beyond those of kalamdb.h: the engine itself (sql.h, caller.internal). */
#define ENGINE_ROLE_INTERNAL ((enum kalamdb_role)100)
/* For tests only. */
void engine_force_path(struct kalamdb *db, enum engine_path path);
/* In the background: counts against each other, without the rows. */
void engine_sweep_after_open(struct kalamdb *db);
/* Ends the upkeep thread after the job it is at; jobs behind it get UNAVAILABLE. */
void engine_upkeep_stop(struct kalamdb *db);

#endif
