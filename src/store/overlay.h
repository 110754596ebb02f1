/* The changes of the running commit group, by key: what a transaction reads before it asks the database, and
 * in the end one write batch in key order, each key once. An op that fails is undone by itself.
 *
 * One thread. Keys and values are copied. Out of memory sets `failed`, which stays until the op is undone. */
#ifndef KALAMDB_STORE_OVERLAY_H
#define KALAMDB_STORE_OVERLAY_H

#include "base/arena.h"
#include "base/err.h"
#include <rocksdb/c.h>

enum overlay_state {
    OVERLAY_NONE, /* nothing known: undone */
    OVERLAY_PUT,
    OVERLAY_DELETE
};

struct overlay_entry {
    uint64_t rank[2]; /* the key's first 16 bytes as numbers: most comparisons end there */
    struct str key, value;
    enum overlay_state state;
    uint64_t op; /* that already has an undo record of this entry */
};

struct overlay_undo {
    size_t entry;
    struct str value;
    enum overlay_state state;
};

struct overlay {
    struct overlay_entry *entries;
    size_t count, cap;
    uint32_t *table; /* entry number + 1, open addressing; a power of two, at most half full */
    size_t table_cap;
    struct overlay_undo *undo;
    size_t nundo, cap_undo;
    uint64_t op;
    const struct overlay_entry **sorted;
    size_t cap_sorted;
    struct arena arena;
    bool failed;
};
#define OVERLAY_BYTES_MAX ((size_t)512 << 20)

void overlay_init(struct overlay *o);
void overlay_release(struct overlay *o);
/* For the next group. */
void overlay_clear(struct overlay *o);
void overlay_begin_op(struct overlay *o);
void overlay_undo_op(struct overlay *o);
void overlay_put(struct overlay *o, struct str key, struct str value);
void overlay_delete(struct overlay *o, struct str key);
/* NULL: the group says nothing about the key. */
const struct overlay_entry *overlay_find(const struct overlay *o, struct str key);
/* Bytes held. */
static inline size_t overlay_bytes(const struct overlay *o)
{
    return o->arena.used_bytes;
}
/* Is there anything to write? */
bool overlay_empty(const struct overlay *o);
/* What is to be stored for a value: sets *value, whose bytes live until the next call. NOT_FOUND: nothing,
 * the entry is left out. */
typedef enum err overlay_value_fn(void *arg, struct str key, struct str *value, struct errctx *ec);
/* Appends all to the batch, in key order; fn NULL: values as they are. After an error the batch is not to be
 * written. */
enum err overlay_emit(struct overlay *o, rocksdb_writebatch_t *batch, overlay_value_fn *fn, void *arg,
    struct errctx *ec) CHECKED;

#endif
