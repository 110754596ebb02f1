#include "follower.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void on_wake(void *arg)
{
    struct follower *r = arg;
    pthread_mutex_lock(&r->lock);
    r->ready = true;
    pthread_cond_signal(&r->woken);
    pthread_mutex_unlock(&r->lock);
}

void follower_start(struct follower *r, struct live *l, struct live_subscribe o)
{
    struct errctx ec;
    *r = (struct follower){.lock = PTHREAD_MUTEX_INITIALIZER, .woken = PTHREAD_COND_INITIALIZER};
    o.wake = on_wake;
    o.arg = r;
    if (o.user_id.ptr == NULL)
        o.user_id = STR("alice");
    assert_int_equal(live_subscribe(l, &o, &r->sub, &ec), ERR_OK);
}

void follower_stop(struct follower *r)
{
    live_unsubscribe(r->sub);
    free(r->seen);
}

static void add(struct follower *r, const struct live_event *ev)
{
    if (r->n == r->cap) {
        r->cap = r->cap == 0 ? 64 : r->cap * 2;
        r->seen = realloc(r->seen, r->cap * sizeof *r->seen);
    }
    struct seen *s = &r->seen[r->n++];
    *s = (struct seen){.op = ev->op, .seq = ev->seq};
    struct str json = live_change_json(ev->change);
    assert_non_null(json.ptr);
    assert_true(str_starts_with(json, STR("{\"msg_id\":")));
    s->id = strtoll(json.ptr + 10, NULL, 10);
    const char *content = memmem(json.ptr, json.len, "\"content\":\"", 11);
    if (content != NULL)
        snprintf(s->content, sizeof s->content, "%.*s", (int)strcspn(content + 11, "\""), content + 11);
}

static void on_event(struct follower *r, const struct live_event *ev)
{
    switch (ev->kind) {
    case LIVE_ACK:
        r->acked = true;
        r->ack_seq = ev->seq;
        r->resync = ev->resync;
        snprintf(r->feed, sizeof r->feed, "%.*s", STR_FMT(ev->feed));
        break;
    case LIVE_CHANGE:
        add(r, ev);
        break;
    case LIVE_REPLAY_COMPLETE:
        r->complete = true;
        r->complete_seq = ev->seq;
        r->count = ev->message_count;
        r->complete_last = ev->last_msg_id;
        break;
    case LIVE_CONVERSATION:
        r->conversations++;
        break;
    case LIVE_CLOSED:
        r->closed = ev->code;
        break;
    case LIVE_APPEND:
    case LIVE_SIGNAL:
    case LIVE_PENDING:
        break;
    }
    if (ev->change != NULL)
        live_change_unref(ev->change);
}

void sleep_until_woken(struct follower *r)
{
    pthread_mutex_lock(&r->lock);
    while (!r->ready)
        pthread_cond_wait(&r->woken, &r->lock);
    r->ready = false;
    pthread_mutex_unlock(&r->lock);
}

bool take_one(struct follower *r)
{
    struct live_event ev;
    if (live_next(r->sub, &ev) == LIVE_PENDING)
        return false;
    on_event(r, &ev);
    assert_int_equal(r->closed, ERR_OK);
    return true;
}

void read_ack(struct follower *r)
{
    while (!r->acked)
        if (!take_one(r))
            sleep_until_woken(r);
}

void read_to(struct follower *r, uint64_t seq)
{
    while (seq > 0 ? r->n == 0 || r->seen[r->n - 1].seq < seq : !r->complete)
        if (!take_one(r))
            sleep_until_woken(r);
}

struct live_subscribe from_seq(uint64_t seq)
{
    return (struct live_subscribe){.has_last_seq = true, .last_seq = seq};
}
