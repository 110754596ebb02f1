/* Entry points of the printer, errors, and the small tools that its files share. */
#include "sql/print_int.h"
#include <stdio.h>

enum err pr_fail(struct pr *p, enum err code, int location, const char *fmt, ...)
{
    if (p->err != ERR_OK)
        return p->err;
    char message[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    p->err = err_set(p->ec, code, "%s", message);
    if (location >= 0)
        p->ec->position = location + 1;
    return p->err;
}

enum err pr_unsupported(struct pr *p, int location, const char *what)
{
    return pr_fail(p, ERR_UNSUPPORTED, location, "%s is not supported", what);
}

static void no_memory(struct pr *p)
{
    if (p->err == ERR_OK)
        p->err = err_internal(p->ec, ERR_NO_MEMORY, "printer: out of memory");
}

void *pr_alloc(struct pr *p, size_t n, size_t size)
{
    void *r = arena_array(p->a, n, size);
    if (r == NULL)
        no_memory(p);
    return r;
}

struct str pr_format(struct pr *p, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *r = n < 0 ? NULL : pr_alloc(p, (size_t)n + 1, 1);
    if (r != NULL)
        vsnprintf(r, (size_t)n + 1, fmt, again);
    va_end(again);
    return r == NULL ? STR("") : str_n(r, (size_t)n);
}

struct str pr_cut(struct pr *p, size_t at)
{
    if (pr_failed(p) || p->b->failed || at > p->b->len)
        return STR("");
    struct str r = arena_str(p->a, str_n(p->b->ptr + at, p->b->len - at));
    if (r.ptr == NULL) {
        no_memory(p);
        return STR("");
    }
    p->b->len = at;
    return r;
}

void pr_replace(struct pr *p, size_t from, size_t to, struct str s)
{
    struct buf *b = p->b;
    if (pr_failed(p) || b->failed || from > to || to > b->len)
        return;
    if (s.len > to - from && buf_reserve(b, s.len - (to - from)) == NULL)
        return;
    memmove(b->ptr + from + s.len, b->ptr + to, b->len - to);
    if (s.len > 0)
        memcpy(b->ptr + from, s.ptr, s.len);
    b->len = b->len - (to - from) + s.len;
}

void pr_insert(struct pr *p, size_t at, struct str s)
{
    pr_replace(p, at, at, s);
}

bool pr_enter(struct pr *p, int location)
{
    if (++p->depth > DEPTH_MAX)
        pr_fail(
            p, ERR_UNSUPPORTED, location, "statement too complex: nested deeper than %d levels", DEPTH_MAX);
    return !pr_failed(p);
}

void pr_leave(struct pr *p)
{
    p->depth--;
}

void pr_repeat(struct pr *p, size_t before, unsigned copies)
{
    if (!pr_failed(p))
        p->weight = before + (p->weight - before) * copies;
    if (p->weight > WEIGHT_MAX)
        pr_fail(p, ERR_UNSUPPORTED, -1, "statement too complex");
}

void pr_wrap(struct pr *p, size_t at, const char *before, const char *after)
{
    pr_insert(p, at, str_c(before));
    pr_put(p, after);
}

bool names_add(struct pr *p, struct names *n, struct column_name c)
{
    if (n->n == n->cap) {
        int cap = n->cap == 0 ? 16 : n->cap * 2;
        struct column_name *v = pr_alloc(p, (size_t)cap, sizeof *v);
        if (v == NULL)
            return false;
        if (n->n > 0)
            memcpy(v, n->v, (size_t)n->n * sizeof *v);
        n->v = v;
        n->cap = cap;
    }
    n->v[n->n++] = c;
    return true;
}

void pr_quoted(struct buf *b, struct str s)
{
    buf_u8(b, '\'');
    while (s.len > 0) {
        size_t n = str_find(s, '\'');
        buf_append(b, s.ptr, n);
        if (n == s.len)
            break;
        buf_append(b, "''", 2);
        s = str_n(s.ptr + n + 1, s.len - n - 1);
    }
    buf_u8(b, '\'');
}

struct str pr_quote(struct pr *p, struct str s)
{
    size_t at = p->b->len;
    pr_quoted(p->b, s);
    return pr_cut(p, at);
}

void print_ident(struct buf *b, struct str name)
{
    buf_u8(b, '"');
    for (size_t i = 0; i < name.len; i++) {
        if (name.ptr[i] == '"')
            buf_u8(b, '"');
        buf_u8(b, (uint8_t)name.ptr[i]);
    }
    buf_u8(b, '"');
}

struct str node_string(const PgQuery__Node *n)
{
    if (n == NULL || n->node_case != PG_QUERY__NODE__NODE_STRING || n->string == NULL)
        return STR_NULL;
    return str_c(n->string->sval);
}

int node_location(const PgQuery__Node *n)
{
    if (n == NULL)
        return -1;
    switch (n->node_case) {
    case PG_QUERY__NODE__NODE_A_CONST:
        return n->a_const->location;
    case PG_QUERY__NODE__NODE_COLUMN_REF:
        return n->column_ref->location;
    case PG_QUERY__NODE__NODE_PARAM_REF:
        return n->param_ref->location;
    case PG_QUERY__NODE__NODE_FUNC_CALL:
        return n->func_call->location;
    case PG_QUERY__NODE__NODE_A_EXPR:
        /* PostgreSQL points at the operator; the left operand is where the expression starts. */
        return n->a_expr->location;
    case PG_QUERY__NODE__NODE_TYPE_CAST:
        return n->type_cast->location;
    case PG_QUERY__NODE__NODE_RES_TARGET:
        return n->res_target->location;
    case PG_QUERY__NODE__NODE_SUB_LINK:
        return n->sub_link->location;
    case PG_QUERY__NODE__NODE_CASE_EXPR:
        return n->case_expr->location;
    case PG_QUERY__NODE__NODE_SORT_BY:
        return node_location(n->sort_by->node);
    case PG_QUERY__NODE__NODE_RANGE_VAR:
        return n->range_var->location;
    case PG_QUERY__NODE__NODE_BOOL_EXPR:
        return n->bool_expr->location;
    case PG_QUERY__NODE__NODE_ROW_EXPR:
        return n->row_expr->location;
    case PG_QUERY__NODE__NODE_COALESCE_EXPR:
        return n->coalesce_expr->location;
    case PG_QUERY__NODE__NODE_MIN_MAX_EXPR:
        return n->min_max_expr->location;
    case PG_QUERY__NODE__NODE_SQLVALUE_FUNCTION:
        return n->sqlvalue_function->location;
    case PG_QUERY__NODE__NODE_NULL_TEST:
        return n->null_test->location;
    case PG_QUERY__NODE__NODE_BOOLEAN_TEST:
        return n->boolean_test->location;
    case PG_QUERY__NODE__NODE_COLLATE_CLAUSE:
        return n->collate_clause->location;
    case PG_QUERY__NODE__NODE_A_ARRAY_EXPR:
        return n->a_array_expr->location;
    case PG_QUERY__NODE__NODE_GROUPING_FUNC:
        return n->grouping_func->location;
    case PG_QUERY__NODE__NODE_A_INDIRECTION:
        return node_location(n->a_indirection->arg);
    default:
        return -1;
    }
}

enum err print_select(struct printer *api, const PgQuery__SelectStmt *select)
{
    struct pr p = {.api = api, .a = api->arena, .b = api->out, .ec = api->ec};
    struct names outputs = {0};
    pr_query(&p, select, &outputs, PLACE_TOP);
    if (p.err == ERR_OK && api->out->failed)
        p.err = err_set(api->ec, ERR_TOO_LARGE, "the statement is too large");
    if (p.err == ERR_OK && arena_failed(api->arena))
        no_memory(&p);
    api->noutputs = outputs.n;
    return p.err;
}
