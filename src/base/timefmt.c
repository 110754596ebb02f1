/* Civil-date arithmetic after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms" (days_from_civil,
 * civil_from_days): years run from March, so that the leap day is the last of its year. */
#include "base/timefmt.h"

#define US_PER_DAY INT64_C(86400000000)

static int64_t days_from_civil(int64_t y, int64_t m, int64_t d)
{
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t yoe = y - era * 400;
    int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    int64_t doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + doe - 719468;
}

struct civil {
    int year, month, day, hour, minute, second, us;
};

static struct civil civil_from_us(int64_t t)
{
    int64_t days = t / US_PER_DAY, rest = t % US_PER_DAY;
    if (rest < 0) {
        rest += US_PER_DAY;
        days--;
    }
    int64_t z = days + 719468;
    int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;
    int64_t m = mp + (mp < 10 ? 3 : -9);
    return (struct civil){(int)(yoe + era * 400 + (m <= 2)), (int)m, (int)(doy - (153 * mp + 2) / 5 + 1),
        (int)(rest / 3600000000), (int)(rest / 60000000 % 60), (int)(rest / 1000000 % 60),
        (int)(rest % 1000000)};
}

static void put_digits(char *p, int n, int v)
{
    while (n-- > 0) {
        p[n] = (char)('0' + v % 10);
        v /= 10;
    }
}

void time_format(struct buf *b, int64_t us)
{
    struct civil c = civil_from_us(us);
    if (c.year < 1 || c.year > 9999) {
        /* Outside RFC 3339's range: PostgreSQL can hold it, so print the year as it is. */
        buf_printf(
            b, "%d-%02d-%02dT%02d:%02d:%02d.%06dZ", c.year, c.month, c.day, c.hour, c.minute, c.second, c.us);
        return;
    }
    char p[] = "0000-00-00T00:00:00.000000Z";
    put_digits(p, 4, c.year);
    put_digits(p + 5, 2, c.month);
    put_digits(p + 8, 2, c.day);
    put_digits(p + 11, 2, c.hour);
    put_digits(p + 14, 2, c.minute);
    put_digits(p + 17, 2, c.second);
    put_digits(p + 20, 6, c.us);
    buf_append(b, p, sizeof p - 1);
}

void time_format_compact(struct buf *b, int64_t us)
{
    struct civil c = civil_from_us(us);
    buf_printf(b, "%04d%02d%02dT%02d%02d%02dZ", c.year, c.month, c.day, c.hour, c.minute, c.second);
}

/* Exactly n digits. */
static bool digits(struct str *s, int n, int *ret)
{
    if (s->len < (size_t)n)
        return false;
    int v = 0;
    for (int i = 0; i < n; i++) {
        unsigned d = (unsigned)(unsigned char)s->ptr[i] - '0';
        if (d > 9)
            return false;
        v = v * 10 + (int)d;
    }
    s->ptr += n;
    s->len -= (size_t)n;
    *ret = v;
    return true;
}

static bool take(struct str *s, char c)
{
    if (s->len == 0 || s->ptr[0] != c)
        return false;
    s->ptr++;
    s->len--;
    return true;
}

static bool parse_date(struct str *s, struct civil *c)
{
    static const int month_days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (!digits(s, 4, &c->year) || !take(s, '-') || !digits(s, 2, &c->month) || !take(s, '-') ||
        !digits(s, 2, &c->day))
        return false;
    if (c->year < 1 || c->month < 1 || c->month > 12 || c->day < 1)
        return false;
    bool leap = c->year % 4 == 0 && (c->year % 100 != 0 || c->year % 400 == 0);
    return c->day <= month_days[c->month - 1] + (c->month == 2 && leap);
}

/* Digits beyond the microsecond round, as in PostgreSQL: clients write nanoseconds too. */
static bool parse_fraction(struct str *s, int *ret_us)
{
    int us = 0, n = 0;
    for (; s->len > 0 && s->ptr[0] >= '0' && s->ptr[0] <= '9'; n++) {
        int digit = s->ptr[0] - '0';
        if (n < 6)
            us = us * 10 + digit;
        else if (n == 6)
            us += digit >= 5;
        take(s, s->ptr[0]);
    }
    for (int i = n; i < 6; i++)
        us *= 10;
    *ret_us = us;
    return n > 0;
}

static bool parse_clock(struct str *s, struct civil *c)
{
    if (!digits(s, 2, &c->hour) || !take(s, ':') || !digits(s, 2, &c->minute))
        return false;
    if (take(s, ':')) {
        if (!digits(s, 2, &c->second))
            return false;
        if (take(s, '.') && !parse_fraction(s, &c->us))
            return false;
    }
    /* A leap second (:60) is the next second's zero, as PostgreSQL has it. */
    return c->hour <= 23 && c->minute <= 59 && c->second <= 60;
}

static bool parse_zone(struct str *s, int64_t *ret_offset_us)
{
    *ret_offset_us = 0;
    if (s->len == 0 || take(s, 'Z') || take(s, 'z'))
        return true;
    int sign = take(s, '+') ? 1 : take(s, '-') ? -1 : 0;
    int h = 0, m = 0;
    if (sign == 0 || !digits(s, 2, &h))
        return false;
    if (s->len > 0) {
        take(s, ':');
        if (!digits(s, 2, &m))
            return false;
    }
    if (h > 15 || m > 59)
        return false;
    *ret_offset_us = (int64_t)sign * (h * 60 + m) * 60000000;
    return true;
}

bool time_parse(struct str s, int64_t *ret_us)
{
    struct civil c = {0};
    int64_t offset = 0;
    s = str_trim(s);
    if (!parse_date(&s, &c))
        return false;
    if (s.len > 0) {
        if (!take(&s, 'T') && !take(&s, 't') && !take(&s, ' '))
            return false;
        if (!parse_clock(&s, &c) || !parse_zone(&s, &offset))
            return false;
    }
    if (s.len > 0)
        return false;
    int64_t day = days_from_civil(c.year, c.month, c.day);
    *ret_us =
        day * US_PER_DAY + ((int64_t)c.hour * 3600 + c.minute * 60 + c.second) * 1000000 + c.us - offset;
    return true;
}
