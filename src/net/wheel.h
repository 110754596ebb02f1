/* One timer for everything on a loop: a hashed wheel (Varghese and Lauck 1987, scheme 6). Setting, moving and
 * removing are O(1); an entry due later than one turn stays in its slot and is looked at once a turn. Fires
 * never early, at most one tick late. One thread. */
#ifndef KALAMDB_NET_WHEEL_H
#define KALAMDB_NET_WHEEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WHEEL_TICK_MS 25
#define WHEEL_SLOTS 1024

struct wheel_entry {
    struct wheel_entry *prev, *next; /* NULL: not set */
    uint64_t due_ms;
};
struct wheel {
    struct wheel_entry slots[WHEEL_SLOTS]; /* list heads */
    uint64_t tick;                         /* the last one handled */
    size_t count;
};

void wheel_init(struct wheel *w, uint64_t now_ms);
static inline bool wheel_is_set(const struct wheel_entry *e)
{
    return e->next != NULL;
}
/* Sets or moves. */
void wheel_set(struct wheel *w, struct wheel_entry *e, uint64_t due_ms);
void wheel_unset(struct wheel *w, struct wheel_entry *e);
/* Unsets and fires every entry due by now_ms; `fire` may set and unset any entry. */
void wheel_advance(
    struct wheel *w, uint64_t now_ms, void (*fire)(void *arg, struct wheel_entry *e), void *arg);

#endif
