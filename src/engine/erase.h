/* The engine's half of erasure: the thread that works through what kalamdb_erase asks for. */
#ifndef KALAMDB_ENGINE_ERASE_H
#define KALAMDB_ENGINE_ERASE_H

#include "engine/engine.h"

/* Makes db->erasures and goes on with what a crash interrupted. */
enum err erasures_open(struct kalamdb *db, struct errctx *ec) CHECKED;
/* The store stops its upkeep: whoever waits is told so now, the work goes on at the next open. */
void erasures_stop_waiting(struct kalamdb *db);
/* Tests: between two tries while somebody waits, and how long one is kept waiting for another try. */
void erasures_set_waits(struct kalamdb *db, int64_t retry_us, int64_t wait_us);
/* After store_stop_consolidation: ends the work at its next step, joins, frees. Sets db->closing. */
void erasures_close(struct kalamdb *db);

#endif
