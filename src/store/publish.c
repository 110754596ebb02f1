/* From changes in commit order to one event per user. Changes wait here until the fsync that covers them. */
#include "store/committer.h"
#include <stdlib.h>

enum err pending_add(struct pending *p, uint64_t user_no, const struct change *c)
{
    if (p->count == p->cap) {
        size_t cap = p->cap == 0 ? 64 : p->cap * 2;
        struct pending_change *grown = realloc(p->items, cap * sizeof *grown);
        if (grown == NULL)
            return ERR_NO_MEMORY;
        p->items = grown;
        p->cap = cap;
    }
    struct change copy = *c;
    copy.conversation_id = arena_str(&p->arena, c->conversation_id);
    copy.row = arena_str(&p->arena, c->row);
    if (copy.conversation_id.ptr == NULL || copy.row.ptr == NULL) {
        p->arena.failed = false;
        return ERR_NO_MEMORY;
    }
    p->items[p->count] = (struct pending_change){user_no, p->count, copy};
    p->count++;
    return ERR_OK;
}

void pending_clear(struct pending *p)
{
    p->count = 0;
    arena_clear(&p->arena);
}

void commit_event_ref(struct commit_event *ev)
{
    atomic_fetch_add_explicit(&ev->refs, 1, memory_order_relaxed);
}

void commit_event_unref(struct commit_event *ev)
{
    if (atomic_fetch_sub_explicit(&ev->refs, 1, memory_order_acq_rel) != 1)
        return;
    arena_release(&ev->arena);
    free(ev);
}

static struct commit_event *event_of(const struct pending_change *items, size_t n)
{
    struct commit_event *ev = calloc(1, sizeof *ev);
    if (ev == NULL)
        return NULL;
    atomic_init(&ev->refs, 1);
    ev->user_no = items[0].user_no;
    arena_init(&ev->arena, SIZE_MAX / 2);
    ev->changes = arena_array(&ev->arena, n, sizeof *ev->changes);
    for (size_t i = 0; ev->changes != NULL && i < n; i++) {
        ev->changes[i] = items[i].change;
        ev->changes[i].conversation_id = arena_str(&ev->arena, items[i].change.conversation_id);
        ev->changes[i].row = arena_str(&ev->arena, items[i].change.row);
    }
    if (arena_failed(&ev->arena)) {
        commit_event_unref(ev);
        return NULL;
    }
    ev->nchanges = n;
    return ev;
}

static int by_user(const void *a, const void *b)
{
    const struct pending_change *x = a, *y = b;
    if (x->user_no != y->user_no)
        return x->user_no < y->user_no ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

void pending_publish(struct pending *p, const struct store_listener *l)
{
    bool sorted = true;
    for (size_t i = 1; i < p->count && sorted; i++)
        sorted = p->items[i - 1].user_no <= p->items[i].user_no;
    if (!sorted)
        qsort(p->items, p->count, sizeof *p->items, by_user);
    for (size_t i = 0, end; i < p->count && l->committed != NULL; i = end) {
        for (end = i + 1; end < p->count && p->items[end].user_no == p->items[i].user_no; end++)
            ;
        struct commit_event *ev = event_of(p->items + i, end - i);
        if (ev == NULL) {
            if (l->reset != NULL)
                l->reset(l->arg);
            continue;
        }
        l->committed(l->arg, ev);
        commit_event_unref(ev);
    }
    pending_clear(p);
}
