#include "engine/coerce.h"
#include "base/json.h"
#include "base/timefmt.h"
#include <math.h>
#include <stdlib.h>

/* A client's value in a message: enough to recognise it. */
#define SHOWN_BYTES_MAX 100

static enum err bad_syntax(const char *type, struct str s, struct errctx *ec)
{
    return err_set(ec, ERR_INVALID_VALUE, "invalid input syntax for type %s: \"%.*s\"", type,
        (int)utf8_cut(s, SHOWN_BYTES_MAX), s.ptr != NULL ? s.ptr : "");
}

/* PostgreSQL's names of the types, as its messages use them. */
static const char *pg_type_name(enum value_type t)
{
    switch (t) {
    case VALUE_BOOL:
        return "boolean";
    case VALUE_BIGINT:
        return "bigint";
    case VALUE_DOUBLE:
        return "double precision";
    case VALUE_TEXT:
        return "text";
    case VALUE_JSON:
        return "jsonb";
    case VALUE_TIMESTAMPTZ:
        return "timestamp with time zone";
    case VALUE_TIMESTAMP:
        return "timestamp without time zone";
    case VALUE_BLOB:
        return "bytea";
    case VALUE_HUGEINT:
    case VALUE_DECIMAL:
        return "numeric";
    case VALUE_DATE:
        return "date";
    case VALUE_TIME:
        return "time without time zone";
    case VALUE_INTERVAL:
        return "interval";
    case VALUE_UUID:
        return "uuid";
    case VALUE_LIST:
        return "anyarray";
    case VALUE_NULL:
        break;
    }
    return "unknown";
}

static enum err mismatch(const struct column *c, struct value in, struct errctx *ec)
{
    err_set(ec, ERR_TYPE_MISMATCH, "column \"%.*s\" is of type %s but expression is of type %s",
        STR_FMT(c->name), pg_type_name(c->type), pg_type_name(in.type));
    err_hint(ec, "You will need to rewrite or cast the expression.");
    return ec->code;
}

static enum err arena_full(struct errctx *ec)
{
    return err_internal(ec, ERR_NO_MEMORY, "value of a statement");
}

static enum err double_to_bigint(double d, struct value *ret, struct errctx *ec)
{
    double r = rint(d); /* half to even, as PostgreSQL's dtoi8 */
    if (!(r >= -9223372036854775808.0 && r < 9223372036854775808.0))
        return err_set(ec, ERR_INVALID_VALUE, "bigint out of range");
    *ret = value_i64((int64_t)r);
    return ERR_OK;
}

/* Decimal text of the analytic engine: "123", "-4.5". Rounds half away from zero, as PostgreSQL's numeric
 * does. */
static enum err decimal_to_bigint(struct str s, struct value *ret, struct errctx *ec)
{
    size_t dot = str_find(s, '.');
    int64_t i;
    struct str whole = str_n(s.ptr, dot);
    if (str_eq(whole, STR("-")) || str_eq(whole, STR("")))
        i = 0;
    else if (!str_to_i64(whole, &i))
        return err_set(ec, ERR_INVALID_VALUE, "bigint out of range");
    if (dot + 1 < s.len && s.ptr[dot + 1] >= '5') {
        bool negative = s.ptr[0] == '-';
        if (__builtin_add_overflow(i, negative ? -1 : 1, &i))
            return err_set(ec, ERR_INVALID_VALUE, "bigint out of range");
    }
    *ret = value_i64(i);
    return ERR_OK;
}

static bool all_digits(struct str s)
{
    size_t i = s.len > 0 && (s.ptr[0] == '-' || s.ptr[0] == '+') ? 1 : 0;
    if (i == s.len)
        return false;
    for (; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return false;
    }
    return true;
}

static enum err to_bigint(const struct column *c, struct value in, struct value *ret, struct errctx *ec)
{
    switch (in.type) {
    case VALUE_DOUBLE:
        return double_to_bigint(in.d, ret, ec);
    case VALUE_HUGEINT:
    case VALUE_DECIMAL:
        return decimal_to_bigint(in.s, ret, ec);
    case VALUE_TEXT: {
        struct str s = str_trim(in.s);
        struct str digits = s.len > 1 && s.ptr[0] == '+' ? str_n(s.ptr + 1, s.len - 1) : s;
        int64_t i;
        if (str_to_i64(digits, &i)) {
            *ret = value_i64(i);
            return ERR_OK;
        }
        if (all_digits(s))
            return err_set(ec, ERR_INVALID_VALUE, "value \"%.*s\" is out of range for type bigint",
                (int)utf8_cut(in.s, SHOWN_BYTES_MAX), in.s.ptr);
        return bad_syntax("bigint", in.s, ec);
    }
    default:
        return mismatch(c, in, ec);
    }
}

static enum err to_timestamp(const struct column *c, struct value in, struct value *ret, struct errctx *ec)
{
    int64_t us;
    switch (in.type) {
    case VALUE_TEXT:
    case VALUE_DATE:
        if (!time_parse(str_trim(in.s), &us))
            return bad_syntax("timestamp with time zone", in.s, ec);
        break;
    case VALUE_TIMESTAMP:
    case VALUE_BIGINT:
        us = in.i;
        break;
    case VALUE_DOUBLE:
        /* JSON knows one kind of number: a whole one is microseconds, whatever the client's library made of
         * it. */
        if (in.d != floor(in.d) || !(fabs(in.d) < 9.2e18))
            return mismatch(c, in, ec);
        us = (int64_t)in.d;
        break;
    default:
        return mismatch(c, in, ec);
    }
    if (us < TIME_US_MIN || us > TIME_US_MAX)
        return err_set(ec, ERR_INVALID_VALUE, "timestamp out of range");
    *ret = value_ts(us);
    return ERR_OK;
}

/* Scalars as PostgreSQL prints them. */
static enum err scalar_text(struct arena *arena, struct value in, struct str *ret, struct errctx *ec)
{
    struct buf b = BUF_INIT(0);
    struct str s;
    switch (in.type) {
    case VALUE_BOOL:
        *ret = in.i ? STR("true") : STR("false");
        return ERR_OK;
    case VALUE_BIGINT:
        buf_i64(&b, in.i);
        break;
    case VALUE_DOUBLE:
        json_f64(&b, in.d);
        break;
    case VALUE_TIMESTAMP:
    case VALUE_TIMESTAMPTZ:
        time_format(&b, in.i);
        break;
    default:
        *ret = in.s;
        return ERR_OK;
    }
    s = buf_view(&b);
    if (s.len > 1 && s.ptr[0] == '"') /* NaN and infinities */
        s = str_n(s.ptr + 1, s.len - 2);
    *ret = arena_str(arena, s);
    bool failed = b.failed || ret->ptr == NULL;
    buf_release(&b);
    return failed ? arena_full(ec) : ERR_OK;
}

static enum err check_text(struct str s, struct errctx *ec)
{
    if (s.len > 0 && memchr(s.ptr, 0, s.len) != NULL)
        return err_set(ec, ERR_INVALID_REQUEST, "a text may not contain NUL (U+0000)");
    if (!utf8_valid(s))
        return err_set(ec, ERR_INVALID_VALUE, "invalid byte sequence for encoding \"UTF8\"");
    return ERR_OK;
}

static enum err to_text(
    struct arena *arena, const struct column *c, struct value in, struct value *ret, struct errctx *ec)
{
    if (in.type == VALUE_BLOB)
        return mismatch(c, in, ec);
    struct str s;
    enum err e = scalar_text(arena, in, &s, ec);
    if (e == ERR_OK)
        e = check_text(s, ec);
    if (e != ERR_OK)
        return e;
    *ret = value_text(s);
    return ERR_OK;
}

static enum err to_json(
    struct arena *arena, const struct column *c, struct value in, struct value *ret, struct errctx *ec)
{
    struct str s = in.s;
    enum err e;
    switch (in.type) {
    case VALUE_TEXT:
    case VALUE_LIST:
        e = check_text(s, ec);
        if (e != ERR_OK)
            return e;
        if (!json_valid(s)) {
            err_set(ec, ERR_INVALID_VALUE, "invalid input syntax for type json");
            err_detail(ec, "\"%.*s\" is not valid JSON.", (int)utf8_cut(s, SHOWN_BYTES_MAX),
                s.ptr != NULL ? s.ptr : "");
            return ec->code;
        }
        break;
    case VALUE_BOOL:
    case VALUE_BIGINT:
    case VALUE_DOUBLE:
        /* A parameter: JSON has no types to tell `5` from `'5'`. */
        if (in.type == VALUE_DOUBLE && !isfinite(in.d))
            return mismatch(c, in, ec);
        e = scalar_text(arena, in, &s, ec);
        if (e != ERR_OK)
            return e;
        break;
    case VALUE_HUGEINT:
    case VALUE_DECIMAL:
        break;
    default:
        return mismatch(c, in, ec);
    }
    *ret = value_json(s);
    return ERR_OK;
}

static enum err to_double(const struct column *c, struct value in, struct value *ret, struct errctx *ec)
{
    char text[64];
    if (in.type == VALUE_BIGINT) {
        *ret = (struct value){.type = VALUE_DOUBLE, .d = (double)in.i};
        return ERR_OK;
    }
    if (in.type != VALUE_TEXT && in.type != VALUE_HUGEINT && in.type != VALUE_DECIMAL)
        return mismatch(c, in, ec);
    struct str s = str_trim(in.s);
    if (s.len == 0 || s.len >= sizeof text)
        return bad_syntax("double precision", in.s, ec);
    memcpy(text, s.ptr, s.len);
    text[s.len] = 0;
    char *end;
    double d = strtod(text, &end);
    if (end != text + s.len)
        return bad_syntax("double precision", in.s, ec);
    *ret = (struct value){.type = VALUE_DOUBLE, .d = d};
    return ERR_OK;
}

static enum err to_bool(const struct column *c, struct value in, struct value *ret, struct errctx *ec)
{
    static const struct {
        struct str word;
        bool value;
    } words[] = {{{"true", 4}, true}, {{"t", 1}, true}, {{"yes", 3}, true}, {{"on", 2}, true},
        {{"1", 1}, true}, {{"false", 5}, false}, {{"f", 1}, false}, {{"no", 2}, false}, {{"off", 3}, false},
        {{"0", 1}, false}};
    if (in.type != VALUE_TEXT)
        return mismatch(c, in, ec);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (str_ieq(str_trim(in.s), words[i].word)) {
            *ret = value_bool(words[i].value);
            return ERR_OK;
        }
    }
    return bad_syntax("boolean", in.s, ec);
}

enum err coerce_value(
    struct arena *arena, const struct column *column, struct value in, struct value *ret, struct errctx *ec)
{
    if (in.type == VALUE_NULL) {
        *ret = in;
        return ERR_OK;
    }
    if (in.type == column->type && column->type != VALUE_TEXT && column->type != VALUE_TIMESTAMPTZ) {
        *ret = in;
        return ERR_OK;
    }
    switch (column->type) {
    case VALUE_TEXT:
        return to_text(arena, column, in, ret, ec);
    case VALUE_JSON:
        return to_json(arena, column, in, ret, ec);
    case VALUE_BIGINT:
        return to_bigint(column, in, ret, ec);
    case VALUE_TIMESTAMPTZ:
        if (in.type == VALUE_TIMESTAMPTZ)
            in.type = VALUE_TIMESTAMP; /* for the range check alone */
        return to_timestamp(column, in, ret, ec);
    case VALUE_DOUBLE:
        return to_double(column, in, ret, ec);
    case VALUE_BOOL:
        return to_bool(column, in, ret, ec);
    default:
        return mismatch(column, in, ec);
    }
}
