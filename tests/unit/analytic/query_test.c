/* What a query sees and what comes back, through a real worker. */
#include "fixture.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void rows_only(void **state)
{
    struct fixture *f = *state;
    struct row_file file;
    row_file_open(&file);
    row_file_messages(&file, 1, 200);
    struct analytic_input in = row_file_input(&file);
    assert_string_equal(one(f->a, "SELECT count(*) FROM scan_0", &in, 1), "200");
    assert_string_equal(
        one(f->a, "SELECT sum(msg_id) FROM scan_0 WHERE conversation_id = 'c1'", &in, 1), "6700");

    struct rowset rs;
    struct errctx ec;
    assert_int_equal(
        run_sql(f->a, "user_alice", "SELECT * FROM scan_0 WHERE msg_id = 7", &in, 1, &rs, &ec), ERR_OK);
    assert_int_equal(rs.ncolumns, MSG_NCOLUMNS);
    assert_int_equal(rs.nrows, 1);
    for (int c = 0; c < MSG_NCOLUMNS; c++) {
        assert_true(str_eq(rs.names[c], schema_messages.columns[c].name));
        assert_int_equal(rs.types[c], schema_messages.columns[c].type);
    }
    const struct value *v = rowset_row(&rs, 0);
    assert_int_equal(v[MSG_ID].i, 7);
    assert_true(str_eq(v[MSG_CONTENT].s, STR("text 7")));
    assert_int_equal(v[MSG_TIMESTAMP].i, INT64_C(1760356800000007));
    assert_int_equal(v[MSG_METADATA].type, VALUE_JSON);
    assert_true(str_eq(v[MSG_METADATA].s, STR("{\"a\": [1, null]}")));
    assert_int_equal(v[MSG_CONTENT_REF].type, VALUE_NULL);
    assert_int_equal(v[MSG_SEQ].i, 1007);
    assert_int_equal(v[MSG_INS_SEQ].i, 7);
    rowset_release(&rs);
    row_file_close(&file);
}

static void no_rows_and_no_files(void **state)
{
    struct fixture *f = *state;
    struct analytic_input in = {.schema = &schema_messages, .rows_fd = -1};
    assert_string_equal(one(f->a, "SELECT count(*) FROM scan_0", &in, 1), "0");
    assert_string_equal(one(f->a, "SELECT max(content) FROM scan_0", &in, 1), "NULL");
    assert_string_equal(one(f->a, "SELECT 1 + 1", NULL, 0), "2");
}

static void tombstones(void **state)
{
    struct fixture *f = *state;
    struct row_file file;
    row_file_open(&file);
    row_file_messages(&file, 1, 3);
    row_file_message(&file, 4, "", ROW_TOMBSTONE);
    struct analytic_input in = row_file_input(&file);
    assert_string_equal(one(f->a, "SELECT count(*) FROM scan_0", &in, 1), "3");
    in.with_tombstones = true;
    assert_string_equal(one(f->a, "SELECT count(*) FROM scan_0", &in, 1), "4");
    assert_string_equal(
        one(f->a, "SELECT string_agg(msg_id || ':' || conversation_id, ',') FROM scan_0 WHERE _deleted", &in,
            1),
        "4:c1");
    int fd = make_parquet(f->a, "SELECT * EXCLUDE (_deleted) FROM scan_0 WHERE NOT _deleted", &in, 1);
    in.nfiles = 1;
    in.file_fds = &fd;
    assert_string_equal(
        one(f->a, "SELECT string_agg(msg_id || ':' || _deleted, ',' ORDER BY msg_id, _deleted) FROM scan_0",
            &in, 1),
        "1:false,1:false,2:false,2:false,3:false,3:false,4:true");
    /* Files alone have the column too. */
    in.rows_fd = -1;
    assert_string_equal(one(f->a, "SELECT count(*) FROM scan_0 WHERE NOT _deleted", &in, 1), "3");
    close(fd);
    row_file_close(&file);
}

static void parquet_and_mixed(void **state)
{
    struct fixture *f = *state;
    struct row_file file, overlay;
    row_file_open(&file);
    row_file_messages(&file, 1, 10000);
    struct analytic_input in = row_file_input(&file);
    int fds[2];
    fds[0] = make_parquet(f->a, "SELECT * FROM scan_0 WHERE msg_id <= 6000 ORDER BY msg_id", &in, 1);
    fds[1] = make_parquet(f->a, "SELECT * FROM scan_0 WHERE msg_id > 6000 ORDER BY msg_id", &in, 1);
    char magic[4];
    assert_int_equal(pread(fds[0], magic, 4, 0), 4);
    assert_memory_equal(magic, "PAR1", 4);

    struct analytic_input cold = {.schema = &schema_messages, .rows_fd = -1, .nfiles = 2, .file_fds = fds};
    assert_string_equal(one(f->a, "SELECT sum(msg_id) FROM scan_0", &cold, 1), "50005000");
    assert_string_equal(
        one(f->a, "SELECT metadata->>'$.a[0]' FROM scan_0 WHERE msg_id = 9999", &cold, 1), "1");
    assert_string_equal(
        one(f->a, "SELECT typeof(metadata) || typeof(\"timestamp\") FROM scan_0 LIMIT 1", &cold, 1),
        "JSONTIMESTAMP WITH TIME ZONE");

    /* One edited row, one deleted, one new: the cold versions of the first two must not show. */
    row_file_open(&overlay);
    row_file_message(&overlay, 5, "edited", 0);
    row_file_message(&overlay, 7000, "", ROW_TOMBSTONE);
    row_file_message(&overlay, 10001, "new", 0);
    struct analytic_input mixed = row_file_input(&overlay);
    int64_t exclude[] = {5, 7000};
    mixed.nfiles = 2;
    mixed.file_fds = fds;
    mixed.exclude = exclude;
    mixed.nexclude = 2;
    assert_string_equal(one(f->a, "SELECT count(*) FROM scan_0", &mixed, 1), "10000");
    assert_string_equal(one(f->a, "SELECT sum(msg_id) FROM scan_0", &mixed, 1), "50008001");
    assert_string_equal(one(f->a, "SELECT content FROM scan_0 WHERE msg_id = 5", &mixed, 1), "edited");
    assert_string_equal(one(f->a, "SELECT count(*) FROM scan_0 WHERE msg_id = 7000", &mixed, 1), "0");
    /* Two inputs at once, each under its number. */
    struct analytic_input both[2] = {cold, mixed};
    assert_string_equal(
        one(f->a,
            "SELECT string_agg(a.msg_id, ',' ORDER BY 1) FROM scan_0 a ANTI JOIN scan_1 b USING (msg_id)",
            both, 2),
        "7000");
    close(fds[0]);
    close(fds[1]);
    row_file_close(&file);
    row_file_close(&overlay);
}

/* A worker keeps its user's descriptors' numbers: a second statement must see the second statement's files.
 */
static void next_statement_other_files(void **state)
{
    struct fixture *f = *state;
    for (int i = 1; i <= 5; i++) {
        char sql[64], want[16];
        snprintf(sql, sizeof sql, "SELECT %d AS msg_id, 'x' AS content", i);
        snprintf(want, sizeof want, "%d", i);
        int fd = make_parquet(f->a, sql, NULL, 0);
        struct analytic_input in = {.schema = &schema_messages, .rows_fd = -1, .nfiles = 1, .file_fds = &fd};
        assert_string_equal(one(f->a, "SELECT msg_id FROM scan_0", &in, 1), want);
        assert_string_equal(one(f->a, "SELECT typeof(msg_id) FROM scan_0", &in, 1), "BIGINT");
        /* The files lack most columns: they are NULL. */
        assert_string_equal(one(f->a, "SELECT client_msg_id FROM scan_0", &in, 1), "NULL");
        close(fd);
    }
}

struct typed {
    const char *sql;
    enum value_type type;
    const char *text;
};

static const struct typed cases[] = {
    {"SELECT true", VALUE_BOOL, "true"},
    {"SELECT (-128)::TINYINT", VALUE_BIGINT, "-128"},
    {"SELECT 4294967295::UINTEGER", VALUE_BIGINT, "4294967295"},
    {"SELECT 9223372036854775807", VALUE_BIGINT, "\"9223372036854775807\""},
    {"SELECT -9223372036854775808", VALUE_BIGINT, "\"-9223372036854775808\""},
    {"SELECT 18446744073709551615::UBIGINT", VALUE_HUGEINT, "18446744073709551615"},
    {"SELECT sum(x) FROM (VALUES (9223372036854775807), (9223372036854775807)) t(x)", VALUE_HUGEINT,
        "18446744073709551614"},
    {"SELECT '-170141183460469231731687303715884105728'::HUGEINT", VALUE_HUGEINT,
        "-170141183460469231731687303715884105728"},
    {"SELECT '340282366920938463463374607431768211455'::UHUGEINT", VALUE_HUGEINT,
        "340282366920938463463374607431768211455"},
    {"SELECT 0.1::FLOAT", VALUE_DOUBLE, "0.1"},
    {"SELECT 1e300::DOUBLE", VALUE_DOUBLE, "1e+300"},
    {"SELECT 'nan'::DOUBLE", VALUE_DOUBLE, "\"NaN\""},
    {"SELECT '-infinity'::DOUBLE", VALUE_DOUBLE, "\"-Infinity\""},
    {"SELECT (-0.05)::DECIMAL(4,2)", VALUE_DECIMAL, "-0.05"},
    {"SELECT 12345678901234567890.123456789::DECIMAL(38,9)", VALUE_DECIMAL, "12345678901234567890.123456789"},
    {"SELECT 7::DECIMAL(18,0)", VALUE_DECIMAL, "7"},
    {"SELECT 'h\xc3\xa9\xf0\x9f\x98\x80'", VALUE_TEXT, "h\xc3\xa9\xf0\x9f\x98\x80"},
    {"SELECT ''", VALUE_TEXT, ""},
    {"SELECT '{\"a\": 1}'::JSON", VALUE_JSON, "{\"a\": 1}"},
    {"SELECT '\\x00\\xFF'::BLOB", VALUE_BLOB, NULL},
    {"SELECT TIMESTAMP '2025-10-13 12:00:00.5'", VALUE_TIMESTAMP, "\"2025-10-13T12:00:00.500000Z\""},
    {"SELECT TIMESTAMPTZ '2025-10-13 12:00:00+02'", VALUE_TIMESTAMPTZ, "\"2025-10-13T10:00:00.000000Z\""},
    {"SELECT '1969-12-31 23:59:59.9999999'::TIMESTAMP_NS", VALUE_TIMESTAMP,
        "\"1969-12-31T23:59:59.999999Z\""},
    {"SELECT '2025-10-13 12:00:00'::TIMESTAMP_S", VALUE_TIMESTAMP, "\"2025-10-13T12:00:00.000000Z\""},
    {"SELECT DATE '2024-02-29'", VALUE_DATE, "2024-02-29"},
    {"SELECT DATE '0044-03-15 (BC)'", VALUE_DATE, "0044-03-15 BC"},
    {"SELECT 'infinity'::DATE", VALUE_DATE, "infinity"},
    {"SELECT TIME '01:02:03.040'", VALUE_TIME, "01:02:03.04"},
    {"SELECT TIMETZ '01:02:03-05:30'", VALUE_TIME, "01:02:03-05:30"},
    {"SELECT INTERVAL '14 months 3 days 4 hours 5.5 seconds'", VALUE_INTERVAL,
        "1 year 2 mons 3 days 04:00:05.5"},
    {"SELECT to_days(-1) + INTERVAL '1 hour'", VALUE_INTERVAL, "-1 days +01:00:00"},
    {"SELECT INTERVAL '0 days'", VALUE_INTERVAL, "00:00:00"},
    {"SELECT '12345678-9ABC-def0-8123-456789abcdef'::UUID", VALUE_UUID,
        "12345678-9abc-def0-8123-456789abcdef"},
    {"SELECT 'b'::ENUM('a', 'b')", VALUE_TEXT, "b"},
    {"SELECT '0101'::BIT", VALUE_TEXT, "0101"},
    {"SELECT [1, NULL, 3]", VALUE_LIST, "[1,null,3]"},
    {"SELECT [['a\"b'], []]", VALUE_LIST, "[[\"a\\\"b\"],[]]"},
    {"SELECT {'a': 1, 'b': {'c': 'x'}, 'd': '[1]'::JSON}", VALUE_LIST,
        "{\"a\":1,\"b\":{\"c\":\"x\"},\"d\":[1]}"},
    {"SELECT map {'k': 1, 'l': NULL}", VALUE_LIST, "{\"k\":1,\"l\":null}"},
    {"SELECT map {1: 'x'}", VALUE_LIST, "{\"1\":\"x\"}"},
    {"SELECT array_value(1, 2)", VALUE_LIST, "[1,2]"},
    {"SELECT (1, 'x')", VALUE_LIST, "[1,\"x\"]"},
    {"SELECT union_value(n := 5)", VALUE_LIST, "5"},
    {"SELECT list(x ORDER BY x) FROM (VALUES (DATE '2025-01-02'), (DATE '2025-01-01')) t(x)", VALUE_LIST,
        "[\"2025-01-01\",\"2025-01-02\"]"},
    /* DuckDB gives an untyped NULL its integer type. */
    {"SELECT NULL", VALUE_BIGINT, "NULL"},
    {"SELECT NULL::BIGINT", VALUE_BIGINT, "NULL"},
    {"SELECT 7 / 2", VALUE_BIGINT, "3"},
    {"SELECT string_agg(coalesce(x::TEXT, '-'), '' ORDER BY x) FROM (VALUES (2), (NULL), (1)) t(x)",
        VALUE_TEXT, "12-"},
};

static void types(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rowset rs;
        struct errctx ec;
        if (run_sql(f->a, "user_alice", cases[i].sql, NULL, 0, &rs, &ec) != ERR_OK)
            fail_msg("%s: %s %s", cases[i].sql, ec.message, ec.internal);
        if (rs.types[0] != cases[i].type)
            fail_msg("%s has type %s", cases[i].sql, value_type_name(rs.types[0]));
        struct value v = rowset_row(&rs, 0)[0];
        if (cases[i].type == VALUE_BLOB) {
            assert_int_equal(v.s.len, 2);
            assert_memory_equal(v.s.ptr, "\x00\xff", 2);
        }
        rowset_release(&rs);
        if (cases[i].text != NULL && strcmp(one(f->a, cases[i].sql, NULL, 0), cases[i].text) != 0)
            fail_msg("%s gave %s", cases[i].sql, one(f->a, cases[i].sql, NULL, 0));
    }
}

static void limits(void **state)
{
    struct fixture *f = *state;
    struct rowset rs;
    struct errctx ec;
    struct analytic_request rq = {.user_id = STR("user_alice"),
        .sql = STR("SELECT i FROM range(100000000000) t(i)"),
        .mode = ANALYTIC_ROWS,
        .rows_max = 5000,
        .timeout_ms = 60000};
    assert_int_equal(analytic_run(f->a, &rq, &rs, &ec), ERR_OK);
    assert_true(rs.truncated);
    assert_int_equal(rs.nrows, 5000);
    assert_int_equal(rowset_row(&rs, 4999)[0].i, 4999);
    rowset_release(&rs);
    rq.sql = STR("SELECT i FROM range(5000) t(i)");
    assert_int_equal(analytic_run(f->a, &rq, &rs, &ec), ERR_OK);
    assert_false(rs.truncated);
    assert_int_equal(rs.nrows, 5000);
    rowset_release(&rs);
    rq.rows_max = 0;
    rq.sql = STR("SELECT repeat('x', 1000) FROM range(10000)");
    assert_int_equal(analytic_run(f->a, &rq, &rs, &ec), ERR_TOO_LARGE);
    assert_string_equal(one(f->a, "SELECT 1", NULL, 0), "1");
}

struct wrong {
    const char *sql;
    enum err code;
    const char *message;
};

static const struct wrong wrongs[] = {
    {"SELECT nosuch FROM scan_0", ERR_UNDEFINED_COLUMN, "column \"nosuch\" does not exist"},
    {"SELECT scan_0.nosuch FROM scan_0", ERR_UNDEFINED_COLUMN, "column \"nosuch\" does not exist"},
    {"SELECT m.nosuch FROM scan_0 m", ERR_UNDEFINED_COLUMN, "column m.nosuch does not exist"},
    {"SELECT x.a FROM scan_0 m", ERR_UNDEFINED_TABLE, "missing FROM-clause entry for table \"x\""},
    {"SELECT nosuch(1)", ERR_UNDEFINED_FUNCTION, "function nosuch does not exist"},
    {"SELECT sum(content) FROM scan_0", ERR_UNDEFINED_FUNCTION, "function sum(text) does not exist"},
    {"SELECT * FROM nosuch", ERR_UNDEFINED_TABLE, "relation \"nosuch\" does not exist"},
    {"SELECT msg_id, count(*) FROM scan_0", ERR_SYNTAX,
        "column \"msg_id\" must appear in the GROUP BY clause or be used in an aggregate function"},
    {"SELECT 'x'::BIGINT", ERR_INVALID_VALUE, "invalid input syntax for type bigint: \"x\""},
    {"SELECT 9223372036854775807 + 1", ERR_INVALID_VALUE, "bigint out of range"},
    {"SELECT '2025-13-01'::TIMESTAMP", ERR_INVALID_VALUE,
        "date/time field value out of range: \"2025-13-01\""},
    {"SELECT 'soon'::TIMESTAMP", ERR_INVALID_VALUE, "invalid input syntax for type timestamp: \"soon\""},
    {"SELECT (SELECT i FROM range(2) t(i))", ERR_INVALID_VALUE,
        "more than one row returned by a subquery used as an expression"},
    {"SELECT json('{')", ERR_INVALID_VALUE, "invalid input syntax for type json"},
    {"SELECT a.msg_id, msg_id FROM scan_0 a, scan_0 b", ERR_UNDEFINED_COLUMN,
        "column reference \"msg_id\" is ambiguous"},
    {"SELECT [1] = 3", ERR_TYPE_MISMATCH, NULL},
    {"SELECT 1; SELECT 2", ERR_UNSUPPORTED, "one statement a request"},
    {"CREATE TABLE t (a INT)", ERR_UNSUPPORTED, "only queries can be run here"},
    {"COPY (SELECT 1) TO '/proc/self/fd/100'", ERR_UNSUPPORTED, "only queries can be run here"},
    {"SET threads = 4", ERR_UNSUPPORTED, "only queries can be run here"},
    {"SELECT * FROM read_text('/etc/hostname')", ERR_UNSUPPORTED, "this is not supported"},
    {"SELECT * FROM read_text('/proc/self/fd/3')", ERR_CORRUPT, "internal error"},
    {"SELECT * FROM read_csv('/proc/self/environ')", ERR_UNSUPPORTED, "this is not supported"},
};

static void errors(void **state)
{
    struct fixture *f = *state;
    struct analytic_input in = {.schema = &schema_messages, .rows_fd = -1};
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        struct rowset rs;
        struct errctx ec;
        enum err e = run_sql(f->a, "user_alice", wrongs[i].sql, &in, 1, &rs, &ec);
        if (e != wrongs[i].code || ec.code != e ||
            (wrongs[i].message != NULL && strcmp(ec.message, wrongs[i].message)))
            fail_msg("%s gave %s: %s (%s)", wrongs[i].sql, err_wire(e), ec.message, ec.internal);
        assert_null(strstr(ec.message, "scan_"));
        assert_null(strstr(ec.message, "/proc"));
    }
}

static void malformed_row_file(void **state)
{
    struct fixture *f = *state;
    struct row_file file;
    row_file_open(&file);
    row_file_messages(&file, 1, 20);
    struct rowset rs;
    struct errctx ec;
    /* Every cut within the last row, then every byte flipped: an error of ours or an answer, never a dead
     * worker. */
    size_t whole = file.bytes.len;
    for (size_t cut = 1; cut < 60; cut++) {
        file.bytes.len = whole - cut;
        struct analytic_input in = row_file_input(&file);
        assert_int_equal(
            run_sql(f->a, "user_alice", "SELECT count(content) FROM scan_0", &in, 1, &rs, &ec), ERR_CORRUPT);
        assert_string_equal(ec.message, "internal error");
        file.bytes.len = whole;
    }
    struct analytic_input in = row_file_input(&file);
    in.rows_bytes += 1;
    assert_int_equal(run_sql(f->a, "user_alice", "SELECT 1", &in, 1, &rs, &ec), ERR_CORRUPT);
    in.rows_bytes -= 1;
    for (size_t at = 0; at < 140 && at < whole; at++) {
        file.bytes.ptr[at] ^= 0x5a;
        in = row_file_input(&file);
        enum err e = run_sql(f->a, "user_alice", "SELECT * FROM scan_0", &in, 1, &rs, &ec);
        assert_true(e == ERR_OK || e == ERR_CORRUPT);
        if (e == ERR_OK)
            rowset_release(&rs);
        file.bytes.ptr[at] ^= 0x5a;
    }
    /* A file that is no Parquet is ours too. */
    int junk = os_memfd("junk");
    assert_int_equal(os_write_all(junk, "PAR1 this is not Parquet PAR1", 29), 0);
    struct analytic_input bad = {.schema = &schema_messages, .rows_fd = -1, .nfiles = 1, .file_fds = &junk};
    assert_int_equal(
        run_sql(f->a, "user_alice", "SELECT count(*) FROM scan_0", &bad, 1, &rs, &ec), ERR_CORRUPT);
    close(junk);
    row_file_close(&file);
}

/* Forks share the zygote's state; what must differ is chance. */
static void chance_differs(void **state)
{
    struct fixture *f = *state;
    char first[64];
    struct rowset rs;
    struct errctx ec;
    assert_int_equal(run_sql(f->a, "user_1", "SELECT uuid()::TEXT || random()", NULL, 0, &rs, &ec), ERR_OK);
    struct str s = rowset_row(&rs, 0)[0].s;
    snprintf(first, sizeof first, "%.*s", STR_FMT(s));
    rowset_release(&rs);
    assert_int_equal(run_sql(f->a, "user_2", "SELECT uuid()::TEXT || random()", NULL, 0, &rs, &ec), ERR_OK);
    assert_false(str_eq(rowset_row(&rs, 0)[0].s, str_c(first)));
    rowset_release(&rs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_only),
        cmocka_unit_test(no_rows_and_no_files),
        cmocka_unit_test(tombstones),
        cmocka_unit_test(parquet_and_mixed),
        cmocka_unit_test(next_statement_other_files),
        cmocka_unit_test(types),
        cmocka_unit_test(limits),
        cmocka_unit_test(errors),
        cmocka_unit_test(malformed_row_file),
        cmocka_unit_test(chance_differs),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
