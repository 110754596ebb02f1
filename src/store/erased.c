/* Who is erased, and since when, for whoever checks a token: a hash table filled from the catalog at open and
 * by each erasure. An entry is there before its commit is written, so that operations behind it in the same
 * group already meet it; when that commit fails, the catalog's word counts again. */
#include "store/erase_int.h"
#include <stdlib.h>

struct erased_entry {
    struct erased_entry *next;
    int64_t at_us;
    size_t len;
    char id[];
};

enum { BUCKETS_MIN = 64 };

static struct erased_entry **bucket(struct erased *set, struct str id)
{
    return &set->buckets[str_hash(id) % set->nbuckets];
}

static void grow(struct erased *set)
{
    size_t n = set->nbuckets == 0 ? BUCKETS_MIN : set->nbuckets * 2;
    struct erased_entry **buckets = calloc(n, sizeof *buckets);
    if (buckets == NULL)
        return; /* longer chains */
    for (size_t i = 0; i < set->nbuckets; i++)
        for (struct erased_entry *e = set->buckets[i], *next; e != NULL; e = next) {
            next = e->next;
            struct erased_entry **to = &buckets[str_hash(str_n(e->id, e->len)) % n];
            e->next = *to;
            *to = e;
        }
    free(set->buckets);
    set->buckets = buckets;
    set->nbuckets = n;
}

static struct erased_entry **find(struct erased *set, struct str id)
{
    struct erased_entry **link = bucket(set, id);
    while (*link != NULL && !str_eq(str_n((*link)->id, (*link)->len), id))
        link = &(*link)->next;
    return link;
}

void erased_init(struct erased *set)
{
    pthread_rwlock_init(&set->lock, NULL);
    atomic_store(&set->changes, 1);
}

void erased_release(struct erased *set)
{
    for (size_t i = 0; i < set->nbuckets; i++)
        for (struct erased_entry *e = set->buckets[i], *next; e != NULL; e = next) {
            next = e->next;
            free(e);
        }
    free(set->buckets);
    pthread_rwlock_destroy(&set->lock);
}

enum err erased_set(struct erased *set, struct str id, int64_t at_us, struct errctx *ec)
{
    enum err err = ERR_OK;
    pthread_rwlock_wrlock(&set->lock);
    if (set->count >= set->nbuckets)
        grow(set);
    struct erased_entry **link = set->nbuckets > 0 ? find(set, id) : NULL;
    struct erased_entry *e = link != NULL ? *link : NULL;
    if (at_us == 0 && e != NULL) {
        *link = e->next;
        free(e);
        set->count--;
    } else if (at_us != 0 && e == NULL) {
        e = link != NULL ? malloc(sizeof *e + id.len) : NULL;
        if (e != NULL) {
            *e = (struct erased_entry){.at_us = at_us, .len = id.len};
            memcpy(e->id, id.ptr, id.len);
            *link = e;
            set->count++;
        } else {
            err = err_set(ec, ERR_NO_MEMORY, "out of memory");
        }
    } else if (at_us != 0) {
        e->at_us = at_us;
    }
    pthread_rwlock_unlock(&set->lock);
    atomic_fetch_add(&set->changes, 1);
    return err;
}

int64_t erased_at(struct erased *set, struct str id)
{
    int64_t at_us = 0;
    pthread_rwlock_rdlock(&set->lock);
    const struct erased_entry *e = set->count > 0 ? *find(set, id) : NULL;
    if (e != NULL)
        at_us = e->at_us;
    pthread_rwlock_unlock(&set->lock);
    return at_us;
}

bool store_token_void(struct store *s, struct str user_id, int64_t issued_s)
{
    if (atomic_load(&s->erased.changes) == 1) /* nobody ever was */
        return false;
    int64_t at_us = erased_at(&s->erased, user_id);
    /* Of the second in which it happened nobody can tell which came first. */
    return at_us != 0 && issued_s <= at_us / 1000000;
}

int64_t store_erased_us(struct store *s, struct str user_id)
{
    return erased_at(&s->erased, user_id);
}

uint64_t store_erasures(struct store *s)
{
    return atomic_load(&s->erased.changes);
}
