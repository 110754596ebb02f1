/* `_unread` against a count of the messages, through everything that moves it. */
#include "engine_fixture.h"
#include <stdio.h>

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

/* Conversations whose counter is not what a scan says. */
static void assert_exact(void)
{
    expect(&e, "alice",
        "SELECT c.conversation_id, c._unread, (SELECT count(*) FROM messages m WHERE m.conversation_id = "
        "c.conversation_id AND m.\"from\" IS DISTINCT FROM 'alice' AND m.msg_id > "
        "coalesce(u.last_read_msg_id, "
        "0)) AS n FROM conversations c JOIN conversation_users u ON u.conversation_id = c.conversation_id "
        "AND "
        "u.user_id = 'alice' WHERE c._unread IS DISTINCT FROM (SELECT count(*) FROM messages m WHERE "
        "m.conversation_id = c.conversation_id AND m.\"from\" IS DISTINCT FROM 'alice' AND m.msg_id > "
        "coalesce(u.last_read_msg_id, 0)) OR c._read_msg_id IS DISTINCT FROM u.last_read_msg_id",
        "{\"columns\":[\"conversation_id\",\"_unread\",\"n\"],\"rows\":[],\"rowCount\":0}");
}

static int64_t unread(const char *conversation)
{
    char sql[160];
    snprintf(sql, sizeof sql, "SELECT _unread FROM conversations WHERE conversation_id = '%s'", conversation);
    return number(&e, "alice", sql);
}

/* Ids from..to, odd ones by the assistant. */
static void fill(const char *conversation, int from, int to)
{
    char sql[256];
    for (int i = from; i <= to; i++) {
        snprintf(sql, sizeof sql,
            "INSERT INTO alice.messages (msg_id, conversation_id, \"from\", content) VALUES (%d, '%s', '%s', "
            "'x')",
            i, conversation, i % 2 == 1 ? "assistant" : "alice");
        expect_code(&e, "service:s", sql, "OK");
    }
}

static void mark(const char *conversation, const char *id)
{
    char sql[256];
    snprintf(sql, sizeof sql,
        "UPDATE conversation_users SET last_read_msg_id = %s WHERE conversation_id = '%s'", id, conversation);
    expect_code(&e, "alice", sql, "OK");
    assert_exact();
}

static void counts_what_others_wrote(void **state)
{
    (void)state;
    fill("c", 1, 20);
    assert_int_equal(unread("c"), 10);
    mark("c", "7");
    assert_int_equal(unread("c"), 6);
    mark("c", "20");
    assert_int_equal(unread("c"), 0);
    mark("c", "3"); /* back again */
    assert_int_equal(unread("c"), 8);
    mark("c", "NULL");
    assert_int_equal(unread("c"), 10);
    mark("c", "10");
    expect_code(&e, "alice", "DELETE FROM messages WHERE msg_id IN (3, 11, 12)", "OK");
    assert_int_equal(unread("c"), 4);
    expect_code(&e, "alice", "UPDATE messages SET content = 'edited' WHERE msg_id > 8", "OK");
    assert_int_equal(unread("c"), 4);
    fill("c", 21, 23);
    assert_int_equal(unread("c"), 6);
    mark("c", "9007199254740991"); /* beyond everything: what comes below stays read */
    fill("c", 24, 25);
    assert_int_equal(unread("c"), 0);
    assert_exact();
    expect_code(&e, "alice", "DELETE FROM messages", "OK");
    assert_int_equal(unread("c"), 0);
    expect(&e, "alice", "SELECT * FROM conversations WHERE false",
        "{\"columns\":[\"conversation_id\",\"conversation_type\",\"title\",\"first_msg_id\",\"last_msg_id\","
        "\"total_messages\",\"created\",\"updated\",\"metadata\"],\"rows\":[],\"rowCount\":0}");
    expect_code(&e, "alice", "UPDATE conversations SET _unread = 0", "FORBIDDEN");
    expect_code(
        &e, "alice", "INSERT INTO conversations (conversation_id, _unread) VALUES ('d', 4)", "FORBIDDEN");
}

static void across_the_tiers(void **state)
{
    (void)state;
    fill("c", 1, 40);
    fill("d", 41, 60);
    mark("c", "30");
    engine_consolidate(&e, NULL);
    assert_exact();
    mark("c", "11"); /* the rows above stand in a file */
    assert_int_equal(unread("c"), 14);
    expect_code(&e, "alice", "DELETE FROM messages WHERE msg_id IN (5, 13, 15, 38)", "OK");
    assert_int_equal(unread("c"), 12);
    fill("c", 61, 70);
    engine_reopen(&e);
    assert_int_equal(unread("c"), 17);
    assert_exact();
    expect_code(&e, "alice", "UPDATE conversation_users SET last_read_msg_id = 45", "OK");
    assert_exact();
    engine_consolidate(&e, NULL);
    expect_code(&e, "alice", "UPDATE conversation_users SET last_read_msg_id = 9", "OK");
    assert_int_equal(unread("d"), 10);
    assert_exact();
    expect_code(&e, "alice",
        "UPDATE conversation_users SET last_read_msg_id = (SELECT max(msg_id) - 6 FROM messages m WHERE "
        "m.conversation_id = conversation_users.conversation_id)",
        "OK");
    assert_exact();
    /* Gone and made again: nothing is left of the marker. */
    expect_code(&e, "alice", "DELETE FROM conversations WHERE conversation_id = 'd'", "OK");
    fill("d", 80, 83);
    assert_int_equal(unread("d"), 2);
    assert_exact();
}

static _Atomic int failures;

static void *writer(void *arg)
{
    intptr_t me = (intptr_t)arg;
    char sql[200];
    for (int i = 0; i < 60; i++) {
        struct kalamdb_error error;
        if (me == 0)
            snprintf(sql, sizeof sql,
                "INSERT INTO messages (conversation_id, \"from\", content) VALUES ('c', 'assistant', 'x'), "
                "('c', "
                "'alice', 'y')");
        else if (me == 1)
            snprintf(sql, sizeof sql, "DELETE FROM messages WHERE msg_id = %d", 1 + i % 20);
        else
            snprintf(
                sql, sizeof sql, "UPDATE conversation_users SET last_read_msg_id = %d", (int)(i * me) % 23);
        struct kalamdb_statement st = {.caller = {.user_id = {"alice", 5}}, .sql = {sql, strlen(sql)}};
        if (kalamdb_exec(e.db, &st, NULL, &error) != KALAMDB_OK) {
            fprintf(stderr, "%s: %s %s\n", sql, error.message, error.internal);
            failures++;
        }
    }
    return NULL;
}

static void under_fire(void **state)
{
    (void)state;
    fill("c", 1, 24);
    engine_consolidate(&e, NULL);
    pthread_t threads[4];
    failures = 0;
    for (intptr_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, writer, (void *)i), 0);
    for (int i = 0; i < 3; i++)
        engine_consolidate(&e, "alice");
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(failures, 0);
    assert_exact();
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(counts_what_others_wrote),
        T(across_the_tiers),
        T(under_fire),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
