/* What backup.c, prune.c and restore.c share. */
#ifndef KALAMDB_STORE_BACKUP_INT_H
#define KALAMDB_STORE_BACKUP_INT_H

#include "store/backup.h"
#include "store/internal.h"

#define BACKUP_SHARED "shared/conversations"

/* "a/rest", NUL-terminated. */
enum err backup_join(struct buf *b, const char *a, struct str rest, struct errctx *ec) CHECKED;
/* IO with a message for an operator: "cannot read PATH: No such file". */
enum err backup_io(struct errctx *ec, const char *what, const char *path, int error);
/* NULL with an error in ec. */
rocksdb_backup_engine_t *backup_engine_open(const char *dir, struct errctx *ec);
/* RocksDB's message as an operator's; frees it. */
enum err backup_rocks(struct errctx *ec, char *message, const char *what) CHECKED;
/* Removes all generations but the newest `keep`, and what no list names. */
enum err backup_prune(
    const struct os *os, const char *dir, size_t keep, uint32_t *ret_removed, struct errctx *ec) CHECKED;

#endif
