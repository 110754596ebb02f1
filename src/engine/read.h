/* Reading for a statement: snapshots of the tables' owners, a run in C or in a worker. */
#ifndef KALAMDB_ENGINE_READ_H
#define KALAMDB_ENGINE_READ_H

#include "engine/fast.h"
#include "engine/query.h"

/* What one statement reads: one snapshot per distinct owner, so that all its tables show the same moment. */
struct read_set {
    int nsnapshots;
    struct str *owners; /* of snapshots */
    struct snapshot **snapshots;
    int ninputs;
    struct analytic_input *inputs; /* scan_0 … */
};

/* Opens the snapshots and inputs of q->stmt->tables. Close also after an error. `arena` outlives the set. */
enum err read_set_open(struct kalamdb_query *q, struct arena *arena, struct read_set *ret) CHECKED;
void read_set_close(struct read_set *rs);
/* The snapshot of an owner, opened when there is none yet. */
enum err read_set_snapshot(struct kalamdb_query *q, struct arena *arena, struct read_set *rs,
    struct str owner, struct snapshot **ret) CHECKED;
/* Runs SQL over the set's inputs in a worker; `ret` is the caller's to release on OK. */
enum err read_worker(struct kalamdb_query *q, const struct read_set *rs, struct str sql, size_t rows_max,
    struct rowset *ret) CHECKED;
/* The same over rows of messages or another table that the caller holds in memory as row file `rows`. */
enum err read_worker_rows(struct kalamdb_query *q, const struct schema *schema, const struct buf *rows,
    struct str sql, size_t rows_max, struct rowset *ret) CHECKED;
/* A row file as an input; -1 descriptor for an empty one. The caller closes ret->rows_fd. */
enum err read_rows_input(struct kalamdb_query *q, const struct schema *schema, const struct buf *rows,
    struct analytic_input *ret) CHECKED;

void read_limits(struct kalamdb_query *q, size_t visited_max, size_t rows_max, struct fast_limits *ret);
/* May and shall this read be tried in C? */
bool read_tries_fast(const struct kalamdb_query *q);

/* SELECT. */
void read_start(struct kalamdb_query *q);

#endif
