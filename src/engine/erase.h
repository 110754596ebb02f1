/* The engine's half of erasure: the thread that works through what kalamdb_erase asks for. */
#ifndef KALAMDB_ENGINE_ERASE_H
#define KALAMDB_ENGINE_ERASE_H

#include "engine/engine.h"

/* Makes db->erasures and goes on with what a crash interrupted. */
enum err erasures_open(struct kalamdb *db, struct errctx *ec) CHECKED;
/* After store_stop_consolidation: ends the work at its next step, joins, frees. Sets db->closing. */
void erasures_close(struct kalamdb *db);

#endif
