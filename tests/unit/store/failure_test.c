/* A disk that fails and comes back (failfs.c, linked in): what is acknowledged stays, what is not is
 * OUTCOME_UNKNOWN, reads go on while the disk is away, and the store recovers without a restart. */
#include "fixture.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
/* cmocka wants the three before */
#include <cmocka.h>

#define OK(call)                                                                                             \
    do {                                                                                                     \
        enum err e_ = (call);                                                                                \
        if (e_ != ERR_OK)                                                                                    \
            fail_msg("%s: %s: %s (%s)", #call, err_wire(e_), ec.message, ec.internal);                       \
    } while (0)

static char control[64];

static void disk(const char *mode)
{
    FILE *file = fopen(control, "w");
    assert_non_null(file);
    fputs(mode, file);
    assert_int_equal(fclose(file), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    disk("");
    fixture_open(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    disk("");
    fixture_close(*state);
    free(*state);
    return 0;
}

struct resets {
    _Atomic int n;
    _Atomic int published;
};

static bool all_wanted(void *arg, uint64_t user_no)
{
    (void)arg;
    (void)user_no;
    return true;
}

static void count_published(void *arg, struct commit_event *ev)
{
    struct resets *r = arg;
    atomic_fetch_add(&r->published, (int)ev->nchanges);
}

static void count_reset(void *arg)
{
    struct resets *r = arg;
    atomic_fetch_add(&r->n, 1);
}

/* The disk is well again: the store finds out by itself. Waiting for that is what is tested. */
static void wait_writable(struct store *s)
{
    struct errctx ec;
    struct timespec pause = {0, 5000000};
    for (int i = 0; store_writable(s, &ec) != ERR_OK; i++) {
        assert_true(i < 4000);
        nanosleep(&pause, NULL);
    }
}

static uint64_t rows_of(struct fixture *f, const char *user, uint64_t *ret_seq)
{
    struct errctx ec;
    struct snapshot *snap;
    struct hot_iter *it;
    struct str row;
    struct row_meta meta;
    uint64_t n = 0;
    enum err e;
    OK(snapshot_open(f->store, str_c(user), &snap, &ec));
    struct scan_spec spec = {.order = SCAN_BY_SEQ, .seq_max = UINT64_MAX};
    OK(hot_iter_open(snap, &spec, &it, &ec));
    while ((e = hot_iter_next(it, &row, &ec)) == ERR_OK) {
        assert_int_equal(row_decode_meta(row, &meta), ERR_OK);
        assert_int_equal(meta.seq, ++n);
    }
    assert_int_equal(e, ERR_NOT_FOUND);
    assert_int_equal(snapshot_total_messages(snap), n);
    *ret_seq = snapshot_seq(snap);
    hot_iter_close(it);
    snapshot_close(snap);
    return n;
}

static int64_t total_of(struct fixture *f, const char *user, const char *conversation)
{
    struct errctx ec;
    struct snapshot *snap;
    struct value v[CONV_NCOLUMNS];
    OK(snapshot_open(f->store, str_c(user), &snap, &ec));
    OK(snapshot_conversation(snap, str_c(conversation), v, &ec));
    int64_t total = v[CONV_TOTAL_MESSAGES].i;
    snapshot_close(snap);
    return total;
}

static void fail_and_come_back(struct fixture *f, const char *mode)
{
    struct errctx ec;
    struct resets resets = {0};
    struct store_listener l = {all_wanted, count_published, count_reset, &resets};
    store_set_listener(f->store, &l);
    struct message m = {.user = "alice", .conversation = "c", .content = "kept"};
    OK(insert(f->store, &m, &ec));
    struct snapshot *old;
    struct hot_iter *it;
    struct str row;
    OK(snapshot_open(f->store, STR("alice"), &old, &ec));
    struct scan_spec spec = {.order = SCAN_BY_SEQ, .seq_max = UINT64_MAX};
    OK(hot_iter_open(old, &spec, &it, &ec));

    disk(mode);
    struct message lost = {.user = "alice", .conversation = "c", .content = "unknown", .client_id = "k"};
    assert_int_equal(insert(f->store, &lost, &ec), ERR_OUTCOME_UNKNOWN);
    assert_non_null(strstr(ec.hint, "client_msg_id"));
    assert_int_equal(store_writable(f->store, &ec), ERR_UNAVAILABLE);
    struct message refused = {.user = "alice", .conversation = "c", .content = "refused"};
    for (int i = 0; i < 20; i++) {
        refused.id = 0;
        assert_int_equal(insert(f->store, &refused, &ec), ERR_UNAVAILABLE);
    }
    assert_int_equal(barrier(f->store, NULL, NULL, NULL), ERR_UNAVAILABLE);
    uint64_t seq;
    assert_int_equal(rows_of(f, "alice", &seq), 1); /* reads go on */
    OK(hot_iter_next(it, &row, &ec));
    struct store_stats stats;
    store_stats(f->store, &stats);
    assert_false(stats.writable);
    assert_int_equal(stats.reopens, 0);

    disk("");
    wait_writable(f->store);
    store_stats(f->store, &stats);
    assert_true(stats.writable);
    assert_int_equal(stats.reopens, 1);
    assert_int_equal(resets.n, 1);
    assert_int_equal(hot_iter_next(it, &row, &ec), ERR_UNAVAILABLE); /* of the database that was closed */
    struct row_meta meta;
    struct value v[MSG_NCOLUMNS];
    assert_int_equal(snapshot_message(old, m.id, &meta, v, &ec), ERR_UNAVAILABLE);
    snapshot_close(old); /* and its iterator */

    /* The retry with the same client id makes it exactly one row, whichever way it went. */
    struct message again = {.user = "alice", .conversation = "c", .content = "unknown", .client_id = "k"};
    OK(insert(f->store, &again, &ec));
    assert_true(!again.existed || again.id == lost.id);
    assert_true(again.existed || again.id > lost.id);
    assert_int_equal(rows_of(f, "alice", &seq), 2);
    assert_int_equal(seq, 2);
    /* What the committer keeps at hand of the conversation is what came back, not what was there before. */
    struct message next = {.user = "alice", .conversation = "c", .content = "next"};
    OK(insert(f->store, &next, &ec));
    assert_int_equal(total_of(f, "alice", "c"), 3);
    assert_int_equal(rows_of(f, "alice", &seq), 3);
    assert_int_equal(
        barrier(f->store, NULL, NULL, NULL), ERR_OK); /* publication follows the acknowledgement */
    store_set_listener(f->store, NULL);
    assert_int_equal(resets.published, again.existed ? 2 : 3);
    fixture_reopen(f);
    assert_int_equal(rows_of(f, "alice", &seq), 3);
}

static void test_fsync_fails(void **state)
{
    fail_and_come_back(*state, "fsync EIO");
}

static void test_write_fails(void **state)
{
    fail_and_come_back(*state, "write EIO");
}

static void test_disk_full(void **state)
{
    fail_and_come_back(*state, "write ENOSPC");
}

static void test_async_window_fails(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    struct resets resets = {0};
    struct store_listener l = {all_wanted, count_published, count_reset, &resets};
    struct message m = {.user = "alice", .conversation = "c", .content = "x"};
    uint64_t seq;
    OK(insert(f->store, &m, &ec));
    assert_int_equal(barrier(f->store, NULL, NULL, NULL), ERR_OK);
    store_set_listener(f->store, &l);
    disk("fsync EIO");
    m.id = 0;
    OK(commit(f->store, insert_message, &m, DURABILITY_ASYNC, &ec)); /* acknowledged: the OS has it */
    struct timespec pause = {0, 1000000};
    for (int i = 0; store_writable(f->store, &ec) == ERR_OK; i++) { /* until the window's fsync */
        assert_true(i < 20000);
        nanosleep(&pause, NULL);
    }
    assert_int_equal(resets.published, 0); /* nobody saw what was never durable */
    disk("");
    wait_writable(f->store);
    assert_int_equal(resets.n, 1);
    assert_int_equal(resets.published, 0);
    uint64_t n = rows_of(f, "alice", &seq);
    assert_int_equal(n, seq);
    assert_in_range(n, 1, 2);
    m.id = 0;
    OK(insert(f->store, &m, &ec));
    assert_int_equal(m.seq, n + 1);
    store_set_listener(f->store, NULL);
}

static void test_close_while_the_disk_fails(void **state)
{
    struct fixture *f = *state;
    const char *modes[] = {"fsync EIO", "write EIO", "write ENOSPC"};
    struct errctx ec;
    uint64_t rows = 0, seq;
    for (int i = 0; i < 3; i++) {
        struct message m = {.user = "alice", .conversation = "c", .content = "x"};
        OK(insert(f->store, &m, &ec));
        disk(modes[i]);
        m.id = 0;
        assert_int_equal(insert(f->store, &m, &ec), ERR_OUTCOME_UNKNOWN);
        store_close(f->store);
        disk("");
        OK(store_open(&f->cfg, &f->store, &ec));
        uint64_t now = rows_of(f, "alice", &seq);
        assert_in_range(now, rows + 1, rows + 2);
        assert_int_equal(seq, now);
        rows = now;
    }
}

/* The log takes everything, but flushes find no space: RocksDB stops in the background. */
static void test_flush_fails(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    store_close(f->store);
    f->cfg.write_buffer_bytes = 128 << 10;
    OK(store_open(&f->cfg, &f->store, &ec));
    char *content = calloc(1, 20001);
    memset(content, 'x', 20000);
    disk("tables ENOSPC");
    uint64_t acknowledged = 0, seq;
    enum err e = ERR_OK;
    for (int i = 0; i < 1000 && e == ERR_OK; i++) {
        struct message m = {.user = "alice", .conversation = "c", .content = content};
        e = insert(f->store, &m, &ec);
        acknowledged += e == ERR_OK;
    }
    assert_true(e == ERR_OUTCOME_UNKNOWN || e == ERR_UNAVAILABLE);
    disk("");
    wait_writable(f->store);
    uint64_t rows = rows_of(f, "alice", &seq);
    assert_in_range(rows, acknowledged, acknowledged + 1);
    struct message m = {.user = "alice", .conversation = "c", .content = content};
    for (int i = 0; i < 20; i++, m.id = 0)
        OK(insert(f->store, &m, &ec));
    fixture_reopen(f);
    assert_int_equal(rows_of(f, "alice", &seq), rows + 20);
    free(content);
}

/* ---- many writers and readers through repeated failures ----------------------------------------------- */

struct worker {
    struct fixture *f;
    pthread_t thread;
    char user[16];
    _Atomic bool *stop;
    uint64_t acknowledged, unknown, failures;
};

static void *write_on(void *arg)
{
    struct worker *w = arg;
    struct errctx ec;
    struct timespec pause = {0, 1000000};
    char key[32];
    for (int i = 0; !atomic_load(w->stop); i++) {
        snprintf(key, sizeof key, "k%d", i);
        for (;;) { /* as a client does: the same key until it is acknowledged */
            struct message m = {.user = w->user, .conversation = "c", .content = "x", .client_id = key};
            enum err e = insert(w->f->store, &m, &ec);
            if (e == ERR_OK)
                break;
            assert_true(e == ERR_OUTCOME_UNKNOWN || e == ERR_UNAVAILABLE);
            w->failures++;
            nanosleep(&pause, NULL);
        }
        w->acknowledged++;
    }
    return NULL;
}

static void *read_on(void *arg)
{
    struct worker *w = arg;
    struct errctx ec;
    while (!atomic_load(w->stop)) {
        struct snapshot *snap;
        struct hot_iter *it;
        struct str row;
        enum err e = snapshot_open(w->f->store, str_c(w->user), &snap, &ec);
        if (e == ERR_UNAVAILABLE)
            continue;
        assert_int_equal(e, ERR_OK);
        struct scan_spec spec = {.order = SCAN_BY_SEQ, .seq_max = UINT64_MAX};
        uint64_t n = 0;
        e = hot_iter_open(snap, &spec, &it, &ec);
        for (struct row_meta meta; e == ERR_OK && (e = hot_iter_next(it, &row, &ec)) == ERR_OK;) {
            assert_int_equal(row_decode_meta(row, &meta), ERR_OK);
            assert_int_equal(meta.seq, ++n);
        }
        if (e == ERR_NOT_FOUND)
            assert_int_equal(n, snapshot_seq(snap));
        else
            assert_int_equal(e, ERR_UNAVAILABLE);
        snapshot_close(snap);
        w->acknowledged++;
    }
    return NULL;
}

static void test_repeated_failures(void **state)
{
    enum { WRITERS = 3, ROUNDS = 5 };
    struct fixture *f = *state;
    _Atomic bool stop = false;
    struct worker w[WRITERS + 1] = {0};
    for (int i = 0; i <= WRITERS; i++) {
        w[i].f = f;
        w[i].stop = &stop;
        snprintf(w[i].user, sizeof w[i].user, "u%d", i % WRITERS);
        assert_int_equal(pthread_create(&w[i].thread, NULL, i < WRITERS ? write_on : read_on, &w[i]), 0);
    }
    struct store_stats stats;
    for (int round = 0; round < ROUNDS; round++) {
        struct errctx ec;
        struct timespec pause = {0, 2000000};
        disk(round % 2 == 0 ? "fsync EIO" : "write ENOSPC");
        while (store_writable(f->store, &ec) == ERR_OK)
            nanosleep(&pause, NULL);
        disk("");
        wait_writable(f->store);
        store_stats(f->store, &stats);
        uint64_t commits = stats.commits;
        while (stats.commits < commits + 20) {
            nanosleep(&pause, NULL);
            store_stats(f->store, &stats);
        }
    }
    atomic_store(&stop, true);
    for (int i = 0; i <= WRITERS; i++)
        pthread_join(w[i].thread, NULL);
    assert_true(stats.reopens >= ROUNDS);
    for (int i = 0; i < WRITERS; i++) {
        uint64_t seq;
        assert_int_equal(rows_of(f, w[i].user, &seq), w[i].acknowledged);
        assert_true(w[i].failures > 0);
    }
    assert_true(w[WRITERS].acknowledged > 0);
}

int main(void)
{
    snprintf(control, sizeof control, "/tmp/kalamdb-failfs-%ld", (long)getpid());
    setenv("FAILFS_CONTROL", control, 1);
    setenv("FAILFS_ROOT", "/tmp/kalamdb-test-", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fsync_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_async_window_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_close_while_the_disk_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_repeated_failures, setup, teardown),
    };
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(control);
    return failures;
}
