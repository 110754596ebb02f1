/* Types: names that casts may use, what constants become in their context, and casts that PostgreSQL and
 * DuckDB do differently. */
#include "base/json.h"
#include "base/timefmt.h"
#include "sql/print_int.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

static const struct {
    const char *pg, *duckdb;
} names[T_NTYPES] = {
    [T_ANY] = {"unknown", NULL},
    [T_NULL] = {"unknown", NULL},
    [T_LITERAL] = {"unknown", NULL},
    [T_BOOL] = {"boolean", "BOOLEAN"},
    [T_INT] = {"integer", "INTEGER"},
    [T_BIGINT] = {"bigint", "BIGINT"},
    [T_NUMERIC] = {"numeric", "DOUBLE"},
    [T_DOUBLE] = {"double precision", "DOUBLE"},
    [T_TEXT] = {"text", "VARCHAR"},
    [T_JSON] = {"jsonb", "JSON"},
    [T_TIMESTAMPTZ] = {"timestamp with time zone", "TIMESTAMPTZ"},
    [T_TIMESTAMP] = {"timestamp without time zone", "TIMESTAMP"},
    [T_DATE] = {"date", "DATE"},
    [T_TIME] = {"time without time zone", "TIME"},
    [T_INTERVAL] = {"interval", "INTERVAL"},
    [T_UUID] = {"uuid", "UUID"},
    [T_BLOB] = {"bytea", "BLOB"},
    [T_RECORD] = {"record", NULL},
};

const char *type_name(int type)
{
    static const char *const arrays[T_NTYPES] = {[T_BOOL] = "boolean[]",
        [T_INT] = "integer[]",
        [T_BIGINT] = "bigint[]",
        [T_NUMERIC] = "numeric[]",
        [T_DOUBLE] = "double precision[]",
        [T_TEXT] = "text[]",
        [T_JSON] = "jsonb[]",
        [T_TIMESTAMPTZ] = "timestamp with time zone[]",
        [T_TIMESTAMP] = "timestamp without time zone[]",
        [T_DATE] = "date[]",
        [T_UUID] = "uuid[]"};
    if (IS_ARRAY(type))
        return ELEMENT_OF(type) < T_NTYPES && arrays[ELEMENT_OF(type)] != NULL ? arrays[ELEMENT_OF(type)]
                                                                               : "anyarray";
    return type >= 0 && type < T_NTYPES ? names[type].pg : "unknown";
}

const char *type_duckdb(int type)
{
    return type >= 0 && type < T_NTYPES ? names[type].duckdb : NULL;
}

int type_of_value(enum value_type t)
{
    switch (t) {
    case VALUE_BOOL:
        return T_BOOL;
    case VALUE_BIGINT:
        return T_BIGINT;
    case VALUE_DOUBLE:
        return T_DOUBLE;
    case VALUE_TEXT:
        return T_TEXT;
    case VALUE_JSON:
        return T_JSON;
    case VALUE_TIMESTAMPTZ:
        return T_TIMESTAMPTZ;
    case VALUE_BLOB:
        return T_BLOB;
    default:
        return T_ANY;
    }
}

bool type_is_number(int t)
{
    return t == T_INT || t == T_BIGINT || t == T_NUMERIC || t == T_DOUBLE;
}

bool type_is_time(int t)
{
    return t == T_TIMESTAMPTZ || t == T_TIMESTAMP || t == T_DATE;
}

static bool type_loose(int t)
{
    return t == T_ANY || t == T_NULL || t == T_LITERAL;
}

int type_common(int a, int b)
{
    if (a == b || b == T_NULL || (b == T_LITERAL && a != T_NULL))
        return a;
    if (a == T_NULL || a == T_LITERAL)
        return b;
    if (type_is_number(a) && type_is_number(b))
        return a > b ? a : b; /* INT < BIGINT < NUMERIC < DOUBLE */
    if (type_is_time(a) && type_is_time(b))
        return a < b ? a : b; /* TIMESTAMPTZ < TIMESTAMP < DATE */
    return T_ANY;
}

bool type_comparable(int a, int b)
{
    if (type_loose(a) || type_loose(b) || a == b)
        return true;
    if (IS_ARRAY(a) && IS_ARRAY(b))
        return type_comparable(ELEMENT_OF(a), ELEMENT_OF(b));
    return (type_is_number(a) && type_is_number(b)) || (type_is_time(a) && type_is_time(b));
}

static bool number_shape(struct str s, bool integer)
{
    size_t i = 0, digits = 0;
    if (i < s.len && (s.ptr[i] == '+' || s.ptr[i] == '-'))
        i++;
    for (; i < s.len && s.ptr[i] >= '0' && s.ptr[i] <= '9'; i++)
        digits++;
    if (!integer && i < s.len && s.ptr[i] == '.')
        for (i++; i < s.len && s.ptr[i] >= '0' && s.ptr[i] <= '9'; i++)
            digits++;
    if (digits == 0)
        return false;
    if (!integer && i < s.len && (s.ptr[i] == 'e' || s.ptr[i] == 'E')) {
        i++;
        if (i < s.len && (s.ptr[i] == '+' || s.ptr[i] == '-'))
            i++;
        size_t from = i;
        for (; i < s.len && s.ptr[i] >= '0' && s.ptr[i] <= '9'; i++)
            ;
        if (i == from)
            return false;
    }
    return i == s.len;
}

/* PostgreSQL's boolin: any unambiguous prefix. -1: none. */
static int bool_text(struct str s)
{
    static const struct {
        const char *word;
        size_t min;
        int value;
    } words[] = {{"true", 1, 1}, {"false", 1, 0}, {"yes", 1, 1}, {"no", 1, 0}, {"on", 2, 1}, {"off", 2, 0},
        {"1", 1, 1}, {"0", 1, 0}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (s.len >= words[i].min && s.len <= strlen(words[i].word) &&
            strncasecmp(s.ptr, words[i].word, s.len) == 0)
            return words[i].value;
    return -1;
}

static struct str bad_input(struct pr *p, const struct ex *e, int type, struct str s)
{
    pr_fail(p, ERR_INVALID_VALUE, e->location, "invalid input syntax for type %s: \"%.*s\"",
        type == T_JSON ? "json" : type_name(type), STR_FMT(s));
    return STR("NULL");
}

static struct str number_literal(struct pr *p, const struct ex *e, struct str s, int type)
{
    if (type == T_INT || type == T_BIGINT) {
        int64_t v;
        struct str digits = s.len > 0 && s.ptr[0] == '+' ? str_n(s.ptr + 1, s.len - 1) : s;
        if (!number_shape(s, true))
            return bad_input(p, e, type, s);
        if (!str_to_i64(digits, &v) || (type == T_INT && (v > INT32_MAX || v < INT32_MIN))) {
            pr_fail(p, ERR_INVALID_VALUE, e->location, "value \"%.*s\" is out of range for type %s",
                STR_FMT(s), type_name(type));
            return STR("NULL");
        }
        return pr_format(p, "CAST('%lld' AS %s)", (long long)v, type_duckdb(type));
    }
    static const char *const specials[] = {
        "nan", "inf", "infinity", "-inf", "-infinity", "+inf", "+infinity"};
    bool special = false;
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++)
        special = special || str_ieq(s, str_c(specials[i]));
    if (!special && !number_shape(s, false))
        return bad_input(p, e, type, s);
    size_t dot = str_find(s, '.'), digits = 0;
    for (size_t i = 0; i < s.len; i++)
        digits += s.ptr[i] >= '0' && s.ptr[i] <= '9';
    bool plain = str_find(s, 'e') == s.len && str_find(s, 'E') == s.len;
    if (type == T_NUMERIC && !special && plain && digits <= 38)
        return pr_format(p, "CAST('%.*s' AS DECIMAL(%zu,%zu))", STR_FMT(s), digits,
            dot == s.len ? (size_t)0 : s.len - dot - 1);
    return pr_format(p, "CAST('%.*s' AS DOUBLE)", STR_FMT(s));
}

static struct str interval_literal(struct pr *p, const struct ex *e, struct str s)
{
    int64_t months, days, us;
    if (!interval_parse(s, &months, &days, &us))
        return bad_input(p, e, T_INTERVAL, s);
    return pr_format(p,
        "((to_months(CAST(%lld AS INTEGER)) + to_days(CAST(%lld AS INTEGER))) + to_microseconds(%lld))",
        (long long)months, (long long)days, (long long)us);
}

static struct str instant(struct pr *p, int64_t us, int type)
{
    struct buf b = BUF_INIT(64);
    time_format(&b, us);
    size_t n = type == T_DATE ? 10 : type == T_TIMESTAMP ? b.len - 1 : b.len;
    struct str r = pr_format(p, "CAST('%.*s' AS %s)", (int)n, b.ptr, type_duckdb(type));
    buf_release(&b);
    return r;
}

/* The date and the clock of what time_parse took. */
static struct str without_zone(struct str s)
{
    size_t n = strlen("2025-10-13T");
    while (n < s.len && strchr("+-Zz", s.ptr[n]) == NULL)
        n++;
    return str_n(s.ptr, n < s.len ? n : s.len);
}

static struct str time_literal(struct pr *p, const struct ex *e, struct str s, int type)
{
    const int64_t day = INT64_C(86400000000);
    int64_t now = p->api->now_us, us, midnight = now - ((now % day) + day) % day;
    if (str_ieq(s, STR("now")))
        return instant(p, now, type);
    if (str_ieq(s, STR("today")))
        return instant(p, midnight, type);
    if (str_ieq(s, STR("tomorrow")))
        return instant(p, midnight + day, type);
    if (str_ieq(s, STR("yesterday")))
        return instant(p, midnight - day, type);
    if (str_ieq(s, STR("epoch")))
        return instant(p, 0, type);
    /* A zone in the text of a date or of a timestamp without one is ignored by PostgreSQL. */
    if (time_parse(s, &us) && (type == T_TIMESTAMPTZ || time_parse(without_zone(s), &us)))
        return instant(p, us, type);
    struct str q = pr_quote(p, s);
    (void)e;
    return pr_format(p, "CAST(%.*s AS %s)", STR_FMT(q), type_duckdb(type));
}

static struct str blob_literal(struct pr *p, const struct ex *e, struct str s)
{
    if (s.len >= 2 && s.ptr[0] == '\\' && s.ptr[1] == 'x') {
        struct str hex = str_n(s.ptr + 2, s.len - 2);
        for (size_t i = 0; i < hex.len; i++)
            if (strchr("0123456789abcdefABCDEF", hex.ptr[i]) == NULL)
                return bad_input(p, e, T_BLOB, s);
        return hex.len % 2 != 0 ? bad_input(p, e, T_BLOB, s) : pr_format(p, "unhex('%.*s')", STR_FMT(hex));
    }
    return pr_format(p, "encode(%.*s)", STR_FMT(pr_quote(p, s)));
}

static struct str literal_as(struct pr *p, const struct ex *e, int type);

static struct str array_as(struct pr *p, const struct ex *e, int type)
{
    struct str *items = NULL, s = str_trim(e->text);
    size_t n = 0, at = p->b->len;
    if (!array_literal(p, s, &items, &n)) {
        pr_fail(p, ERR_INVALID_VALUE, e->location, "malformed array literal: \"%.*s\"", STR_FMT(s));
        return STR("NULL");
    }
    const char *element = type_duckdb(ELEMENT_OF(type));
    pr_put(p, "CAST([");
    for (size_t i = 0; i < n && !pr_failed(p); i++) {
        pr_put(p, i > 0 ? ", " : "");
        struct ex item = {.location = e->location, .text = items[i]};
        buf_str(p->b, items[i].ptr == NULL ? STR("NULL") : literal_as(p, &item, ELEMENT_OF(type)));
    }
    buf_printf(p->b, "] AS %s[])", element == NULL ? "VARCHAR" : element);
    return pr_cut(p, at);
}

/* The text of a constant as a literal of `type`. */
static struct str literal_as(struct pr *p, const struct ex *e, int type)
{
    struct str s = str_trim(e->text);
    if (IS_ARRAY(type))
        return array_as(p, e, type);
    switch (type) {
    case T_BOOL: {
        int v = bool_text(s);
        return v < 0 ? bad_input(p, e, type, s) : v ? STR("true") : STR("false");
    }
    case T_INT:
    case T_BIGINT:
    case T_NUMERIC:
    case T_DOUBLE:
        return number_literal(p, e, s, type);
    case T_TIMESTAMPTZ:
    case T_TIMESTAMP:
    case T_DATE:
        return time_literal(p, e, s, type);
    case T_INTERVAL:
        return interval_literal(p, e, s);
    case T_BLOB:
        return blob_literal(p, e, e->text);
    case T_JSON:
        if (!json_valid(s))
            return bad_input(p, e, type, s);
        return pr_format(p, "CAST(%.*s AS JSON)", STR_FMT(pr_quote(p, s)));
    case T_TIME:
    case T_UUID:
        return pr_format(p, "CAST(%.*s AS %s)", STR_FMT(pr_quote(p, s)), type_duckdb(type));
    default:
        return pr_quote(p, e->text);
    }
}

void pr_coerce(struct pr *p, struct ex *e, size_t end, int type)
{
    if (!e->constant || pr_failed(p) || type == T_ANY || type == T_NULL || type == T_LITERAL)
        return;
    if (e->type != T_LITERAL) {
        /* A parameter's own type stays where it fits. */
        if (!e->parameter || e->type == T_NULL || type_comparable(e->type, type))
            return;
    }
    if (type == T_RECORD)
        return;
    /* A whole number given for an instant counts microseconds, as it does where one is inserted. */
    int64_t us;
    bool micros = type == T_TIMESTAMPTZ && (e->type == T_INT || e->type == T_BIGINT);
    if (micros && str_to_i64(str_trim(e->text), &us) && us >= TIME_US_MIN && us <= TIME_US_MAX)
        pr_replace(p, e->at, end, instant(p, us, type));
    else
        pr_replace(p, e->at, end, literal_as(p, e, type));
    e->type = type;
}

bool type_text_wrapper(int type, const char **ret_before, const char **ret_after)
{
    *ret_after = ")";
    if (type == T_TEXT || type == T_NULL || type == T_LITERAL)
        return false;
    if (IS_ARRAY(type))
        *ret_before = "kdb_array_text(";
    else if (type == T_BLOB)
        *ret_before = "kdb_blob_text(";
    else if (type == T_INTERVAL)
        *ret_before = "kdb_interval_text(";
    else if (type == T_DOUBLE || type == T_NUMERIC || type == T_ANY)
        *ret_before = "kdb_text(";
    else {
        *ret_before = "CAST(";
        *ret_after = " AS VARCHAR)";
    }
    return true;
}

void pr_to_text(struct pr *p, struct ex *e)
{
    const char *before, *after;
    if (type_text_wrapper(e->type, &before, &after)) {
        pr_wrap(p, e->at, before, after);
        e->constant = false;
    }
    if (e->type != T_NULL)
        e->type = T_TEXT;
}

struct target {
    int type;
    char duckdb[48];
    int length; /* varchar(n); -1: none */
    bool small;
};

static bool typmod(const PgQuery__TypeName *t, size_t i, int *ret)
{
    if (i >= t->n_typmods || t->typmods[i]->node_case != PG_QUERY__NODE__NODE_A_CONST ||
        t->typmods[i]->a_const->val_case != PG_QUERY__A__CONST__VAL_IVAL)
        return false;
    *ret = t->typmods[i]->a_const->ival->ival;
    return true;
}

static void type_lookup(struct pr *p, const PgQuery__TypeName *t, struct target *ret)
{
    static const struct {
        const char *name;
        int type;
        const char *duckdb;
    } known[] = {{"bool", T_BOOL, "BOOLEAN"}, {"boolean", T_BOOL, "BOOLEAN"}, {"int2", T_INT, "SMALLINT"},
        {"smallint", T_INT, "SMALLINT"}, {"int4", T_INT, "INTEGER"}, {"int8", T_BIGINT, "BIGINT"},
        {"integer", T_INT, "INTEGER"}, {"bigint", T_BIGINT, "BIGINT"}, {"float4", T_DOUBLE, "FLOAT"},
        {"float8", T_DOUBLE, "DOUBLE"}, {"double", T_DOUBLE, "DOUBLE"}, {"numeric", T_NUMERIC, NULL},
        {"hugeint", T_NUMERIC, "HUGEINT"}, {"text", T_TEXT, "VARCHAR"}, {"varchar", T_TEXT, "VARCHAR"},
        {"json", T_JSON, "JSON"}, {"jsonb", T_JSON, "JSON"}, {"uuid", T_UUID, "UUID"},
        {"bytea", T_BLOB, "BLOB"}, {"blob", T_BLOB, "BLOB"}, {"timestamp", T_TIMESTAMP, "TIMESTAMP"},
        {"timestamptz", T_TIMESTAMPTZ, "TIMESTAMPTZ"}, {"date", T_DATE, "DATE"}, {"time", T_TIME, "TIME"},
        {"interval", T_INTERVAL, "INTERVAL"}};
    struct str name = t->n_names == 0 ? STR("") : node_string(t->names[t->n_names - 1]);
    struct str schema = t->n_names == 2 ? node_string(t->names[0]) : STR_NULL;
    ret->length = -1;
    if (t->n_names > 2 || t->setof || t->pct_type ||
        (schema.ptr != NULL && !str_eq(schema, STR("pg_catalog"))))
        name = STR_NULL;
    for (size_t i = 0; name.ptr != NULL && i < sizeof known / sizeof *known; i++) {
        if (!str_eq(name, str_c(known[i].name)))
            continue;
        ret->type = known[i].type;
        int a = 0, b = 0;
        if (known[i].type == T_NUMERIC && known[i].duckdb == NULL) {
            bool sized = typmod(t, 0, &a);
            if (sized && t->n_typmods > 1 && !typmod(t, 1, &b))
                b = -1;
            if (sized && (a < 1 || a > 38 || b < 0 || b > a))
                pr_fail(p, ERR_UNSUPPORTED, t->location,
                    "NUMERIC(%d,%d) is not supported: precision must be between 1 and 38, scale between 0 "
                    "and it",
                    a, b);
            if (sized)
                snprintf(ret->duckdb, sizeof ret->duckdb, "DECIMAL(%d,%d)", a, b);
        } else {
            snprintf(ret->duckdb, sizeof ret->duckdb, "%s", known[i].duckdb);
            if (str_eq(name, STR("varchar")) && typmod(t, 0, &a))
                ret->length = a;
        }
        if (t->n_array_bounds > 0) {
            /* An array of arrays has no type of its own here: DuckDB's rules apply to it. */
            ret->type = t->n_array_bounds == 1 ? T_ARRAY | ret->type : T_ANY;
            if (ret->duckdb[0] == 0)
                snprintf(ret->duckdb, sizeof ret->duckdb, "DOUBLE");
            for (size_t k = 0; k < t->n_array_bounds && k < 4; k++)
                snprintf(ret->duckdb + strlen(ret->duckdb), sizeof ret->duckdb - strlen(ret->duckdb), "[]");
        }
        return;
    }
    pr_fail(p, ERR_UNSUPPORTED, t->location, "type \"%.*s\" does not exist",
        STR_FMT(name.ptr == NULL ? node_string(t->n_names == 0 ? NULL : t->names[t->n_names - 1]) : name));
    err_hint(p->ec, "The types are listed in the SQL reference.");
}

/* INTERVAL '3' DAY: the field is the unit of a bare number. */
static struct str interval_fields(struct pr *p, const PgQuery__TypeName *t, struct str s)
{
    int mask = 0;
    if (!typmod(t, 0, &mask) || s.len == 0)
        return s;
    for (size_t i = 0; i < s.len; i++)
        if (strchr("0123456789.+- ", s.ptr[i]) == NULL)
            return s;
    const char *unit = mask == 1 << 2    ? "years"
                       : mask == 1 << 1  ? "months"
                       : mask == 1 << 3  ? "days"
                       : mask == 1 << 10 ? "hours"
                       : mask == 1 << 11 ? "minutes"
                                         : "seconds";
    return pr_format(p, "%.*s %s", STR_FMT(s), unit);
}

static bool cast_known(int from, int to)
{
    if (from == T_ANY || to == T_ANY || from == T_NULL || from == to || to == T_TEXT || from == T_TEXT ||
        from == T_LITERAL || IS_ARRAY(from) || IS_ARRAY(to))
        return true;
    if (type_is_number(from) && type_is_number(to))
        return true;
    if (type_is_time(from) && (type_is_time(to) || (to == T_TIME && from != T_DATE)))
        return true;
    if (from == T_JSON)
        return type_is_number(to) || to == T_BOOL;
    if ((from == T_BOOL && to == T_INT) || (from == T_INT && to == T_BOOL))
        return true;
    return (from == T_TIME && to == T_INTERVAL) || (from == T_INTERVAL && to == T_TIME);
}

static void cast_value(struct pr *p, struct ex *e, const struct target *t)
{
    if (t->type == T_TEXT) {
        pr_to_text(p, e);
        return;
    }
    const char *check = NULL;
    if (e->type == T_TEXT)
        check = t->type == T_INT || t->type == T_BIGINT ? "kdb_int_text("
                : t->type == T_BOOL                     ? "kdb_bool_text("
                                                        : NULL;
    const char *named = check == NULL || t->type == T_BOOL ? ""
                        : t->type == T_INT                 ? ", 'integer'"
                                                           : ", 'bigint'";
    const char *to = t->duckdb;
    if (t->type == T_NUMERIC && to[0] == 0) {
        /* numeric without a scale: exact where the operand is, else the nearest double. */
        if (e->type == T_NUMERIC)
            return;
        to = e->type == T_INT || e->type == T_BIGINT ? "DECIMAL(38,0)" : "DOUBLE";
    }
    if (e->type == T_TIMESTAMPTZ && t->type == T_TIME)
        pr_wrap(p, e->at, "CAST(", " AS TIMESTAMP)");
    else if (e->type == T_JSON && (t->type == T_INT || t->type == T_BIGINT))
        /* jsonb holds numeric, which rounds half away from zero. */
        pr_wrap(p, e->at, "CAST(CAST(", " AS VARCHAR) AS DECIMAL(38,9))");
    if (check != NULL)
        pr_insert(p, e->at, str_c(check));
    pr_insert(p, e->at, STR("CAST("));
    buf_printf(p->b, "%s%s AS %s)", named, check != NULL ? ")" : "", to);
    e->type = t->type;
    e->constant = false;
}

struct ex pr_cast(struct pr *p, const PgQuery__TypeCast *c)
{
    size_t at = p->b->len;
    struct target t = {0};
    if (c->type_name == NULL)
        pr_unsupported(p, c->location, "this cast");
    else
        type_lookup(p, c->type_name, &t);
    if (pr_failed(p))
        return pr_done(p, at, T_ANY, c->location);
    struct ex e = pr_expr(p, c->arg);
    e.parameter = e.parameter && e.type != T_NULL;
    if (!pr_failed(p) && !cast_known(e.type, t.type) && !e.parameter)
        pr_fail(p, ERR_TYPE_MISMATCH, c->location, "cannot cast type %s to %s", type_name(e.type),
            type_name(t.type));
    bool literal = e.constant && (e.type == T_LITERAL || (e.parameter && !cast_known(e.type, t.type)));
    if (literal && t.type != T_TEXT && t.type != T_ANY) {
        e.type = T_LITERAL;
        if (t.type == T_INTERVAL)
            e.text = interval_fields(p, c->type_name, e.text);
        pr_coerce(p, &e, p->b->len, t.type);
        if (t.duckdb[0] != 0 && (t.type == T_NUMERIC || t.type == T_INT || t.type == T_DOUBLE)) {
            pr_insert(p, at, STR("CAST("));
            buf_printf(p->b, " AS %s)", t.duckdb);
        }
    } else
        cast_value(p, &e, &t);
    bool keep = literal || (e.constant && t.type == T_TEXT && t.length < 0);
    if (t.length >= 0 && t.type == T_TEXT) {
        pr_insert(p, at, STR("\"left\"("));
        buf_printf(p->b, ", %d)", t.length);
    }
    /* NULL::type is a NULL of that type. */
    if (e.type == T_NULL && t.type == T_TEXT) {
        pr_insert(p, at, STR("CAST("));
        pr_put(p, " AS VARCHAR)");
    }
    struct ex done = pr_done(p, at, t.type, c->location);
    /* A JSON or text constant with its type written out still is one: some operators want to see it. */
    done.constant = keep && (t.type == T_JSON || t.type == T_TEXT);
    done.text = e.text;
    return done;
}
