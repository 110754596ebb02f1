/* One cell of an answer, as psql prints it, against our value. */
#include "cell.h"
#include "base/timefmt.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static bool number(struct str s, double *ret)
{
    char text[400], *end;
    if (s.len == 0 || s.len >= sizeof text)
        return false;
    memcpy(text, s.ptr, s.len);
    text[s.len] = 0;
    *ret = strtod(text, &end);
    return *end == 0 && end != text;
}

static bool close_to(double a, double b)
{
    if (isnan(a) || isnan(b))
        return isnan(a) && isnan(b);
    return a == b || fabs(a - b) <= 1e-9 * fmax(fabs(a), fabs(b));
}

static bool json_same(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b))
        return close_to(json_number_value(a), json_number_value(b));
    if (json_typeof(a) != json_typeof(b))
        return false;
    if (json_is_array(a)) {
        if (json_array_size(a) != json_array_size(b))
            return false;
        for (size_t i = 0; i < json_array_size(a); i++)
            if (!json_same(json_array_get(a, i), json_array_get(b, i)))
                return false;
        return true;
    }
    if (json_is_object(a)) {
        const char *key;
        json_t *v, *object = (json_t *)(uintptr_t)a;
        if (json_object_size(a) != json_object_size(b))
            return false;
        json_object_foreach(object, key, v)
        {
            const json_t *w = json_object_get(b, key);
            if (w == NULL || !json_same(v, w))
                return false;
        }
        return true;
    }
    return json_equal(a, b);
}

static bool json_text_same(struct str a, struct str b)
{
    json_t *x = json_loadb(a.ptr, a.len, JSON_DECODE_ANY, NULL),
           *y = json_loadb(b.ptr, b.len, JSON_DECODE_ANY, NULL);
    bool same = x != NULL && y != NULL && json_same(x, y);
    json_decref(x);
    json_decref(y);
    return same;
}

/* {1,NULL,"a b"} of PostgreSQL against [1,null,"a b"]. */
static bool array_same(struct str pg, struct str ours)
{
    json_t *list = json_loadb(ours.ptr, ours.len, 0, NULL);
    bool same = json_is_array(list) && pg.len >= 2 && pg.ptr[0] == '{';
    size_t i = 1, k = 0;
    while (same && i < pg.len - 1) {
        char item[512];
        size_t n = 0;
        bool quoted = pg.ptr[i] == '"';
        for (i += quoted; i < pg.len - 1 && n < sizeof item - 1; i++) {
            if (quoted ? pg.ptr[i] == '"' : pg.ptr[i] == ',')
                break;
            if (pg.ptr[i] == '\\')
                i++;
            item[n++] = pg.ptr[i];
        }
        i += quoted;
        i += i < pg.len - 1 && pg.ptr[i] == ',';
        item[n] = 0;
        const json_t *v = json_array_get(list, k++);
        double d;
        if (v == NULL)
            same = false;
        else if (json_is_null(v))
            same = !quoted && strcmp(item, "NULL") == 0;
        else if (json_is_string(v) && strcmp(item, json_string_value(v)) == 0)
            same = true;
        else if (json_is_string(v) && number(str_c(json_string_value(v)), &d))
            same = close_to(d, atof(item));
        else if (json_is_string(v)) {
            int64_t a, b;
            same = time_parse(str_c(item), &a) && time_parse(str_c(json_string_value(v)), &b) && a == b;
        } else if (json_is_number(v))
            same = number(str_c(item), &d) && close_to(d, json_number_value(v));
        else if (json_is_boolean(v))
            same = (item[0] == 't') == json_is_true(v);
        else
            same = false;
    }
    same = same && k == json_array_size(list);
    json_decref(list);
    return same;
}

bool cell_same(struct str pg, struct value v, enum value_type column)
{
    double d, e;
    int64_t us;
    if (str_eq(pg, STR(NULL_MARK)))
        return v.type == VALUE_NULL;
    switch (v.type) {
    case VALUE_NULL:
        return false;
    case VALUE_BOOL:
        return str_eq(pg, v.i ? STR("t") : STR("f"));
    case VALUE_BIGINT:
        return number(pg, &d) && d == (double)v.i;
    case VALUE_DOUBLE:
        return number(pg, &d) && close_to(d, v.d);
    case VALUE_HUGEINT:
    case VALUE_DECIMAL:
        return number(pg, &d) && number(v.s, &e) && close_to(d, e);
    case VALUE_TIMESTAMPTZ:
    case VALUE_TIMESTAMP:
        return time_parse(pg, &us) && us == v.i;
    case VALUE_JSON:
        return json_text_same(pg, v.s);
    case VALUE_BLOB: {
        bool same = pg.len == v.s.len * 2 + 2;
        for (size_t i = 0; same && i < v.s.len; i++) {
            char hex[3];
            snprintf(hex, sizeof hex, "%02x", (unsigned char)v.s.ptr[i]);
            same = memcmp(pg.ptr + 2 + 2 * i, hex, 2) == 0;
        }
        return same;
    }
    case VALUE_LIST:
        return column == VALUE_LIST && array_same(pg, v.s);
    default:
        return str_eq(pg, v.s);
    }
}
