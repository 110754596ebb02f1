/* The committer: barriers, publication, async mode, the disk reserve, the lock against a second process. */
#include "fixture.h"
#include "store/committer.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
/* cmocka wants the three before */
#include <cmocka.h>

#define OK(call)                                                                                             \
    do {                                                                                                     \
        enum err e_ = (call);                                                                                \
        if (e_ != ERR_OK)                                                                                    \
            fail_msg("%s: %s: %s (%s)", #call, err_wire(e_), ec.message, ec.internal);                       \
    } while (0)

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    fixture_open(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture_close(*state);
    free(*state);
    return 0;
}

/* ---- a listener that writes down what it hears -------------------------------------------------------- */

struct heard {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    uint64_t only_user; /* 0: all */
    size_t n, resets;
    struct {
        uint64_t user_no, seq;
        enum change_op op;
        char conversation[16];
        char content[16];
    } changes[8192];
};

static bool heard_wanted(void *arg, uint64_t user_no)
{
    struct heard *h = arg;
    return h->only_user == 0 || h->only_user == user_no;
}

static void heard_committed(void *arg, struct commit_event *ev)
{
    struct heard *h = arg;
    pthread_mutex_lock(&h->lock);
    for (size_t i = 0; i < ev->nchanges && h->n < 8192; i++) {
        const struct change *c = &ev->changes[i];
        struct row_meta meta;
        struct value v[SCHEMA_COLUMNS_MAX];
        bool row = c->op != CHANGE_CONVERSATION;
        assert_int_equal(
            row_decode(c->row, row ? &schema_messages : &schema_conversations, &meta, v), ERR_OK);
        h->changes[h->n].user_no = ev->user_no;
        h->changes[h->n].seq = c->seq;
        h->changes[h->n].op = c->op;
        snprintf(h->changes[h->n].conversation, 16, "%.*s", STR_FMT(c->conversation_id));
        if (c->op == CHANGE_INSERT || c->op == CHANGE_UPDATE)
            snprintf(h->changes[h->n].content, 16, "%.*s", STR_FMT(v[MSG_CONTENT].s));
        if (row)
            assert_int_equal(meta.seq, c->seq);
        h->n++;
    }
    pthread_cond_broadcast(&h->wake);
    pthread_mutex_unlock(&h->lock);
}

static void heard_reset(void *arg)
{
    struct heard *h = arg;
    pthread_mutex_lock(&h->lock);
    h->resets++;
    pthread_mutex_unlock(&h->lock);
}

static struct heard *listen_to(struct fixture *f)
{
    struct heard *h = calloc(1, sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->wake, NULL);
    struct store_listener l = {heard_wanted, heard_committed, heard_reset, h};
    store_set_listener(f->store, &l);
    return h;
}

static void stop_listening(struct fixture *f, struct heard *h)
{
    store_set_listener(f->store, NULL);
    free(h);
}

static void test_publication(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    struct heard *h = listen_to(f);
    struct message a = {.user = "alice", .conversation = "c", .content = "one"};
    struct message b = {.user = "bob", .conversation = "d", .content = "two"};
    OK(insert(f->store, &a, &ec));
    OK(insert(f->store, &b, &ec));
    OK(update_message(f->store, "alice", a.id, "ONE", &ec));
    OK(delete_message(f->store, "alice", a.id, &ec));
    assert_int_equal(barrier(f->store, NULL, NULL, NULL), ERR_OK);
    assert_int_equal(h->n, 4);
    const enum change_op ops[] = {CHANGE_INSERT, CHANGE_INSERT, CHANGE_UPDATE, CHANGE_DELETE};
    const uint64_t seqs[] = {1, 1, 2, 3};
    const char *contents[] = {"one", "two", "ONE", ""};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(h->changes[i].op, ops[i]);
        assert_int_equal(h->changes[i].seq, seqs[i]);
        assert_string_equal(h->changes[i].content, contents[i]);
        assert_string_equal(h->changes[i].conversation, i == 1 ? "d" : "c");
    }
    h->only_user = h->changes[1].user_no;
    a.id = b.id = 0;
    OK(insert(f->store, &a, &ec));
    OK(insert(f->store, &b, &ec));
    assert_int_equal(barrier(f->store, NULL, NULL, NULL), ERR_OK);
    assert_int_equal(h->n, 5); /* nobody wanted alice's */
    assert_int_equal(h->changes[4].seq, 2);
    stop_listening(f, h);
}

static enum err refused_insert(struct txn *txn, void *arg, struct errctx *ec)
{
    enum err e = insert_message(txn, arg, ec);
    return e == ERR_OK ? err_set(ec, ERR_CONFLICT, "refused") : e;
}

static enum err rename_conversation(struct txn *txn, void *arg, struct errctx *ec)
{
    uint64_t user_no;
    struct conversation c;
    (void)arg;
    enum err e = txn_user(txn, STR("alice"), false, &user_no, ec);
    if (e == ERR_OK)
        e = txn_conversation(txn, user_no, STR("c"), &c, ec);
    c.values[CONV_TITLE] = value_text(STR("title"));
    return e == ERR_OK ? txn_conversation_put(txn, &c, true, ec) : e;
}

static void test_undone_changes_are_not_published(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    struct heard *h = listen_to(f);
    struct message good = {.user = "alice", .conversation = "c", .content = "good"};
    struct message bad = {.user = "alice", .conversation = "c", .content = "bad"};
    OK(insert(f->store, &good, &ec));
    assert_int_equal(commit(f->store, refused_insert, &bad, DURABILITY_DEFAULT, &ec), ERR_CONFLICT);
    good.id = 0;
    OK(insert(f->store, &good, &ec));
    OK(commit(f->store, rename_conversation, NULL, DURABILITY_DEFAULT, &ec));
    assert_int_equal(barrier(f->store, NULL, NULL, NULL), ERR_OK);
    assert_int_equal(h->n, 3);
    assert_string_equal(h->changes[1].content, "good");
    assert_int_equal(h->changes[1].seq, 2); /* the undone one took no number */
    assert_int_equal(h->changes[2].op, CHANGE_CONVERSATION);
    assert_int_equal(h->changes[2].seq, 0);
    stop_listening(f, h);
}

/* ---- barriers ----------------------------------------------------------------------------------------- */

struct at_barrier {
    struct fixture *f;
    struct heard *heard;
    uint64_t seq;
    size_t published;
    struct snapshot *snap;
};

static void look(void *arg)
{
    struct at_barrier *b = arg;
    struct errctx ec;
    OK(snapshot_open(b->f->store, STR("alice"), &b->snap, &ec));
    b->seq = snapshot_seq(b->snap);
    b->published = b->heard->n;
}

static void test_barrier_sees_all_before_and_nothing_after(void **state)
{
    enum { N = 300 };
    struct fixture *f = *state;
    struct heard *h = listen_to(f);
    struct pending_commit *p = calloc(2 * N, sizeof *p);
    struct message *m = calloc(2 * N, sizeof *m);
    for (int round = 0; round < 2; round++) {
        struct at_barrier b = {.f = f, .heard = h};
        for (int i = 0; i < N; i++) {
            m[i] = (struct message){.user = "alice", .conversation = "c", .content = "x"};
            commit_start(
                f->store, &p[i], insert_message, &m[i], round == 0 ? DURABILITY_SYNC : DURABILITY_ASYNC);
        }
        assert_int_equal(barrier(f->store, "alice", look, &b), ERR_OK);
        assert_int_equal(b.seq, (uint64_t)(round + 1) * N);
        assert_int_equal(b.published, (size_t)(round + 1) * N);
        for (int i = 0; i < N; i++)
            assert_int_equal(commit_end(&p[i]), ERR_OK);
        snapshot_close(b.snap);
    }
    for (size_t i = 0; i < h->n; i++)
        assert_int_equal(h->changes[i].seq, i + 1);
    free(p);
    free(m);
    stop_listening(f, h);
}

static void test_barrier_creates_the_user(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    struct heard *h = listen_to(f);
    struct at_barrier b = {.f = f, .heard = h};
    assert_int_equal(barrier(f->store, "alice", look, &b), ERR_OK);
    assert_true(snapshot_exists(b.snap));
    assert_int_equal(snapshot_feed(b.snap).len, 16);
    assert_int_equal(b.seq, 0);
    snapshot_close(b.snap);
    struct store_stats before, after;
    store_stats(f->store, &before);
    assert_int_equal(barrier(f->store, "alice", NULL, NULL), ERR_OK);
    store_stats(f->store, &after);
    assert_int_equal(after.batches, before.batches); /* nothing to write, no fsync */
    struct snapshot *snap;
    OK(snapshot_open(f->store, STR("alice"), &snap, &ec));
    assert_int_equal(snapshot_user_no(snap), 1);
    snapshot_close(snap);
    stop_listening(f, h);
}

/* ---- async -------------------------------------------------------------------------------------------- */

static void test_async_is_published_after_the_sync(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    struct heard *h = listen_to(f);
    struct message m = {.user = "alice", .conversation = "c", .content = "x"};
    OK(commit(f->store, insert_message, &m, DURABILITY_ASYNC, &ec));
    struct snapshot *snap;
    OK(snapshot_open(f->store, STR("alice"), &snap, &ec));
    assert_int_equal(snapshot_seq(snap), 1); /* acknowledged: readable at once */
    snapshot_close(snap);
    pthread_mutex_lock(&h->lock);
    while (h->n == 0) /* the window's sync comes by itself */
        pthread_cond_wait(&h->wake, &h->lock);
    pthread_mutex_unlock(&h->lock);
    assert_int_equal(h->changes[0].seq, 1);
    assert_true(store_sync_hist(f->store)->sum_us > 0);
    stop_listening(f, h);
}

static void test_async_waits_for_the_window(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    store_close(f->store);
    f->cfg.async_window_ms = 1000 * 1000;
    OK(store_open(&f->cfg, &f->store, &ec));
    struct heard *h = listen_to(f);
    struct message m = {.user = "alice", .conversation = "c", .content = "x"};
    for (int i = 0; i < 10; i++, m.id = 0)
        OK(commit(f->store, insert_message, &m, DURABILITY_ASYNC, &ec));
    assert_int_equal(h->n, 0);
    OK(commit(f->store, insert_message, &m, DURABILITY_SYNC, &ec)); /* syncs and publishes those before it */
    assert_int_equal(barrier(f->store, NULL, NULL, NULL), ERR_OK);
    assert_int_equal(h->n, 11);
    m.id = 0;
    OK(commit(f->store, insert_message, &m, DURABILITY_ASYNC, &ec));
    store_close(f->store); /* drains and syncs */
    assert_int_equal(h->n, 12);
    free(h);
    OK(store_open(&f->cfg, &f->store, &ec));
    struct snapshot *snap;
    OK(snapshot_open(f->store, STR("alice"), &snap, &ec));
    assert_int_equal(snapshot_seq(snap), 12);
    snapshot_close(snap);
}

/* ---- reserve, lock ------------------------------------------------------------------------------------ */

static void test_disk_reserve(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    store_close(f->store);
    f->cfg.disk_reserve_bytes = 1000;
    OK(store_open(&f->cfg, &f->store, &ec));
    struct message m = {.user = "alice", .conversation = "c", .content = "x"};
    OK(insert(f->store, &m, &ec));
    OK(store_writable(f->store, &ec));
    atomic_store(&f->free_bytes, 999);
    atomic_fetch_add(&f->clock_us, 2000000); /* past the next measurement */
    m.id = 0;
    assert_int_equal(insert(f->store, &m, &ec), ERR_UNAVAILABLE);
    assert_non_null(strstr(ec.message, "space"));
    assert_int_equal(store_writable(f->store, &ec), ERR_UNAVAILABLE);
    struct store_stats stats;
    store_stats(f->store, &stats);
    assert_false(stats.writable);
    assert_int_equal(stats.free_bytes, 999);
    struct snapshot *snap; /* reads go on, and so do barriers that write nothing */
    OK(snapshot_open(f->store, STR("alice"), &snap, &ec));
    assert_int_equal(snapshot_seq(snap), 1);
    snapshot_close(snap);
    assert_int_equal(barrier(f->store, "alice", NULL, NULL), ERR_OK);
    assert_int_equal(barrier(f->store, "newcomer", NULL, NULL), ERR_UNAVAILABLE);
    atomic_store(&f->free_bytes, 1000);
    atomic_fetch_add(&f->clock_us, 2000000);
    OK(insert(f->store, &m, &ec));
    OK(store_writable(f->store, &ec));
}

static void test_second_process_is_refused(void **state)
{
    struct fixture *f = *state;
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        struct store *second;
        struct errctx ec;
        enum err e = store_open(&f->cfg, &second, &ec);
        dprintf(pipes[1], "%s|%s", err_wire(e), ec.message);
        _exit(0);
    }
    close(pipes[1]);
    char text[700] = "", expected[128];
    size_t n = 0;
    for (ssize_t r; (r = read(pipes[0], text + n, sizeof text - 1 - n)) > 0; n += (size_t)r)
        ;
    close(pipes[0]);
    assert_int_equal(waitpid(child, NULL, 0), child);
    snprintf(expected, sizeof expected, "CONFLICT|%s is in use by another process (pid %ld)", f->dir,
        (long)getpid());
    assert_string_equal(text, expected);
}

/* As a later version would have written it. */
static void write_format(const char *path, uint32_t version)
{
    char value[4], *message = NULL;
    struct key k = key_prefix(CATALOG_USER_NO, CATALOG_FORMAT);
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_writeoptions_t *write = rocksdb_writeoptions_create();
    rocksdb_t *db = rocksdb_open(options, path, &message);
    assert_null(message);
    put_be32(value, version);
    rocksdb_put(db, write, k.bytes, k.len, value, sizeof value, &message);
    assert_null(message);
    rocksdb_close(db);
    rocksdb_writeoptions_destroy(write);
    rocksdb_options_destroy(options);
}

static uint32_t read_format(struct store *s)
{
    struct key k = key_prefix(CATALOG_USER_NO, CATALOG_FORMAT);
    char *message = NULL;
    size_t len = 0;
    char *value = rocksdb_get(s->db, s->read_latest, k.bytes, k.len, &len, &message);
    assert_null(message);
    assert_int_equal(len, 4);
    uint32_t version = get_be32(value);
    rocksdb_free(value);
    return version;
}

/* Data from before there were groups: read as it is, and lifted, so that the program of that time refuses it.
 */
static void test_older_format_is_lifted(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    struct catalog_state catalog;
    char path[128];
    snprintf(path, sizeof path, "%s/.kalamdb/hot", f->dir);
    struct message m = {.user = "alice", .conversation = "c", .content = "kept"};
    OK(insert(f->store, &m, &ec));
    store_close(f->store);
    write_format(path, 1);
    OK(store_open(&f->cfg, &f->store, &ec));
    assert_int_equal(read_format(f->store), STORE_FORMAT_VERSION);
    struct message next = {.user = "alice", .conversation = "c", .content = "next"};
    OK(insert(f->store, &next, &ec));
    assert_int_equal(next.seq, 2);
    /* The catalog's state of that time: highest id 5, next user 3, no hot rows, and no word of groups. */
    OK(catalog_decode(STR("\1\5\3\0"), &catalog));
    assert_int_equal(catalog.next_user_no, 3);
    assert_int_equal(catalog_users(&catalog), 2);
    assert_int_equal(catalog_decode(STR("\2\5\3\0"), &catalog), ERR_CORRUPT);
    assert_int_equal(catalog_decode(STR("\2\5\3\0\3"), &catalog), ERR_CORRUPT);
}

static void test_newer_format_is_refused(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    struct store *s;
    store_close(f->store);
    char path[128];
    snprintf(path, sizeof path, "%s/.kalamdb/hot", f->dir);
    write_format(path, STORE_FORMAT_VERSION + 1);
    assert_int_equal(store_open(&f->cfg, &s, &ec), ERR_INVALID_REQUEST);
    assert_non_null(strstr(ec.message, "newer version"));
    fixture_remove_dir(f->dir);
    OK(store_open(&f->cfg, &f->store, &ec));
}

/* ---- many threads ------------------------------------------------------------------------------------- */

struct writer {
    struct fixture *f;
    pthread_t thread;
    int number;
};

static void *write_and_read(void *arg)
{
    struct writer *w = arg;
    struct errctx ec;
    char user[16];
    snprintf(user, sizeof user, "u%d", w->number % 3);
    for (int i = 0; i < 100; i++) {
        struct message m = {.user = user, .conversation = "c", .content = "x"};
        enum durability d = i % 2 == 0 ? DURABILITY_SYNC : DURABILITY_ASYNC;
        OK(commit(w->f->store, insert_message, &m, d, &ec));
        struct snapshot *snap;
        struct hot_iter *it;
        struct str row;
        OK(snapshot_open(w->f->store, str_c(user), &snap, &ec));
        assert_true(snapshot_seq(snap) >= m.seq);
        struct scan_spec spec = {.order = SCAN_BY_SEQ, .seq_max = UINT64_MAX};
        OK(hot_iter_open(snap, &spec, &it, &ec));
        uint64_t n = 0;
        struct row_meta meta;
        while (hot_iter_next(it, &row, &ec) == ERR_OK) {
            assert_int_equal(row_decode_meta(row, &meta), ERR_OK);
            assert_int_equal(meta.seq, ++n); /* gap-free in every snapshot */
        }
        assert_int_equal(n, snapshot_seq(snap));
        hot_iter_close(it);
        snapshot_close(snap);
    }
    return NULL;
}

static void test_writers_and_readers(void **state)
{
    enum { THREADS = 6 };
    struct fixture *f = *state;
    struct errctx ec;
    struct heard *h = listen_to(f);
    struct writer w[THREADS];
    for (int i = 0; i < THREADS; i++) {
        w[i] = (struct writer){.f = f, .number = i};
        assert_int_equal(pthread_create(&w[i].thread, NULL, write_and_read, &w[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(w[i].thread, NULL);
    assert_int_equal(barrier(f->store, NULL, NULL, NULL), ERR_OK);
    assert_int_equal(h->n, THREADS * 100);
    uint64_t next[4] = {1, 1, 1, 1};
    for (size_t i = 0; i < h->n; i++) {
        assert_in_range(h->changes[i].user_no, 1, 3);
        assert_int_equal(h->changes[i].seq, next[h->changes[i].user_no]++);
    }
    struct snapshot *snap;
    OK(snapshot_open(f->store, STR("u0"), &snap, &ec));
    assert_int_equal(snapshot_total_messages(snap), 200);
    snapshot_close(snap);
    struct store_stats stats;
    store_stats(f->store, &stats);
    assert_int_equal(stats.commits, THREADS * 100);
    assert_int_equal(stats.queue_depth, 0);
    stop_listening(f, h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_publication, setup, teardown),
        cmocka_unit_test_setup_teardown(test_undone_changes_are_not_published, setup, teardown),
        cmocka_unit_test_setup_teardown(test_barrier_sees_all_before_and_nothing_after, setup, teardown),
        cmocka_unit_test_setup_teardown(test_barrier_creates_the_user, setup, teardown),
        cmocka_unit_test_setup_teardown(test_async_is_published_after_the_sync, setup, teardown),
        cmocka_unit_test_setup_teardown(test_async_waits_for_the_window, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk_reserve, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_process_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_newer_format_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_older_format_is_lifted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_writers_and_readers, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
