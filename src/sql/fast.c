/* Fast plans: what chat applications ask all day, recognised on the tree. A plan is made only where it means
 * exactly what the analytic path would answer; the printer has looked at the whole statement before and
 * refused what PostgreSQL refuses, so that nothing here needs to be an error. */
#include "sql/gate.h"
#include <string.h>

#define IN_VALUES_MAX 1000

int fast_column(struct gate *g, const struct fast_table *t, const PgQuery__Node *n)
{
    struct column_path c;
    if (!tree_column_path(n, &c))
        return -1;
    if (c.schema.ptr != NULL) {
        /* Only of an unaliased table, as in PostgreSQL, and only the caller's own or the very schema written.
         */
        if (t->rv->alias != NULL || !str_eq(c.table, t->alias) || t->rv->schemaname == NULL ||
            !str_eq(c.schema, str_c(t->rv->schemaname)) || c.schema.len >= IDENTIFIER_BYTES_MAX - 3)
            return -1;
    } else if (c.table.ptr != NULL ? !str_eq(c.table, t->alias) : !t->sole) {
        return -1;
    }
    (void)g;
    return schema_column(t->schema, c.column);
}

/* ---- predicates ------------------------------------------------------------------------------ */

static bool add_pred(
    struct gate *g, struct fast_preds *p, int column, enum pred_op op, int n, const struct value *values)
{
    if (p->n == p->cap) {
        int cap = p->cap == 0 ? 4 : p->cap * 2;
        struct pred *grown = arena_array(g->arena, (size_t)cap, sizeof *grown);
        if (grown == NULL)
            return false;
        if (p->n > 0)
            memcpy(grown, p->v, (size_t)p->n * sizeof *grown);
        p->v = grown;
        p->cap = cap;
    }
    p->v[p->n++] = (struct pred){column, op, n, values};
    return true;
}

/* One comparison; a NULL constant makes the condition never true. */
static bool add_compare(struct gate *g, const struct fast_table *t, struct fast_preds *p, int column,
    enum pred_op op, const PgQuery__Node *with)
{
    struct constant c;
    struct value v;
    if (!gate_constant_quiet(g, with, &c) || !gate_coerce(&c, t->schema->columns[column].type, &v)) {
        p->complete = false;
        return true;
    }
    if (value_is_null(v)) {
        p->never = true;
        return true;
    }
    struct value *copy = arena_alloc(g->arena, sizeof *copy);
    if (copy == NULL)
        return false;
    *copy = v;
    return add_pred(g, p, column, op, 1, copy);
}

static bool compare_op(struct str s, enum pred_op *ret)
{
    static const struct {
        const char *text;
        enum pred_op op;
    } ops[] = {
        {"=", PRED_EQ}, {"<>", PRED_NE}, {"<", PRED_LT}, {"<=", PRED_LE}, {">", PRED_GT}, {">=", PRED_GE}};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (str_eq(s, str_c(ops[i].text))) {
            *ret = ops[i].op;
            return true;
        }
    }
    return false;
}

static enum pred_op mirrored(enum pred_op op)
{
    switch (op) {
    case PRED_LT:
        return PRED_GT;
    case PRED_LE:
        return PRED_GE;
    case PRED_GT:
        return PRED_LT;
    case PRED_GE:
        return PRED_LE;
    default:
        return op;
    }
}

static bool where_compare(
    struct gate *g, const struct fast_table *t, const PgQuery__AExpr *e, struct fast_preds *p)
{
    enum pred_op op;
    if (e->n_name == 1 && e->lexpr != NULL && e->rexpr != NULL && compare_op(tree_text(e->name[0]), &op)) {
        int left = fast_column(g, t, e->lexpr);
        if (left >= 0)
            return add_compare(g, t, p, left, op, e->rexpr);
        int right = fast_column(g, t, e->rexpr);
        if (right >= 0)
            return add_compare(g, t, p, right, mirrored(op), e->lexpr);
    }
    p->complete = false;
    return true;
}

/* `col IN (…)` and `col = ANY (ARRAY[…])`: NULLs in the list can never match. NOT IN is a conjunction of <>,
 * and one NULL makes it never true. */
static bool where_list(struct gate *g, const struct fast_table *t, const PgQuery__AExpr *e, size_t n,
    PgQuery__Node *const *items, struct fast_preds *p)
{
    int column = fast_column(g, t, e->lexpr);
    bool in = e->n_name == 1 && str_eq(tree_text(e->name[0]), STR("="));
    bool not_in = e->n_name == 1 && str_eq(tree_text(e->name[0]), STR("<>"));
    if (column < 0 || n > IN_VALUES_MAX ||
        (!in && !(not_in && e->kind == PG_QUERY__A__EXPR__KIND__AEXPR_IN))) {
        p->complete = false;
        return true;
    }
    if (not_in) {
        for (size_t i = 0; i < n; i++) {
            if (!add_compare(g, t, p, column, PRED_NE, items[i]))
                return false;
        }
        return true;
    }
    struct value *values = arena_array(g->arena, n, sizeof *values);
    if (values == NULL)
        return false;
    int kept = 0;
    for (size_t i = 0; i < n; i++) {
        struct constant c;
        if (!gate_constant_quiet(g, items[i], &c) ||
            !gate_coerce(&c, t->schema->columns[column].type, &values[kept])) {
            p->complete = false;
            return true;
        }
        kept += !value_is_null(values[kept]);
    }
    if (kept == 0) {
        p->never = true;
        return true;
    }
    return add_pred(g, p, column, PRED_IN, kept, values);
}

static bool where_between(
    struct gate *g, const struct fast_table *t, const PgQuery__AExpr *e, struct fast_preds *p)
{
    int column = fast_column(g, t, e->lexpr);
    if (column < 0 || !tree_is(e->rexpr, NODE_CASE(LIST)) || e->rexpr->list->n_items != 2) {
        p->complete = false;
        return true;
    }
    return add_compare(g, t, p, column, PRED_GE, e->rexpr->list->items[0]) &&
           add_compare(g, t, p, column, PRED_LE, e->rexpr->list->items[1]);
}

static bool where_expr(
    struct gate *g, const struct fast_table *t, const PgQuery__AExpr *e, struct fast_preds *p)
{
    switch (e->kind) {
    case PG_QUERY__A__EXPR__KIND__AEXPR_OP:
        return where_compare(g, t, e, p);
    case PG_QUERY__A__EXPR__KIND__AEXPR_IN:
        if (tree_is(e->rexpr, NODE_CASE(LIST)))
            return where_list(g, t, e, e->rexpr->list->n_items, e->rexpr->list->items, p);
        break;
    case PG_QUERY__A__EXPR__KIND__AEXPR_OP_ANY:
        if (tree_is(e->rexpr, NODE_CASE(A_ARRAY_EXPR)))
            return where_list(
                g, t, e, e->rexpr->a_array_expr->n_elements, e->rexpr->a_array_expr->elements, p);
        break;
    case PG_QUERY__A__EXPR__KIND__AEXPR_BETWEEN:
        return where_between(g, t, e, p);
    default:
        break;
    }
    p->complete = false;
    return true;
}

static bool where_null_test(
    struct gate *g, const struct fast_table *t, const PgQuery__NullTest *n, struct fast_preds *p)
{
    int column = fast_column(g, t, n->arg);
    if (column < 0) {
        p->complete = false;
        return true;
    }
    bool is_null = n->nulltesttype == PG_QUERY__NULL_TEST_TYPE__IS_NULL;
    return add_pred(g, p, column, is_null ? PRED_IS_NULL : PRED_NOT_NULL, 0, NULL);
}

bool fast_where(struct gate *g, const struct fast_table *t, const PgQuery__Node *where, struct fast_preds *p)
{
    if (where == NULL)
        return true;
    switch (where->node_case) {
    case NODE_CASE(BOOL_EXPR):
        if (where->bool_expr->boolop != PG_QUERY__BOOL_EXPR_TYPE__AND_EXPR)
            break;
        for (size_t i = 0; i < where->bool_expr->n_args; i++) {
            if (!fast_where(g, t, where->bool_expr->args[i], p))
                return false;
        }
        return true;
    case NODE_CASE(A_EXPR):
        return where_expr(g, t, where->a_expr, p);
    case NODE_CASE(NULL_TEST):
        return where_null_test(g, t, where->null_test, p);
    case NODE_CASE(A_CONST):
        if (where->a_const->isnull) {
            p->never = true;
            return true;
        }
        if (where->a_const->val_case != PG_QUERY__A__CONST__VAL_BOOLVAL)
            break;
        p->never = p->never || !where->a_const->boolval->boolval;
        return true;
    default:
        break;
    }
    p->complete = false;
    return true;
}

/* ---- SELECT ---------------------------------------------------------------------------------- */

bool fast_single_table(const PgQuery__SelectStmt *s, struct fast_table *ret)
{
    if (s->op != PG_QUERY__SET_OPERATION__SETOP_NONE || s->with_clause != NULL || s->n_from_clause != 1 ||
        s->n_distinct_clause > 0 || s->n_group_clause > 0 || s->having_clause != NULL ||
        s->n_window_clause > 0 || s->n_values_lists > 0 || s->n_locking_clause > 0 ||
        s->into_clause != NULL || !tree_is(s->from_clause[0], NODE_CASE(RANGE_VAR)))
        return false;
    const PgQuery__RangeVar *rv = s->from_clause[0]->range_var;
    if (rv->alias != NULL && rv->alias->n_colnames > 0)
        return false;
    struct fast_table t = {.rv = rv, .schema = catalog_table(str_c(rv->relname)), .sole = true};
    t.alias = str_c(rv->alias != NULL ? rv->alias->aliasname : rv->relname);
    if (t.schema == NULL)
        return false;
    *ret = t;
    return true;
}

struct outputs {
    int n, cap;
    int *columns;
    struct str *names;
};

static bool add_output(struct outputs *o, int column, struct str name)
{
    if (o->n == o->cap)
        return false;
    o->columns[o->n] = column;
    o->names[o->n++] = name;
    return true;
}

/* False: an expression, or out of memory. */
static bool plan_outputs(
    struct gate *g, const PgQuery__SelectStmt *s, const struct fast_table *t, struct outputs *o)
{
    if (s->n_target_list == 0 || s->n_target_list > 1000)
        return false;
    o->cap = (int)s->n_target_list * (t->schema->ncolumns + 1);
    o->columns = arena_array(g->arena, (size_t)o->cap, sizeof *o->columns);
    o->names = arena_array(g->arena, (size_t)o->cap, sizeof *o->names);
    if (o->columns == NULL || o->names == NULL)
        return false;
    for (size_t i = 0; i < s->n_target_list; i++) {
        const PgQuery__ResTarget *r = s->target_list[i]->res_target;
        struct column_path star;
        if (tree_star_path(r->val, &star)) {
            if (star.schema.ptr != NULL || (star.table.ptr != NULL && !str_eq(star.table, t->alias)))
                return false;
            for (int c = 0; c < t->schema->ncolumns; c++) {
                if ((t->schema->columns[c].flags & COLUMN_HIDDEN) == 0 &&
                    !add_output(o, c, t->schema->columns[c].name))
                    return false;
            }
            continue;
        }
        int column = fast_column(g, t, r->val);
        if (column < 0)
            return false;
        struct str name = t->schema->columns[column].name;
        if (r->name != NULL && r->name[0] != '\0')
            name = arena_str(g->arena, str_c(r->name));
        if (name.ptr == NULL || !add_output(o, column, name))
            return false;
    }
    return true;
}

/* What `ORDER BY x` means: an output's name first, then its number, then an input column. -1: an expression.
 */
static int order_column(
    struct gate *g, const struct fast_table *t, const struct outputs *o, const PgQuery__Node *n)
{
    if (tree_is(n, NODE_CASE(A_CONST))) {
        if (n->a_const->val_case != PG_QUERY__A__CONST__VAL_IVAL || n->a_const->isnull)
            return -1;
        int number = n->a_const->ival->ival;
        return number >= 1 && number <= o->n ? o->columns[number - 1] : -1;
    }
    struct column_path c;
    if (tree_column_path(n, &c) && c.table.ptr == NULL) {
        int found = -1;
        for (int i = 0; i < o->n; i++) {
            if (!str_eq(o->names[i], c.column))
                continue;
            if (found >= 0 && found != o->columns[i])
                return -1; /* ambiguous */
            found = o->columns[i];
        }
        if (found >= 0)
            return found;
    }
    return fast_column(g, t, n);
}

static bool plan_order(struct gate *g, const PgQuery__SelectStmt *s, const struct fast_table *t,
    const struct outputs *o, struct fast_plan *plan)
{
    plan->order_column = -1;
    bool unique = t->schema != &schema_conversation_users; /* its key has two columns */
    for (size_t i = 0; i < s->n_sort_clause; i++) {
        const PgQuery__SortBy *by = s->sort_clause[i]->sort_by;
        int column = order_column(g, t, o, by->node);
        if (column < 0 || by->sortby_dir == PG_QUERY__SORT_BY_DIR__SORTBY_USING ||
            t->schema->columns[column].type == VALUE_JSON)
            return false;
        bool descending = by->sortby_dir == PG_QUERY__SORT_BY_DIR__SORTBY_DESC;
        bool nulls_first = by->sortby_nulls == PG_QUERY__SORT_BY_NULLS__SORTBY_NULLS_FIRST ||
                           (descending && by->sortby_nulls != PG_QUERY__SORT_BY_NULLS__SORTBY_NULLS_LAST);
        bool is_key = column == t->schema->key_column && unique;
        if (i == 0) {
            plan->order_column = column;
            plan->descending = descending;
            plan->nulls_first = nulls_first;
        } else if (!is_key) {
            return false;
        } else {
            plan->tie_descending = descending;
        }
        if (is_key) /* unique: what follows decides nothing, but must be a column */
            break;
    }
    return true;
}

/* LIMIT and OFFSET as numbers; NULL means none. False: something to compute. */
static bool plan_number(struct gate *g, const PgQuery__Node *n, int64_t none, int64_t *ret)
{
    struct constant c;
    struct value v;
    *ret = none;
    if (n == NULL)
        return true;
    if (!gate_constant_quiet(g, n, &c) || !gate_coerce(&c, VALUE_BIGINT, &v))
        return false;
    if (value_is_null(v))
        return true;
    *ret = v.i;
    return v.i >= 0;
}

/* SELECT count(*), alone. */
static bool plan_count(struct gate *g, const PgQuery__SelectStmt *s, struct fast_plan *plan)
{
    if (s->n_target_list != 1 || s->n_sort_clause > 0 || s->limit_count != NULL || s->limit_offset != NULL)
        return false;
    const PgQuery__ResTarget *r = s->target_list[0]->res_target;
    if (!tree_is(r->val, NODE_CASE(FUNC_CALL)))
        return false;
    const PgQuery__FuncCall *f = r->val->func_call;
    if (!tree_names_are(f->n_funcname, f->funcname, "count") || !f->agg_star || f->agg_filter != NULL ||
        f->over != NULL || f->n_agg_order > 0 || f->agg_distinct || f->agg_within_group)
        return false;
    struct str *name = arena_alloc(g->arena, sizeof *name);
    if (name == NULL)
        return false;
    *name = r->name != NULL && r->name[0] != '\0' ? arena_str(g->arena, str_c(r->name)) : STR("count");
    plan->count = true;
    plan->nout = 1;
    plan->out_names = name;
    return name->ptr != NULL;
}

static struct fast_plan *plan_of(struct gate *g, const struct fast_table *t, const PgQuery__Node *where)
{
    struct fast_preds preds = {.complete = true};
    struct fast_plan *plan = arena_alloc(g->arena, sizeof *plan);
    if (plan == NULL || !fast_where(g, t, where, &preds) || !preds.complete)
        return NULL;
    plan->never = preds.never;
    plan->npreds = preds.n;
    plan->preds = preds.v;
    plan->order_column = -1;
    plan->limit = -1;
    return plan;
}

enum err fast_plan_select(struct gate *g, const PgQuery__SelectStmt *s, struct fast_plan **ret)
{
    struct fast_table t;
    *ret = NULL;
    if (!fast_single_table(s, &t) || s->limit_option == PG_QUERY__LIMIT_OPTION__LIMIT_OPTION_WITH_TIES)
        return ERR_OK;
    struct fast_plan *plan = plan_of(g, &t, s->where_clause);
    struct outputs o = {0};
    bool ok = plan != NULL &&
              (plan_count(g, s, plan) || (plan_outputs(g, s, &t, &o) && plan_order(g, s, &t, &o, plan) &&
                                             plan_number(g, s->limit_count, -1, &plan->limit) &&
                                             plan_number(g, s->limit_offset, 0, &plan->offset)));
    if (arena_failed(g->arena))
        return gate_memory(g);
    if (!ok)
        return ERR_OK;
    if (!plan->count) {
        plan->nout = o.n;
        plan->out_columns = o.columns;
        plan->out_names = o.names;
    }
    *ret = plan;
    return ERR_OK;
}

enum err fast_plan_where(struct gate *g, const PgQuery__RangeVar *rv, const struct schema *schema,
    const PgQuery__Node *where, struct fast_plan **ret)
{
    struct fast_table t = {.rv = rv, .schema = schema, .sole = true};
    t.alias = str_c(rv->alias != NULL ? rv->alias->aliasname : rv->relname);
    *ret = plan_of(g, &t, where);
    return arena_failed(g->arena) ? gate_memory(g) : ERR_OK;
}
