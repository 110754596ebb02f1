/* What must not come out of the printer, whatever goes in. */
#include "print_fixture.h"
#include "sql/sql.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

/* Walks printed SQL as DuckDB's scanner would. Outside quotes only scan_N may name a relation, and every word
 * is one that the printer writes; quoted names are made up (t0:x), schema columns, or aliases after AS. */
static void check_words(const char *sql)
{
    for (const char *s = sql; *s != 0;) {
        if (*s == '\'' || *s == '"') {
            char q = *s++;
            for (;;) {
                if (*s == 0)
                    fail_msg("open quote in %s", sql);
                if (*s == q && s[1] == q)
                    s += 2;
                else if (*s++ == q)
                    break;
            }
            continue;
        }
        if (*s == ';' || (s[0] == '-' && s[1] == '-') || (s[0] == '/' && s[1] == '*') || *s == '$')
            fail_msg("outside quotes: %s", s);
        s++;
    }
}

static const char *const nasty[] = {
    "SELECT 1 AS \"x\"\"; DROP TABLE scan_0; --\" FROM messages \"m\"\"; ATTACH 'x'\"",
    "SELECT 'a''; COPY messages TO ''/tmp/x''; --', E'\\';--', $$';--$$, U&'\\0027;--'",
    "SELECT \"t0:m\".msg_id FROM messages \"t0:m\", messages \"scan_0\", (SELECT 1 AS \"scan_1\") AS "
    "\"t1:m\"",
    "WITH \"c0:x\"(\"o0:y\"\"\") AS (SELECT 1) SELECT \"o0:y\"\"\" FROM \"c0:x\"",
    "SELECT metadata->'\"]; $', metadata #> '{\"a''b\",\"c\\\"d\"}', metadata @> '{\"k''\\\"\":\"v''\"}' "
    "FROM messages",
    "SELECT to_char(timestamp, 'YYYY\"'';--\"%%') FROM messages",
    "SELECT format('%s'';--%%', 'x'), interval '1 day', '{\"a''b\"}'::text[], '\\x27'::bytea",
    "SELECT regexp_replace('a', 'b''(', ''';--', 'g'), 'x' SIMILAR TO '''%', 'x' LIKE '''' ESCAPE ''''",
    "SELECT count(*) AS \"/* */ --\" FROM messages GROUP BY content ORDER BY 1",
    "SELECT jsonb_set(metadata, '{\"a'';\"}', '1') FROM messages",
    "SELECT extract(year FROM timestamp AT TIME ZONE ''';--') FROM messages",
    "SELECT * FROM jsonb_each('{\"'';--\":1}') AS \"e\"\"\"(\"k';\", v)",
};

static void quotes_hold(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof nasty / sizeof *nasty; i++) {
        struct printed t;
        print_params(&t, nasty[i], NULL, 0);
        if (t.err != ERR_OK)
            fail_msg("%s: %s", nasty[i], t.ec.message);
        buf_u8(&t.out, 0);
        check_words(t.out.ptr);
        printed_release(&t);
    }
}

static void parameters_hold(void **state)
{
    (void)state;
    const struct value params[] = {value_text(STR("'; DROP TABLE x; --")),
        value_json(STR("{\"a\":\"';--\"}")), value_text(STR("\\'")), value_text(STR("{\"'\"}"))};
    struct printed t;
    print_params(&t,
        "SELECT $1, $2, $3, $4::text[], content LIKE $3, metadata @> $2, $1 || $3, metadata->$1, "
        "'a' ~ $1, content = ANY ($4) FROM messages",
        params, 4);
    assert_int_equal(t.err, ERR_OK);
    buf_u8(&t.out, 0);
    check_words(t.out.ptr);
    printed_release(&t);
}

/* Names of DuckDB that reach files, the network, settings, the catalog or other statements. */
static const char *const forbidden[] = {"read_csv", "read_csv_auto", "read_parquet", "parquet_scan",
    "read_json", "read_json_auto", "read_ndjson", "read_text", "read_blob", "glob", "getenv",
    "current_setting", "getvariable", "query", "query_table", "sniff_csv", "parquet_metadata",
    "parquet_schema", "parquet_kv_metadata", "parquet_file_metadata", "duckdb_settings", "duckdb_secrets",
    "duckdb_tables", "duckdb_views", "duckdb_functions", "duckdb_extensions", "duckdb_databases",
    "which_secret", "pragma_database_list", "pragma_table_info", "pragma_version", "nextval", "currval",
    "current_query", "current_database", "current_schemas", "version", "txid_current", "error", "write_log",
    "enable_logging", "parse_duckdb_log_message", "add_parquet_key", "in_search_path", "pg_sleep",
    "pg_read_file", "lo_import", "dblink", "set_config", "checkpoint", "force_checkpoint",
    "json_serialize_sql", "json_execute_serialized_sql", "json_deserialize_sql", "test_all_types",
    "repeat_row", "arrow_scan", "seq_scan", "index_scan", "icu_calendar_names", "summary", "storage_info",
    "json_transform", "list_aggregate", "array_aggregate", "apply", "reduce", "list_transform", "list_filter",
    "struct_pack", "unnest_x", "stats", "typeof", "alias", "vector_type", "kdb_text", "scan_0"};

static void nothing_beyond_the_rows_is_listed(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++) {
        for (const struct sql_function *f = sql_functions; f->name != NULL; f++)
            if (strcmp(f->name, forbidden[i]) == 0)
                fail_msg("%s is on the list", f->name);
        static const char *const shapes[] = {"SELECT %s()", "SELECT %s('x')", "SELECT * FROM %s('x')",
            "SELECT \"%s\"('x')", "SELECT pg_catalog.%s('x')", "SELECT 1 WHERE EXISTS (SELECT %s('x', 'y'))",
            "SELECT * FROM messages ORDER BY %s('x')", "SELECT sum(1) OVER (ORDER BY %s('x'))",
            "SELECT 1 LIMIT %s('x')", "VALUES (%s('x'))", "SELECT x.%s('x')"};
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            char sql[200];
            struct printed t;
            const char *hole = strstr(shapes[k], "%s");
            snprintf(sql, sizeof sql, "%.*s%s%s", (int)(hole - shapes[k]), shapes[k], forbidden[i], hole + 2);
            print_params(&t, sql, NULL, 0);
            if (t.err != ERR_UNDEFINED_FUNCTION)
                fail_msg("%s: %s", sql, err_wire(t.err));
            printed_release(&t);
        }
    }
}

static char *nested(const char *open, const char *core, const char *close, int n)
{
    char *s = calloc(1, (strlen(open) + strlen(close)) * (size_t)n + strlen(core) + 64);
    assert_non_null(s);
    strcpy(s, "SELECT ");
    char *at = s + 7;
    for (int i = 0; i < n; i++)
        at = stpcpy(at, open);
    at = stpcpy(at, core);
    for (int i = 0; i < n; i++)
        at = stpcpy(at, close);
    return s;
}

static void depth_is_bounded(void **state)
{
    (void)state;
    static const char *const shapes[][3] = {{"NOT ", "true", ""}, {"(SELECT ", "1", ")"}, {"abs(", "1", ")"},
        {"(1 + ", "1", ")"}, {"ARRAY[", "1", "]"}, {"CASE WHEN true THEN ", "1", " END"},
        {"COALESCE(", "1", ", 2)"}, {"(- ", "random()", ")"}, {"EXISTS (SELECT ", "1", ")"},
        {"", "1", "::int"}, {"x.a FROM (SELECT ", "1 AS a", ") x"}, {"row(", "1", ", 2)"}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (int n = 20; n <= 600; n *= 30) {
            char *sql = nested(shapes[i][0], shapes[i][1], shapes[i][2], n);
            struct printed t;
            print_params(&t, sql, NULL, 0);
            if (t.err != (n == 20 ? ERR_OK : ERR_UNSUPPORTED))
                fail_msg("%s %d times: %s %s", shapes[i][0], n, err_wire(t.err), t.ec.message);
            printed_release(&t);
            free(sql);
        }
    }
}

/* Templates and macros that repeat an argument must not multiply without end. */
static void repetition_is_bounded(void **state)
{
    (void)state;
    static const char *const shapes[][3] = {{"substring(", "'abc'", ", 1, 2)"}, {"(1 / ", "random()", ")"},
        {"(1 % ", "random()", ")"}, {"split_part(", "'a'", ", ',', 1)"},
        {"round(power(", "random()", ", 2))"}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        char *sql = nested(shapes[i][0], shapes[i][1], shapes[i][2], 40);
        struct printed t;
        print_params(&t, sql, NULL, 0);
        if (t.err != ERR_UNSUPPORTED)
            fail_msg("%s: %s, %zu bytes", shapes[i][0], err_wire(t.err), t.out.len);
        printed_release(&t);
        free(sql);
    }
}

static void errors_lose_made_up_names(void **state)
{
    (void)state;
    struct errctx ec;
    errctx_clear(&ec);
    err_set(&ec, ERR_SYNTAX,
        "column \"o1:total\" must appear in the GROUP BY clause or be used in an aggregate function");
    sql_explain_error(STR("SELECT 'total', q.total FROM q GROUP BY x"), &ec);
    assert_string_equal(ec.message,
        "column \"total\" must appear in the GROUP BY clause or be used in an aggregate function");
    assert_int_equal(ec.position, 19);
    errctx_clear(&ec);
    err_set(&ec, ERR_UNSUPPORTED, "Unknown TimeZone 'Nowhere'");
    sql_explain_error(STR("SELECT 1"), &ec);
    assert_int_equal(ec.code, ERR_INVALID_VALUE);
    assert_string_equal(ec.message, "time zone \"Nowhere\" not recognized");
    errctx_clear(&ec);
    err_set(&ec, ERR_INVALID_VALUE, "invalid input syntax for type bigint: \"t1:x\"");
    sql_explain_error(STR("SELECT 1"), &ec);
    assert_string_equal(ec.message, "invalid input syntax for type bigint: \"t1:x\"");
    errctx_clear(&ec);
    err_set(&ec, ERR_INTERNAL, "internal error");
    sql_explain_error(STR("SELECT 1"), &ec);
    assert_string_equal(ec.message, "internal error");
}

/* The list in the user's reference is the list. */
static void the_docs_list_every_function(void **state)
{
    (void)state;
    const char *path = getenv("KALAMDB_SQL_DOCS");
    assert_non_null(path);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    static char text[1 << 18];
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    size_t listed = 0, functions = 0;
    for (const struct sql_function *k = sql_functions; k->name != NULL; k++) {
        char line[300];
        snprintf(line, sizeof line, "\n- `%s%s`\n", k->name, k->signature);
        if (strstr(text, line) == NULL)
            fail_msg("not in docs/sql.md: %s", line);
        functions++;
    }
    for (const char *s = text; (s = strstr(s, "\n- `")) != NULL; s++)
        listed += strstr(s, " -> ") != NULL && strchr(s + 1, '\n') > strstr(s, " -> ");
    assert_int_equal(listed, functions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quotes_hold),
        cmocka_unit_test(parameters_hold),
        cmocka_unit_test(nothing_beyond_the_rows_is_listed),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(repetition_is_bounded),
        cmocka_unit_test(errors_lose_made_up_names),
        cmocka_unit_test(the_docs_list_every_function),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
