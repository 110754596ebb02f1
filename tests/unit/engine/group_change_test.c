/* Groups after the sending: edits, deletions, markers, roles, and history for who joins. */
#include "engine_fixture.h"
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static struct engine e;

static int setup(void **state)
{
    (void)state;
    engine_open(&e);
    expect_code(&e, "alice",
        "INSERT INTO conversation_users (conversation_id, user_id, role) VALUES ('g', 'bob', 'admin'), ('g', "
        "'carol', 'member')",
        "OK");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    engine_close(&e);
    return 0;
}

static int64_t say(const char *who, const char *content)
{
    char sql[256];
    snprintf(sql, sizeof sql,
        "INSERT INTO messages (conversation_id, content) VALUES ('g', '%s') RETURNING msg_id", content);
    return number(&e, who, sql);
}

static const char *members[] = {"alice", "bob", "carol"};

/* Counters of every member's conversation against their messages. */
static void assert_counters(void)
{
    for (size_t i = 0; i < 3; i++) {
        char sql[1024];
        snprintf(sql, sizeof sql,
            "SELECT c.conversation_id FROM conversations c LEFT JOIN (SELECT conversation_id, count(*) n, "
            "min(msg_id) a, max(msg_id) z FROM messages GROUP BY 1) m ON m.conversation_id = "
            "c.conversation_id "
            "WHERE c.total_messages <> coalesce(n, 0) OR c.first_msg_id IS DISTINCT FROM a OR c.last_msg_id "
            "IS "
            "DISTINCT FROM z OR c._unread <> (SELECT count(*) FROM messages x WHERE x.conversation_id = "
            "c.conversation_id AND x.\"from\" <> '%s' AND x.msg_id > coalesce((SELECT last_read_msg_id FROM "
            "conversation_users u WHERE u.conversation_id = c.conversation_id AND u.user_id = '%s'), 0))",
            members[i], members[i]);
        expect(&e, members[i], sql, "{\"columns\":[\"conversation_id\"],\"rows\":[],\"rowCount\":0}");
    }
}

static void expect_content(const char *who, int64_t id, const char *want)
{
    char sql[128], answer[256];
    snprintf(sql, sizeof sql, "SELECT content FROM messages WHERE msg_id = %lld", (long long)id);
    if (want != NULL)
        snprintf(
            answer, sizeof answer, "{\"columns\":[\"content\"],\"rows\":[[\"%s\"]],\"rowCount\":1}", want);
    else
        snprintf(answer, sizeof answer, "{\"columns\":[\"content\"],\"rows\":[],\"rowCount\":0}");
    expect(&e, who, sql, answer);
}

static const char *edit(const char *who, int64_t id, const char *content)
{
    char sql[256];
    snprintf(
        sql, sizeof sql, "UPDATE messages SET content = '%s' WHERE msg_id = %lld", content, (long long)id);
    return run(&e, who, sql);
}

static void expect_error(const char *got, const char *code)
{
    if (strncmp(got, code, strlen(code)) != 0)
        fail_msg("is %s, want %s", got, code);
}

static const char *delete_for_everyone(const char *as, const char *owner, int64_t id)
{
    char sql[160];
    static _Thread_local char answer[300];
    snprintf(sql, sizeof sql, "DELETE FROM %s.messages WHERE msg_id = %lld", owner, (long long)id);
    bool service = strncmp(as, "service:", 8) == 0;
    const char *name = service ? as + 8 : as;
    struct kalamdb_statement st = {
        .caller = {.user_id = {name, strlen(name)}, .role = service ? KALAMDB_SERVICE : KALAMDB_USER},
        .sql = {sql, strlen(sql)},
        .for_everyone = true};
    struct kalamdb_result *r;
    struct kalamdb_error error;
    if (kalamdb_exec(e.db, &st, &r, &error) != KALAMDB_OK) {
        snprintf(answer, sizeof answer, "%s: %.200s", kalamdb_code_name(error.code), error.message);
        return answer;
    }
    snprintf(answer, sizeof answer, "%lld", (long long)kalamdb_result_rows_affected(r));
    kalamdb_result_free(r);
    return answer;
}

static void edits_reach_every_copy(void **state)
{
    (void)state;
    int64_t ids[3] = {say("alice", "one"), say("bob", "two"), say("carol", "three")};
    expect(&e, "alice", "UPDATE messages SET content = 'ONE' WHERE content = 'one'", "{\"rowsAffected\":1}");
    for (size_t i = 0; i < 3; i++) {
        expect_content(members[i], ids[0], "ONE");
        assert_int_equal(number(&e, members[i], "SELECT max(_seq) FROM messages"), 4);
    }
    /* Another's message: owner and admin may, a member may not, and then nothing changes. */
    expect_error(edit("bob", ids[2], "THREE"), "{\"rowsAffected\":1}");
    expect_code(&e, "carol", "UPDATE messages SET content = 'x'", "FORBIDDEN");
    expect_content("carol", ids[2], "THREE");
    expect_error(edit("carol", ids[2], "3"), "{\"rowsAffected\":1}");
    expect_content("alice", ids[2], "3");
    expect_code(
        &e, "service:s", "UPDATE carol.messages SET metadata = '{\"a\":1}' WHERE content = 'two'", "OK");
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages WHERE metadata ->> 'a' = '1'"), 1);
    /* Who deleted theirs does not get it back, who left gets nothing new. */
    expect_code(&e, "bob", "DELETE FROM messages WHERE content = 'ONE'", "OK");
    expect_code(&e, "carol", "DELETE FROM conversation_users WHERE user_id = 'carol'", "OK");
    expect_error(edit("alice", ids[0], "1"), "{\"rowsAffected\":1}");
    expect_content("bob", ids[0], NULL);
    expect_content("carol", ids[0], "ONE");
    expect_error(edit("carol", ids[2], "mine"), "FORBIDDEN");
    expect_code(&e, "carol", "DELETE FROM messages WHERE content = '3'", "OK");
    expect_content("alice", ids[2], "3");
    assert_counters();
}

static void cold_copies_too(void **state)
{
    (void)state;
    int64_t ids[12];
    for (int i = 0; i < 12; i++)
        ids[i] = say(members[i % 3], "x");
    expect_code(&e, "bob",
        "UPDATE conversation_users SET last_read_msg_id = (SELECT min(msg_id) + 1 FROM messages) WHERE "
        "user_id = 'bob'",
        "OK");
    engine_consolidate(&e, "bob");
    engine_consolidate(&e, "carol");
    expect_error(edit("alice", ids[0], "edited"), "{\"rowsAffected\":1}");
    engine_consolidate(&e, "alice");
    expect_error(edit("alice", ids[1], "again"), "{\"rowsAffected\":1}");
    expect(&e, "alice", "UPDATE messages SET metadata = '{}'", "{\"rowsAffected\":12}");
    for (size_t i = 0; i < 3; i++) {
        expect_content(members[i], ids[0], "edited");
        expect_content(members[i], ids[1], "again");
        assert_int_equal(
            number(&e, members[i], "SELECT count(*) FROM messages WHERE metadata::text = '{}'"), 12);
    }
    engine_consolidate(&e, NULL);
    for (size_t i = 0; i < 3; i++)
        expect_content(members[i], ids[0], "edited");
    /* First, last, in between, by different members, out of files. */
    assert_string_equal(delete_for_everyone("alice", "alice", ids[0]), "1");
    assert_counters();
    assert_string_equal(delete_for_everyone("bob", "bob", ids[11]), "1");
    assert_counters();
    assert_string_equal(delete_for_everyone("carol", "carol", ids[5]), "1");
    assert_counters();
    expect_error(delete_for_everyone("carol", "carol", ids[6]), "FORBIDDEN");
    assert_string_equal(delete_for_everyone("carol", "carol", ids[5]), "0");
    assert_string_equal(delete_for_everyone("service:s", "bob", ids[6]), "1");
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(number(&e, members[i], "SELECT count(*) FROM messages"), 8);
    for (int i = 1; i < 11; i++) {
        if (i != 5 && i != 6)
            assert_string_equal(delete_for_everyone("alice", "alice", ids[i]), "1");
        assert_counters();
    }
    say("bob", "fresh");
    engine_reopen(&e);
    assert_counters();
}

static void roles_titles_and_markers(void **state)
{
    (void)state;
    int64_t id = say("alice", "x");
    char sql[200];
    expect_code(&e, "carol", "UPDATE conversations SET title = 'T'", "FORBIDDEN");
    expect_code(&e, "bob", "UPDATE conversations SET title = 'T', metadata = '{\"k\":1}'", "OK");
    for (size_t i = 0; i < 3; i++)
        expect(&e, members[i], "SELECT title, metadata FROM conversations",
            "{\"columns\":[\"title\",\"metadata\"],\"rows\":[[\"T\",{\"k\":1}]],\"rowCount\":1}");
    snprintf(sql, sizeof sql, "UPDATE conversation_users SET last_read_msg_id = %lld WHERE user_id = 'carol'",
        (long long)id);
    expect_code(&e, "alice", sql, "FORBIDDEN");
    expect_code(&e, "carol", sql, "OK");
    assert_int_equal(number(&e, "carol", "SELECT _unread FROM conversations"), 0);
    assert_int_equal(number(&e, "bob", "SELECT _unread FROM conversations"), 1);
    snprintf(sql, sizeof sql,
        "UPDATE bob.conversation_users SET last_read_msg_id = %lld WHERE user_id = 'bob'", (long long)id);
    expect_code(&e, "service:s", sql, "OK");
    assert_int_equal(number(&e, "alice", "SELECT count(last_read_msg_id) FROM conversation_users"), 2);
    expect_code(&e, "alice", "UPDATE conversation_users SET last_read_msg_id = 1", "FORBIDDEN");
    assert_counters();

    expect_code(
        &e, "carol", "UPDATE conversation_users SET role = 'admin' WHERE user_id = 'carol'", "FORBIDDEN");
    expect_code(
        &e, "bob", "UPDATE conversation_users SET role = 'owner' WHERE user_id = 'carol'", "FORBIDDEN");
    expect_code(
        &e, "bob", "UPDATE conversation_users SET role = 'member' WHERE user_id = 'alice'", "FORBIDDEN");
    expect_code(&e, "bob", "UPDATE conversation_users SET role = 'admin' WHERE user_id = 'carol'", "OK");
    expect_code(&e, "alice", "UPDATE conversation_users SET role = 'chief' WHERE user_id = 'carol'",
        "CONSTRAINT_VIOLATION");
    expect_code(&e, "alice", "UPDATE conversation_users SET role = 'member' WHERE user_id = 'alice'",
        "CONSTRAINT_VIOLATION");
    expect_code(&e, "alice",
        "UPDATE conversation_users SET role = CASE user_id WHEN 'alice' THEN 'member' ELSE 'owner' END",
        "OK");
    expect(&e, "carol", "SELECT user_id, role FROM conversation_users ORDER BY 1",
        "{\"columns\":[\"user_id\",\"role\"],\"rows\":[[\"alice\",\"member\"],[\"bob\",\"owner\"],[\"carol\","
        "\"owner\"]],"
        "\"rowCount\":3}");
    expect_code(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('own', 'x')", "OK");
    expect_code(&e, "alice", "UPDATE conversation_users SET role = 'member' WHERE conversation_id = 'own'",
        "FORBIDDEN");

    /* One's own side goes, and one with it. */
    expect_code(&e, "bob", "DELETE FROM conversations", "OK");
    assert_int_equal(number(&e, "bob", "SELECT count(*) FROM messages"), 0);
    assert_int_equal(number(&e, "carol", "SELECT count(*) FROM conversation_users"), 2);
    expect_code(&e, "carol", "DELETE FROM conversations", "OK");
    expect(&e, "alice", "SELECT user_id, role FROM conversation_users WHERE conversation_id = 'g'",
        "{\"columns\":[\"user_id\",\"role\"],\"rows\":[[\"alice\",\"owner\"]],\"rowCount\":1}");
    expect_code(&e, "alice", "DELETE FROM conversations WHERE conversation_id = 'g'", "OK");
    expect_code(&e, "carol",
        "INSERT INTO conversations (conversation_id, conversation_type) VALUES ('g', 'group')", "OK");
}

enum { EDITED_ROWS = 40, EDITS = 40 };
static int64_t edited[EDITED_ROWS];
static _Atomic int failures;
static _Atomic bool writers_done;

static void *edit_them(void *arg)
{
    int me = (int)(intptr_t)arg;
    for (int i = 0; i < EDITS; i++) {
        char sql[200];
        int64_t id = edited[(i * 7 + me * 13) % EDITED_ROWS];
        if (me == 2 && i % 3 == 0)
            snprintf(sql, sizeof sql, "INSERT INTO messages (conversation_id, content) VALUES ('g', 'new')");
        else if (i % 8 == 5)
            snprintf(sql, sizeof sql, "UPDATE messages SET content = '%d.%d' WHERE msg_id <= %lld", me, i,
                (long long)id);
        else
            snprintf(sql, sizeof sql, "UPDATE messages SET content = '%d.%d' WHERE msg_id = %lld", me, i,
                (long long)id);
        const char *who = me == 2 ? "alice" : members[me];
        struct kalamdb_statement st = {.caller = {.user_id = {who, strlen(who)}}, .sql = {sql, strlen(sql)}};
        struct kalamdb_error error;
        if (kalamdb_exec(e.db, &st, NULL, &error) != KALAMDB_OK) {
            fprintf(stderr, "%s: %s\n", sql, error.message);
            failures++;
        }
    }
    return NULL;
}

static void *delete_them(void *arg)
{
    (void)arg;
    for (int i = 0; i < EDITED_ROWS; i += 3) {
        const char *got = delete_for_everyone("bob", "bob", edited[i]);
        if (strcmp(got, "1") != 0) {
            fprintf(stderr, "delete for everyone: %s\n", got);
            failures++;
        }
    }
    return NULL;
}

static void *move_rows(void *arg)
{
    for (int i = 0; !writers_done; i++)
        engine_consolidate(&e, members[i % 3]);
    return arg;
}

/* Whatever moves between the tiers meanwhile: all copies end up the same. */
static void edits_while_rows_move(void **state)
{
    (void)state;
    for (int i = 0; i < EDITED_ROWS; i++)
        edited[i] = say(members[i % 3], "x");
    pthread_t threads[4], mover;
    failures = 0;
    writers_done = false;
    assert_int_equal(pthread_create(&mover, NULL, move_rows, NULL), 0);
    for (intptr_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, edit_them, (void *)i), 0);
    assert_int_equal(pthread_create(&threads[3], NULL, delete_them, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    writers_done = true;
    pthread_join(mover, NULL);
    assert_int_equal(failures, 0);
    for (size_t i = 0; i < 3; i++) {
        char sql[400];
        snprintf(sql, sizeof sql,
            "SELECT count(*) FROM %s.messages e FULL JOIN alice.messages a ON e.msg_id = a.msg_id AND "
            "e.content = "
            "a.content WHERE e.msg_id IS NULL OR a.msg_id IS NULL",
            members[i]);
        assert_int_equal(number(&e, "service:s", sql), 0);
        assert_int_equal(number(&e, members[i], "SELECT count(DISTINCT msg_id) - count(*) FROM messages"), 0);
    }
    assert_counters();
}

/* Waits until the copy for `who` says "complete". */
static void await_history(const char *who)
{
    char sql[200];
    snprintf(sql, sizeof sql,
        "SELECT count(*) FROM conversation_users WHERE user_id = '%s' AND metadata -> 'history' ->> 'state' "
        "= 'complete'",
        who);
    for (int i = 0; number(&e, who, sql) == 0; i++) {
        if (i == 2000)
            fail_msg("the history of %s never came", who);
        usleep(5000);
    }
}

static void joins_see_a_shared_history(void **state)
{
    (void)state;
    int64_t first = say("alice", "m1");
    char sql[160];
    for (int i = 0; i < 1300; i++)
        say(members[i % 3], "m");
    expect_code(
        &e, "alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('g', 'dan')", "OK");
    say("bob", "live");
    assert_int_equal(number(&e, "dan", "SELECT count(*) FROM messages"), 1);
    expect_code(&e, "alice", "UPDATE conversations SET metadata = '{\"history\":\"shared\"}'", "OK");
    engine_consolidate(&e, NULL);
    expect_code(&e, "bob", "DELETE FROM messages WHERE content = 'm1'", "OK");
    expect_code(&e, "alice",
        "INSERT INTO conversation_users (conversation_id, user_id, metadata) VALUES ('g', 'eve', "
        "'{\"color\":\"red\"}')",
        "OK");
    say("bob", "live too");
    snprintf(sql, sizeof sql, "UPDATE messages SET content = 'edited' WHERE msg_id = %lld", (long long)first);
    expect_code(&e, "alice", sql, "OK");
    await_history("eve");
    assert_int_equal(number(&e, "eve", "SELECT count(*) FROM messages"), 1303);
    assert_int_equal(number(&e, "eve", "SELECT count(DISTINCT msg_id) FROM messages"), 1303);
    assert_int_equal(number(&e, "eve", "SELECT total_messages FROM conversations"), 1303);
    assert_int_equal(number(&e, "eve", "SELECT _unread FROM conversations"), 1);
    expect_content("eve", first, "edited");
    expect(&e, "eve", "SELECT metadata FROM conversation_users WHERE user_id = 'eve'",
        "{\"columns\":[\"metadata\"],\"rows\":[[{\"color\":\"red\",\"history\":{\"state\":\"complete\","
        "\"copied\":1302,"
        "\"total\":1302}}]],\"rowCount\":1}");
    assert_int_equal(
        number(&e, "service:s",
            "SELECT count(*) FROM eve.messages e FULL JOIN alice.messages a ON e.msg_id = a.msg_id AND "
            "e.content = a.content AND e.\"from\" = a.\"from\" AND e.timestamp = a.timestamp AND "
            "e.conversation_type = a.conversation_type WHERE e.msg_id IS NULL OR a.msg_id IS NULL"),
        0);
    /* One who was here before has some of it: only the rest comes. */
    expect_code(&e, "alice", "DELETE FROM conversation_users WHERE user_id = 'carol'", "OK");
    int64_t missed = say("alice", "while carol was away");
    engine_consolidate(&e, "carol");
    expect_code(&e, "carol", "DELETE FROM messages WHERE content = 'edited'", "OK");
    expect_code(
        &e, "alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('g', 'carol')", "OK");
    await_history("carol");
    expect_content("carol", missed, "while carol was away");
    expect_content("carol", first, NULL);
    assert_int_equal(number(&e, "carol", "SELECT count(*) FROM messages"), 1303);
    assert_counters();
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(edits_reach_every_copy),
        T(cold_copies_too),
        T(roles_titles_and_markers),
        T(edits_while_rows_move),
        T(joins_see_a_shared_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
