/* INSERT. Rows of constants become cells; any other source is a query whose outputs, in order, are the
 * columns.
 *
 * INSERT INTO conversations is two statements in one coat (contract, section 2): with `content`, or a column
 * that only messages have, it appends a message; else it creates the conversation, and `from` is accepted
 * beside its columns. */
#include "sql/gate.h"

#define FROM_COLUMN (-2) /* `from` beside the columns of a conversation that is created */

struct insert {
    const PgQuery__InsertStmt *s;
    const PgQuery__SelectStmt *source;
    int n, cap;
    int *columns;   /* schema columns, or FROM_COLUMN */
    int *locations; /* of the names; -1 without a list */
    bool listed;
};

static bool only_messages_have(struct str name)
{
    int c = schema_column(&schema_messages, name);
    return c >= 0 && c != MSG_FROM && schema_column(&schema_conversations, name) < 0;
}

/* Decides what an INSERT INTO conversations is. `client_msg_id` and the like alone do not make it an append:
 * they are then unknown columns. */
static bool is_append(const PgQuery__InsertStmt *s)
{
    for (size_t i = 0; i < s->n_cols; i++) {
        if (str_eq(str_c(s->cols[i]->res_target->name), STR("content")))
            return true;
    }
    return false;
}

static enum err undefined_column(struct gate *g, const struct schema *schema, const PgQuery__ResTarget *r)
{
    struct str name = str_c(r->name);
    enum err e = gate_fail(g, ERR_UNDEFINED_COLUMN, r->location,
        "column \"%s\" of relation \"%.*s\" does not exist", r->name, STR_FMT(schema->name));
    if (schema == &schema_conversations && only_messages_have(name))
        err_hint(g->ec, "With content, INSERT INTO conversations appends a message and takes its columns.");
    return e;
}

static enum err insert_columns(struct gate *g, struct insert *in)
{
    const struct schema *schema = g->stmt->target;
    bool creates = schema == &schema_conversations;
    size_t n = in->s->n_cols > 0 ? in->s->n_cols : (size_t)schema->ncolumns;
    in->columns = arena_array(g->arena, n, sizeof *in->columns);
    in->locations = arena_array(g->tmp, n, sizeof *in->locations);
    if (in->columns == NULL || in->locations == NULL)
        return gate_memory(g);
    in->cap = (int)n;
    in->listed = in->s->n_cols > 0;
    for (int c = 0; !in->listed && c < schema->ncolumns; c++) {
        if ((schema->columns[c].flags & COLUMN_HIDDEN) != 0)
            continue;
        in->locations[in->n] = -1;
        in->columns[in->n++] = c;
    }
    for (size_t i = 0; i < in->s->n_cols; i++) {
        const PgQuery__ResTarget *r = in->s->cols[i]->res_target;
        int column = schema_column(schema, str_c(r->name));
        if (column < 0 && creates && str_eq(str_c(r->name), STR("from")))
            column = FROM_COLUMN;
        if (column == -1)
            return undefined_column(g, schema, r);
        if (r->n_indirection > 0)
            return gate_fail(
                g, ERR_UNSUPPORTED, r->location, "assignment to a part of a column is not supported");
        for (int k = 0; k < in->n; k++) {
            if (in->columns[k] == column)
                return gate_fail(
                    g, ERR_SYNTAX, r->location, "column \"%s\" specified more than once", r->name);
        }
        in->locations[in->n] = r->location;
        in->columns[in->n++] = column;
    }
    return ERR_OK;
}

/* PostgreSQL's rule: without a list, fewer values than columns fill the first ones. */
static enum err check_count(struct gate *g, struct insert *in, size_t n, const PgQuery__Node *first_extra)
{
    if (n > (size_t)in->n)
        return gate_fail(
            g, ERR_SYNTAX, tree_location(first_extra), "INSERT has more expressions than target columns");
    if (n < (size_t)in->n && in->listed)
        return gate_fail(g, ERR_SYNTAX, in->locations[n], "INSERT has more target columns than expressions");
    in->n = (int)n;
    return ERR_OK;
}

static const PgQuery__List *values_row(const PgQuery__SelectStmt *s, size_t i)
{
    return s->values_lists[i]->list;
}

static enum err check_values(struct gate *g, struct insert *in)
{
    const PgQuery__SelectStmt *s = in->source;
    size_t n = values_row(s, 0)->n_items;
    for (size_t i = 1; i < s->n_values_lists; i++) {
        const PgQuery__List *row = values_row(s, i);
        if (row->n_items != n)
            return gate_fail(g, ERR_SYNTAX, row->n_items > 0 ? tree_location(row->items[0]) : -1,
                "VALUES lists must all be the same length");
    }
    const PgQuery__Node *extra = n > (size_t)in->n ? values_row(s, 0)->items[in->n] : NULL;
    return check_count(g, in, n, extra);
}

/* ---- rows of constants ----------------------------------------------------------------------- */

static enum value_type column_type(const struct gate *g, int column)
{
    return column == FROM_COLUMN ? VALUE_TEXT : g->stmt->target->columns[column].type;
}

static enum constness cell(struct gate *g, const PgQuery__Node *n, int column, struct cell *ret)
{
    if (tree_is(n, NODE_CASE(SET_TO_DEFAULT))) {
        ret->kind = CELL_DEFAULT;
        return CONSTANT;
    }
    struct constant c;
    enum constness known = gate_constant_for(g, n, column_type(g, column), &c);
    if (known == CONSTANT)
        *ret = (struct cell){CELL_VALUE, c.value};
    return known;
}

/* CONSTANT with all cells, or what came in the way. */
static enum constness insert_cells(struct gate *g, struct insert *in)
{
    size_t nrows = in->source->n_values_lists, n = (size_t)in->n;
    struct cell *cells = arena_array(g->arena, nrows * n, sizeof *cells);
    if (cells == NULL) {
        (void)gate_memory(g);
        return CONSTANT_ERROR;
    }
    for (size_t r = 0; r < nrows; r++) {
        for (size_t c = 0; c < n; c++) {
            enum constness known =
                cell(g, values_row(in->source, r)->items[c], in->columns[c], &cells[r * n + c]);
            if (known != CONSTANT)
                return known;
        }
    }
    g->stmt->nrows = nrows;
    g->stmt->cells = cells;
    return CONSTANT;
}

static bool same_cell(const struct cell *a, const struct cell *b)
{
    if (a->kind != b->kind || a->kind == CELL_DEFAULT)
        return a->kind == b->kind;
    return a->value.type == b->value.type && (a->value.type != VALUE_TEXT || str_eq(a->value.s, b->value.s));
}

/* `from` of a conversation that is created is no column of it: taken out of the rows. */
static enum err take_from_out(struct gate *g, struct insert *in)
{
    struct stmt *s = g->stmt;
    int at = 0;
    while (at < in->n && in->columns[at] != FROM_COLUMN)
        at++;
    if (at == in->n)
        return ERR_OK;
    size_t n = (size_t)in->n;
    struct cell *rest = arena_array(g->arena, s->nrows * n, sizeof *rest);
    if (rest == NULL)
        return gate_memory(g);
    size_t k = 0;
    for (size_t i = 0; i < s->nrows * n; i++) {
        if (i % n != (size_t)at)
            rest[k++] = s->cells[i];
        else if (!same_cell(&s->cells[i], &s->cells[at]))
            return gate_fail(g, ERR_UNSUPPORTED, in->locations[at],
                "conversations created together must have the same \"from\"");
    }
    s->create_from = s->cells[at];
    s->cells = rest;
    in->n--;
    for (int c = at; c < in->n; c++)
        in->columns[c] = in->columns[c + 1];
    return ERR_OK;
}

/* ---- queries --------------------------------------------------------------------------------- */

/* Removes columns that are DEFAULT in every row: they are what a column is that is not named. */
static enum err drop_default_columns(struct gate *g, struct insert *in)
{
    PgQuery__SelectStmt *copy = arena_alloc(g->tmp, sizeof *copy);
    size_t nrows = in->source->n_values_lists;
    bool *keep = arena_array(g->tmp, (size_t)in->n, sizeof *keep);
    PgQuery__Node **lists = arena_array(g->tmp, nrows, sizeof(PgQuery__Node *));
    if (copy == NULL || keep == NULL || lists == NULL)
        return gate_memory(g);
    for (size_t r = 0; r < nrows; r++) {
        for (int c = 0; c < in->n; c++)
            keep[c] |= !tree_is(values_row(in->source, r)->items[c], NODE_CASE(SET_TO_DEFAULT));
    }
    for (size_t r = 0; r < nrows; r++) {
        PgQuery__List *row = arena_alloc(g->tmp, sizeof *row);
        lists[r] = arena_alloc(g->tmp, sizeof *lists[r]);
        if (row == NULL || lists[r] == NULL)
            return gate_memory(g);
        *row = *values_row(in->source, r);
        *lists[r] = *in->source->values_lists[r];
        lists[r]->list = row;
        row->items = arena_array(g->tmp, row->n_items, sizeof(PgQuery__Node *));
        row->n_items = 0;
        if (row->items == NULL)
            return gate_memory(g);
        for (int c = 0; c < in->n; c++) {
            PgQuery__Node *item = values_row(in->source, r)->items[c];
            if (keep[c] && tree_is(item, NODE_CASE(SET_TO_DEFAULT)))
                return gate_fail(g, ERR_UNSUPPORTED, item->set_to_default->location,
                    "DEFAULT beside an expression must stand in every row of its column");
            if (keep[c])
                row->items[row->n_items++] = item;
        }
    }
    int n = 0;
    for (int c = 0; c < in->n; c++) {
        if (keep[c])
            in->columns[n++] = in->columns[c];
    }
    in->n = n;
    *copy = *in->source;
    copy->values_lists = lists;
    in->source = copy;
    return ERR_OK;
}

/* Where the value stands that has no column, as far as the tree tells. */
static const PgQuery__Node *output_at(const PgQuery__SelectStmt *s, size_t i)
{
    while (s->larg != NULL)
        s = s->larg;
    if (s->n_values_lists > 0)
        return i < values_row(s, 0)->n_items ? values_row(s, 0)->items[i] : NULL;
    return i < s->n_target_list ? s->target_list[i]->res_target->val : NULL;
}

static enum err insert_query(struct gate *g, struct insert *in)
{
    for (int c = 0; c < in->n; c++) {
        if (in->columns[c] == FROM_COLUMN)
            return gate_fail(
                g, ERR_UNSUPPORTED, in->locations[c], "\"from\" of a new conversation must be a constant");
    }
    const PgQuery__SelectStmt *source = in->source;
    if (in->s->with_clause != NULL) {
        if (source->with_clause != NULL)
            return gate_fail(
                g, ERR_UNSUPPORTED, source->with_clause->location, "only one WITH is supported here");
        PgQuery__SelectStmt *copy = arena_alloc(g->tmp, sizeof *copy);
        if (copy == NULL)
            return gate_memory(g);
        *copy = *source;
        copy->with_clause = in->s->with_clause;
        source = copy;
    }
    source = gate_ordered(g, source);
    if (source == NULL)
        return gate_memory(g);
    int n = 0;
    enum err e = gate_print(g, source, &g->stmt->read_sql, &n);
    return e != ERR_OK ? e : check_count(g, in, (size_t)n, output_at(source, (size_t)in->n));
}

static bool plain_values(const PgQuery__SelectStmt *s)
{
    return s->n_values_lists > 0 && s->op == PG_QUERY__SET_OPERATION__SETOP_NONE && s->n_sort_clause == 0 &&
           s->limit_count == NULL && s->limit_offset == NULL && s->with_clause == NULL &&
           s->n_locking_clause == 0;
}

static enum err insert_source(struct gate *g, struct insert *in)
{
    enum err e;
    if (!plain_values(in->source))
        return insert_query(g, in);
    e = check_values(g, in);
    if (e != ERR_OK)
        return e;
    if (in->s->with_clause == NULL) {
        enum constness known = insert_cells(g, in);
        if (known == CONSTANT_ERROR)
            return g->ec->code;
        if (known == CONSTANT)
            return take_from_out(g, in);
    }
    e = drop_default_columns(g, in);
    return e != ERR_OK ? e : insert_query(g, in);
}

static enum err refuse_clauses(struct gate *g, const PgQuery__InsertStmt *s)
{
    if (s->on_conflict_clause != NULL) {
        enum err e =
            gate_fail(g, ERR_UNSUPPORTED, s->on_conflict_clause->location, "ON CONFLICT is not supported");
        err_hint(g->ec, "Give each message a client_msg_id: a repeated INSERT then changes nothing.");
        return e;
    }
    if (s->override == PG_QUERY__OVERRIDING_KIND__OVERRIDING_USER_VALUE ||
        s->override == PG_QUERY__OVERRIDING_KIND__OVERRIDING_SYSTEM_VALUE)
        return gate_fail(g, ERR_UNSUPPORTED, s->relation->location, "OVERRIDING is not supported");
    if (!tree_is(s->select_stmt, NODE_CASE(SELECT_STMT)))
        return gate_fail(g, ERR_UNSUPPORTED, s->relation->location, "DEFAULT VALUES is not supported");
    return ERR_OK;
}

enum err gate_insert(struct gate *g, const PgQuery__InsertStmt *s)
{
    struct stmt *stmt = g->stmt;
    enum err e = gate_table(g, s->relation, &stmt->target_owner, &stmt->target);
    if (e == ERR_OK)
        e = gate_target_not_cte(g, s->relation, s->with_clause);
    if (e == ERR_OK)
        e = refuse_clauses(g, s);
    if (e != ERR_OK)
        return e;
    if (stmt->target == &schema_conversations && is_append(s)) {
        stmt->target_is_append = true;
        stmt->target = &schema_messages;
    }
    struct insert in = {.s = s, .source = s->select_stmt->select_stmt};
    stmt->create_from.kind = CELL_DEFAULT;
    e = insert_columns(g, &in);
    if (e == ERR_OK)
        e = insert_source(g, &in);
    if (e != ERR_OK)
        return e;
    stmt->ncolumns = in.n;
    stmt->columns = in.columns;
    return gate_returning(g, s->n_returning_list, s->returning_list, s->relation, stmt->target);
}
