/* DuckDB's vectors as the contract's values. Texts of times, dates and intervals are PostgreSQL's (ISO,
 * intervalstyle postgres); nested values are JSON. */
#include "analytic/worker.h"
#include "base/json.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define US_PER_SECOND 1000000
#define US_PER_DAY (INT64_C(86400) * US_PER_SECOND)
#define NESTING_MAX 64

__extension__ typedef __int128 int128;
__extension__ typedef unsigned __int128 uint128;

static enum value_type value_type_of(duckdb_type id)
{
    switch (id) {
    case DUCKDB_TYPE_BOOLEAN:
        return VALUE_BOOL;
    case DUCKDB_TYPE_TINYINT:
    case DUCKDB_TYPE_SMALLINT:
    case DUCKDB_TYPE_INTEGER:
    case DUCKDB_TYPE_BIGINT:
    case DUCKDB_TYPE_UTINYINT:
    case DUCKDB_TYPE_USMALLINT:
    case DUCKDB_TYPE_UINTEGER:
        return VALUE_BIGINT;
    case DUCKDB_TYPE_UBIGINT:
    case DUCKDB_TYPE_HUGEINT:
    case DUCKDB_TYPE_UHUGEINT:
        return VALUE_HUGEINT;
    case DUCKDB_TYPE_FLOAT:
    case DUCKDB_TYPE_DOUBLE:
        return VALUE_DOUBLE;
    case DUCKDB_TYPE_DECIMAL:
        return VALUE_DECIMAL;
    case DUCKDB_TYPE_VARCHAR:
    case DUCKDB_TYPE_ENUM:
    case DUCKDB_TYPE_BIT:
    case DUCKDB_TYPE_SQLNULL:
        return VALUE_TEXT;
    case DUCKDB_TYPE_BLOB:
        return VALUE_BLOB;
    case DUCKDB_TYPE_TIMESTAMP:
    case DUCKDB_TYPE_TIMESTAMP_S:
    case DUCKDB_TYPE_TIMESTAMP_MS:
    case DUCKDB_TYPE_TIMESTAMP_NS:
        return VALUE_TIMESTAMP;
    case DUCKDB_TYPE_TIMESTAMP_TZ:
        return VALUE_TIMESTAMPTZ;
    case DUCKDB_TYPE_DATE:
        return VALUE_DATE;
    case DUCKDB_TYPE_TIME:
    case DUCKDB_TYPE_TIME_TZ:
    case DUCKDB_TYPE_TIME_NS:
        return VALUE_TIME;
    case DUCKDB_TYPE_INTERVAL:
        return VALUE_INTERVAL;
    case DUCKDB_TYPE_UUID:
        return VALUE_UUID;
    case DUCKDB_TYPE_LIST:
    case DUCKDB_TYPE_ARRAY:
    case DUCKDB_TYPE_MAP:
    case DUCKDB_TYPE_STRUCT:
    case DUCKDB_TYPE_UNION:
        return VALUE_LIST;
    default:
        return VALUE_NULL;
    }
}

static enum err init_type(struct cell_type *t, duckdb_logical_type logical, int depth, struct errctx *ec);

/* The type of child i; the caller destroys it. */
static duckdb_logical_type child_type(const struct cell_type *t, int i)
{
    switch (t->id) {
    case DUCKDB_TYPE_LIST:
        return duckdb_list_type_child_type(t->logical);
    case DUCKDB_TYPE_ARRAY:
        return duckdb_array_type_child_type(t->logical);
    case DUCKDB_TYPE_MAP:
        return i == 0 ? duckdb_map_type_key_type(t->logical) : duckdb_map_type_value_type(t->logical);
    case DUCKDB_TYPE_UNION:
        return duckdb_union_type_member_type(t->logical, (idx_t)i);
    default:
        return duckdb_struct_type_child_type(t->logical, (idx_t)i);
    }
}

static enum err init_children(struct cell_type *t, int depth, struct errctx *ec)
{
    int n = 1;
    if (t->id == DUCKDB_TYPE_MAP)
        n = 2;
    else if (t->id == DUCKDB_TYPE_STRUCT)
        n = (int)duckdb_struct_type_child_count(t->logical);
    else if (t->id == DUCKDB_TYPE_UNION)
        n = (int)duckdb_union_type_member_count(t->logical);
    if (t->id == DUCKDB_TYPE_ARRAY)
        t->array_size = duckdb_array_type_array_size(t->logical);
    if (depth >= NESTING_MAX)
        return err_set(ec, ERR_UNSUPPORTED, "a value nested deeper than %d levels", NESTING_MAX);
    t->children = calloc((size_t)n, sizeof *t->children);
    t->names = calloc((size_t)n, sizeof *t->names);
    if (t->children == NULL || t->names == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "result type");
    for (int i = 0; i < n; i++) {
        enum err e = init_type(&t->children[i], child_type(t, i), depth + 1, ec);
        t->nchildren = i + 1;
        if (e != ERR_OK)
            return e;
        if (t->id == DUCKDB_TYPE_STRUCT)
            t->names[i] = duckdb_struct_type_child_name(t->logical, (idx_t)i);
    }
    return ERR_OK;
}

static enum err init_type(struct cell_type *t, duckdb_logical_type logical, int depth, struct errctx *ec)
{
    *t = (struct cell_type){.logical = logical, .id = duckdb_get_type_id(logical)};
    t->value = value_type_of(t->id);
    t->storage = t->id;
    if (t->value == VALUE_NULL)
        return err_set(
            ec, ERR_UNSUPPORTED, "a result column has a type that cannot be shown: cast it to text");
    if (t->id == DUCKDB_TYPE_VARCHAR) {
        char *alias = duckdb_logical_type_get_alias(logical);
        if (alias != NULL && strcmp(alias, "JSON") == 0)
            t->value = VALUE_JSON;
        duckdb_free(alias);
    } else if (t->id == DUCKDB_TYPE_DECIMAL) {
        t->storage = duckdb_decimal_internal_type(logical);
        t->scale = duckdb_decimal_scale(logical);
    } else if (t->id == DUCKDB_TYPE_ENUM) {
        t->storage = duckdb_enum_internal_type(logical);
    } else if (t->value == VALUE_LIST) {
        return init_children(t, depth, ec);
    }
    return ERR_OK;
}

enum err cell_type_init(struct cell_type *t, duckdb_logical_type logical, struct errctx *ec)
{
    return init_type(t, logical, 0, ec);
}

void cell_type_release(struct cell_type *t)
{
    for (int i = 0; i < t->nchildren; i++) {
        duckdb_free(t->names[i]);
        cell_type_release(&t->children[i]);
    }
    free(t->children);
    free(t->names);
    if (t->logical != NULL)
        duckdb_destroy_logical_type(&t->logical);
}

static void put_u128(struct buf *b, uint128 v, bool negative, unsigned scale)
{
    char digits[48];
    size_t n = sizeof digits;
    unsigned done = 0;
    do {
        if (scale > 0 && done == scale)
            digits[--n] = '.';
        digits[--n] = (char)('0' + (int)(v % 10));
        v /= 10;
        done++;
    } while (v > 0 || done <= scale);
    if (negative)
        digits[--n] = '-';
    buf_append(b, digits + n, sizeof digits - n);
}

static void put_i128(struct buf *b, int128 v, unsigned scale)
{
    put_u128(b, v < 0 ? -(uint128)v : (uint128)v, v < 0, scale);
}

static int128 hugeint(duckdb_hugeint h)
{
    return (int128)((uint128)(uint64_t)h.upper << 64 | h.lower);
}

static int64_t integer(duckdb_type storage, const void *data, uint64_t row)
{
    switch (storage) {
    case DUCKDB_TYPE_TINYINT:
        return ((const int8_t *)data)[row];
    case DUCKDB_TYPE_UTINYINT:
        return ((const uint8_t *)data)[row];
    case DUCKDB_TYPE_SMALLINT:
        return ((const int16_t *)data)[row];
    case DUCKDB_TYPE_USMALLINT:
        return ((const uint16_t *)data)[row];
    case DUCKDB_TYPE_INTEGER:
        return ((const int32_t *)data)[row];
    case DUCKDB_TYPE_UINTEGER:
        return ((const uint32_t *)data)[row];
    default:
        return ((const int64_t *)data)[row];
    }
}

/* PostgreSQL's real prints its shortest digits; the double nearest to those, not to the bits, is what a
 * client expects of 0.1. */
static double real(float f)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)f);
        if (strtof(text, NULL) == f)
            return strtod(text, NULL);
    }
    return (double)f;
}

/* Gregorian date of a day number since 1970-01-01, any year (days_from_civil's inverse, Howard Hinnant,
 * chrono-Compatible Low-Level Date Algorithms). */
static void put_date(struct buf *b, int32_t days)
{
    if (days == INT32_MAX || days == -INT32_MAX) {
        buf_str(b, days > 0 ? STR("infinity") : STR("-infinity"));
        return;
    }
    int64_t z = (int64_t)days + 719468;
    int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;
    int64_t day = doy - (153 * mp + 2) / 5 + 1, month = mp < 10 ? mp + 3 : mp - 9;
    int64_t year = yoe + era * 400 + (month <= 2);
    bool bc = year <= 0;
    buf_printf(b, "%04d-%02d-%02d%s", (int)(bc ? 1 - year : year), (int)month, (int)day, bc ? " BC" : "");
}

/* hh:mm:ss[.ffffff] without trailing zeros. */
static void put_clock(struct buf *b, int64_t us)
{
    int64_t s = us / US_PER_SECOND;
    int fraction = (int)(us % US_PER_SECOND), digits = 6;
    buf_printf(b, "%02d:%02d:%02d", (int)(s / 3600), (int)(s / 60 % 60), (int)(s % 60));
    if (fraction == 0)
        return;
    for (; fraction % 10 == 0; fraction /= 10)
        digits--;
    buf_printf(b, ".%0*d", digits, fraction);
}

static void put_time_tz(struct buf *b, duckdb_time_tz bits)
{
    duckdb_time_tz_struct t = duckdb_from_time_tz(bits);
    put_clock(
        b, (int64_t)(t.time.hour * 3600 + t.time.min * 60 + t.time.sec) * US_PER_SECOND + t.time.micros);
    int32_t off = t.offset < 0 ? -t.offset : t.offset;
    buf_printf(b, "%c%02d", t.offset < 0 ? '-' : '+', off / 3600);
    if (off % 3600 != 0)
        buf_printf(b, ":%02d", off / 60 % 60);
    if (off % 60 != 0)
        buf_printf(b, ":%02d", off % 60);
}

/* One "3 days" of an interval; a positive field after a negative one carries its sign. */
static void put_field(struct buf *b, size_t start, int64_t n, const char *unit, bool *after_negative)
{
    if (n == 0)
        return;
    buf_printf(b, "%s%s%lld %s%s", b->len > start ? " " : "", *after_negative && n > 0 ? "+" : "",
        (long long)n, unit, n != 1 ? "s" : "");
    *after_negative = n < 0;
}

/* intervalstyle postgres: 1 year 2 mons -3 days +04:05:06.7 */
static void put_interval(struct buf *b, duckdb_interval v)
{
    size_t start = b->len;
    bool after_negative = false;
    put_field(b, start, v.months / 12, "year", &after_negative);
    put_field(b, start, v.months % 12, "mon", &after_negative);
    put_field(b, start, v.days, "day", &after_negative);
    if (v.micros != 0 || b->len == start) {
        if (b->len > start)
            buf_u8(b, ' ');
        if (v.micros < 0)
            buf_u8(b, '-');
        else if (after_negative)
            buf_u8(b, '+');
        /* INT64_MIN has no positive twin; a microsecond of it is no loss. */
        put_clock(b, v.micros == INT64_MIN ? INT64_MAX : v.micros < 0 ? -v.micros : v.micros);
    }
}

static void put_uuid(struct buf *b, duckdb_hugeint h)
{
    uint8_t bytes[16];
    /* DuckDB flips the top bit so that hugeint order is uuid order. */
    put_be64(bytes, (uint64_t)h.upper ^ (UINT64_C(1) << 63));
    put_be64(bytes + 8, h.lower);
    for (int i = 0; i < 16; i++)
        buf_printf(b, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", bytes[i]);
}

/* A bit string's first byte counts the unused bits of the second. */
static void put_bits(struct buf *b, struct str s)
{
    for (size_t i = 1; i < s.len; i++)
        for (int bit = i == 1 ? (uint8_t)s.ptr[0] & 7 : 0; bit < 8; bit++)
            buf_u8(b, ((uint8_t)s.ptr[i] >> (7 - bit) & 1) != 0 ? '1' : '0');
}

static int64_t timestamp_us(duckdb_type id, int64_t v)
{
    int64_t us;
    /* Infinities are the same numbers in every unit. */
    if (v == INT64_MAX || v == -INT64_MAX || id == DUCKDB_TYPE_TIMESTAMP || id == DUCKDB_TYPE_TIMESTAMP_TZ)
        return v;
    if (id == DUCKDB_TYPE_TIMESTAMP_NS)
        return v / 1000 - (v % 1000 < 0);
    if (__builtin_mul_overflow(v, id == DUCKDB_TYPE_TIMESTAMP_S ? US_PER_SECOND : 1000, &us))
        return v > 0 ? INT64_MAX : -INT64_MAX;
    return us;
}

static struct str string_at(const void *data, uint64_t row)
{
    duckdb_string_t *s = &((duckdb_string_t *)(uintptr_t)data)[row];
    return str_n(duckdb_string_t_data(s), duckdb_string_t_length(*s));
}

static void put_json_cell(struct buf *b, const struct cell_type *t, duckdb_vector vector, uint64_t row);

static void put_json_list(
    struct buf *b, const struct cell_type *child, duckdb_vector vector, uint64_t at, uint64_t n)
{
    buf_u8(b, '[');
    for (uint64_t i = 0; i < n; i++) {
        if (i > 0)
            buf_u8(b, ',');
        put_json_cell(b, child, vector, at + i);
    }
    buf_u8(b, ']');
}

static void put_json_map(struct buf *b, const struct cell_type *t, duckdb_vector vector, duckdb_list_entry e)
{
    duckdb_vector entries = duckdb_list_vector_get_child(vector);
    duckdb_vector keys = duckdb_struct_vector_get_child(entries, 0);
    duckdb_vector values = duckdb_struct_vector_get_child(entries, 1);
    struct buf key = BUF_INIT(PROTO_FRAME_MAX), scratch = BUF_INIT(PROTO_FRAME_MAX);
    buf_u8(b, '{');
    for (uint64_t i = 0; i < e.length; i++) {
        struct value k = cell_value(&t->children[0], keys, e.offset + i, &scratch);
        buf_clear(&key);
        if (value_is_bytes(k.type))
            buf_str(&key, k.s);
        else
            json_value(&key, k);
        if (i > 0)
            buf_u8(b, ',');
        /* A timestamp's JSON is already quoted. */
        if (key.len > 0 && key.ptr[0] == '"' && !value_is_bytes(k.type)) {
            buf_str(b, buf_view(&key));
            buf_u8(b, ':');
        } else {
            json_key(b, buf_view(&key));
        }
        put_json_cell(b, &t->children[1], values, e.offset + i);
        b->failed |= key.failed || scratch.failed;
        buf_clear(&scratch);
    }
    buf_u8(b, '}');
    buf_release(&key);
    buf_release(&scratch);
}

static void put_json_struct(struct buf *b, const struct cell_type *t, duckdb_vector vector, uint64_t row)
{
    /* An unnamed struct (a row value) has no keys: a list, as a tuple. */
    bool named = t->nchildren > 0 && t->names[0] != NULL && t->names[0][0] != '\0';
    buf_u8(b, named ? '{' : '[');
    for (int i = 0; i < t->nchildren; i++) {
        if (i > 0)
            buf_u8(b, ',');
        if (named)
            json_key(b, str_c(t->names[i]));
        put_json_cell(b, &t->children[i], duckdb_struct_vector_get_child(vector, (idx_t)i), row);
    }
    buf_u8(b, named ? '}' : ']');
}

static void put_json_nested(struct buf *b, const struct cell_type *t, duckdb_vector vector, uint64_t row)
{
    if (t->id == DUCKDB_TYPE_LIST) {
        duckdb_list_entry e = ((duckdb_list_entry *)duckdb_vector_get_data(vector))[row];
        put_json_list(b, &t->children[0], duckdb_list_vector_get_child(vector), e.offset, e.length);
    } else if (t->id == DUCKDB_TYPE_ARRAY) {
        put_json_list(
            b, &t->children[0], duckdb_array_vector_get_child(vector), row * t->array_size, t->array_size);
    } else if (t->id == DUCKDB_TYPE_MAP) {
        put_json_map(b, t, vector, ((duckdb_list_entry *)duckdb_vector_get_data(vector))[row]);
    } else if (t->id == DUCKDB_TYPE_UNION) {
        /* A union is a struct whose first member is the tag. */
        uint8_t tag = ((uint8_t *)duckdb_vector_get_data(duckdb_struct_vector_get_child(vector, 0)))[row];
        if (tag < t->nchildren)
            put_json_cell(b, &t->children[tag], duckdb_struct_vector_get_child(vector, (idx_t)tag + 1), row);
        else
            buf_str(b, STR("null"));
    } else {
        put_json_struct(b, t, vector, row);
    }
}

static bool is_null(duckdb_vector vector, uint64_t row)
{
    uint64_t *validity = duckdb_vector_get_validity(vector);
    return validity != NULL && !duckdb_validity_row_is_valid(validity, row);
}

static void put_json_cell(struct buf *b, const struct cell_type *t, duckdb_vector vector, uint64_t row)
{
    if (t->id == DUCKDB_TYPE_SQLNULL || is_null(vector, row)) {
        buf_str(b, STR("null"));
    } else if (t->value == VALUE_LIST) {
        put_json_nested(b, t, vector, row);
    } else {
        struct buf scratch = BUF_INIT(PROTO_FRAME_MAX);
        json_value(b, cell_value(t, vector, row, &scratch));
        b->failed |= scratch.failed;
        buf_release(&scratch);
    }
}

/* Types whose value is a text that has to be made. */
static void put_text(const struct cell_type *t, const void *data, uint64_t row, struct buf *b)
{
    switch (t->id) {
    case DUCKDB_TYPE_UBIGINT:
        put_u128(b, ((const uint64_t *)data)[row], false, 0);
        break;
    case DUCKDB_TYPE_HUGEINT:
        put_i128(b, hugeint(((const duckdb_hugeint *)data)[row]), 0);
        break;
    case DUCKDB_TYPE_UHUGEINT: {
        duckdb_uhugeint h = ((const duckdb_uhugeint *)data)[row];
        put_u128(b, (uint128)h.upper << 64 | h.lower, false, 0);
        break;
    }
    case DUCKDB_TYPE_DECIMAL:
        put_i128(b,
            t->storage == DUCKDB_TYPE_HUGEINT ? hugeint(((const duckdb_hugeint *)data)[row])
                                              : (int128)integer(t->storage, data, row),
            t->scale);
        break;
    case DUCKDB_TYPE_ENUM: {
        char *text = duckdb_enum_dictionary_value(t->logical, (idx_t)integer(t->storage, data, row));
        buf_str(b, str_c(text));
        duckdb_free(text);
        break;
    }
    case DUCKDB_TYPE_DATE:
        put_date(b, ((const int32_t *)data)[row]);
        break;
    case DUCKDB_TYPE_TIME:
        put_clock(b, ((const int64_t *)data)[row]);
        break;
    case DUCKDB_TYPE_TIME_NS:
        put_clock(b, ((const int64_t *)data)[row] / 1000);
        break;
    case DUCKDB_TYPE_TIME_TZ:
        put_time_tz(b, ((const duckdb_time_tz *)data)[row]);
        break;
    case DUCKDB_TYPE_INTERVAL:
        put_interval(b, ((const duckdb_interval *)data)[row]);
        break;
    case DUCKDB_TYPE_UUID:
        put_uuid(b, ((const duckdb_hugeint *)data)[row]);
        break;
    default:
        put_bits(b, string_at(data, row));
        break;
    }
}

struct value cell_value(const struct cell_type *t, duckdb_vector vector, uint64_t row, struct buf *scratch)
{
    if (t->id == DUCKDB_TYPE_SQLNULL || is_null(vector, row))
        return VALUE_OF_NULL;
    struct value v = {.type = t->value};
    if (t->value == VALUE_LIST) {
        put_json_nested(scratch, t, vector, row);
        v.s = buf_view(scratch);
        return v;
    }
    const void *data = duckdb_vector_get_data(vector);
    switch (t->id) {
    case DUCKDB_TYPE_BOOLEAN:
        v.i = ((const bool *)data)[row];
        return v;
    case DUCKDB_TYPE_FLOAT:
        v.d = real(((const float *)data)[row]);
        return v;
    case DUCKDB_TYPE_DOUBLE:
        v.d = ((const double *)data)[row];
        return v;
    case DUCKDB_TYPE_VARCHAR:
    case DUCKDB_TYPE_BLOB:
        v.s = string_at(data, row);
        return v;
    default:
        break;
    }
    if (t->value == VALUE_BIGINT) {
        v.i = integer(t->id, data, row);
    } else if (t->value == VALUE_TIMESTAMP || t->value == VALUE_TIMESTAMPTZ) {
        v.i = timestamp_us(t->id, ((const int64_t *)data)[row]);
    } else {
        size_t at = scratch->len;
        put_text(t, data, row, scratch);
        v.s = scratch->failed ? STR_NULL : str_n(scratch->ptr + at, scratch->len - at);
    }
    return v;
}
