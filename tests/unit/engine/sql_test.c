/* Statements end to end, as a client writes them: values, counts, codes. */
#include "engine_fixture.h"
#include <pthread.h>
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

static void seed_session(void **state)
{
    (void)state;
    const char *got = run(&e, "user_alice",
        "INSERT INTO conversations (conversation_id, conversation_type, from, content, metadata) VALUES "
        "('conv_123', 'ai', 'user_alice', 'Hello AI!', '{\"role\":\"user\"}')");
    assert_non_null(strstr(got, "{\"rowsAffected\":1,\"insertedId\":"));
    got = run(
        &e, "user_alice", "SELECT * FROM user_alice.messages WHERE conversation_id = 'conv_123' LIMIT 50");
    assert_non_null(strstr(got, "{\"columns\":[\"msg_id\",\"conversation_id\",\"conversation_type\",\"from\","
                                "\"timestamp\",\"content\","
                                "\"content_ref\",\"metadata\",\"client_msg_id\"],\"rows\":[["));
    assert_non_null(strstr(got, "\"conv_123\",\"ai\",\"user_alice\",\""));
    assert_non_null(strstr(got, "\"Hello AI!\",null,{\"role\":\"user\"},null]],\"rowCount\":1}"));
    expect(&e, "user_alice", "SELECT count(*) FROM messages",
        "{\"columns\":[\"count\"],\"rows\":[[1]],\"rowCount\":1}");
}

static void inserts(void **state)
{
    (void)state;
    expect(&e, "service:s",
        "INSERT INTO alice.messages (msg_id, conversation_id, \"from\", content) VALUES (10, 'c', 'x', 'a'), "
        "(11, 'c', "
        "'y', 'b') RETURNING msg_id, content, _seq",
        "{\"columns\":[\"msg_id\",\"content\",\"_seq\"],\"rows\":[[10,\"a\",1],[11,\"b\",2]],\"rowCount\":2,"
        "\"rowsAffected\":2,\"insertedId\":10,\"insertedIds\":[10,11]}");
    expect_code(&e, "alice", "INSERT INTO messages (msg_id, conversation_id, content) VALUES (1, 'c', 'x')",
        "FORBIDDEN");
    expect_code(&e, "alice", "INSERT INTO messages (conversation_id, content, from) VALUES ('c', 'x', 'bob')",
        "FORBIDDEN");
    expect_code(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', NULL)",
        "CONSTRAINT_VIOLATION");
    expect_code(&e, "alice", "INSERT INTO messages (content) VALUES ('x')", "CONSTRAINT_VIOLATION");
    expect_code(&e, "alice",
        "INSERT INTO messages (conversation_id, content, metadata) VALUES ('c', 'x', '{')", "INVALID_VALUE");
    expect_code(&e, "alice",
        "INSERT INTO messages (conversation_id, content, timestamp) VALUES ('c', 'x', 'noon')",
        "INVALID_VALUE");
    expect_code(&e, "alice", "INSERT INTO messages (conversation_id, content, _seq) VALUES ('c', 'x', 5)",
        "FORBIDDEN");
    expect_code(&e, "alice",
        "INSERT INTO messages (conversation_id, content, content_ref) VALUES ('c', 'x', 'r')", "FORBIDDEN");
    expect_code(&e, "alice",
        "INSERT INTO messages (conversation_id, conversation_type, \"from\", content) VALUES ('g', 'group', "
        "'tool', 'x')",
        "FORBIDDEN");
    expect_code(
        &e, "alice", "INSERT INTO bob.messages (conversation_id, content) VALUES ('c', 'x')", "FORBIDDEN");
    expect_code(&e, "service:s",
        "INSERT INTO alice.messages (msg_id, conversation_id, content) VALUES ('x', 'c', 'x')",
        "INVALID_VALUE");
    expect_code(&e, "service:s", "INSERT INTO shared.messages (conversation_id, content) VALUES ('c', 'x')",
        "UNDEFINED_TABLE");
    expect_code(&e, "service:s",
        "INSERT INTO alice.messages (msg_id, conversation_id, content) VALUES (10, 'c', 'x')", "CONFLICT");
    expect(&e, "alice", "SELECT msg_id, \"from\" FROM messages ORDER BY msg_id",
        "{\"columns\":[\"msg_id\",\"from\"],\"rows\":[[10,\"x\"],[11,\"y\"]],\"rowCount\":2}");
    /* All or nothing. */
    expect_code(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'x'), ('c', NULL)",
        "CONSTRAINT_VIOLATION");
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages"), 2);
}

static void retries_by_client_id(void **state)
{
    (void)state;
    const char *sql =
        "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ('c', 'x', 'k1')";
    run(&e, "alice", sql);
    int64_t id = number(&e, "alice", "SELECT msg_id FROM messages");
    char want[128];
    snprintf(want, sizeof want, "{\"rowsAffected\":0,\"insertedId\":%lld,\"insertedIds\":[%lld]}",
        (long long)id, (long long)id);
    expect(&e, "alice", sql, want);
    engine_consolidate(&e, "alice");
    expect(&e, "alice", sql, want);
    run(&e, "alice", "DELETE FROM messages");
    expect(&e, "alice", sql, want);
    engine_reopen(&e);
    expect(&e, "alice", sql, want);
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages"), 0);
}

static void params(void **state)
{
    (void)state;
    struct kalamdb_value p[] = {text_param("c"), text_param("it's \"quoted\" \xc3\xa9"),
        {.type = KALAMDB_JSON, .s = {"{\"k\":[1]}", 9}}, int_param(1760000000000000)};
    run_params(&e, "alice",
        "INSERT INTO messages (conversation_id, content, metadata, timestamp) VALUES ($1, $2, $3, $4)", 4, p);
    struct kalamdb_value q[] = {text_param("c")};
    assert_string_equal(
        run_params(&e, "alice",
            "SELECT content, metadata, timestamp FROM messages WHERE conversation_id = $1", 1, q),
        "{\"columns\":[\"content\",\"metadata\",\"timestamp\"],\"rows\":[[\"it's \\\"quoted\\\" "
        "\xc3\xa9\",{\"k\":[1]},"
        "\"2025-10-09T08:53:20.000000Z\"]],\"rowCount\":1}");
    const char *got = run_params(&e, "alice", "SELECT $1", 0, NULL);
    assert_memory_equal(got, "INVALID_REQUEST:", 16);
    struct kalamdb_value nul[] = {{.type = KALAMDB_TEXT, .s = {"a\0b", 3}}};
    got = run_params(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', $1)", 1, nul);
    assert_memory_equal(got, "INVALID_REQUEST:", 16);
    struct kalamdb_value bad[] = {{.type = KALAMDB_JSON, .s = {"{", 1}}};
    got = run_params(&e, "alice", "SELECT $1", 1, bad);
    assert_memory_equal(got, "INVALID_REQUEST:", 16);
}

static void fill(const char *user, int n)
{
    char sql[512];
    for (int i = 1; i <= n; i++) {
        snprintf(sql, sizeof sql,
            "INSERT INTO %s.messages (msg_id, conversation_id, \"from\", content) VALUES (%d, 'c%d', 'x', "
            "'m%d')",
            user, i, i % 2, i);
        expect_code(&e, "service:s", sql, "OK");
    }
}

static void updates(void **state)
{
    (void)state;
    fill("alice", 6);
    expect(&e, "alice",
        "UPDATE messages SET content = 'new' WHERE msg_id = 2 RETURNING msg_id, content, _seq, _ins_seq",
        "{\"columns\":[\"msg_id\",\"content\",\"_seq\",\"_ins_seq\"],\"rows\":[[2,\"new\",7,2]],\"rowCount\":"
        "1,"
        "\"rowsAffected\":1}");
    expect(&e, "alice",
        "UPDATE messages SET content = 'odd', metadata = '{\"a\":1}' WHERE conversation_id = 'c1'",
        "{\"rowsAffected\":3}");
    expect(&e, "alice", "UPDATE messages SET content = 'x' WHERE msg_id = 99", "{\"rowsAffected\":0}");
    expect(&e, "alice", "UPDATE messages SET content = content || '!' WHERE msg_id > 4 RETURNING content",
        "{\"columns\":[\"content\"],\"rows\":[[\"odd!\"],[\"m6!\"]],\"rowCount\":2,\"rowsAffected\":2}");
    expect(&e, "alice", "UPDATE messages SET metadata = DEFAULT WHERE msg_id = 1", "{\"rowsAffected\":1}");
    expect(&e, "alice", "SELECT msg_id, content, metadata, _seq FROM messages ORDER BY msg_id",
        "{\"columns\":[\"msg_id\",\"content\",\"metadata\",\"_seq\"],\"rows\":[[1,\"odd\",null,13],[2,"
        "\"new\",null,7],"
        "[3,\"odd\",{\"a\":1},9],[4,\"m4\",null,4],[5,\"odd!\",{\"a\":1},11],[6,\"m6!\",null,12]],"
        "\"rowCount\":6}");
    static const char *kept[] = {"msg_id = 5", "\"from\" = 'alice'", "timestamp = now()",
        "conversation_id = 'z'", "client_msg_id = 'q'", "_seq = 1", "content_ref = 'x'",
        "conversation_type = 'group'"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        char sql[128];
        snprintf(sql, sizeof sql, "UPDATE messages SET %s WHERE msg_id = 1", kept[i]);
        expect_code(&e, "alice", sql, "FORBIDDEN");
    }
    expect_code(&e, "alice", "UPDATE messages SET content = NULL WHERE msg_id = 1", "CONSTRAINT_VIOLATION");
    expect_code(&e, "alice", "UPDATE messages SET metadata = 'x' WHERE msg_id = 1", "INVALID_VALUE");
    /* An expression that fails for one row changes none. */
    expect_code(&e, "alice", "UPDATE messages SET content = (1 / (msg_id - 4))::text", "INVALID_VALUE");
    expect_code(&e, "alice", "UPDATE messages SET content = 'z' RETURNING 1 / (msg_id - 4)", "INVALID_VALUE");
    assert_int_equal(number(&e, "alice", "SELECT max(_seq) FROM messages"), 13);
}

static void deletes(void **state)
{
    (void)state;
    fill("alice", 6);
    expect(&e, "alice", "DELETE FROM messages WHERE msg_id IN (1, 2, 2, 77) RETURNING msg_id, content",
        "{\"columns\":[\"msg_id\",\"content\"],\"rows\":[[1,\"m1\"],[2,\"m2\"]],\"rowCount\":2,"
        "\"rowsAffected\":2}");
    expect(&e, "alice",
        "SELECT conversation_id, first_msg_id, last_msg_id, total_messages FROM conversations ORDER BY "
        "conversation_id",
        "{\"columns\":[\"conversation_id\",\"first_msg_id\",\"last_msg_id\",\"total_messages\"],\"rows\":[["
        "\"c0\",4,6,2],"
        "[\"c1\",3,5,2]],\"rowCount\":2}");
    expect(
        &e, "alice", "DELETE FROM messages WHERE content LIKE 'm%' AND msg_id < 6", "{\"rowsAffected\":3}");
    expect(&e, "alice",
        "SELECT conversation_id, first_msg_id, last_msg_id, total_messages FROM conversations ORDER BY "
        "conversation_id",
        "{\"columns\":[\"conversation_id\",\"first_msg_id\",\"last_msg_id\",\"total_messages\"],\"rows\":[["
        "\"c0\",6,6,1],"
        "[\"c1\",null,null,0]],\"rowCount\":2}");
    expect(&e, "alice", "DELETE FROM messages WHERE msg_id = 1", "{\"rowsAffected\":0}");
    expect(&e, "bob", "DELETE FROM messages", "{\"rowsAffected\":0}");
}

static void conversations(void **state)
{
    (void)state;
    expect(&e, "alice",
        "INSERT INTO conversations (conversation_id, title, metadata) VALUES ('c1', 'T', '{\"a\":1}')",
        "{\"rowsAffected\":1}");
    expect_code(&e, "alice", "INSERT INTO conversations (conversation_id) VALUES ('c2'), ('c1')", "CONFLICT");
    expect_code(&e, "alice", "INSERT INTO conversations (conversation_id, total_messages) VALUES ('c3', 5)",
        "FORBIDDEN");
    run(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c1', 'x'), ('c9', 'y')");
    expect(&e, "alice",
        "SELECT conversation_id, conversation_type, title, total_messages, metadata FROM conversations",
        "{\"columns\":[\"conversation_id\",\"conversation_type\",\"title\",\"total_messages\",\"metadata\"],"
        "\"rows\":[[\"c1\","
        "\"ai\",\"T\",1,{\"a\":1}],[\"c9\",\"ai\",null,1,null]],\"rowCount\":2}");
    expect(&e, "alice",
        "UPDATE conversations SET title = 'U' WHERE conversation_id = 'c9' RETURNING title, total_messages",
        "{\"columns\":[\"title\",\"total_messages\"],\"rows\":[[\"U\",1]],\"rowCount\":1,\"rowsAffected\":"
        "1}");
    expect(&e, "alice", "UPDATE conversations SET title = title || '?' WHERE title IS NOT NULL",
        "{\"rowsAffected\":2}");
    expect_code(&e, "alice", "UPDATE conversations SET total_messages = 0", "FORBIDDEN");
    expect_code(&e, "alice", "UPDATE conversations SET conversation_type = 'group'", "FORBIDDEN");
    expect(&e, "alice", "SELECT conversation_id, user_id, role, last_read_msg_id FROM conversation_users",
        "{\"columns\":[\"conversation_id\",\"user_id\",\"role\",\"last_read_msg_id\"],\"rows\":[[\"c1\","
        "\"alice\",\"owner\","
        "null],[\"c9\",\"alice\",\"owner\",null]],\"rowCount\":2}");
    expect(&e, "alice", "UPDATE conversation_users SET last_read_msg_id = 7 WHERE conversation_id = 'c1'",
        "{\"rowsAffected\":1}");
    assert_int_equal(
        number(&e, "alice", "SELECT last_read_msg_id FROM conversation_users WHERE conversation_id = 'c1'"),
        7);
    expect_code(&e, "alice", "UPDATE conversation_users SET role = 'member'", "FORBIDDEN");
    expect_code(&e, "alice", "INSERT INTO conversation_users (conversation_id, user_id) VALUES ('c1', 'bob')",
        "CONFLICT"); /* an ai conversation has its owner alone */
    expect_code(&e, "alice", "DELETE FROM conversation_users WHERE conversation_id = 'c1'", "FORBIDDEN");
    expect(
        &e, "alice", "DELETE FROM conversation_users WHERE conversation_id = 'none'", "{\"rowsAffected\":0}");
    /* A deleted conversation takes its messages along, each with a number. */
    int64_t seq = number(&e, "alice", "SELECT max(_seq) FROM messages");
    expect(&e, "alice", "DELETE FROM conversations WHERE conversation_id = 'c1' RETURNING title",
        "{\"columns\":[\"title\"],\"rows\":[[\"T?\"]],\"rowCount\":1,\"rowsAffected\":1}");
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM conversation_users"), 1);
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages WHERE conversation_id = 'c1'"), 0);
    run(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c1', 'again')");
    assert_int_equal(number(&e, "alice", "SELECT _seq FROM messages WHERE conversation_id = 'c1'"), seq + 2);
    assert_int_equal(
        number(&e, "alice", "SELECT total_messages FROM conversations WHERE conversation_id = 'c1'"), 1);
}

static void insert_expressions(void **state)
{
    (void)state;
    fill("alice", 4);
    const char *got = run(&e, "alice",
        "INSERT INTO messages (conversation_id, content) SELECT 'copy', upper(content) FROM messages WHERE "
        "conversation_id = "
        "'c1' ORDER BY msg_id");
    assert_non_null(strstr(got, "{\"rowsAffected\":2,"));
    expect(&e, "alice",
        "SELECT content, \"from\" FROM messages WHERE conversation_id = 'copy' ORDER BY msg_id",
        "{\"columns\":[\"content\",\"from\"],\"rows\":[[\"M1\",\"alice\"],[\"M3\",\"alice\"]],\"rowCount\":"
        "2}");
    got = run(&e, "alice",
        "INSERT INTO messages (conversation_id, content, timestamp) VALUES ('e', repeat('ab', 2), now()) "
        "RETURNING "
        "length(content) AS n");
    assert_non_null(strstr(got, "\"rows\":[[4]]"));
    expect_code(&e, "alice",
        "INSERT INTO messages (conversation_id, content) VALUES ('e', 'zz') RETURNING 1 / (length(content) - "
        "2)",
        "INVALID_VALUE");
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages WHERE conversation_id = 'e'"), 1);
    expect(&e, "alice",
        "INSERT INTO messages (conversation_id, content) SELECT 'x', content FROM messages WHERE false",
        "{\"rowsAffected\":0}");
}

static void service_and_strangers(void **state)
{
    (void)state;
    fill("alice", 2);
    fill("bob", 1);
    expect(&e, "nobody", "SELECT * FROM conversations",
        "{\"columns\":[\"conversation_id\",\"conversation_type\",\"title\","
        "\"first_msg_id\",\"last_msg_id\",\"total_messages\",\"created\",\"updated\",\"metadata\"],\"rows\":["
        "],\"rowCount\":0}");
    assert_int_equal(number(&e, "nobody", "SELECT count(*) FROM messages"), 0);
    assert_int_equal(number(&e, "nobody", "SELECT count(DISTINCT content) FROM messages"), 0);
    expect_code(&e, "bob", "SELECT * FROM alice.messages", "FORBIDDEN");
    expect_code(&e, "bob", "UPDATE alice.messages SET content = 'x'", "FORBIDDEN");
    expect(&e, "service:s",
        "SELECT a.content, b.content FROM alice.messages a JOIN bob.messages b ON a.msg_id = b.msg_id",
        "{\"columns\":[\"content\",\"content\"],\"rows\":[[\"m1\",\"m1\"]],\"rowCount\":1}");
    expect(&e, "service:s", "DELETE FROM alice.messages WHERE msg_id = 1", "{\"rowsAffected\":1}");
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages"), 1);
    assert_int_equal(number(&e, "bob", "SELECT count(*) FROM messages"), 1);
}

static void limits(void **state)
{
    (void)state;
    engine_close(&e);
    engine_open(&e);
    fill("alice", 5);
    kalamdb_close(e.db);
    e.options.max_result_rows = 3;
    e.options.max_changed_rows = 4;
    e.options.max_content_bytes = 8;
    struct kalamdb_error error;
    assert_int_equal(kalamdb_open(&e.options, &e.db, &error), KALAMDB_OK);
    expect(&e, "alice", "SELECT msg_id FROM messages",
        "{\"columns\":[\"msg_id\"],\"rows\":[[1],[2],[3]],\"rowCount\":3,\"truncated\":true}");
    expect(&e, "alice", "SELECT msg_id + 0 AS i FROM messages ORDER BY 1",
        "{\"columns\":[\"i\"],\"rows\":[[1],[2],[3]],\"rowCount\":3,\"truncated\":true}");
    expect(&e, "alice", "SELECT msg_id FROM messages LIMIT 3",
        "{\"columns\":[\"msg_id\"],\"rows\":[[1],[2],[3]],\"rowCount\":3}");
    expect_code(&e, "alice", "UPDATE messages SET content = 'x'", "TOO_LARGE");
    expect_code(&e, "alice", "DELETE FROM messages WHERE length(content) > 0", "TOO_LARGE");
    expect_code(&e, "alice", "UPDATE messages SET content = '123456789' WHERE msg_id = 1", "TOO_LARGE");
    expect_code(&e, "alice", "UPDATE messages SET content = repeat('1', 9) WHERE msg_id = 1", "TOO_LARGE");
    expect_code(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', '123456789')",
        "TOO_LARGE");
    expect(&e, "alice", "UPDATE messages SET content = '12345678' WHERE msg_id < 5", "{\"rowsAffected\":4}");
    assert_int_equal(number(&e, "alice", "SELECT max(_seq) FROM messages"), 9);
}

static void supplied_ids_in_files(void **state)
{
    (void)state;
    fill("alice", 40);
    engine_consolidate(&e, "alice");
    expect_code(&e, "service:s",
        "INSERT INTO alice.messages (msg_id, conversation_id, content) VALUES (3, 'c', 'x')", "CONFLICT");
    run(&e, "alice", "DELETE FROM messages WHERE msg_id = 20");
    engine_consolidate(&e, "alice");
    expect(&e, "service:s",
        "INSERT INTO alice.messages (msg_id, conversation_id, content) VALUES (100, 'c', 'x'), (200, 'c', "
        "'y')",
        "{\"rowsAffected\":2,\"insertedId\":100,\"insertedIds\":[100,200]}");
    expect_code(&e, "service:s",
        "INSERT INTO alice.messages (msg_id, conversation_id, content) VALUES (50, 'c', 'x'), (5, 'c', 'y')",
        "CONFLICT");
    assert_int_equal(number(&e, "alice", "SELECT count(*) FROM messages"), 41);
}

static void finished(void *arg, struct kalamdb_result *result, const struct kalamdb_error *error)
{
    kalamdb_code *code = arg;
    *code = error->code;
    kalamdb_result_free(result);
}

static void timeouts(void **state)
{
    (void)state;
    fill("alice", 1);
    const char *sql = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b";
    struct kalamdb_statement st = {
        .caller = {.user_id = {"alice", 5}}, .sql = {sql, strlen(sql)}, .timeout_ms = 150};
    struct kalamdb_error error;
    assert_int_equal(kalamdb_exec(e.db, &st, NULL, &error), ERR_TIMEOUT);
    /* A fast answer comes on the caller's thread, without a handle. */
    const char *fast =
        "SELECT content FROM messages WHERE conversation_id = 'c1' ORDER BY msg_id DESC LIMIT 50";
    st.sql = (struct kalamdb_str){fast, strlen(fast)};
    kalamdb_code code = -1;
    struct kalamdb_query *query = NULL;
    kalamdb_exec_async(e.db, &st, finished, &code, &query);
    assert_int_equal(code, KALAMDB_OK);
    assert_null(query);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(seed_session),
        T(inserts),
        T(retries_by_client_id),
        T(params),
        T(updates),
        T(deletes),
        T(conversations),
        T(insert_expressions),
        T(service_and_strangers),
        T(limits),
        T(supplied_ids_in_files),
        T(timeouts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
