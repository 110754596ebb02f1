/* JSON operators. Keys are data, never paths: they become JSON pointers or quoted members, so that `.`, `$`,
 * `*` and
 * `/` in a key mean themselves. Containment (@>) is unrolled from its constant side, as PostgreSQL defines
 * it. */
#include "base/json.h"
#include "sql/print_int.h"
#include <jansson.h>

/* RFC 6901 token. */
static void pointer_token(struct buf *b, struct str s)
{
    buf_u8(b, '/');
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '~')
            buf_append(b, "~0", 2);
        else if (s.ptr[i] == '/')
            buf_append(b, "~1", 2);
        else
            buf_u8(b, (uint8_t)s.ptr[i]);
    }
}

bool array_literal(struct pr *p, struct str s, struct str **ret, size_t *ret_n)
{
    size_t n = 0, cap = 0;
    struct str *v = NULL;
    if (s.len < 2 || s.ptr[0] != '{' || s.ptr[s.len - 1] != '}')
        return false;
    size_t i = 1, end = s.len - 1;
    while (i < end && !pr_failed(p)) {
        struct buf b = BUF_INIT(s.len + 1);
        bool quoted = false;
        while (i < end && (s.ptr[i] == ' ' || s.ptr[i] == '\t'))
            i++;
        if (i < end && s.ptr[i] == '"') {
            quoted = true;
            for (i++; i < end && s.ptr[i] != '"'; i++) {
                if (s.ptr[i] == '\\' && i + 1 < end)
                    i++;
                buf_u8(&b, (uint8_t)s.ptr[i]);
            }
            if (i++ >= end) {
                buf_release(&b);
                return false;
            }
        }
        for (; i < end && s.ptr[i] != ','; i++) {
            if (s.ptr[i] == '{' || s.ptr[i] == '}' || s.ptr[i] == '"' || (quoted && s.ptr[i] != ' ')) {
                buf_release(&b);
                return false;
            }
            if (s.ptr[i] == '\\' && i + 1 < end)
                i++;
            if (!quoted)
                buf_u8(&b, (uint8_t)s.ptr[i]);
        }
        if (n == cap) {
            cap = cap == 0 ? 16 : cap * 2;
            struct str *w = pr_alloc(p, cap, sizeof *w);
            if (w == NULL) {
                buf_release(&b);
                return false;
            }
            if (n > 0)
                memcpy(w, v, n * sizeof *w);
            v = w;
        }
        struct str item = quoted ? buf_view(&b) : str_trim(buf_view(&b));
        bool null = !quoted && str_ieq(item, STR("null"));
        bool empty = !quoted && item.len == 0;
        v[n++] = null ? STR_NULL : arena_str(p->a, item.ptr == NULL ? STR("") : item);
        buf_release(&b);
        if (empty)
            return false;
        if (i < end && ++i == end)
            return false; /* a comma at the end */
    }
    *ret = v;
    *ret_n = n;
    return true;
}

struct str json_pointer_of_array(struct pr *p, struct str literal, int location)
{
    struct str *items = NULL;
    size_t n = 0;
    if (!array_literal(p, str_trim(literal), &items, &n)) {
        pr_fail(p, ERR_INVALID_VALUE, location, "malformed array literal: \"%.*s\"", STR_FMT(literal));
        return STR("''");
    }
    struct buf b = BUF_INIT(65536);
    for (size_t i = 0; i < n; i++)
        pointer_token(&b, items[i]);
    struct str r = pr_quote(p, buf_view(&b));
    buf_release(&b);
    return r;
}

/* j -> key, j ->> key, j #> path, j #>> path. */
static struct ex json_get(struct pr *p, struct ex l, struct ex r, bool as_text, bool path, int location)
{
    const char *f = as_text ? "json_extract_string(" : "json_extract(";
    if (r.type == T_ANY || (path && !(r.constant && r.type == T_LITERAL) && !IS_ARRAY(r.type)) ||
        r.type == T_JSON) {
        /* An operand of unknown type is taken for a key. */
        if (path || r.type == T_JSON) {
            pr_unsupported(p, location, "this right side of a JSON operator");
            return pr_done(p, l.at, T_ANY, location);
        }
    }
    size_t end = p->b->len;
    if (path && r.constant) {
        pr_replace(p, r.at, end, json_pointer_of_array(p, r.text, r.location));
    } else if (path) {
        pr_insert(p, r.at, STR("kdb_json_pointer("));
        pr_put(p, ")");
    } else if (type_is_number(r.type)) {
        pr_insert(p, r.at, STR("CAST("));
        pr_put(p, " AS BIGINT)");
    } else if (r.constant) {
        struct buf b = BUF_INIT(65536);
        pointer_token(&b, r.text);
        /* A pointer's digits would also index an array, which a text key never does in PostgreSQL. */
        bool digits = r.text.len > 0;
        for (size_t i = 0; i < r.text.len; i++)
            digits = digits && r.text.ptr[i] >= '0' && r.text.ptr[i] <= '9';
        if (digits) {
            buf_clear(&b);
            buf_append(&b, "$.\"", 3);
            buf_str(&b, r.text);
            buf_append(&b, "\"", 1);
        }
        pr_replace(p, r.at, end, pr_quote(p, buf_view(&b)));
        buf_release(&b);
    } else {
        pr_insert(p, r.at, STR("kdb_json_key("));
        pr_put(p, ")");
    }
    pr_insert(p, r.at, STR(", "));
    pr_insert(p, l.at, str_c(f));
    pr_put(p, ")");
    return pr_done(p, l.at, as_text ? T_TEXT : T_JSON, location);
}

static void contains(struct pr *p, struct str subject, const json_t *needle, int depth, int location);

static void contains_array(struct pr *p, struct str subject, const json_t *needle, int depth, int location)
{
    buf_printf(p->b, "(COALESCE(json_type(%.*s) = 'ARRAY', false)", STR_FMT(subject));
    for (size_t i = 0; i < json_array_size(needle) && !pr_failed(p); i++) {
        struct str item = pr_format(p, "kdb_e%d", depth);
        buf_printf(p->b, " AND len(list_filter(json_extract(%.*s, '$[*]'), lambda %.*s: ", STR_FMT(subject),
            STR_FMT(item));
        contains(p, item, json_array_get(needle, i), depth + 1, location);
        pr_put(p, ")) > 0");
    }
    pr_put(p, ")");
}

/* Does the JSON value `subject` contain `needle`? Objects by their members, arrays as sets, scalars when
 * equal. */
static void contains(struct pr *p, struct str subject, const json_t *needle, int depth, int location)
{
    if (depth > 8) {
        pr_fail(p, ERR_UNSUPPORTED, location, "the right side of @> is nested too deeply");
        return;
    }
    if (json_is_object(needle)) {
        const char *key;
        json_t *value, *object = (json_t *)(uintptr_t)needle;
        buf_printf(p->b, "(COALESCE(json_type(%.*s) = 'OBJECT', false)", STR_FMT(subject));
        json_object_foreach(object, key, value)
        {
            struct buf b = BUF_INIT(65536);
            pointer_token(&b, str_c(key));
            struct str child = pr_format(
                p, "json_extract(%.*s, %.*s)", STR_FMT(subject), STR_FMT(pr_quote(p, buf_view(&b))));
            buf_release(&b);
            if (pr_failed(p) || p->b->failed)
                return;
            pr_put(p, " AND ");
            contains(p, child, value, depth + 1, location);
        }
        pr_put(p, ")");
    } else if (json_is_array(needle))
        contains_array(p, subject, needle, depth, location);
    else if (json_is_string(needle)) {
        struct str s = str_n(json_string_value(needle), json_string_length(needle));
        buf_printf(p->b,
            "COALESCE(json_type(%.*s) = 'VARCHAR' AND json_extract_string(%.*s, '$') = ", STR_FMT(subject),
            STR_FMT(subject));
        pr_quoted(p->b, s);
        pr_put(p, ", false)");
    } else if (json_is_number(needle))
        buf_printf(p->b,
            "COALESCE(json_type(%.*s) IN ('UBIGINT', 'BIGINT', 'DOUBLE') AND TRY_CAST(%.*s AS DOUBLE) = "
            "%.17g, "
            "false)",
            STR_FMT(subject), STR_FMT(subject), json_number_value(needle));
    else
        buf_printf(p->b, "COALESCE(CAST(%.*s AS VARCHAR) = '%s', false)", STR_FMT(subject),
            json_is_true(needle)    ? "true"
            : json_is_false(needle) ? "false"
                                    : "null");
}

static struct ex json_contains(struct pr *p, struct ex subject, struct ex needle, int location)
{
    if (subject.type != T_JSON && subject.type != T_ANY && subject.type != T_NULL && !subject.constant)
        return op_undefined(p, "@>", &subject, &needle, location);
    if (subject.constant && subject.at < needle.at) {
        size_t before = p->b->len;
        pr_coerce(p, &subject, needle.at, T_JSON);
        needle.at += p->b->len - before;
    } else if (subject.constant)
        pr_coerce(p, &subject, p->b->len, T_JSON);
    if (!needle.constant) {
        pr_unsupported(p, location, "@> or <@ without a constant on the contained side");
        return pr_done(p, subject.at, T_BOOL, location);
    }
    json_error_t error;
    size_t at = subject.at < needle.at ? subject.at : needle.at;
    json_t *j = json_loadb(needle.text.ptr, needle.text.len, JSON_DECODE_ANY, &error);
    if (j == NULL) {
        pr_fail(p, ERR_INVALID_VALUE, needle.location, "invalid input syntax for type json");
        return pr_done(p, at, T_BOOL, location);
    }
    size_t end = subject.at < needle.at ? needle.at : p->b->len;
    struct str s = arena_str(p->a, str_n(p->b->ptr + subject.at, end - subject.at));
    pr_cut(p, at);
    size_t parts = 1;
    for (size_t i = 0; i < needle.text.len; i++)
        parts += needle.text.ptr[i] == ',' || needle.text.ptr[i] == ':' || needle.text.ptr[i] == '[';
    /* The subject is repeated once for each part of the constant. */
    if (s.len * parts > (1u << 20))
        pr_fail(p, ERR_UNSUPPORTED, location, "the operands of @> are too large");
    buf_printf(p->b, "(CASE WHEN (%.*s) IS NULL THEN NULL ELSE ", STR_FMT(s));
    if (!pr_failed(p))
        contains(p, s, j, 0, location);
    pr_put(p, " END)");
    json_decref(j);
    return pr_done(p, at, T_BOOL, location);
}

bool pr_json_operator(
    struct pr *p, const char *op, struct ex l, struct ex r, int location, size_t before, struct ex *ret)
{
    struct str o = str_c(op);
    bool json = l.type == T_JSON || l.type == T_ANY || (l.parameter && l.type == T_LITERAL);
    if (str_eq(o, STR("->")) || str_eq(o, STR("->>")) || str_eq(o, STR("#>")) || str_eq(o, STR("#>>"))) {
        if (!json)
            return false;
        *ret = json_get(p, l, r, o.len == 3 || str_eq(o, STR("->>")), op[0] == '#', location);
        return true;
    }
    if (str_eq(o, STR("@>")) && (l.type == T_JSON || r.type == T_JSON) && !IS_ARRAY(l.type)) {
        *ret = json_contains(p, l, r, location);
        return true;
    }
    if (str_eq(o, STR("<@")) && (l.type == T_JSON || r.type == T_JSON) && !IS_ARRAY(r.type)) {
        *ret = json_contains(p, r, l, location);
        return true;
    }
    if (l.type != T_JSON)
        return false;
    const char *f = NULL;
    int type = T_BOOL;
    if (str_eq(o, STR("?")))
        f = "kdb_json_has(";
    else if (str_eq(o, STR("?|")) || str_eq(o, STR("?&"))) {
        f = op[1] == '|' ? "kdb_json_has_any(" : "kdb_json_has_all(";
        pr_coerce(p, &r, p->b->len, T_ARRAY | T_TEXT);
        if (!IS_ARRAY(r.type) && r.type != T_ANY && r.type != T_NULL)
            return false;
    } else if (str_eq(o, STR("||"))) {
        f = "kdb_json_concat(";
        type = T_JSON;
        pr_coerce(p, &r, p->b->len, T_JSON);
        if (r.type != T_JSON && r.type != T_ANY && r.type != T_NULL)
            return false;
    } else if (str_eq(o, STR("-")) && (r.type == T_LITERAL || r.type == T_TEXT)) {
        f = "kdb_json_remove(";
        type = T_JSON;
    } else
        return false;
    pr_repeat(p, before, 8);
    pr_insert(p, r.at, STR(", "));
    pr_insert(p, l.at, str_c(f));
    pr_put(p, ")");
    *ret = pr_done(p, l.at, type, location);
    return true;
}
