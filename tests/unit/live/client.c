#include "client.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void on_wake(void *arg)
{
    struct client *c = arg;
    c->wakes++;
}

static void note(struct client *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(struct client *c, const char *fmt, ...)
{
    if (c->quiet)
        return;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(c->trace + c->trace_len, sizeof c->trace - c->trace_len, fmt, args);
    va_end(args);
    c->trace_len += (size_t)n;
    assert_true(c->trace_len < sizeof c->trace);
}

const char *client_trace(struct client *c)
{
    static char copy[sizeof c->trace];
    while (c->trace_len > 0 && c->trace[c->trace_len - 1] == ' ')
        c->trace_len--;
    memcpy(copy, c->trace, c->trace_len);
    copy[c->trace_len] = 0;
    c->trace_len = 0;
    return copy;
}

void client_start(struct client *c, struct live *l, struct live_subscribe *o)
{
    struct errctx ec;
    o->wake = on_wake;
    o->arg = c;
    c->filter = o->conversation_id.ptr;
    c->replaying = o->has_last_seq || o->has_last_msg_id;
    if (o->has_last_seq)
        c->seq = o->last_seq;
    assert_int_equal(live_subscribe(l, o, &c->sub, &ec), ERR_OK);
}

void client_stop(struct client *c)
{
    live_unsubscribe(c->sub);
    c->sub = NULL;
    client_release(c);
}

void client_release(struct client *c)
{
    free(c->held);
    c->held = NULL;
    c->cap = 0;
}

static struct held *held_of(struct client *c, int64_t msg_id)
{
    assert_true(msg_id >= 1000);
    size_t i = (size_t)(msg_id - 1000);
    if (i >= c->cap) {
        size_t cap = (i + 16) * 2;
        c->held = realloc(c->held, cap * sizeof *c->held);
        memset(c->held + c->cap, 0, (cap - c->cap) * sizeof *c->held);
        c->cap = cap;
    }
    return &c->held[i];
}

static void text_of(const char *json, const char *key, char *ret, size_t cap)
{
    const char *p = strstr(json, key);
    ret[0] = 0;
    if (p == NULL)
        return;
    p += strlen(key);
    const char *end = strchr(p, '"');
    assert_non_null(end);
    snprintf(ret, cap, "%.*s", (int)(end - p), p);
}

static void on_change(struct client *c, const struct live_event *ev)
{
    struct str s = live_change_json(ev->change);
    assert_non_null(s.ptr);
    char json[1024];
    assert_true(s.len < sizeof json);
    memcpy(json, s.ptr, s.len);
    json[s.len] = 0;
    const char *id = strstr(json, "\"msg_id\":");
    assert_non_null(id);
    struct held *h = held_of(c, strtoll(id + 9, NULL, 10));
    h->msg_id = strtoll(id + 9, NULL, 10);
    text_of(json, "\"conversation_id\":\"", h->conversation, sizeof h->conversation);
    text_of(json, "\"content\":\"", h->content, sizeof h->content);
    if (c->filter != NULL)
        assert_string_equal(h->conversation, c->filter);

    assert_true(ev->seq > c->seq);
    c->seq = ev->seq;
    if (ev->op == CHANGE_INSERT) {
        assert_true(!h->there || c->loose);
        c->inserts++;
    } else if (ev->op == CHANGE_UPDATE) {
        assert_true(h->there || c->loose);
        c->updates++;
    } else {
        assert_true(h->there || c->loose);
        assert_int_equal(h->content[0], 0);
        c->deletes++;
    }
    h->there = ev->op != CHANGE_DELETE;
    if (h->there) {
        char expected[40];
        snprintf(expected, sizeof expected, "v%llu", (unsigned long long)ev->seq);
        assert_string_equal(h->content, expected);
    }
    note(c, "%c%llu ", "iud"[ev->op], (unsigned long long)ev -> seq);
}

void client_event(struct client *c, const struct live_event *ev)
{
    if (c->acked && ev->kind != LIVE_PENDING && ev->kind != LIVE_CLOSED)
        assert_true(str_eq(ev->feed, str_c(c->feed)));
    switch (ev->kind) {
    case LIVE_ACK:
        assert_false(c->acked);
        c->acked = true;
        c->ack_seq = ev->seq;
        c->resync = ev->resync;
        snprintf(c->feed, sizeof c->feed, "%.*s", STR_FMT(ev->feed));
        if (ev->resync) {
            c->seq = 0;
            c->replaying = true;
        } else if (!c->replaying) {
            c->seq = ev->seq;
        }
        note(c, ev->resync ? "R%llu " : "A%llu ", (unsigned long long)ev->seq);
        break;
    case LIVE_CHANGE:
        assert_true(c->acked);
        on_change(c, ev);
        break;
    case LIVE_REPLAY_COMPLETE:
        assert_true(c->replaying);
        c->replaying = false;
        c->completes++;
        c->complete_seq = ev->seq;
        c->complete_count = ev->message_count;
        c->complete_last = ev->last_msg_id;
        assert_true(ev->seq >= c->seq);
        c->seq = ev->seq;
        note(c, "=%llu ", (unsigned long long)ev->seq);
        break;
    case LIVE_CONVERSATION: {
        struct str s = live_change_json(ev->change);
        assert_true(memmem(s.ptr, s.len, "\"total_messages\":3", 18) != NULL);
        c->conversations++;
        note(c, "c ");
        break;
    }
    case LIVE_CLOSED:
        c->closed = true;
        c->code = ev->code;
        note(c, "X ");
        break;
    case LIVE_APPEND: /* no test with this client has open messages or signals */
    case LIVE_SIGNAL:
        fail();
    case LIVE_PENDING:
        break;
    }
}

int client_pump(struct client *c, int max)
{
    struct live_event ev;
    int n = 0, pauses = 0;
    while (!c->closed && (max == 0 || n < max)) {
        int wakes = c->wakes;
        if (live_next(c->sub, &ev) == LIVE_PENDING) {
            /* Woken by its own call: it only lets others run. */
            if (c->wakes > wakes && pauses++ < 1000000)
                continue;
            break;
        }
        client_event(c, &ev);
        if (ev.change != NULL)
            live_change_unref(ev.change);
        n++;
    }
    return n;
}
