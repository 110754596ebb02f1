/* Calls: finding the function that name and arguments mean, its modifiers, and its template. */
#include "sql/print_int.h"

static bool argument_fits(char letter, const struct ex *e)
{
    int t = e->type;
    if (t == T_ANY || t == T_NULL || t == T_LITERAL)
        return true;
    if (e->parameter && letter != 'A')
        return true;
    switch (letter) {
    case 't':
        return t == T_TEXT;
    case 'i':
        return t == T_INT || t == T_BIGINT;
    case 'n':
        return type_is_number(t);
    case 'z':
        return type_is_time(t);
    case 'v':
        return t == T_INTERVAL;
    case 'j':
        return t == T_JSON;
    case 'b':
        return t == T_BOOL;
    case 'A':
        return IS_ARRAY(t);
    default:
        return true;
    }
}

static char argument_letter(const struct fn *f, int i)
{
    size_t n = strlen(f->args);
    if (n > 0 && f->args[n - 1] == '*' && (size_t)i >= n - 2)
        return f->args[n - 2];
    return (size_t)i < n ? f->args[i] : 0;
}

static bool count_fits(const struct fn *f, int nargs)
{
    size_t n = strlen(f->args);
    if (n > 0 && f->args[n - 1] == '*')
        return (size_t)nargs >= n - 1;
    return (size_t)nargs == n;
}

/* The best of the functions of this name: exact types first, then what constants can become. */
static const struct fn *find(const struct fn_call *c)
{
    const struct fn *best = NULL;
    int best_score = -1;
    for (const struct fn *f = fn_table; f->name != NULL; f++) {
        if (!str_eq(c->name, str_c(f->name)) || !count_fits(f, c->nargs))
            continue;
        int score = 0;
        bool fits = true;
        for (int i = 0; i < c->nargs && fits; i++) {
            char letter = argument_letter(f, i);
            fits = argument_fits(letter, &c->args[i]);
            /* A quoted constant is rather a text than anything else, as in PostgreSQL. */
            score += c->args[i].type == T_LITERAL ? letter == 't' : c->args[i].type != T_ANY && letter != 'a';
        }
        if (fits && score > best_score) {
            best = f;
            best_score = score;
        }
    }
    return best;
}

void fn_undefined(struct pr *p, const struct fn_call *c)
{
    struct buf b = BUF_INIT(300);
    for (int i = 0; i < c->nargs; i++)
        buf_printf(&b, "%s%s", i > 0 ? ", " : "", type_name(c->args[i].type));
    if (!pr_failed(p)) {
        pr_fail(p, ERR_UNDEFINED_FUNCTION, c->location, "function %.*s(%.*s) does not exist",
            STR_FMT(c->name), STR_FMT(buf_view(&b)));
        err_hint(p->ec, "No function matches the given name and argument types. You might need to add "
                        "explicit type casts.");
    }
    buf_release(&b);
}

static int letter_type(char letter, const struct ex *e)
{
    switch (letter) {
    case 't':
        return T_TEXT;
    case 'i':
        return T_BIGINT;
    case 'n':
        return T_DOUBLE;
    case 'z':
        return T_TIMESTAMPTZ;
    case 'v':
        return T_INTERVAL;
    case 'j':
        return T_JSON;
    case 'b':
        return T_BOOL;
    case 'A':
        return T_ARRAY | T_TEXT;
    default:
        return e->type == T_LITERAL ? T_TEXT : e->type;
    }
}

struct ex *fn_arg(struct pr *p, struct fn_call *c, int i)
{
    c->args[i].at = p->b->len;
    buf_str(p->b, c->texts[i]);
    return &c->args[i];
}

void fn_arg_done(struct pr *p, struct fn_call *c, int i)
{
    c->texts[i] = pr_cut(p, c->args[i].at);
}

static int result_type(const struct fn_call *c)
{
    int a = c->nargs > 0 ? c->args[0].type : T_ANY, b = c->nargs > 1 ? c->args[1].type : T_ANY;
    switch (c->fn->type) {
    case TYPE_ARG1:
        return a;
    case TYPE_ARG2:
        return b;
    case TYPE_ARG3:
        return c->nargs > 2 ? c->args[2].type : T_ANY;
    case TYPE_COMMON:
        return type_common(a, b);
    case TYPE_ARRAY1:
        return a < T_NTYPES && a > T_LITERAL ? T_ARRAY | a : T_ANY;
    case TYPE_ELEMENT1:
        return IS_ARRAY(a) ? ELEMENT_OF(a) : T_ANY;
    case TYPE_SUM1:
        return a == T_INT ? T_BIGINT : a == T_BIGINT ? T_NUMERIC : a;
    case TYPE_AVG1:
        return a == T_DOUBLE ? T_DOUBLE : T_NUMERIC;
    default:
        return c->fn->type;
    }
}

void fn_print(struct pr *p, struct fn_call *c, const char *text)
{
    static const char aggregate[] = "($D$*$O)$F$W", window[] = "($*)$W", scalar[] = "($*)";
    if (text == NULL) {
        print_ident(p->b, str_c(c->fn->name));
        text = (c->fn->flags & FN_AGGREGATE) ? aggregate : (c->fn->flags & FN_WINDOW) ? window : scalar;
    }
    for (const char *s = text; *s != 0; s++) {
        if (*s != '$') {
            buf_u8(p->b, (uint8_t)*s);
            continue;
        }
        switch (*++s) {
        case '*':
            for (int i = 0; i < c->nargs; i++) {
                pr_put(p, i > 0 ? ", " : "");
                buf_str(p->b, c->texts[i]);
            }
            break;
        case 'D':
            buf_str(p->b, c->distinct);
            break;
        case 'O':
            buf_str(p->b, c->order);
            break;
        case 'F':
            buf_str(p->b, c->filter);
            break;
        case 'W':
            buf_str(p->b, c->over);
            break;
        default:
            if (*s >= '1' && *s <= '9' && *s - '1' < c->nargs)
                buf_str(p->b, c->texts[*s - '1']);
        }
    }
}

static bool name_of(struct pr *p, const PgQuery__FuncCall *f, struct str *ret)
{
    size_t n = f->n_funcname;
    struct str name = n == 0 ? STR_NULL : node_string(f->funcname[n - 1]);
    if (name.ptr == NULL || n > 2 || (n == 2 && !str_eq(node_string(f->funcname[0]), STR("pg_catalog")))) {
        pr_fail(p, ERR_UNDEFINED_FUNCTION, f->location, "function %.*s does not exist", STR_FMT(name));
        return false;
    }
    *ret = name;
    return true;
}

/* Arguments printed, the function found, constants given the type of their place. */
static bool resolve(struct pr *p, const PgQuery__FuncCall *f, struct fn_call *c)
{
    *c = (struct fn_call){.node = f,
        .location = f->location,
        .distinct = STR(""),
        .order = STR(""),
        .filter = STR(""),
        .over = STR("")};
    if (!name_of(p, f, &c->name))
        return false;
    if (f->n_args > FN_ARGS_MAX) {
        pr_fail(
            p, ERR_UNSUPPORTED, f->location, "cannot pass more than %d arguments to a function", FN_ARGS_MAX);
        return false;
    }
    c->nargs = (int)f->n_args;
    c->args = pr_alloc(p, f->n_args + 1, sizeof *c->args);
    c->texts = pr_alloc(p, f->n_args + 1, sizeof *c->texts);
    bool known = false;
    for (const struct fn *k = fn_table; k->name != NULL && !known; k++)
        known = str_eq(c->name, str_c(k->name));
    size_t before = p->weight;
    for (int i = 0; i < c->nargs && !pr_failed(p); i++) {
        size_t at = p->b->len;
        if (f->args[i]->node_case == PG_QUERY__NODE__NODE_NAMED_ARG_EXPR)
            pr_unsupported(p, f->location, "a named argument");
        c->args[i] = pr_expr(p, f->args[i]);
        c->texts[i] = pr_cut(p, at);
    }
    if (pr_failed(p))
        return false;
    c->fn = find(c);
    if (c->fn == NULL) {
        fn_undefined(p, c);
        return false;
    }
    for (int i = 0; i < c->nargs && !pr_failed(p); i++) {
        struct ex *e = fn_arg(p, c, i);
        pr_coerce(p, e, p->b->len, letter_type(argument_letter(c->fn, i), e));
        if (e->type == T_LITERAL)
            e->type = T_TEXT;
        fn_arg_done(p, c, i);
    }
    /* Templates and macros repeat what they are given; each at most so often. */
    if (c->fn->text != NULL || c->fn->special != NULL)
        pr_repeat(p, before, strstr(c->fn->text == NULL ? "kdb_" : c->fn->text, "kdb_") != NULL ? 4 : 1);
    return !pr_failed(p);
}

static void modifiers(struct pr *p, struct fn_call *c)
{
    const PgQuery__FuncCall *f = c->node;
    size_t at = p->b->len;
    unsigned flags = c->fn->flags;
    bool aggregate = (flags & FN_AGGREGATE) != 0, window = (flags & FN_WINDOW) != 0;
    if (f->func_variadic)
        pr_unsupported(p, c->location, "VARIADIC");
    if (f->agg_star && !(aggregate && str_eq(c->name, STR("count"))))
        fn_undefined(p, c);
    if (!aggregate && (f->agg_distinct || f->agg_filter != NULL || f->n_agg_order > 0))
        pr_fail(p, ERR_SYNTAX, c->location, "%s specified, but %.*s is not an aggregate function",
            f->agg_distinct         ? "DISTINCT"
            : f->agg_filter != NULL ? "FILTER"
                                    : "ORDER BY",
            STR_FMT(c->name));
    if (window && f->over == NULL)
        pr_fail(p, ERR_SYNTAX, c->location, "window function %.*s requires an OVER clause", STR_FMT(c->name));
    if (!window && !aggregate && f->over != NULL)
        pr_fail(p, ERR_SYNTAX, c->location,
            "OVER specified, but %.*s is not a window function nor an aggregate function", STR_FMT(c->name));
    if (f->over != NULL && (f->agg_distinct || f->n_agg_order > 0 || (flags & FN_ORDERED)))
        pr_unsupported(p, c->location, "DISTINCT or ORDER BY of an aggregate with OVER");
    if (((flags & FN_ORDERED) != 0) != (f->agg_within_group != 0))
        pr_fail(p, ERR_SYNTAX, c->location,
            flags & FN_ORDERED ? "WITHIN GROUP is required for ordered-set aggregate %.*s"
                               : "%.*s is not an ordered-set aggregate, so it cannot have WITHIN GROUP",
            STR_FMT(c->name));
    if ((flags & FN_ORDERED) && f->n_agg_order != 1)
        fn_undefined(p, c);
    if (pr_failed(p))
        return;
    if (f->agg_distinct)
        c->distinct = STR("DISTINCT ");
    if (f->n_agg_order > 0) {
        pr_order_by(p, f->n_agg_order, f->agg_order, NULL, NULL, false);
        c->order = pr_cut(p, at);
    }
    if (f->agg_filter != NULL) {
        pr_put(p, " FILTER (WHERE ");
        pr_expr_as(p, f->agg_filter, T_BOOL);
        pr_put(p, ")");
        c->filter = pr_cut(p, at);
    }
    if (f->over != NULL) {
        pr_window(p, f->over, c->location);
        c->over = pr_cut(p, at);
        p->scope->has_window = true;
    } else if (aggregate)
        p->scope->has_aggregate = true;
}

/* percentile_disc and mode give what they sort by. */
static int ordered_type(struct pr *p, const PgQuery__FuncCall *f)
{
    if (f->n_agg_order != 1 || f->agg_order[0]->node_case != PG_QUERY__NODE__NODE_SORT_BY)
        return T_ANY;
    size_t at = p->b->len;
    struct ex e = pr_expr(p, f->agg_order[0]->sort_by->node);
    pr_cut(p, at);
    return e.type;
}

static void print_call(struct pr *p, struct fn_call *c)
{
    if (c->fn->type == TYPE_SUM1)
        fn_print(p, c, c->args[0].type == T_INT ? "CAST(sum($D$1$O)$F$W AS BIGINT)" : "sum($D$1$O)$F$W");
    else if (c->fn->special != NULL)
        c->fn->special(p, c);
    else
        fn_print(p, c, c->fn->text);
}

struct ex pr_function(struct pr *p, const PgQuery__FuncCall *f)
{
    size_t at = p->b->len;
    struct fn_call c;
    if (!resolve(p, f, &c))
        return pr_done(p, at, T_ANY, f->location);
    modifiers(p, &c);
    c.type = result_type(&c);
    if ((c.fn->flags & FN_ORDERED) && c.type == T_ANY)
        c.type = ordered_type(p, f);
    if (c.fn->flags & FN_SET) {
        p->scope->has_set_function = true;
        if (c.fn->type == T_RECORD)
            pr_unsupported(p, f->location, "this function outside FROM");
    }
    if (pr_failed(p))
        return pr_done(p, at, T_ANY, f->location);
    print_call(p, &c);
    return pr_done(p, at, c.type, f->location);
}

/* jsonb_each and its kin: keys and values side by side. */
static void each_rows(struct pr *p, struct fn_call *c, struct names *ret)
{
    bool text = str_ends_with(c->name, STR("_text"));
    struct str key = pr_output_alias(p, STR("key"), false), value = pr_output_alias(p, STR("value"), false);
    fn_print(p, c, "unnest(json_keys($1)) AS ");
    buf_str(p->b, key);
    fn_print(p, c,
        text ? ", unnest(list_transform(json_keys($1), lambda kdb_k: json_extract_string($1, "
               "kdb_json_key(kdb_k)))) AS "
             : ", unnest(list_transform(json_keys($1), lambda kdb_k: json_extract($1, kdb_json_key(kdb_k)))) "
               "AS ");
    buf_str(p->b, value);
    names_add(p, ret, (struct column_name){.name = STR("key"), .text = key, .type = T_TEXT});
    names_add(
        p, ret, (struct column_name){.name = STR("value"), .text = value, .type = text ? T_TEXT : T_JSON});
}

void pr_function_rows(struct pr *p, const PgQuery__FuncCall *f, bool ordinality, struct names *ret)
{
    struct fn_call c;
    pr_put(p, "SELECT ");
    if (!resolve(p, f, &c))
        return;
    if (c.fn->flags & (FN_AGGREGATE | FN_WINDOW)) {
        pr_fail(p, ERR_SYNTAX, f->location, "aggregate functions are not allowed in functions in FROM");
        return;
    }
    modifiers(p, &c);
    c.type = result_type(&c);
    if (pr_failed(p))
        return;
    size_t at = p->b->len;
    if (c.fn->flags & FN_SET && c.fn->type == T_RECORD) {
        each_rows(p, &c, ret);
        if (ordinality)
            pr_unsupported(p, f->location, "WITH ORDINALITY of this function");
        return;
    }
    print_call(p, &c);
    struct str name =
        str_ends_with(c.name, STR("_array_elements")) || str_ends_with(c.name, STR("_array_elements_text"))
            ? STR("value")
            : c.name;
    struct str text = pr_cut(p, at), alias = pr_output_alias(p, name, false);
    bool list = str_starts_with(text, STR("unnest(")) && str_ends_with(text, STR(")"));
    buf_printf(p->b, "%.*s AS %.*s", STR_FMT(text), STR_FMT(alias));
    names_add(p, ret, (struct column_name){.name = name, .text = alias, .type = c.type});
    if (!ordinality)
        return;
    struct str number = pr_output_alias(p, STR("ordinality"), false);
    if (list)
        buf_printf(p->b, ", unnest(generate_series(1, len(%.*s))) AS ", (int)(text.len - 8), text.ptr + 7);
    else
        pr_put(p, ", CAST(1 AS BIGINT) AS ");
    buf_str(p->b, number);
    names_add(p, ret, (struct column_name){.name = STR("ordinality"), .text = number, .type = T_BIGINT});
}
