/* What DuckDB says, as the contract's errors in PostgreSQL's words. Works on the text alone (the C API gives
 * nothing else for a failed prepare), so it is tested without DuckDB. Pure functions, any thread. */
#ifndef KALAMDB_ANALYTIC_ERRMAP_H
#define KALAMDB_ANALYTIC_ERRMAP_H

#include "base/err.h"

/* `text`: "Binder Error: Referenced column …\nCandidate bindings: …\n\nLINE 1: …". Fills ec and returns its
 * code. Names of scans, functions and descriptors of ours are never in message, detail or hint; `internal`
 * (for the log) is filled for errors that are ours only, since the others quote users' values. */
enum err errmap_duckdb(struct str text, struct errctx *ec);

/* After this error the instance or its heap is not as clean as a fresh worker's. */
bool errmap_retires(enum err e);

#endif
