/* Table references: whose table, which table, may the caller. Also what the tokens alone decide. */
#include "sql/gate.h"
#include <string.h>

enum err gate_memory(struct gate *g)
{
    return err_set(g->ec, ERR_TOO_LARGE, "the statement needs too much memory");
}

/* ---- user ids -------------------------------------------------------------------------------- */

/* The schema name from the client's bytes: the parser's own copy is cut at 63 of them. */
static enum err schema_name(struct gate *g, const char *parsed, int location, struct str *ret)
{
    *ret = str_c(parsed);
    /* It cuts on a character, so that anything shorter than this was not cut. */
    if (ret->len < IDENTIFIER_BYTES_MAX - 3)
        return ERR_OK;
    int start = from_map_back(&g->map, location);
    const struct token *t = tokens_at(&g->tokens, start);
    if (t == NULL)
        return err_internal(g->ec, ERR_INTERNAL, "no token at a schema name");
    if (token_identifier_len(g->sql, t) <= IDENTIFIER_BYTES_MAX)
        return ERR_OK;
    if (!token_identifier(g->tmp, g->sql, t, ret))
        return gate_memory(g);
    if (!str_starts_with(*ret, str_c(parsed)))
        return err_internal(g->ec, ERR_INTERNAL, "another token at a schema name");
    for (size_t i = 0; i < g->nlong; i++) {
        if (g->long_starts[i] == start)
            g->long_used[i] = true;
    }
    return ERR_OK;
}

/* Contract section 1: names that no user can have. */
static bool reserved(struct str id)
{
    static const char *const senders[] = {"ai", "assistant", "system", "tool", "bot"};
    if (str_eq(id, STR("shared")) || str_eq(id, STR("deleted_user")))
        return true;
    size_t colon = str_find(id, ':');
    for (size_t i = 0; i < sizeof senders / sizeof *senders; i++) {
        if (str_eq(str_n(id.ptr, colon), str_c(senders[i])))
            return true;
    }
    return false;
}

static bool possible_user(struct str id)
{
    if (id.len == 0 || id.len > 255 || reserved(id))
        return false;
    for (size_t i = 0; i < id.len; i++) {
        unsigned char c = (unsigned char)id.ptr[i];
        if (c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)id.ptr[i + 1] < 0xa0))
            return false;
    }
    return true;
}

static enum err undefined_table(struct gate *g, const PgQuery__RangeVar *rv, struct str schema)
{
    if (schema.ptr == NULL)
        return gate_fail(g, ERR_UNDEFINED_TABLE, rv->location, "relation \"%s\" does not exist", rv->relname);
    return gate_fail(g, ERR_UNDEFINED_TABLE, rv->location, "relation \"%.*s.%s\" does not exist",
        STR_FMT(schema), rv->relname);
}

static enum err authorise(struct gate *g, const PgQuery__RangeVar *rv, struct str schema)
{
    if (str_eq(schema, g->caller->user_id))
        return ERR_OK;
    bool system = str_eq(schema, STR("system"));
    if (g->caller->role == ROLE_USER || (system && g->caller->role != ROLE_ADMIN))
        return gate_fail(
            g, ERR_FORBIDDEN, rv->location, "permission denied for schema %.*s", STR_FMT(schema));
    if (!possible_user(schema))
        return undefined_table(g, rv, schema);
    return ERR_OK;
}

enum err gate_table(
    struct gate *g, const PgQuery__RangeVar *rv, struct str *ret_owner, const struct schema **ret_schema)
{
    if (rv->catalogname != NULL && rv->catalogname[0] != '\0')
        return gate_fail(g, ERR_UNSUPPORTED, rv->location,
            "cross-database references are not implemented: \"%s.%s.%s\"", rv->catalogname, rv->schemaname,
            rv->relname);
    struct str schema = STR_NULL;
    if (rv->schemaname != NULL && rv->schemaname[0] != '\0') {
        enum err e = schema_name(g, rv->schemaname, rv->location, &schema);
        if (e == ERR_OK)
            e = authorise(g, rv, schema);
        if (e != ERR_OK)
            return e;
    }
    const struct schema *table = catalog_table(str_c(rv->relname));
    if (table == NULL)
        return undefined_table(g, rv, schema);
    *ret_owner = arena_str(g->arena, schema.ptr != NULL ? schema : g->caller->user_id);
    if (ret_owner->ptr == NULL)
        return gate_memory(g);
    *ret_schema = table;
    return ERR_OK;
}

static enum walk visit_table(const PgQuery__RangeVar *rv, void *arg)
{
    struct gate *g = arg;
    struct str schema;
    if (rv->schemaname == NULL || rv->schemaname[0] == '\0' || rv->catalogname[0] != '\0')
        return WALK_SKIP;
    bool refused = schema_name(g, rv->schemaname, rv->location, &schema) != ERR_OK ||
                   authorise(g, rv, schema) == ERR_FORBIDDEN;
    return refused ? WALK_FOUND : WALK_SKIP;
}

enum err gate_authorise(struct gate *g, const PgQuery__Node *statement)
{
    if (tree_any_table(statement, visit_table, g))
        return g->ec->code;
    errctx_clear(g->ec);
    return ERR_OK;
}

/* ---- printing -------------------------------------------------------------------------------- */

static enum err number_table(void *ctx, const PgQuery__RangeVar *rv, struct print_table *ret)
{
    struct gate *g = ctx;
    struct stmt_table t = {.bounds = bounds_of(g, rv)};
    enum err e = gate_table(g, rv, &t.owner, &t.schema);
    if (e != ERR_OK)
        return e;
    if (g->in_returning) {
        if (rv != g->target)
            return gate_fail(g, ERR_UNSUPPORTED, rv->location, "RETURNING cannot read other tables");
        *ret = (struct print_table){0, g->stmt->target};
        return ERR_OK;
    }
    struct stmt *s = g->stmt;
    if (rv == g->target) {
        s->tables[0].bounds = t.bounds;
        *ret = (struct print_table){0, t.schema};
        return ERR_OK;
    }
    if (s->ntables == g->cap_tables) {
        int cap = g->cap_tables == 0 ? 4 : g->cap_tables * 2;
        struct stmt_table *grown = arena_array(g->arena, (size_t)cap, sizeof *grown);
        if (grown == NULL)
            return gate_memory(g);
        if (s->ntables > 0)
            memcpy(grown, s->tables, (size_t)s->ntables * sizeof *grown);
        s->tables = grown;
        g->cap_tables = cap;
    }
    s->tables[s->ntables] = t;
    *ret = (struct print_table){s->ntables++, t.schema};
    return ERR_OK;
}

static void enter_select(void *ctx, const PgQuery__SelectStmt *select)
{
    bounds_enter(ctx, select);
}

/* schema.table.column: does its schema name the owner of rv? */
static bool same_table(void *ctx, const PgQuery__ColumnRef *column, const PgQuery__RangeVar *rv)
{
    struct gate *g = ctx;
    struct str schema, owner;
    const struct schema *table;
    struct errctx *outer = g->ec, mine;
    errctx_clear(&mine);
    g->ec = &mine;
    bool same = column->n_fields >= 3 &&
                schema_name(g, tree_text(column->fields[0]).ptr, column->location, &schema) == ERR_OK &&
                gate_table(g, rv, &owner, &table) == ERR_OK && str_eq(schema, owner) &&
                str_eq(tree_text(column->fields[1]), str_c(rv->relname));
    g->ec = outer;
    return same;
}

enum err gate_print(struct gate *g, const PgQuery__SelectStmt *select, struct str *ret_sql, int *ret_noutputs)
{
    struct buf out = BUF_INIT(g->limits->sql_bytes_max * 4 + (1u << 20));
    struct printer p = {.arena = g->tmp,
        .out = &out,
        .ec = g->ec,
        .params = g->params,
        .nparams = g->nparams,
        .now_us = g->limits->now_us,
        .enter = enter_select,
        .table = number_table,
        .same_table = same_table,
        .ctx = g,
        .user_id = g->caller->user_id,
        .row_by_row = g->in_returning                ? "RETURNING"
                      : g->stmt->kind == STMT_UPDATE ? "UPDATE"
                                                     : NULL};
    enum err e = print_select(&p, select);
    if (e == ERR_OK) {
        struct str sql = out.failed ? STR_NULL : arena_str(g->arena, buf_view(&out));
        if (sql.ptr == NULL)
            e = gate_memory(g);
        else
            *ret_sql = sql;
        if (ret_noutputs != NULL)
            *ret_noutputs = p.noutputs;
    }
    buf_release(&out);
    return e;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static enum err too_long(struct gate *g, int start, size_t len)
{
    enum err e = err_set(g->ec, ERR_SYNTAX, "identifier of %zu bytes is too long", len);
    err_detail(g->ec, "Identifiers have at most %d bytes.", IDENTIFIER_BYTES_MAX);
    gate_at(g, start);
    return e;
}

static enum err check_long_token(struct gate *g, size_t i)
{
    const struct token *t = &g->tokens.v[i];
    if ((t->kind != PG_QUERY__TOKEN__IDENT && t->kind != PG_QUERY__TOKEN__UIDENT))
        return ERR_OK;
    /* U&"…" may shrink or grow; its end is not the scanner's. */
    size_t len = token_identifier_len(g->sql, t);
    if (len <= IDENTIFIER_BYTES_MAX)
        return ERR_OK;
    bool qualifier = i + 1 < g->tokens.n && g->tokens.v[i + 1].kind == '.' &&
                     (i == 0 || g->tokens.v[i - 1].kind != '.') && t->kind == PG_QUERY__TOKEN__IDENT;
    if (!qualifier)
        return too_long(g, t->start, len);
    if (g->long_starts == NULL) {
        g->long_starts = arena_array(g->tmp, g->tokens.n, sizeof *g->long_starts);
        g->long_used = arena_array(g->tmp, g->tokens.n, sizeof *g->long_used);
        if (g->long_starts == NULL || g->long_used == NULL)
            return gate_memory(g);
    }
    g->long_starts[g->nlong++] = t->start;
    return ERR_OK;
}

static enum err check_param_token(struct gate *g, const struct token *t, int64_t *max)
{
    int64_t number;
    struct str digits = str_n(g->sql.ptr + t->start + 1, (size_t)(t->end - t->start - 1));
    if (!str_to_i64(digits, &number) || number < 1 || number > g->nparams) {
        enum err e = err_set(g->ec, ERR_INVALID_REQUEST, "there is no parameter $%.*s", STR_FMT(digits));
        gate_at(g, t->start);
        return e;
    }
    if (number > *max)
        *max = number;
    return ERR_OK;
}

enum err gate_check_tokens(struct gate *g)
{
    if (g->tokens.n > SQL_TOKENS_MAX || tokens_depth(&g->tokens) > SQL_DEPTH_MAX) {
        enum err e = err_set(g->ec, ERR_UNSUPPORTED, "statement too complex");
        err_detail(g->ec, "At most %d tokens, nested at most about %d deep.", SQL_TOKENS_MAX, SQL_DEPTH_MAX);
        return e;
    }
    for (size_t i = 0; i < g->tokens.n; i++) {
        enum err e = check_long_token(g, i);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

enum err gate_check_params(struct gate *g)
{
    int64_t max = 0;
    for (size_t i = 0; i < g->tokens.n; i++) {
        if (g->tokens.v[i].kind != PG_QUERY__TOKEN__PARAM)
            continue;
        enum err e = check_param_token(g, &g->tokens.v[i], &max);
        if (e != ERR_OK)
            return e;
    }
    if (g->nparams > max)
        return err_set(g->ec, ERR_INVALID_REQUEST, "the statement uses %d parameters, but %d were given",
            (int)max, g->nparams);
    return ERR_OK;
}

enum err gate_check_long(struct gate *g, enum err outcome)
{
    /* After an error only the one that it points at: others may not have been looked at yet. */
    int only = outcome != ERR_OK ? from_map_back(&g->map, g->ec->position - 1) : -1;
    for (size_t i = 0; i < g->nlong; i++) {
        int start = g->long_starts[i];
        if (!g->long_used[i] && (outcome == ERR_OK || start == only))
            return too_long(g, start, token_identifier_len(g->sql, tokens_at(&g->tokens, start)));
    }
    return outcome;
}
