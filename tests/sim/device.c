/* The devices: each follows one user's changes over a link that delays, breaks and comes back, keeps a copy
 * of what it was shown, and remembers across crashes of the machine only its cursor and that copy. */
#include "world.h"
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Nothing new for so long, when all others have stopped: that was all. */
#define QUIET_US INT64_C(3000000)

static pthread_t threads[DEVICES];
static bool draining;

struct link {
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool wake;
    struct device *device;
    int number;
    bool live;       /* after the replay: every number follows the last */
    uint64_t cursor; /* the last number on this connection */
};

static void wake(void *arg)
{
    struct link *l = arg;
    pthread_mutex_lock(&l->lock);
    l->wake = true;
    pthread_cond_signal(&l->woken);
    pthread_mutex_unlock(&l->lock);
}

/* False: nothing came within the time. */
static bool wait_wake(struct link *l, int64_t us)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    int64_t ns = t.tv_nsec + us % 1000000 * 1000;
    t.tv_sec += us / 1000000 + ns / 1000000000;
    t.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&l->lock);
    if (!l->wake)
        pthread_cond_timedwait(&l->woken, &l->lock, &t);
    bool woken = l->wake;
    l->wake = false;
    pthread_mutex_unlock(&l->lock);
    return woken;
}

/* ---- what a text shows ---- */

int64_t tag_of(const char *client_id)
{
    char *end;
    if (client_id == NULL || client_id[0] != 'c')
        return -1;
    long long tag = strtoll(client_id + 1, &end, 10);
    return *end == '\0' && tag >= 0 && tag < world->nmessages ? tag : -1;
}

uint16_t version_of(uint32_t tag, const char *text, size_t n, bool whole, uint32_t *ret_bytes)
{
    static char want[CONTENT_MAX];
    const struct message *m = &world->messages[tag];
    *ret_bytes = (uint32_t)n;
    if (m->stream) {
        if (n > m->sent_bytes)
            fail("t%u shows %zu bytes of a stream, %u were sent", tag, n, m->sent_bytes);
        stream_text(tag, 0, n, want);
        if (memcmp(want, text, n) != 0)
            fail("t%u shows other bytes than were sent", tag);
        return 0;
    }
    unsigned t = 0, v = 0;
    char head[32];
    snprintf(head, sizeof head, "%.*s", (int)(n < 31 ? n : 31), text);
    if (sscanf(head, "t%u v%u ", &t, &v) != 2 || t != tag || v > m->tried)
        fail("t%u shows a text that was never sent: '%.40s'", tag, head);
    bool large = m->large[v & 3];
    size_t len = content_of(tag, (uint16_t)v, large, want);
    size_t expect = large && !whole ? 1024 : len;
    if (n != expect || memcmp(want, text, n) != 0)
        fail("t%u v%u shows %zu bytes that differ from the %zu sent", tag, v, n, expect);
    return (uint16_t)v;
}

void log_check(int user, uint64_t seq, uint32_t tag, uint16_t version, bool there)
{
    uint64_t is = (uint64_t)tag << 24 | (uint64_t)version << 8 | (there ? 2u : 1u);
    if (seq == 0 || seq >= SEQS_MAX)
        fail("change number %llu of u%d", (unsigned long long)seq, user);
    uint64_t *at = &world->log[user][seq];
    if (*at == 0)
        *at = is;
    if (*at != is)
        fail("number %llu of u%d was t%llu v%llu %s, and is t%u v%u %s", (unsigned long long)seq, user,
            (unsigned long long)(*at >> 24), (unsigned long long)(*at >> 8 & 0xffff),
            (*at & 2) ? "there" : "gone", tag, version, there ? "there" : "gone");
}

/* ---- events ---- */

static int64_t tag_by_id(int64_t id)
{
    for (uint32_t tag = 0; tag < world->nmessages; tag++)
        if (world->messages[tag].id == id)
            return tag;
    return -1;
}

static void number_follows(struct link *l, uint64_t seq)
{
    if (seq <= l->cursor)
        fail("device %d got number %llu after %llu", l->number, (unsigned long long)seq,
            (unsigned long long)l->cursor);
    /* What comes from storage is folded: there numbers of changes that later ones cover may be missing. */
    if (l->live && seq != l->cursor + 1 && !world->short_rings && world->faults_hit == 0)
        fail("device %d got number %llu after %llu: some are lost", l->number, (unsigned long long)seq,
            (unsigned long long)l->cursor);
    l->cursor = seq;
}

static json_t *parse(const struct kalamdb_event *ev)
{
    struct kalamdb_str s = kalamdb_change_json(ev->change);
    json_error_t e;
    json_t *row = json_loadb(s.ptr, s.len, 0, &e);
    if (row == NULL)
        fail("an event is no JSON: %s", e.text);
    return row;
}

static int64_t id_of(json_t *row)
{
    json_t *id = json_object_get(row, "msg_id");
    return json_is_string(id) ? strtoll(json_string_value(id), NULL, 10) : json_integer_value(id);
}

static void on_change(struct link *l, const struct kalamdb_event *ev)
{
    struct device *d = l->device;
    json_t *row = parse(ev);
    int64_t id = id_of(row), tag;
    number_follows(l, ev->seq);
    if (ev->op == KALAMDB_DELETE) {
        tag = tag_by_id(id);
        if (tag >= 0) {
            log_check(d->user, ev->seq, (uint32_t)tag, 0, false);
            d->copy[tag] = (struct held){.seq = ev->seq};
        }
    } else {
        tag = tag_of(json_string_value(json_object_get(row, "client_msg_id")));
        if (tag < 0)
            fail("device %d got a row that nobody sent", l->number);
        struct message *m = &world->messages[tag];
        if ((m->may & 1u << d->user) == 0)
            fail("device %d of u%d got t%lld, which is not theirs", l->number, d->user, (long long)tag);
        if (m->fate == NOT_THERE)
            fail("device %d got t%lld, which was refused", l->number, (long long)tag);
        json_t *text = json_object_get(row, "content");
        uint32_t bytes;
        uint16_t v =
            version_of((uint32_t)tag, json_string_value(text), json_string_length(text), false, &bytes);
        if (m->id != 0 && m->id != id)
            fail("t%lld has id %lld, and %lld", (long long)tag, (long long)m->id, (long long)id);
        m->id = id;
        m->seen = true;
        if (id > world->floor_id)
            world->floor_id = id;
        log_check(d->user, ev->seq, (uint32_t)tag, v, true);
        d->copy[tag] = (struct held){.seq = ev->seq, .version = v, .there = true, .bytes = bytes};
    }
    json_decref(row);
}

/* Text of a stream; one that begins at 0 stands in place of what was there. */
static void on_append(struct link *l, const struct kalamdb_event *ev)
{
    json_t *row = parse(ev);
    int64_t tag = tag_by_id(id_of(row)), offset = json_integer_value(json_object_get(row, "offset"));
    json_t *text = json_object_get(row, "text");
    size_t n = json_string_length(text);
    if (tag < 0 || !l->device->copy[tag].there)
        fail("device %d got text for a row that it does not have", l->number);
    struct held *h = &l->device->copy[tag];
    const struct message *m = &world->messages[tag];
    if (offset != 0 && offset != h->bytes)
        fail("device %d got text of t%lld at %lld, and has %u bytes", l->number, (long long)tag,
            (long long)offset, h->bytes);
    char want[CONTENT_MAX];
    if ((size_t)offset + n > m->sent_bytes)
        fail("device %d got more text of t%lld than was sent", l->number, (long long)tag);
    stream_text((uint32_t)tag, (size_t)offset, n, want);
    if (memcmp(want, json_string_value(text), n) != 0)
        fail("device %d got other text of t%lld than was sent", l->number, (long long)tag);
    h->bytes = (uint32_t)offset + (uint32_t)n;
    json_decref(row);
}

static void on_ack(struct link *l, const struct kalamdb_event *ev)
{
    struct device *d = l->device;
    trace("device %d: ack seq %llu, cursor %llu%s", l->number, (unsigned long long)ev->seq,
        (unsigned long long)d->cursor, ev->resync ? ", resync" : "");
    if (ev->resync)
        fail("device %d must begin anew, though nothing was forgotten", l->number);
    if (ev->seq < d->cursor)
        fail("device %d was shown number %llu, and the log ends at %llu", l->number,
            (unsigned long long)d->cursor, (unsigned long long)ev->seq);
    snprintf(d->feed, sizeof d->feed, "%.*s", (int)ev->feed.len, ev->feed.ptr);
    d->has_cursor = true;
}

/* False: the connection ended. */
static bool on_event(struct link *l, const struct kalamdb_event *ev)
{
    world->events++;
    if (ev->kind == KALAMDB_EVENT_ACK)
        on_ack(l, ev);
    else if (ev->kind == KALAMDB_EVENT_CHANGE)
        on_change(l, ev), moment_comes(WHEN_TOLD);
    else if (ev->kind == KALAMDB_EVENT_APPEND)
        on_append(l, ev);
    else if (ev->kind == KALAMDB_EVENT_REPLAY_COMPLETE) {
        if (ev->seq < l->cursor)
            fail("device %d: the replay ends at %llu after %llu", l->number, (unsigned long long)ev->seq,
                (unsigned long long)l->cursor);
        l->cursor = ev->seq;
        l->live = true;
    }
    if (ev->change != NULL)
        kalamdb_change_unref(ev->change);
    l->device->cursor = l->cursor;
    return ev->kind != KALAMDB_EVENT_CLOSED;
}

/* ---- one connection ---- */

static bool connect_once(struct link *l, struct kalamdb_subscription **ret)
{
    struct device *d = l->device;
    struct kalamdb_error error;
    l->live = false;
    l->wake = false;
    l->cursor = d->cursor;
    struct kalamdb_subscribe options = {.caller = {.user_id = user_name(d->user)},
        .has_last_seq = true,
        .last_seq = d->cursor,
        .feed = {d->has_cursor ? d->feed : NULL, d->has_cursor ? strlen(d->feed) : 0},
        .wake = wake,
        .arg = l};
    return kalamdb_subscribe(db, &options, ret, &error) == KALAMDB_OK;
}

/* True: all is quiet, and this was to be the end. */
static bool follow(struct link *l, struct kalamdb_subscription *s)
{
    bool slow = !draining && chance(4);
    for (;;) {
        struct kalamdb_event ev = {0};
        enum kalamdb_event_kind kind = kalamdb_subscription_next(s, &ev);
        if (kind == KALAMDB_EVENT_PENDING) {
            bool woken = wait_wake(l, draining ? QUIET_US : 500000);
            if (!woken && draining)
                return true;
        } else {
            ev.kind = kind;
            if (!on_event(l, &ev))
                return false;
            if (slow && !draining)
                sched_sleep_us((int64_t)draw(60000));
        }
        if (!draining && chance(60))
            return false; /* the link breaks */
    }
}

static void *device(void *arg)
{
    struct link l = {.lock = PTHREAD_MUTEX_INITIALIZER, .woken = PTHREAD_COND_INITIALIZER};
    l.number = (int)(intptr_t)arg;
    l.device = &world->devices[l.number];
    l.device->user = (uint8_t)(l.number % USERS);
    for (bool ended = false; !ended;) {
        struct kalamdb_subscription *s;
        sched_sleep_us((int64_t)draw(100000));
        if (!connect_once(&l, &s))
            continue;
        world->reconnects++;
        ended = follow(&l, s);
        kalamdb_unsubscribe(s);
    }
    return NULL;
}

void devices_start(void)
{
    draining = false;
    for (int i = 0; i < DEVICES; i++)
        if (pthread_create(&threads[i], NULL, device, (void *)(intptr_t)i) != 0)
            abort();
}

void devices_stop(void)
{
    draining = true;
    for (int i = 0; i < DEVICES; i++)
        pthread_join(threads[i], NULL);
}
