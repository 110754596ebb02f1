/* LIKE, SIMILAR TO and regular expressions. */
#include "sql/print_int.h"

/* PostgreSQL's escapes that RE2 spells otherwise; the rest is common to both. */
static struct str regexp_pattern(struct pr *p, struct str s)
{
    struct buf b = BUF_INIT(s.len * 2 + 16);
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '\\' && i + 1 < s.len) {
            char c = s.ptr[++i];
            if (c == 'y' || c == 'm' || c == 'M')
                buf_append(&b, "\\b", 2);
            else if (c == 'Y')
                buf_append(&b, "\\B", 2);
            else if (c == 'Z')
                buf_append(&b, "\\z", 2);
            else {
                buf_u8(&b, '\\');
                buf_u8(&b, (uint8_t)c);
            }
        } else
            buf_u8(&b, (uint8_t)s.ptr[i]);
    }
    struct str r = pr_quote(p, buf_view(&b));
    buf_release(&b);
    return r;
}

bool pr_textual(const struct ex *e)
{
    return e->type == T_TEXT || e->type == T_LITERAL || e->type == T_ANY || e->type == T_NULL || e->parameter;
}

struct ex pr_regexp(struct pr *p, const char *op, struct ex l, struct ex r, int location)
{
    if (!pr_textual(&l) || !pr_textual(&r))
        return op_undefined(p, op, &l, &r, location);
    bool negated = op[0] == '!', insensitive = op[strlen(op) - 1] == '*';
    op_texts(p, &l, &r);
    if (r.constant)
        pr_replace(p, r.at, p->b->len, regexp_pattern(p, r.text));
    pr_insert(p, r.at, STR(", "));
    pr_wrap(p, l.at, negated ? "(NOT regexp_matches(" : "regexp_matches(",
        insensitive ? (negated ? ", 'si'))" : ", 'si')")
        : negated   ? ", 's'))"
                    : ", 's')");
    return pr_done(p, l.at, T_BOOL, location);
}

bool pr_like_operator(struct str op, const char **ret)
{
    static const char *const ops[][2] = {
        {"~~", "LIKE"}, {"!~~", "NOT LIKE"}, {"~~*", "ILIKE"}, {"!~~*", "NOT ILIKE"}};
    for (size_t i = 0; i < 4; i++)
        if (str_eq(op, str_c(ops[i][0]))) {
            *ret = ops[i][1];
            return true;
        }
    return false;
}

/* `escape`: NULL for the backslash, "" for none. */
struct ex pr_like(
    struct pr *p, const char *word, struct str op, struct ex l, struct ex r, struct str escape, int location)
{
    if (!pr_textual(&l) || !pr_textual(&r)) {
        char name[16] = "";
        memcpy(name, op.ptr, op.len < sizeof name ? op.len : sizeof name - 1);
        return op_undefined(p, name, &l, &r, location);
    }
    op_texts(p, &l, &r);
    struct str e = escape.ptr == NULL ? STR("\\") : escape;
    bool plain = e.len == 0 || (r.constant && memchr(r.text.ptr, e.ptr[0], r.text.len) == NULL);
    if (!plain) {
        pr_put(p, " ESCAPE ");
        pr_quoted(p->b, e);
    }
    return op_join(p, &l, &r, word, T_BOOL, location);
}

static struct str string_constant(const PgQuery__Node *n)
{
    if (n == NULL || n->node_case != PG_QUERY__NODE__NODE_A_CONST ||
        n->a_const->val_case != PG_QUERY__A__CONST__VAL_SVAL)
        return STR_NULL;
    return str_c(n->a_const->sval->sval);
}

static bool is_function(const PgQuery__Node *n, const char *name)
{
    if (n == NULL || n->node_case != PG_QUERY__NODE__NODE_FUNC_CALL || n->func_call->n_funcname != 2)
        return false;
    return str_eq(node_string(n->func_call->funcname[0]), STR("pg_catalog")) &&
           str_eq(node_string(n->func_call->funcname[1]), str_c(name));
}

struct ex pr_like_expr(struct pr *p, const PgQuery__AExpr *e, struct str op)
{
    const PgQuery__Node *pattern = e->rexpr;
    struct str escape = STR_NULL;
    const char *word = NULL;
    if (!pr_like_operator(op, &word))
        pr_unsupported(p, e->location, "this operator");
    if (is_function(pattern, "like_escape") && pattern->func_call->n_args == 2) {
        escape = string_constant(pattern->func_call->args[1]);
        if (escape.ptr == NULL)
            pr_unsupported(p, e->location, "ESCAPE with anything but a string constant");
        else if (escape.len > 1)
            pr_fail(p, ERR_INVALID_VALUE, e->location, "invalid escape string");
        pattern = pattern->func_call->args[0];
    }
    struct ex l = pr_expr(p, e->lexpr), r = pr_expr(p, pattern);
    return pr_like(p, word, op, l, r, escape, e->location);
}

/* SQL:1999 regular expression → RE2. */
struct ex pr_similar(struct pr *p, const PgQuery__AExpr *e, bool negated)
{
    struct ex l = pr_expr(p, e->lexpr);
    struct str s = STR_NULL, escape = STR("\\");
    if (is_function(e->rexpr, "similar_to_escape") && e->rexpr->func_call->n_args >= 1) {
        s = string_constant(e->rexpr->func_call->args[0]);
        if (e->rexpr->func_call->n_args == 2)
            escape = string_constant(e->rexpr->func_call->args[1]);
    }
    if (s.ptr == NULL || escape.ptr == NULL) {
        pr_unsupported(p, e->location, "SIMILAR TO with anything but string constants");
        return l;
    }
    struct buf b = BUF_INIT(s.len * 3 + 16);
    bool bracket = false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (escape.len > 0 && c == escape.ptr[0] && i + 1 < s.len) {
            buf_u8(&b, '\\');
            buf_u8(&b, (uint8_t)s.ptr[++i]);
        } else if (bracket) {
            buf_u8(&b, (uint8_t)c);
            bracket = c != ']';
        } else if (c == '%')
            buf_append(&b, ".*", 2);
        else if (c == '_')
            buf_u8(&b, '.');
        else {
            if (c == '.' || c == '^' || c == '$' || c == '\\')
                buf_u8(&b, '\\');
            bracket = c == '[';
            buf_u8(&b, (uint8_t)c);
        }
    }
    pr_put(p, ", ");
    pr_quoted(p->b, buf_view(&b));
    buf_release(&b);
    pr_wrap(p, l.at, negated ? "(NOT regexp_full_match(" : "(regexp_full_match(", ", 's'))");
    return pr_done(p, l.at, T_BOOL, e->location);
}
