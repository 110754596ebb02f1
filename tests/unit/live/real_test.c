/* Live over the real store and real workers: replays from files, from hot rows and from both equal the model
 * for every cursor; nothing is lost or doubled while writers, consolidation and subscribers run together. */
#include "cold_fixture.h"
#include "follower.h"
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define USER "alice"

/* ---- the model ---- */

struct world {
    struct cold c;
    struct live *live;
};

static void open_live(struct world *w, size_t ring_bytes)
{
    struct errctx ec;
    assert_int_equal(live_open(w->c.f.store, w->c.f.cfg.analytic, ring_bytes, &w->live, &ec), ERR_OK);
}

static void close_live(struct world *w)
{
    live_close_all(w->live);
    live_close(w->live);
}

static void update(struct world *w, size_t i)
{
    char content[40];
    snprintf(content, sizeof content, "updated-%zu-after-%llu", i, (unsigned long long)w->c.rows[i].seq);
    cold_update(&w->c, i, content);
}

static void delete (struct world *w, size_t i)
{
    cold_delete(&w->c, i);
    w->c.rows[i].seq = cold_head(&w->c).seq;
}

static int by_seq(const void *a, const void *b)
{
    const struct seen *x = a, *y = b;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* What contract 3 says a client with this cursor gets. */
static size_t expected(const struct world *w, uint64_t from, const char *conversation, struct seen *ret)
{
    size_t n = 0;
    for (size_t i = 0; i < w->c.nrows; i++) {
        const struct model_row *r = &w->c.rows[i];
        bool arrived = r->ins_seq > from;
        if (r->seq <= from || (!r->live && arrived) ||
            (conversation != NULL && strcmp(r->conv, conversation) != 0))
            continue;
        ret[n] = (struct seen){.op = !r->live  ? CHANGE_DELETE
                                     : arrived ? CHANGE_INSERT
                                               : CHANGE_UPDATE,
            .seq = r->seq,
            .id = r->id};
        if (r->live)
            snprintf(ret[n].content, sizeof ret[n].content, "%.39s", r->content);
        n++;
    }
    qsort(ret, n, sizeof *ret, by_seq);
    return n;
}

static void check_replay(struct world *w, struct live_subscribe o, uint64_t from)
{
    struct seen *want = malloc((w->c.nrows + 1) * sizeof *want);
    size_t n = expected(w, from, o.conversation_id.ptr, want);
    struct follower r;
    follower_start(&r, w->live, o);
    read_to(&r, 0);
    assert_false(r.resync);
    if (r.n != n)
        fail_msg("from %llu: %zu changes instead of %zu", (unsigned long long)from, r.n, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(r.seen[i].seq, want[i].seq);
        if (r.seen[i].op != want[i].op)
            fail_msg("from %llu: op %d of %llu", (unsigned long long)from, r.seen[i].op,
                (unsigned long long)want[i].seq);
        assert_int_equal(r.seen[i].id, want[i].id);
        assert_string_equal(r.seen[i].content, want[i].content);
    }
    assert_int_equal(r.count, n);
    assert_int_equal(r.complete_last, n > 0 ? want[n - 1].id : 0);
    assert_int_equal(r.ack_seq, cold_head(&w->c).seq);
    assert_int_equal(r.complete_seq, r.ack_seq);
    follower_stop(&r);
    free(want);
}

static void check_all(struct world *w)
{
    uint64_t last = cold_head(&w->c).seq;
    const uint64_t cursors[] = {0, 1, last / 3, last / 2, last - 200, last - 1, last};
    for (size_t i = 0; i < sizeof cursors / sizeof cursors[0]; i++) {
        check_replay(w, from_seq(cursors[i]), cursors[i]);
        struct live_subscribe o = from_seq(cursors[i]);
        o.conversation_id = STR("c1");
        check_replay(w, o, cursors[i]);
    }
    for (size_t i = 7; i < w->c.nrows; i += w->c.nrows / 5) {
        const struct model_row *r = &w->c.rows[i];
        if (r->live)
            check_replay(
                w, (struct live_subscribe){.has_last_msg_id = true, .last_msg_id = r->id}, r->ins_seq);
    }
    check_replay(w, (struct live_subscribe){.has_last_msg_id = true, .last_msg_id = 1234567890}, 0);
}

static void replays_equal_the_model(void **state)
{
    (void)state;
    for (int tail = 0; tail <= 16; tail += 16) {
        struct world w;
        cold_open(&w.c, USER, tail);
        open_live(&w, 256 << 10);
        cold_insert(&w.c, 1500, 3);
        for (size_t i = 0; i < 1500; i += 29)
            update(&w, i);
        for (size_t i = 5; i < 1500; i += 31)
            delete (&w, i);
        check_all(&w);
        cold_consolidate(&w.c);
        check_all(&w);
        cold_insert(&w.c, 300, 3);
        for (size_t i = 1; i < 1800; i += 37)
            if (w.c.rows[i].live)
                update(&w, i);
        for (size_t i = 3; i < 1800; i += 41)
            if (w.c.rows[i].live)
                delete (&w, i);
        check_all(&w);
        cold_consolidate(&w.c);
        check_all(&w);
        update(&w, 0);
        cold_insert(&w.c, 20, 3);
        check_all(&w);
        close_live(&w);
        cold_reopen(&w.c);
        open_live(&w, 256 << 10);
        check_all(&w);
        close_live(&w);
        cold_close(&w.c);
    }
}

/* ---- everything at once ---- */

#define WRITERS 16
#define INSERTS 5000

struct storm {
    struct world w;
    _Atomic int left;
    _Atomic bool done;
};

static void *write_inserts(void *arg)
{
    struct storm *s = arg;
    struct errctx ec;
    while (--s->left >= 0) {
        struct message m = {.user = USER, .conversation = s->left % 2 ? "a" : "b", .content = "hello"};
        if (insert(s->w.c.f.store, &m, &ec) != ERR_OK)
            return (void *)"insert failed";
    }
    return NULL;
}

static void *consolidate_always(void *arg)
{
    struct storm *s = arg;
    struct errctx ec = {0};
    while (!s->done)
        if (store_consolidate(s->w.c.f.store, STR(USER), &ec) != ERR_OK) {
            print_error("consolidation: %s (%s)\n", ec.message, ec.internal);
            return (void *)"consolidation failed";
        }
    return NULL;
}

/* Subscribes at random moments, from the start or live; all it saw must be one number after the other. */
static void *subscribe_always(void *arg)
{
    struct storm *s = arg;
    unsigned seed = (unsigned)(uintptr_t)pthread_self(), rounds = 0;
    for (bool last = false; !last; rounds++) {
        last = s->done;
        bool replay = last || rand_r(&seed) % 2;
        struct follower r;
        follower_start(&r, s->w.live, replay ? from_seq(0) : (struct live_subscribe){0});
        if (replay) {
            read_to(&r, 0);
            /* On into what is live, until some more has come. */
            uint64_t more = r.complete_seq + (uint64_t)(rand_r(&seed) % 200);
            if (more > 0)
                read_to(&r, last || more > INSERTS ? INSERTS : more);
        } else {
            read_ack(&r);
            while (take_one(&r) && r.n < 300)
                ;
        }
        uint64_t first = replay ? 1 : r.ack_seq + 1;
        for (size_t i = 0; i < r.n; i++)
            if (r.seen[i].seq != first + i || r.seen[i].op != CHANGE_INSERT)
                fail_msg("%llu instead of %llu", (unsigned long long)r.seen[i].seq,
                    (unsigned long long)(first + i));
        follower_stop(&r);
    }
    return NULL;
}

static void inserts_while_subscribing(void **state)
{
    (void)state;
    struct storm s = {.left = INSERTS};
    cold_open(&s.w.c, USER, 8);
    open_live(&s.w, 32 << 10);
    struct follower from_start, asleep;
    follower_start(&from_start, s.w.live, (struct live_subscribe){0});
    follower_start(&asleep, s.w.live, from_seq(0));
    read_ack(&from_start);
    pthread_t writers[WRITERS], subscribers[2], consolidator;
    for (int i = 0; i < WRITERS; i++)
        pthread_create(&writers[i], NULL, write_inserts, &s);
    for (int i = 0; i < 2; i++)
        pthread_create(&subscribers[i], NULL, subscribe_always, &s);
    pthread_create(&consolidator, NULL, consolidate_always, &s);
    read_to(&from_start, INSERTS);
    void *failed;
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(writers[i], &failed);
        assert_null(failed);
    }
    s.done = true;
    for (int i = 0; i < 2; i++)
        pthread_join(subscribers[i], NULL);
    pthread_join(consolidator, &failed);
    assert_null(failed);
    read_to(&asleep, INSERTS);
    assert_int_equal(from_start.n, INSERTS);
    assert_int_equal(asleep.n, INSERTS);
    for (size_t i = 0; i < INSERTS; i++) {
        assert_int_equal(from_start.seen[i].seq, i + 1);
        assert_int_equal(asleep.seen[i].seq, i + 1);
    }
    follower_stop(&from_start);
    follower_stop(&asleep);
    close_live(&s.w);
    cold_close(&s.w.c);
}

/* A live reader that is not called for 50,000 changes, in both tiers by then. */
static void sleeper_gets_everything(void **state)
{
    (void)state;
    struct world w;
    cold_open(&w.c, USER, 8);
    open_live(&w, 256 << 10);
    cold_insert(&w.c, 100, 3);
    struct follower r;
    follower_start(&r, w.live, (struct live_subscribe){0});
    read_ack(&r);
    for (int k = 0; k < 50; k++) {
        cold_insert(&w.c, 1000, 3);
        if (k == 30)
            cold_consolidate(&w.c);
        if (k % 10 == 0) {
            update(&w, (size_t)k);
            delete (&w, (size_t)k + 1);
            update(&w, w.c.nrows - 1);
        }
    }
    struct live_stats st;
    live_stats(w.live, &st);
    assert_true(st.ring_bytes <= 256 << 10);
    struct seen *want = malloc(w.c.nrows * sizeof *want);
    size_t n = expected(&w, 100, NULL, want);
    read_to(&r, cold_head(&w.c).seq);
    assert_int_equal(r.n, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(r.seen[i].seq, want[i].seq);
        assert_int_equal(r.seen[i].op, want[i].op);
        assert_string_equal(r.seen[i].content, want[i].content);
    }
    live_stats(w.live, &st);
    assert_int_equal(st.catchups, 1);
    free(want);
    follower_stop(&r);
    close_live(&w);
    cold_close(&w.c);
}

/* ---- a million of them ---- */

#define USERS 5000
#define SUBS_EACH 4

static void idle_subscriptions_are_small(void **state)
{
    (void)state;
    struct world w;
    cold_open(&w.c, USER, 8);
    open_live(&w, 256 << 10);
    struct follower *r = calloc(USERS * SUBS_EACH, sizeof *r);
    for (int i = 0; i < USERS * SUBS_EACH; i++) {
        char user[32];
        snprintf(user, sizeof user, "user_%d", i % USERS);
        follower_start(&r[i], w.live, (struct live_subscribe){.user_id = str_c(user)});
    }
    for (int i = 0; i < USERS * SUBS_EACH; i++) {
        read_ack(&r[i]);
        assert_false(take_one(&r[i]));
    }
    struct live_stats st;
    live_stats(w.live, &st);
    assert_int_equal(st.subscriptions, USERS * SUBS_EACH);
    assert_int_equal(st.feeds, USERS);
    size_t all = mallinfo2().uordblks;
    for (int i = USERS; i < USERS * SUBS_EACH; i++)
        follower_stop(&r[i]);
    size_t one_each = mallinfo2().uordblks;
    for (int i = 0; i < USERS; i++)
        follower_stop(&r[i]);
    size_t none = mallinfo2().uordblks;
    size_t per_sub = (all - one_each) / (USERS * (SUBS_EACH - 1)),
           per_feed = (one_each - none) / USERS - per_sub;
    print_message("bytes per idle subscription: %zu, per followed user: %zu\n", per_sub, per_feed);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_in_range(per_sub, 64, 200);
    assert_in_range(per_feed, 64, 300);
#endif
    free(r);
    close_live(&w);
    cold_close(&w.c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replays_equal_the_model),
        cmocka_unit_test(inserts_while_subscribing),
        cmocka_unit_test(sleeper_gets_everything),
        cmocka_unit_test(idle_subscriptions_are_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
