/* Bare `from`: which of them are columns. Those are marked <from>; the marks are taken out before the
 * statement is scanned, and must come back as quotes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "sql/tokens.h"
#include <strings.h>

static const char *const statements[] = {
    "SELECT <from> FROM messages",
    "SELECT <from>, content FROM messages",
    "SELECT content, <from> FROM messages",
    "SELECT <FROM>, Content FROM messages",
    "SELECT <From> From messages",
    "SELECT <from> AS sender FROM messages",
    "SELECT <from> sender FROM messages",
    "SELECT content, <from> sender, msg_id FROM messages",
    "SELECT <from> a, <from> b FROM messages",
    "SELECT msg_id AS from FROM messages",
    "SELECT m.from FROM messages m",
    "SELECT m.from, <from> FROM messages m",
    "SELECT \"from\", <from> FROM messages",
    "SELECT <from> /* from */ FROM messages -- from from",
    "SELECT <from>, 'from', $$from$$, E'from' FROM messages",
    "SELECT from_, xfrom, <from> FROM messages",
    "SELECT * FROM messages WHERE <from> = 'x'",
    "SELECT * FROM messages WHERE 'x' = <from>",
    "SELECT * FROM messages WHERE <from> IN ('a', <from>)",
    "SELECT * FROM messages WHERE <from> IS NULL AND <from> IS NOT NULL",
    "SELECT * FROM messages WHERE <from> IS DISTINCT FROM <from>",
    "SELECT * FROM messages WHERE <from> IS NOT DISTINCT FROM 'x'",
    "SELECT <from> IS DISTINCT FROM content FROM messages",
    "SELECT content IS NOT DISTINCT FROM <from> FROM messages",
    "SELECT <from>, count(*) FROM messages GROUP BY <from> HAVING <from> <> 'x' ORDER BY <from>",
    "SELECT * FROM messages ORDER BY <from> DESC, msg_id",
    "SELECT * FROM messages ORDER BY <from> NULLS FIRST",
    "SELECT * FROM messages ORDER BY content, <from> LIMIT 5",
    "SELECT count(<from>), count(DISTINCT <from>), count(ALL <from>) FROM messages",
    "SELECT DISTINCT <from> FROM messages",
    "SELECT ALL <from> FROM messages",
    "SELECT DISTINCT ON (<from>) <from>, content FROM messages ORDER BY <from>",
    "SELECT DISTINCT ON (<from>) * FROM messages",
    "SELECT extract(year from timestamp), <from> FROM messages",
    "SELECT extract(year FROM timestamp) FROM messages WHERE <from> = 'x'",
    "SELECT extract(epoch from <from>) FROM messages",
    "SELECT substring(<from> from 2), <from> FROM messages",
    "SELECT substring(<from> from 2 for 3) FROM messages",
    "SELECT substring(<from> for 3) FROM messages",
    "SELECT substring(<from>, 2) FROM messages",
    "SELECT substring(content from 2), <from> FROM messages",
    "SELECT trim(<from>) FROM messages",
    "SELECT trim(<from> from content) FROM messages",
    "SELECT trim(both 'x' from <from>) FROM messages",
    "SELECT trim(both from <from>) FROM messages",
    "SELECT trim(leading <from> from <from>) FROM messages",
    "SELECT trim(from content), <from> FROM messages",
    "SELECT trim(<from> || 'x') FROM messages",
    "SELECT trim(lower(<from>)) FROM messages",
    "SELECT overlay(<from> placing 'x' from 2) FROM messages",
    "SELECT position('x' in <from>) FROM messages",
    "SELECT <from> || ': ' || content FROM messages",
    "SELECT content || <from> FROM messages",
    "SELECT <from>::text, <from>::text COLLATE \"C\" FROM messages",
    "SELECT CAST(<from> AS text) FROM messages",
    "SELECT upper(<from>), coalesce(<from>, 'x') FROM messages",
    "SELECT (<from>) FROM messages",
    "SELECT (<from>, content), ROW(<from>) FROM messages",
    "SELECT ARRAY[<from>], (ARRAY[<from>])[1] FROM messages",
    "SELECT CASE <from> WHEN 'a' THEN <from> ELSE <from> END FROM messages",
    "SELECT CASE WHEN <from> = 'a' THEN 1 END FROM messages",
    "SELECT <from> LIKE 'a%' FROM messages",
    "SELECT content FROM messages WHERE <from> LIKE 'a%' OR <from> ILIKE 'b%' AND NOT <from> = 'c'",
    "SELECT content FROM messages WHERE <from> SIMILAR TO <from> ESCAPE 'x'",
    "SELECT content FROM messages WHERE content BETWEEN <from> AND <from>",
    "SELECT content FROM messages WHERE content = ANY (SELECT <from> FROM messages)",
    "SELECT 2 * msg_id, <from> FROM messages",
    "SELECT 2 * <from> FROM messages",
    "SELECT * FROM messages WHERE 1 = 2 * <from>",
    "SELECT *, <from> FROM messages",
    "SELECT m.*, <from> FROM messages m",
    "SELECT count(*), <from> FROM messages",
    "SELECT count(*) FILTER (WHERE <from> = 'a') FROM messages",
    "SELECT row_number() OVER (PARTITION BY <from> ORDER BY <from>) FROM messages",
    "SELECT string_agg(content, ',' ORDER BY <from>) FROM messages",
    "SELECT timestamp AT TIME ZONE <from> FROM messages",
    "SELECT * FROM messages WHERE <from> = (SELECT <from> FROM messages WHERE <from> = 'a' LIMIT 1)",
    "SELECT * FROM messages WHERE EXISTS (SELECT FROM messages WHERE <from> = 'a')",
    "SELECT * FROM (SELECT <from> FROM messages) t WHERE <from> = 'a'",
    "SELECT (SELECT <from>) FROM messages",
    "WITH t AS (SELECT <from>, content FROM messages) SELECT <from> FROM t",
    "WITH t(<from>) AS (SELECT content FROM messages) SELECT <from> FROM t",
    "SELECT a.content FROM messages a JOIN messages b USING (<from>)",
    "SELECT a.content FROM messages a JOIN messages b ON <from> = b.from WHERE <from> > 'a'",
    "SELECT <from> FROM messages UNION ALL SELECT <from> FROM messages",
    "SELECT FROM messages UNION SELECT <from> FROM messages",
    "SELECT <from> FROM messages; ",
    "INSERT INTO messages (conversation_id, <from>, content) VALUES ('c', 'x', 'y')",
    "INSERT INTO messages (<from>, content) SELECT <from>, content FROM messages WHERE <from> = 'a'",
    "INSERT INTO messages (<from>) VALUES ('x') RETURNING <from>",
    "INSERT INTO messages (<from>) VALUES ('x') RETURNING <from>, content",
    "INSERT INTO messages (<from>) VALUES ('x') RETURNING <from> sender",
    "INSERT INTO messages (<from>) VALUES (DEFAULT)",
    "UPDATE messages SET content = 'x' WHERE <from> = 'a'",
    "UPDATE messages SET content = <from> WHERE <from> <> 'a' RETURNING <from>",
    "UPDATE messages SET <from> = 'a'",
    "UPDATE messages SET content = 'a', <from> = 'b' WHERE msg_id = 1",
    "UPDATE messages SET (content, <from>) = (<from>, 'b')",
    "UPDATE messages SET content = <from> FROM conversations WHERE <from> = 'a'",
    "DELETE FROM messages WHERE <from> = 'a'",
    "DELETE FROM messages WHERE <from> = 'a' RETURNING <from>, msg_id",
    "DELETE FROM messages USING conversations WHERE <from> = 'a'",
};

/* Columns named by words that are keywords elsewhere do not confuse the machine. */
static const char *const odd_names[] = {
    "SELECT zone, <from> FROM t",
    "SELECT set, by, <from> FROM t",
    "SELECT escape FROM t WHERE <from> = 'x'",
    "SELECT t.select, <from> FROM t",
    "SELECT a AS select, <from> FROM t",
};

static void check_marked(const char *marked)
{
    char sql[512], expected[512];
    size_t n = 0, k = 0;
    bool inside = false;
    for (const char *p = marked; *p != '\0'; p++) {
        bool opens = *p == '<' && (strncasecmp(p, "<from>", 6) == 0);
        bool closes = *p == '>' && inside;
        if (opens || closes) {
            inside = opens;
            expected[k++] = '"';
            continue;
        }
        sql[n++] = *p;
        expected[k++] = inside ? (char)(*p | 0x20) : *p;
    }
    sql[n] = '\0';
    struct arena arena;
    struct tokens tokens;
    struct str text = STR_NULL;
    struct from_map map = {0};
    arena_init(&arena, 1 << 20);
    assert_true(tokens_scan(&arena, sql, &tokens));
    bool any = bare_from_quote(&arena, str_n(sql, n), &tokens, &text, &map);
    if (!any)
        text = str_n(sql, n);
    if (!str_eq(text, str_n(expected, k)))
        fail_msg("%s: got %.*s", marked, STR_FMT(text));
    /* Every byte of the quoted text leads back to its like. */
    for (size_t i = 0; any && i < text.len; i++) {
        int back = from_map_back(&map, (int)i);
        if (from_map_hit(&map, (int)i))
            assert_int_equal(sql[back] | 0x20, 'f');
        else
            assert_int_equal(sql[back], text.ptr[i]);
    }
    arena_release(&arena);
}

static void test_columns_are_found(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
        check_marked(statements[i]);
    for (size_t i = 0; i < sizeof odd_names / sizeof *odd_names; i++)
        check_marked(odd_names[i]);
}

/* Statements in which nothing is to be quoted. */
static void test_keywords_stay(void **state)
{
    static const char *const keep[] = {"SELECT FROM messages", "SELECT content, FROM messages",
        "DELETE FROM messages", "SELECT * FROM messages", "SELECT m.* FROM messages m",
        "SELECT trim(from content) FROM messages", "SELECT 'a' FROM messages",
        "SELECT count(*) FROM messages", "SELECT a[1] FROM messages",
        "SELECT CASE WHEN a THEN b END FROM messages", "SELECT NULL FROM messages",
        "SELECT x IS NULL FROM messages", "SELECT a AS b FROM messages", "SELECT timestamp FROM messages",
        "SELECT 1::int FROM messages", "SELECT interval '1 day' FROM messages", "SELECT $1 FROM messages",
        "SELECT a COLLATE \"C\" FROM messages", "SELECT EXISTS (SELECT FROM messages WHERE a = 1)"};
    (void)state;
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++)
        check_marked(keep[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns_are_found), cmocka_unit_test(test_keywords_stay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
