#include "base/value.h"
#include <math.h>

const char *value_type_name(enum value_type t)
{
    static const char *const names[] = {"NULL", "BOOLEAN", "BIGINT", "DOUBLE", "TEXT", "JSON", "TIMESTAMPTZ",
        "BLOB", "HUGEINT", "DECIMAL", "TIMESTAMP", "DATE", "TIME", "INTERVAL", "UUID", "JSON"};
    return (unsigned)t < sizeof names / sizeof *names ? names[t] : "UNKNOWN";
}

static int cmp_double(double a, double b)
{
    if (isnan(a) || isnan(b))
        return isnan(a) - isnan(b);
    return (a > b) - (a < b);
}

int value_cmp(struct value a, struct value b)
{
    if (value_is_bytes(a.type))
        return str_cmp(a.s, b.s);
    if (a.type == VALUE_DOUBLE)
        return cmp_double(a.d, b.d);
    return (a.i > b.i) - (a.i < b.i);
}
