/* Functions whose text depends on the types or constants they are given. */
#include "sql/print_int.h"

static struct str constant_text(const struct fn_call *c, int i)
{
    return i < c->nargs && c->args[i].constant ? c->args[i].text : STR_NULL;
}

void fn_now(struct pr *p, struct fn_call *c)
{
    (void)c;
    print_literal(p->b, value_ts(p->api->now_us));
}

void fn_round(struct pr *p, struct fn_call *c)
{
    if (c->nargs == 2)
        fn_print(p, c, "round($1, CAST($2 AS INTEGER))");
    else
        /* double precision rounds half to even, numeric half away from zero. */
        fn_print(p, c, c->args[0].type == T_DOUBLE ? "round_even($1, 0)" : "round($1)");
}

void fn_text(struct pr *p, struct fn_call *c)
{
    for (int i = 0; i < c->nargs; i++) {
        struct ex *e = fn_arg(p, c, i);
        if (e->type == T_BOOL)
            pr_wrap(p, e->at, "kdb_bool_out(", ")");
        else
            pr_to_text(p, e);
        fn_arg_done(p, c, i);
    }
    fn_print(p, c, NULL);
}

void fn_timezone(struct pr *p, struct fn_call *c)
{
    c->type = c->args[1].type == T_TIMESTAMP ? T_TIMESTAMPTZ : c->args[1].type == T_ANY ? T_ANY : T_TIMESTAMP;
    fn_print(p, c, c->args[1].type == T_DATE ? "timezone($1, CAST($2 AS TIMESTAMPTZ))" : "timezone($1, $2)");
}

void fn_date_trunc(struct pr *p, struct fn_call *c)
{
    static const char *const fields[] = {"microseconds", "milliseconds", "second", "minute", "hour", "day",
        "week", "month", "quarter", "year", "decade", "century", "millennium", "seconds", "minutes", "hours",
        "days", "weeks", "months", "years"};
    struct str field = constant_text(c, 0);
    bool known = field.ptr == NULL;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        known = known || str_ieq(field, str_c(fields[i]));
    if (!known) {
        pr_fail(p, ERR_INVALID_VALUE, c->location, "unit \"%.*s\" not recognized for type %s", STR_FMT(field),
            type_name(c->args[1].type));
        return;
    }
    bool date = c->args[1].type == T_DATE;
    /* Centuries and millennia begin with year 1. DuckDB gives a DATE where the time of day is gone. */
    bool era = str_ieq(field, STR("century")) || str_ieq(field, STR("millennium"));
    if (c->args[1].type == T_INTERVAL) {
        fn_print(p, c, "date_trunc($1, $2)");
        return;
    }
    if (era && c->nargs == 3) {
        pr_unsupported(p, c->location, "date_trunc of this unit in a time zone");
        return;
    }
    if (c->nargs == 3)
        fn_print(p, c,
            date ? "timezone($3, date_trunc($1, timezone($3, CAST($2 AS TIMESTAMPTZ))))"
                 : "timezone($3, date_trunc($1, timezone($3, $2)))");
    else if (date) {
        c->type = T_TIMESTAMPTZ;
        fn_print(p, c,
            era ? "(date_trunc($1, CAST($2 AS TIMESTAMPTZ) - to_years(1)) + to_years(1))"
                : "date_trunc($1, CAST($2 AS TIMESTAMPTZ))");
    } else if (c->args[1].type == T_TIMESTAMP)
        fn_print(p, c,
            era ? "(CAST(date_trunc($1, $2 - to_years(1)) AS TIMESTAMP) + to_years(1))"
                : "CAST(date_trunc($1, $2) AS TIMESTAMP)");
    else
        fn_print(p, c, era ? "(date_trunc($1, $2 - to_years(1)) + to_years(1))" : "date_trunc($1, $2)");
}

void fn_date_part(struct pr *p, struct fn_call *c)
{
    struct str field = constant_text(c, 0);
    if (field.ptr == NULL) {
        pr_unsupported(p, c->location, "a field that is not a constant");
        return;
    }
    struct ex *e = fn_arg(p, c, 1);
    if (!type_is_time(e->type) && e->type != T_INTERVAL && e->type != T_TIME && e->type != T_ANY &&
        e->type != T_NULL) {
        fn_undefined(p, c);
        return;
    }
    c->type = pr_extract(p, field, *e, c->location, str_eq(c->name, STR("date_part"))).type;
}

void fn_age(struct pr *p, struct fn_call *c)
{
    if (c->nargs == 2) {
        fn_print(p, c, "age(CAST($1 AS TIMESTAMP), CAST($2 AS TIMESTAMP))");
        return;
    }
    pr_put(p, "age(CAST(CAST(");
    print_literal(p->b, value_ts(p->api->now_us));
    fn_print(p, c, " AS DATE) AS TIMESTAMP), CAST($1 AS TIMESTAMP))");
}

/* to_char of a number: digits (9, 0), group separator, decimal point, FM. */
static void number_to_char(struct pr *p, struct fn_call *c, struct str s)
{
    struct str t = s;
    bool fm = str_starts_with(t, STR("FM")), comma = false, dot = false, bad = t.len > 60;
    int digits = 0, zeros = 0, decimals = 0, fixed = 0;
    if (fm)
        t = str_n(t.ptr + 2, t.len - 2);
    for (size_t i = 0; i < t.len; i++) {
        char k = t.ptr[i];
        if (k == '.' && !dot)
            dot = true;
        else if (k == ',' && !dot)
            comma = true;
        else if (k == '9' || k == '0') {
            if (dot) {
                decimals++;
                if (k == '0')
                    fixed = decimals;
            } else {
                digits++;
                if (k == '0' && zeros == 0)
                    zeros = 1;
                else if (zeros > 0)
                    zeros++;
            }
        } else
            bad = true;
    }
    if (bad || digits == 0) {
        pr_unsupported(p, c->location, "this to_char pattern");
        return;
    }
    if (zeros > 0 && comma && zeros > 1) {
        pr_unsupported(p, c->location, "this to_char pattern");
        return;
    }
    struct str x =
        pr_format(p, "kdb_to_char_number(%.*s, %d, %s, %d, %d, %s, %d, %d)", STR_FMT(c->texts[0]), decimals,
            comma ? "true" : "false", zeros, digits, fm ? "true" : "false", (int)t.len + 1, decimals - fixed);
    buf_str(p->b, x);
}

void fn_to_char(struct pr *p, struct fn_call *c)
{
    struct str pattern = constant_text(c, 1);
    int t = c->args[0].type;
    if (pattern.ptr == NULL) {
        pr_unsupported(p, c->location, "a to_char pattern that is not a constant");
        return;
    }
    if (type_is_number(t)) {
        number_to_char(p, c, pattern);
        return;
    }
    struct buf b = BUF_INIT(pattern.len * 8 + 64);
    bool ok = (type_is_time(t) || t == T_ANY) && time_pattern(pattern, &b, false);
    if (!ok)
        pr_unsupported(p, c->location, "this to_char pattern");
    else {
        fn_print(p, c, t == T_TIMESTAMPTZ ? "strftime(CAST($1 AS TIMESTAMP), " : "strftime($1, ");
        pr_quoted(p->b, buf_view(&b));
        pr_put(p, ")");
    }
    buf_release(&b);
}

void fn_to_time(struct pr *p, struct fn_call *c)
{
    struct str pattern = constant_text(c, 1);
    struct buf b = BUF_INIT(pattern.len * 8 + 64);
    if (pattern.ptr == NULL || !time_pattern(pattern, &b, true))
        pr_unsupported(p, c->location, "this pattern");
    else {
        fn_print(p, c, "CAST(strptime($1, ");
        pr_quoted(p->b, buf_view(&b));
        pr_put(p, c->type == T_DATE ? ") AS DATE)" : ") AS TIMESTAMPTZ)");
    }
    buf_release(&b);
}

/* Capturing groups of a pattern. */
static int groups_of(struct str s)
{
    int n = 0;
    bool bracket = false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '\\')
            i++;
        else if (bracket)
            bracket = s.ptr[i] != ']';
        else if (s.ptr[i] == '[')
            bracket = true;
        else if (s.ptr[i] == '(' && !(i + 1 < s.len && s.ptr[i + 1] == '?'))
            n++;
    }
    return n;
}

/* [match] or [group 1, group 2 …] */
static void match_array(struct pr *p, struct fn_call *c, int groups, const char *options)
{
    pr_put(p, "[");
    for (int i = groups == 0 ? 0 : 1; i <= groups; i++) {
        fn_print(p, c, i > 1 ? ", regexp_extract($1, $2, " : "regexp_extract($1, $2, ");
        buf_printf(p->b, "%d, '%s')", i, options);
    }
    pr_put(p, "]");
}

static void matches(struct pr *p, struct fn_call *c, int groups, bool global, const char *options)
{
    bool set = (c->fn->flags & FN_SET) != 0;
    if (global && groups > 1)
        pr_unsupported(p, c->location, "regexp_matches with 'g' and more than one group");
    if (set && global) {
        fn_print(p, c, "unnest(list_transform(regexp_extract_all($1, $2, ");
        buf_printf(p->b, "%d, '%s'), lambda kdb_m: [kdb_m]))", groups, options);
        return;
    }
    fn_print(p, c, set ? "unnest(CASE WHEN regexp_matches($1, $2, '" : "(CASE WHEN regexp_matches($1, $2, '");
    buf_printf(p->b, "%s') THEN %s", options, set ? "[" : "");
    match_array(p, c, groups, options);
    pr_put(p, set ? "] END)" : " END)");
}

/* \& is the whole match; RE2 calls it \0. */
static struct str replacement(struct pr *p, struct str s)
{
    struct buf b = BUF_INIT(s.len * 2 + 16);
    for (size_t i = 0; i < s.len; i++) {
        buf_u8(&b, (uint8_t)s.ptr[i]);
        if (s.ptr[i] == '\\' && i + 1 < s.len)
            buf_u8(&b, s.ptr[++i] == '&' ? '0' : (uint8_t)s.ptr[i]);
    }
    struct str r = pr_quote(p, buf_view(&b));
    buf_release(&b);
    return r;
}

void fn_regexp(struct pr *p, struct fn_call *c)
{
    bool replace = str_eq(c->name, STR("regexp_replace"));
    int nflags = replace ? 3 : 2;
    struct str flags = c->nargs > nflags ? constant_text(c, nflags) : STR(""), pattern = constant_text(c, 1);
    bool global = false, insensitive = false, dot = true;
    if (flags.ptr == NULL || pattern.ptr == NULL) {
        pr_unsupported(p, c->location, "a pattern or flags that are not constants");
        return;
    }
    for (size_t i = 0; i < flags.len; i++) {
        if (flags.ptr[i] == 'g')
            global = true;
        else if (flags.ptr[i] == 'i')
            insensitive = true;
        else if (flags.ptr[i] == 'n' || flags.ptr[i] == 'm')
            dot = false;
        else if (flags.ptr[i] != 's' && flags.ptr[i] != 'c') {
            pr_fail(p, ERR_INVALID_VALUE, c->location, "invalid regular expression option: \"%.*s\"",
                STR_FMT(flags));
            return;
        }
    }
    char options[5] = "";
    strcat(options, dot ? "s" : "");
    strcat(options, insensitive ? "i" : "");
    int groups = groups_of(pattern);
    if (replace) {
        struct str text = constant_text(c, 2);
        if (text.ptr != NULL)
            c->texts[2] = replacement(p, text);
        fn_print(p, c, "regexp_replace($1, $2, $3, '");
        buf_printf(p->b, "%s%s')", options, global ? "g" : "");
    } else if (str_eq(c->name, STR("regexp_like"))) {
        fn_print(p, c, "regexp_matches($1, $2, '");
        buf_printf(p->b, "%s')", options);
    } else if (str_eq(c->name, STR("regexp_count"))) {
        fn_print(p, c, "len(regexp_extract_all($1, $2, 0, '");
        buf_printf(p->b, "%s'))", options);
    } else if (str_eq(c->name, STR("substring")) || str_eq(c->name, STR("regexp_substr"))) {
        bool group = groups > 0 && c->name.ptr[0] == 's';
        fn_print(p, c, "(CASE WHEN regexp_matches($1, $2, '");
        buf_printf(p->b, "%s') THEN ", options);
        fn_print(p, c, "regexp_extract($1, $2, ");
        buf_printf(p->b, "%d, '%s') END)", group ? 1 : 0, options);
    } else
        matches(p, c, groups, global, options);
}

/* format('%s of %s', …): concatenation of its pieces. */
void fn_format(struct pr *p, struct fn_call *c)
{
    struct str s = constant_text(c, 0);
    int next = 1;
    if (s.ptr == NULL) {
        pr_unsupported(p, c->location, "a format that is not a constant");
        return;
    }
    pr_put(p, "concat(''");
    size_t from = 0;
    for (size_t i = 0; i < s.len && !pr_failed(p); i++) {
        if (s.ptr[i] != '%')
            continue;
        pr_put(p, ", ");
        pr_quoted(p->b, str_n(s.ptr + from, i - from));
        char k = ++i < s.len ? s.ptr[i] : 0;
        from = i + 1;
        if (k == '%') {
            pr_put(p, ", '%'");
            continue;
        }
        if (k != 's' && k != 'I' && k != 'L') {
            pr_fail(p, ERR_INVALID_VALUE, c->location, "unrecognized format() type specifier \"%c\"",
                k == 0 ? ' ' : k);
            return;
        }
        if (next >= c->nargs) {
            pr_fail(p, ERR_INVALID_VALUE, c->location, "too few arguments for format()");
            return;
        }
        pr_put(p, ", ");
        struct ex *e = fn_arg(p, c, next++);
        if (e->type == T_BOOL)
            pr_wrap(p, e->at, "kdb_bool_out(", ")");
        else
            pr_to_text(p, e);
        if (k != 's')
            pr_wrap(p, e->at, k == 'I' ? "kdb_quote_ident(" : "COALESCE(kdb_quote_literal(",
                k == 'I' ? ")" : "), 'NULL')");
    }
    if (from < s.len) {
        pr_put(p, ", ");
        pr_quoted(p->b, str_n(s.ptr + from, s.len - from));
    }
    pr_put(p, ")");
}

/* A value inside JSON: instants in ISO 8601, as PostgreSQL writes them there. */
static void json_argument(struct pr *p, struct fn_call *c, int i)
{
    struct ex *e = fn_arg(p, c, i);
    if (e->type == T_TIMESTAMPTZ)
        pr_wrap(p, e->at, "kdb_json_timestamptz(", ")");
    else if (e->type == T_TIMESTAMP)
        pr_wrap(p, e->at, "kdb_json_timestamp(", ")");
    fn_arg_done(p, c, i);
}

void fn_json_build(struct pr *p, struct fn_call *c)
{
    bool object = str_ends_with(c->name, STR("_build_object")),
         array = str_ends_with(c->name, STR("_build_array"));
    if (object && c->nargs % 2 != 0) {
        pr_fail(p, ERR_INVALID_VALUE, c->location, "argument list must have even number of elements");
        return;
    }
    for (int i = 0; i < c->nargs; i++) {
        if (object && i % 2 == 0) {
            if (c->args[i].type == T_NULL) {
                pr_fail(p, ERR_INVALID_VALUE, c->location, "argument %d: key must not be null", i + 1);
                return;
            }
            struct ex *e = fn_arg(p, c, i);
            pr_to_text(p, e);
            fn_arg_done(p, c, i);
        } else
            json_argument(p, c, i);
    }
    fn_print(p, c, object ? "json_object($*)" : array ? "json_array($*)" : "to_json($*)");
}

void fn_string_agg(struct pr *p, struct fn_call *c)
{
    if (!c->args[1].constant && c->args[1].type != T_NULL)
        pr_unsupported(p, c->location, "string_agg with a separator that is not a constant");
    fn_print(p, c, "string_agg($D$1, $2$O)$F$W");
}

void fn_json_path(struct pr *p, struct fn_call *c)
{
    fn_print(p, c, c->type == T_TEXT ? "json_extract_string($1, (''" : "json_extract($1, (''");
    for (int i = 1; i < c->nargs; i++) {
        pr_put(p, " || kdb_json_key(");
        buf_str(p->b, c->texts[i]);
        pr_put(p, ")");
    }
    pr_put(p, "))");
}

void fn_json_agg(struct pr *p, struct fn_call *c)
{
    json_argument(p, c, c->nargs - 1);
    if (c->nargs == 1) {
        fn_print(p, c, "to_json(list($D$1$O)$F$W)");
        return;
    }
    struct ex *key = fn_arg(p, c, 0);
    pr_to_text(p, key);
    fn_arg_done(p, c, 0);
    fn_print(p, c,
        "CAST((('{' || string_agg($D((CAST(to_json($1) AS VARCHAR) || ':') || "
        "COALESCE(CAST(to_json($2) AS VARCHAR), 'null')), ','$O)$F$W) || '}') AS JSON)");
}

void fn_json_set(struct pr *p, struct fn_call *c)
{
    struct str path = constant_text(c, 1), *keys = NULL;
    size_t n = 0;
    if (path.ptr == NULL || !array_literal(p, str_trim(path), &keys, &n) || n == 0 || n > 4) {
        pr_unsupported(p, c->location, "jsonb_set with this path (a constant '{key, …}' of at most 4 keys)");
        return;
    }
    /* From the outside in: each level is its object with one member replaced. Nothing where a level is
     * missing. */
    struct str subject = c->texts[0], parent = STR(""), tail = STR("");
    for (size_t i = 0; i + 1 < n; i++)
        parent = pr_format(p, "%.*s%s%.*s", STR_FMT(parent), i > 0 ? ", " : "",
            STR_FMT(pr_quote(p, keys[i].ptr == NULL ? STR("null") : keys[i])));
    if (n > 1) {
        buf_printf(p->b,
            "(CASE WHEN json_type(json_extract(%.*s, kdb_json_pointer([%.*s]))) = 'OBJECT' THEN ",
            STR_FMT(subject), STR_FMT(parent));
        tail = pr_format(p, " ELSE %.*s END)", STR_FMT(subject));
    }
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        struct str key = pr_quote(p, keys[i].ptr == NULL ? STR("null") : keys[i]);
        buf_printf(p->b, "kdb_json_concat(%.*s, json_object(%.*s, ", STR_FMT(subject), STR_FMT(key));
        subject = pr_format(p, "json_extract(%.*s, kdb_json_key(%.*s))", STR_FMT(subject), STR_FMT(key));
    }
    buf_str(p->b, c->texts[2]);
    for (size_t i = 0; i < n; i++)
        pr_put(p, "))");
    buf_str(p->b, tail);
}
