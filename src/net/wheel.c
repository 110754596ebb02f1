#include "net/wheel.h"

void wheel_init(struct wheel *w, uint64_t now_ms)
{
    for (size_t i = 0; i < WHEEL_SLOTS; i++)
        w->slots[i].prev = w->slots[i].next = &w->slots[i];
    w->tick = now_ms / WHEEL_TICK_MS;
    w->count = 0;
}

static void unlink_entry(struct wheel_entry *e)
{
    e->prev->next = e->next;
    e->next->prev = e->prev;
    e->prev = e->next = NULL;
}

static void link_before(struct wheel_entry *head, struct wheel_entry *e)
{
    e->prev = head->prev;
    e->next = head;
    head->prev->next = e;
    head->prev = e;
}

void wheel_unset(struct wheel *w, struct wheel_entry *e)
{
    if (!wheel_is_set(e))
        return;
    unlink_entry(e);
    w->count--;
}

void wheel_set(struct wheel *w, struct wheel_entry *e, uint64_t due_ms)
{
    wheel_unset(w, e);
    e->due_ms = due_ms;
    uint64_t tick = (due_ms + WHEEL_TICK_MS - 1) / WHEEL_TICK_MS;
    if (tick <= w->tick) /* overdue: the next tick */
        tick = w->tick + 1;
    link_before(&w->slots[tick % WHEEL_SLOTS], e);
    w->count++;
}

/* Entries move to a list of their own first, so that `fire` can change the slot without an entry being seen
 * twice. */
static void fire_slot(struct wheel *w, struct wheel_entry *slot, uint64_t now_ms,
    void (*fire)(void *arg, struct wheel_entry *e), void *arg)
{
    struct wheel_entry due;
    due.prev = due.next = &due;
    for (struct wheel_entry *e = slot->next, *next; e != slot; e = next) {
        next = e->next;
        if (e->due_ms <= now_ms) {
            unlink_entry(e);
            link_before(&due, e);
        }
    }
    while (due.next != &due) {
        struct wheel_entry *e = due.next;
        unlink_entry(e);
        w->count--;
        fire(arg, e);
    }
}

void wheel_advance(
    struct wheel *w, uint64_t now_ms, void (*fire)(void *arg, struct wheel_entry *e), void *arg)
{
    uint64_t now_tick = now_ms / WHEEL_TICK_MS, from = w->tick;
    if (now_tick <= from)
        return;
    w->tick = now_tick; /* first: what `fire` sets as overdue belongs to the next tick */
    uint64_t steps = now_tick - from < WHEEL_SLOTS ? now_tick - from : WHEEL_SLOTS;
    for (uint64_t i = now_tick - steps + 1; i <= now_tick; i++)
        fire_slot(w, &w->slots[i % WHEEL_SLOTS], now_ms, fire, arg);
}
