/* Erasure by the library: who waits for it, and what comes too late. The store's steps are where others are
 * let in between. */
#include "engine/erase.h"
#include "engine_fixture.h"
#include "store/internal.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct kalamdb_str ks(const char *s)
{
    return (struct kalamdb_str){s, s != NULL ? strlen(s) : 0};
}

/* ---- an erasure that is stopped on its way ---- */

struct eraser {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    enum erase_step at; /* where it waits, or fails */
    int failures;       /* that many times */
    bool holds, reached, go;
    bool done;
    struct kalamdb_erasure erasure;
    struct kalamdb_error error;
};

static bool step(void *arg, enum erase_step at)
{
    struct eraser *x = arg;
    bool ok = true;
    pthread_mutex_lock(&x->lock);
    if (at == x->at && x->holds) {
        x->reached = true;
        pthread_cond_broadcast(&x->cond);
        while (!x->go)
            pthread_cond_wait(&x->cond, &x->lock);
    } else if (at == x->at && x->failures > 0) {
        x->failures--;
        ok = false;
    }
    pthread_mutex_unlock(&x->lock);
    return ok;
}

static void erased(void *arg, const struct kalamdb_erasure *erasure, const struct kalamdb_error *error)
{
    struct eraser *x = arg;
    pthread_mutex_lock(&x->lock);
    x->erasure = erasure != NULL ? *erasure : (struct kalamdb_erasure){0};
    x->error = *error;
    x->done = true;
    pthread_cond_broadcast(&x->cond);
    pthread_mutex_unlock(&x->lock);
}

static void start_unwatched(struct eraser *x, struct engine *e, const char *user)
{
    x->done = x->reached = x->go = false;
    kalamdb_erase(e->db, ks(user), erased, x);
}

/* Only while no erasure is at work: it reads the hook. */
static void start(struct eraser *x, struct engine *e, const char *user, enum erase_step at)
{
    x->at = at;
    store_erase_set_hook(e->db->store, &(struct erase_hook){step, x});
    start_unwatched(x, e, user);
}

static void await(struct eraser *x, const bool *what)
{
    pthread_mutex_lock(&x->lock);
    while (!*what)
        pthread_cond_wait(&x->cond, &x->lock);
    pthread_mutex_unlock(&x->lock);
}

static void release(struct eraser *x)
{
    pthread_mutex_lock(&x->lock);
    x->go = true;
    pthread_cond_broadcast(&x->cond);
    pthread_mutex_unlock(&x->lock);
    await(x, &x->done);
}

#define ERASER                                                                                               \
    {                                                                                                        \
        .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER                                  \
    }

static int setup(void **state)
{
    struct engine *e = calloc(1, sizeof *e);
    engine_open(e);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    engine_close(*state);
    free(*state);
    return 0;
}

/* ---- who waits ---- */

static void waits_through_failures(void **state)
{
    struct engine *e = *state;
    struct eraser x = ERASER;
    expect_code(e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'one')", "OK");
    erasures_set_waits(e->db, 1000, INT64_C(60000000));
    x.failures = 3;
    start(&x, e, "alice", ERASE_PURGED);
    await(&x, &x.done);
    assert_int_equal(x.error.code, KALAMDB_OK);
    assert_int_equal(x.erasure.messages, 1);
    assert_int_equal(x.failures, 0);
}

static void told_when_it_takes_too_long(void **state)
{
    struct engine *e = *state;
    struct eraser x = ERASER;
    expect_code(e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'one')", "OK");
    erasures_set_waits(e->db, 1000, 0);
    x.failures = 1;
    start(&x, e, "alice", ERASE_PURGED);
    await(&x, &x.done);
    assert_int_equal(x.error.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(x.error.message, "the user is erased, but not yet every byte is off the disk"));
    assert_true(x.error.hint[0] != '\0');
    start_unwatched(&x, e, "alice");
    await(&x, &x.done);
    assert_int_equal(x.error.code, KALAMDB_OK);
    assert_int_equal(x.erasure.messages, 1);
}

/* A server that stops does not leave anybody waiting for the next try. */
static void told_when_the_server_stops(void **state)
{
    struct engine *e = *state;
    struct eraser x = ERASER;
    expect_code(e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'one')", "OK");
    erasures_set_waits(e->db, INT64_C(3600000000), INT64_C(3600000000));
    x.failures = 1000;
    start(&x, e, "alice", ERASE_BEGUN);
    kalamdb_stop_consolidation(e->db);
    await(&x, &x.done);
    assert_int_equal(x.error.code, ERR_UNAVAILABLE);
    engine_reopen(e); /* goes on with the erasure */
    start_unwatched(&x, e, "alice");
    await(&x, &x.done);
    assert_int_equal(x.error.code, KALAMDB_OK);
}

/* Who came back before the first erasure was finished, and asks again, is erased twice. */
static void asked_for_again_on_the_way(void **state)
{
    struct engine *e = *state;
    struct eraser x = ERASER, y = ERASER;
    expect_code(e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'one')", "OK");
    erasures_set_waits(e->db, 1000, 0);
    x.failures = 1;
    start(&x, e, "alice", ERASE_PURGED);
    await(&x, &x.done);
    assert_int_equal(x.error.code, ERR_UNAVAILABLE);
    expect_code(e, "alice",
        "INSERT INTO messages (conversation_id, content) VALUES ('c', 'two'), ('c', 'three')", "OK");
    erasures_set_waits(e->db, 1000, INT64_C(60000000));
    y.failures = 2;
    start(&y, e, "alice", ERASE_PURGED);
    await(&y, &y.done);
    assert_int_equal(y.error.code, KALAMDB_OK);
    assert_int_equal(y.erasure.messages, 2);
    assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages"), 0);
}

/* ---- streams ---- */

struct source {
    struct kalamdb_producer *p;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    bool ready;
    struct kalamdb_stream_event event;
};

static void on_wake(void *arg)
{
    struct source *s = arg;
    pthread_mutex_lock(&s->lock);
    s->ready = true;
    pthread_cond_signal(&s->woken);
    pthread_mutex_unlock(&s->lock);
}

static enum kalamdb_stream_event_kind next(struct source *s)
{
    while (kalamdb_producer_next(s->p, &s->event) == KALAMDB_STREAM_PENDING) {
        pthread_mutex_lock(&s->lock);
        while (!s->ready)
            pthread_cond_wait(&s->woken, &s->lock);
        s->ready = false;
        pthread_mutex_unlock(&s->lock);
    }
    return s->event.kind;
}

static const struct kalamdb_caller svc = {{"svc", 3}, KALAMDB_SERVICE, 0};

static int64_t begin(struct source *s, const char *owner, const char *conversation)
{
    struct kalamdb_stream_begin b = {
        .caller = svc, .user_id = ks(owner), .conversation_id = ks(conversation), .from = ks("assistant")};
    kalamdb_stream_begin(s->p, &b, 1);
    assert_int_equal(next(s), KALAMDB_STREAM_BEGUN);
    return s->event.msg_id;
}

static void append(struct source *s, int64_t id, uint64_t offset, const char *text)
{
    kalamdb_stream_append(s->p, &svc, id, offset, ks(text), 2);
}

/* Pieces of text in the database, of whomever. */
static int chunks(struct engine *e)
{
    struct store *s = e->db->store;
    int n = 0;
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_total_order_seek(options, 1);
    rocksdb_iterator_t *it = rocksdb_create_iterator(s->db, options);
    for (rocksdb_iter_seek_to_first(it); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        size_t len;
        const char *key = rocksdb_iter_key(it, &len);
        n += len > KEY_PREFIX_BYTES && get_be64(key) != CATALOG_USER_NO && get_be32(key + 8) == SPACE_STREAMS;
    }
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    return n;
}

/* Text that comes while the erasure is under way, and text and ends that come when it is done, write nothing;
 * what others stream goes on, in the same flushes. */
static void streams_of_the_erased(void **state)
{
    struct engine *e = *state;
    struct eraser x = ERASER;
    struct source s = {.lock = PTHREAD_MUTEX_INITIALIZER, .woken = PTHREAD_COND_INITIALIZER};
    struct kalamdb_error error;
    assert_int_equal(kalamdb_producer_open(e->db, on_wake, &s, &s.p, &error), KALAMDB_OK);
    int64_t early = begin(&s, "alice", "a"), late = begin(&s, "alice", "b"), ends = begin(&s, "alice", "c"),
            bobs = begin(&s, "bob", "d");
    append(&s, early, 0, "early");
    assert_int_equal(next(&s), KALAMDB_STREAM_ACK);
    assert_int_equal(chunks(e), 1);
    x.holds = true;
    start(&x, e, "alice", ERASE_BEGUN);
    await(&x, &x.reached);
    append(&s, early, 5, " text");
    assert_int_equal(next(&s), KALAMDB_STREAM_ERROR);
    assert_int_equal(s.event.msg_id, early);
    assert_int_equal(chunks(e), 1);
    append(&s, bobs, 0, "bob's");
    assert_int_equal(next(&s), KALAMDB_STREAM_ACK);
    assert_int_equal(chunks(e), 2);
    release(&x);
    assert_int_equal(x.error.code, KALAMDB_OK);
    assert_int_equal(chunks(e), 1);
    append(&s, late, 0, "late");
    assert_int_equal(next(&s), KALAMDB_STREAM_ERROR);
    assert_int_equal(s.event.msg_id, late);
    kalamdb_stream_end(s.p, &svc, ends, ks(NULL), 3);
    assert_int_equal(next(&s), KALAMDB_STREAM_ERROR);
    assert_int_equal(s.event.msg_id, ends);
    assert_int_equal(chunks(e), 1);
    assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages"), 0);
    append(&s, bobs, 5, " text");
    assert_int_equal(next(&s), KALAMDB_STREAM_ACK);
    kalamdb_stream_end(s.p, &svc, bobs, ks(NULL), 4);
    assert_int_equal(next(&s), KALAMDB_STREAM_ENDED);
    assert_int_equal(number(e, "bob", "SELECT count(*) FROM messages WHERE content = 'bob''s text'"), 1);
    kalamdb_producer_close(s.p);
}

/* The service that writes is erased: what it wrote in another's conversation is a whole row there. */
static void erased_producer(void **state)
{
    struct engine *e = *state;
    struct eraser x = ERASER;
    struct source s = {.lock = PTHREAD_MUTEX_INITIALIZER, .woken = PTHREAD_COND_INITIALIZER};
    struct kalamdb_error error;
    expect_code(e, "svc", "INSERT INTO messages (conversation_id, content) VALUES ('own', 'x')", "OK");
    assert_int_equal(kalamdb_producer_open(e->db, on_wake, &s, &s.p, &error), KALAMDB_OK);
    int64_t id = begin(&s, "bob", "d");
    append(&s, id, 0, "so far");
    assert_int_equal(next(&s), KALAMDB_STREAM_ACK);
    start(&x, e, "svc", ERASE_PURGED);
    await(&x, &x.done);
    assert_int_equal(x.error.code, KALAMDB_OK);
    assert_int_equal(chunks(e), 0);
    assert_int_equal(number(e, "bob",
                         "SELECT count(*) FROM messages WHERE content = 'so far' AND "
                         "metadata->>'stream' = 'interrupted'"),
        1);
    kalamdb_producer_close(s.p);
}

/* ---- uploads ---- */

struct uploading {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    struct kalamdb_error error;
};

static void uploaded(void *arg, const struct kalamdb_uploaded *up, const struct kalamdb_error *error)
{
    struct uploading *w = arg;
    (void)up;
    pthread_mutex_lock(&w->lock);
    w->error = error != NULL ? *error : (struct kalamdb_error){.code = KALAMDB_OK};
    w->done = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static kalamdb_code upload(struct engine *e, struct kalamdb_caller caller, struct eraser *x)
{
    struct uploading w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct kalamdb_upload *u;
    struct kalamdb_error error;
    const struct kalamdb_upload_message m = {.conversation_id = ks("c")};
    assert_int_equal(kalamdb_upload_begin(e->db, caller, ks("alice"), &u, &error), KALAMDB_OK);
    assert_int_equal(kalamdb_upload_write(u, "\x89PNG\r\n\x1a\n", 8, &error), KALAMDB_OK);
    if (x != NULL) {
        start(x, e, "alice", ERASE_PURGED);
        await(x, &x->done);
        assert_int_equal(x->error.code, KALAMDB_OK);
    }
    kalamdb_upload_finish(u, &m, uploaded, &w);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    return w.error.code;
}

/* What was begun before does not bring the user back, whoever sends it. */
static void upload_of_the_erased(void **state)
{
    struct engine *e = *state;
    struct eraser x = ERASER;
    const struct kalamdb_caller alice = {{"alice", 5}, KALAMDB_USER, 1};
    assert_int_equal(upload(e, alice, NULL), KALAMDB_OK);
    assert_int_equal(upload(e, svc, &x), ERR_CONFLICT);
    assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages"), 0);
    assert_int_equal(upload(e, svc, NULL), KALAMDB_OK);
    assert_int_equal(upload(e, alice, &x), ERR_UNAUTHENTICATED);
    assert_int_equal(number(e, "alice", "SELECT count(*) FROM messages"), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(waits_through_failures), TEST(told_when_it_takes_too_long),
        TEST(told_when_the_server_stops), TEST(asked_for_again_on_the_way), TEST(streams_of_the_erased),
        TEST(erased_producer), TEST(upload_of_the_erased)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
