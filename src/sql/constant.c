/* Expressions that are constants to PostgreSQL's eyes and need no engine: literals, parameters, signed
 * numbers, casts of these to simple types, the current time. What is not surely one is left to the analytic
 * path. */
#include "base/json.h"
#include "base/timefmt.h"
#include "sql/gate.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>

static enum constness constant(struct constant *ret, struct value v, bool untyped)
{
    *ret = (struct constant){v, untyped};
    return CONSTANT;
}

static enum constness constant_text(struct gate *g, struct str s, bool untyped, struct constant *ret)
{
    struct str copy = arena_str(g->arena, s);
    if (copy.ptr == NULL) {
        (void)gate_memory(g);
        return CONSTANT_ERROR;
    }
    return constant(ret, value_text(copy), untyped);
}

/* Integers beyond int4 and all decimals come as text. */
static enum constness constant_number(const char *text, struct constant *ret)
{
    int64_t i;
    if (str_to_i64(str_c(text), &i))
        return constant(ret, value_i64(i), false);
    errno = 0;
    double d = strtod(text, NULL);
    if (!isfinite(d) || errno == ERANGE || strchr(text, '.') == NULL)
        return NOT_CONSTANT; /* beyond bigint: numeric */
    return constant(ret, (struct value){.type = VALUE_DOUBLE, .d = d}, false);
}

static enum constness constant_literal(struct gate *g, const PgQuery__AConst *c, struct constant *ret)
{
    if (c->isnull)
        return constant(ret, VALUE_OF_NULL, true);
    switch (c->val_case) {
    case PG_QUERY__A__CONST__VAL_IVAL:
        return constant(ret, value_i64(c->ival->ival), false);
    case PG_QUERY__A__CONST__VAL_FVAL:
        return constant_number(c->fval->fval, ret);
    case PG_QUERY__A__CONST__VAL_BOOLVAL:
        return constant(ret, value_bool(c->boolval->boolval), false);
    case PG_QUERY__A__CONST__VAL_SVAL:
        return constant_text(g, str_c(c->sval->sval), true, ret);
    default:
        return NOT_CONSTANT;
    }
}

static enum constness constant_param(struct gate *g, const PgQuery__ParamRef *p, struct constant *ret)
{
    if (p->number < 1 || p->number > g->nparams) {
        (void)gate_fail(g, ERR_INVALID_REQUEST, p->location, "there is no parameter $%d", p->number);
        return CONSTANT_ERROR;
    }
    struct value v = g->params[p->number - 1];
    switch (v.type) {
    case VALUE_NULL:
        return constant(ret, v, true);
    case VALUE_BOOL:
    case VALUE_BIGINT:
    case VALUE_DOUBLE:
    case VALUE_TIMESTAMPTZ:
        return constant(ret, v, false);
    case VALUE_TEXT:
        return constant_text(g, v.s, true, ret);
    case VALUE_JSON:
        if (constant_text(g, v.s, false, ret) == CONSTANT_ERROR)
            return CONSTANT_ERROR;
        ret->value.type = VALUE_JSON;
        return CONSTANT;
    default:
        return NOT_CONSTANT;
    }
}

/* ---- casts ----------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static struct str trim(struct str s)
{
    while (s.len > 0 && is_space(s.ptr[0]))
        s = str_n(s.ptr + 1, s.len - 1);
    while (s.len > 0 && is_space(s.ptr[s.len - 1]))
        s.len--;
    return s;
}

static bool all_digits(struct str s)
{
    size_t i = s.len > 0 && (s.ptr[0] == '-' || s.ptr[0] == '+');
    if (i == s.len)
        return false;
    for (; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return false;
    }
    return true;
}

static enum constness cast_integer(
    struct gate *g, struct constant *c, int64_t max, const char *type, int location)
{
    int64_t i;
    if (c->value.type == VALUE_TEXT) {
        struct str s = trim(c->value.s);
        if (!str_to_i64(s, &i) || i > max || i < -max - 1) {
            if (all_digits(s))
                (void)gate_fail(g, ERR_INVALID_VALUE, location, "value \"%.*s\" is out of range for type %s",
                    STR_FMT(c->value.s), type);
            else
                (void)gate_fail(g, ERR_INVALID_VALUE, location, "invalid input syntax for type %s: \"%.*s\"",
                    type, STR_FMT(c->value.s));
            return CONSTANT_ERROR;
        }
    } else if (c->value.type == VALUE_BIGINT) {
        i = c->value.i;
        if (i > max || i < -max - 1) {
            (void)gate_fail(g, ERR_INVALID_VALUE, location, "%s out of range", type);
            return CONSTANT_ERROR;
        }
    } else {
        return NOT_CONSTANT;
    }
    return constant(c, value_i64(i), false);
}

static enum constness cast_json(struct gate *g, struct constant *c, int location)
{
    if (c->value.type != VALUE_TEXT && c->value.type != VALUE_JSON)
        return NOT_CONSTANT;
    if (!json_valid(c->value.s)) {
        (void)gate_fail(g, ERR_INVALID_VALUE, location, "invalid input syntax for type json");
        return CONSTANT_ERROR;
    }
    return constant(c, value_json(c->value.s), false);
}

/* TIMESTAMP without zone ignores a zone in its text; only texts without one mean the same here. */
static bool has_zone(struct str s)
{
    for (size_t i = 10; i < s.len; i++) {
        if (s.ptr[i] == '+' || s.ptr[i] == '-' || s.ptr[i] == 'Z' || s.ptr[i] == 'z')
            return true;
    }
    return false;
}

static enum constness cast_time(struct constant *c, bool zoned)
{
    int64_t us;
    if (c->value.type == VALUE_TIMESTAMPTZ)
        return CONSTANT;
    if (c->value.type != VALUE_TEXT || !time_parse(c->value.s, &us) || (!zoned && has_zone(c->value.s)))
        return NOT_CONSTANT;
    return constant(c, value_ts(us), false);
}

static bool type_is(const PgQuery__TypeName *t, const char *a, const char *b)
{
    return tree_names_are(t->n_names, t->names, a) || (b != NULL && tree_names_are(t->n_names, t->names, b));
}

static enum constness constant_cast(struct gate *g, const PgQuery__TypeCast *cast, struct constant *ret)
{
    const PgQuery__TypeName *t = cast->type_name;
    if (t == NULL || t->n_array_bounds > 0 || t->n_typmods > 0 || t->setof || t->pct_type)
        return NOT_CONSTANT;
    enum constness c = gate_constant(g, cast->arg, ret);
    if (c != CONSTANT)
        return c;
    int location = tree_location(cast->arg);
    if (type_is(t, "timestamptz", "timestamp") && ret->value.type != VALUE_NULL)
        return cast_time(ret, type_is(t, "timestamptz", NULL));
    if (type_is(t, "text", "varchar")) {
        ret->untyped = false;
        return ret->value.type == VALUE_TEXT || ret->value.type == VALUE_NULL ? CONSTANT : NOT_CONSTANT;
    }
    bool is_json = type_is(t, "json", "jsonb");
    bool is_int = type_is(t, "int8", "int4") || type_is(t, "int2", NULL);
    if (ret->value.type == VALUE_NULL)
        return is_json || is_int || type_is(t, "timestamptz", "timestamp") ? CONSTANT : NOT_CONSTANT;
    if (is_json)
        return cast_json(g, ret, location);
    if (type_is(t, "int8", NULL))
        return cast_integer(g, ret, INT64_MAX, "bigint", location);
    if (type_is(t, "int4", NULL))
        return cast_integer(g, ret, INT32_MAX, "integer", location);
    if (type_is(t, "int2", NULL))
        return cast_integer(g, ret, INT16_MAX, "smallint", location);
    if (type_is(t, "bool", NULL) && ret->value.type == VALUE_BOOL)
        return CONSTANT;
    return NOT_CONSTANT;
}

/* ---- the rest -------------------------------------------------------------------------------- */

static enum constness constant_signed(struct gate *g, const PgQuery__AExpr *e, struct constant *ret)
{
    if (e->kind != PG_QUERY__A__EXPR__KIND__AEXPR_OP || e->lexpr != NULL || e->n_name != 1)
        return NOT_CONSTANT;
    struct str op = tree_text(e->name[0]);
    bool minus = str_eq(op, STR("-"));
    if (!minus && !str_eq(op, STR("+")))
        return NOT_CONSTANT;
    enum constness c = gate_constant(g, e->rexpr, ret);
    if (c != CONSTANT)
        return c;
    if (ret->value.type == VALUE_DOUBLE) {
        ret->value.d = minus ? -ret->value.d : ret->value.d;
        return CONSTANT;
    }
    if (ret->value.type != VALUE_BIGINT || (minus && ret->value.i == INT64_MIN))
        return NOT_CONSTANT;
    ret->value.i = minus ? -ret->value.i : ret->value.i;
    return CONSTANT;
}

static bool is_now(const PgQuery__FuncCall *f)
{
    static const char *const names[] = {
        "now", "transaction_timestamp", "statement_timestamp", "clock_timestamp"};
    if (f->n_args > 0 || f->over != NULL || f->agg_filter != NULL || f->agg_star || f->agg_distinct ||
        f->n_agg_order > 0)
        return false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (tree_names_are(f->n_funcname, f->funcname, names[i]))
            return true;
    }
    return false;
}

enum constness gate_constant(struct gate *g, const PgQuery__Node *n, struct constant *ret)
{
    if (n == NULL)
        return NOT_CONSTANT;
    switch (n->node_case) {
    case NODE_CASE(A_CONST):
        return constant_literal(g, n->a_const, ret);
    case NODE_CASE(PARAM_REF):
        return constant_param(g, n->param_ref, ret);
    case NODE_CASE(TYPE_CAST):
        return constant_cast(g, n->type_cast, ret);
    case NODE_CASE(A_EXPR):
        return constant_signed(g, n->a_expr, ret);
    case NODE_CASE(FUNC_CALL):
        return is_now(n->func_call) ? constant(ret, value_ts(g->limits->now_us), false) : NOT_CONSTANT;
    case NODE_CASE(SQLVALUE_FUNCTION):
        if (n->sqlvalue_function->op == PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_TIMESTAMP)
            return constant(ret, value_ts(g->limits->now_us), false);
        return NOT_CONSTANT;
    default:
        return NOT_CONSTANT;
    }
}

enum constness gate_constant_for(
    struct gate *g, const PgQuery__Node *n, enum value_type column, struct constant *ret)
{
    enum constness c = gate_constant(g, n, ret);
    if (c != CONSTANT || column != VALUE_TEXT)
        return c;
    struct str s = STR_NULL;
    if (ret->value.type == VALUE_BOOL)
        s = arena_str(g->arena, ret->value.i ? STR("true") : STR("false"));
    else if (ret->value.type == VALUE_BIGINT)
        s = arena_printf(g->arena, "%lld", (long long)ret->value.i);
    else if (tree_is(n, NODE_CASE(A_CONST)) && n->a_const->val_case == PG_QUERY__A__CONST__VAL_FVAL)
        s = arena_str(g->arena, str_c(n->a_const->fval->fval)); /* all its digits */
    else
        return ret->value.type == VALUE_DOUBLE ? NOT_CONSTANT : CONSTANT;
    if (s.ptr == NULL) {
        (void)gate_memory(g);
        return CONSTANT_ERROR;
    }
    return constant(ret, value_text(s), false);
}

bool gate_constant_quiet(struct gate *g, const PgQuery__Node *n, struct constant *ret)
{
    struct errctx *outer = g->ec, mine;
    errctx_clear(&mine);
    g->ec = &mine;
    bool ok = gate_constant(g, n, ret) == CONSTANT;
    g->ec = outer;
    return ok;
}

bool gate_coerce(const struct constant *c, enum value_type column, struct value *ret)
{
    struct value v = c->value;
    if (v.type == VALUE_NULL) {
        *ret = v;
        return true;
    }
    switch (column) {
    case VALUE_BOOL:
    case VALUE_TEXT:
    case VALUE_BIGINT:
        if (v.type == column)
            break;
        if (column != VALUE_BIGINT || !c->untyped || v.type != VALUE_TEXT || !str_to_i64(trim(v.s), &v.i))
            return false;
        v.type = VALUE_BIGINT;
        break;
    case VALUE_TIMESTAMPTZ:
        if (v.type == VALUE_TIMESTAMPTZ)
            break;
        if (!c->untyped || v.type != VALUE_TEXT || !time_parse(v.s, &v.i))
            return false;
        v.type = VALUE_TIMESTAMPTZ;
        break;
    case VALUE_DOUBLE:
        if (v.type == VALUE_BIGINT) {
            v.d = (double)v.i;
            v.type = VALUE_DOUBLE;
        }
        if (v.type != VALUE_DOUBLE)
            return false;
        break;
    default:
        return false;
    }
    *ret = v;
    return true;
}
