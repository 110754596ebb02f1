/* Queries: WITH, set operations, VALUES, SELECT with all its clauses. Text is built in the order in which PostgreSQL
 * gives meaning to names (FROM first), then put together. */
#include "sql/print_int.h"
#include <stdio.h>

struct str node_string_last(PgQuery__Node **v, size_t n);

/* PostgreSQL's FigureColname. 0: no idea, 1: a weak one (a type's name), 2: good. */
static int figure(const PgQuery__Node *n, struct str *ret, int depth)
{
    if (n == NULL || depth > DEPTH_MAX)
        return 0;
    switch (n->node_case) {
    case PG_QUERY__NODE__NODE_COLUMN_REF: {
        const PgQuery__ColumnRef *c = n->column_ref;
        for (size_t i = c->n_fields; i > 0; i--) {
            struct str s = node_string(c->fields[i - 1]);
            if (s.ptr != NULL) {
                *ret = s;
                return 2;
            }
        }
        return 0;
    }
    case PG_QUERY__NODE__NODE_A_INDIRECTION: {
        const PgQuery__AIndirection *i = n->a_indirection;
        for (size_t k = i->n_indirection; k > 0; k--) {
            struct str s = node_string(i->indirection[k - 1]);
            if (s.ptr != NULL) {
                *ret = s;
                return 2;
            }
        }
        return figure(i->arg, ret, depth + 1);
    }
    case PG_QUERY__NODE__NODE_FUNC_CALL:
        *ret = node_string_last(n->func_call->funcname, n->func_call->n_funcname);
        return 2;
    case PG_QUERY__NODE__NODE_A_EXPR:
        if (n->a_expr->kind == PG_QUERY__A__EXPR__KIND__AEXPR_NULLIF) {
            *ret = STR("nullif");
            return 2;
        }
        return 0;
    case PG_QUERY__NODE__NODE_TYPE_CAST: {
        int r = figure(n->type_cast->arg, ret, depth + 1);
        if (r <= 1 && n->type_cast->type_name != NULL) {
            *ret = node_string_last(n->type_cast->type_name->names, n->type_cast->type_name->n_names);
            return 1;
        }
        return r;
    }
    case PG_QUERY__NODE__NODE_COLLATE_CLAUSE:
        return figure(n->collate_clause->arg, ret, depth + 1);
    case PG_QUERY__NODE__NODE_GROUPING_FUNC:
        *ret = STR("grouping");
        return 2;
    case PG_QUERY__NODE__NODE_SUB_LINK:
        switch (n->sub_link->sub_link_type) {
        case PG_QUERY__SUB_LINK_TYPE__EXISTS_SUBLINK:
            *ret = STR("exists");
            return 2;
        case PG_QUERY__SUB_LINK_TYPE__ARRAY_SUBLINK:
            *ret = STR("array");
            return 2;
        case PG_QUERY__SUB_LINK_TYPE__EXPR_SUBLINK: {
            const PgQuery__Node *q = n->sub_link->subselect;
            if (q == NULL || q->node_case != PG_QUERY__NODE__NODE_SELECT_STMT)
                return 0;
            const PgQuery__SelectStmt *s = q->select_stmt;
            for (int i = 0; s->larg != NULL && i < DEPTH_MAX; i++)
                s = s->larg;
            if (s->n_target_list == 0 || s->target_list[0]->node_case != PG_QUERY__NODE__NODE_RES_TARGET)
                return 0;
            const PgQuery__ResTarget *t = s->target_list[0]->res_target;
            if (t->name != NULL && t->name[0] != 0) {
                *ret = str_c(t->name);
                return 2;
            }
            return figure(t->val, ret, depth + 1);
        }
        default:
            return 0;
        }
    case PG_QUERY__NODE__NODE_CASE_EXPR: {
        int r = figure(n->case_expr->defresult, ret, depth + 1);
        if (r <= 1) {
            *ret = STR("case");
            return 1;
        }
        return r;
    }
    case PG_QUERY__NODE__NODE_A_ARRAY_EXPR:
        *ret = STR("array");
        return 2;
    case PG_QUERY__NODE__NODE_ROW_EXPR:
        *ret = STR("row");
        return 2;
    case PG_QUERY__NODE__NODE_COALESCE_EXPR:
        *ret = STR("coalesce");
        return 2;
    case PG_QUERY__NODE__NODE_MIN_MAX_EXPR:
        *ret = n->min_max_expr->op == PG_QUERY__MIN_MAX_OP__IS_GREATEST ? STR("greatest") : STR("least");
        return 2;
    case PG_QUERY__NODE__NODE_SQLVALUE_FUNCTION: {
        static const char *const names[] = {"", "current_date", "current_time", "current_time", "current_timestamp",
            "current_timestamp", "localtime", "localtime", "localtimestamp", "localtimestamp", "current_role",
            "current_user", "user", "session_user", "current_catalog", "current_schema"};
        unsigned op = (unsigned)n->sqlvalue_function->op;
        if (op >= sizeof names / sizeof *names)
            return 0;
        *ret = str_c(names[op]);
        return 2;
    }
    default:
        return 0;
    }
}

struct str node_string_last(PgQuery__Node **v, size_t n)
{
    return n == 0 ? STR("?column?") : node_string(v[n - 1]);
}

struct str figure_name(const PgQuery__Node *n)
{
    struct str r = STR("?column?");
    if (figure(n, &r, 0) == 0 || r.ptr == NULL)
        return STR("?column?");
    return r;
}

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

static void target_list(struct pr *p, const PgQuery__SelectStmt *s, bool top, struct names *ret,
    struct names *sources)
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
        put_output(p, text, name, e.type == T_LITERAL ? T_TEXT : e.type, top, ret, sources);
    }
    if (ret->n == 0 && !pr_failed(p))
        pr_unsupported(p, -1, "an empty select list");
}

/* ORDER BY 2, or by an output's name: its number. 0: neither. */
static int output_number(struct pr *p, const PgQuery__Node *n, const struct names *outputs, const char *clause)
{
    if (n == NULL || pr_failed(p))
        return 0;
    if (n->node_case == PG_QUERY__NODE__NODE_A_CONST) {
        const PgQuery__AConst *c = n->a_const;
        if (c->val_case != PG_QUERY__A__CONST__VAL_IVAL) {
            if (!c->isnull)
                pr_fail(p, ERR_SYNTAX, c->location, "non-integer constant in %s", clause);
            return 0;
        }
        if (c->ival->ival < 1 || c->ival->ival > outputs->n) {
            pr_fail(p, ERR_UNDEFINED_COLUMN, c->location, "%s position %d is not in select list", clause,
                (int)c->ival->ival);
            return 0;
        }
        return (int)c->ival->ival;
    }
    if (n->node_case != PG_QUERY__NODE__NODE_COLUMN_REF || n->column_ref->n_fields != 1)
        return 0;
    struct str name = node_string(n->column_ref->fields[0]);
    int found = 0;
    for (int i = 0; i < outputs->n && name.ptr != NULL; i++) {
        if (!str_eq(outputs->v[i].name, name))
            continue;
        if (found > 0 && !str_eq(outputs->v[i].text, outputs->v[found - 1].text)) {
            pr_fail(p, ERR_UNDEFINED_COLUMN, n->column_ref->location, "%s \"%.*s\" is ambiguous", clause,
                STR_FMT(name));
            return 0;
        }
        if (found == 0)
            found = i + 1;
    }
    return found;
}

void pr_direction(struct pr *p, const PgQuery__SortBy *s)
{
    bool descending = s->sortby_dir == PG_QUERY__SORT_BY_DIR__SORTBY_DESC;
    if (s->sortby_dir == PG_QUERY__SORT_BY_DIR__SORTBY_USING) {
        struct str op = s->n_use_op == 1 ? node_string(s->use_op[0]) : STR_NULL;
        if (!str_eq(op, STR("<")) && !str_eq(op, STR(">"))) {
            pr_fail(p, ERR_TYPE_MISMATCH, s->location, "operator %.*s is not a valid ordering operator",
                STR_FMT(op));
            return;
        }
        descending = op.ptr[0] == '>';
    }
    bool first = s->sortby_nulls == PG_QUERY__SORT_BY_NULLS__SORTBY_NULLS_FIRST ||
                 (s->sortby_nulls != PG_QUERY__SORT_BY_NULLS__SORTBY_NULLS_LAST && descending);
    pr_put(p, descending ? " DESC" : " ASC");
    pr_put(p, first ? " NULLS FIRST" : " NULLS LAST");
}

void pr_order_by(struct pr *p, size_t n, PgQuery__Node **items, const struct names *outputs, bool only_outputs)
{
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        pr_put(p, i == 0 ? " ORDER BY " : ", ");
        if (items[i]->node_case != PG_QUERY__NODE__NODE_SORT_BY) {
            pr_unsupported(p, -1, "this ORDER BY");
            return;
        }
        const PgQuery__SortBy *s = items[i]->sort_by;
        int number = outputs == NULL ? 0 : output_number(p, s->node, outputs, "ORDER BY");
        if (number > 0)
            buf_printf(p->b, "%d", number);
        else if (only_outputs) {
            pr_fail(p, ERR_UNSUPPORTED, node_location(s->node),
                "invalid UNION/INTERSECT/EXCEPT ORDER BY clause");
            err_detail(p->ec, "Only result column names can be used, not expressions or functions.");
        } else
            pr_expr(p, s->node);
        pr_direction(p, s);
    }
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
        pr_fail(p, ERR_TYPE_MISMATCH, node_location(n), "argument of %s must be type bigint, not type %s", clause,
            type_name(e.type));
    pr_insert(p, at, pr_format(p, " %s CAST(", clause));
    pr_put(p, " AS BIGINT)");
}

static void limits(struct pr *p, const PgQuery__SelectStmt *s)
{
    if (s->limit_option == PG_QUERY__LIMIT_OPTION__LIMIT_OPTION_WITH_TIES)
        pr_unsupported(p, node_location(s->limit_count), "WITH TIES");
    row_count(p, "LIMIT", s->limit_count);
    row_count(p, "OFFSET", s->limit_offset);
}

static void group_item(struct pr *p, const PgQuery__Node *n, const struct names *sources, bool nested);

static void group_list(struct pr *p, size_t n, PgQuery__Node **items, const struct names *sources, bool nested)
{
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        if (i > 0)
            pr_put(p, ", ");
        group_item(p, items[i], sources, nested);
    }
}

static void grouping_set(struct pr *p, const PgQuery__GroupingSet *g, const struct names *sources)
{
    switch (g->kind) {
    case PG_QUERY__GROUPING_SET_KIND__GROUPING_SET_EMPTY:
        pr_put(p, "()");
        return;
    case PG_QUERY__GROUPING_SET_KIND__GROUPING_SET_ROLLUP:
        pr_put(p, "ROLLUP (");
        break;
    case PG_QUERY__GROUPING_SET_KIND__GROUPING_SET_CUBE:
        pr_put(p, "CUBE (");
        break;
    case PG_QUERY__GROUPING_SET_KIND__GROUPING_SET_SETS:
        pr_put(p, "GROUPING SETS (");
        break;
    default:
        pr_unsupported(p, g->location, "this grouping set");
        return;
    }
    group_list(p, g->n_content, g->content, sources, true);
    pr_put(p, ")");
}

/* The key of a base table in GROUP BY lets every column of it be used (functional dependency). */
static void note_key(struct pr *p, struct str text)
{
    struct scope *sc = p->scope;
    for (int i = 0; i < sc->nrelations; i++) {
        struct relation *r = &sc->relations[i];
        if (r->schema == NULL || r->schema == &schema_conversation_users)
            continue;
        struct str key = r->schema->columns[r->schema->key_column].name;
        for (int k = 0; k < r->columns.n; k++)
            if (str_eq(r->columns.v[k].text, text) && k == r->schema->key_column && key.len > 0)
                r->key_grouped = true;
    }
}

static void group_item(struct pr *p, const PgQuery__Node *n, const struct names *sources, bool nested)
{
    if (!pr_enter(p, node_location(n)))
        return;
    if (n->node_case == PG_QUERY__NODE__NODE_GROUPING_SET)
        grouping_set(p, n->grouping_set, sources);
    else if (n->node_case == PG_QUERY__NODE__NODE_ROW_EXPR && nested) {
        pr_put(p, "(");
        group_list(p, n->row_expr->n_args, n->row_expr->args, sources, true);
        pr_put(p, ")");
    } else {
        bool input = false;
        if (n->node_case == PG_QUERY__NODE__NODE_COLUMN_REF && n->column_ref->n_fields == 1) {
            struct str name = node_string(n->column_ref->fields[0]);
            for (int i = 0; i < p->scope->names.n && name.ptr != NULL; i++)
                input = input || str_eq(p->scope->names.v[i].name, name);
        }
        int number = input ? 0 : output_number(p, n, sources, "GROUP BY");
        if (number > 0) {
            /* The expression, not its number: a number means nothing inside a grouping set. */
            struct str text = sources->v[number - 1].text;
            note_key(p, text);
            buf_str(p->b, text);
        } else {
            size_t at = p->b->len;
            pr_expr(p, n);
            if (!pr_failed(p) && !p->b->failed)
                note_key(p, str_n(p->b->ptr + at, p->b->len - at));
        }
    }
    pr_leave(p);
}

static void group_by(struct pr *p, const PgQuery__SelectStmt *s, const struct names *sources)
{
    if (s->n_group_clause == 0)
        return;
    if (s->group_distinct)
        pr_unsupported(p, -1, "GROUP BY DISTINCT");
    pr_put(p, " GROUP BY ");
    bool sets = false;
    for (size_t i = 0; i < s->n_group_clause; i++)
        sets = sets || s->group_clause[i]->node_case == PG_QUERY__NODE__NODE_GROUPING_SET;
    group_list(p, s->n_group_clause, s->group_clause, sources, false);
    for (int i = 0; i < p->scope->nrelations && !sets; i++) {
        struct relation *r = &p->scope->relations[i];
        for (int k = 0; r->key_grouped && k < r->columns.n; k++) {
            pr_put(p, ", ");
            buf_str(p->b, r->columns.v[k].text);
        }
    }
}

static void distinct(struct pr *p, const PgQuery__SelectStmt *s, const struct names *sources)
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
        int number = output_number(p, s->distinct_clause[i], sources, "DISTINCT ON");
        if (number > 0)
            buf_str(p->b, sources->v[number - 1].text);
        else
            pr_expr(p, s->distinct_clause[i]);
    }
    pr_put(p, ") ");
}

/* Which rows a LIMIT takes must not depend on where rows sit: a plain query over one base table takes them by its key.
 * (The gate orders the outermost query.) */
static void default_order(struct pr *p, const PgQuery__SelectStmt *s)
{
    const struct scope *sc = p->scope;
    if (s->n_sort_clause > 0 || s->n_group_clause > 0 || s->having_clause != NULL || s->n_distinct_clause > 0 ||
        sc->has_aggregate || sc->has_set_function || s->n_from_clause != 1 ||
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
        pr_fail(p, ERR_TYPE_MISMATCH, node_location(n), "argument of%smust be type boolean, not type %s", keyword,
            type_name(e.type));
}

static void plain_select(struct pr *p, const PgQuery__SelectStmt *s, struct names *ret, enum place place)
{
    struct scope scope = {.outer = p->scope, .select = s};
    struct buf *out = p->b, from = BUF_INIT(out->max_bytes), list = BUF_INIT(out->max_bytes),
               tail = BUF_INIT(out->max_bytes);
    struct names sources = {0};
    p->scope = &scope;
    p->b = &from;
    pr_from(p, s->n_from_clause, s->from_clause);
    boolean_clause(p, " WHERE ", s->where_clause);
    if (scope.has_aggregate)
        pr_fail(p, ERR_SYNTAX, node_location(s->where_clause), "aggregate functions are not allowed in WHERE");
    p->b = &list;
    target_list(p, s, place != PLACE_INSIDE, ret, &sources);
    p->b = &tail;
    group_by(p, s, &sources);
    boolean_clause(p, " HAVING ", s->having_clause);
    pr_order_by(p, s->n_sort_clause, s->sort_clause, &sources, false);
    if (s->limit_count != NULL || s->limit_offset != NULL)
        default_order(p, s);
    limits(p, s);
    p->b = out;
    pr_put(p, "SELECT ");
    distinct(p, s, &sources);
    p->scope = scope.outer;
    out->failed = out->failed || from.failed || list.failed || tail.failed;
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
            pr_fail(p, ERR_SYNTAX, node_location(row->list->items[0]), "VALUES lists must all be the same length");
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
        struct str name = pr_format(p, "column%zu", k + 1), alias = pr_output_alias(p, name, place != PLACE_INSIDE);
        buf_printf(out, "%s\"v%d\".\"%zu\" AS ", k > 0 ? ", " : "", id, k + 1);
        buf_str(out, alias);
        names_add(p, ret, (struct column_name){.name = name, .text = alias,
            .type = types[k] == T_LITERAL || types[k] == T_NULL ? T_TEXT : types[k]});
    }
    pr_put(p, " FROM (VALUES ");
    out->failed = out->failed || rows.failed;
    buf_str(out, buf_view(&rows));
    buf_release(&rows);
    buf_printf(out, ") AS \"v%d\"(", id);
    for (size_t k = 0; k < n; k++)
        buf_printf(out, "%s\"%zu\"", k > 0 ? ", " : "", k + 1);
    pr_put(p, ")");
    pr_order_by(p, s->n_sort_clause, s->sort_clause, ret, true);
    limits(p, s);
}

static void set_operation(struct pr *p, const PgQuery__SelectStmt *s, struct names *ret, enum place place)
{
    static const char *const words[] = {"", "", " UNION ", " INTERSECT ", " EXCEPT "};
    struct names right = {0};
    pr_put(p, "(");
    pr_query(p, s->larg, ret, place == PLACE_INSIDE ? PLACE_INSIDE : PLACE_TOP_ARM);
    pr_put(p, ")");
    /* A recursive CTE sees itself in its second arm only, by the names and types of the first. */
    for (struct cte *c = p->ctes; c != NULL; c = c->next)
        if (c->body == s) {
            c->columns = *ret;
            cte_names(p, c->node, &c->columns);
        }
    pr_put(p, words[s->op]);
    if (s->all)
        pr_put(p, "ALL ");
    pr_put(p, "(");
    pr_query(p, s->rarg, &right, PLACE_INSIDE);
    pr_put(p, ")");
    if (!pr_failed(p) && right.n != ret->n)
        pr_fail(p, ERR_SYNTAX, s->rarg->n_target_list > 0 ? node_location(s->rarg->target_list[0]) : -1,
            "each%squery must have the same number of columns", words[s->op]);
    for (int i = 0; i < ret->n && i < right.n; i++)
        ret->v[i].type = type_common(ret->v[i].type, right.v[i].type);
}

void cte_names(struct pr *p, const PgQuery__CommonTableExpr *c, struct names *columns)
{
    if (c->n_aliascolnames > (size_t)columns->n)
        pr_fail(p, ERR_SYNTAX, c->location, "WITH query \"%s\" has %d columns available but %zu columns specified",
            c->ctename, columns->n, c->n_aliascolnames);
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
        pr_put(p, c->ctematerialized == PG_QUERY__CTEMATERIALIZE__CTEMaterializeAlways ? " AS MATERIALIZED (" :
               c->ctematerialized == PG_QUERY__CTEMATERIALIZE__CTEMaterializeNever ? " AS NOT MATERIALIZED (" :
                                                                                     " AS (");
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
        pr_order_by(p, s->n_sort_clause, s->sort_clause, ret, true);
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
