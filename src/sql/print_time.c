/* PostgreSQL's interval input, to_char's patterns, and fields of instants. */
#include "sql/print_int.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <strings.h>

#define US_PER_DAY 86400000000.0

struct interval {
    double months, days, us;
};

/* A number of units; the fraction of months and days spills into the smaller field, as in PostgreSQL. */
static bool interval_add(struct interval *v, double n, const char *unit, size_t len)
{
    static const struct {
        const char *name;
        char field;
        double factor;
    } units[] = {{"us", 'u', 1}, {"usec", 'u', 1}, {"usecs", 'u', 1}, {"microsecond", 'u', 1},
        {"microseconds", 'u', 1}, {"ms", 'u', 1e3}, {"msec", 'u', 1e3}, {"msecs", 'u', 1e3},
        {"millisecond", 'u', 1e3}, {"milliseconds", 'u', 1e3}, {"s", 'u', 1e6}, {"sec", 'u', 1e6},
        {"secs", 'u', 1e6}, {"second", 'u', 1e6}, {"seconds", 'u', 1e6}, {"m", 'u', 6e7}, {"min", 'u', 6e7},
        {"mins", 'u', 6e7}, {"minute", 'u', 6e7}, {"minutes", 'u', 6e7}, {"h", 'u', 3.6e9},
        {"hr", 'u', 3.6e9}, {"hrs", 'u', 3.6e9}, {"hour", 'u', 3.6e9}, {"hours", 'u', 3.6e9}, {"d", 'd', 1},
        {"day", 'd', 1}, {"days", 'd', 1}, {"w", 'd', 7}, {"week", 'd', 7}, {"weeks", 'd', 7},
        {"mon", 'm', 1}, {"mons", 'm', 1}, {"month", 'm', 1}, {"months", 'm', 1}, {"y", 'm', 12},
        {"yr", 'm', 12}, {"yrs", 'm', 12}, {"year", 'm', 12}, {"years", 'm', 12}, {"decade", 'm', 120},
        {"decades", 'm', 120}, {"century", 'm', 1200}, {"centuries", 'm', 1200}, {"millennium", 'm', 12000}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strlen(units[i].name) != len || strncasecmp(units[i].name, unit, len) != 0)
            continue;
        double x = n * units[i].factor;
        if (units[i].field == 'u')
            v->us += x;
        else if (units[i].field == 'd') {
            double whole = trunc(x);
            v->days += whole;
            v->us += (x - whole) * US_PER_DAY;
        } else {
            double whole = trunc(x), days = (x - whole) * 30;
            v->months += whole;
            v->days += trunc(days);
            v->us += (days - trunc(days)) * US_PER_DAY;
        }
        return true;
    }
    return false;
}

/* [-]h:mm[:ss[.f]] at s; returns the bytes taken, 0 when it is none. */
static size_t clock_time(const char *s, double *ret_us)
{
    int h = 0, m = 0, n = 0, sign = 1;
    double sec = 0;
    const char *c = s;
    if (*c == '-' || *c == '+')
        sign = *c++ == '-' ? -1 : 1;
    size_t digits = strspn(c, "0123456789");
    if (digits == 0 || digits > 7 || c[digits] != ':')
        return 0;
    h = atoi(c);
    c += digits + 1;
    if (strspn(c, "0123456789") != 2)
        return 0;
    m = atoi(c);
    c += 2;
    n = 0;
    if (*c == ':' && isdigit((unsigned char)c[1])) {
        char *end;
        size_t len = strspn(c + 1, "0123456789.");
        if (len > 20)
            return 0;
        sec = strtod(c + 1, &end);
        c += len + 1;
        n = end == c ? 0 : 1;
    }
    if (n != 0 || m > 59 || sec >= 61)
        return 0;
    *ret_us = sign * ((h * 3600.0 + m * 60.0) * 1e6 + sec * 1e6);
    return (size_t)(c - s);
}

static bool iso_duration(const char *s, struct interval *v)
{
    bool time = false, any = false;
    for (s++; *s != 0;) {
        if (*s == 'T' && !time) {
            time = true;
            s++;
            continue;
        }
        size_t len = strspn(s, "+-0123456789.");
        if (len == 0 || len > 20)
            return false;
        char *end;
        double n = strtod(s, &end);
        if (end != s + len)
            return false;
        const char *unit = NULL;
        switch (*end) {
        case 'Y':
            unit = "y";
            break;
        case 'M':
            unit = time ? "min" : "mon";
            break;
        case 'W':
            unit = "w";
            break;
        case 'D':
            unit = "d";
            break;
        case 'H':
            unit = "h";
            break;
        case 'S':
            unit = "s";
            break;
        default:
            return false;
        }
        any = interval_add(v, n, unit, strlen(unit));
        s = end + 1;
    }
    return any;
}

static bool interval_words(const char *s, struct interval *v)
{
    bool any = false;
    while (*s != 0) {
        s += strspn(s, " \t\n,@");
        if (*s == 0)
            break;
        double us;
        size_t len = clock_time(s, &us);
        if (len > 0) {
            v->us += us;
            s += len;
            any = true;
            continue;
        }
        if (strcasecmp(s, "ago") == 0) {
            v->months = -v->months;
            v->days = -v->days;
            v->us = -v->us;
            return any;
        }
        len = strspn(s, "+-0123456789.");
        if (len == 0 || len > 20)
            return false;
        char *end;
        double n = strtod(s, &end);
        if (end != s + len)
            return false;
        s = end + strspn(end, " ");
        len = 0;
        while (isalpha((unsigned char)s[len]))
            len++;
        if (!(len == 0 && *s == 0 ? interval_add(v, n, "s", 1) : interval_add(v, n, s, len)))
            return false;
        s += len;
        any = true;
    }
    return any;
}

bool interval_parse(struct str s, int64_t *ret_months, int64_t *ret_days, int64_t *ret_us)
{
    char text[128];
    struct interval v = {0};
    if (s.len == 0 || s.len >= sizeof text || memchr(s.ptr, 0, s.len) != NULL)
        return false;
    memcpy(text, s.ptr, s.len);
    text[s.len] = 0;
    if (!(text[0] == 'P' && text[1] != 0 ? iso_duration(text, &v) : interval_words(text, &v)))
        return false;
    if (fabs(v.months) > INT32_MAX || fabs(v.days) > INT32_MAX || fabs(v.us) > 9e18)
        return false;
    *ret_months = (int64_t)v.months;
    *ret_days = (int64_t)v.days;
    *ret_us = (int64_t)llround(v.us);
    return true;
}

bool time_pattern(struct str s, struct buf *ret, bool parse)
{
    static const struct {
        const char *pg, *format, *parse;
    } known[] = {{"YYYY", "%Y", "%Y"}, {"IYYY", "%G", NULL}, {"YY", "%y", "%y"}, {"MONTH", NULL, "%B"},
        {"Month", NULL, "%B"}, {"FMMonth", "%B", "%B"}, {"TMMonth", "%B", "%B"}, {"MON", NULL, "%b"},
        {"Mon", "%b", "%b"}, {"FMMM", "%-m", "%m"}, {"MM", "%m", "%m"}, {"FMDDD", "%-j", NULL},
        {"DDD", "%j", "%j"}, {"FMDD", "%-d", "%d"}, {"DD", "%d", "%d"}, {"FMDay", "%A", NULL},
        {"Dy", "%a", "%a"}, {"FMHH24", "%-H", "%H"}, {"HH24", "%H", "%H"}, {"FMHH12", "%-I", "%I"},
        {"HH12", "%I", "%I"}, {"FMHH", "%-I", "%I"}, {"HH", "%I", "%I"}, {"FMMI", "%-M", "%M"},
        {"MI", "%M", "%M"}, {"FMSS", "%-S", "%S"}, {"SS", "%S", "%S"}, {"MS", "%g", "%g"}, {"US", "%f", "%f"},
        {"AM", "%p", "%p"}, {"PM", "%p", "%p"}, {"IW", "%V", NULL}, {"ID", "%u", NULL},
        {"TZH:TZM", "+00:00", "%z"}, {"TZH", "+00", "%z"}, {"TZ", "UTC", NULL}, {"OF", "+00", "%z"}};
    for (size_t i = 0; i < s.len;) {
        struct str rest = str_n(s.ptr + i, s.len - i);
        if (rest.ptr[0] == '"') {
            for (i++; i < s.len && s.ptr[i] != '"'; i++) {
                if (s.ptr[i] == '%')
                    buf_u8(ret, '%');
                buf_u8(ret, (uint8_t)s.ptr[i]);
            }
            i++;
            continue;
        }
        const char *to = NULL;
        size_t len = 0;
        for (size_t k = 0; k < sizeof known / sizeof *known && to == NULL; k++)
            if (str_starts_with(rest, str_c(known[k].pg))) {
                to = parse ? known[k].parse : known[k].format;
                len = strlen(known[k].pg);
                if (to == NULL)
                    return false;
            }
        if (to != NULL) {
            /* %g is milliseconds in DuckDB, %f microseconds. */
            buf_append(ret, to, strlen(to));
            i += len;
        } else if (isalpha((unsigned char)rest.ptr[0]))
            return false;
        else {
            if (rest.ptr[0] == '%')
                buf_u8(ret, '%');
            buf_u8(ret, (uint8_t)rest.ptr[0]);
            i++;
        }
    }
    return true;
}

struct ex pr_extract(struct pr *p, struct str field, struct ex arg, int location, bool as_double)
{
    static const struct {
        const char *pg, *text;
        bool fraction;
    } known[] = {{"year", "date_part('year', ", false}, {"years", "date_part('year', ", false},
        {"month", "date_part('month', ", false}, {"months", "date_part('month', ", false},
        {"day", "date_part('day', ", false}, {"days", "date_part('day', ", false},
        {"hour", "date_part('hour', ", false}, {"hours", "date_part('hour', ", false},
        {"minute", "date_part('minute', ", false}, {"minutes", "date_part('minute', ", false},
        {"second", "kdb_seconds(", true}, {"seconds", "kdb_seconds(", true},
        {"milliseconds", "kdb_milliseconds(", true}, {"millisecond", "kdb_milliseconds(", true},
        {"microseconds", "date_part('microsecond', ", false},
        {"microsecond", "date_part('microsecond', ", false}, {"dow", "date_part('dow', ", false},
        {"isodow", "date_part('isodow', ", false}, {"doy", "date_part('doy', ", false},
        {"week", "date_part('week', ", false}, {"isoyear", "date_part('isoyear', ", false},
        {"quarter", "date_part('quarter', ", false}, {"decade", "date_part('decade', ", false},
        {"century", "date_part('century', ", false}, {"millennium", "date_part('millennium', ", false},
        {"epoch", "date_part('epoch', ", true}, {"julian", "date_part('julian', ", true},
        {"timezone", "date_part('timezone', ", false}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!str_ieq(field, str_c(known[i].pg)))
            continue;
        pr_insert(p, arg.at, str_c(known[i].text));
        pr_put(p, ")");
        if (as_double && !known[i].fraction) {
            pr_insert(p, arg.at, STR("CAST("));
            pr_put(p, " AS DOUBLE)");
        }
        return pr_done(p, arg.at, as_double ? T_DOUBLE : known[i].fraction ? T_NUMERIC : T_BIGINT, location);
    }
    pr_fail(p, ERR_INVALID_VALUE, location, "unit \"%.*s\" not recognized for type %s", STR_FMT(field),
        type_name(arg.type));
    return pr_done(p, arg.at, T_ANY, location);
}
