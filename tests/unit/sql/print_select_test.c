#include "print_fixture.h"

static void names_are_resolved_and_replaced(void **state)
{
    (void)state;
    expect_text("SELECT m.content AS c FROM messages m WHERE m.msg_id = 5",
        "SELECT \"t0:m\".\"content\" AS \"c\" FROM scan_0 AS \"t0:m\" WHERE (\"t0:m\".\"msg_id\" = 5)");
    expect_text("SELECT alice.messages.msg_id FROM alice.messages",
        "SELECT \"t0:messages\".\"msg_id\" AS \"msg_id\" FROM scan_0 AS \"t0:messages\"");
    expect_text("SELECT q.x FROM (SELECT msg_id AS x FROM messages) q",
        "SELECT \"t2:q\".\"o1:x\" AS \"x\" FROM (SELECT \"t0:messages\".\"msg_id\" AS \"o1:x\" FROM scan_0 "
        "AS "
        "\"t0:messages\") AS \"t2:q\"");
}

static void star_leaves_hidden_columns_out(void **state)
{
    (void)state;
    struct printed t;
    print_params(&t, "SELECT * FROM messages", NULL, 0);
    assert_int_equal(t.err, ERR_OK);
    buf_u8(&t.out, 0);
    assert_non_null(strstr(t.out.ptr, "\"client_msg_id\""));
    assert_null(strstr(t.out.ptr, "_seq\""));
    printed_release(&t);
    expect_text("SELECT _seq FROM messages",
        "SELECT \"t0:messages\".\"_seq\" AS \"_seq\" FROM scan_0 AS \"t0:messages\"");
}

static void a_cte_shadows_a_table_but_not_with_a_schema(void **state)
{
    (void)state;
    struct printed t;
    print_params(&t, "WITH messages AS (SELECT 1 AS one) SELECT one FROM messages", NULL, 0);
    assert_int_equal(t.err, ERR_OK);
    assert_int_equal(t.scans, 0);
    printed_release(&t);
    print_params(&t, "WITH messages AS (SELECT 1 AS one) SELECT msg_id FROM alice.messages", NULL, 0);
    assert_int_equal(t.err, ERR_OK);
    assert_int_equal(t.scans, 1);
    printed_release(&t);
    /* Not visible to itself without RECURSIVE. */
    print_params(&t, "WITH messages AS (SELECT msg_id FROM messages) SELECT msg_id FROM messages", NULL, 0);
    assert_int_equal(t.err, ERR_OK);
    assert_int_equal(t.scans, 1);
    printed_release(&t);
}

static void order_is_explicit(void **state)
{
    (void)state;
    expect_text("SELECT msg_id FROM messages ORDER BY msg_id DESC, content NULLS FIRST",
        "SELECT \"t0:messages\".\"msg_id\" AS \"msg_id\" FROM scan_0 AS \"t0:messages\" ORDER BY 1 DESC "
        "NULLS FIRST, "
        "\"t0:messages\".\"content\" ASC NULLS FIRST");
}

static void a_limited_subquery_takes_rows_by_key(void **state)
{
    (void)state;
    expect_text("SELECT count(*) FROM (SELECT 1 FROM messages LIMIT 7) s",
        "SELECT count(*) AS \"count\" FROM (SELECT 1 AS \"o1:?column?\" FROM scan_0 AS \"t0:messages\" ORDER "
        "BY "
        "\"t0:messages\".\"msg_id\" LIMIT CAST(7 AS BIGINT)) AS \"t2:s\"");
}

static void using_merges_columns(void **state)
{
    (void)state;
    expect_text("SELECT conversation_id FROM conversations LEFT JOIN messages USING (conversation_id)",
        "SELECT \"t0:conversations\".\"conversation_id\" AS \"conversation_id\" FROM (scan_0 AS "
        "\"t0:conversations\" "
        "LEFT JOIN scan_1 AS \"t1:messages\" ON ((\"t0:conversations\".\"conversation_id\" = "
        "\"t1:messages\".\"conversation_id\")))");
    expect_text("SELECT conversation_id FROM conversations FULL JOIN messages USING (conversation_id)",
        "SELECT COALESCE(\"t0:conversations\".\"conversation_id\", \"t1:messages\".\"conversation_id\") AS "
        "\"conversation_id\" FROM (scan_0 AS \"t0:conversations\" FULL JOIN scan_1 AS \"t1:messages\" ON "
        "((\"t0:conversations\".\"conversation_id\" = \"t1:messages\".\"conversation_id\")))");
}

static void a_key_in_group_by_brings_its_row(void **state)
{
    (void)state;
    struct printed t;
    print_params(&t, "SELECT title, count(*) FROM conversations GROUP BY conversation_id", NULL, 0);
    assert_int_equal(t.err, ERR_OK);
    buf_u8(&t.out, 0);
    assert_non_null(strstr(t.out.ptr, "GROUP BY \"t0:conversations\".\"conversation_id\", "));
    assert_non_null(strstr(strstr(t.out.ptr, "GROUP BY"), "\"title\""));
    printed_release(&t);
}

static void named_windows_are_put_in_place(void **state)
{
    (void)state;
    expect_text("SELECT rank() OVER w FROM messages WINDOW w AS (PARTITION BY content ORDER BY msg_id)",
        "SELECT \"rank\"() OVER (PARTITION BY \"t0:messages\".\"content\" ORDER BY "
        "\"t0:messages\".\"msg_id\" ASC "
        "NULLS LAST) AS \"rank\" FROM scan_0 AS \"t0:messages\"");
}

static void output_names_are_postgres(void **state)
{
    (void)state;
    expect_text("SELECT 1, 'a'::text, count(*), CASE WHEN true THEN 1 END, 1 + 1",
        "SELECT 1 AS \"?column?\", 'a' AS \"text\", count(*) AS \"count\", (CASE WHEN true THEN 1 END) AS "
        "\"case\", "
        "(1 + 1) AS \"?column?\"");
    expect_text("SELECT 1 AS a, 2 AS a", "SELECT 1 AS \"a\", 2 AS \"a\"");
}

static void unknown_names_have_places(void **state)
{
    (void)state;
    expect_error("SELECT nope FROM messages", ERR_UNDEFINED_COLUMN, "column \"nope\" does not exist", "nope");
    expect_error(
        "SELECT m.nope FROM messages m", ERR_UNDEFINED_COLUMN, "column m.nope does not exist", "m.nope");
    expect_error("SELECT 1, x.a FROM messages m", ERR_UNDEFINED_TABLE,
        "missing FROM-clause entry for table \"x\"", "x.a");
    expect_error("SELECT msg_id FROM messages a, messages b", ERR_UNDEFINED_COLUMN,
        "column reference \"msg_id\" is ambiguous", "msg_id");
    expect_error("SELECT bob.messages.msg_id FROM alice.messages", ERR_UNDEFINED_TABLE,
        "missing FROM-clause entry for table \"messages\"", "bob");
    /* A subquery in FROM does not see its siblings, nor a join's ON other tables. */
    expect_error("SELECT 1 FROM messages a, (SELECT a.msg_id) b", ERR_UNDEFINED_TABLE,
        "missing FROM-clause entry for table \"a\"", "a.msg_id");
    expect_error("SELECT 1 FROM messages a, messages b JOIN messages c ON a.msg_id = c.msg_id",
        ERR_UNDEFINED_TABLE, "missing FROM-clause entry for table \"a\"", "a.msg_id");
}

static void what_reads_only_is_all_there_is(void **state)
{
    (void)state;
    expect_error("SELECT * FROM messages FOR UPDATE", ERR_UNSUPPORTED,
        "FOR UPDATE or FOR SHARE is not supported", NULL);
    expect_error("SELECT 1 INTO x", ERR_UNSUPPORTED, "SELECT INTO is not supported", NULL);
    expect_error("WITH d AS (DELETE FROM messages RETURNING *) SELECT * FROM d", ERR_UNSUPPORTED,
        "a data-modifying statement inside a query is not supported", NULL);
    expect_error("SELECT * FROM messages TABLESAMPLE SYSTEM (1)", ERR_UNSUPPORTED,
        "TABLESAMPLE is not supported", "SYSTEM");
    expect_error("SELECT FROM messages", ERR_UNSUPPORTED, "an empty select list is not supported", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_resolved_and_replaced),
        cmocka_unit_test(star_leaves_hidden_columns_out),
        cmocka_unit_test(a_cte_shadows_a_table_but_not_with_a_schema),
        cmocka_unit_test(order_is_explicit),
        cmocka_unit_test(a_limited_subquery_takes_rows_by_key),
        cmocka_unit_test(using_merges_columns),
        cmocka_unit_test(a_key_in_group_by_brings_its_row),
        cmocka_unit_test(named_windows_are_put_in_place),
        cmocka_unit_test(output_names_are_postgres),
        cmocka_unit_test(unknown_names_have_places),
        cmocka_unit_test(what_reads_only_is_all_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
