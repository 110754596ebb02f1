/* The thread that copies history to who joined a group (store/backfill.h): one chunk at a time for all that
 * wait, in turn, with a pause after each.
 *
 * Threading: history_open and history_close with the database; history_wake from any thread. */
#ifndef KALAMDB_ENGINE_HISTORY_H
#define KALAMDB_ENGINE_HISTORY_H

#include "engine/engine.h"

struct history;
/* Takes up what a stop or a crash left. */
enum err history_open(struct kalamdb *db, struct errctx *ec) CHECKED;
/* Ends the thread; what is pending goes on at the next open. */
void history_close(struct kalamdb *db);
/* Somebody has joined. */
void history_wake(struct kalamdb *db);

#endif
