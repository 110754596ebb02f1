/* Statements at the same time: nothing lost, nothing twice, every call answered once. */
#include "engine_fixture.h"
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#define THREADS 8

static struct engine e;

static int setup(void **state)
{
    (void)state;
    engine_open(&e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    engine_close(&e);
    return 0;
}

static void on_threads(void *(*fn)(void *arg))
{
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, fn, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void seed(int n)
{
    char sql[256];
    for (int i = 1; i <= n; i++) {
        snprintf(sql, sizeof sql,
            "INSERT INTO alice.messages (msg_id, conversation_id, content) VALUES (%d, 'c%d', '0')", i,
            i % 2);
        expect_code(&e, "service:s", sql, "OK");
    }
}

static _Atomic int64_t affected;
static _Atomic int failures;

static int64_t affected_by(const char *sql)
{
    struct kalamdb_statement st = {.caller = {.user_id = {"alice", 5}}, .sql = {sql, strlen(sql)}};
    struct kalamdb_result *r;
    struct kalamdb_error error;
    if (kalamdb_exec(e.db, &st, &r, &error) != KALAMDB_OK) {
        fprintf(stderr, "%s: %s %s %s\n", sql, kalamdb_code_name(error.code), error.message, error.internal);
        failures++;
        return 0;
    }
    int64_t n = kalamdb_result_rows_affected(r);
    kalamdb_result_free(r);
    return n;
}

static void *update_same_rows(void *arg)
{
    char sql[128];
    for (int i = 0; i < 25; i++) {
        snprintf(sql, sizeof sql, "UPDATE messages SET content = 't%d.%d' WHERE conversation_id = 'c%d'",
            (int)(intptr_t)arg, i, i % 2);
        affected += affected_by(sql);
    }
    return NULL;
}

static void updates_of_the_same_rows(void **state)
{
    (void)state;
    seed(20);
    affected = failures = 0;
    on_threads(update_same_rows);
    assert_int_equal(failures, 0);
    assert_int_equal(affected, THREADS * 25 * 10);
    assert_int_equal(number(&e, "alice", "SELECT max(_seq) FROM messages"), 20 + THREADS * 25 * 10);
    /* Each statement changed all its rows at once. */
    assert_int_equal(
        number(&e, "alice", "SELECT count(DISTINCT content) FROM messages WHERE conversation_id = 'c0'"), 1);
    assert_int_equal(
        number(&e, "alice", "SELECT count(DISTINCT content) FROM messages WHERE conversation_id = 'c1'"), 1);
}

static void *increment(void *arg)
{
    (void)arg;
    for (int i = 0; i < 6; i++)
        affected += affected_by("UPDATE messages SET content = (content::int + 1)::text WHERE msg_id = 1");
    return NULL;
}

static void increments(void **state)
{
    (void)state;
    seed(3);
    affected = failures = 0;
    on_threads(increment);
    assert_int_equal(failures, 0);
    assert_int_equal(affected, THREADS * 6);
    expect(&e, "alice", "SELECT content FROM messages WHERE msg_id = 1",
        "{\"columns\":[\"content\"],\"rows\":[[\"48\"]],\"rowCount\":1}");
}

static void *insert_and_delete(void *arg)
{
    intptr_t me = (intptr_t)arg;
    for (int i = 0; i < 30; i++) {
        if (me % 4 == 3)
            affected_by(i % 2 == 0 ? "DELETE FROM messages WHERE conversation_id = 'c0'"
                                   : "DELETE FROM conversations WHERE conversation_id = 'c1'");
        else if (me % 4 == 2)
            affected_by("UPDATE conversations SET title = 't' WHERE conversation_id IN ('c0', 'c1')");
        else
            affected += affected_by(
                i % 2 == 0 ? "INSERT INTO messages (conversation_id, content) VALUES ('c0', 'x'), ('c1', 'y')"
                           : "INSERT INTO messages (conversation_id, content) VALUES ('c1', 'y')");
    }
    return NULL;
}

static void counters_under_fire(void **state)
{
    (void)state;
    seed(4);
    affected = failures = 0;
    on_threads(insert_and_delete);
    assert_int_equal(failures, 0);
    assert_int_equal(affected, 4 * (15 * 2 + 15));
    expect(&e, "alice",
        "SELECT c.conversation_id FROM conversations c LEFT JOIN (SELECT conversation_id, count(*) n, "
        "min(msg_id) a, "
        "max(msg_id) z FROM messages GROUP BY 1) m ON m.conversation_id = c.conversation_id WHERE "
        "c.total_messages <> coalesce(n, 0) OR coalesce(c.first_msg_id, 0) <> coalesce(a, 0) OR "
        "coalesce(c.last_msg_id, 0) <> coalesce(z, 0)",
        "{\"columns\":[\"conversation_id\"],\"rows\":[],\"rowCount\":0}");
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages"),
        number(&e, "alice", "SELECT count(*) + 0 FROM messages"));
}

static void *same_client_ids(void *arg)
{
    (void)arg;
    char sql[160];
    for (int i = 0; i < 40; i++) {
        snprintf(sql, sizeof sql,
            "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('c', 'x', 'k%d')", i);
        affected += affected_by(sql);
    }
    return NULL;
}

static void retries_at_the_same_time(void **state)
{
    (void)state;
    affected = failures = 0;
    on_threads(same_client_ids);
    assert_int_equal(failures, 0);
    assert_int_equal(affected, 40);
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages"), 40);
}

/* ---- asynchronous ---- */

enum { INFLIGHT = 64, INSERTS = 4000 };

struct pump {
    sem_t room;
    _Atomic int done, failed;
};

static void pumped(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
{
    struct pump *p = arg;
    if (error->code != KALAMDB_OK || kalamdb_result_rows_affected(result) != 1)
        p->failed++;
    kalamdb_result_free(result);
    p->done++;
    sem_post(&p->room);
}

static void many_in_flight(void **state)
{
    (void)state;
    struct pump p = {0};
    sem_init(&p.room, 0, INFLIGHT);
    for (int i = 0; i < INSERTS; i++) {
        struct kalamdb_value params[] = {text_param("c"), text_param("hello")};
        const char *sql = "INSERT INTO messages (conversation_id, content) VALUES ($1, $2)";
        struct kalamdb_statement st = {
            .caller = {.user_id = {"alice", 5}}, .sql = {sql, strlen(sql)}, .params = params, .nparams = 2};
        struct kalamdb_query *query = NULL;
        sem_wait(&p.room);
        kalamdb_exec_async(e.db, &st, pumped, &p, &query);
        assert_non_null(query);
        kalamdb_query_free(query);
    }
    for (int i = 0; i < INFLIGHT; i++)
        sem_wait(&p.room);
    assert_int_equal(p.done, INSERTS);
    assert_int_equal(p.failed, 0);
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages"), INSERTS);
    assert_int_equal(
        number(&e, "alice", "SELECT count(DISTINCT _seq) FROM messages WHERE _seq BETWEEN 1 AND 4000"),
        INSERTS);
    sem_destroy(&p.room);
}

/* One row that everybody changes at once: nobody gives up, each change takes its number. */
static void one_hot_row(void **state)
{
    (void)state;
    enum { UPDATES = 600 };
    struct pump p = {0};
    seed(1);
    sem_init(&p.room, 0, INFLIGHT);
    for (int i = 0; i < UPDATES; i++) {
        const char *sql = i % 50 == 7 ? "UPDATE messages SET content = content || 'x' WHERE msg_id = 1"
                                      : "UPDATE messages SET metadata = '{}' WHERE msg_id = 1";
        struct kalamdb_statement st = {.caller = {.user_id = {"alice", 5}}, .sql = {sql, strlen(sql)}};
        sem_wait(&p.room);
        kalamdb_exec_async(e.db, &st, pumped, &p, NULL);
    }
    for (int i = 0; i < INFLIGHT; i++)
        sem_wait(&p.room);
    assert_int_equal(p.failed, 0);
    assert_int_equal(number(&e, "alice", "SELECT _seq FROM messages"), 1 + UPDATES);
    expect(&e, "alice", "SELECT content FROM messages",
        "{\"columns\":[\"content\"],\"rows\":[[\"0xxxxxxxxxxxx\"]],\"rowCount\":1}");
    sem_destroy(&p.room);
}

struct answer {
    sem_t came;
    _Atomic int times;
    kalamdb_code code;
};

static void answered(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
{
    struct answer *a = arg;
    a->code = error->code;
    a->times++;
    kalamdb_result_free(result);
    sem_post(&a->came);
}

static const char endless[] =
    "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";

static struct kalamdb_query *start_endless(struct answer *a)
{
    struct kalamdb_statement st = {.caller = {.user_id = {"alice", 5}}, .sql = {endless, sizeof endless - 1}};
    struct kalamdb_query *query = NULL;
    *a = (struct answer){.code = -1};
    sem_init(&a->came, 0, 0);
    kalamdb_exec_async(e.db, &st, answered, a, &query);
    assert_non_null(query);
    return query;
}

static void cancelled(void **state)
{
    (void)state;
    struct answer a[4];
    struct kalamdb_query *query[4];
    for (int i = 0; i < 4; i++) /* two run, two wait */
        query[i] = start_endless(&a[i]);
    for (int i = 0; i < 4; i++)
        kalamdb_query_cancel(query[i]);
    for (int i = 0; i < 4; i++) {
        sem_wait(&a[i].came);
        assert_int_equal(a[i].code, ERR_TIMEOUT);
        assert_int_equal(a[i].times, 1);
        kalamdb_query_cancel(query[i]); /* late: nothing */
        kalamdb_query_free(query[i]);
        sem_destroy(&a[i].came);
    }
    assert_int_equal(number(&e, "alice", "SELECT 1 + 1"), 2);
}

static void close_answers_everybody(void **state)
{
    (void)state;
    struct answer a[3];
    struct kalamdb_query *query[3];
    for (int i = 0; i < 3; i++)
        query[i] = start_endless(&a[i]);
    kalamdb_close(e.db);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(a[i].times, 1);
        assert_true(a[i].code != KALAMDB_OK);
        kalamdb_query_cancel(query[i]);
        kalamdb_query_free(query[i]);
        sem_destroy(&a[i].came);
    }
    struct kalamdb_error error;
    assert_int_equal(kalamdb_open(&e.options, &e.db, &error), KALAMDB_OK);
    struct kalamdb *second;
    assert_int_equal(kalamdb_open(&e.options, &second, &error), ERR_CONFLICT);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(updates_of_the_same_rows),
        T(increments),
        T(counters_under_fire),
        T(retries_at_the_same_time),
        T(many_in_flight),
        T(one_hot_row),
        T(cancelled),
        T(close_answers_everybody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
