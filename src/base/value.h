/* One SQL value, by value. Bytes are borrowed from the row, message or arena it came from. */
#ifndef KALAMDB_BASE_VALUE_H
#define KALAMDB_BASE_VALUE_H

#include "base/str.h"

/* Column types of catalog tables are BOOL, BIGINT, DOUBLE, TEXT, JSON, TIMESTAMPTZ, BLOB; results of the
 * analytic path also have the rest. The numbers travel between server and worker and stand in row files:
 * never renumber. */
enum value_type {
    VALUE_NULL = 0,
    VALUE_BOOL = 1,        /* .i 0|1 */
    VALUE_BIGINT = 2,      /* .i; also every smaller integer */
    VALUE_DOUBLE = 3,      /* .d */
    VALUE_TEXT = 4,        /* .s UTF-8 */
    VALUE_JSON = 5,        /* .s JSON text, valid */
    VALUE_TIMESTAMPTZ = 6, /* .i microseconds since 1970-01-01T00:00:00Z */
    VALUE_BLOB = 7,        /* .s bytes */
    VALUE_HUGEINT = 8,     /* .s decimal text */
    VALUE_DECIMAL = 9,     /* .s decimal text */
    VALUE_TIMESTAMP = 10,  /* .i microseconds, no zone (printed like TIMESTAMPTZ) */
    VALUE_DATE = 11,       /* .s ISO 8601 text */
    VALUE_TIME = 12,       /* .s ISO 8601 text */
    VALUE_INTERVAL = 13,   /* .s text */
    VALUE_UUID = 14,       /* .s text */
    VALUE_LIST = 15,       /* .s as JSON text (also structs and maps) */
};

struct value {
    enum value_type type; /* VALUE_NULL: SQL NULL */
    union {
        int64_t i;
        double d;
        struct str s;
    };
};

#define VALUE_OF_NULL ((struct value){.type = VALUE_NULL})
static inline struct value value_i64(int64_t i)
{
    return (struct value){.type = VALUE_BIGINT, .i = i};
}
static inline struct value value_text(struct str s)
{
    return (struct value){.type = VALUE_TEXT, .s = s};
}
static inline struct value value_ts(int64_t us)
{
    return (struct value){.type = VALUE_TIMESTAMPTZ, .i = us};
}
static inline struct value value_json(struct str s)
{
    return (struct value){.type = VALUE_JSON, .s = s};
}
static inline struct value value_bool(bool b)
{
    return (struct value){.type = VALUE_BOOL, .i = b};
}
static inline bool value_is_null(struct value v)
{
    return v.type == VALUE_NULL;
}
/* Does .s hold the value? */
static inline bool value_is_bytes(enum value_type t)
{
    return t == VALUE_TEXT || t == VALUE_JSON || t >= VALUE_BLOB ? t != VALUE_TIMESTAMP : false;
}
/* SQL type name for `types` in results: "BIGINT", "TEXT", "TIMESTAMPTZ" … */
const char *value_type_name(enum value_type t);
/* Order of two non-null values of one type as PostgreSQL has it (text by bytes, NaN greatest). */
int value_cmp(struct value a, struct value b);

#endif
