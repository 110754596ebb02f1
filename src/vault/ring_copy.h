/* The ring kept a second time: ring_copy.c. */
#ifndef KALAMDB_VAULT_RING_COPY_H
#define KALAMDB_VAULT_RING_COPY_H

#include "vault/ring.h"

/* As vault_backup_check, vault_backup, vault_copy_forget. */
enum err ring_backup_check(struct ring *r, const char *dir, struct errctx *ec) CHECKED;
enum err ring_backup(
    struct ring *r, const char *dir, const char *master_file, size_t *ret_files, struct errctx *ec) CHECKED;
enum err ring_copy_forget(struct ring *r, const char *dir, uint64_t owner, struct errctx *ec) CHECKED;

#endif
