#include "print_fixture.h"

static void the_tree_decides_precedence(void **state)
{
    (void)state;
    expect_text("SELECT (1 + 2) * 3, 1 + 2 * 3, NOT (true OR false)",
        "SELECT ((1 + 2) * 3) AS \"?column?\", (1 + (2 * 3)) AS \"?column?\", (NOT (true OR false)) AS "
        "\"?column?\"");
    expect_text("SELECT (true OR false)::text", "SELECT CAST((true OR false) AS VARCHAR) AS \"text\"");
}

static void division_checks_its_divisor(void **state)
{
    (void)state;
    expect_text("SELECT 7 / 2, 7 % 2", "SELECT (7 // 2) AS \"?column?\", (7 % 2) AS \"?column?\"");
    expect_text("SELECT 7 / 0", "SELECT kdb_div(7, 0) AS \"?column?\"");
    expect_text("SELECT 7 / 0.0", "SELECT kdb_div(7, 0.0) AS \"?column?\"");
    expect_text("SELECT msg_id % msg_id FROM messages",
        "SELECT kdb_mod(\"t0:messages\".\"msg_id\", \"t0:messages\".\"msg_id\") AS \"?column?\" FROM scan_0 "
        "AS "
        "\"t0:messages\"");
}

static void constants_take_the_type_of_their_context(void **state)
{
    (void)state;
    expect_text("SELECT 1 FROM messages WHERE msg_id = '5'",
        "SELECT 1 AS \"?column?\" FROM scan_0 AS \"t0:messages\" WHERE (\"t0:messages\".\"msg_id\" = "
        "CAST('5' AS "
        "BIGINT))");
    expect_text("SELECT 1 FROM messages WHERE '5' = msg_id",
        "SELECT 1 AS \"?column?\" FROM scan_0 AS \"t0:messages\" WHERE (CAST('5' AS BIGINT) = "
        "\"t0:messages\".\"msg_id\")");
    expect_text("SELECT 'on'::bool, ' 12 '::int, 'epoch'::timestamptz",
        "SELECT true AS \"bool\", CAST(CAST('12' AS INTEGER) AS INTEGER) AS \"int4\", "
        "CAST('1970-01-01T00:00:00.000000Z' AS TIMESTAMPTZ) AS \"timestamptz\"");
    expect_error("SELECT 1 FROM messages WHERE msg_id = 'x'", ERR_INVALID_VALUE,
        "invalid input syntax for type bigint: \"x\"", "'x'");
    expect_error("SELECT 1 FROM messages WHERE metadata = '{'", ERR_INVALID_VALUE,
        "invalid input syntax for type json: \"{\"", "'{'");
}

static void parameters_are_literals(void **state)
{
    (void)state;
    const struct value params[] = {value_text(STR("it's")), value_i64(7), {.type = VALUE_DOUBLE, .d = 1.5},
        value_bool(true), VALUE_OF_NULL, value_json(STR("[\"a\",\"b\"]"))};
    struct printed t;
    print_params(&t, "SELECT $1, $2, $3, $4, $5", params, 6);
    assert_str(buf_view(&t.out),
        "SELECT 'it''s' AS \"?column?\", CAST('7' AS BIGINT) AS \"?column?\", CAST('1.5' AS "
        "DOUBLE) AS \"?column?\", true AS \"?column?\", NULL AS \"?column?\"");
    printed_release(&t);
    /* As PostgreSQL: a parameter has the type that its place wants. */
    print_params(&t, "SELECT 1 FROM messages WHERE content = $2", params, 6);
    assert_str(buf_view(&t.out), "SELECT 1 AS \"?column?\" FROM scan_0 AS \"t0:messages\" WHERE "
                                 "(\"t0:messages\".\"content\" = '7')");
    printed_release(&t);
    print_params(&t, "SELECT 1 FROM messages WHERE content = ANY ($6)", params, 6);
    assert_str(buf_view(&t.out),
        "SELECT 1 AS \"?column?\" FROM scan_0 AS \"t0:messages\" WHERE "
        "(\"t0:messages\".\"content\" = ANY(CAST(CAST('[\"a\",\"b\"]' AS JSON) AS VARCHAR[])))");
    printed_release(&t);
    print_params(&t, "SELECT $7", params, 6);
    assert_int_equal(t.err, ERR_INVALID_REQUEST);
    assert_int_equal(t.ec.position, 8);
    printed_release(&t);
}

static void like_escapes_by_backslash(void **state)
{
    (void)state;
    expect_text("SELECT 'a' LIKE 'b%', 'a' NOT LIKE 'b\\%', 'a' ILIKE 'x!%' ESCAPE '!'",
        "SELECT ('a' LIKE 'b%') AS \"?column?\", ('a' NOT LIKE 'b\\%' ESCAPE '\\') AS \"?column?\", ('a' "
        "ILIKE 'x!%' "
        "ESCAPE '!') AS \"?column?\"");
    expect_text("SELECT 'a' ~ '\\ya', 'a' !~* 'b'",
        "SELECT regexp_matches('a', '\\ba', 's') AS \"?column?\", (NOT regexp_matches('a', 'b', 'si')) AS "
        "\"?column?\"");
}

static void json_keys_are_never_paths(void **state)
{
    (void)state;
    expect_text("SELECT metadata->'$.a' FROM messages",
        "SELECT json_extract(\"t0:messages\".\"metadata\", '/$.a') "
        "AS \"?column?\" FROM scan_0 AS \"t0:messages\"");
    expect_text("SELECT metadata->>'a/b~' FROM messages",
        "SELECT json_extract_string(\"t0:messages\".\"metadata\", '/a~1b~0') AS \"?column?\" FROM scan_0 AS "
        "\"t0:messages\"");
    expect_text("SELECT metadata->'0' FROM messages",
        "SELECT json_extract(\"t0:messages\".\"metadata\", '$.\"0\"') "
        "AS \"?column?\" FROM scan_0 AS \"t0:messages\"");
}

static void operators_want_matching_types(void **state)
{
    (void)state;
    expect_error("SELECT 1 FROM messages WHERE msg_id = content", ERR_TYPE_MISMATCH,
        "operator does not exist: bigint = text", "= content");
    expect_error("SELECT content + 1 FROM messages", ERR_TYPE_MISMATCH,
        "operator does not exist: text + integer", "+ 1");
    expect_error("SELECT 1 WHERE 5", ERR_TYPE_MISMATCH,
        "argument of WHERE must be type boolean, not type integer", "5");
    expect_error("SELECT CASE WHEN true THEN 1 ELSE now() END", ERR_TYPE_MISMATCH,
        "CASE types integer and timestamp with time zone cannot be matched", "now");
    expect_error("SELECT timestamp::int FROM messages", ERR_TYPE_MISMATCH,
        "cannot cast type timestamp with time zone to integer", "::int");
}

static void functions_are_an_allow_list(void **state)
{
    (void)state;
    expect_error("SELECT read_csv('/etc/passwd')", ERR_UNDEFINED_FUNCTION,
        "function read_csv(unknown) does not exist", "read_csv");
    expect_error(
        "SELECT lower(5)", ERR_UNDEFINED_FUNCTION, "function lower(integer) does not exist", "lower");
    expect_error("SELECT lower('a', 'b')", ERR_UNDEFINED_FUNCTION,
        "function lower(unknown, unknown) does not exist", "lower");
    expect_error("SELECT x.lower('a')", ERR_UNDEFINED_FUNCTION, "function lower does not exist", "x.lower");
    expect_text("SELECT pg_catalog.lower('a')", "SELECT \"lower\"('a') AS \"lower\"");
    /* Nor can it be reached in any other clause. */
    expect_error("SELECT 1 ORDER BY getenv('HOME')", ERR_UNDEFINED_FUNCTION,
        "function getenv(unknown) does not exist", "getenv");
    expect_error(
        "SELECT * FROM glob('*')", ERR_UNDEFINED_FUNCTION, "function glob(unknown) does not exist", "glob");
    expect_error("SELECT count(*) FILTER (WHERE current_setting('x') = 'y')", ERR_UNDEFINED_FUNCTION,
        "function current_setting(unknown) does not exist", "current_setting");
    /* The macros are ours alone. */
    expect_error("SELECT kdb_div(1, 0)", ERR_UNDEFINED_FUNCTION,
        "function kdb_div(integer, integer) does not exist", "kdb_div");
}

static void aggregates_keep_their_clauses(void **state)
{
    (void)state;
    expect_text("SELECT string_agg(DISTINCT content, ',' ORDER BY content) FILTER (WHERE true) FROM messages",
        "SELECT string_agg(DISTINCT \"t0:messages\".\"content\", ',' ORDER BY \"t0:messages\".\"content\" "
        "ASC NULLS "
        "LAST) FILTER (WHERE true) AS \"string_agg\" FROM scan_0 AS \"t0:messages\"");
    expect_text("SELECT sum(length(content)) FROM messages",
        "SELECT CAST(sum(length(\"t0:messages\".\"content\")) "
        "AS BIGINT) AS \"sum\" FROM scan_0 AS \"t0:messages\"");
    expect_error("SELECT lower(DISTINCT content) FROM messages", ERR_SYNTAX,
        "DISTINCT specified, but lower is not an aggregate function", "lower");
    expect_error(
        "SELECT rank() FROM messages", ERR_SYNTAX, "window function rank requires an OVER clause", "rank");
}

static void intervals_are_read_here(void **state)
{
    (void)state;
    expect_text("SELECT interval '1 year 2 mons -3 days 04:05:06.5'",
        "SELECT ((to_months(CAST(14 AS INTEGER)) + to_days(CAST(-3 AS INTEGER))) + "
        "to_microseconds(14706500000)) AS "
        "\"interval\"");
    expect_error("SELECT interval 'soon'", ERR_INVALID_VALUE,
        "invalid input syntax for type interval: \"soon\"", "'soon'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tree_decides_precedence),
        cmocka_unit_test(division_checks_its_divisor),
        cmocka_unit_test(constants_take_the_type_of_their_context),
        cmocka_unit_test(parameters_are_literals),
        cmocka_unit_test(like_escapes_by_backslash),
        cmocka_unit_test(json_keys_are_never_paths),
        cmocka_unit_test(operators_want_matching_types),
        cmocka_unit_test(functions_are_an_allow_list),
        cmocka_unit_test(aggregates_keep_their_clauses),
        cmocka_unit_test(intervals_are_read_here),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
