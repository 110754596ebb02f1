/* The recent changes of one feed, as a queue of batches with a count of readers per place.
 *
 * Every place has an index that only grows. A reader stands at an index: [first, tail) is inside, tail is
 * "has read everything", below first is lost (the place was dropped at the cap, storage has to serve it). A
 * place counts the readers that stand at it; the oldest is freed when nobody stands there, since all others
 * are further. At rest a ring owns no memory. Threading: the owner's lock. */
#ifndef KALAMDB_LIVE_RING_H
#define KALAMDB_LIVE_RING_H

#include "live/change.h"

struct ring_place {
    struct batch *batch;
    uint32_t readers;
};
struct ring {
    struct ring_place *places; /* circular; NULL when empty */
    uint32_t cap, head, count;
    uint64_t first; /* index of places[head] */
    size_t bytes;
    uint64_t lost_conversations; /* 1 + index of the newest place gone that had conversation events */
};

static inline uint64_t ring_tail(const struct ring *r)
{
    return r->first + r->count;
}
/* The batch at `index`; NULL at the tail. The index must not be lost. */
struct batch *ring_at(const struct ring *r, uint64_t index);
/* Appends at the tail, where `readers` readers stand; takes the reference over. False, with nothing changed,
 * when out of memory. Nothing is kept when nobody would read it. */
bool ring_push(struct ring *r, struct batch *b, uint32_t readers);
/* A reader at `index` (inside) goes one on. */
void ring_advance(struct ring *r, uint64_t index);
/* A reader at any index goes away. */
void ring_leave(struct ring *r, uint64_t index);
/* Drops the oldest until at most `bytes_max` are held. */
void ring_trim(struct ring *r, size_t bytes_max);
/* Drops everything, and loses also those who stand at the tail. */
void ring_drop(struct ring *r);
/* Would a reader at `index` that jumps to the tail miss a conversation event? */
bool ring_misses_conversations(const struct ring *r, uint64_t index);

#endif
