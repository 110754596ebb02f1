/* Live with real threads: writers, a committer, workers, and readers that sleep until they are woken, so that
 * a lost wake is a test that never ends. Made for TSan and ASan; every reader's stream is checked as it
 * comes. */
#include "client.h"
#include "fake_store.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define WRITERS 2
#define READERS 4
#define CHANGES 6000

static const char *const users[] = {"alice", "bob", "carol"};

struct world {
    struct store *store;
    struct live *live;
    _Atomic int writing;
};

static void open_world(struct world *w, size_t ring_bytes)
{
    struct errctx ec;
    *w = (struct world){.store = fake_open(true)};
    assert_int_equal(live_open(w->store, fake_analytic(w->store), ring_bytes, &w->live, &ec), ERR_OK);
}

static void close_world(struct world *w)
{
    live_close_all(w->live);
    assert_int_equal(fake_open_snapshots(w->store), 0);
    live_close(w->live);
    fake_close(w->store);
}

struct sleeper {
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool ready;
    struct client client;
};

static void sleeper_wake(void *arg)
{
    struct sleeper *s = arg;
    pthread_mutex_lock(&s->lock);
    s->ready = true;
    pthread_cond_signal(&s->woken);
    pthread_mutex_unlock(&s->lock);
}

static void sleeper_start(struct sleeper *s, struct live *l, const char *user, bool replay)
{
    struct errctx ec;
    *s = (struct sleeper){.lock = PTHREAD_MUTEX_INITIALIZER, .woken = PTHREAD_COND_INITIALIZER};
    s->client.quiet = true;
    s->client.replaying = replay;
    struct live_subscribe o = {
        .user_id = str_c(user), .has_last_seq = replay, .wake = sleeper_wake, .arg = s};
    assert_int_equal(live_subscribe(l, &o, &s->client.sub, &ec), ERR_OK);
}

/* Reads until `seq` has come, sleeping whenever there is nothing. */
static void read_to(struct sleeper *s, uint64_t seq)
{
    struct live_event ev;
    while (!s->client.closed && (!s->client.acked || s->client.seq < seq)) {
        if (live_next(s->client.sub, &ev) == LIVE_PENDING) {
            pthread_mutex_lock(&s->lock);
            while (!s->ready)
                pthread_cond_wait(&s->woken, &s->lock);
            s->ready = false;
            pthread_mutex_unlock(&s->lock);
            continue;
        }
        client_event(&s->client, &ev);
        if (ev.change != NULL)
            live_change_unref(ev.change);
    }
}

static void *write_some(void *arg)
{
    struct world *w = arg;
    unsigned seed = (unsigned)(uintptr_t)pthread_self();
    int64_t mine[3][CHANGES];
    int n[3] = {0};
    for (int i = 0; i < CHANGES; i++) {
        int u = rand_r(&seed) % 3, what = rand_r(&seed) % 10;
        if (what < 6 || n[u] == 0)
            mine[u][n[u]++] = fake_insert(w->store, users[u], rand_r(&seed) % 2 ? "a" : "b");
        else if (what < 9)
            fake_update(w->store, users[u], mine[u][rand_r(&seed) % n[u]]);
        else
            fake_delete(w->store, users[u], mine[u][--n[u]]);
        if (i % 400 == 399)
            fake_consolidate(w->store, users[u]);
    }
    w->writing--;
    return NULL;
}

/* Comes and goes at random moments, with everything replayed each time. */
static void *read_and_leave(void *arg)
{
    struct world *w = arg;
    unsigned seed = (unsigned)(uintptr_t)pthread_self();
    while (w->writing > 0) {
        struct sleeper s;
        sleeper_start(&s, w->live, users[rand_r(&seed) % 3], true);
        read_to(&s, (uint64_t)(rand_r(&seed) % 300));
        live_unsubscribe(s.client.sub);
        client_release(&s.client);
    }
    return NULL;
}

struct follower {
    struct world *w;
    struct sleeper s;
    int user;
    uint64_t until;
};

static void *follow(void *arg)
{
    struct follower *f = arg;
    read_to(&f->s, f->until);
    return NULL;
}

static void readers_and_writers(void **state)
{
    (void)state;
    struct world w;
    open_world(&w, 8 << 10);
    for (int u = 0; u < 3; u++)
        (void)fake_user(w.store, users[u]);
    pthread_t writers[WRITERS], leavers[READERS], followers[6];
    struct follower f[6];
    for (int i = 0; i < 6; i++) {
        f[i] = (struct follower){.w = &w, .user = i % 3};
        sleeper_start(&f[i].s, w.live, users[i % 3], i >= 3);
    }
    w.writing = WRITERS;
    for (int i = 0; i < WRITERS; i++)
        pthread_create(&writers[i], NULL, write_some, &w);
    for (int i = 0; i < READERS; i++)
        pthread_create(&leavers[i], NULL, read_and_leave, &w);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    for (int i = 0; i < READERS; i++)
        pthread_join(leavers[i], NULL);
    for (int i = 0; i < 3; i++)
        (void)fake_insert(w.store, users[i], "a");
    for (int i = 0; i < 6; i++) {
        f[i].until = fake_user(w.store, users[f[i].user])->seq;
        f[i].s.client.loose = i < 3; /* began in the middle of a history */
        pthread_create(&followers[i], NULL, follow, &f[i]);
    }
    for (int i = 0; i < 6; i++) {
        pthread_join(followers[i], NULL);
        struct client *c = &f[i].s.client;
        struct fake_user *u = fake_user(w.store, users[f[i].user]);
        assert_int_equal(c->seq, u->seq);
        for (size_t k = 0; k < u->nrows && i >= 3; k++) {
            assert_int_equal(c->held[u->rows[k].msg_id - 1000].there, !u->rows[k].deleted);
            if (!u->rows[k].deleted)
                assert_string_equal(c->held[u->rows[k].msg_id - 1000].content, u->rows[k].content);
        }
        live_unsubscribe(c->sub);
        client_release(c);
    }
    close_world(&w);
}

struct heard {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct client client;
};

static void on_event(void *state, const struct live_event *ev)
{
    struct heard *h = *(struct heard **)state;
    pthread_mutex_lock(&h->lock);
    client_event(&h->client, ev);
    pthread_cond_signal(&h->more);
    pthread_mutex_unlock(&h->lock);
}

static struct live_sub *hear(struct world *w, struct heard *h)
{
    struct errctx ec;
    struct live_sub *sub;
    *h = (struct heard){.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};
    struct live_subscribe o = {.user_id = STR("alice"), .has_last_seq = true};
    h->client.replaying = true;
    h->client.quiet = true;
    assert_int_equal(live_listen(w->live, &o, on_event, &h, sizeof h, &sub, &ec), ERR_OK);
    return sub;
}

static void await_seq(struct heard *h, uint64_t seq)
{
    pthread_mutex_lock(&h->lock);
    while (h->client.seq < seq)
        pthread_cond_wait(&h->more, &h->lock);
    pthread_mutex_unlock(&h->lock);
}

static void listeners(void **state)
{
    (void)state;
    struct world w;
    open_world(&w, 8 << 10);
    for (int i = 0; i < 50; i++)
        fake_insert(w.store, "alice", "a");
    struct heard a, b;
    struct live_sub *sub = hear(&w, &a);
    (void)hear(&w, &b);
    for (int i = 0; i < 200; i++)
        fake_insert(w.store, "alice", "a");
    await_seq(&a, 250);
    live_unsubscribe(sub);
    unsigned inserts = a.client.inserts;
    assert_int_equal(inserts, 250);
    for (int i = 0; i < 50; i++)
        fake_insert(w.store, "alice", "a");
    await_seq(&b, 300);
    assert_int_equal(a.client.inserts, inserts); /* nothing after unsubscribe */
    struct heard c[20];
    for (int i = 0; i < 20; i++)
        live_unsubscribe(hear(&w, &c[i])); /* at any moment of its first steps */
    live_close_all(w.live);
    assert_true(b.client.closed); /* told, before close returned */
    assert_int_equal(b.client.code, ERR_UNAVAILABLE);
    live_close(w.live);
    fake_close(w.store);
    client_release(&a.client);
    client_release(&b.client);
    for (int i = 0; i < 20; i++)
        client_release(&c[i].client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_and_writers),
        cmocka_unit_test(listeners),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
