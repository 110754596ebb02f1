/* What erase.c and erased.c share with the store that embeds the set. */
#ifndef KALAMDB_STORE_ERASE_INT_H
#define KALAMDB_STORE_ERASE_INT_H

#include "store/internal.h"

/* Threads: any. */
void erased_init(struct erased *set);
void erased_release(struct erased *set);
/* at_us 0: not erased (any more). */
enum err erased_set(struct erased *set, struct str id, int64_t at_us, struct errctx *ec) CHECKED;
/* 0: not erased. */
int64_t erased_at(struct erased *set, struct str id);
/* Fills the set from the catalog, before the first commit. */
enum err erased_load(struct store *s, struct errctx *ec) CHECKED;

#endif
