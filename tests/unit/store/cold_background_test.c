/* The background thread and its thresholds; writers, readers and consolidation at the same time. */
#include "cold_fixture.h"
#include "store/cold.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
/* cmocka wants the three before */
#include <cmocka.h>

/* Lets a test wait until something was released, and see that nothing was. */
struct watch {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int released;
};

static bool watch_step(void *arg, enum consolidate_step step)
{
    struct watch *w = arg;
    if (step != STEP_RELEASED)
        return true;
    pthread_mutex_lock(&w->lock);
    w->released++;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->lock);
    return true;
}

static void watch_wait(struct watch *w, int n)
{
    pthread_mutex_lock(&w->lock);
    while (w->released < n)
        pthread_cond_wait(&w->wake, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static void open_background(struct cold *c, struct watch *w, int rows, int min_rows, int interval_ms)
{
    cold_open(c, "user_alice", 4);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    w->released = 0;
    c->f.cfg.consolidate_rows = rows;
    c->f.cfg.consolidate_min_rows = min_rows;
    c->f.cfg.consolidate_interval_ms = interval_ms;
    cold_reopen(c);
    struct consolidate_hook hook = {watch_step, w};
    consolidator_set_hook(c->f.store->consolidator, &hook);
}

static void close_background(struct cold *c, struct watch *w)
{
    cold_close(c);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
}

static void due(void **state)
{
    (void)state;
    struct store_config cfg = {
        .consolidate_rows = 100, .consolidate_min_rows = 10, .consolidate_interval_ms = 5000};
    int64_t at, since = 1000000;
    assert_false(consolidate_due(&cfg, 0, 0, since, &at));
    assert_true(at == INT64_MAX);
    assert_false(consolidate_due(&cfg, 9, since, since + 99000000, &at));
    assert_true(at == INT64_MAX);
    assert_false(consolidate_due(&cfg, 10, since, since + 4999999, &at));
    assert_int_equal(at, since + 5000000);
    assert_true(consolidate_due(&cfg, 10, since, since + 5000000, &at));
    assert_true(consolidate_due(&cfg, 100, since, since, &at));
}

static void by_rows(void **state)
{
    (void)state;
    struct cold c;
    struct watch w;
    open_background(&c, &w, 100, 50, 3600 * 1000);
    cold_insert(&c, 99, 3);
    assert_int_equal(cold_head(&c).cold_epoch, 0);
    cold_insert(&c, 1, 3);
    watch_wait(&w, 1);
    assert_int_equal(cold_head(&c).fresh_rows, 0);
    cold_check(&c);
    close_background(&c, &w);
}

static void by_time(void **state)
{
    (void)state;
    struct cold c;
    struct watch w;
    open_background(&c, &w, 1000, 20, 100);
    cold_insert(&c, 20, 3);
    watch_wait(&w, 1);
    assert_int_equal(cold_head(&c).fresh_rows, 0);
    cold_check(&c);
    close_background(&c, &w);
}

/* What was due before a restart is found by the sweep. */
static void after_restart(void **state)
{
    (void)state;
    struct cold c;
    struct watch w;
    cold_open(&c, "user_alice", 4);
    cold_insert(&c, 30, 3);
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.wake, NULL);
    w.released = 0;
    /* The first due time is in the past at open, but the hook must be in place before: hold the clock back.
     */
    int64_t now = os_realtime_us(os_posix());
    atomic_store(&c.f.realtime_us, now - INT64_C(3600) * 1000000);
    c.f.cfg.consolidate_min_rows = 20;
    c.f.cfg.consolidate_interval_ms = 100;
    cold_reopen(&c);
    struct consolidate_hook hook = {watch_step, &w};
    consolidator_set_hook(c.f.store->consolidator, &hook);
    atomic_store(&c.f.realtime_us, now + 60 * 1000000);
    watch_wait(&w, 1);
    cold_check(&c);
    close_background(&c, &w);
}

/* A deletion is forgotten soon after a short retention, though nobody asks for a consolidation. */
static void forgets_in_time(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    cold_open(&c, "user_alice", 4);
    c.f.cfg.consolidate_interval_ms = 80;
    c.f.cfg.tombstone_retention_s = 1;
    cold_reopen(&c);
    cold_insert(&c, 5, 1);
    cold_delete(&c, 2);
    assert_int_equal(cold_head(&c).tombstones, 1);
    for (int i = 0; i < 1000 && cold_head(&c).tombstones > 0; i++)
        usleep(10000);
    assert_int_equal(cold_head(&c).tombstones, 0);
    assert_int_equal(cold_head(&c).forgotten_seq, 6);
    cold_check(&c);
    OK(store_consolidate(c.f.store, STR_NULL, &ec));
    cold_close(&c);
}

/* ---- the stop ---- */

struct stopper {
    struct store *store;
    int steps;
};

static bool stop_at_first(void *arg, enum consolidate_step step)
{
    struct stopper *s = arg;
    (void)step;
    if (s->steps++ == 0)
        store_stop_consolidation(s->store);
    return true;
}

/* A request for everybody ends at its next step, and so does every later one; rows stay readable and
 * writable. */
static void stops(void **state)
{
    (void)state;
    struct cold c;
    struct errctx ec = {0};
    cold_open(&c, "user_alice", 4);
    cold_insert(&c, 20, 2);
    struct cold other = {.f = c.f, .user = "user_bob"};
    cold_insert(&other, 20, 2);
    struct stopper s = {c.f.store, 0};
    struct consolidate_hook hook = {stop_at_first, &s};
    consolidator_set_hook(c.f.store->consolidator, &hook);
    assert_int_equal(store_consolidate(c.f.store, STR_NULL, &ec), ERR_UNAVAILABLE);
    assert_int_equal(s.steps, 1);
    assert_int_equal(store_consolidate(c.f.store, STR("user_bob"), &ec), ERR_UNAVAILABLE);
    assert_int_equal(s.steps, 1);
    cold_insert(&c, 5, 2);
    cold_check(&c);
    assert_int_equal(cold_head(&c).cold_epoch, 0);
    cold_reopen(&c);
    cold_consolidate(&c);
    assert_int_equal(cold_head(&c).fresh_rows, 0);
    cold_check(&c);
    free(other.rows);
    cold_close(&c);
}

/* ---- everything at once ---- */

struct writer {
    struct cold c; /* rows of its own user, in the shared store */
    unsigned seed;
    int rounds;
};

static void *write_rows(void *arg)
{
    struct writer *w = arg;
    for (int i = 0; i < w->rounds; i++) {
        cold_insert(&w->c, 5 + (size_t)rand_r(&w->seed) % 20, 4);
        for (int k = 0; k < 3; k++) {
            size_t at = (size_t)rand_r(&w->seed) % w->c.nrows;
            if (!w->c.rows[at].live)
                continue;
            if (k == 2)
                cold_delete(&w->c, at);
            else
                cold_update(&w->c, at, "changed under way");
        }
        if (i % 10 == 9)
            cold_check(&w->c);
    }
    return NULL;
}

static void all_at_once(void **state)
{
    (void)state;
    struct cold c;
    struct watch watch;
    enum { WRITERS = 3 };
    static const char *const users[WRITERS] = {"user_a", "user_b", "user_c"};
    struct writer w[WRITERS];
    pthread_t threads[WRITERS];
    open_background(&c, &watch, 60, 20, 50);
    for (int i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){.c = {.f = c.f, .user = users[i]}, .seed = (unsigned)i + 1, .rounds = 60};
        assert_int_equal(pthread_create(&threads[i], NULL, write_rows, &w[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        struct errctx ec = {0};
        watch_wait(&watch, 2 * i + 1);
        OK(store_consolidate(c.f.store, STR_NULL, &ec));
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < WRITERS; i++)
        cold_check(&w[i].c);
    cold_reopen(&c);
    for (int i = 0; i < WRITERS; i++) {
        w[i].c.f.store = c.f.store;
        cold_check(&w[i].c);
        cold_consolidate(&w[i].c);
        cold_check(&w[i].c);
        free(w[i].c.rows);
    }
    close_background(&c, &watch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(due), cmocka_unit_test(by_rows),
        cmocka_unit_test(by_time), cmocka_unit_test(after_restart), cmocka_unit_test(forgets_in_time),
        cmocka_unit_test(stops), cmocka_unit_test(all_at_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
