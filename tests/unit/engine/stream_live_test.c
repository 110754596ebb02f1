/* Subscribers of streamed messages, at random: they come and resume in the middle, read slowly, fall off the
 * ring, and merge what they get by offset. Whatever happens, a piece begins where their text ends (or at 0,
 * in place of it), and in the end everybody holds what is stored. */
#include "engine_fixture.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CLIENTS = 6, OPEN_MAX = 5, MESSAGES_MAX = 400, STEPS = 6000, TEXT_MAX = 4096 };

struct message {
    int64_t id;
    char text[TEXT_MAX];
    size_t len;
    bool open;
};

struct held {
    bool known;
    char text[TEXT_MAX];
    size_t len;
};

struct client {
    struct kalamdb_subscription *sub;
    uint64_t seq;
    bool replaying, acked;
    _Atomic bool woken;
    struct held held[MESSAGES_MAX];
};

static struct engine *eng;
static struct kalamdb_producer *producer;
static struct message messages[MESSAGES_MAX];
static int nmessages, states, appends, falls;
static struct client clients[CLIENTS];
static unsigned seed;

static unsigned rnd(unsigned n)
{
    seed = seed * 1103515245u + 12345u;
    return (seed >> 8) % n;
}

static const struct kalamdb_caller alice = {.user_id = {"alice", 5}, .role = KALAMDB_USER};

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

/* ---- the producer ---- */

static void on_producer(void *arg)
{
    (void)arg;
}

/* The next event of this kind; acknowledgements are passed over. */
static struct kalamdb_stream_event await(enum kalamdb_stream_event_kind kind)
{
    struct kalamdb_stream_event ev;
    for (int i = 0; i < 100000; i++) {
        if (kalamdb_producer_next(producer, &ev) == KALAMDB_STREAM_PENDING)
            nap();
        else if (ev.kind == KALAMDB_STREAM_ERROR)
            fail_msg("%s", ev.error.message);
        else if (ev.kind == kind)
            return ev;
    }
    fail_msg("no event %d", (int)kind);
    return ev;
}

static void begin(void)
{
    int open = 0;
    for (int i = 0; i < nmessages; i++)
        open += messages[i].open;
    if (open >= OPEN_MAX || nmessages == MESSAGES_MAX)
        return;
    struct kalamdb_stream_begin b = {.caller = alice, .conversation_id = {"c", 1}, .from = {"assistant", 9}};
    kalamdb_stream_begin(producer, &b, 1);
    messages[nmessages++] = (struct message){.id = await(KALAMDB_STREAM_BEGUN).msg_id, .open = true};
}

static struct message *any_open(void)
{
    for (int tries = 0; tries < 50 && nmessages > 0; tries++) {
        struct message *m =
            &messages[(unsigned)nmessages - 1 - rnd(nmessages < 12 ? (unsigned)nmessages : 12)];
        if (m->open)
            return m;
    }
    return NULL;
}

static void append(void)
{
    struct message *m = any_open();
    if (m == NULL || m->len + 40 > TEXT_MAX)
        return;
    size_t at = m->len;
    for (unsigned n = 1 + rnd(12); n > 0; n--) {
        const char *c = rnd(5) == 0 ? "\xc3\xa4" : rnd(2) == 0 ? "x" : "yz";
        memcpy(m->text + m->len, c, strlen(c));
        m->len += strlen(c);
    }
    kalamdb_stream_append(producer, &alice, m->id, at, (struct kalamdb_str){m->text + at, m->len - at}, 0);
    appends++;
}

static void end(void)
{
    struct message *m = any_open();
    if (m == NULL)
        return;
    kalamdb_stream_end(producer, &alice, m->id, (struct kalamdb_str){NULL, 0}, 2);
    (void)await(KALAMDB_STREAM_ENDED);
    m->open = false;
}

/* The producer goes away; another goes on with what it had. */
static void change_producer(void)
{
    struct kalamdb_error error;
    kalamdb_producer_close(producer);
    assert_int_equal(kalamdb_producer_open(eng->db, on_producer, NULL, &producer, &error), KALAMDB_OK);
    for (int i = 0; i < nmessages; i++)
        if (messages[i].open) {
            /* Appends on their way when it went may not have been taken; the whole text is sent again. */
            kalamdb_stream_append(producer, &alice, messages[i].id, 0,
                (struct kalamdb_str){messages[i].text, messages[i].len}, 0);
        }
}

/* ---- subscribers ---- */

static void on_wake(void *arg)
{
    ((struct client *)arg)->woken = true;
}

static void subscribe(struct client *c)
{
    struct kalamdb_error error;
    struct kalamdb_subscribe o = {.caller = alice, .wake = on_wake, .arg = c};
    if (rnd(3) != 0) { /* what is held stays, and the cursor with it */
        o.has_last_seq = true;
        o.last_seq = c->seq;
    } else {
        memset(c->held, 0, sizeof c->held);
    }
    c->replaying = o.has_last_seq;
    c->acked = false;
    assert_int_equal(kalamdb_subscribe(eng->db, &o, &c->sub, &error), KALAMDB_OK);
}

static int64_t field(struct kalamdb_str json, const char *name)
{
    char key[32];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *p = memmem(json.ptr, json.len, key, strlen(key));
    assert_non_null(p);
    return strtoll(p + strlen(key), NULL, 10);
}

static struct kalamdb_str text_field(struct kalamdb_str json, const char *name)
{
    char key[32];
    snprintf(key, sizeof key, "\"%s\":\"", name);
    const char *p = memmem(json.ptr, json.len, key, strlen(key));
    assert_non_null(p);
    p += strlen(key);
    return (struct kalamdb_str){p, (size_t)((const char *)memchr(p, '"', json.len) - p)};
}

static struct held *held_of(struct client *c, int64_t id)
{
    for (int i = 0; i < nmessages; i++)
        if (messages[i].id == id)
            return &c->held[i];
    fail_msg("nobody began message %lld", (long long)id);
    return NULL;
}

static void merge(struct client *c, const struct kalamdb_event *ev)
{
    struct kalamdb_str json = kalamdb_change_json(ev->change);
    struct held *h = held_of(c, field(json, "msg_id"));
    bool append = ev->kind == KALAMDB_EVENT_APPEND;
    struct kalamdb_str text = text_field(json, append ? "text" : "content");
    size_t offset = append ? (size_t)field(json, "offset") : 0;
    if (offset > 0) {
        assert_true(h->known);
        assert_int_equal(offset, h->len);
    } else if (append && h->known && h->len > 0) {
        states++;
        assert_true(text.len >= h->len); /* at least what it had, when it had it right */
        assert_memory_equal(text.ptr, h->text, h->len);
    }
    assert_true(offset + text.len <= TEXT_MAX);
    memcpy(h->text + offset, text.ptr, text.len);
    h->len = offset + text.len;
    h->known = true;
    kalamdb_change_unref(ev->change);
}

static void pump(struct client *c, unsigned max)
{
    struct kalamdb_event ev;
    for (unsigned i = 0; i < max; i++) {
        switch (kalamdb_subscription_next(c->sub, &ev)) {
        case KALAMDB_EVENT_PENDING:
            return;
        case KALAMDB_EVENT_ACK:
            assert_false(ev.resync);
            c->acked = true;
            if (!c->replaying)
                c->seq = ev.seq;
            break;
        case KALAMDB_EVENT_CHANGE:
            assert_true(ev.seq > c->seq);
            c->seq = ev.seq;
            merge(c, &ev);
            break;
        case KALAMDB_EVENT_APPEND:
            assert_true(c->acked);
            merge(c, &ev);
            break;
        case KALAMDB_EVENT_REPLAY_COMPLETE:
            c->replaying = false;
            c->seq = ev.seq;
            break;
        case KALAMDB_EVENT_CONVERSATION:
            kalamdb_change_unref(ev.change);
            break;
        default:
            fail_msg("event %d", (int)ev.kind);
        }
    }
}

static bool holds_all(const struct client *c)
{
    for (int i = 0; i < nmessages; i++)
        if (c->held[i].known && (c->held[i].len != messages[i].len ||
                                    memcmp(c->held[i].text, messages[i].text, messages[i].len) != 0))
            return false;
    return !c->replaying && c->acked;
}

static void settle(struct client *c)
{
    for (int i = 0; i < 20000 && !holds_all(c); i++) {
        pump(c, 1000);
        nap();
    }
    assert_true(holds_all(c));
}

static void run_round(unsigned n)
{
    struct engine e;
    struct kalamdb_error error;
    seed = n;
    nmessages = 0;
    memset(clients, 0, sizeof clients);
    engine_open(&e);
    eng = &e;
    assert_int_equal(kalamdb_producer_open(e.db, on_producer, NULL, &producer, &error), KALAMDB_OK);
    for (int i = 0; i < CLIENTS; i++)
        subscribe(&clients[i]);
    for (int step = 0; step < STEPS; step++) {
        struct client *c = &clients[rnd(CLIENTS)];
        unsigned what = rnd(100);
        if (what < 70)
            append();
        else if (what < 75)
            begin();
        else if (what < 77)
            end();
        else if (what < 97)
            pump(c, c == &clients[0] ? 1 : 1 + rnd(40)); /* the first one is slow */
        else if (what < 99 && c != &clients[0]) {
            kalamdb_unsubscribe(c->sub);
            subscribe(c);
        } else if (what == 99 && rnd(10) == 0) {
            change_producer();
        }
    }
    while (any_open() != NULL)
        end();
    for (int i = 0; i < nmessages; i++) { /* any_open looks among the newest */
        if (!messages[i].open)
            continue;
        kalamdb_stream_end(producer, &alice, messages[i].id, (struct kalamdb_str){NULL, 0}, 2);
        (void)await(KALAMDB_STREAM_ENDED);
    }
    for (int i = 0; i < nmessages; i++) {
        char sql[100];
        struct kalamdb_value v;
        struct kalamdb_result *r;
        int len = snprintf(
            sql, sizeof sql, "SELECT content FROM messages WHERE msg_id = %lld", (long long)messages[i].id);
        struct kalamdb_statement st = {.caller = alice, .sql = {sql, (size_t)len}};
        assert_int_equal(kalamdb_exec(e.db, &st, &r, &error), KALAMDB_OK);
        assert_int_equal(kalamdb_result_rows(r), 1);
        kalamdb_result_value(r, 0, 0, &v);
        assert_int_equal(v.s.len, messages[i].len);
        assert_memory_equal(v.s.ptr, messages[i].text, messages[i].len);
        kalamdb_result_free(r);
    }
    for (int i = 0; i < CLIENTS; i++) {
        settle(&clients[i]);
        kalamdb_unsubscribe(clients[i].sub);
    }
    kalamdb_producer_close(producer);
    struct live_stats stats;
    live_stats(e.db->live, &stats);
    falls += (int)stats.catchups;
    engine_close(&e);
}

static void test_rounds(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= 4; n++)
        run_round(n);
    /* The test is one only if all of this happened. */
    assert_true(appends > 5000);
    assert_true(states > 20);
    assert_true(falls > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
