/* The worker program's own parts: one DuckDB instance per process, single-threaded, one request at a time.
 * worker_main.c zygote and serving loop, worker_duckdb.c the instance, worker_scan.c a request's inputs as
 * views, worker_result.c results as frames,
 * worker_cell.c their values, worker_files.c descriptors, worker_paths.c what DuckDB takes for a file system.
 * Everything here belongs to the one thread of the
 * process. */
#ifndef KALAMDB_ANALYTIC_WORKER_H
#define KALAMDB_ANALYTIC_WORKER_H

#include "analytic/protocol.h"
#include <duckdb.h>

/* Files lie at fixed numbers, since DuckDB is allowed these paths and no other. A number means one file for
 * as long as the worker lives (see worker_files.c). */
#define WORKER_FD_BASE 100
#define WORKER_SLOTS 600
#define WORKER_FD_PATH "/proc/self/fd/"

/* One input's row file, mapped. */
struct worker_rows {
    const char *ptr; /* NULL: none */
    size_t len;
};

struct worker_slot {
    bool open;
    uint64_t dev, ino, size;
    int64_t mtime_s, mtime_ns;
    uint64_t used; /* number of the last request that had it */
};

struct worker {
    duckdb_database db;
    duckdb_connection con; /* a fresh one for each request: no temporary object outlives its request */
    size_t memory_bytes_max;
    uint64_t space_bytes, data_bytes; /* of the warm instance: what limits are above */
    /* The request being served; its descriptor numbers are this process's own. */
    const struct analytic_request *rq;
    uint64_t request_no;
    struct worker_rows rows[PROTO_INPUTS_MAX];
    bool retiring; /* the server has been told that this request was the last */
    bool corrupt;  /* a row file did not decode: the query's error is ours, not the user's */
    struct worker_slot slots[WORKER_SLOTS];
    int slots_used; /* ever */
};

/* Puts the request's descriptors, received as fds, where its statement can open them, and writes their
 * numbers into it. Takes all of fds. False when a descriptor is no file or there are no numbers left. */
bool worker_files_place(struct worker *w, struct analytic_request *rq, const int *fds, int nfds);
/* Closes what no later request can use. */
void worker_files_done(struct worker *w, const struct analytic_request *rq);
/* Too few numbers are left for any request: the worker should end. */
bool worker_files_exhausted(const struct worker *w);

/* Opens and warms the instance, registers the table functions, locks the settings. The text of `ec->internal`
 * says what went wrong. */
enum err worker_duckdb_open(struct worker *w, struct errctx *ec) CHECKED;
/* A new connection for the next request; drops the old one and all that was temporary in it. */
enum err worker_duckdb_reconnect(struct worker *w, struct errctx *ec) CHECKED;
enum err worker_duckdb_exec(struct worker *w, const char *sql, struct errctx *ec) CHECKED;

/* The table functions, and how the names scan_0, scan_1 … are found. Once per instance. */
enum err worker_scan_register(struct worker *w, struct errctx *ec) CHECKED;
/* Maps w->rq's row files and prepares the names scan_0 … scan_N-1. */
enum err worker_scan_open(struct worker *w, struct errctx *ec) CHECKED;
void worker_scan_close(struct worker *w);

/* This worker has stepped behind others for good (worker_main.c): this request should be its last. */
bool worker_stepped_back(void);

/* Runs the request's SQL and sends COLUMNS, ROWS …, DONE to sock. On an error nothing more than that was
 * sent, and the caller sends ERROR. `ret_gone`: the other side is no longer there. */
enum err worker_result_run(struct worker *w, int sock, bool *ret_gone, struct errctx *ec) CHECKED;

/* One value of a column as the contract's type. `scratch` receives the bytes of made texts. */
struct cell_type {
    duckdb_logical_type logical;
    duckdb_type id;
    enum value_type value;
    duckdb_type storage; /* DECIMAL, ENUM: how it is stored */
    uint8_t scale;
    int nchildren; /* LIST, ARRAY 1; MAP 2; STRUCT and UNION their members */
    uint64_t array_size;
    struct cell_type *children;
    char **names; /* STRUCT, UNION */
};
enum err cell_type_init(struct cell_type *t, duckdb_logical_type logical, struct errctx *ec) CHECKED;
void cell_type_release(struct cell_type *t);
/* A column's vector opened for reading; children in the order of the type's. */
struct value cell_value(const struct cell_type *t, duckdb_vector vector, uint64_t row, struct buf *scratch);

#endif
