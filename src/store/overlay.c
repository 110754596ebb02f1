/* A hash table over an array of entries. The array keeps the order of arrival, which undo and clear follow;
 * the batch is sorted once at the end: a memtable takes neighbours at a fraction of the cost of random keys.
 */
#include "store/overlay.h"
#include "base/buf.h"
#include <stdlib.h>

enum { TABLE_MIN = 256, KEEP_ENTRIES = 65536, KEEP_BYTES = 16 << 20 };

void overlay_init(struct overlay *o)
{
    *o = (struct overlay){.op = 1};
    arena_init(&o->arena, OVERLAY_BYTES_MAX);
}

void overlay_release(struct overlay *o)
{
    arena_release(&o->arena);
    free(o->entries);
    free(o->table);
    free(o->undo);
    free(o->sorted);
    *o = (struct overlay){0};
}

static uint64_t rank_of(struct str key, size_t at)
{
    if (key.len >= at + 8)
        return get_be64(key.ptr + at);
    uint8_t padded[8] = {0};
    if (key.len > at)
        memcpy(padded, key.ptr + at, key.len - at);
    return get_be64(padded);
}

/* The slot of the key, or the empty one where it belongs. */
static size_t slot_of(const struct overlay *o, struct str key, const uint64_t rank[2])
{
    size_t mask = o->table_cap - 1, i = (size_t)str_hash(key) & mask;
    for (; o->table[i] != 0; i = (i + 1) & mask) {
        const struct overlay_entry *e = &o->entries[o->table[i] - 1];
        if (e->rank[0] == rank[0] && e->rank[1] == rank[1] && str_eq(e->key, key))
            break;
    }
    return i;
}

static bool grow(struct overlay *o)
{
    if (o->count == o->cap) {
        size_t cap = o->cap == 0 ? TABLE_MIN / 2 : o->cap * 2;
        struct overlay_entry *entries = realloc(o->entries, cap * sizeof *entries);
        if (entries == NULL)
            return false;
        o->entries = entries;
        o->cap = cap;
    }
    if ((o->count + 1) * 2 <= o->table_cap)
        return true;
    size_t cap = o->table_cap == 0 ? TABLE_MIN : o->table_cap * 2;
    uint32_t *table = calloc(cap, sizeof *table);
    if (table == NULL || o->count >= UINT32_MAX) {
        free(table);
        return false;
    }
    free(o->table);
    o->table = table;
    o->table_cap = cap;
    for (size_t i = 0; i < o->count; i++)
        table[slot_of(o, o->entries[i].key, o->entries[i].rank)] = (uint32_t)(i + 1);
    return true;
}

/* The entry to change, new or known; its earlier state is noted for undo. NULL: out of memory. */
static struct overlay_entry *touch(struct overlay *o, struct str key)
{
    if (!grow(o))
        return NULL;
    if (o->nundo == o->cap_undo) {
        size_t cap = o->cap_undo == 0 ? TABLE_MIN / 2 : o->cap_undo * 2;
        struct overlay_undo *undo = realloc(o->undo, cap * sizeof *undo);
        if (undo == NULL)
            return NULL;
        o->undo = undo;
        o->cap_undo = cap;
    }
    uint64_t rank[2] = {rank_of(key, 0), rank_of(key, 8)};
    size_t slot = slot_of(o, key, rank);
    if (o->table[slot] == 0) {
        struct str copy = arena_str(&o->arena, key);
        if (copy.ptr == NULL)
            return NULL;
        o->entries[o->count] = (struct overlay_entry){.rank = {rank[0], rank[1]}, .key = copy};
        o->table[slot] = (uint32_t)++o->count;
    }
    struct overlay_entry *e = &o->entries[o->table[slot] - 1];
    if (e->op != o->op) {
        o->undo[o->nundo++] = (struct overlay_undo){(size_t)(e - o->entries), e->value, e->state};
        e->op = o->op;
    }
    return e;
}

void overlay_put(struct overlay *o, struct str key, struct str value)
{
    struct str copy = arena_str(&o->arena, value);
    struct overlay_entry *e = copy.ptr != NULL ? touch(o, key) : NULL;
    if (e == NULL) {
        o->failed = true;
        return;
    }
    e->value = copy;
    e->state = OVERLAY_PUT;
}

void overlay_delete(struct overlay *o, struct str key)
{
    struct overlay_entry *e = touch(o, key);
    if (e == NULL) {
        o->failed = true;
        return;
    }
    e->value = STR_NULL;
    e->state = OVERLAY_DELETE;
}

const struct overlay_entry *overlay_find(const struct overlay *o, struct str key)
{
    if (o->count == 0)
        return NULL;
    uint64_t rank[2] = {rank_of(key, 0), rank_of(key, 8)};
    size_t slot = slot_of(o, key, rank);
    if (o->table[slot] == 0 || o->entries[o->table[slot] - 1].state == OVERLAY_NONE)
        return NULL;
    return &o->entries[o->table[slot] - 1];
}

void overlay_begin_op(struct overlay *o)
{
    o->op++;
    o->nundo = 0;
}

void overlay_undo_op(struct overlay *o)
{
    /* One record per entry and op, so the order does not matter. */
    for (size_t i = 0; i < o->nundo; i++) {
        struct overlay_entry *e = &o->entries[o->undo[i].entry];
        e->value = o->undo[i].value;
        e->state = o->undo[i].state;
    }
    o->nundo = 0;
    o->op++;
    o->failed = false;
    o->arena.failed = false;
}

void overlay_clear(struct overlay *o)
{
    if (o->cap > KEEP_ENTRIES ||
        o->arena.used_bytes > KEEP_BYTES) { /* a large group must not keep its memory */
        overlay_release(o);
        overlay_init(o);
        return;
    }
    if (o->count > o->table_cap / 8) {
        memset(o->table, 0, o->table_cap * sizeof *o->table);
    } else {
        for (size_t i = 0; i < o->count; i++) {
            size_t slot = slot_of(o, o->entries[i].key, o->entries[i].rank);
            o->entries[i].op = slot; /* found first, emptied after: probing needs the others in place */
        }
        for (size_t i = 0; i < o->count; i++)
            o->table[o->entries[i].op] = 0;
    }
    o->count = o->nundo = 0;
    o->op++;
    o->failed = false;
    arena_clear(&o->arena);
}

bool overlay_empty(const struct overlay *o)
{
    for (size_t i = 0; i < o->count; i++)
        if (o->entries[i].state != OVERLAY_NONE)
            return false;
    return true;
}

static int by_key(const void *a, const void *b)
{
    const struct overlay_entry *x = *(const struct overlay_entry *const *)a;
    const struct overlay_entry *y = *(const struct overlay_entry *const *)b;
    for (int i = 0; i < 2; i++)
        if (x->rank[i] != y->rank[i])
            return x->rank[i] < y->rank[i] ? -1 : 1;
    return str_cmp(x->key, y->key);
}

enum err overlay_emit(
    struct overlay *o, rocksdb_writebatch_t *batch, overlay_value_fn *fn, void *arg, struct errctx *ec)
{
    if (o->count > o->cap_sorted) {
        const struct overlay_entry **sorted = realloc(o->sorted, o->cap * sizeof *sorted);
        if (sorted == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
        o->sorted = sorted;
        o->cap_sorted = o->cap;
    }
    size_t n = 0;
    for (size_t i = 0; i < o->count; i++)
        if (o->entries[i].state != OVERLAY_NONE)
            o->sorted[n++] = &o->entries[i];
    if (n > 1)
        qsort(o->sorted, n, sizeof *o->sorted, by_key);
    for (size_t i = 0; i < n; i++) {
        const struct overlay_entry *e = o->sorted[i];
        struct str value = e->value;
        enum err sealed = fn != NULL && e->state == OVERLAY_PUT ? fn(arg, e->key, &value, ec) : ERR_OK;
        if (sealed == ERR_NOT_FOUND)
            continue;
        if (sealed != ERR_OK)
            return sealed;
        if (e->state == OVERLAY_PUT)
            rocksdb_writebatch_put(batch, e->key.ptr, e->key.len, value.ptr, value.len);
        else
            rocksdb_writebatch_delete(batch, e->key.ptr, e->key.len);
    }
    return ERR_OK;
}
