/* What exports and imports share: they are long, so kalamdb_close must find them, and few, so that they leave
 * room for statements. Also the columns that stand in an archive.
 *
 * Threading: begin and end any thread; `cancelled` and `cancel` are what others touch. */
#ifndef KALAMDB_ENGINE_TRANSFER_H
#define KALAMDB_ENGINE_TRANSFER_H

#include "engine/engine.h"

/* Imports at once, each with a thread of its own. Exports have none between their steps. */
enum { IMPORTS_MAX = 4, EXPORTS_MAX = 64 };
/* One run of a worker over one piece. */
enum { TRANSFER_RUN_TIMEOUT_MS = 600000 };
#define EXPORTS_DIR ".kalamdb/exports"
#define IMPORTS_DIR ".kalamdb/imports"

struct transfer {
    struct kalamdb *db;
    struct transfer *prev, *next; /* db->transfers, under db->lock */
    bool import;
    struct str user_id; /* malloc'ed */
    _Atomic bool cancelled;
    struct analytic_cancel cancel;
};

/* FORBIDDEN for another user's id with role user, INVALID_REQUEST for no user id, CONFLICT for a second
 * import of one user, UNAVAILABLE when too many are under way or the database is closing. */
enum err transfer_begin(struct transfer *t, struct kalamdb *db, const struct kalamdb_caller *caller,
    struct str user_id, bool import, struct errctx *ec) CHECKED;
void transfer_end(struct transfer *t);
/* Stops the work: TIMEOUT from transfer_alive, a run of a worker ends. Any thread. */
void transfer_cancel(struct transfer *t);
enum err transfer_alive(struct transfer *t, struct errctx *ec) CHECKED;
/* Work on another thread that kalamdb_close waits for. UNAVAILABLE: it is closing. */
enum err transfer_enter(struct transfer *t, struct errctx *ec) CHECKED;
void transfer_leave(struct kalamdb *db);
/* Cancels all; db->lock is held. */
void transfers_cancel(struct kalamdb *db);
/* Removes what a crash, or an older version, left there; makes the folder. At open. */
enum err transfers_open(struct kalamdb *db, struct errctx *ec) CHECKED;
/* A memfd: what a worker reads or writes, which opens nothing on disk. */
enum err transfer_memfd(int *ret_fd, struct errctx *ec) CHECKED;

/* `"a", "b"` of the columns that stand in an archive: the visible ones, and of messages the change numbers;
 * with `cast`, JSON as text. Which number a column has in the schema: columns[i]; returns how many. */
int transfer_columns(const struct schema *schema, int columns[SCHEMA_COLUMNS_MAX]);
void transfer_column_list(struct buf *b, const struct schema *schema, bool cast);

/* For tests only: rows of a file of messages, before the first step. */
void export_set_piece(struct kalamdb_export *x, uint64_t rows);

#endif
