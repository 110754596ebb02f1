#include "../test.h"
#include "sql/shape.h"

static const struct caller alice = {{"alice", 5}, ROLE_USER}, bob = {{"bob", 3}, ROLE_USER};
static const struct sql_limits limits = {.sql_bytes_max = 1 << 20, .now_us = 1};

static struct arena arena;

static enum err parse(struct sql_shapes *s, const char *sql, const struct value *params, int n,
    const struct caller *caller, struct stmt **ret)
{
    struct errctx ec = {0};
    return s != NULL ? sql_shapes_parse(s, &arena, str_c(sql), params, n, caller, &limits, ret, &ec)
                     : sql_parse(&arena, str_c(sql), params, n, caller, &limits, ret, &ec);
}

static void same_cells(const struct stmt *a, const struct stmt *b, const char *sql)
{
    assert_int_equal(a->nrows, b->nrows);
    assert_int_equal(a->ncolumns, b->ncolumns);
    assert_memory_equal(a->columns, b->columns, (size_t)a->ncolumns * sizeof *a->columns);
    assert_ptr_equal(a->target, b->target);
    assert_int_equal(a->target_is_append, b->target_is_append);
    assert_true(str_eq(a->target_owner, b->target_owner));
    assert_int_equal(a->returning.present, b->returning.present);
    assert_int_equal(a->returning.nout, b->returning.nout);
    for (int i = 0; i < a->returning.nout; i++) {
        assert_int_equal(a->returning.out_columns[i], b->returning.out_columns[i]);
        assert_true(str_eq(a->returning.out_names[i], b->returning.out_names[i]));
    }
    for (size_t i = 0; i < a->nrows * (size_t)a->ncolumns; i++) {
        const struct cell *x = &a->cells[i], *y = &b->cells[i];
        if (x->kind != y->kind || (x->kind == CELL_VALUE && (x->value.type != y->value.type ||
                                                                (x->value.type != VALUE_NULL &&
                                                                    value_cmp(x->value, y->value) != 0))))
            fail_msg("%s: cell %zu differs", sql, i);
    }
}

/* The first of a shape, then others of it: whatever the cache does, the statement is the gate's. */
static void answers_as_the_gate_does(void **state)
{
    (void)state;
    static const char *const families[][3] = {
        {"INSERT INTO messages (conversation_id, content) VALUES ('a', 'one')",
            "INSERT INTO messages (conversation_id, content) VALUES ('b', 'it''s ''quoted''')",
            "INSERT INTO messages (conversation_id, content) VALUES ('', '\xc3\xa9\\n -- no comment /* nor "
            "this */ $1')"},
        {"insert into conversations (conversation_id, from, content, metadata) values ('c', 'alice', 'x', "
         "null);",
            "insert into conversations (conversation_id, from, content, metadata) values ('d', 'bot', 'y', "
            "null);",
            NULL},
        {"INSERT INTO messages (conversation_id, content, timestamp) VALUES ('a', 'x', 17), ('b', 'y', "
         "DEFAULT)",
            "INSERT INTO messages (conversation_id, content, timestamp) VALUES ('a', 'z', 99), ('b', 'y', "
            "DEFAULT)",
            NULL},
        {"INSERT INTO messages (conversation_id, content) VALUES ('a', 'x') RETURNING msg_id, content AS c, "
         "_seq",
            "INSERT INTO messages (conversation_id, content) VALUES ('k', 'l') RETURNING msg_id, content AS "
            "c, _seq",
            NULL},
        {"INSERT INTO conversations (conversation_id, title) VALUES ('a', 'T')",
            "INSERT INTO conversations (conversation_id, title) VALUES ('b', 'U')", NULL},
    };
    struct sql_shapes *s = sql_shapes_new();
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        for (int i = 0; i < 3 && families[f][i] != NULL; i++) {
            struct stmt *cached = NULL, *plain = NULL;
            assert_int_equal(parse(s, families[f][i], NULL, 0, &alice, &cached), ERR_OK);
            assert_int_equal(parse(NULL, families[f][i], NULL, 0, &alice, &plain), ERR_OK);
            same_cells(cached, plain, families[f][i]);
        }
    }
    struct sql_shapes_stats stats;
    sql_shapes_stats(s, &stats);
    assert_int_equal(stats.hits, 6);
    sql_shapes_free(s);
}

static void parameters_are_put_in(void **state)
{
    (void)state;
    const char *sql =
        "INSERT INTO messages (conversation_id, content, metadata) VALUES ($2, $1, 'x'), ($1, $1, NULL)";
    const struct value one[] = {value_text(STR("p1")), value_text(STR("p2"))};
    const struct value two[] = {value_text(STR("q1")), value_text(STR("q2"))};
    const struct value null[] = {VALUE_OF_NULL, value_text(STR("q2"))};
    struct sql_shapes *s = sql_shapes_new();
    struct stmt *cached, *plain;
    const struct value *all[] = {one, two, null, one, null};
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(parse(s, sql, all[i], 2, &alice, &cached), ERR_OK);
        assert_int_equal(parse(NULL, sql, all[i], 2, &alice, &plain), ERR_OK);
        same_cells(cached, plain, sql);
    }
    struct sql_shapes_stats stats;
    sql_shapes_stats(s, &stats);
    assert_in_range(stats.hits, 1, 3);
    assert_int_equal(parse(s, sql, one, 1, &alice, &cached), ERR_INVALID_REQUEST);
    const struct value bad[] = {value_text(STR("\xff")), value_text(STR("q"))};
    assert_int_equal(parse(s, sql, bad, 2, &alice, &cached), ERR_INVALID_REQUEST);
    sql_shapes_free(s);
}

static void a_shape_serves_every_caller_with_their_own_table(void **state)
{
    (void)state;
    const char *bare = "INSERT INTO messages (conversation_id, content) VALUES ('a', 'x')";
    const char *named = "INSERT INTO alice.messages (conversation_id, content) VALUES ('a', 'x')";
    struct sql_shapes *s = sql_shapes_new();
    struct stmt *st;
    assert_int_equal(parse(s, bare, NULL, 0, &alice, &st), ERR_OK);
    assert_int_equal(parse(s, bare, NULL, 0, &bob, &st), ERR_OK);
    assert_str(st->target_owner, "bob");
    assert_int_equal(parse(s, named, NULL, 0, &alice, &st), ERR_OK);
    assert_int_equal(parse(s, named, NULL, 0, &bob, &st), ERR_FORBIDDEN);
    sql_shapes_free(s);
}

static void what_is_not_plain_is_always_parsed(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "INSERT INTO messages (conversation_id, content) VALUES ('a', E'x\\n')",
        "INSERT INTO messages (conversation_id, content) VALUES ('a', 'x' || 'y')",
        "INSERT INTO messages (conversation_id, content) VALUES ('a', $$x$$)",
        "INSERT INTO messages (conversation_id, content) VALUES ('a', 'x') -- '",
        "INSERT INTO messages (conversation_id, content) VALUES ('a', 'x'\n'y')",
        "INSERT INTO messages (conversation_id, content) VALUES ('a', 'x') RETURNING 'k'",
        "INSERT INTO messages (conversation_id, content) VALUES ('a', 'x') RETURNING now()",
        "INSERT INTO messages (conversation_id, content) SELECT 'a', 'b'",
        "INSERT INTO \"messages\" (conversation_id, content) VALUES ('a', 'x')",
        "INSERT INTO messages (conversation_id, timestamp, content) VALUES ('a', now(), 'x')",
        "INSERT INTO conversations (conversation_id, from) VALUES ('a', 'alice')",
        "SELECT 'a' FROM messages",
    };
    struct sql_shapes *s = sql_shapes_new();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct stmt *st;
        for (int twice = 0; twice < 2; twice++) {
            if (parse(s, texts[i], NULL, 0, &alice, &st) != ERR_OK)
                fail_msg("refused: %s", texts[i]);
        }
    }
    struct sql_shapes_stats stats;
    sql_shapes_stats(s, &stats);
    assert_int_equal(stats.hits, 0);
    struct stmt *st;
    assert_int_equal(
        parse(s, "INSERT INTO messages (conversation_id) VALUES ('a', 'b')", NULL, 0, &alice, &st),
        ERR_SYNTAX);
    sql_shapes_free(s);
}

static int set_up(void **state)
{
    (void)state;
    arena_init(&arena, 64 << 20);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    arena_release(&arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_as_the_gate_does),
        cmocka_unit_test(parameters_are_put_in),
        cmocka_unit_test(a_shape_serves_every_caller_with_their_own_table),
        cmocka_unit_test(what_is_not_plain_is_always_parsed),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
