/* DuckDB in worker processes. The server never links DuckDB: a zygote process (`kalamdb-worker`) opens and
 * warms one instance and forks workers ahead of need; a worker is handed descriptors of one user's rows,
 * serves that user only, and is gone when it was idle for a moment, failed, was cancelled or ran out of time
 * or memory.
 *
 * Threading: analytic_run() blocks and may be called from any thread that may block; analytic_submit() queues
 * a job for one of the pool's own threads. Ownership: inputs stay the caller's; results are the caller's
 * rowset. */
#ifndef KALAMDB_ANALYTIC_ANALYTIC_H
#define KALAMDB_ANALYTIC_ANALYTIC_H

#include "os/os.h"
#include "row/rowset.h"
#include "row/schema.h"

struct analytic;

struct analytic_config {
    const char
        *worker_path; /* NULL: $KALAMDB_WORKER, else beside the running executable, else the install path */
    int workers_max;  /* busy at once; more callers wait */
    int threads;      /* job threads for analytic_submit */
    size_t memory_bytes_max; /* per worker: DuckDB's memory_limit, and an rlimit somewhat above */
    size_t result_bytes_max; /* per result */
    bool uncaged;            /* for kernels without Landlock or seccomp: see docs/security.md */
    int idle_worker_ms;      /* how long a worker waits for its user's next statement */
    const struct os *os;
};

/* One numbered scan: the SQL text of a request calls it scan_0, scan_1 … (a view with the schema's columns,
 * hidden ones included, in schema order). Rows = live rows of rows_fd ∪ rows of the files whose key is not in
 * exclude. */
struct analytic_input {
    const struct schema *schema;
    int rows_fd; /* memfd: row file (see row_file_append), or -1 */
    uint64_t rows_bytes;
    int nfiles;
    const int *file_fds; /* Parquet files, opened read-only; their bytes never change once a run saw them */
    size_t nexclude;
    const int64_t *exclude; /* keys (messages: msg_id) whose cold version is superseded */
    bool as_stored; /* files only: their columns as they are, none cast, none added: for files of strangers */
    bool with_tombstones; /* adds a BOOLEAN column _deleted at the end; tombstones of rows_fd become rows */
};

enum analytic_mode {
    ANALYTIC_ROWS,   /* rows back to the caller */
    ANALYTIC_PARQUET /* COPY the result into output_fd: zstd, v2, row groups of 4,096; the rowset gets one
                        row: count */
};

/* Lets any thread end a run: the worker is killed and the run returns ERR_TIMEOUT. Zero-initialise. */
struct analytic_cancel {
    _Atomic int state; /* private: 0 idle, 1 cancelled */
    _Atomic int pidfd; /* private: worker to kill, 0: none */
};
void analytic_cancel(struct analytic_cancel *c);

struct analytic_request {
    struct str user_id; /* whose rows: a worker never serves two */
    struct str sql;     /* DuckDB SQL over scan_N */
    int ninputs;
    const struct analytic_input *inputs;
    enum analytic_mode mode;
    int output_fd;
    size_t rows_max;                /* one more sets rowset.truncated; 0: no limit */
    int timeout_ms;                 /* of the run itself, waiting for a worker included */
    struct analytic_cancel *cancel; /* may be NULL */
};

enum err analytic_open(const struct analytic_config *cfg, struct analytic **ret, struct errctx *ec) CHECKED;
/* Ends running workers and the zygote. Jobs queued are run to their end first (they see ERR_UNAVAILABLE). */
void analytic_close(struct analytic *a);

/* Errors: TIMEOUT (time or cancel), what DuckDB said mapped to the contract (INVALID_VALUE, TYPE_MISMATCH,
 * UNDEFINED_COLUMN, UNDEFINED_FUNCTION …) with DuckDB's text cleaned of internals, TOO_LARGE (result,
 * memory), INTERNAL with "the query's worker died" when it did (then it has been replaced), UNAVAILABLE.
 * Initialises *ret, and only on success. */
enum err analytic_run(
    struct analytic *a, const struct analytic_request *rq, struct rowset *ret, struct errctx *ec) CHECKED;

/* Jobs of one owner never take the last worker: where `workers_max` is above 1, at most one less of them run
 * at once, and the next in line of another owner goes first. */
struct analytic_job {
    void (*run)(struct analytic_job *job); /* on a pool thread */
    uint64_t owner;                        /* analytic_owner() of whom the work is for */
    struct analytic_job *next;             /* private */
};
/* Never 0. */
static inline uint64_t analytic_owner(struct str user_id)
{
    return str_hash(user_id) | 1;
}
void analytic_submit(struct analytic *a, struct analytic_job *job);

/* Row file: u32 big-endian length + row envelope, repeated. */
static inline void row_file_append(struct buf *b, struct str row)
{
    buf_be32(b, (uint32_t)row.len);
    buf_str(b, row);
}

struct analytic_stats {
    int idle, busy, reserved; /* workers by state */
    uint64_t started, died, killed, runs, waiting;
    uint64_t expelled; /* killed by the kernel for a system call that is not in their list */
    int landlock_abi;  /* of the cage around the workers; 0: they run without one */
};
void analytic_stats(struct analytic *a, struct analytic_stats *ret);

#endif
