/* The gate against bytes that nobody vouches for: encodings, sizes, depth, mutated statements, many threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "gate_describe.h"
#include "sql/tokens.h"
#include <pthread.h>

#define STACK_BYTES ((size_t)8 << 20)

static void assert_outcome(struct str sql, const struct value *params, int nparams, const char *expected)
{
    struct buf out = BUF_INIT(0);
    describe_parse(&out, sql, params, nparams, ROLE_SERVICE);
    if (!str_eq(buf_view(&out), str_c(expected)))
        fail_msg("%.*s: got %.*s", STR_FMT(sql), STR_FMT(buf_view(&out)));
    buf_release(&out);
}

static void test_encoding(void **state)
{
    (void)state;
    assert_outcome(STR(""), NULL, 0, "SYNTAX_ERROR@0 empty statement");
    assert_outcome(STR_NULL, NULL, 0, "SYNTAX_ERROR@0 empty statement");
    assert_outcome(STR("SELECT 'a\0b'"), NULL, 0, "INVALID_REQUEST@0 the statement contains a NUL byte");
    assert_outcome(STR("SELECT 1\0"), NULL, 0, "INVALID_REQUEST@0 the statement contains a NUL byte");
    assert_outcome(STR("SELECT '\xff'"), NULL, 0, "INVALID_REQUEST@0 the statement is not valid UTF-8");
    assert_outcome(
        STR("SELECT '\xed\xa0\x80'"), NULL, 0, "INVALID_REQUEST@0 the statement is not valid UTF-8");
    const struct value nul = value_text(STR("a\0b")), bad = value_text(STR("\xc3"));
    assert_outcome(STR("SELECT $1"), &nul, 1, "INVALID_REQUEST@0 parameter $1 contains a NUL byte");
    assert_outcome(STR("SELECT $1"), &bad, 1, "INVALID_REQUEST@0 parameter $1 is not valid UTF-8");
}

static void test_size(void **state)
{
    (void)state;
    size_t n = (1 << 20) + 1;
    char *sql = malloc(n);
    assert_non_null(sql);
    memset(sql, ' ', n);
    assert_outcome(str_n(sql, n), NULL, 0, "TOO_LARGE@0 the statement has 1048577 bytes, more than 1048576");
    assert_outcome(str_n(sql, n - 1), NULL, 0, "SYNTAX_ERROR@0 empty statement");
    free(sql);
}

/* ---- depth ----------------------------------------------------------------------------------- */

struct shape {
    const char *head, *open, *middle, *close, *tail;
};

static struct buf shaped(const struct shape *s, int n)
{
    struct buf b = BUF_INIT(0);
    buf_str(&b, str_c(s->head));
    for (int i = 0; i < n; i++)
        buf_str(&b, str_c(s->open));
    buf_str(&b, str_c(s->middle));
    for (int i = 0; i < n; i++)
        buf_str(&b, str_c(s->close));
    buf_str(&b, str_c(s->tail));
    return b;
}

/* Nesting of every kind, far deeper than any stack: refused by name. */
static const struct shape deep[] = {
    {"SELECT ", "", "1", " + 1", ""},
    {"SELECT ", "- ", "1", "", ""},
    {"SELECT ", "NOT ", "true", "", ""},
    {"SELECT ", "(1 + ", "1", ")", ""},
    {"SELECT ", "ARRAY[", "1", "]", ""},
    {"SELECT ", "lower(", "'x'", ")", ""},
    {"SELECT ", "", "'x'", "::text", ""},
    {"SELECT ", "CASE WHEN true THEN ", "1", " END", ""},
    {"SELECT ", "CASE WHEN a AND b THEN 1 ELSE ", "1", " END", ""},
    {"SELECT ", "coalesce(1, ", "1", ")", ""},
    {"SELECT ", "(SELECT ", "1", ")", ""},
    {"SELECT * FROM ", "(SELECT * FROM ", "messages", ") t", ""},
    {"SELECT ", "1 BETWEEN 1 AND NOT ", "true", "", ""},
    {"SELECT ", "1 BETWEEN 1 AND - - - - ", "1", "", ""},
    {"SELECT ", "", "'a'", " || 'b'", ""},
    {"SELECT ", "", "'a'", " COLLATE \"C\"", ""},
    {"SELECT ", "", "a", " AT TIME ZONE 'x'", ""},
    {"SELECT 1", "", "", " UNION ALL SELECT 1, 2", ""},
    {"SELECT * FROM messages m", "", "", " JOIN messages n ON a AND b", ""},
    {"SELECT * FROM messages WHERE ", "EXISTS (SELECT 1 FROM messages WHERE ", "true", ")", ""},
    {"SELECT ", "((a + 1) + ", "1", ")", ""},
    {"SELECT ", "(", "a", " + 1 + 1 + 1)", ""},
    {"SELECT ", "a AND (b OR ", "c", ")", ""},
    {"", "WITH x AS (", "SELECT 1", ") SELECT * FROM x", ""},
    {"EXPLAIN ", "(", "SELECT 1", ")", ""},
    {"CREATE VIEW v AS ", "(", "SELECT 1 + 1", ")", ""},
    {"UPDATE messages SET content = ", "lower(", "'x'", ")", ""},
    {"INSERT INTO messages (content) VALUES (", "lower(", "'x'", ")", ")"},
    {"DELETE FROM messages WHERE ", "NOT ", "true", "", ""},
    {"SELECT ", "ROW(", "1", ")", ""},
    {"SELECT a", "[1 + a", "", "]", ""},
};

static void check_depth(int n)
{
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        struct buf sql = shaped(&deep[i], n);
        assert_outcome(buf_view(&sql), NULL, 0, "UNSUPPORTED@0 statement too complex");
        buf_release(&sql);
    }
}

static void test_deep_is_refused(void **state)
{
    (void)state;
    check_depth(SQL_DEPTH_MAX + 100);
    check_depth(20000);
}

/* At the limit the walkers must fit a small stack; whether the printer takes the statement is its affair. */
static void *parse_at_limit(void *arg)
{
    (void)arg;
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        for (int n = 20; n <= SQL_DEPTH_MAX; n += 20) {
            struct buf sql = shaped(&deep[i], n), out = BUF_INIT(0);
            describe_parse(&out, buf_view(&sql), NULL, 0, ROLE_USER);
            buf_release(&out);
            buf_release(&sql);
        }
    }
    return NULL;
}

static void test_limit_fits_the_stack(void **state)
{
    (void)state;
    pthread_attr_t attr;
    pthread_t thread;
    assert_int_equal(pthread_attr_init(&attr), 0);
    /* Threads of the server have 8 MiB; sanitizers make frames several times larger. */
    assert_int_equal(pthread_attr_setstacksize(&attr, STACK_BYTES), 0);
    assert_int_equal(pthread_create(&thread, &attr, parse_at_limit, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(pthread_attr_destroy(&attr), 0);
}

/* Wide is not deep. */
static void test_wide_is_accepted(void **state)
{
    static const struct shape wide[] = {
        {"SELECT count(*) FROM messages WHERE msg_id = 1", "", "", " OR msg_id = 2", ""},
        {"SELECT count(*) FROM messages WHERE msg_id > 1", "", "", " AND msg_id <> 2", ""},
        {"SELECT count(*) FROM messages WHERE msg_id IN (1", "", "", ", 2", ")"},
        {"INSERT INTO messages (conversation_id, content) VALUES ('c', 'x')", "", "", ", ('c', 'x')", ""},
        {"SELECT 1", "", "", ", 1 + 1", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        struct buf sql = shaped(&wide[i], 1500), out = BUF_INIT(0);
        describe_parse(&out, buf_view(&sql), NULL, 0, ROLE_USER);
        if (out.ptr[0] >= 'A' && out.ptr[0] <= 'Z') /* an error code */
            fail_msg("%s…: %.*s", wide[i].head, STR_FMT(buf_view(&out)));
        buf_release(&out);
        buf_release(&sql);
    }
}

static void test_many_tokens(void **state)
{
    (void)state;
    const struct shape s = {"SELECT 1", "", "", ",1", ""};
    struct buf sql = shaped(&s, SQL_TOKENS_MAX);
    assert_outcome(buf_view(&sql), NULL, 0, "UNSUPPORTED@0 statement too complex");
    buf_release(&sql);
}

/* ---- schema names ---------------------------------------------------------------------------- */

/* The id stands where the format has a %. */
static void check_owner(const char *format, const char *id)
{
    struct buf text = BUF_INIT(0);
    for (const char *p = format; *p != '\0'; p++) {
        if (*p == '%')
            buf_str(&text, str_c(id));
        else
            buf_append(&text, p, 1);
    }
    struct str sql = buf_view(&text);
    struct arena arena;
    struct stmt *s = NULL;
    struct errctx ec;
    const struct caller caller = {STR("admin"), ROLE_SERVICE};
    const struct sql_limits limits = {1 << 20, NOW_US};
    arena_init(&arena, 1 << 20);
    enum err e = sql_parse(&arena, sql, NULL, 0, &caller, &limits, &s, &ec);
    if (e != ERR_OK)
        fail_msg("%.*s: %s", STR_FMT(sql), ec.message);
    struct str owner = s->kind == STMT_SELECT ? s->tables[0].owner : s->target_owner;
    if (!str_eq(owner, str_c(id)))
        fail_msg("%.*s: owner %.*s", STR_FMT(sql), STR_FMT(owner));
    /* The same id as the caller's own. */
    const struct caller self = {str_c(id), ROLE_USER};
    assert_int_equal(sql_parse(&arena, sql, NULL, 0, &self, &limits, &s, &ec), ERR_OK);
    /* Another one that agrees in all but the last byte. */
    char near[300];
    (void)snprintf(near, sizeof near, "%s", id);
    near[strlen(near) - 1] ^= 1;
    const struct caller other = {str_c(near), ROLE_USER};
    assert_int_equal(sql_parse(&arena, sql, NULL, 0, &other, &limits, &s, &ec), ERR_FORBIDDEN);
    arena_release(&arena);
    buf_release(&text);
}

static void test_long_user_ids(void **state)
{
    static const char *const formats[] = {
        "SELECT * FROM \"%\".messages",
        "SELECT * FROM messages a JOIN \"%\".messages b ON true WHERE b.msg_id = 1",
        "SELECT from, content FROM \"%\".messages WHERE from = 'x'",
        "SELECT \"%\".messages.content FROM \"%\".messages",
        "SELECT count(\"%\".messages.from), max(from) FROM \"%\".messages WHERE from > ''",
        "SELECT 'é', * FROM \"%\".messages",
        "INSERT INTO \"%\".messages (conversation_id, from, content) VALUES ('c', 'x', 'y')",
        "UPDATE \"%\".messages SET content = 'x' WHERE from = 'y'",
        "DELETE FROM ONLY \"%\".messages WHERE msg_id = 5",
        "/* \"x\". */ SELECT * FROM \"%\" . messages",
    };
    static const int lengths[] = {1, 59, 60, 61, 62, 63, 64, 65, 127, 255};
    (void)state;
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        char id[256];
        for (int i = 0; i < lengths[l]; i++)
            id[i] = (char)('a' + i % 26);
        id[lengths[l]] = '\0';
        for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
            if (f != 1) /* tables[0] is the caller's there */
                check_owner(formats[f], id);
        }
        check_owner("SELECT * FROM %.messages", id);
    }
    check_owner(
        "SELECT * FROM \"%\".messages", "ééééééééééééééééééééééééééééééé|é"); /* a character over byte 63 */
}

static void test_too_long_user_id(void **state)
{
    char sql[512], id[257];
    (void)state;
    memset(id, 'a', 256);
    id[256] = '\0';
    (void)snprintf(sql, sizeof sql, "SELECT * FROM \"%s\".messages", id);
    struct buf out = BUF_INIT(0);
    describe_parse(&out, str_c(sql), NULL, 0, ROLE_SERVICE);
    assert_true(str_starts_with(buf_view(&out), STR("UNDEFINED_TABLE@15 ")));
    buf_release(&out);
}

/* ---- mutations ------------------------------------------------------------------------------- */

static const char *const seeds[] = {
    "SELECT * FROM alice.messages WHERE conversation_id = 'c1' AND msg_id < 1000 ORDER BY msg_id DESC LIMIT "
    "20",
    "SELECT from, count(*) FROM messages WHERE from <> 'x' GROUP BY from HAVING count(*) > 1 ORDER BY from",
    "INSERT INTO messages (conversation_id, from, content) VALUES ('c', E'x\\n', $$y$$), (U&'\\0061', "
    "DEFAULT, NULL)",
    "INSERT INTO conversations (conversation_id, conversation_type, from, content, metadata) VALUES "
    "('conv_123', 'ai', "
    "'user_alice', 'Hello AI!', '{\"role\":\"user\"}'::jsonb) RETURNING msg_id, upper(content)",
    "UPDATE messages SET (content, metadata) = ('x', DEFAULT), from = lower(from) WHERE from IN ('a', 'b') "
    "RETURNING *",
    "DELETE FROM messages m WHERE m.from IS NOT DISTINCT FROM from AND timestamp > TIMESTAMPTZ '2025-01-01'",
    "WITH x(from) AS (SELECT trim(both from from) FROM messages) SELECT x.from, extract(year from now()) "
    "FROM x, "
    "LATERAL (SELECT 1) y",
    "SELECT (CASE WHEN a.msg_id BETWEEN 1 AND 5 THEN ARRAY[1,2] END)[1], a.metadata->'a'->>'b' FROM messages "
    "a LEFT JOIN "
    "\"bob|x\".messages b USING (msg_id) WHERE b.timestamp > now() - interval '1 day'",
    "SELECT row_number() OVER (PARTITION BY from ORDER BY msg_id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) "
    "FROM "
    "messages UNION ALL SELECT 1 LIMIT 5 OFFSET 2",
    "select \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\".messages.from from "
    "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\".messages",
};

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static size_t mutate(char *sql, size_t n, size_t cap, uint64_t *rng)
{
    static const char alphabet[] = "from\"'$();,.*=<>-+/\\ \tselect \xc3\xa9U&E:[]0179%|#~null";
    for (uint64_t k = next_random(rng) % 3 + 1; k > 0 && n > 0; k--) {
        size_t at = next_random(rng) % n, len = next_random(rng) % 12 + 1;
        if (len > n - at)
            len = n - at;
        switch (next_random(rng) % 4) {
        case 0:
            sql[at] = alphabet[next_random(rng) % (sizeof alphabet - 1)];
            break;
        case 1: /* cut out */
            memmove(sql + at, sql + at + len, n - at - len);
            n -= len;
            break;
        case 2: /* double */
            if (n + len > cap)
                break;
            memmove(sql + at + len, sql + at, n - at);
            n += len;
            break;
        default: /* bring from elsewhere */
            memmove(sql + at, sql + next_random(rng) % (n - len + 1), len);
        }
    }
    return n;
}

static void check_mutant(struct str sql, int *accepted)
{
    struct arena arena;
    struct stmt *s = NULL;
    struct errctx ec;
    const struct value params[] = {value_text(STR("x")), value_i64(5)};
    const struct caller caller = {STR("alice"), ROLE_SERVICE};
    const struct sql_limits limits = {1 << 20, NOW_US};
    arena_init(&arena, 16 << 20);
    enum err e = sql_parse(&arena, sql, params, 0, &caller, &limits, &s, &ec);
    if (e == ERR_OK) {
        struct buf out = BUF_INIT(0);
        describe(&out, s);
        assert_true(out.len > 0);
        buf_release(&out);
        ++*accepted;
    } else if (ec.code != e || err_status(e) == 500 || ec.position < 0 || (size_t)ec.position > sql.len + 1 ||
               ec.message[0] == '\0') {
        fail_msg("%.*s: %s@%d %s (%s)", STR_FMT(sql), err_wire(e), ec.position, ec.message, ec.internal);
    }
    arena_release(&arena);
}

static void test_seeds_are_accepted(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        int accepted = 0;
        check_mutant(str_c(seeds[i]), &accepted);
        if (accepted != 1)
            assert_outcome(str_c(seeds[i]), NULL, 0, "accepted");
    }
}

static void test_mutants(void **state)
{
    (void)state;
    uint64_t rng = 0x9e3779b97f4a7c15u;
    int accepted = 0;
    for (int round = 0; round < 400; round++) {
        for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
            char sql[1024];
            size_t n = strlen(seeds[i]);
            memcpy(sql, seeds[i], n);
            n = mutate(sql, n, sizeof sql, &rng);
            check_mutant(str_n(sql, n), &accepted);
        }
    }
    assert_in_range(accepted, 30, 3000); /* else the seeds or the mutations are wrong */
}

/* ---- threads --------------------------------------------------------------------------------- */

static void describe_seeds(struct buf *out)
{
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++)
        describe_parse(out, str_c(seeds[i]), NULL, 0, i % 2 == 0 ? ROLE_USER : ROLE_SERVICE);
    describe_parse(out, STR("SELECT 'unterminated"), NULL, 0, ROLE_USER);
}

static void *parse_in_thread(void *arg)
{
    const struct buf *expected = arg;
    for (int i = 0; i < 40; i++) {
        struct buf out = BUF_INIT(0);
        describe_seeds(&out);
        bool same = str_eq(buf_view(&out), buf_view(expected));
        buf_release(&out);
        if (!same)
            return (void *)1;
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct buf expected = BUF_INIT(0);
    describe_seeds(&expected);
    for (int round = 0; round < 3;
         round++) { /* threads end in between: the parser's own state goes with them */
        pthread_t threads[4];
        for (int i = 0; i < 4; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, parse_in_thread, &expected), 0);
        for (int i = 0; i < 4; i++) {
            void *failed = NULL;
            assert_int_equal(pthread_join(threads[i], &failed), 0);
            assert_null(failed);
        }
    }
    buf_release(&expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encoding),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_deep_is_refused),
        cmocka_unit_test(test_limit_fits_the_stack),
        cmocka_unit_test(test_wide_is_accepted),
        cmocka_unit_test(test_many_tokens),
        cmocka_unit_test(test_long_user_ids),
        cmocka_unit_test(test_too_long_user_id),
        cmocka_unit_test(test_seeds_are_accepted),
        cmocka_unit_test(test_mutants),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
