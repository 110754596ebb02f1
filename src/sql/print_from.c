/* FROM, and what names mean. Every relation gets a generated alias; USING and NATURAL become ON, and the
 * merged columns are denoted by the side (or COALESCE) that PostgreSQL takes them from. */
#include "sql/print_int.h"
#include <stdio.h>

bool node_is_star(const PgQuery__Node *n)
{
    if (n == NULL || n->node_case != PG_QUERY__NODE__NODE_COLUMN_REF || n->column_ref->n_fields == 0)
        return false;
    return n->column_ref->fields[n->column_ref->n_fields - 1]->node_case == PG_QUERY__NODE__NODE_A_STAR;
}

static struct str quoted_alias(struct pr *p, struct str name)
{
    struct buf b = BUF_INIT(4096);
    print_ident(&b, pr_format(p, "t%d:%.*s", p->next++, STR_FMT(name)));
    struct str r = b.failed ? STR_NULL : arena_str(p->a, buf_view(&b));
    buf_release(&b);
    if (r.ptr == NULL)
        pr_alloc(p, SIZE_MAX, 2);
    return r.ptr == NULL ? STR("\"\"") : r;
}

static struct relation *relation_add(struct pr *p, struct str name, int location)
{
    struct scope *s = p->scope;
    if (s->nrelations == RELATIONS_MAX) {
        pr_fail(p, ERR_UNSUPPORTED, location, "more than %d tables in one FROM", RELATIONS_MAX);
        return NULL;
    }
    for (int i = 0; i < s->nrelations; i++)
        if (name.len > 0 && str_eq(s->relations[i].name, name)) {
            pr_fail(p, ERR_SYNTAX, location, "table name \"%.*s\" specified more than once", STR_FMT(name));
            return NULL;
        }
    if (s->relations == NULL && (s->relations = pr_alloc(p, RELATIONS_MAX, sizeof *s->relations)) == NULL)
        return NULL;
    struct relation *r = &s->relations[s->nrelations++];
    *r = (struct relation){.name = name};
    return r;
}

/* Columns of a relation under its alias, with the alias's column names. */
static void relation_columns(
    struct pr *p, struct relation *r, struct str alias, const struct names *cols, const PgQuery__Alias *a)
{
    size_t renamed = a == NULL ? 0 : a->n_colnames;
    int visible = 0;
    for (int i = 0; i < cols->n && !pr_failed(p); i++) {
        struct column_name c = cols->v[i];
        if (!c.hidden && (size_t)visible < renamed)
            c.name = node_string(a->colnames[visible]);
        visible += !c.hidden;
        c.text = pr_format(p, "%.*s.%.*s", STR_FMT(alias), STR_FMT(c.text));
        if (c.type == T_LITERAL || c.type == T_NULL)
            c.type = T_TEXT;
        names_add(p, &r->columns, c);
    }
    if (renamed > (size_t)visible)
        pr_fail(p, ERR_SYNTAX, -1, "table \"%.*s\" has %d columns available but %zu columns specified",
            STR_FMT(r->name), visible, renamed);
}

static struct names base_table(struct pr *p, const PgQuery__RangeVar *rv)
{
    struct names none = {0}, cols = {0};
    struct str relname = str_c(rv->relname);
    const PgQuery__Alias *a = rv->alias;
    struct str name = a != NULL ? str_c(a->aliasname) : relname;
    const struct cte *c = NULL;
    if (rv->schemaname == NULL || rv->schemaname[0] == 0)
        for (c = p->ctes; c != NULL && !str_eq(c->name, relname);)
            c = c->next;
    struct relation *r = relation_add(p, name, rv->location);
    if (r == NULL)
        return none;
    struct str alias = quoted_alias(p, name);
    if (c != NULL) {
        if (c->body != NULL && c->columns.n == 0) {
            pr_fail(p, ERR_UNSUPPORTED, rv->location,
                "recursive reference to query \"%.*s\" must not appear within its non-recursive term",
                STR_FMT(relname));
            return none;
        }
        buf_str(p->b, c->text);
        cols = c->columns;
    } else {
        struct print_table t = {0};
        enum err err = p->api->table(p->api->ctx, rv, &t);
        if (err != ERR_OK) {
            if (p->err == ERR_OK)
                p->err = err;
            return none;
        }
        r->rv = rv;
        r->schema = t.schema;
        buf_printf(p->b, "scan_%d", t.number);
        for (int i = 0; i < t.schema->ncolumns; i++) {
            const struct column *col = &t.schema->columns[i];
            names_add(p, &cols,
                (struct column_name){.name = col->name,
                    .text = pr_format(p, "\"%.*s\"", STR_FMT(col->name)),
                    .type = type_of_value(col->type),
                    .hidden = (col->flags & COLUMN_HIDDEN) != 0});
        }
    }
    pr_put(p, " AS ");
    buf_str(p->b, alias);
    relation_columns(p, r, alias, &cols, a);
    return r->columns;
}

/* A subquery in FROM sees its siblings only when LATERAL. */
static struct scope *enter_outer(struct pr *p, bool lateral)
{
    struct scope *s = p->scope;
    if (!lateral)
        p->scope = s->outer;
    return s;
}

static struct names subselect(struct pr *p, const PgQuery__RangeSubselect *q)
{
    struct names none = {0}, cols = {0};
    pr_put(p, q->lateral ? "LATERAL (" : "(");
    struct scope *s = enter_outer(p, q->lateral);
    pr_query_node(p, q->subquery, &cols);
    p->scope = s;
    pr_put(p, ") AS ");
    if (q->alias == NULL) {
        pr_fail(p, ERR_SYNTAX, -1, "subquery in FROM must have an alias");
        err_hint(p->ec, "For example, FROM (SELECT ...) [AS] foo.");
        return none;
    }
    struct str name = str_c(q->alias->aliasname), alias = quoted_alias(p, name);
    buf_str(p->b, alias);
    struct relation *r = pr_failed(p) ? NULL : relation_add(p, name, -1);
    if (r == NULL)
        return none;
    relation_columns(p, r, alias, &cols, q->alias);
    return r->columns;
}

static struct names function_rows(struct pr *p, const PgQuery__RangeFunction *f)
{
    struct names none = {0}, cols = {0};
    const PgQuery__Node *call = NULL;
    if (!f->is_rowsfrom && f->n_functions == 1 && f->functions[0]->node_case == PG_QUERY__NODE__NODE_LIST &&
        f->functions[0]->list->n_items >= 1)
        call = f->functions[0]->list->items[0];
    if (call == NULL || call->node_case != PG_QUERY__NODE__NODE_FUNC_CALL || f->n_coldeflist > 0) {
        pr_unsupported(p, node_location(call), "this function in FROM");
        return none;
    }
    const PgQuery__FuncCall *fc = call->func_call;
    pr_put(p, "LATERAL (");
    /* A function's arguments may refer to its siblings with and without LATERAL. */
    pr_function_rows(p, fc, f->ordinality, &cols);
    pr_put(p, ") AS ");
    struct str fname = figure_name(call);
    struct str name = f->alias != NULL ? str_c(f->alias->aliasname) : fname;
    struct str alias = quoted_alias(p, name);
    buf_str(p->b, alias);
    struct relation *r = pr_failed(p) ? NULL : relation_add(p, name, fc->location);
    if (r == NULL)
        return none;
    /* A single column of a scalar function is named after the alias. */
    if (f->alias != NULL && cols.n >= 1 && str_eq(cols.v[0].name, fname) && cols.n == (f->ordinality ? 2 : 1))
        cols.v[0].name = name;
    r->scalar = cols.n == 1;
    relation_columns(p, r, alias, &cols, f->alias);
    return r->columns;
}

static struct names from_item(struct pr *p, const PgQuery__Node *n);

static const struct column_name *name_find(struct pr *p, const struct names *n, struct str name, int location)
{
    const struct column_name *found = NULL;
    for (int i = 0; i < n->n; i++) {
        if (!str_eq(n->v[i].name, name))
            continue;
        if (found != NULL) {
            pr_fail(
                p, ERR_UNDEFINED_COLUMN, location, "column reference \"%.*s\" is ambiguous", STR_FMT(name));
            return NULL;
        }
        found = &n->v[i];
    }
    return found;
}

/* Merged columns of USING / NATURAL: prints the condition, fills *ret with them. */
static void merge_columns(
    struct pr *p, const PgQuery__JoinExpr *j, const struct names *l, const struct names *r, struct names *ret)
{
    size_t n = j->is_natural ? (size_t)l->n : j->n_using_clause;
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        struct str name = j->is_natural ? l->v[i].name : node_string(j->using_clause[i]);
        if (j->is_natural && l->v[i].hidden)
            continue;
        const struct column_name *a = name_find(p, l, name, -1), *b = name_find(p, r, name, -1);
        if (j->is_natural && (b == NULL || b->hidden))
            continue;
        if (a == NULL || b == NULL) {
            pr_fail(p, ERR_UNDEFINED_COLUMN, -1,
                "column \"%.*s\" specified in USING clause does not exist in %s table", STR_FMT(name),
                a == NULL ? "left" : "right");
            return;
        }
        if (!type_comparable(a->type, b->type))
            pr_fail(p, ERR_TYPE_MISMATCH, -1, "JOIN/USING types %s and %s cannot be matched",
                type_name(a->type), type_name(b->type));
        buf_printf(
            p->b, "%s(%.*s = %.*s)", ret->n == 0 ? " ON (" : " AND ", STR_FMT(a->text), STR_FMT(b->text));
        struct column_name c = *a;
        c.hidden = false;
        c.type = type_common(a->type, b->type);
        if (j->jointype == PG_QUERY__JOIN_TYPE__JOIN_RIGHT)
            c.text = b->text;
        else if (j->jointype == PG_QUERY__JOIN_TYPE__JOIN_FULL)
            c.text = pr_format(p, "COALESCE(%.*s, %.*s)", STR_FMT(a->text), STR_FMT(b->text));
        names_add(p, ret, c);
    }
    pr_put(p, ret->n == 0 ? " ON (true)" : ")");
}

static void names_append(
    struct pr *p, struct names *to, const struct names *from, const struct names *without)
{
    for (int i = 0; i < from->n && !pr_failed(p); i++) {
        bool merged = false;
        for (int k = 0; without != NULL && k < without->n; k++)
            merged = merged || str_eq(without->v[k].name, from->v[i].name);
        if (!merged)
            names_add(p, to, from->v[i]);
    }
}

static struct names join(struct pr *p, const PgQuery__JoinExpr *j)
{
    static const char *const words[] = {"", " INNER JOIN ", " LEFT JOIN ", " FULL JOIN ", " RIGHT JOIN "};
    struct scope *s = p->scope;
    struct names merged = {0}, r = {0}, before = s->names, all = {0};
    int first = s->nrelations;
    if (j->jointype > PG_QUERY__JOIN_TYPE__JOIN_RIGHT || j->jointype == 0) {
        pr_unsupported(p, -1, "this join");
        return merged;
    }
    pr_put(p, "(");
    struct names l = from_item(p, j->larg);
    struct names seen = {0};
    names_append(p, &seen, &before, NULL);
    names_append(p, &seen, &l, NULL);
    s->names = seen;
    bool plain = j->quals == NULL && j->n_using_clause == 0 && !j->is_natural;
    pr_put(p, plain ? " CROSS JOIN " : words[j->jointype]);
    r = from_item(p, j->rarg);
    if (j->is_natural || j->n_using_clause > 0)
        merge_columns(p, j, &l, &r, &merged);
    else if (!plain) {
        names_append(p, &all, &l, NULL);
        names_append(p, &all, &r, NULL);
        int first_before = s->first_relation;
        s->names = all;
        s->first_relation = first;
        pr_put(p, " ON (");
        struct ex e = pr_expr_as(p, j->quals, T_BOOL);
        if (!pr_failed(p) && e.type != T_BOOL && e.type != T_ANY && e.type != T_NULL)
            pr_fail(p, ERR_TYPE_MISMATCH, node_location(j->quals),
                "argument of JOIN/ON must be type boolean, not type %s", type_name(e.type));
        pr_put(p, ")");
        s->first_relation = first_before;
    }
    pr_put(p, ")");
    s->names = before;
    if (j->alias != NULL || j->join_using_alias != NULL)
        pr_unsupported(p, -1, "an alias of a join");
    struct names ret = {0};
    names_append(p, &ret, &merged, NULL);
    names_append(p, &ret, &l, &merged);
    names_append(p, &ret, &r, &merged);
    return ret;
}

static struct names from_item(struct pr *p, const PgQuery__Node *n)
{
    struct names r = {0};
    if (!pr_enter(p, node_location(n)))
        return r;
    switch (n->node_case) {
    case PG_QUERY__NODE__NODE_RANGE_VAR:
        r = base_table(p, n->range_var);
        break;
    case PG_QUERY__NODE__NODE_RANGE_SUBSELECT:
        r = subselect(p, n->range_subselect);
        break;
    case PG_QUERY__NODE__NODE_RANGE_FUNCTION:
        r = function_rows(p, n->range_function);
        break;
    case PG_QUERY__NODE__NODE_JOIN_EXPR:
        r = join(p, n->join_expr);
        break;
    case PG_QUERY__NODE__NODE_RANGE_TABLE_SAMPLE:
        pr_unsupported(p, n->range_table_sample->location, "TABLESAMPLE");
        break;
    default:
        pr_unsupported(p, node_location(n), "this item in FROM");
    }
    pr_leave(p);
    return r;
}

void pr_from(struct pr *p, size_t n, PgQuery__Node **items)
{
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        pr_put(p, i == 0 ? " FROM " : ", ");
        struct names r = from_item(p, items[i]);
        names_append(p, &p->scope->names, &r, NULL);
    }
}

static struct relation *relation_find(struct scope *s, struct str name)
{
    for (int i = s->first_relation; i < s->nrelations; i++)
        if (str_eq(s->relations[i].name, name))
            return &s->relations[i];
    return NULL;
}

/* The relation that `t` or `schema.t` in front of a column means, here or in an outer query. */
static struct relation *relation_of(struct pr *p, const PgQuery__ColumnRef *c)
{
    size_t n = c->n_fields - 1;
    struct str table = node_string(c->fields[n - 1]);
    for (struct scope *s = p->scope; s != NULL; s = s->outer) {
        if (n == 1) {
            struct relation *r = relation_find(s, table);
            if (r != NULL)
                return r;
            continue;
        }
        for (int i = s->first_relation; n == 2 && i < s->nrelations; i++) {
            struct relation *r = &s->relations[i];
            if (r->rv != NULL && r->rv->alias == NULL && str_eq(r->name, table) &&
                p->api->same_table != NULL && p->api->same_table(p->api->ctx, c, r->rv))
                return r;
        }
    }
    pr_fail(
        p, ERR_UNDEFINED_TABLE, c->location, "missing FROM-clause entry for table \"%.*s\"", STR_FMT(table));
    return NULL;
}

void pr_star(struct pr *p, const PgQuery__ColumnRef *c, struct names *ret)
{
    const struct names *from = &p->scope->names;
    if (c->n_fields > 1) {
        struct relation *r = relation_of(p, c);
        if (r == NULL)
            return;
        from = &r->columns;
    } else if (p->scope->nrelations == 0)
        pr_fail(p, ERR_SYNTAX, c->location, "SELECT * with no tables specified is not valid");
    for (int i = 0; i < from->n && !pr_failed(p); i++)
        if (!from->v[i].hidden)
            names_add(p, ret, from->v[i]);
}

/* A table's name where a value stands: its row, as JSON. */
static struct ex whole_row(struct pr *p, const struct relation *r, int location)
{
    size_t at = p->b->len;
    bool any = false;
    if (r->scalar) {
        buf_str(p->b, r->columns.v[0].text);
        return pr_done(p, at, r->columns.v[0].type, location);
    }
    /* The null-extended row of an outer join is NULL. */
    const char *end = ")";
    if (r->schema != NULL) {
        buf_printf(
            p->b, "(CASE WHEN %.*s IS NOT NULL THEN ", STR_FMT(r->columns.v[r->schema->key_column].text));
        end = ") END)";
    }
    pr_put(p, "json_object(");
    for (int i = 0; i < r->columns.n; i++) {
        const struct column_name *c = &r->columns.v[i];
        if (c->hidden)
            continue;
        pr_put(p, any ? ", " : "");
        pr_quoted(p->b, c->name);
        pr_put(p, ", ");
        const char *wrap = c->type == T_TIMESTAMPTZ ? "kdb_json_timestamptz("
                           : c->type == T_TIMESTAMP ? "kdb_json_timestamp("
                                                    : "";
        pr_put(p, wrap);
        buf_str(p->b, c->text);
        pr_put(p, wrap[0] != 0 ? ")" : "");
        any = true;
    }
    pr_put(p, end);
    return pr_done(p, at, T_JSON, location);
}

struct ex pr_column(struct pr *p, const PgQuery__ColumnRef *c)
{
    size_t at = p->b->len;
    if (c->n_fields == 0 || c->n_fields > 3) {
        pr_fail(p, ERR_UNSUPPORTED, c->location, "improper qualified name (too many dotted names)");
        return pr_done(p, at, T_ANY, c->location);
    }
    struct str name = node_string(c->fields[c->n_fields - 1]);
    if (name.ptr == NULL) {
        pr_fail(p, ERR_SYNTAX, c->location, "row expansion via \"*\" is not supported here");
        return pr_done(p, at, T_ANY, c->location);
    }
    const struct column_name *found = NULL;
    if (c->n_fields > 1) {
        struct relation *r = relation_of(p, c);
        if (r != NULL && (found = name_find(p, &r->columns, name, c->location)) == NULL)
            pr_fail(p, ERR_UNDEFINED_COLUMN, c->location, "column %.*s.%.*s does not exist", STR_FMT(r->name),
                STR_FMT(name));
    } else {
        for (struct scope *s = p->scope; s != NULL && found == NULL && !pr_failed(p); s = s->outer)
            found = name_find(p, &s->names, name, c->location);
        for (struct scope *s = p->scope; s != NULL && found == NULL && !pr_failed(p); s = s->outer) {
            struct relation *r = relation_find(s, name);
            if (r != NULL)
                return whole_row(p, r, c->location);
        }
        if (found == NULL)
            pr_fail(p, ERR_UNDEFINED_COLUMN, c->location, "column \"%.*s\" does not exist", STR_FMT(name));
    }
    if (found == NULL || pr_failed(p))
        return pr_done(p, at, T_ANY, c->location);
    buf_str(p->b, found->text);
    return pr_done(p, at, found->type, c->location);
}
