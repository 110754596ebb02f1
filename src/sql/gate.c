/* sql_parse: text → tokens → tree → statement. The order matters: sizes and depth are bounded on tokens
 * before the parser builds a tree that everything after it walks recursively. */
#include "sql/gate.h"
#include <pg_query.h>
#include <stdio.h>

#define TREE_BYTES_MAX ((size_t)512 << 20)

enum err gate_fail(struct gate *g, enum err code, int location, const char *fmt, ...)
{
    char message[sizeof g->ec->message];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    enum err e = err_set(g->ec, code, "%s", message);
    g->ec->position = location >= 0 ? location + 1 : 0;
    return e;
}

void gate_at(struct gate *g, int start)
{
    g->ec->position = start + 1;
    g->placed = true;
}

/* ---- what comes in --------------------------------------------------------------------------- */

static enum err check_text(struct str s, const char *what, struct errctx *ec)
{
    if (s.len > 0 && memchr(s.ptr, '\0', s.len) != NULL)
        return err_set(ec, ERR_INVALID_REQUEST, "%s contains a NUL byte", what);
    if (!utf8_valid(s))
        return err_set(ec, ERR_INVALID_REQUEST, "%s is not valid UTF-8", what);
    return ERR_OK;
}

static enum err check_input(const struct gate *g)
{
    if (g->sql.len > g->limits->sql_bytes_max || g->sql.len > INT32_MAX / 4)
        return err_set(g->ec, ERR_TOO_LARGE, "the statement has %zu bytes, more than %zu", g->sql.len,
            g->limits->sql_bytes_max);
    enum err e = check_text(g->sql, "the statement", g->ec);
    for (int i = 0; e == ERR_OK && i < g->nparams; i++) {
        if (g->params[i].type != VALUE_TEXT && g->params[i].type != VALUE_JSON)
            continue;
        char what[32];
        (void)snprintf(what, sizeof what, "parameter $%d", i + 1);
        e = check_text(g->params[i].s, what, g->ec);
    }
    return e;
}

/* ---- parsing --------------------------------------------------------------------------------- */

/* The parser counts characters, we count bytes. */
static int byte_of_character(struct str s, int character)
{
    size_t i = 0;
    for (int n = 1; n < character && i < s.len; n++) {
        i++;
        while (i < s.len && ((unsigned char)s.ptr[i] & 0xc0) == 0x80)
            i++;
    }
    return (int)i;
}

/* `syntax error at or near ""from""`: the quotes are ours. */
static void unquote_from(char *message)
{
    char *at = strstr(message, "\"\"from\"\"");
    if (at != NULL)
        memmove(at, at + 1, strlen(at + 1) + 1);
    at = strstr(message, "\"from\"\"");
    if (at != NULL)
        memmove(at + 6, at + 7, strlen(at + 7) + 1);
}

static enum err parse_error(struct gate *g, const PgQueryError *error)
{
    const char *message = error->message != NULL ? error->message : "syntax error";
    int location = error->cursorpos > 0 ? byte_of_character(g->text, error->cursorpos) : -1;
    if (strncmp(message, "memory exhausted", 16) == 0)
        return gate_fail(g, ERR_UNSUPPORTED, location, "statement too complex");
    if (strncmp(message, "out of memory", 13) == 0)
        return gate_memory(g);
    bool encoding = strncmp(message, "invalid byte sequence", 21) == 0;
    enum err e = gate_fail(g, encoding ? ERR_INVALID_REQUEST : ERR_SYNTAX, location, "%s", message);
    if (g->map.n > 0)
        unquote_from(g->ec->message);
    return e;
}

static enum err parse_text(struct gate *g, PgQuery__ParseResult **ret)
{
    PgQueryProtobufParseResult r = pg_query_parse_protobuf(g->text.ptr);
    enum err e = ERR_OK;
    if (r.error != NULL) {
        e = parse_error(g, r.error);
    } else {
        PgQuery__ParseResult *tree = tree_unpack(g->tmp, str_n(r.parse_tree.data, r.parse_tree.len));
        if (tree == NULL)
            e = gate_memory(g);
        else
            *ret = tree;
    }
    pg_query_free_protobuf_parse_result(r);
    return e;
}

/* A syntax error may come from a bare `from`: quoted, the statement is tried again. Where that fails on one
 * of our quotes, the first error was the true one. */
static enum err parse(struct gate *g, PgQuery__ParseResult **ret)
{
    enum err e = parse_text(g, ret);
    if (e != ERR_SYNTAX)
        return e;
    struct errctx first = *g->ec;
    struct str original = g->text;
    if (!bare_from_quote(g->tmp, g->sql, &g->tokens, &g->text, &g->map))
        return arena_failed(g->tmp) ? gate_memory(g) : e;
    errctx_clear(g->ec);
    e = parse_text(g, ret);
    if (e == ERR_SYNTAX && g->ec->position > 0 && from_map_hit(&g->map, g->ec->position - 1)) {
        *g->ec = first;
        g->text = original;
        g->map = (struct from_map){0};
    }
    return e;
}

/* ---- statements ------------------------------------------------------------------------------ */

static enum err refuse_statement(struct gate *g, const PgQuery__RawStmt *raw)
{
    static const struct {
        PgQuery__Node__NodeCase what;
        const char *name;
    } names[] = {
        {NODE_CASE(TRANSACTION_STMT), "a transaction of several statements"},
        {NODE_CASE(COPY_STMT), "COPY"},
        {NODE_CASE(VARIABLE_SET_STMT), "SET"},
        {NODE_CASE(VARIABLE_SHOW_STMT), "SHOW"},
        {NODE_CASE(LOAD_STMT), "LOAD"},
        {NODE_CASE(EXPLAIN_STMT), "EXPLAIN"},
        {NODE_CASE(CREATE_STMT), "CREATE TABLE"},
        {NODE_CASE(CREATE_TABLE_AS_STMT), "CREATE TABLE AS"},
        {NODE_CASE(VIEW_STMT), "CREATE VIEW"},
        {NODE_CASE(INDEX_STMT), "CREATE INDEX"},
        {NODE_CASE(CREATE_SCHEMA_STMT), "CREATE SCHEMA"},
        {NODE_CASE(CREATE_FUNCTION_STMT), "CREATE FUNCTION"},
        {NODE_CASE(CREATE_EXTENSION_STMT), "CREATE EXTENSION"},
        {NODE_CASE(DROP_STMT), "DROP"},
        {NODE_CASE(ALTER_TABLE_STMT), "ALTER TABLE"},
        {NODE_CASE(TRUNCATE_STMT), "TRUNCATE"},
        {NODE_CASE(MERGE_STMT), "MERGE"},
        {NODE_CASE(CALL_STMT), "CALL"},
        {NODE_CASE(DO_STMT), "DO"},
        {NODE_CASE(PREPARE_STMT), "PREPARE"},
        {NODE_CASE(EXECUTE_STMT), "EXECUTE"},
        {NODE_CASE(VACUUM_STMT), "VACUUM"},
        {NODE_CASE(LISTEN_STMT), "LISTEN"},
        {NODE_CASE(NOTIFY_STMT), "NOTIFY"},
        {NODE_CASE(LOCK_STMT), "LOCK"},
        {NODE_CASE(GRANT_STMT), "GRANT or REVOKE"},
        {NODE_CASE(DECLARE_CURSOR_STMT), "DECLARE CURSOR"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (tree_is(raw->stmt, names[i].what))
            return gate_fail(g, ERR_UNSUPPORTED, raw->stmt_location, "%s is not supported", names[i].name);
    }
    return gate_fail(g, ERR_UNSUPPORTED, raw->stmt_location, "this statement is not supported");
}

static enum err dispatch(struct gate *g, const PgQuery__RawStmt *raw)
{
    const PgQuery__Node *n = raw->stmt;
    if (n == NULL)
        return gate_fail(g, ERR_SYNTAX, 0, "empty statement");
    bool ours = tree_is(n, NODE_CASE(SELECT_STMT)) || tree_is(n, NODE_CASE(INSERT_STMT)) ||
                tree_is(n, NODE_CASE(UPDATE_STMT)) || tree_is(n, NODE_CASE(DELETE_STMT));
    if (!ours)
        return refuse_statement(g, raw);
    enum err e = gate_authorise(g, n);
    if (e != ERR_OK)
        return e;
    switch (n->node_case) {
    case NODE_CASE(SELECT_STMT):
        g->stmt->kind = STMT_SELECT;
        return gate_select(g, n->select_stmt);
    case NODE_CASE(INSERT_STMT):
        g->stmt->kind = STMT_INSERT;
        return gate_insert(g, n->insert_stmt);
    case NODE_CASE(UPDATE_STMT):
        g->stmt->kind = STMT_UPDATE;
        return gate_update(g, n->update_stmt);
    default:
        g->stmt->kind = STMT_DELETE;
        return gate_delete(g, n->delete_stmt);
    }
}

/* Where the text of a statement begins: past the blanks and comments that the parser counts in. */
static int statement_start(const struct gate *g, const PgQuery__RawStmt *raw)
{
    int from = from_map_back(&g->map, raw->stmt_location);
    for (size_t i = 0; i < g->tokens.n; i++) {
        if (g->tokens.v[i].start >= from)
            return g->tokens.v[i].start;
    }
    return from;
}

static enum err parse_one(struct gate *g, PgQuery__ParseResult **ret_tree)
{
    /* What does not scan, the parser refuses with the better message, and builds no tree of. */
    bool scanned = tokens_scan(g->tmp, g->text.ptr, &g->tokens);
    if (!scanned && arena_failed(g->tmp))
        return gate_memory(g);
    enum err e = scanned ? gate_check_tokens(g) : ERR_OK;
    PgQuery__ParseResult *tree = NULL;
    if (e == ERR_OK)
        e = parse(g, &tree);
    if (e != ERR_OK)
        return e;
    if (!scanned)
        return err_internal(g->ec, ERR_INTERNAL, "parsed, but not scanned");
    if (tree->n_stmts == 0)
        return err_set(g->ec, ERR_SYNTAX, "empty statement");
    if (tree->n_stmts > 1) {
        e = err_set(g->ec, ERR_UNSUPPORTED, "only one statement a request is supported");
        gate_at(g, statement_start(g, tree->stmts[1]));
        return e;
    }
    *ret_tree = tree;
    return ERR_OK;
}

static enum err build(struct gate *g)
{
    PgQuery__ParseResult *tree = NULL;
    enum err e = parse_one(g, &tree);
    if (e == ERR_OK)
        e = gate_check_params(g);
    if (e == ERR_OK)
        e = gate_check_long(g, dispatch(g, tree->stmts[0]));
    return e;
}

enum err sql_parse(struct arena *arena, struct str sql, const struct value *params, int nparams,
    const struct caller *caller, const struct sql_limits *limits, struct stmt **ret, struct errctx *ec)
{
    struct arena tmp;
    struct gate g = {.arena = arena,
        .tmp = &tmp,
        .sql = sql,
        .params = params,
        .nparams = nparams,
        .caller = caller,
        .limits = limits,
        .ec = ec};
    errctx_clear(ec);
    enum err e = check_input(&g);
    if (e != ERR_OK)
        return e;
    arena_init(&tmp, TREE_BYTES_MAX);
    g.text = arena_str(&tmp, sql); /* the parser wants a NUL behind it */
    g.stmt = arena_alloc(arena, sizeof *g.stmt);
    e = g.text.ptr == NULL || g.stmt == NULL ? gate_memory(&g) : build(&g);
    if (e != ERR_OK && ec->position > 0 && !g.placed)
        ec->position = from_map_back(&g.map, ec->position - 1) + 1;
    if (e == ERR_OK)
        *ret = g.stmt;
    arena_release(&tmp);
    return e;
}
