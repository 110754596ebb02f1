/* The same statements in C and in a worker, over rows that are hot, cold, and both: every answer the same. */
#include "engine_fixture.h"
#include <stdio.h>
#include <stdlib.h>

static struct engine e;
/* Ids are written #1, #2 … from here: recent ones, so that the tail keeps some rows hot. */
static int64_t base;

static void set_base(void)
{
    /* Snowflakes count milliseconds since 2025-01-01 in their upper bits. */
    base = (os_realtime_us(os_posix()) / 1000 - INT64_C(1735689600000) - 5000) << 12;
}

static const char *with_ids(const char *sql)
{
    static char text[1200];
    size_t n = 0;
    while (*sql != 0 && n < sizeof text - 24) {
        if (*sql != '#') {
            text[n++] = *sql++;
            continue;
        }
        char *end;
        int64_t id = base + strtol(sql + 1, &end, 10);
        n += (size_t)snprintf(text + n, sizeof text - n, "%lld", (long long)id);
        sql = end;
    }
    text[n] = 0;
    return text;
}

static const char *const statements[] = {
    "SELECT * FROM messages WHERE conversation_id = 'c1' ORDER BY msg_id DESC LIMIT 3",
    "SELECT * FROM messages WHERE conversation_id = 'c1' ORDER BY msg_id DESC LIMIT 50",
    "SELECT * FROM messages WHERE conversation_id = 'c1' LIMIT 50",
    "SELECT * FROM messages WHERE conversation_id = 'c1'",
    "SELECT * FROM messages WHERE conversation_id = 'c1' ORDER BY msg_id ASC LIMIT 5",
    "SELECT * FROM messages WHERE conversation_id = 'c2' AND msg_id < #200 ORDER BY msg_id DESC LIMIT 10",
    "SELECT * FROM messages WHERE conversation_id = 'c2' AND msg_id < #40 ORDER BY msg_id DESC LIMIT 2",
    "SELECT * FROM messages WHERE conversation_id = 'c2' AND msg_id > #190 ORDER BY msg_id",
    "SELECT * FROM messages WHERE conversation_id = 'c2' AND msg_id BETWEEN #50 AND #90",
    "SELECT * FROM messages WHERE conversation_id = 'nobody' ORDER BY msg_id DESC LIMIT 5",
    "SELECT * FROM messages WHERE conversation_id = '' LIMIT 5",
    "SELECT * FROM messages WHERE msg_id = #17",
    "SELECT * FROM messages WHERE msg_id = #230",
    "SELECT * FROM messages WHERE msg_id = #99999",
    "SELECT * FROM messages WHERE msg_id = -5",
    "SELECT * FROM messages WHERE msg_id IN (#3, #230, #3, #17, #12345, #8) ORDER BY msg_id DESC",
    "SELECT msg_id FROM messages WHERE msg_id IN (#3, #230, #3, #17, #12345, #8) ORDER BY content",
    "SELECT * FROM messages ORDER BY msg_id DESC LIMIT 4",
    "SELECT * FROM messages ORDER BY msg_id DESC LIMIT 50 OFFSET 3",
    "SELECT * FROM messages LIMIT 7",
    "SELECT msg_id FROM messages",
    "SELECT msg_id, content FROM messages ORDER BY timestamp, msg_id LIMIT 20",
    "SELECT msg_id, timestamp FROM messages WHERE conversation_id = 'c3' ORDER BY timestamp DESC LIMIT 20",
    "SELECT msg_id, timestamp FROM messages ORDER BY timestamp LIMIT 1",
    "SELECT msg_id, timestamp FROM messages ORDER BY timestamp DESC LIMIT 3 OFFSET 2",
    "SELECT msg_id, content FROM messages ORDER BY content DESC LIMIT 4",
    "SELECT msg_id, client_msg_id FROM messages ORDER BY client_msg_id",
    "SELECT msg_id, client_msg_id FROM messages ORDER BY client_msg_id DESC LIMIT 30",
    "SELECT msg_id, client_msg_id FROM messages ORDER BY client_msg_id NULLS FIRST LIMIT 30",
    "SELECT msg_id, client_msg_id FROM messages ORDER BY client_msg_id DESC NULLS LAST LIMIT 30",
    "SELECT msg_id, \"from\" FROM messages ORDER BY from, msg_id DESC LIMIT 25 OFFSET 5",
    "SELECT msg_id, _seq, _ins_seq FROM messages WHERE _seq > 100 ORDER BY _seq",
    "SELECT msg_id, _seq FROM messages WHERE _seq > 235 ORDER BY _seq LIMIT 5",
    "SELECT msg_id, _seq FROM messages WHERE _seq > 150 AND conversation_id = 'c0' ORDER BY _seq",
    "SELECT msg_id, _seq FROM messages WHERE _seq >= 150 AND _seq < 160",
    "SELECT msg_id, _seq FROM messages ORDER BY _seq DESC LIMIT 6",
    "SELECT msg_id FROM messages WHERE \"from\" = 'assistant' AND metadata IS NULL",
    "SELECT msg_id FROM messages WHERE \"from\" <> 'assistant' AND conversation_id = 'c4' AND msg_id >= #100",
    "SELECT msg_id FROM messages WHERE client_msg_id IS NOT NULL AND content >= 'text 5'",
    "SELECT msg_id FROM messages WHERE content IN ('text 7', 'text 8', 'edited 9')",
    "SELECT msg_id FROM messages WHERE timestamp >= '2025-02-01T00:00:00Z' AND timestamp < "
    "'2025-02-02T00:00:00Z'",
    "SELECT msg_id FROM messages WHERE content = NULL",
    "SELECT content AS c, content AS d, msg_id FROM messages WHERE conversation_id = 'c1' ORDER BY msg_id "
    "DESC LIMIT 2",
    "SELECT count(*) FROM messages",
    "SELECT count(*) AS n FROM messages WHERE conversation_id = 'c1'",
    "SELECT count(*) FROM messages WHERE conversation_id = 'nobody'",
    "SELECT count(*) FROM messages WHERE msg_id > #100",
    "SELECT count(*) FROM messages WHERE conversation_id = 'c1' AND \"from\" = 'user'",
    "SELECT * FROM conversations",
    "SELECT * FROM conversations WHERE conversation_id = 'c2'",
    "SELECT conversation_id FROM conversations WHERE conversation_id IN ('c4', 'c1', 'zz', 'c1')",
    "SELECT conversation_id, last_msg_id FROM conversations ORDER BY last_msg_id DESC LIMIT 3",
    "SELECT conversation_id, title FROM conversations ORDER BY title",
    "SELECT conversation_id FROM conversations WHERE total_messages > 0 AND title IS NULL",
    "SELECT count(*) FROM conversations",
    "SELECT * FROM conversation_users",
    "SELECT conversation_id, last_read_msg_id FROM conversation_users WHERE user_id = 'alice' ORDER BY "
    "last_read_msg_id DESC",
    "SELECT * FROM messages WHERE false",
    "SELECT msg_id FROM messages LIMIT 0",
    "SELECT msg_id FROM messages ORDER BY msg_id OFFSET 10000",
};

static void same_on_every_path(const char *state)
{
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        const char *sql = with_ids(statements[i]);
        engine_force_path(e.db, PATH_ANALYTIC);
        char *want = strdup(run(&e, "alice", sql));
        if (want[0] != '{')
            fail_msg("%s, %s: %s", state, sql, want);
        engine_force_path(e.db, PATH_FAST);
        const char *got = run(&e, "alice", sql);
        if (strcmp(got, want) != 0)
            fail_msg("%s, in C: %s\n  C      %s\n  worker %s", state, sql, got, want);
        engine_force_path(e.db, PATH_AUTO);
        got = run(&e, "alice", sql);
        if (strcmp(got, want) != 0)
            fail_msg("%s, by itself: %s\n  auto   %s\n  worker %s", state, sql, got, want);
        free(want);
    }
}

static void insert_rows(int from, int to)
{
    char sql[600], client[32];
    for (int i = from; i <= to; i++) {
        snprintf(client, sizeof client, i % 3 == 0 ? "'k%d'" : "NULL", i * 7 % 100);
        /* Times that do not follow the ids, and that meet. */
        snprintf(sql, sizeof sql,
            "INSERT INTO alice.messages (msg_id, conversation_id, \"from\", content, timestamp, metadata, "
            "client_msg_id) VALUES "
            "(#%d, 'c%d', '%s', 'text %d', '2025-0%d-01T00:00:%02dZ', %s, %s)",
            i, i % 5, i % 2 == 0 ? "user" : "assistant", i, 1 + i % 3, i * 13 % 60,
            i % 4 == 0 ? "'{\"n\": 1,\"s\":\"\\u00e9\"}'" : "NULL", client);
        expect_code(&e, "service:s", with_ids(sql), "OK");
    }
}

/* Rows out of the order of their ids, edits, deletions, read markers. */
static void change_rows(int shift)
{
    char sql[256];
    for (int i = 0; i < 9; i++) {
        int id = shift + i * 11;
        if (i % 3 == 0)
            snprintf(sql, sizeof sql, "UPDATE messages SET content = 'edited %d' WHERE msg_id = #%d", id, id);
        else if (i % 3 == 1)
            snprintf(sql, sizeof sql, "DELETE FROM messages WHERE msg_id = #%d AND msg_id <= #%d", id, id);
        else
            snprintf(
                sql, sizeof sql, "UPDATE messages SET metadata = '{\"e\":%d}' WHERE msg_id = #%d", id, id);
        expect_code(&e, "alice", with_ids(sql), "OK");
    }
    expect_code(
        &e, "alice", "UPDATE conversations SET title = 'T' WHERE conversation_id IN ('c1', 'c3')", "OK");
    expect_code(
        &e, "alice", "UPDATE conversation_users SET last_read_msg_id = 7 WHERE conversation_id = 'c2'", "OK");
}

static void selects(void **state)
{
    (void)state;
    set_base();
    engine_open(&e);
    insert_rows(101, 200);
    insert_rows(1, 60); /* arrived later with smaller ids */
    change_rows(9);
    same_on_every_path("hot");
    engine_consolidate(&e, "alice");
    same_on_every_path("cold");
    insert_rows(201, 240);
    change_rows(20);
    change_rows(150);
    expect_code(
        &e, "alice", "DELETE FROM messages WHERE conversation_id = 'c4' AND content <> 'text 4'", "OK");
    same_on_every_path("mixed");
    engine_reopen(&e);
    same_on_every_path("mixed, opened again");
    engine_consolidate(&e, "alice");
    insert_rows(241, 243);
    same_on_every_path("cold again");
    engine_close(&e);
}

/* What chat asks all day does not touch files while the tail has it. */
static void chat_stays_in_c(void **state)
{
    (void)state;
    set_base();
    engine_open(&e);
    insert_rows(1, 60);
    engine_consolidate(&e, "alice");
    static const struct {
        const char *sql;
        bool fast;
    } cases[] = {
        {"SELECT * FROM messages WHERE conversation_id = 'c1' ORDER BY msg_id DESC LIMIT 4", true},
        {"SELECT * FROM messages WHERE conversation_id = 'c1' ORDER BY msg_id DESC LIMIT 5", false},
        {"SELECT * FROM messages WHERE conversation_id = 'c1' AND msg_id < #20 ORDER BY msg_id DESC LIMIT 4",
            false},
        {"SELECT count(*) FROM messages", true},
        {"SELECT count(*) FROM messages WHERE conversation_id = 'c2'", true},
        {"SELECT * FROM conversations ORDER BY last_msg_id DESC LIMIT 20", true},
        {"SELECT * FROM messages WHERE msg_id = #59", true},
        {"SELECT * FROM messages WHERE msg_id = #2", false},
        {"SELECT * FROM messages WHERE _seq > 60 ORDER BY _seq", true},
        {"SELECT * FROM messages WHERE _seq > 10 ORDER BY _seq", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t before = atomic_load(&e.db->fast_reads);
        expect_code(&e, "alice", with_ids(cases[i].sql), "OK");
        bool fast = atomic_load(&e.db->fast_reads) > before;
        if (fast != cases[i].fast)
            fail_msg("%s went %s", cases[i].sql, fast ? "in C" : "to a worker");
    }
    engine_close(&e);
}

/* UPDATE and DELETE find the same rows either way, and leave the same counters. */
static void changes(void **state)
{
    (void)state;
    static const char *const list[] = {
        "UPDATE messages SET content = 'a' WHERE conversation_id = 'c1' AND msg_id > #20 RETURNING msg_id, "
        "_seq, _ins_seq",
        "DELETE FROM messages WHERE msg_id IN (#1, #2, #3, #60) RETURNING msg_id, content",
        "DELETE FROM messages WHERE conversation_id = 'c2' AND msg_id <= #12 RETURNING msg_id",
        "UPDATE messages SET metadata = '[1]' WHERE \"from\" = 'user' RETURNING msg_id, _seq",
        "UPDATE conversation_users SET last_read_msg_id = 5, metadata = '{}' WHERE conversation_id <> 'c2' "
        "RETURNING "
        "conversation_id, role, last_read_msg_id, metadata",
        "DELETE FROM messages WHERE conversation_id = 'c3'",
        "UPDATE conversations SET title = 'x' WHERE total_messages > 2 RETURNING conversation_id, "
        "total_messages",
        "DELETE FROM conversations WHERE conversation_id = 'c1' OR conversation_id = 'c3' RETURNING "
        "conversation_id",
        "DELETE FROM conversations WHERE conversation_id = 'c0' RETURNING conversation_id, total_messages",
        "DELETE FROM messages WHERE msg_id >= #55",
        "SELECT conversation_id, title, first_msg_id, last_msg_id, total_messages FROM conversations",
        "SELECT msg_id, content, metadata, _seq, _ins_seq FROM messages",
        "SELECT conversation_id, user_id FROM conversation_users",
    };
    enum { N = sizeof list / sizeof *list };
    char *want[N];
    set_base();
    for (int round = 0; round < 4; round++) {
        bool cold = round >= 2;
        engine_open(&e);
        insert_rows(1, 50);
        if (cold)
            engine_consolidate(&e, "alice");
        insert_rows(51, 60);
        engine_force_path(e.db, round % 2 == 0 ? PATH_ANALYTIC : PATH_AUTO);
        for (size_t i = 0; i < N; i++) {
            const char *got = run(&e, "alice", with_ids(list[i]));
            if (got[0] != '{')
                fail_msg("round %d: %s: %s", round, list[i], got);
            if (round == 0)
                want[i] = strdup(got);
            else if (strcmp(got, want[i]) != 0)
                fail_msg("round %d: %s\n  is   %s\n  want %s", round, list[i], got, want[i]);
        }
        /* The counters are what the rows say. */
        engine_consolidate(&e, "alice");
        expect(&e, "alice",
            "SELECT c.conversation_id FROM conversations c LEFT JOIN (SELECT conversation_id, count(*) n, "
            "min(msg_id) a, "
            "max(msg_id) z FROM messages GROUP BY 1) m ON m.conversation_id = c.conversation_id WHERE "
            "c.total_messages <> coalesce(n, 0) OR coalesce(c.first_msg_id, 0) <> coalesce(a, 0) OR "
            "coalesce(c.last_msg_id, 0) <> coalesce(z, 0)",
            "{\"columns\":[\"conversation_id\"],\"rows\":[],\"rowCount\":0}");
        engine_close(&e);
    }
    for (size_t i = 0; i < N; i++)
        free(want[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(selects),
        cmocka_unit_test(chat_stays_in_c),
        cmocka_unit_test(changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
