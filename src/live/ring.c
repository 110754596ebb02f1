#include "live/ring.h"
#include <assert.h>
#include <stdlib.h>

#define RING_CAP_MIN 4

static struct ring_place *place(const struct ring *r, uint64_t index)
{
    assert(index >= r->first && index < ring_tail(r));
    return &r->places[(r->head + (uint32_t)(index - r->first)) & (r->cap - 1)];
}

struct batch *ring_at(const struct ring *r, uint64_t index)
{
    return index == ring_tail(r) ? NULL : place(r, index)->batch;
}

static void pop(struct ring *r)
{
    struct ring_place *p = place(r, r->first);
    r->bytes -= p->batch->bytes;
    if (p->batch->has_conversations)
        r->lost_conversations = r->first + 1;
    changes_unref(p->batch);
    r->head = (r->head + 1) & (r->cap - 1);
    r->first++;
    if (--r->count == 0) {
        free(r->places);
        r->places = NULL;
        r->cap = r->head = 0;
    }
}

static void pop_unread(struct ring *r)
{
    while (r->count > 0 && place(r, r->first)->readers == 0)
        pop(r);
}

static bool grow(struct ring *r)
{
    uint32_t cap = r->cap == 0 ? RING_CAP_MIN : r->cap * 2;
    struct ring_place *places = malloc(cap * sizeof *places);
    if (cap < r->cap || places == NULL) {
        free(places);
        return false;
    }
    for (uint32_t i = 0; i < r->count; i++)
        places[i] = *place(r, r->first + i);
    free(r->places);
    r->places = places;
    r->cap = cap;
    r->head = 0;
    return true;
}

bool ring_push(struct ring *r, struct batch *b, uint32_t readers)
{
    if (readers == 0 && r->count == 0) {
        r->first++;
        if (b->has_conversations)
            r->lost_conversations = r->first;
        changes_unref(b);
        return true;
    }
    if (r->count == r->cap && !grow(r))
        return false;
    r->count++;
    *place(r, ring_tail(r) - 1) = (struct ring_place){b, readers};
    r->bytes += b->bytes;
    return true;
}

void ring_leave(struct ring *r, uint64_t index)
{
    if (index < r->first || index >= ring_tail(r))
        return;
    struct ring_place *p = place(r, index);
    assert(p->readers > 0);
    p->readers--;
    pop_unread(r);
}

void ring_advance(struct ring *r, uint64_t index)
{
    if (index + 1 < ring_tail(r))
        place(r, index + 1)->readers++;
    ring_leave(r, index);
}

void ring_trim(struct ring *r, size_t bytes_max)
{
    while (r->count > 0 && r->bytes > bytes_max)
        pop(r);
    /* The readers that stood at the dropped places are gone from the counts. */
    pop_unread(r);
}

void ring_drop(struct ring *r)
{
    while (r->count > 0)
        pop(r);
    r->first++;
    r->lost_conversations = r->first;
}

bool ring_misses_conversations(const struct ring *r, uint64_t index)
{
    if (index < r->lost_conversations)
        return true;
    for (uint64_t i = index < r->first ? r->first : index; i < ring_tail(r); i++)
        if (place(r, i)->batch->has_conversations)
            return true;
    return false;
}
