/* Uploads: bytes into a temporary as they come, then an ordinary INSERT of one message that the file rides
 * on.
 *
 *   begin ─► write … ─► finish ─► INSERT: check, [job] type, place, [committer] quota, row, record ─► done
 *                 └─► abort
 *
 * Threading: one thread at a time; between finish and `done` it is the query's. */
#ifndef KALAMDB_ENGINE_UPLOAD_H
#define KALAMDB_ENGINE_UPLOAD_H

#include "engine/query.h"
#include "engine/spill.h"

/* kalamdb_exec_async with a file for the one row that the statement inserts. query.c. */
void query_exec_upload(struct kalamdb *db, const struct kalamdb_statement *statement,
    struct kalamdb_upload *upload, kalamdb_done *done, void *arg);
/* On a job thread, rows being checked: describes and places the file, and has the row name it. */
enum err upload_attach(struct kalamdb_query *q, struct chat_append *a, struct spills *s) CHECKED;
/* On the committer. CONFLICT: the owner was erased since it began. */
enum err upload_wanted(const struct kalamdb_upload *u, struct errctx *ec) CHECKED;
/* Where it is, before each commit. */
void upload_placed(struct kalamdb_upload *u, struct str ref);

#endif
