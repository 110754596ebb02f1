/* Expressions other than operators and functions. */
#include "base/timefmt.h"
#include "sql/print_int.h"
#include <math.h>
#include <stdio.h>

struct ex pr_done(struct pr *p, size_t at, int type, int location)
{
    (void)p;
    return (struct ex){.type = type, .at = at, .location = location};
}

struct ex pr_expr_as(struct pr *p, const PgQuery__Node *n, int type)
{
    struct ex e = pr_expr(p, n);
    pr_coerce(p, &e, p->b->len, type);
    return e;
}

void pr_list(struct pr *p, size_t n, PgQuery__Node **items)
{
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        if (i > 0)
            pr_put(p, ", ");
        pr_expr(p, items[i]);
    }
}

void print_literal(struct buf *b, struct value v)
{
    switch (v.type) {
    case VALUE_NULL:
        buf_append(b, "NULL", 4);
        break;
    case VALUE_BOOL:
        buf_printf(b, "%s", v.i ? "true" : "false");
        break;
    case VALUE_BIGINT:
        buf_printf(b, "CAST('%lld' AS BIGINT)", (long long)v.i);
        break;
    case VALUE_DOUBLE:
        if (isnan(v.d))
            buf_printf(b, "CAST('NaN' AS DOUBLE)");
        else if (isinf(v.d))
            buf_printf(b, "CAST('%sInfinity' AS DOUBLE)", v.d < 0 ? "-" : "");
        else
            buf_printf(b, "CAST('%.17g' AS DOUBLE)", v.d);
        break;
    case VALUE_TIMESTAMPTZ:
    case VALUE_TIMESTAMP:
        buf_printf(b, "CAST('");
        time_format(b, v.i);
        if (v.type == VALUE_TIMESTAMP)
            b->len -= b->len > 0; /* the Z */
        buf_printf(b, "' AS %s)", v.type == VALUE_TIMESTAMP ? "TIMESTAMP" : "TIMESTAMPTZ");
        break;
    case VALUE_TEXT:
        pr_quoted(b, v.s);
        break;
    case VALUE_BLOB:
        buf_printf(b, "unhex('");
        for (size_t i = 0; i < v.s.len; i++)
            buf_printf(b, "%02x", (unsigned char)v.s.ptr[i]);
        buf_printf(b, "')");
        break;
    default:
        buf_printf(b, "CAST(");
        pr_quoted(b, v.s);
        buf_printf(b, " AS %s)",
            v.type == VALUE_JSON       ? "JSON"
            : v.type == VALUE_HUGEINT  ? "HUGEINT"
            : v.type == VALUE_DATE     ? "DATE"
            : v.type == VALUE_TIME     ? "TIME"
            : v.type == VALUE_INTERVAL ? "INTERVAL"
            : v.type == VALUE_UUID     ? "UUID"
                                       : "VARCHAR");
    }
}

static struct ex number_constant(struct pr *p, const char *text, int location)
{
    struct ex e = {.at = p->b->len, .constant = true, .text = str_c(text), .location = location};
    size_t len = strlen(text), digits = strspn(text, "+-0123456789");
    int64_t v;
    if (len == 0 || len > 400 || strspn(text, "+-0123456789.eE") != len) {
        pr_unsupported(p, location, "this number");
        return e;
    }
    e.type = T_NUMERIC;
    if (digits == len && str_to_i64(e.text, &v))
        e.type = T_BIGINT;
    const char *sign = text[0] == '-' ? "-" : "", *body = text[0] == '-' || text[0] == '+' ? text + 1 : text;
    /* DuckDB wants a digit before the point. */
    buf_printf(p->b, sign[0] != 0 ? "(%s%s%s)" : "%s%s%s", sign, body[0] == '.' ? "0" : "", body);
    return e;
}

static struct ex constant(struct pr *p, const PgQuery__AConst *c)
{
    struct ex e = {.at = p->b->len, .location = c->location};
    if (c->isnull) {
        pr_put(p, "NULL");
        e.type = T_NULL;
        return e;
    }
    switch (c->val_case) {
    case PG_QUERY__A__CONST__VAL_IVAL:
        e.type = T_INT;
        e.constant = true;
        e.text = pr_format(p, "%d", c->ival->ival);
        buf_printf(p->b, c->ival->ival < 0 ? "(%d)" : "%d", c->ival->ival);
        break;
    case PG_QUERY__A__CONST__VAL_FVAL:
        return number_constant(p, c->fval->fval, c->location);
    case PG_QUERY__A__CONST__VAL_BOOLVAL:
        pr_put(p, c->boolval->boolval ? "true" : "false");
        e.type = T_BOOL;
        break;
    case PG_QUERY__A__CONST__VAL_SVAL:
        e.type = T_LITERAL;
        e.constant = true;
        e.text = str_c(c->sval->sval);
        pr_quoted(p->b, e.text);
        break;
    default:
        pr_unsupported(p, c->location, "a bit string");
    }
    return e;
}

static struct ex param(struct pr *p, const PgQuery__ParamRef *r)
{
    struct ex e = {.at = p->b->len, .constant = true, .parameter = true, .location = r->location};
    if (r->number < 1 || r->number > p->api->nparams) {
        pr_fail(p, ERR_INVALID_REQUEST, r->location, "there is no parameter $%d", r->number);
        return e;
    }
    struct value v = p->api->params[r->number - 1];
    print_literal(p->b, v);
    e.type = v.type == VALUE_TEXT ? T_LITERAL : v.type == VALUE_NULL ? T_NULL : type_of_value(v.type);
    struct buf b = BUF_INIT(4096);
    switch (v.type) {
    case VALUE_BOOL:
        e.text = v.i ? STR("true") : STR("false");
        break;
    case VALUE_BIGINT:
        e.text = pr_format(p, "%lld", (long long)v.i);
        break;
    case VALUE_DOUBLE:
        e.text = pr_format(p, "%.17g", v.d);
        break;
    case VALUE_TIMESTAMPTZ:
        time_format(&b, v.i);
        e.text = arena_str(p->a, buf_view(&b));
        break;
    case VALUE_NULL:
        e.constant = false;
        break;
    default:
        e.text = v.s.ptr == NULL ? STR("") : v.s;
    }
    buf_release(&b);
    return e;
}

static struct ex bool_expr(struct pr *p, const PgQuery__BoolExpr *b)
{
    static const char *const words[] = {"", "AND", "OR", "NOT"};
    size_t at = p->b->len;
    if (b->boolop < 1 || b->boolop > 3 || b->n_args == 0)
        pr_unsupported(p, b->location, "this expression");
    else {
        const char *word = words[b->boolop];
        pr_put(p, b->boolop == PG_QUERY__BOOL_EXPR_TYPE__NOT_EXPR ? "(NOT " : "(");
        for (size_t i = 0; i < b->n_args && !pr_failed(p); i++) {
            if (i > 0)
                buf_printf(p->b, " %s ", word);
            struct ex e = pr_expr_as(p, b->args[i], T_BOOL);
            if (e.type != T_BOOL && e.type != T_ANY && e.type != T_NULL)
                pr_fail(p, ERR_TYPE_MISMATCH, node_location(b->args[i]),
                    "argument of %s must be type boolean, not type %s", word, type_name(e.type));
        }
        pr_put(p, ")");
    }
    return pr_done(p, at, T_BOOL, b->location);
}

/* Operands that must have one type: printed, and those that are constants given it. */
static int common_list(struct pr *p, size_t n, PgQuery__Node **items, const char *what, const char *separator)
{
    struct ex *e = pr_alloc(p, n, sizeof *e);
    struct str *texts = pr_alloc(p, n, sizeof *texts);
    int type = T_NULL;
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        size_t at = p->b->len;
        e[i] = pr_expr(p, items[i]);
        texts[i] = pr_cut(p, at);
        if (!type_comparable(type, e[i].type) && !e[i].parameter)
            pr_fail(p, ERR_TYPE_MISMATCH, node_location(items[i]), "%s types %s and %s cannot be matched",
                what, type_name(type), type_name(e[i].type));
        type = e[i].parameter && !type_comparable(type, e[i].type) ? type : type_common(type, e[i].type);
    }
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        pr_put(p, i > 0 ? separator : "");
        e[i].at = p->b->len;
        buf_str(p->b, texts[i]);
        pr_coerce(p, &e[i], p->b->len, type);
    }
    return type == T_LITERAL ? T_TEXT : type;
}

static struct ex case_expr(struct pr *p, const PgQuery__CaseExpr *c)
{
    size_t at = p->b->len, n = c->n_args;
    /* Results get one type; so do the operand and what it is compared with. */
    PgQuery__Node **results = pr_alloc(p, n + 1, sizeof(void *)), **keys = pr_alloc(p, n + 1, sizeof(void *));
    size_t nresults = 0;
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        if (c->args[i]->node_case != PG_QUERY__NODE__NODE_CASE_WHEN) {
            pr_unsupported(p, c->location, "this CASE");
            break;
        }
        results[nresults++] = c->args[i]->case_when->result;
        keys[i + 1] = c->args[i]->case_when->expr;
    }
    if (pr_failed(p))
        return pr_done(p, at, T_ANY, c->location);
    if (c->defresult != NULL)
        results[nresults++] = c->defresult;
    struct ex *e = pr_alloc(p, nresults + n + 1, sizeof *e);
    struct str *texts = pr_alloc(p, nresults + n + 1, sizeof *texts);
    int type = T_NULL, key = T_NULL;
    for (size_t i = 0; i < nresults && !pr_failed(p); i++) {
        e[i] = pr_expr(p, results[i]);
        texts[i] = pr_cut(p, at);
        if (!type_comparable(type, e[i].type) && !e[i].parameter)
            pr_fail(p, ERR_TYPE_MISMATCH, node_location(results[i]), "CASE types %s and %s cannot be matched",
                type_name(type), type_name(e[i].type));
        type = type_common(type, e[i].type);
    }
    keys[0] = c->arg;
    for (size_t i = c->arg != NULL ? 0 : 1; i <= n && !pr_failed(p); i++) {
        struct ex *k = &e[nresults + i];
        *k = pr_expr(p, keys[i]);
        texts[nresults + i] = pr_cut(p, at);
        int want = c->arg != NULL ? key : T_BOOL;
        if (!type_comparable(want, k->type) && !k->parameter)
            pr_fail(p, ERR_TYPE_MISMATCH, node_location(keys[i]),
                c->arg != NULL ? "operator does not exist: %s = %s"
                               : "argument of CASE/WHEN must be type %s, not type %s",
                type_name(want), type_name(k->type));
        key = c->arg != NULL ? type_common(key, k->type) : T_BOOL;
    }
    pr_put(p, "(CASE");
    for (size_t i = c->arg != NULL ? 0 : 1; i <= n && !pr_failed(p); i++) {
        struct ex *k = &e[nresults + i];
        pr_put(p, i > 0 ? " WHEN " : " ");
        k->at = p->b->len;
        buf_str(p->b, texts[nresults + i]);
        pr_coerce(p, k, p->b->len, key);
        if (i == 0)
            continue;
        pr_put(p, " THEN ");
        e[i - 1].at = p->b->len;
        buf_str(p->b, texts[i - 1]);
        pr_coerce(p, &e[i - 1], p->b->len, type);
    }
    if (c->defresult != NULL && !pr_failed(p)) {
        pr_put(p, " ELSE ");
        e[n].at = p->b->len;
        buf_str(p->b, texts[n]);
        pr_coerce(p, &e[n], p->b->len, type);
    }
    pr_put(p, " END)");
    return pr_done(p, at, type == T_LITERAL ? T_TEXT : type, c->location);
}

static struct ex sql_value(struct pr *p, const PgQuery__SQLValueFunction *f)
{
    size_t at = p->b->len;
    const struct value now = value_ts(p->api->now_us);
    switch (f->op) {
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_DATE:
        pr_put(p, "CAST(");
        print_literal(p->b, now);
        pr_put(p, " AS DATE)");
        return pr_done(p, at, T_DATE, f->location);
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_TIMESTAMP:
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_TIMESTAMP_N:
        print_literal(p->b, now);
        return pr_done(p, at, T_TIMESTAMPTZ, f->location);
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_LOCALTIMESTAMP:
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_LOCALTIMESTAMP_N:
        print_literal(p->b, (struct value){.type = VALUE_TIMESTAMP, .i = now.i});
        return pr_done(p, at, T_TIMESTAMP, f->location);
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_LOCALTIME:
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_LOCALTIME_N:
        pr_put(p, "CAST(");
        print_literal(p->b, (struct value){.type = VALUE_TIMESTAMP, .i = now.i});
        pr_put(p, " AS TIME)");
        return pr_done(p, at, T_TIME, f->location);
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_ROLE:
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_USER:
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_USER:
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_SESSION_USER:
    case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_SCHEMA:
        pr_quoted(p->b, p->api->user_id);
        return pr_done(p, at, T_TEXT, f->location);
    default:
        pr_unsupported(p, f->location, "this function");
        return pr_done(p, at, T_ANY, f->location);
    }
}

static struct ex indirection(struct pr *p, const PgQuery__AIndirection *n)
{
    size_t at = p->b->len;
    struct ex e = pr_expr(p, n->arg);
    pr_wrap(p, at, "(", ")");
    for (size_t i = 0; i < n->n_indirection && !pr_failed(p); i++) {
        const PgQuery__Node *k = n->indirection[i];
        if (k->node_case != PG_QUERY__NODE__NODE_A_INDICES) {
            pr_unsupported(p, e.location, "selecting a field of a value");
            break;
        }
        const PgQuery__AIndices *x = k->a_indices;
        if (e.type == T_JSON && !x->is_slice && x->uidx != NULL) {
            size_t key = p->b->len;
            struct ex r = pr_expr(p, x->uidx);
            (void)pr_json_operator(
                p, "->", (struct ex){.type = T_JSON, .at = at}, r, e.location, p->weight, &e);
            (void)key;
            continue;
        }
        if (!IS_ARRAY(e.type) && e.type != T_ANY) {
            pr_fail(p, ERR_TYPE_MISMATCH, e.location,
                "cannot subscript type %s because it does not support subscripting", type_name(e.type));
            break;
        }
        pr_put(p, "[");
        if (x->lidx != NULL)
            pr_expr_as(p, x->lidx, T_BIGINT);
        if (x->is_slice)
            pr_put(p, ":");
        if (x->uidx != NULL)
            pr_expr_as(p, x->uidx, T_BIGINT);
        pr_put(p, "]");
        if (!x->is_slice)
            e.type = IS_ARRAY(e.type) ? ELEMENT_OF(e.type) : T_ANY;
    }
    pr_wrap(p, at, "(", ")");
    return pr_done(p, at, e.type, e.location);
}

static struct ex array_expr(struct pr *p, const PgQuery__AArrayExpr *a)
{
    size_t at = p->b->len;
    pr_put(p, "[");
    int type = common_list(p, a->n_elements, a->elements, "ARRAY", ", ");
    pr_put(p, "]");
    return pr_done(
        p, at, IS_ARRAY(type) || type == T_NULL || type == T_ANY ? T_ANY : T_ARRAY | type, a->location);
}

static struct ex null_test(struct pr *p, const PgQuery__NullTest *n)
{
    size_t at = p->b->len;
    pr_put(p, "(");
    pr_expr(p, n->arg);
    pr_put(p, n->nulltesttype == PG_QUERY__NULL_TEST_TYPE__IS_NULL ? " IS NULL)" : " IS NOT NULL)");
    return pr_done(p, at, T_BOOL, n->location);
}

static struct ex boolean_test(struct pr *p, const PgQuery__BooleanTest *n)
{
    static const char *const words[] = {
        "", " IS TRUE)", " IS NOT TRUE)", " IS FALSE)", " IS NOT FALSE)", " IS NULL)", " IS NOT NULL)"};
    size_t at = p->b->len;
    if (n->booltesttype < 1 || n->booltesttype > 6) {
        pr_unsupported(p, n->location, "this test");
        return pr_done(p, at, T_BOOL, n->location);
    }
    pr_put(p, "(");
    struct ex e = pr_expr_as(p, n->arg, T_BOOL);
    if (e.type != T_BOOL && e.type != T_ANY && e.type != T_NULL)
        pr_fail(p, ERR_TYPE_MISMATCH, n->location, "argument of IS must be type boolean, not type %s",
            type_name(e.type));
    pr_put(p, words[n->booltesttype]);
    return pr_done(p, at, T_BOOL, n->location);
}

static struct ex collate(struct pr *p, const PgQuery__CollateClause *c)
{
    struct str name = c->n_collname == 0 ? STR("") : node_string(c->collname[c->n_collname - 1]);
    if (!str_eq(name, STR("C")) && !str_eq(name, STR("POSIX")) && !str_eq(name, STR("default")) &&
        !str_eq(name, STR("ucs_basic"))) {
        pr_fail(p, ERR_UNSUPPORTED, c->location, "collation \"%.*s\" does not exist", STR_FMT(name));
        err_hint(p->ec, "Text is compared by bytes: collation \"C\".");
    }
    return pr_expr(p, c->arg);
}

static struct ex min_max(struct pr *p, const PgQuery__MinMaxExpr *m)
{
    size_t at = p->b->len;
    bool greatest = m->op == PG_QUERY__MIN_MAX_OP__IS_GREATEST;
    pr_put(p, greatest ? "greatest(" : "least(");
    int type = common_list(p, m->n_args, m->args, greatest ? "GREATEST" : "LEAST", ", ");
    pr_put(p, ")");
    return pr_done(p, at, type, m->location);
}

static struct ex pr_node(struct pr *p, const PgQuery__Node *n)
{
    size_t at = p->b->len;
    int type;
    switch (n->node_case) {
    case PG_QUERY__NODE__NODE_A_CONST:
        return constant(p, n->a_const);
    case PG_QUERY__NODE__NODE_PARAM_REF:
        return param(p, n->param_ref);
    case PG_QUERY__NODE__NODE_COLUMN_REF:
        return pr_column(p, n->column_ref);
    case PG_QUERY__NODE__NODE_A_EXPR:
        return pr_operator(p, n->a_expr);
    case PG_QUERY__NODE__NODE_BOOL_EXPR:
        return bool_expr(p, n->bool_expr);
    case PG_QUERY__NODE__NODE_FUNC_CALL:
        return pr_function(p, n->func_call);
    case PG_QUERY__NODE__NODE_TYPE_CAST:
        return pr_cast(p, n->type_cast);
    case PG_QUERY__NODE__NODE_SUB_LINK:
        return pr_sublink(p, n->sub_link);
    case PG_QUERY__NODE__NODE_CASE_EXPR:
        return case_expr(p, n->case_expr);
    case PG_QUERY__NODE__NODE_COALESCE_EXPR:
        pr_put(p, "COALESCE(");
        type = common_list(p, n->coalesce_expr->n_args, n->coalesce_expr->args, "COALESCE", ", ");
        pr_put(p, ")");
        return pr_done(p, at, type, n->coalesce_expr->location);
    case PG_QUERY__NODE__NODE_MIN_MAX_EXPR:
        return min_max(p, n->min_max_expr);
    case PG_QUERY__NODE__NODE_NULL_TEST:
        return null_test(p, n->null_test);
    case PG_QUERY__NODE__NODE_BOOLEAN_TEST:
        return boolean_test(p, n->boolean_test);
    case PG_QUERY__NODE__NODE_SQLVALUE_FUNCTION:
        return sql_value(p, n->sqlvalue_function);
    case PG_QUERY__NODE__NODE_COLLATE_CLAUSE:
        return collate(p, n->collate_clause);
    case PG_QUERY__NODE__NODE_A_ARRAY_EXPR:
        return array_expr(p, n->a_array_expr);
    case PG_QUERY__NODE__NODE_A_INDIRECTION:
        return indirection(p, n->a_indirection);
    case PG_QUERY__NODE__NODE_ROW_EXPR:
        pr_put(p, "row(");
        pr_list(p, n->row_expr->n_args, n->row_expr->args);
        pr_put(p, ")");
        return pr_done(p, at, T_RECORD, n->row_expr->location);
    case PG_QUERY__NODE__NODE_GROUPING_FUNC:
        pr_put(p, "GROUPING(");
        pr_list(p, n->grouping_func->n_args, n->grouping_func->args);
        pr_put(p, ")");
        p->scope->has_aggregate = true;
        return pr_done(p, at, T_INT, n->grouping_func->location);
    case PG_QUERY__NODE__NODE_SET_TO_DEFAULT:
        pr_fail(p, ERR_SYNTAX, n->set_to_default->location, "DEFAULT is not allowed in this context");
        break;
    default:
        pr_unsupported(p, node_location(n), "this expression");
    }
    return pr_done(p, at, T_ANY, node_location(n));
}

struct ex pr_expr(struct pr *p, const PgQuery__Node *n)
{
    struct ex e = pr_done(p, p->b->len, T_ANY, -1);
    if (n == NULL) {
        pr_unsupported(p, -1, "this expression");
        return e;
    }
    if (pr_enter(p, node_location(n))) {
        p->weight++;
        e = pr_node(p, n);
    }
    pr_leave(p);
    return e;
}

static const PgQuery__WindowDef *window_named(struct pr *p, const char *name, int location)
{
    const PgQuery__SelectStmt *s = p->scope->select;
    for (size_t i = 0; s != NULL && i < s->n_window_clause; i++) {
        const PgQuery__Node *n = s->window_clause[i];
        if (n->node_case == PG_QUERY__NODE__NODE_WINDOW_DEF && strcmp(n->window_def->name, name) == 0)
            return n->window_def;
    }
    pr_fail(p, ERR_SYNTAX, location, "window \"%s\" does not exist", name);
    return NULL;
}

static void frame_bound(struct pr *p, int options, bool end, const PgQuery__Node *offset, int location)
{
    int shift = end ? 1 : 0;
    if (options & (0x20 << shift))
        pr_put(p, "UNBOUNDED PRECEDING");
    else if (options & (0x80 << shift))
        pr_put(p, "UNBOUNDED FOLLOWING");
    else if (options & (0x200 << shift))
        pr_put(p, "CURRENT ROW");
    else if ((options & ((0x800 | 0x2000) << shift)) && offset != NULL) {
        pr_expr_as(p, offset, (options & 0x2) ? T_INTERVAL : T_BIGINT);
        pr_put(p, options & (0x800 << shift) ? " PRECEDING" : " FOLLOWING");
    } else
        pr_unsupported(p, location, "this window frame");
}

/* The definition behind OVER, named windows put in place. Bits of frame_options: PostgreSQL's FRAMEOPTION_.
 */
void pr_window(struct pr *p, const PgQuery__WindowDef *w, int location)
{
    if (w->name != NULL && w->name[0] != 0) {
        const PgQuery__WindowDef *named = window_named(p, w->name, w->location);
        if (named == NULL)
            return;
        w = named;
    }
    size_t nparts = w->n_partition_clause, norders = w->n_order_clause;
    PgQuery__Node **parts = w->partition_clause, **orders = w->order_clause;
    const PgQuery__WindowDef *base = w;
    for (int i = 0; base->refname != NULL && base->refname[0] != 0 && !pr_failed(p); i++) {
        base = i > 32 ? NULL : window_named(p, base->refname, location);
        if (base == NULL) {
            pr_unsupported(p, location, "this window");
            return;
        }
        if (nparts == 0) {
            nparts = base->n_partition_clause;
            parts = base->partition_clause;
        }
        if (norders == 0) {
            norders = base->n_order_clause;
            orders = base->order_clause;
        }
    }
    pr_put(p, " OVER (");
    if (nparts > 0) {
        pr_put(p, "PARTITION BY ");
        pr_list(p, nparts, parts);
    }
    pr_order_by(p, norders, orders, NULL, NULL, false);
    int o = w->frame_options;
    if (o & 0x1) {
        pr_put(p, o & 0x4 ? " ROWS BETWEEN " : o & 0x8 ? " GROUPS BETWEEN " : " RANGE BETWEEN ");
        frame_bound(p, o, false, w->start_offset, location);
        pr_put(p, " AND ");
        frame_bound(p, o, true, w->end_offset, location);
        pr_put(p, o & 0x8000    ? " EXCLUDE CURRENT ROW"
                  : o & 0x10000 ? " EXCLUDE GROUP"
                  : o & 0x20000 ? " EXCLUDE TIES"
                                : "");
    }
    pr_put(p, ")");
}
