/* Prints one statement with the tables messages and conversations, without the gate. */
#ifndef KALAMDB_TESTS_SQL_PRINT_FIXTURE_H
#define KALAMDB_TESTS_SQL_PRINT_FIXTURE_H

#include "../test.h"
#include "sql/print.h"
#include <pg_query.h>

struct printed {
    struct arena arena;
    struct buf out;
    struct errctx ec;
    enum err err;
    int scans;
};

static inline enum err fixture_table(void *ctx, const PgQuery__RangeVar *rv, struct print_table *ret)
{
    struct printed *t = ctx;
    const struct schema *s = catalog_table(str_c(rv->relname));
    if (s == NULL) {
        err_set(&t->ec, ERR_UNDEFINED_TABLE, "relation \"%s\" does not exist", rv->relname);
        t->ec.position = rv->location + 1;
        return ERR_UNDEFINED_TABLE;
    }
    *ret = (struct print_table){t->scans++, s};
    return ERR_OK;
}

static inline bool fixture_same_table(void *ctx, const PgQuery__ColumnRef *c, const PgQuery__RangeVar *rv)
{
    (void)ctx;
    return rv->schemaname != NULL && strcmp(c->fields[0]->string->sval, rv->schemaname) == 0;
}

/* Parses and prints; the text is in t->out. Release with printed_release. */
static inline void print_params(struct printed *t, const char *sql, const struct value *params, int nparams)
{
    *t = (struct printed){.out = BUF_INIT(1u << 22)};
    arena_init(&t->arena, 1u << 26);
    errctx_clear(&t->ec);
    PgQueryProtobufParseResult r = pg_query_parse_protobuf(sql);
    if (r.error != NULL)
        fail_msg("%s: %s", sql, r.error->message);
    PgQuery__ParseResult *tree =
        pg_query__parse_result__unpack(NULL, r.parse_tree.len, (const uint8_t *)r.parse_tree.data);
    pg_query_free_protobuf_parse_result(r);
    assert_non_null(tree);
    struct printer p = {.arena = &t->arena,
        .out = &t->out,
        .ec = &t->ec,
        .params = params,
        .nparams = nparams,
        .now_us = INT64_C(1760356800000000),
        .table = fixture_table,
        .same_table = fixture_same_table,
        .ctx = t,
        .user_id = STR("user_alice")};
    t->err = print_select(&p, tree->stmts[0]->stmt->select_stmt);
    pg_query__parse_result__free_unpacked(tree, NULL);
}

static inline void printed_release(struct printed *t)
{
    buf_release(&t->out);
    arena_release(&t->arena);
}

static inline void expect_text(const char *sql, const char *want)
{
    struct printed t;
    print_params(&t, sql, NULL, 0);
    if (t.err != ERR_OK)
        fail_msg("%s: %s", sql, t.ec.message);
    assert_str(buf_view(&t.out), want);
    printed_release(&t);
}

/* position: 1-based byte of `at` in sql; NULL: no position is expected. */
static inline void expect_error(const char *sql, enum err code, const char *message, const char *at)
{
    struct printed t;
    print_params(&t, sql, NULL, 0);
    if (t.err != code)
        fail_msg("%s: %s \"%s\" is not %s", sql, err_wire(t.err), t.ec.message, err_wire(code));
    assert_string_equal(t.ec.message, message);
    assert_int_equal(t.ec.position, at == NULL ? 0 : (int)(strstr(sql, at) - sql) + 1);
    printed_release(&t);
}

#endif
