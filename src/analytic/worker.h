/* The worker program's own parts: one DuckDB instance per process, single-threaded, one request at a time.
 * worker_main.c zygote and serving loop, worker_duckdb.c the instance, worker_scan.c a request's inputs as
 * views, worker_result.c results as frames. Everything here belongs to the one thread of the process. */
#ifndef KALAMDB_ANALYTIC_WORKER_H
#define KALAMDB_ANALYTIC_WORKER_H

#include "analytic/protocol.h"
#include <duckdb.h>

/* Descriptors of a request are moved to fixed numbers, since DuckDB is allowed these paths and no other. */
#define WORKER_FD_BASE 100
#define WORKER_FD_PATH "/proc/self/fd/"

/* One input's row file, mapped. */
struct worker_rows {
    const char *ptr; /* NULL: none */
    size_t len;
};

struct worker {
    duckdb_database db;
    duckdb_connection con; /* a fresh one for each request: no temporary object outlives its request */
    const struct analytic_request *rq;
    struct worker_rows rows[PROTO_INPUTS_MAX];
    bool corrupt; /* a row file did not decode: the query's error is ours, not the user's */
    uint64_t timeout_ms;
    size_t memory_bytes_max;
};

/* Opens and warms the instance, registers the table functions, locks the settings. The text of `ec->internal`
 * says what went wrong. */
enum err worker_duckdb_open(struct worker *w, struct errctx *ec) CHECKED;
/* A new connection for the next request; drops the old one and all that was temporary in it. */
enum err worker_duckdb_reconnect(struct worker *w, struct errctx *ec) CHECKED;
enum err worker_duckdb_exec(struct worker *w, const char *sql, struct errctx *ec) CHECKED;

/* kalamdb_rows(i): rows of input i. kalamdb_keys(i): its superseded keys. Once per instance. */
enum err worker_scan_register(struct worker *w, struct errctx *ec) CHECKED;
/* Maps w->rq's row files and creates scan_0 … scan_N-1. */
enum err worker_scan_open(struct worker *w, struct errctx *ec) CHECKED;
void worker_scan_close(struct worker *w);

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
