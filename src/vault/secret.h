/* Memory for keys: locked where the limit allows, left out of core dumps and of children, wiped when given
 * back. Any thread. */
#ifndef KALAMDB_VAULT_SECRET_H
#define KALAMDB_VAULT_SECRET_H

#include <stdbool.h>
#include <stddef.h>

/* Whole pages, zeroed. NULL: out of memory. *ret_locked (may be NULL): it will not be swapped out. */
void *secret_alloc(size_t n, bool *ret_locked);
/* The same n. NULL allowed. */
void secret_free(void *p, size_t n);
/* For tests: called with memory that is about to be given back, wiped. NULL: nobody. */
extern void (*secret_freed_hook)(const void *p, size_t n);

#endif
