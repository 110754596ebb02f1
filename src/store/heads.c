/* Two chained hash tables over the same entries. Changes of the running op are undone from a list of earlier
 * values, so that an op that fails leaves no trace in memory either. */
#include "store/committer.h"
#include <stdlib.h>

enum err heads_init(struct heads *h)
{
    *h = (struct heads){.op = 1};
    h->by_id = calloc(HEADS_BUCKETS, sizeof *h->by_id);
    h->by_no = calloc(HEADS_BUCKETS, sizeof *h->by_no);
    return h->by_id != NULL && h->by_no != NULL ? ERR_OK : ERR_NO_MEMORY;
}

void heads_clear(struct heads *h)
{
    for (size_t i = 0; h->by_no != NULL && i < HEADS_BUCKETS; i++) {
        for (struct head_entry *e = h->by_no[i], *next; e != NULL; e = next) {
            next = e->next_by_no;
            free(e);
        }
        h->by_no[i] = NULL;
        h->by_id[i] = NULL;
    }
    h->dirty = NULL;
    h->count = h->nundo = 0;
}

void heads_release(struct heads *h)
{
    if (h->by_id != NULL)
        heads_clear(h);
    free(h->by_id);
    free(h->by_no);
    free(h->undo);
    *h = (struct heads){0};
}

static struct head_entry **id_bucket(struct heads *h, struct str id)
{
    return &h->by_id[str_hash(id) % HEADS_BUCKETS];
}

static struct head_entry **no_bucket(struct heads *h, uint64_t user_no)
{
    return &h->by_no[user_no % HEADS_BUCKETS];
}

struct head_entry *heads_by_id(struct heads *h, struct str user_id)
{
    struct head_entry *e = *id_bucket(h, user_id);
    while (e != NULL && !str_eq(head_user_id(&e->head), user_id))
        e = e->next_by_id;
    return e;
}

struct head_entry *heads_by_no(struct heads *h, uint64_t user_no)
{
    struct head_entry *e = *no_bucket(h, user_no);
    while (e != NULL && e->user_no != user_no)
        e = e->next_by_no;
    return e;
}

static struct head_undo *undo_add(struct heads *h)
{
    if (h->nundo == h->cap_undo) {
        size_t cap = h->cap_undo == 0 ? 16 : h->cap_undo * 2;
        struct head_undo *grown = realloc(h->undo, cap * sizeof *grown);
        if (grown == NULL)
            return NULL;
        h->undo = grown;
        h->cap_undo = cap;
    }
    return &h->undo[h->nundo++];
}

static void mark_dirty(struct heads *h, struct head_entry *e)
{
    if (!e->dirty) {
        e->dirty = true;
        e->next_dirty = h->dirty;
        h->dirty = e;
    }
}

struct head_entry *heads_add(struct heads *h, uint64_t user_no, const struct head *head, bool created)
{
    struct head_entry *e = calloc(1, sizeof *e + head->user_id_len);
    struct head_undo *undo = created && e != NULL ? undo_add(h) : NULL;
    if (e == NULL || (created && undo == NULL)) {
        free(e);
        return NULL;
    }
    e->user_no = user_no;
    e->head = *head;
    memcpy(e->user_id, head->user_id, head->user_id_len);
    e->head.user_id = e->user_id;
    struct head_entry **id = id_bucket(h, head_user_id(head)), **no = no_bucket(h, user_no);
    e->next_by_id = *id;
    *id = e;
    e->next_by_no = *no;
    *no = e;
    h->count++;
    if (created) {
        *undo = (struct head_undo){.entry = e, .created = true};
        e->touched_op = h->op;
        mark_dirty(h, e);
    }
    return e;
}

enum err heads_touch(struct heads *h, struct head_entry *e)
{
    if (e->touched_op == h->op)
        return ERR_OK;
    struct head_undo *undo = undo_add(h);
    if (undo == NULL)
        return ERR_NO_MEMORY;
    *undo = (struct head_undo){.entry = e, .created = false, .head = e->head};
    e->touched_op = h->op;
    mark_dirty(h, e);
    return ERR_OK;
}

void heads_begin_op(struct heads *h)
{
    h->op++;
    h->nundo = 0;
}

static void unlink_entry(struct heads *h, struct head_entry *e)
{
    struct head_entry **p = id_bucket(h, head_user_id(&e->head));
    while (*p != e)
        p = &(*p)->next_by_id;
    *p = e->next_by_id;
    p = no_bucket(h, e->user_no);
    while (*p != e)
        p = &(*p)->next_by_no;
    *p = e->next_by_no;
    p = &h->dirty;
    while (*p != NULL && *p != e)
        p = &(*p)->next_dirty;
    if (*p == e)
        *p = e->next_dirty;
    h->count--;
    free(e);
}

void heads_undo_op(struct heads *h)
{
    /* A head that stays marked dirty though restored is written once more as it was: harmless. */
    while (h->nundo > 0) {
        struct head_undo *u = &h->undo[--h->nundo];
        if (u->created)
            unlink_entry(h, u->entry);
        else
            u->entry->head = u->head;
    }
    h->op++;
}

void heads_written(struct heads *h)
{
    for (struct head_entry *e = h->dirty, *next; e != NULL; e = next) {
        next = e->next_dirty;
        e->dirty = false;
        e->next_dirty = NULL;
    }
    h->dirty = NULL;
    h->nundo = 0;
    if (h->count > HEADS_MAX)
        heads_clear(h);
}
