/* Queries: WITH, set operations, VALUES, SELECT with all its clauses. Text is built in the order in which
 * PostgreSQL gives meaning to names (FROM first), then put together. */
#include "sql/print_int.h"
#include <stdio.h>

struct str pr_output_alias(struct pr *p, struct str name, bool top)
{
    struct buf b = BUF_INIT(4096);
    if (top)
        print_ident(&b, name);
    else {
        struct str full = pr_format(p, "o%d:%.*s", p->next++, STR_FMT(name));
        print_ident(&b, full);
    }
    struct str r = arena_str(p->a, buf_view(&b));
    buf_release(&b);
    if (r.ptr == NULL)
        pr_alloc(p, SIZE_MAX, 2);
    return r.ptr == NULL ? STR("\"\"") : r;
}

static void put_output(struct pr *p, struct str text, struct str name, int type, bool top, struct names *ret,
    struct names *sources)
{
    if (ret->n > 0)
        pr_put(p, ", ");
    struct str alias = pr_output_alias(p, name, top);
    buf_str(p->b, text);
    pr_put(p, " AS ");
    buf_str(p->b, alias);
    names_add(p, ret, (struct column_name){.name = name, .text = alias, .type = type});
    names_add(p, sources, (struct column_name){.name = name, .text = text, .type = type});
}

static void target_list(
    struct pr *p, const PgQuery__SelectStmt *s, bool top, struct names *ret, struct names *sources)
{
    for (size_t i = 0; i < s->n_target_list && !pr_failed(p); i++) {
        const PgQuery__Node *n = s->target_list[i];
        if (n->node_case != PG_QUERY__NODE__NODE_RES_TARGET || n->res_target->n_indirection > 0) {
            pr_unsupported(p, node_location(n), "this output");
            return;
        }
        const PgQuery__ResTarget *t = n->res_target;
        if (node_is_star(t->val)) {
            struct names cols = {0};
            pr_star(p, t->val->column_ref, &cols);
            for (int k = 0; k < cols.n && !pr_failed(p); k++)
                put_output(p, cols.v[k].text, cols.v[k].name, cols.v[k].type, top, ret, sources);
            continue;
        }
        size_t at = p->b->len;
        struct ex e = pr_expr(p, t->val);
        struct str text = pr_cut(p, at);
        struct str name = t->name != NULL && t->name[0] != 0 ? str_c(t->name) : figure_name(t->val);
        put_output(p, text, name, e.type, top, ret, sources);
    }
    if (ret->n == 0 && !pr_failed(p))
        pr_unsupported(p, -1, "an empty select list");
}

/* A number of rows for LIMIT and OFFSET. */
static void row_count(struct pr *p, const char *clause, const PgQuery__Node *n)
{
    if (n == NULL || pr_failed(p))
        return;
    if (n->node_case == PG_QUERY__NODE__NODE_A_CONST && n->a_const->isnull)
        return;
    size_t at = p->b->len;
    struct ex e = pr_expr_as(p, n, T_BIGINT);
    if (e.type == T_NULL) {
        pr_cut(p, at);
        return;
    }
    if (e.constant && e.text.len > 0 && e.text.ptr[0] == '-')
        pr_fail(p, ERR_INVALID_VALUE, node_location(n), "%s must not be negative", clause);
    if (e.type != T_ANY && !type_is_number(e.type))
        pr_fail(p, ERR_TYPE_MISMATCH, node_location(n), "argument of %s must be type bigint, not type %s",
            clause, type_name(e.type));
    pr_insert(p, at, pr_format(p, " %s CAST(", clause));
    pr_put(p, " AS BIGINT)");
}

static void limits(struct pr *p, const PgQuery__SelectStmt *s)
{
    if (s->limit_option == PG_QUERY__LIMIT_OPTION__LIMIT_OPTION_WITH_TIES)
        pr_unsupported(p, node_location(s->limit_count), "WITH TIES");
    /* No column of this level or an outer one means anything here. */
    struct scope none = {.select = s}, *scope = p->scope;
    p->scope = &none;
    row_count(p, "LIMIT", s->limit_count);
    row_count(p, "OFFSET", s->limit_offset);
    p->scope = scope;
    if (none.has_aggregate)
        pr_fail(p, ERR_SYNTAX, node_location(s->limit_count), "aggregate functions are not allowed in LIMIT");
}

static void distinct_clause(
    struct pr *p, const PgQuery__SelectStmt *s, const struct names *sources, struct names *ret_on)
{
    if (s->n_distinct_clause == 0)
        return;
    if (s->n_distinct_clause == 1 && s->distinct_clause[0]->node_case == PG_QUERY__NODE__NODE__NOT_SET) {
        pr_put(p, "DISTINCT ");
        return;
    }
    pr_put(p, "DISTINCT ON (");
    for (size_t i = 0; i < s->n_distinct_clause && !pr_failed(p); i++) {
        if (i > 0)
            pr_put(p, ", ");
        size_t at = p->b->len;
        int number = pr_output_number(p, s->distinct_clause[i], sources, "DISTINCT ON");
        if (number > 0)
            buf_str(p->b, sources->v[number - 1].text);
        else
            pr_expr(p, s->distinct_clause[i]);
        struct str text = pr_cut(p, at);
        names_add(p, ret_on, (struct column_name){.text = text});
        buf_str(p->b, text);
    }
    pr_put(p, ") ");
}

/* Which rows a LIMIT takes must not depend on where rows sit: a plain query over one base table takes them by
 * its key. (The gate orders the outermost query.) */
static void default_order(struct pr *p, const PgQuery__SelectStmt *s)
{
    const struct scope *sc = p->scope;
    if (s->n_sort_clause > 0 || s->n_group_clause > 0 || s->having_clause != NULL ||
        s->n_distinct_clause > 0 || sc->has_aggregate || sc->has_set_function || s->n_from_clause != 1 ||
        s->from_clause[0]->node_case != PG_QUERY__NODE__NODE_RANGE_VAR || sc->nrelations != 1 ||
        sc->relations[0].schema == NULL)
        return;
    const struct relation *r = &sc->relations[0];
    int key = r->schema->key_column;
    pr_put(p, " ORDER BY ");
    buf_str(p->b, r->columns.v[key].text);
    if (r->schema == &schema_conversation_users) {
        pr_put(p, ", ");
        buf_str(p->b, r->columns.v[MEMBER_USER_ID].text);
    }
}

static void boolean_clause(struct pr *p, const char *keyword, const PgQuery__Node *n)
{
    if (n == NULL || pr_failed(p))
        return;
    pr_put(p, keyword);
    struct ex e = pr_expr_as(p, n, T_BOOL);
    if (!pr_failed(p) && e.type != T_BOOL && e.type != T_ANY && e.type != T_NULL)
        pr_fail(p, ERR_TYPE_MISMATCH, node_location(n), "argument of%smust be type boolean, not type %s",
            keyword, type_name(e.type));
}

/* UPDATE … SET and RETURNING compute from one row at a time. */
static void check_row_by_row(struct pr *p)
{
    const struct scope *scope = p->scope;
    const char *what = scope->has_aggregate      ? "aggregate"
                       : scope->has_window       ? "window"
                       : scope->has_set_function ? "set-returning"
                                                 : NULL;
    if (what != NULL && !pr_failed(p))
        pr_fail(p, ERR_SYNTAX, -1, "%s functions are not allowed in %s", what, p->api->row_by_row);
}

static void plain_select(struct pr *p, const PgQuery__SelectStmt *s, struct names *ret, enum place place)
{
    struct scope scope = {.outer = p->scope, .select = s};
    struct buf *out = p->b, from = BUF_INIT(out->max_bytes), list = BUF_INIT(out->max_bytes),
               tail = BUF_INIT(out->max_bytes), head = BUF_INIT(out->max_bytes);
    struct names sources = {0};
    p->scope = &scope;
    p->b = &from;
    pr_from(p, s->n_from_clause, s->from_clause);
    boolean_clause(p, " WHERE ", s->where_clause);
    if (scope.has_aggregate)
        pr_fail(
            p, ERR_SYNTAX, node_location(s->where_clause), "aggregate functions are not allowed in WHERE");
    p->b = &list;
    target_list(p, s, place != PLACE_INSIDE, ret, &sources);
    if (p->api->row_by_row != NULL && place == PLACE_TOP)
        check_row_by_row(p);
    p->b = &tail;
    pr_group_by(p, s, &sources);
    boolean_clause(p, " HAVING ", s->having_clause);
    p->b = &head;
    struct names on = {0};
    distinct_clause(p, s, &sources, &on);
    bool plain = s->n_distinct_clause > 0 && on.n == 0;
    struct distinct order = {.names = plain ? &sources : s->n_distinct_clause > 0 ? &on : NULL, .on = !plain};
    p->b = &tail;
    pr_order_by(p, s->n_sort_clause, s->sort_clause, &sources, &order, false);
    if (s->limit_count != NULL || s->limit_offset != NULL)
        default_order(p, s);
    limits(p, s);
    p->b = out;
    p->scope = scope.outer;
    out->failed = out->failed || from.failed || list.failed || tail.failed || head.failed;
    pr_put(p, "SELECT ");
    buf_str(out, buf_view(&head));
    buf_release(&head);
    buf_str(out, buf_view(&list));
    buf_str(out, buf_view(&from));
    buf_str(out, buf_view(&tail));
    buf_release(&from);
    buf_release(&list);
    buf_release(&tail);
}

static void values_list(struct pr *p, const PgQuery__SelectStmt *s, struct names *ret, enum place place)
{
    /* Columns are named by an outer SELECT: VALUES alone cannot name them. */
    struct buf *out = p->b, rows = BUF_INIT(out->max_bytes);
    struct scope scope = {.outer = p->scope, .select = s};
    size_t n = 0;
    int *types = NULL, id = p->next++;
    p->b = &rows;
    p->scope = &scope;
    for (size_t i = 0; i < s->n_values_lists && !pr_failed(p); i++) {
        const PgQuery__Node *row = s->values_lists[i];
        if (row->node_case != PG_QUERY__NODE__NODE_LIST || row->list->n_items == 0) {
            pr_unsupported(p, -1, "this VALUES list");
            break;
        }
        if (i == 0) {
            n = row->list->n_items;
            types = pr_alloc(p, n, sizeof *types);
        } else if (row->list->n_items != n)
            pr_fail(p, ERR_SYNTAX, node_location(row->list->items[0]),
                "VALUES lists must all be the same length");
        pr_put(p, i == 0 ? "(" : ", (");
        for (size_t k = 0; k < n && !pr_failed(p); k++) {
            if (k > 0)
                pr_put(p, ", ");
            struct ex e = pr_expr(p, row->list->items[k]);
            int t = i == 0 || types[k] == T_NULL ? e.type : types[k];
            /* A quoted constant takes the type that earlier rows gave its column. */
            if (i > 0 && e.type == T_LITERAL && t != T_LITERAL)
                pr_coerce(p, &e, p->b->len, t);
            types[k] = e.type == T_NULL || e.type == T_LITERAL ? t : type_common(t, e.type);
        }
        pr_put(p, ")");
    }
    p->scope = scope.outer;
    p->b = out;
    pr_put(p, "SELECT ");
    for (size_t k = 0; k < n && !pr_failed(p); k++) {
        struct str name = pr_format(p, "column%zu", k + 1),
                   alias = pr_output_alias(p, name, place != PLACE_INSIDE);
        buf_printf(out, "%s\"v%d\".\"%zu\" AS ", k > 0 ? ", " : "", id, k + 1);
        buf_str(out, alias);
        names_add(p, ret, (struct column_name){.name = name, .text = alias, .type = types[k]});
    }
    pr_put(p, " FROM (VALUES ");
    out->failed = out->failed || rows.failed;
    buf_str(out, buf_view(&rows));
    buf_release(&rows);
    buf_printf(out, ") AS \"v%d\"(", id);
    for (size_t k = 0; k < n; k++)
        buf_printf(out, "%s\"%zu\"", k > 0 ? ", " : "", k + 1);
    pr_put(p, ")");
    pr_order_by(p, s->n_sort_clause, s->sort_clause, ret, NULL, true);
    limits(p, s);
}

/* Constants without a type in one arm take that of the other: through a query around the arm. */
static void arm_types(struct pr *p, size_t at, size_t end, struct names *arm, const struct names *other)
{
    bool needed = false;
    for (int i = 0; i < arm->n && i < other->n; i++)
        needed = needed || (arm->v[i].type == T_LITERAL && type_duckdb(other->v[i].type) != NULL);
    if (!needed || pr_failed(p) || p->b->failed)
        return;
    struct buf *out = p->b, head = BUF_INIT(1u << 20), tail = BUF_INIT(1u << 20);
    int id = p->next++;
    buf_printf(&tail, ") AS \"u%d\"(", id);
    for (int i = 0; i < arm->n; i++) {
        const char *to = i < other->n && arm->v[i].type == T_LITERAL ? type_duckdb(other->v[i].type) : NULL;
        buf_printf(
            &head, "%s%s\"u%d\".\"%d\"", i == 0 ? "SELECT " : ", ", to != NULL ? "CAST(" : "", id, i + 1);
        if (to != NULL)
            buf_printf(&head, " AS %s)", to);
        buf_printf(&head, " AS %.*s", STR_FMT(arm->v[i].text));
        buf_printf(&tail, "%s\"%d\"", i > 0 ? ", " : "", i + 1);
        if (to != NULL)
            arm->v[i].type = other->v[i].type;
    }
    buf_printf(&head, " FROM (");
    buf_printf(&tail, ")");
    out->failed = out->failed || head.failed || tail.failed;
    pr_insert(p, end, buf_view(&tail));
    pr_insert(p, at, buf_view(&head));
    buf_release(&head);
    buf_release(&tail);
}

static void set_operation(struct pr *p, const PgQuery__SelectStmt *s, struct names *ret, enum place place)
{
    static const char *const words[] = {"", "", "UNION", "INTERSECT", "EXCEPT"};
    struct names right = {0};
    pr_put(p, "(");
    size_t left_at = p->b->len;
    pr_query(p, s->larg, ret, place == PLACE_INSIDE ? PLACE_INSIDE : PLACE_TOP_ARM);
    size_t left_end = p->b->len;
    pr_put(p, ")");
    /* A recursive CTE sees itself in its second arm only, by the names and types of the first. */
    for (struct cte *c = p->ctes; c != NULL; c = c->next)
        if (c->body == s) {
            c->columns = *ret;
            cte_names(p, c->node, &c->columns);
        }
    buf_printf(p->b, " %s %s", words[s->op], s->all ? "ALL " : "");
    pr_put(p, "(");
    size_t right_at = p->b->len;
    pr_query(p, s->rarg, &right, PLACE_INSIDE);
    size_t right_end = p->b->len;
    pr_put(p, ")");
    if (!pr_failed(p) && right.n != ret->n)
        pr_fail(p, ERR_SYNTAX, s->rarg->n_target_list > 0 ? node_location(s->rarg->target_list[0]) : -1,
            "each %s query must have the same number of columns", words[s->op]);
    for (int i = 0; i < ret->n && i < right.n; i++) {
        int l = ret->v[i].type, r = right.v[i].type;
        if (!type_comparable(l, r))
            pr_fail(p, ERR_TYPE_MISMATCH,
                s->rarg->n_target_list > 0 ? node_location(s->rarg->target_list[0]) : -1,
                "%s types %s and %s cannot be matched", words[s->op], type_name(l), type_name(r));
    }
    /* The right arm first: what is put into the left one moves it. */
    arm_types(p, right_at, right_end, &right, ret);
    arm_types(p, left_at, left_end, ret, &right);
    for (int i = 0; i < ret->n && i < right.n; i++)
        ret->v[i].type = type_common(ret->v[i].type, right.v[i].type);
}

void cte_names(struct pr *p, const PgQuery__CommonTableExpr *c, struct names *columns)
{
    if (c->n_aliascolnames > (size_t)columns->n)
        pr_fail(p, ERR_SYNTAX, c->location,
            "WITH query \"%s\" has %d columns available but %zu columns specified", c->ctename, columns->n,
            c->n_aliascolnames);
    struct column_name *v = pr_alloc(p, (size_t)columns->n, sizeof *v);
    if (v == NULL || pr_failed(p))
        return;
    for (int i = 0; i < columns->n; i++) {
        v[i] = columns->v[i];
        if ((size_t)i < c->n_aliascolnames)
            v[i].name = node_string(c->aliascolnames[i]);
    }
    columns->v = v;
    columns->cap = columns->n;
}

static void with_clause(struct pr *p, const PgQuery__WithClause *w)
{
    pr_put(p, w->recursive ? "WITH RECURSIVE " : "WITH ");
    for (size_t i = 0; i < w->n_ctes && !pr_failed(p); i++) {
        if (w->ctes[i]->node_case != PG_QUERY__NODE__NODE_COMMON_TABLE_EXPR) {
            pr_unsupported(p, w->location, "this WITH query");
            return;
        }
        const PgQuery__CommonTableExpr *c = w->ctes[i]->common_table_expr;
        if (c->search_clause != NULL || c->cycle_clause != NULL)
            pr_unsupported(p, c->location, "SEARCH or CYCLE");
        struct cte *e = pr_alloc(p, 1, sizeof *e);
        if (e == NULL)
            return;
        struct buf b = BUF_INIT(4096);
        e->name = str_c(c->ctename);
        print_ident(&b, pr_format(p, "c%d:%s", p->next++, c->ctename));
        e->text = arena_str(p->a, buf_view(&b));
        buf_release(&b);
        pr_put(p, i > 0 ? ", " : "");
        buf_str(p->b, e->text);
        pr_put(p, c->ctematerialized == PG_QUERY__CTEMATERIALIZE__CTEMaterializeAlways ? " AS MATERIALIZED ("
                  : c->ctematerialized == PG_QUERY__CTEMATERIALIZE__CTEMaterializeNever
                      ? " AS NOT MATERIALIZED ("
                      : " AS (");
        struct names cols = {0};
        struct cte *before = p->ctes;
        e->node = c;
        if (w->recursive) {
            e->body = c->ctequery != NULL && c->ctequery->node_case == PG_QUERY__NODE__NODE_SELECT_STMT
                          ? c->ctequery->select_stmt
                          : NULL;
            e->next = p->ctes;
            p->ctes = e;
        }
        pr_query_node(p, c->ctequery, &cols);
        p->ctes = before;
        pr_put(p, ")");
        cte_names(p, c, &cols);
        e->columns = cols;
        e->body = NULL;
        e->next = before;
        p->ctes = e;
    }
    pr_put(p, " ");
}

void pr_query(struct pr *p, const PgQuery__SelectStmt *s, struct names *ret, enum place place)
{
    if (s == NULL || !pr_enter(p, -1))
        return;
    struct cte *ctes = p->ctes;
    if (s->into_clause != NULL)
        pr_unsupported(p, -1, "SELECT INTO");
    if (s->n_locking_clause > 0)
        pr_unsupported(p, -1, "FOR UPDATE or FOR SHARE");
    if (p->api->enter != NULL && !pr_failed(p))
        p->api->enter(p->api->ctx, s);
    if (s->with_clause != NULL)
        with_clause(p, s->with_clause);
    if (pr_failed(p))
        ;
    else if (s->op != PG_QUERY__SET_OPERATION__SETOP_NONE && s->op != 0) {
        if (s->op > PG_QUERY__SET_OPERATION__SETOP_EXCEPT)
            pr_unsupported(p, -1, "this set operation");
        set_operation(p, s, ret, place);
        pr_order_by(p, s->n_sort_clause, s->sort_clause, ret, NULL, true);
        limits(p, s);
    } else if (s->n_values_lists > 0)
        values_list(p, s, ret, place);
    else
        plain_select(p, s, ret, place);
    p->ctes = ctes;
    pr_leave(p);
}

void pr_query_node(struct pr *p, const PgQuery__Node *n, struct names *ret)
{
    if (n == NULL || n->node_case != PG_QUERY__NODE__NODE_SELECT_STMT)
        pr_fail(p, ERR_UNSUPPORTED, -1, "a data-modifying statement inside a query is not supported");
    else
        pr_query(p, n->select_stmt, ret, PLACE_INSIDE);
}
