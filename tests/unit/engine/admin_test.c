/* kalamdb_admin.h, results by value, and what a handle refuses. */
#include "engine_fixture.h"
#include <stdio.h>

static struct engine e;

struct seen {
    int samples, families;
    const char *last;
    double inserted, reads, hot, bucket, bucket_inf, count;
};

static void sample(void *arg, const struct kalamdb_metric *m)
{
    struct seen *s = arg;
    s->samples++;
    assert_memory_equal(m->name, "kalamdb_", 8);
    assert_true(m->help[0] != 0);
    assert_true(m->value >= 0);
    /* OpenMetrics wants the samples of a family together. */
    if (s->last == NULL || strcmp(s->last, m->name) != 0)
        s->families++;
    s->last = m->name;
    if (strcmp(m->kind, "counter") == 0)
        assert_string_equal(m->suffix, "_total");
    else if (strcmp(m->kind, "gauge") == 0)
        assert_string_equal(m->suffix, "");
    if (strcmp(m->name, "kalamdb_rows_changed") == 0 && strcmp(m->labels, "op=\"insert\"") == 0)
        s->inserted = m->value;
    if (strcmp(m->name, "kalamdb_reads") == 0 && strcmp(m->labels, "path=\"fast\"") == 0)
        s->reads = m->value;
    if (strcmp(m->name, "kalamdb_rows") == 0 && strcmp(m->labels, "tier=\"hot\"") == 0)
        s->hot = m->value;
    if (strcmp(m->name, "kalamdb_statement_seconds") == 0 && strstr(m->labels, "kind=\"write\"") != NULL) {
        if (strcmp(m->suffix, "_bucket") == 0) {
            assert_true(m->value >= s->bucket); /* cumulative */
            s->bucket = m->value;
            if (strstr(m->labels, "le=\"+Inf\"") != NULL)
                s->bucket_inf = m->value;
        } else if (strcmp(m->suffix, "_count") == 0) {
            s->count = m->value;
        }
    }
}

static void metrics(void **state)
{
    (void)state;
    engine_open(&e);
    for (int i = 0; i < 3; i++)
        expect_code(&e, "alice", "INSERT INTO messages (conversation_id, content) VALUES ('c', 'x')", "OK");
    expect_code(&e, "alice", "SELECT * FROM messages", "OK");
    struct seen s = {0};
    kalamdb_metrics(e.db, sample, &s);
    assert_true(s.inserted == 3);
    assert_true(s.hot == 3);
    assert_true(s.reads == 1);
    assert_true(s.count == 3 && s.bucket_inf == 3);
    assert_true(s.families > 25 && s.samples > s.families);
    struct kalamdb_error error;
    assert_int_equal(kalamdb_writable(e.db, &error), KALAMDB_OK);
    engine_close(&e);
}

static void codes_and_names(void **state)
{
    (void)state;
    assert_string_equal(kalamdb_code_name(KALAMDB_OK), "OK");
    assert_string_equal(kalamdb_code_name(ERR_CONFLICT), "CONFLICT");
    assert_int_equal(kalamdb_code_status(ERR_CONFLICT), 409);
    /* Codes of the inside come out as INTERNAL, with the text for the log apart. */
    struct errctx ec;
    struct kalamdb_error error;
    err_internal(&ec, ERR_IO, "fsync of /secret/path: %s", "EIO");
    assert_int_equal(engine_error(&error, &ec), ERR_INTERNAL);
    assert_null(strstr(error.message, "secret"));
    assert_non_null(strstr(error.internal, "/secret/path"));
    assert_true(kalamdb_user_id_valid((struct kalamdb_str){"alice", 5}));
    assert_false(kalamdb_user_id_valid((struct kalamdb_str){"tool:x", 6}));
}

static void refused(void **state)
{
    (void)state;
    struct kalamdb_options options;
    struct kalamdb_error error;
    struct kalamdb *db = NULL;
    kalamdb_options_default(&options);
    options.workers = 0;
    assert_int_equal(kalamdb_open(&options, &db, &error), ERR_INVALID_REQUEST);
    assert_string_equal(error.message, "option workers is out of range");
    assert_null(db);
    engine_open(&e);
    const char *got = run(&e, "assistant", "SELECT 1");
    assert_memory_equal(got, "INVALID_REQUEST:", 16);
    got = run(&e, "alice", "");
    assert_true(got[0] != '{');
    struct kalamdb_statement st = {.caller = {.user_id = {"alice", 5}}, .sql = {"SELECT '\0'", 10}};
    assert_int_equal(kalamdb_exec(e.db, &st, NULL, &error), ERR_INVALID_REQUEST);
    st.sql = (struct kalamdb_str){"SELECT '\xff'", 10};
    assert_int_equal(kalamdb_exec(e.db, &st, NULL, &error), ERR_INVALID_REQUEST);
    expect_code(&e, "alice", "SELECT 1; SELECT 2", "UNSUPPORTED");
    struct kalamdb_error position;
    st.sql = (struct kalamdb_str){"SELECT nope FROM messages", 25};
    assert_int_equal(kalamdb_exec(e.db, &st, NULL, &position), ERR_UNDEFINED_COLUMN);
    assert_int_equal(position.position, 8);
    engine_close(&e);
}

static void values(void **state)
{
    (void)state;
    engine_open(&e);
    expect_code(&e, "service:s",
        "INSERT INTO alice.messages (msg_id, conversation_id, content, timestamp) VALUES "
        "(9007199254740993 - 9007199254730000, 'c', 'x', 1500000000000000)",
        "OK");
    struct kalamdb_result *r;
    struct kalamdb_error error;
    struct kalamdb_value v;
    const char *sql =
        "SELECT msg_id, content, timestamp, metadata, 1.5::double precision, true, 9007199254740993, "
        "1.50::numeric FROM messages";
    struct kalamdb_statement st = {.caller = {.user_id = {"alice", 5}}, .sql = {sql, strlen(sql)}};
    assert_int_equal(kalamdb_exec(e.db, &st, &r, &error), KALAMDB_OK);
    assert_int_equal(kalamdb_result_columns(r), 8);
    assert_int_equal(kalamdb_result_rows(r), 1);
    assert_string_equal(kalamdb_result_column_type(r, 2), "TIMESTAMPTZ");
    kalamdb_result_value(r, 0, 0, &v);
    assert_int_equal(v.type, KALAMDB_BIGINT);
    assert_int_equal(v.i, 10993);
    kalamdb_result_value(r, 0, 1, &v);
    assert_str(str_n(v.s.ptr, v.s.len), "x");
    kalamdb_result_value(r, 0, 2, &v);
    assert_int_equal(v.type, KALAMDB_TIMESTAMPTZ);
    assert_int_equal(v.i, INT64_C(1500000000000000));
    kalamdb_result_value(r, 0, 3, &v);
    assert_int_equal(v.type, KALAMDB_NULL);
    kalamdb_result_value(r, 0, 4, &v);
    assert_int_equal(v.type, KALAMDB_DOUBLE);
    assert_true(v.d == 1.5);
    kalamdb_result_value(r, 0, 5, &v);
    assert_int_equal(v.type, KALAMDB_BOOL);
    assert_int_equal(v.i, 1);
    kalamdb_result_value(r, 0, 7, &v);
    assert_int_equal(v.type, KALAMDB_DECIMAL);
    /* Outside: nothing, not a crash. */
    kalamdb_result_value(r, 1, 0, &v);
    assert_int_equal(v.type, KALAMDB_NULL);
    kalamdb_result_value(r, 0, 8, &v);
    assert_int_equal(v.type, KALAMDB_NULL);
    kalamdb_result_free(r);
    /* In JSON, what a double cannot hold is a string. */
    expect(&e, "alice", "SELECT 9007199254740993 AS a, 9007199254740991 AS b",
        "{\"columns\":[\"a\",\"b\"],\"rows\":[[\"9007199254740993\",9007199254740991]],\"rowCount\":1}");
    engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metrics),
        cmocka_unit_test(codes_and_names),
        cmocka_unit_test(refused),
        cmocka_unit_test(values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
