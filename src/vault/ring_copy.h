/* The ring kept a second time: ring_copy.c. */
#ifndef KALAMDB_VAULT_RING_COPY_H
#define KALAMDB_VAULT_RING_COPY_H

#include "vault/ring.h"

/* As vault_backup. */
enum err ring_backup(struct ring *r, const char *dir, size_t *ret_files, struct errctx *ec) CHECKED;

#endif
