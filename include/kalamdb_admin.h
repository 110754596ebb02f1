/* For hosts that operate a KalamDB (the server is one): upkeep, state, metrics. Same rules as kalamdb.h. */
#ifndef KALAMDB_ADMIN_H
#define KALAMDB_ADMIN_H

#include "kalamdb.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Consolidates one user, or everybody (ptr NULL), whatever the thresholds, and purges what was deleted from
 * every file and log. Does not block; `done` as in kalamdb_exec_async, from an engine thread, with a NULL
 * result. */
void kalamdb_consolidate(struct kalamdb *db, struct kalamdb_str user_id, kalamdb_done *done, void *arg);

/* Ends consolidation until the database is opened again: requests that run or wait answer UNAVAILABLE within
 * moments. For a host whose time to shut down is up; kalamdb_close does it too. */
void kalamdb_stop_consolidation(struct kalamdb *db);

/* OK, or UNAVAILABLE with the reason while writes are refused. */
kalamdb_code kalamdb_writable(struct kalamdb *db, struct kalamdb_error *error);

/* Calls `sample` for each metric: OpenMetrics name without unit suffix rules applied (already complete), kind
 * "gauge", "counter" or "histogram", help text, label text such as state="busy" or "", value. A histogram
 * comes as one call per bucket with label le="…" (cumulative, seconds), then with suffix names _sum and
 * _count. */
struct kalamdb_metric {
    const char *name, *kind, *help, *labels, *suffix; /* suffix: "", "_total", "_bucket", "_sum", "_count" */
    double value;
};
void kalamdb_metrics(
    struct kalamdb *db, void (*sample)(void *arg, const struct kalamdb_metric *m), void *arg);

#ifdef __cplusplus
}
#endif
#endif
