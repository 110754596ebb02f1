/* Every race between subscribing, committing, reading and closing, written as a script over the fake store.
 * Long because the scripts are many and share one client; each stands alone. */
#include "client.h"
#include "fake_store.h"
#include "live/catchup.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define RING (256u << 10)

struct world {
    struct store *store;
    struct live *live;
    struct os os;
    int64_t now_us;
};

static int64_t fake_now(void *ctx)
{
    return ((struct world *)ctx)->now_us;
}

static void open_with(struct world *w, size_t ring_bytes)
{
    struct errctx ec;
    *w = (struct world){.store = fake_open(false), .now_us = 1000000000};
    assert_int_equal(live_open(w->store, fake_analytic(w->store), ring_bytes, &w->live, &ec), ERR_OK);
    w->os = *os_posix();
    w->os.monotonic_us = fake_now;
    w->os.ctx = w;
    w->live->os = &w->os;
}

static void close_world(struct world *w)
{
    struct live_stats st;
    live_close_all(w->live);
    assert_int_equal(fake_open_snapshots(w->store), 0);
    live_stats(w->live, &st);
    assert_int_equal(st.subscriptions, 0);
    assert_int_equal(st.feeds, 0);
    assert_int_equal(st.ring_bytes, 0);
    live_close(w->live);
    fake_close(w->store);
}

static struct live_subscribe everything(void)
{
    return (struct live_subscribe){.user_id = STR("alice")};
}

static struct live_subscribe from_seq(uint64_t seq)
{
    return (struct live_subscribe){.user_id = STR("alice"), .has_last_seq = true, .last_seq = seq};
}

static struct live_subscribe from_msg(int64_t id)
{
    return (struct live_subscribe){.user_id = STR("alice"), .has_last_msg_id = true, .last_msg_id = id};
}

static void insert(struct world *w, int n)
{
    for (int i = 0; i < n; i++)
        fake_insert(w->store, "alice", "a");
}

/* Pumps, runs what is queued, until nothing moves. */
static void settle(struct world *w, struct client *c)
{
    while (client_pump(c, 0) + fake_run_barriers(w->store) + fake_run_jobs(w->store) > 0)
        ;
}

/* One subscriber from the cursor to the end; gives what it saw. */
static const char *saw(struct world *w, struct live_subscribe o)
{
    struct client c = {0};
    client_start(&c, w->live, &o);
    c.loose = true; /* it holds nothing of what was before its cursor */
    settle(w, &c);
    client_stop(&c);
    return client_trace(&c);
}

static void live_only(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 2);
    struct client c = {0};
    struct live_subscribe o = everything();
    client_start(&c, w.live, &o);
    assert_int_equal(client_pump(&c, 0), 0);
    assert_int_equal(c.wakes, 0);
    insert(&w, 1); /* before the barrier: part of what the ack covers */
    assert_int_equal(fake_run_barriers(w.store), 1);
    assert_int_equal(c.wakes, 1);
    insert(&w, 1); /* after the barrier, before the ack is read: must come */
    assert_int_equal(client_pump(&c, 0), 2);
    assert_string_equal(client_trace(&c), "A3 i4");
    assert_string_equal(c.feed, "feed-alice");
    assert_int_equal(fake_open_snapshots(w.store), 0);
    assert_int_equal(c.wakes, 1);
    insert(&w, 1);
    assert_int_equal(c.wakes, 2);
    fake_update(w.store, "alice", 1000);
    fake_delete(w.store, "alice", 1004);
    assert_int_equal(c.wakes, 2); /* coalesced until the next PENDING */
    c.loose = true;
    client_pump(&c, 0);
    assert_string_equal(client_trace(&c), "i5 u6 d7");
    assert_int_equal(c.wakes, 2);
    fake_insert(w.store, "bob", "a");
    assert_int_equal(c.wakes, 2);
    client_stop(&c);
    close_world(&w);
}

static void change_json_is_the_row(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    struct client c = {0};
    struct live_subscribe o = everything();
    client_start(&c, w.live, &o);
    fake_run_barriers(w.store);
    client_pump(&c, 0);
    insert(&w, 1);
    fake_delete(w.store, "alice", 1000);
    fake_announce(w.store, "alice", "a");
    struct live_event ev;
    assert_int_equal(live_next(c.sub, &ev), LIVE_CHANGE);
    struct str s = live_change_json(ev.change);
    const char *row =
        "{\"msg_id\":1000,\"conversation_id\":\"a\",\"conversation_type\":\"ai\",\"from\":\"alice\","
        "\"timestamp\":\"2025-10-13T12:00:00.000001Z\",\"content\":\"v1\",\"content_ref\":null,"
        "\"metadata\":{\"a\":1},\"client_msg_id\":null}";
    assert_int_equal(s.len, strlen(row));
    assert_memory_equal(s.ptr, row, s.len);
    assert_ptr_equal(live_change_json(ev.change).ptr, s.ptr); /* encoded once */
    struct live_change *kept = ev.change;
    assert_int_equal(live_next(c.sub, &ev), LIVE_CHANGE);
    s = live_change_json(ev.change);
    assert_int_equal(ev.op, CHANGE_DELETE);
    assert_true(str_eq(s, STR("{\"msg_id\":1000,\"conversation_id\":\"a\"}")));
    live_change_unref(ev.change);
    assert_int_equal(live_next(c.sub, &ev), LIVE_CONVERSATION);
    s = live_change_json(ev.change);
    assert_true(str_starts_with(
        s, STR("{\"conversation_id\":\"a\",\"conversation_type\":\"ai\",\"title\":\"title\",")));
    live_change_unref(ev.change);
    assert_int_equal(live_next(c.sub, &ev), LIVE_PENDING);
    client_stop(&c);
    close_world(&w);
    assert_true(live_change_json(kept).len == strlen(row)); /* outlives everything */
    live_change_unref(kept);
}

static void replay_folds(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 4);                       /* 1-4: 1000-1003 */
    fake_update(w.store, "alice", 1000); /* 5 */
    fake_delete(w.store, "alice", 1001); /* 6 */
    insert(&w, 2);                       /* 7, 8: 1004, 1005 */
    fake_update(w.store, "alice", 1004); /* 9 */
    fake_delete(w.store, "alice", 1005); /* 10 */
    fake_update(w.store, "alice", 1002); /* 11 */
    assert_string_equal(saw(&w, from_seq(0)), "A11 i4 i5 i9 i11 =11");
    assert_string_equal(saw(&w, from_seq(1)), "A11 i4 u5 i9 i11 =11");
    assert_string_equal(saw(&w, from_seq(4)), "A11 u5 d6 i9 u11 =11");
    assert_string_equal(saw(&w, from_seq(7)), "A11 u9 u11 =11");
    assert_string_equal(saw(&w, from_seq(8)), "A11 u9 d10 u11 =11");
    assert_string_equal(saw(&w, from_seq(11)), "A11 =11");
    /* The same from files, and from both. */
    fake_consolidate(w.store, "alice");
    assert_string_equal(saw(&w, from_seq(0)), "A11 i4 i5 i9 i11 =11");
    assert_string_equal(saw(&w, from_seq(4)), "A11 u5 d6 i9 u11 =11");
    insert(&w, 1);                       /* 12 */
    fake_update(w.store, "alice", 1003); /* 13: overlay of the row with 4 */
    fake_delete(w.store, "alice", 1000); /* 14 */
    assert_string_equal(saw(&w, from_seq(0)), "A14 i9 i11 i12 i13 =14");
    assert_string_equal(saw(&w, from_seq(8)), "A14 u9 d10 u11 i12 u13 d14 =14");
    int jobs = fake_jobs_done(w.store);
    assert_string_equal(saw(&w, from_seq(11)), "A14 i12 u13 d14 =14");
    assert_int_equal(fake_jobs_done(w.store), jobs); /* all of it is hot */
    close_world(&w);
}

static void complete_says_what_was_replayed(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 15);
    struct client c = {0};
    struct live_subscribe o = from_seq(0);
    client_start(&c, w.live, &o);
    settle(&w, &c);
    assert_int_equal(c.complete_count, 15);
    assert_int_equal(c.complete_last, 1014);
    assert_int_equal(c.complete_seq, 15);
    assert_int_equal(c.completes, 1);
    client_stop(&c);
    struct client d = {0};
    o = from_seq(15);
    client_start(&d, w.live, &o);
    settle(&w, &d);
    assert_int_equal(d.complete_count, 0);
    assert_int_equal(d.complete_last, 0);
    assert_int_equal(d.completes, 1);
    client_stop(&d);
    close_world(&w);
}

static void cursors(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 3);
    struct live_subscribe o = from_seq(4);
    assert_string_equal(saw(&w, o), "R3 i1 i2 i3 =3"); /* beyond */
    o = from_seq(UINT64_MAX);
    assert_string_equal(saw(&w, o), "R3 i1 i2 i3 =3");
    o = from_seq(2);
    o.feed = STR("feed-alice");
    assert_string_equal(saw(&w, o), "A3 i3 =3");
    o.feed = STR("feed-other");
    assert_string_equal(saw(&w, o), "R3 i1 i2 i3 =3");
    char longer[400];
    memset(longer, 'x', sizeof longer);
    o.feed = str_n(longer, sizeof longer);
    assert_string_equal(saw(&w, o), "R3 i1 i2 i3 =3");
    o = from_msg(1002);
    o.feed = STR("feed-other");
    assert_string_equal(saw(&w, o), "R3 i1 i2 i3 =3");
    assert_string_equal(saw(&w, everything()), "A3");
    o = from_seq(1);
    o.has_last_msg_id = true;
    o.last_msg_id = 1002; /* the number is the more exact one */
    assert_string_equal(saw(&w, o), "A3 i2 i3 =3");
    close_world(&w);
}

static void message_cursors(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 3);
    fake_update(w.store, "alice", 1000); /* 4 */
    assert_string_equal(saw(&w, from_msg(1001)), "A4 i3 u4 =4");
    assert_string_equal(saw(&w, from_msg(5000)), "A4 u4 =4"); /* unknown: the last one before */
    assert_string_equal(saw(&w, from_msg(1)), "A4 i2 i3 i4 =4");
    assert_string_equal(saw(&w, from_msg(-1)), "A4 i2 i3 i4 =4");
    int jobs = fake_jobs_done(w.store);
    assert_int_equal(jobs, 0);
    fake_consolidate(w.store, "alice");
    insert(&w, 1);
    assert_string_equal(saw(&w, from_msg(1001)), "A5 i3 u4 i5 =5");
    assert_true(fake_jobs_done(w.store) >= 2); /* the arrival, and the rows */
    assert_string_equal(saw(&w, from_msg(1003)), "A5 =5");
    close_world(&w);
}

static void forgotten_deletions(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 3);
    fake_delete(w.store, "alice", 1001); /* 4 */
    insert(&w, 1);
    fake_forget(w.store, "alice", 4);
    assert_string_equal(saw(&w, from_seq(3)), "R5 i1 i3 i5 =5");
    assert_string_equal(saw(&w, from_seq(4)), "A5 i5 =5");
    assert_string_equal(saw(&w, from_seq(0)), "A5 i1 i3 i5 =5");
    assert_string_equal(saw(&w, from_msg(1001)), "R5 i1 i3 i5 =5");
    fake_consolidate(w.store, "alice");
    assert_string_equal(saw(&w, from_msg(1000)), "R5 i1 i3 i5 =5"); /* found out by a worker */
    close_world(&w);
}

static void filtered(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 2);
    fake_insert(w.store, "alice", "b"); /* 3 */
    struct client c = {0};
    struct live_subscribe o = from_seq(0);
    o.conversation_id = STR("b");
    client_start(&c, w.live, &o);
    settle(&w, &c);
    assert_string_equal(client_trace(&c), "A3 i3 =3");
    int wakes = c.wakes;
    insert(&w, 5);
    fake_announce(w.store, "alice", "a");
    assert_int_equal(c.wakes, wakes); /* passes them without being told */
    struct live_stats st;
    live_stats(w.live, &st);
    assert_int_equal(st.ring_bytes, 0);
    fake_insert(w.store, "alice", "b"); /* 9 */
    fake_announce(w.store, "alice", "b");
    fake_group_begin(w.store);
    insert(&w, 1);
    fake_insert(w.store, "alice", "b"); /* 11 */
    insert(&w, 1);
    fake_group_end(w.store);
    client_pump(&c, 0);
    assert_string_equal(client_trace(&c), "i9 c i11");
    fake_consolidate(w.store, "alice");
    client_stop(&c);
    o = from_seq(3);
    o.conversation_id = STR("b");
    assert_string_equal(saw(&w, o), "A12 i9 i11 =12");
    o.conversation_id = STR("none");
    assert_string_equal(saw(&w, o), "A12 =12");
    close_world(&w);
}

static void unsubscribe_anywhere(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 600);
    struct client c = {0};
    struct live_subscribe o = from_seq(0);
    client_start(&c, w.live, &o);
    client_stop(&c); /* the barrier is queued */
    assert_int_equal(fake_run_barriers(w.store), 1);
    assert_int_equal(c.wakes, 0);
    assert_int_equal(fake_open_snapshots(w.store), 0);
    for (int events = 0; events < 700; events += 50) {
        c = (struct client){.quiet = true};
        client_start(&c, w.live, &o);
        fake_run_barriers(w.store);
        if (events > 0)
            client_pump(&c, events);
        client_stop(&c);
        assert_int_equal(fake_open_snapshots(w.store), 0);
    }
    fake_consolidate(w.store, "alice");
    c = (struct client){.quiet = true};
    client_start(&c, w.live, &o);
    fake_run_barriers(w.store);
    client_pump(&c, 0);
    int wakes = c.wakes;
    int cancelled = fake_cancelled(w.store);
    client_stop(&c); /* a job is queued; it owns the session */
    assert_int_equal(fake_cancelled(w.store), cancelled);
    assert_int_equal(fake_run_jobs(w.store), 1);
    assert_int_equal(fake_cancelled(w.store), cancelled + 1); /* the worker is not kept for nobody */
    assert_int_equal(c.wakes, wakes);
    close_world(&w);
}

static void replay_then_live_without_a_seam(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 700);
    struct client c = {.quiet = true};
    struct live_subscribe o = from_seq(0);
    client_start(&c, w.live, &o);
    fake_run_barriers(w.store);
    for (int i = 0; i < 100; i++) { /* commits fall between any two reads */
        client_pump(&c, 7);
        insert(&w, 1);
        fake_update(w.store, "alice", 1000 + i);
        if (i == 50)
            fake_consolidate(w.store, "alice");
    }
    settle(&w, &c);
    assert_int_equal(c.seq, 900);
    assert_int_equal(c.inserts, 800);
    assert_int_equal(c.updates, 100);
    assert_int_equal(c.complete_seq, 700);
    assert_int_equal(c.complete_count, 700);
    struct live_stats st;
    live_stats(w.live, &st);
    assert_int_equal(st.ring_bytes, 0); /* everyone is past */
    assert_int_equal(st.catchups, 0);
    client_stop(&c);
    close_world(&w);
}

static void sleeper_is_served_from_storage(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, 16 << 10);
    struct client slow = {.quiet = true}, fast = {.quiet = true};
    struct live_subscribe o = everything();
    client_start(&slow, w.live, &o);
    client_start(&fast, w.live, &o);
    fake_run_barriers(w.store);
    client_pump(&slow, 0);
    struct live_stats st;
    for (int i = 0; i < 5000; i++) {
        insert(&w, 1);
        if (i % 3 == 0)
            fake_update(w.store, "alice", 1000 + i);
        if (i % 5 == 0)
            fake_delete(w.store, "alice", 1000 + i);
        client_pump(&fast, 0);
        live_stats(w.live, &st);
        assert_true(st.ring_bytes <= 16 << 10);
        if (i == 3000)
            fake_consolidate(w.store, "alice");
    }
    assert_int_equal(slow.wakes, 2); /* registration, first change */
    assert_int_equal(fast.seq, slow.seq + 5000 + 1667 + 1000);
    settle(&w, &slow);
    assert_int_equal(slow.seq, fast.seq);
    assert_int_equal(slow.inserts, 4000); /* a fifth came and went */
    for (size_t i = 0; i < 5000; i++) {
        assert_int_equal(slow.held[i].there, fast.held[i].there);
        if (fast.held[i].there)
            assert_string_equal(slow.held[i].content, fast.held[i].content);
    }
    live_stats(w.live, &st);
    assert_int_equal(st.catchups, 1);
    assert_int_equal(st.ring_bytes, 0);
    insert(&w, 1);
    client_pump(&slow, 0); /* back on the shared path */
    assert_int_equal(slow.seq, fast.seq + 1);
    client_stop(&slow);
    client_stop(&fast);
    close_world(&w);
}

static void late_comer_does_not_disturb(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    struct client c = {0}, d = {0}, e = {0};
    struct live_subscribe o = everything();
    client_start(&c, w.live, &o);
    fake_run_barriers(w.store);
    client_pump(&c, 0);
    insert(&w, 3);
    client_start(&d, w.live, &o);
    client_start(&e, w.live, &o);
    fake_run_barriers(w.store);
    client_pump(&d, 0);
    insert(&w, 1);
    client_stop(&e); /* behind d, before it has read anything */
    client_pump(&d, 0);
    assert_string_equal(client_trace(&d), "A3 i4");
    client_pump(&c, 0);
    assert_string_equal(client_trace(&c), "A0 i1 i2 i3 i4");
    struct live_stats st;
    live_stats(w.live, &st);
    assert_int_equal(st.catchups, 0);
    assert_int_equal(st.ring_bytes, 0);
    client_stop(&c);
    client_stop(&d);
    close_world(&w);
}

static void ring_overflows_while_pulling(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, 8 << 10);
    struct client c = {.quiet = true};
    struct live_subscribe o = everything();
    client_start(&c, w.live, &o);
    fake_run_barriers(w.store);
    fake_group_begin(w.store);
    insert(&w, 5);
    fake_group_end(w.store);
    assert_int_equal(client_pump(&c, 3), 3); /* ack, 1, 2: in the middle of a group */
    insert(&w, 40);
    settle(&w, &c);
    assert_int_equal(c.seq, 45);
    assert_int_equal(c.inserts, 45);
    /* A group that is larger than the ring is read from storage by everybody. */
    fake_group_begin(w.store);
    insert(&w, 100);
    fake_group_end(w.store);
    struct live_stats st;
    live_stats(w.live, &st);
    assert_int_equal(st.ring_bytes, 0);
    settle(&w, &c);
    assert_int_equal(c.inserts, 145);
    assert_int_equal(st.catchups, 1);
    client_stop(&c);
    close_world(&w);
}

static void lost_conversation_events_come_again(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, 8 << 10);
    struct client c = {0}, d = {0};
    struct live_subscribe o = everything();
    client_start(&c, w.live, &o);
    o.conversation_id = STR("b");
    client_start(&d, w.live, &o);
    fake_run_barriers(w.store);
    client_pump(&c, 0);
    client_pump(&d, 0);
    fake_announce(w.store, "alice", "a");
    client_pump(&c, 0);
    assert_string_equal(client_trace(&c), "A0 c");
    fake_announce(w.store, "alice", "b");
    c.quiet = d.quiet = true;
    insert(&w, 60);
    fake_insert(w.store, "alice", "b"); /* what d missed was of no concern, but b's title was */
    settle(&w, &c);
    settle(&w, &d);
    assert_int_equal(c.inserts, 61);
    assert_int_equal(c.conversations, 1 + 3); /* the latest state of all */
    assert_int_equal(d.inserts, 1);
    assert_int_equal(d.conversations, 1);
    /* Also when nobody was left to keep it for. */
    fake_group_begin(w.store);
    insert(&w, 60);
    fake_group_end(w.store);
    fake_announce(w.store, "alice", "a");
    struct live_stats st;
    live_stats(w.live, &st);
    assert_int_equal(st.ring_bytes, 0);
    settle(&w, &c);
    assert_int_equal(c.conversations, 7);
    /* Nothing lost, nothing told. */
    insert(&w, 60);
    settle(&w, &c);
    assert_int_equal(c.conversations, 7);
    client_stop(&c);
    client_stop(&d);
    close_world(&w);
}

static void store_reset_finds_what_was_not_published(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    struct client c = {0}, d = {0};
    struct live_subscribe o = everything();
    client_start(&c, w.live, &o);
    client_start(&d, w.live, &o);
    fake_run_barriers(w.store);
    client_pump(&c, 0);
    client_pump(&d, 0);
    insert(&w, 2);
    client_pump(&c, 0);
    fake_silent(w.store, true);
    insert(&w, 1); /* 3: outcome unknown, and it is there */
    fake_silent(w.store, false);
    int wakes = c.wakes;
    fake_reset(w.store);
    assert_int_equal(c.wakes, wakes + 1);
    settle(&w, &c);
    assert_string_equal(client_trace(&c), "A0 i1 i2 i3 c c c");
    insert(&w, 1);
    settle(&w, &d);
    assert_string_equal(client_trace(&d), "A0 i1 i2 i3 i4 c c c");
    settle(&w, &c);
    assert_string_equal(client_trace(&c), "i4");
    /* A number that nobody published is noticed without a reset, too. */
    fake_silent(w.store, true);
    insert(&w, 1);
    fake_silent(w.store, false);
    insert(&w, 1);
    settle(&w, &c);
    assert_string_equal(client_trace(&c), "i5 i6");
    client_stop(&c);
    client_stop(&d);
    close_world(&w);
}

static void stale_snapshot_opens_again(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 600);
    for (int cold = 0; cold < 2; cold++) {
        struct client c = {.quiet = true};
        struct live_subscribe o = from_seq(0);
        client_start(&c, w.live, &o);
        fake_run_barriers(w.store);
        client_pump(&c, 100);
        fake_reset(w.store);
        insert(&w, 10);
        settle(&w, &c);
        assert_int_equal(c.seq, 610 + cold * 10);
        assert_int_equal(c.inserts, c.seq);
        assert_int_equal(c.completes, 1);
        client_stop(&c);
        fake_consolidate(w.store, "alice");
    }
    close_world(&w);
}

static void stalled_session_gives_its_snapshot_back(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 600);
    fake_update(w.store, "alice", 1000); /* 601: comes last */
    struct client c = {.quiet = true};
    struct live_subscribe o = from_seq(0);
    client_start(&c, w.live, &o);
    fake_run_barriers(w.store);
    client_pump(&c, 101); /* ack and 100 rows of the 256 that were read */
    assert_int_equal(fake_open_snapshots(w.store), 1);
    w.now_us += SNAPSHOT_IDLE_US / 2;
    struct client other = {0};
    struct live_subscribe oo = everything();
    client_start(&other, w.live, &oo);
    fake_run_barriers(w.store);
    assert_int_equal(fake_open_snapshots(w.store), 1);
    w.now_us += SNAPSHOT_IDLE_US;
    fake_update(w.store, "alice", 1000); /* any commit with a follower looks after it */
    assert_int_equal(fake_open_snapshots(w.store), 0);
    c.loose = true;
    settle(&w, &c);
    assert_int_equal(c.inserts, 599);
    assert_int_equal(
        c.updates, 1); /* not given before, but told as to one who comes back from where it stands */
    assert_int_equal(c.complete_count, 600);
    assert_int_equal(c.seq, 602);
    client_stop(&c);
    client_stop(&other);
    close_world(&w);
}

static void failing_reads(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 300);
    for (int cold = 0; cold < 2; cold++) {
        for (int n = 1; n <= 7; n++) {
            struct client c = {.quiet = true};
            struct live_subscribe o = from_seq(0);
            client_start(&c, w.live, &o);
            fake_run_barriers(w.store);
            client_pump(&c, 1);
            fake_fail_reads(w.store, n, ERR_IO);
            settle(&w, &c);
            fake_fail_reads(w.store, 0, ERR_OK);
            assert_int_equal(c.closed, n > CATCHUP_FAILURES_MAX);
            if (c.closed) {
                assert_int_equal(c.code, ERR_INTERNAL);
                assert_int_equal(client_pump(&c, 0), 0);
            } else {
                assert_int_equal(c.inserts, 300);
            }
            client_stop(&c);
        }
        fake_consolidate(w.store, "alice");
    }
    /* A result that is too large is asked for in smaller pieces. */
    struct client c = {.quiet = true};
    struct live_subscribe o = from_seq(0);
    client_start(&c, w.live, &o);
    fake_run_barriers(w.store);
    client_pump(&c, 0);
    fake_fail_reads(w.store, 0, ERR_OK);
    fake_run_jobs(w.store);
    settle(&w, &c);
    assert_int_equal(c.inserts, 300);
    client_stop(&c);
    close_world(&w);
}

static void failing_barriers(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, 4 << 10);
    struct client c = {0}, d = {0};
    struct live_subscribe o = everything();
    client_start(&d, w.live, &o);
    fake_run_barriers(w.store);
    client_pump(&d, 0);
    fake_fail_barriers(w.store, ERR_UNAVAILABLE);
    client_start(&c, w.live, &o);
    fake_run_barriers(w.store);
    assert_int_equal(c.wakes, 1);
    client_pump(&c, 0);
    assert_string_equal(client_trace(&c), "X");
    assert_int_equal(c.code, ERR_UNAVAILABLE);
    client_stop(&c);
    insert(&w, 20); /* d has to open a session, and cannot until the store is back */
    settle(&w, &d);
    assert_string_equal(client_trace(&d), "A0");
    settle(&w, &d);
    fake_fail_barriers(w.store, ERR_OK);
    assert_int_equal(fake_run_barriers(w.store), 0); /* it does not ask again and again */
    int wakes = d.wakes;
    fake_reset(w.store);
    assert_int_equal(d.wakes, wakes + 1);
    d.quiet = true;
    settle(&w, &d);
    assert_int_equal(d.inserts, 20);
    client_stop(&d);
    close_world(&w);
}

static void replaced_history(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 3);
    struct client c = {0};
    struct live_subscribe o = everything();
    client_start(&c, w.live, &o);
    settle(&w, &c);
    fake_new_history(w.store, "alice", "feed-2");
    o = from_seq(3);
    o.feed = STR("feed-alice");
    assert_string_equal(saw(&w, o), "R0 =0");
    settle(&w, &c);
    assert_string_equal(client_trace(&c), "A3 X");
    client_stop(&c);
    close_world(&w);
}

static void close_all_ends_everything(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    insert(&w, 600);
    struct client c[3] = {{.quiet = true}, {.quiet = true}, {.quiet = true}};
    struct live_subscribe o = everything(), r = from_seq(0);
    client_start(&c[0], w.live, &o);
    client_start(&c[1], w.live, &r);
    fake_run_barriers(w.store);
    client_pump(&c[0], 0);
    client_pump(&c[1], 50);
    live_close_all(w.live);
    assert_int_equal(fake_open_snapshots(w.store), 0);
    for (int i = 0; i < 2; i++) {
        client_pump(&c[i], 0);
        assert_true(c[i].closed);
        assert_int_equal(c[i].code, ERR_UNAVAILABLE);
    }
    assert_int_equal(c[0].wakes, 2);
    struct errctx ec;
    struct live_sub *sub;
    assert_int_equal(live_subscribe(w.live, &o, &sub, &ec), ERR_UNAVAILABLE);
    client_stop(&c[1]);
    client_release(&c[0]);
    live_close(w.live); /* frees what was not unsubscribed */
    fake_close(w.store);
}

static void many_conversations_between(void **state)
{
    (void)state;
    struct world w;
    open_with(&w, RING);
    fake_insert(w.store, "alice", "b");
    insert(&w, 3 * HOT_WINDOW * 4);
    fake_insert(w.store, "alice", "b");
    struct client c = {0};
    struct live_subscribe o = from_seq(0);
    o.conversation_id = STR("b");
    client_start(&c, w.live, &o);
    fake_run_barriers(w.store);
    struct live_event ev;
    client_pump(&c, 2);
    assert_string_equal(client_trace(&c), "A24578 i1");
    /* It looks at a bounded piece, says PENDING to let others run, and has woken itself. */
    int wakes = c.wakes;
    assert_int_equal(live_next(c.sub, &ev), LIVE_PENDING);
    assert_int_equal(c.wakes, wakes + 1);
    client_pump(&c, 0);
    assert_string_equal(client_trace(&c), "i24578 =24578");
    client_stop(&c);
    close_world(&w);
}

/* Random commits, random reading, random consolidation and resets: each subscriber's replica must end as the
 * rows are, and its stream must make sense all the way. */
static void random_model(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 60; seed++) {
        srand(seed);
        struct world w;
        open_with(&w, seed % 3 == 0 ? 2 << 10 : 64 << 10);
        struct client c[6];
        memset(c, 0, sizeof c);
        for (int step = 0; step < 1500; step++) {
            int i = rand() % 6, what = rand() % 100;
            struct fake_user *u = fake_user(w.store, "alice");
            struct fake_row *row = u->nrows > 0 ? &u->rows[(size_t)rand() % u->nrows] : NULL;
            if (what < 40) {
                fake_insert(w.store, "alice", rand() % 2 ? "a" : "b");
            } else if (what < 55 && row != NULL && !row->deleted) {
                fake_update(w.store, "alice", row->msg_id);
            } else if (what < 62 && row != NULL && !row->deleted) {
                fake_delete(w.store, "alice", row->msg_id);
            } else if (what < 64) {
                fake_consolidate(w.store, "alice");
            } else if (what < 65) {
                fake_announce(w.store, "alice", "a");
            } else if (what < 66) {
                fake_reset(w.store);
                for (int k = 0; k < 6; k++)
                    c[k].loose = true;
            } else if (what < 75) {
                fake_run_barriers(w.store);
            } else if (what < 80) {
                fake_run_jobs(w.store);
            } else if (c[i].sub == NULL) {
                struct live_subscribe o = from_seq(0);
                if (i >= 3)
                    o.conversation_id = STR("b");
                c[i] = (struct client){.quiet = true};
                client_start(&c[i], w.live, &o);
            } else if (what < 98) {
                client_pump(&c[i], 1 + rand() % 20);
            } else {
                client_stop(&c[i]);
            }
        }
        struct fake_user *u = fake_user(w.store, "alice");
        for (int i = 0; i < 6; i++) {
            if (c[i].sub == NULL)
                continue;
            for (int k = 0; k < 6; k++)
                if (c[k].sub != NULL)
                    settle(&w, &c[k]);
            if (c[i].closed)
                fail_msg("seed %u: closed with %d", seed, c[i].code);
            for (size_t k = 0; k < u->nrows; k++) {
                const struct fake_row *r = &u->rows[k];
                bool mine = i < 3 || strcmp(r->conversation, "b") == 0;
                const struct held *h =
                    (size_t)(r->msg_id - 1000) < c[i].cap ? &c[i].held[r->msg_id - 1000] : NULL;
                assert_int_equal(h != NULL && h->there, mine && !r->deleted);
                if (mine && !r->deleted)
                    assert_string_equal(h->content, r->content);
            }
            client_stop(&c[i]);
        }
        close_world(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(live_only),
        cmocka_unit_test(change_json_is_the_row),
        cmocka_unit_test(replay_folds),
        cmocka_unit_test(complete_says_what_was_replayed),
        cmocka_unit_test(cursors),
        cmocka_unit_test(message_cursors),
        cmocka_unit_test(forgotten_deletions),
        cmocka_unit_test(filtered),
        cmocka_unit_test(unsubscribe_anywhere),
        cmocka_unit_test(replay_then_live_without_a_seam),
        cmocka_unit_test(sleeper_is_served_from_storage),
        cmocka_unit_test(late_comer_does_not_disturb),
        cmocka_unit_test(ring_overflows_while_pulling),
        cmocka_unit_test(lost_conversation_events_come_again),
        cmocka_unit_test(store_reset_finds_what_was_not_published),
        cmocka_unit_test(stale_snapshot_opens_again),
        cmocka_unit_test(stalled_session_gives_its_snapshot_back),
        cmocka_unit_test(failing_reads),
        cmocka_unit_test(failing_barriers),
        cmocka_unit_test(replaced_history),
        cmocka_unit_test(close_all_ends_everything),
        cmocka_unit_test(many_conversations_between),
        cmocka_unit_test(random_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
