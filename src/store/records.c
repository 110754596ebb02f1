/* What the database holds of the records that every write reads: conversations, and groups. A copy of a
 * message would cost a look-up in RocksDB without it, several times as much as this one.
 *
 * Only what is committed is in it: it is filled by reads that found nothing in the overlay, and changed after
 * a commit group was written, with what was written. A failed write empties it. Values stay where they are
 * until the group is written, so that operations may borrow them. */
#include "store/committer.h"
#include <stdlib.h>

enum { BUCKETS = 32768, SLACK = 48 };

struct record {
    struct record *next;
    uint64_t hash;
    uint32_t key_len, value_len, value_cap;
    char bytes[]; /* the key, then the value */
};

bool records_take(struct str key)
{
    uint32_t space = key.len >= KEY_PREFIX_BYTES ? get_be32(key.ptr + 8) : 0;
    return space == SPACE_CONVERSATIONS || space == SPACE_GROUP;
}

static struct record **find(const struct records *r, struct str key, uint64_t hash)
{
    struct record **p = &r->buckets[hash % BUCKETS];
    while (*p != NULL && ((*p)->hash != hash || !str_eq(str_n((*p)->bytes, (*p)->key_len), key)))
        p = &(*p)->next;
    return p;
}

void records_clear(struct records *r)
{
    for (size_t i = 0; r->buckets != NULL && r->bytes > 0 && i < BUCKETS; i++) {
        for (struct record *one = r->buckets[i], *next; one != NULL; one = next) {
            next = one->next;
            free(one);
        }
        r->buckets[i] = NULL;
    }
    r->bytes = 0;
}

void records_release(struct records *r)
{
    records_clear(r);
    free(r->buckets);
    *r = (struct records){0};
}

bool records_get(const struct records *r, struct str key, struct str *ret)
{
    if (r->buckets == NULL)
        return false;
    const struct record *one = *find(r, key, str_hash(key));
    if (one != NULL)
        *ret = str_n(one->bytes + one->key_len, one->value_len);
    return one != NULL;
}

static size_t size_of(const struct record *one)
{
    return sizeof *one + one->key_len + one->value_cap;
}

static void drop(struct records *r, struct record **p)
{
    struct record *one = *p;
    *p = one->next;
    r->bytes -= size_of(one);
    free(one);
}

/* Without memory the record is just not there. */
void records_put(struct records *r, struct str key, struct str value)
{
    if (r->buckets == NULL && (r->buckets = calloc(BUCKETS, sizeof *r->buckets)) == NULL)
        return;
    uint64_t hash = str_hash(key);
    struct record **p = find(r, key, hash);
    if (*p != NULL && (*p)->value_cap >= value.len) {
        (*p)->value_len = (uint32_t)value.len;
        memcpy((*p)->bytes + (*p)->key_len, value.ptr, value.len);
        return;
    }
    if (*p != NULL)
        drop(r, p);
    if (value.len > RECORD_BYTES_MAX)
        return;
    struct record *one = malloc(sizeof *one + key.len + value.len + SLACK);
    if (one == NULL)
        return;
    *one = (struct record){.next = *p,
        .hash = hash,
        .key_len = (uint32_t)key.len,
        .value_len = (uint32_t)value.len,
        .value_cap = (uint32_t)value.len + SLACK};
    memcpy(one->bytes, key.ptr, key.len);
    memcpy(one->bytes + key.len, value.ptr, value.len);
    *p = one;
    r->bytes += size_of(one);
}

void records_written(struct records *r, const struct overlay *o)
{
    for (size_t i = 0; i < o->count; i++) {
        const struct overlay_entry *e = &o->entries[i];
        if (e->state == OVERLAY_NONE || !records_take(e->key))
            continue;
        if (e->state == OVERLAY_PUT) {
            records_put(r, e->key, e->value);
        } else if (r->buckets != NULL) {
            struct record **p = find(r, e->key, str_hash(e->key));
            if (*p != NULL)
                drop(r, p);
        }
    }
    if (r->bytes > RECORDS_BYTES_MAX)
        records_clear(r);
}
