/* Operators, IN, LIKE, BETWEEN, ANY/ALL and subqueries as operands. */
#include "sql/print_int.h"
#include <stdlib.h>

struct ex op_undefined(struct pr *p, const char *op, const struct ex *l, const struct ex *r, int location)
{
    if (!pr_failed(p)) {
        if (l != NULL)
            pr_fail(p, ERR_TYPE_MISMATCH, location, "operator does not exist: %s %s %s", type_name(l->type),
                op, type_name(r->type));
        else
            pr_fail(p, ERR_TYPE_MISMATCH, location, "operator does not exist: %s %s", op, type_name(r->type));
        err_hint(p->ec, "No operator matches the given name and argument types. You might need to add "
                        "explicit type casts.");
    }
    return pr_done(p, l != NULL ? l->at : r->at, T_ANY, location);
}

/* Bytes grew by `n` before the right operand. */
static void wrap_left(struct pr *p, const struct ex *l, struct ex *r, const char *before, const char *after)
{
    pr_insert(p, r->at, str_c(after));
    pr_insert(p, l->at, str_c(before));
    r->at += strlen(before) + strlen(after);
}

void pr_unify(struct pr *p, struct ex *l, struct ex *r)
{
    pr_coerce(p, r, p->b->len, l->type);
    size_t before = p->b->len;
    pr_coerce(p, l, r->at, r->type);
    r->at += p->b->len - before; /* modular: it may also shrink */
}

void op_texts(struct pr *p, struct ex *l, struct ex *r)
{
    pr_coerce(p, r, p->b->len, T_TEXT);
    size_t before = p->b->len;
    pr_coerce(p, l, r->at, T_TEXT);
    r->at += p->b->len - before;
}

struct ex op_join(
    struct pr *p, const struct ex *l, const struct ex *r, const char *op, int type, int location)
{
    pr_insert(p, r->at, pr_format(p, " %s ", op));
    pr_wrap(p, l->at, "(", ")");
    return pr_done(p, l->at, type, location);
}

struct ex op_call(struct pr *p, const struct ex *l, const struct ex *r, const char *f, int type, int location)
{
    pr_insert(p, r->at, STR(", "));
    pr_wrap(p, l->at, f, ")");
    return pr_done(p, l->at, type, location);
}

static bool is_comparison(struct str op)
{
    return str_eq(op, STR("=")) || str_eq(op, STR("<>")) || str_eq(op, STR("<")) || str_eq(op, STR("<=")) ||
           str_eq(op, STR(">")) || str_eq(op, STR(">="));
}

static struct ex compare(struct pr *p, const char *op, struct ex l, struct ex r, int location)
{
    pr_unify(p, &l, &r);
    if (!type_comparable(l.type, r.type))
        return op_undefined(p, op, &l, &r, location);
    if (l.type == T_JSON || r.type == T_JSON) {
        if (op[0] != '=' && strcmp(op, "<>") != 0)
            return op_undefined(p, op, &l, &r, location);
        /* Without the white space that the text was written with. */
        wrap_left(p, &l, &r, "json(", ")");
        pr_wrap(p, r.at, "json(", ")");
    }
    return op_join(p, &l, &r, op, T_BOOL, location);
}

/* The divisor is a constant other than zero. */
static bool nonzero(const struct ex *r)
{
    if (!r->constant || !type_is_number(r->type) || r->text.ptr == NULL ||
        memchr(r->text.ptr, 'e', r->text.len) != NULL || memchr(r->text.ptr, 'E', r->text.len) != NULL)
        return false;
    for (size_t i = 0; i < r->text.len; i++)
        if (r->text.ptr[i] >= '1' && r->text.ptr[i] <= '9')
            return true;
    return false;
}

static struct ex time_arithmetic(struct pr *p, char op, struct ex l, struct ex r, int location)
{
    if (r.type == T_LITERAL && type_is_time(l.type)) {
        int64_t m, d, us;
        bool interval = op == '+' || interval_parse(r.text, &m, &d, &us);
        pr_coerce(p, &r, p->b->len, interval ? T_INTERVAL : l.type);
    } else if (r.type == T_LITERAL)
        pr_coerce(p, &r, p->b->len, T_INTERVAL);
    else if (l.type == T_LITERAL) {
        size_t before = p->b->len;
        pr_coerce(p, &l, r.at, op == '-' ? r.type : T_INTERVAL);
        r.at += p->b->len - before;
    }
    const char *o = op == '+' ? "+" : "-";
    int type = T_ANY;
    if (l.type == T_ANY || r.type == T_ANY)
        type = T_ANY;
    else if (type_is_time(l.type) && r.type == T_INTERVAL)
        type = l.type == T_DATE ? T_TIMESTAMP : l.type;
    else if (type_is_time(r.type) && l.type == T_INTERVAL && op == '+')
        type = r.type == T_DATE ? T_TIMESTAMP : r.type;
    else if (type_is_time(l.type) && type_is_time(r.type) && op == '-') {
        type = l.type == T_DATE && r.type == T_DATE ? T_INT : T_INTERVAL;
        if (type == T_INTERVAL && (l.type == T_DATE || r.type == T_DATE)) {
            wrap_left(p, &l, &r, "CAST(", " AS TIMESTAMP)");
            pr_wrap(p, r.at, "CAST(", " AS TIMESTAMP)");
        }
    } else if (l.type == T_DATE && (r.type == T_INT || r.type == T_BIGINT)) {
        pr_wrap(p, r.at, "CAST(", " AS INTEGER)");
        type = T_DATE;
    } else if (l.type == T_INT && r.type == T_DATE && op == '+')
        type = T_DATE;
    else if (l.type == T_INTERVAL && r.type == T_INTERVAL)
        type = T_INTERVAL;
    else if ((l.type == T_TIME && r.type == T_INTERVAL) || (l.type == T_DATE && r.type == T_TIME))
        type = l.type == T_TIME ? T_TIME : T_TIMESTAMP;
    else if (l.type == T_NULL || r.type == T_NULL)
        type = l.type == T_NULL ? r.type : l.type;
    else
        return op_undefined(p, o, &l, &r, location);
    return op_join(p, &l, &r, o, type, location);
}

static struct ex arithmetic(
    struct pr *p, const char *op, struct ex l, struct ex r, size_t before, int location)
{
    bool time = type_is_time(l.type) || type_is_time(r.type) || l.type == T_INTERVAL ||
                r.type == T_INTERVAL || l.type == T_TIME || r.type == T_TIME;
    if (time && (op[0] == '+' || op[0] == '-'))
        return time_arithmetic(p, op[0], l, r, location);
    if (time) {
        bool left = l.type == T_INTERVAL;
        if (r.type == T_LITERAL)
            pr_coerce(p, &r, p->b->len, T_DOUBLE);
        if (!(left && type_is_number(r.type)) && !(op[0] == '*' && type_is_number(l.type)))
            return op_undefined(p, op, &l, &r, location);
        if (op[0] == '*')
            return left ? op_call(p, &l, &r, "kdb_interval_mul(", T_INTERVAL, location)
                        : op_call(p, &l, &r, "kdb_mul_interval(", T_INTERVAL, location);
        return op[0] == '/' ? op_call(p, &l, &r, "kdb_interval_div(", T_INTERVAL, location)
                            : op_undefined(p, op, &l, &r, location);
    }
    pr_unify(p, &l, &r);
    if (l.type == T_LITERAL || r.type == T_LITERAL ||
        (l.type != T_ANY && l.type != T_NULL && !type_is_number(l.type)) ||
        (r.type != T_ANY && r.type != T_NULL && !type_is_number(r.type)))
        return op_undefined(p, op, &l, &r, location);
    int type = type_common(l.type, r.type);
    if (op[0] == '^')
        return op_call(p, &l, &r, "kdb_power(", type == T_NUMERIC ? T_NUMERIC : T_DOUBLE, location);
    if (op[0] != '/' && op[0] != '%')
        return op_join(p, &l, &r, op, type, location);
    if (r.type == T_NULL || nonzero(&r))
        return op_join(p, &l, &r, op[0] == '/' ? "//" : "%", type, location);
    /* Division by zero is an error, which DuckDB answers with NULL. */
    pr_repeat(p, before, 2);
    return op_call(p, &l, &r, op[0] == '/' ? "kdb_div(" : "kdb_mod(", type, location);
}

static struct ex concatenate(struct pr *p, struct ex l, struct ex r, int location)
{
    if (IS_ARRAY(l.type) || IS_ARRAY(r.type)) {
        if (IS_ARRAY(l.type) && r.type == T_LITERAL && r.text.len > 0 && r.text.ptr[0] == '{')
            pr_coerce(p, &r, p->b->len, l.type);
        else if (IS_ARRAY(l.type) && !IS_ARRAY(r.type)) {
            pr_coerce(p, &r, p->b->len, ELEMENT_OF(l.type));
            return op_call(p, &l, &r, "list_append(", l.type, location);
        } else if (!IS_ARRAY(l.type))
            return op_call(p, &l, &r, "list_prepend(", r.type, location);
        return op_join(p, &l, &r, "||", l.type, location);
    }
    bool text = l.type == T_TEXT || l.type == T_LITERAL || r.type == T_TEXT || r.type == T_LITERAL ||
                l.type == T_ANY || r.type == T_ANY || l.type == T_NULL || r.type == T_NULL;
    if (!text && !l.parameter && !r.parameter)
        return op_undefined(p, "||", &l, &r, location);
    const char *before, *after;
    if (l.type != T_ANY && type_text_wrapper(l.type, &before, &after))
        wrap_left(p, &l, &r, before, after);
    if (r.type != T_ANY)
        pr_to_text(p, &r);
    return op_join(p, &l, &r, "||", l.type == T_ANY && r.type == T_ANY ? T_ANY : T_TEXT, location);
}

static struct ex apply(struct pr *p, struct str op, struct ex l, struct ex r, size_t before, int location)
{
    char name[8] = "";
    const char *word;
    struct ex ret;
    memcpy(name, op.ptr, op.len < sizeof name ? op.len : sizeof name - 1);
    if (is_comparison(op))
        return compare(p, name, l, r, location);
    if (pr_like_operator(op, &word))
        return pr_like(p, word, op, l, r, STR_NULL, location);
    if (str_eq(op, STR("~")) || str_eq(op, STR("~*")) || str_eq(op, STR("!~")) || str_eq(op, STR("!~*")))
        return pr_regexp(p, name, l, r, location);
    if (pr_json_operator(p, name, l, r, location, before, &ret))
        return ret;
    if (op.len == 1 && strchr("+-*/%^", name[0]) != NULL)
        return arithmetic(p, name, l, r, before, location);
    if (str_eq(op, STR("||")))
        return concatenate(p, l, r, location);
    if (str_eq(op, STR("^@")) && pr_textual(&l) && pr_textual(&r))
        return op_call(p, &l, &r, "starts_with(", T_BOOL, location);
    if (IS_ARRAY(l.type) || IS_ARRAY(r.type)) {
        pr_unify(p, &l, &r);
        bool arrays = (IS_ARRAY(l.type) || l.type == T_ANY) && (IS_ARRAY(r.type) || r.type == T_ANY);
        if (!arrays || !type_comparable(l.type, r.type))
            return op_undefined(p, name, &l, &r, location);
        if (str_eq(op, STR("&&")))
            return op_call(p, &l, &r, "list_has_any(", T_BOOL, location);
        if (str_eq(op, STR("@>")))
            return op_call(p, &l, &r, "list_has_all(", T_BOOL, location);
        if (str_eq(op, STR("<@")))
            return op_call(p, &l, &r, "kdb_list_in(", T_BOOL, location);
    }
    bool bits = (l.type == T_INT || l.type == T_BIGINT || l.type == T_ANY || l.type == T_LITERAL) &&
                (r.type == T_INT || r.type == T_BIGINT || r.type == T_ANY || r.type == T_LITERAL);
    if (bits &&
        (str_eq(op, STR("&")) || str_eq(op, STR("|")) || str_eq(op, STR("<<")) || str_eq(op, STR(">>")))) {
        pr_unify(p, &l, &r);
        return op_join(p, &l, &r, name, op.len == 2 ? l.type : type_common(l.type, r.type), location);
    }
    if (bits && str_eq(op, STR("#")))
        return op_call(p, &l, &r, "xor(", type_common(l.type, r.type), location);
    return op_undefined(p, name, &l, &r, location);
}

static struct ex unary(struct pr *p, struct str op, const PgQuery__Node *n, int location)
{
    static const struct {
        const char *op, *text;
        int type; /* T_ANY: the operand's */
    } known[] = {{"-", "(- ", T_ANY}, {"+", "(+ ", T_ANY}, {"~", "(~ ", T_ANY}, {"@", "abs(", T_ANY},
        {"|/", "sqrt(", T_DOUBLE}, {"||/", "cbrt(", T_DOUBLE}};
    struct ex e = pr_expr(p, n);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!str_eq(op, str_c(known[i].op)))
            continue;
        pr_coerce(p, &e, p->b->len, T_DOUBLE);
        bool bits = op.ptr[0] == '~' && (e.type == T_DOUBLE || e.type == T_NUMERIC);
        bool ok = (type_is_number(e.type) && !bits) || e.type == T_ANY || e.type == T_NULL ||
                  (e.type == T_INTERVAL && op.ptr[0] == '-');
        if (!ok)
            break;
        pr_wrap(p, e.at, known[i].text, ")");
        return pr_done(p, e.at, known[i].type == T_ANY ? e.type : known[i].type, location);
    }
    char name[8] = "";
    memcpy(name, op.ptr, op.len < sizeof name ? op.len : sizeof name - 1);
    return op_undefined(p, name, NULL, &e, location);
}

/* (a, b) op (c, d), pair by pair: PostgreSQL's NULLs, and each pair with its own types. */
static struct ex row_compare(
    struct pr *p, struct str op, const PgQuery__RowExpr *l, const PgQuery__RowExpr *r, int location)
{
    size_t at = p->b->len, n = l->n_args;
    if (r->n_args != n || n == 0) {
        pr_fail(p, ERR_SYNTAX, location, "unequal number of entries in row expressions");
        return pr_done(p, at, T_BOOL, location);
    }
    bool equal = str_eq(op, STR("=")), differ = str_eq(op, STR("<>"));
    pr_put(p, "(");
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        if (equal || differ) {
            pr_put(p, i == 0 ? "" : equal ? " AND " : " OR ");
        } else if (i > 0) {
            struct ex a = pr_expr(p, l->args[i - 1]), b = pr_expr(p, r->args[i - 1]);
            compare(p, "=", a, b, location);
            pr_put(p, " AND (");
        }
        bool last = i + 1 == n;
        char strict[3] = {op.ptr[0], 0, 0};
        char full[3] = {op.ptr[0], op.len > 1 ? op.ptr[1] : '\0', 0};
        struct ex a = pr_expr(p, l->args[i]), b = pr_expr(p, r->args[i]);
        compare(p, last || equal || differ ? full : strict, a, b, location);
        if (!equal && !differ && !last)
            pr_put(p, " OR (");
    }
    for (size_t i = 1; i < n && !equal && !differ; i++)
        pr_put(p, "))");
    pr_put(p, ")");
    return pr_done(p, at, T_BOOL, location);
}

static const PgQuery__RowExpr *row_of(const PgQuery__Node *n)
{
    return n != NULL && n->node_case == PG_QUERY__NODE__NODE_ROW_EXPR ? n->row_expr : NULL;
}

static struct ex in_list(struct pr *p, const PgQuery__AExpr *e, bool negated)
{
    size_t at = p->b->len;
    const PgQuery__Node *list = e->rexpr;
    if (list == NULL || list->node_case != PG_QUERY__NODE__NODE_LIST) {
        pr_unsupported(p, e->location, "this IN");
        return pr_done(p, at, T_BOOL, e->location);
    }
    const PgQuery__RowExpr *row = row_of(e->lexpr);
    if (row != NULL) {
        pr_put(p, negated ? "(NOT (" : "((");
        for (size_t i = 0; i < list->list->n_items && !pr_failed(p); i++) {
            const PgQuery__RowExpr *item = row_of(list->list->items[i]);
            pr_put(p, i > 0 ? " OR " : "");
            if (item == NULL)
                pr_unsupported(p, e->location, "IN of a row and something else");
            else
                row_compare(p, STR("="), row, item, e->location);
        }
        pr_put(p, "))");
        return pr_done(p, at, T_BOOL, e->location);
    }
    struct ex l = pr_expr(p, e->lexpr);
    struct str text = pr_cut(p, at);
    pr_put(p, "(");
    size_t left = p->b->len;
    buf_str(p->b, text);
    l.at = left;
    struct buf *out = p->b, items = BUF_INIT(out->max_bytes);
    p->b = &items;
    for (size_t i = 0; i < list->list->n_items && !pr_failed(p); i++) {
        pr_put(p, i > 0 ? ", " : "");
        struct ex r = pr_expr(p, list->list->items[i]);
        pr_coerce(p, &r, p->b->len, l.type);
        if (l.type == T_LITERAL && r.type != T_LITERAL && l.constant) {
            p->b = out;
            pr_coerce(p, &l, p->b->len, r.type);
            p->b = &items;
        }
        if (!type_comparable(l.type, r.type)) {
            op_undefined(p, negated ? "<>" : "=", &l, &r, e->location);
            break;
        }
    }
    p->b = out;
    pr_put(p, negated ? " NOT IN (" : " IN (");
    out->failed = out->failed || items.failed;
    buf_str(out, buf_view(&items));
    buf_release(&items);
    pr_put(p, "))");
    return pr_done(p, at, T_BOOL, e->location);
}

static struct ex between(struct pr *p, const PgQuery__AExpr *e, bool negated, bool symmetric)
{
    size_t at = p->b->len, before = p->weight;
    if (e->rexpr == NULL || e->rexpr->node_case != PG_QUERY__NODE__NODE_LIST ||
        e->rexpr->list->n_items != 2) {
        pr_unsupported(p, e->location, "this BETWEEN");
        return pr_done(p, at, T_BOOL, e->location);
    }
    PgQuery__Node *const *bounds = e->rexpr->list->items;
    struct buf *out = p->b, part = BUF_INIT(out->max_bytes);
    struct str half[4] = {STR(""), STR(""), STR(""), STR("")};
    /* x >= a AND x <= b, each with its own types, as PostgreSQL has it. */
    p->b = &part;
    for (int i = 0; i < (symmetric ? 4 : 2) && !pr_failed(p); i++) {
        struct ex l = pr_expr(p, e->lexpr), r = pr_expr(p, bounds[i == 1 || i == 2]);
        compare(p, i % 2 == 0 ? ">=" : "<=", l, r, e->location);
        half[i] = pr_cut(p, 0);
    }
    p->b = out;
    buf_release(&part);
    pr_repeat(p, before, 1);
    buf_printf(out, symmetric ? "(%s((%.*s AND %.*s) OR (" : "(%s(%.*s AND %.*s", negated ? "NOT " : "",
        STR_FMT(half[0]), STR_FMT(half[1]));
    if (symmetric) {
        buf_str(out, half[2]);
        pr_put(p, " AND ");
        buf_str(out, half[3]);
        pr_put(p, "))");
    } else
        pr_put(p, ")");
    pr_put(p, ")");
    return pr_done(p, at, T_BOOL, e->location);
}

/* x op ANY (array). A JSON array parameter stands for an array. */
static struct ex any_array(struct pr *p, const PgQuery__AExpr *e, struct str op, bool all)
{
    size_t at = p->b->len, weight = p->weight;
    struct ex l = pr_expr(p, e->lexpr), r = pr_expr(p, e->rexpr);
    char name[8] = "";
    memcpy(name, op.ptr, op.len < sizeof name ? op.len : sizeof name - 1);
    if (r.constant && r.type == T_LITERAL)
        pr_coerce(p, &r, p->b->len, T_ARRAY | (l.type == T_LITERAL || l.type == T_ANY ? T_TEXT : l.type));
    else if (r.parameter && r.type == T_JSON) {
        const char *element = type_duckdb(l.type);
        pr_wrap(p, r.at, "CAST(", element == NULL ? " AS VARCHAR[])" : "");
        if (element != NULL)
            buf_printf(p->b, " AS %s[])", element);
        r.type = T_ARRAY | (element == NULL ? T_TEXT : l.type);
    }
    if (!IS_ARRAY(r.type) && r.type != T_ANY && r.type != T_NULL)
        pr_fail(p, ERR_TYPE_MISMATCH, e->location, "op ANY/ALL (array) requires array on right side");
    if (IS_ARRAY(r.type) && l.constant) {
        size_t before = p->b->len;
        pr_coerce(p, &l, r.at, ELEMENT_OF(r.type));
        r.at += p->b->len - before;
    }
    if (IS_ARRAY(r.type) && !type_comparable(l.type, ELEMENT_OF(r.type)))
        return op_undefined(p, name, &l, &(struct ex){.type = ELEMENT_OF(r.type)}, e->location);
    if (is_comparison(op)) {
        pr_put(p, ")");
        pr_insert(p, r.at, pr_format(p, " %s %s(", name, all ? "ALL" : "ANY"));
        pr_wrap(p, at, "(", ")");
        return pr_done(p, at, T_BOOL, e->location);
    }
    /* Other operators: over the elements one by one. */
    struct str list = pr_cut(p, r.at), left = pr_cut(p, at);
    int id = p->next++;
    (void)weight;
    buf_printf(p->b, "kdb_%s(list_transform(%.*s, lambda kdb_x%d: ", all ? "all" : "any", STR_FMT(list), id);
    l.at = p->b->len;
    buf_str(p->b, left);
    struct ex item = {
        .type = IS_ARRAY(r.type) ? ELEMENT_OF(r.type) : T_ANY, .at = p->b->len, .location = e->location};
    buf_printf(p->b, "kdb_x%d", id);
    apply(p, op, l, item, p->weight, e->location);
    pr_put(p, "))");
    return pr_done(p, at, T_BOOL, e->location);
}

static struct str operator_name(struct pr *p, size_t n, PgQuery__Node **name, int location)
{
    struct str op = n == 0 ? STR_NULL : node_string(name[n - 1]);
    if (op.ptr == NULL || op.len > 7 || n > 2 ||
        (n == 2 && !str_eq(node_string(name[0]), STR("pg_catalog")))) {
        pr_unsupported(p, location, "this operator");
        return STR("=");
    }
    return op;
}

struct ex pr_operator(struct pr *p, const PgQuery__AExpr *e)
{
    size_t at = p->b->len, before = p->weight;
    /* The others carry their keyword there. */
    bool named = e->kind < PG_QUERY__A__EXPR__KIND__AEXPR_BETWEEN;
    struct str op = named ? operator_name(p, e->n_name, e->name, e->location) : STR("=");
    struct ex l, r;
    if (pr_failed(p))
        return pr_done(p, at, T_ANY, e->location);
    switch (e->kind) {
    case PG_QUERY__A__EXPR__KIND__AEXPR_OP:
        if (e->lexpr == NULL)
            return unary(p, op, e->rexpr, e->location);
        if (row_of(e->lexpr) != NULL && row_of(e->rexpr) != NULL && is_comparison(op))
            return row_compare(p, op, row_of(e->lexpr), row_of(e->rexpr), e->location);
        l = pr_expr(p, e->lexpr);
        r = pr_expr(p, e->rexpr);
        return apply(p, op, l, r, before, e->location);
    case PG_QUERY__A__EXPR__KIND__AEXPR_OP_ANY:
    case PG_QUERY__A__EXPR__KIND__AEXPR_OP_ALL:
        return any_array(p, e, op, e->kind == PG_QUERY__A__EXPR__KIND__AEXPR_OP_ALL);
    case PG_QUERY__A__EXPR__KIND__AEXPR_DISTINCT:
    case PG_QUERY__A__EXPR__KIND__AEXPR_NOT_DISTINCT:
    case PG_QUERY__A__EXPR__KIND__AEXPR_NULLIF:
        l = pr_expr(p, e->lexpr);
        r = pr_expr(p, e->rexpr);
        pr_unify(p, &l, &r);
        if (!type_comparable(l.type, r.type))
            return op_undefined(p, "=", &l, &r, e->location);
        if (e->kind == PG_QUERY__A__EXPR__KIND__AEXPR_NULLIF)
            return op_call(p, &l, &r, "NULLIF(", l.type == T_LITERAL ? T_TEXT : l.type, e->location);
        return op_join(p, &l, &r,
            e->kind == PG_QUERY__A__EXPR__KIND__AEXPR_DISTINCT ? "IS DISTINCT FROM" : "IS NOT DISTINCT FROM",
            T_BOOL, e->location);
    case PG_QUERY__A__EXPR__KIND__AEXPR_IN:
        return in_list(p, e, str_eq(op, STR("<>")));
    case PG_QUERY__A__EXPR__KIND__AEXPR_LIKE:
    case PG_QUERY__A__EXPR__KIND__AEXPR_ILIKE:
        return pr_like_expr(p, e, op);
    case PG_QUERY__A__EXPR__KIND__AEXPR_SIMILAR:
        return pr_similar(p, e, op.ptr[0] == '!');
    case PG_QUERY__A__EXPR__KIND__AEXPR_BETWEEN:
        return between(p, e, false, false);
    case PG_QUERY__A__EXPR__KIND__AEXPR_NOT_BETWEEN:
        return between(p, e, true, false);
    case PG_QUERY__A__EXPR__KIND__AEXPR_BETWEEN_SYM:
        return between(p, e, false, true);
    case PG_QUERY__A__EXPR__KIND__AEXPR_NOT_BETWEEN_SYM:
        return between(p, e, true, true);
    default:
        pr_unsupported(p, e->location, "this operator");
        return pr_done(p, at, T_ANY, e->location);
    }
}

struct ex pr_sublink(struct pr *p, const PgQuery__SubLink *s)
{
    size_t at = p->b->len;
    struct names cols = {0};
    int type = T_BOOL;
    switch (s->sub_link_type) {
    case PG_QUERY__SUB_LINK_TYPE__EXISTS_SUBLINK:
        pr_put(p, "EXISTS (");
        pr_query_node(p, s->subselect, &cols);
        pr_put(p, ")");
        return pr_done(p, at, T_BOOL, s->location);
    case PG_QUERY__SUB_LINK_TYPE__EXPR_SUBLINK:
    case PG_QUERY__SUB_LINK_TYPE__ARRAY_SUBLINK: {
        bool array = s->sub_link_type == PG_QUERY__SUB_LINK_TYPE__ARRAY_SUBLINK;
        pr_put(p, array ? "ARRAY(" : "(");
        pr_query_node(p, s->subselect, &cols);
        pr_put(p, ")");
        if (cols.n != 1)
            pr_fail(p, ERR_SYNTAX, s->location, "subquery must return only one column");
        type = cols.n == 1 ? cols.v[0].type : T_ANY;
        type = type == T_LITERAL ? T_TEXT : type;
        if (array)
            type = type < T_NTYPES && type > T_LITERAL ? T_ARRAY | type : T_ANY;
        return pr_done(p, at, type, s->location);
    }
    case PG_QUERY__SUB_LINK_TYPE__ANY_SUBLINK:
    case PG_QUERY__SUB_LINK_TYPE__ALL_SUBLINK:
        break;
    default:
        pr_unsupported(p, s->location, "this subquery");
        return pr_done(p, at, T_ANY, s->location);
    }
    struct str op =
        s->n_oper_name == 0 ? STR("=") : operator_name(p, s->n_oper_name, s->oper_name, s->location);
    const PgQuery__RowExpr *row = row_of(s->testexpr);
    if (!is_comparison(op) || (row != NULL && !str_eq(op, STR("=")))) {
        pr_unsupported(p, s->location, "this operator with a subquery");
        return pr_done(p, at, T_BOOL, s->location);
    }
    pr_put(p, "(");
    struct ex l = {.at = p->b->len, .type = T_RECORD};
    if (row != NULL) {
        pr_put(p, "(");
        pr_list(p, row->n_args, row->args);
        pr_put(p, ")");
    } else
        l = pr_expr(p, s->testexpr);
    size_t r = p->b->len;
    buf_printf(p->b, " %.*s %s (", STR_FMT(op),
        s->sub_link_type == PG_QUERY__SUB_LINK_TYPE__ALL_SUBLINK ? "ALL" : "ANY");
    pr_query_node(p, s->subselect, &cols);
    pr_put(p, "))");
    if (!pr_failed(p) && (size_t)cols.n != (row != NULL ? row->n_args : 1))
        pr_fail(p, ERR_SYNTAX, s->location,
            (size_t)cols.n > (row != NULL ? row->n_args : 1) ? "subquery has too many columns"
                                                             : "subquery has too few columns");
    if (row == NULL && cols.n == 1) {
        pr_coerce(p, &l, r, cols.v[0].type);
        if (!pr_failed(p) && !type_comparable(l.type, cols.v[0].type)) {
            char name[8] = "";
            memcpy(name, op.ptr, op.len);
            return op_undefined(p, name, &l, &(struct ex){.type = cols.v[0].type}, s->location);
        }
    }
    return pr_done(p, at, T_BOOL, s->location);
}
