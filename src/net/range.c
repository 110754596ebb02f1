#include "net/range.h"

static struct str rest_of(struct str s, size_t from)
{
    return str_n(s.ptr + from, s.len - from);
}

/* Is the tag in the list, or the list "*" (13.1.1, 13.1.2)? A malformed list holds nothing from there on. */
static bool list_holds(struct str list, struct str etag, bool weak_allowed)
{
    list = str_trim(list);
    if (str_eq(list, STR("*")))
        return true;
    while (list.len > 0) {
        bool weak = str_starts_with(list, STR("W/"));
        struct str one = weak ? rest_of(list, 2) : list;
        size_t close = one.len > 1 ? str_find(rest_of(one, 1), '"') : 0;
        if (one.len < 2 || one.ptr[0] != '"' || close == one.len - 1)
            return false;
        if (str_eq(str_n(one.ptr, close + 2), etag) && (!weak || weak_allowed))
            return true;
        list = str_trim(rest_of(one, close + 2));
        if (list.len > 0 && list.ptr[0] != ',')
            return false;
        while (list.len > 0 && (list.ptr[0] == ',' || list.ptr[0] == ' ' || list.ptr[0] == '\t'))
            list = rest_of(list, 1);
    }
    return false;
}

/* Digits only; a number too large for 64 bits is past any end. */
static bool read_number(struct str s, uint64_t *ret)
{
    uint64_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return false;
        uint64_t digit = (uint64_t)(s.ptr[i] - '0');
        n = n > (UINT64_MAX - digit) / 10 ? UINT64_MAX : n * 10 + digit;
    }
    *ret = n;
    return s.len > 0;
}

/* 206, 416, or 200 where the header says nothing that can be done. */
static struct range_answer decide_range(struct str header, uint64_t size)
{
    struct range_answer whole = {200, 0, size};
    size_t eq = str_find(header, '=');
    if (eq == header.len || !str_ieq(str_n(header.ptr, eq), STR("bytes")))
        return whole;
    struct str spec = str_trim(rest_of(header, eq + 1));
    size_t dash = str_find(spec, '-');
    if (dash == spec.len) /* several ranges fail below: a comma is no digit */
        return whole;
    struct str from = str_n(spec.ptr, dash), to = rest_of(spec, dash + 1);
    uint64_t first = 0, last = UINT64_MAX, n;
    if (from.len == 0) {
        if (!read_number(to, &n))
            return whole;
        return n == 0 || size == 0 ? (struct range_answer){.status = 416}
               : n >= size         ? (struct range_answer){206, 0, size}
                                   : (struct range_answer){206, size - n, n};
    }
    if (!read_number(from, &first) || (to.len > 0 && !read_number(to, &last)) || last < first)
        return whole;
    if (first >= size)
        return (struct range_answer){.status = 416};
    return (struct range_answer){206, first, (last < size - 1 ? last : size - 1) - first + 1};
}

struct range_answer range_decide(const struct range_request *r, struct str etag, uint64_t size)
{
    /* the order of 13.2.2 */
    if (r->if_match.ptr != NULL && !list_holds(r->if_match, etag, false))
        return (struct range_answer){.status = 412};
    if (r->if_none_match.ptr != NULL && list_holds(r->if_none_match, etag, true))
        return (struct range_answer){.status = 304};
    /* A date in If-Range never matches: there is no Last-Modified. */
    if (r->range.ptr == NULL || (r->if_range.ptr != NULL && !str_eq(str_trim(r->if_range), etag)))
        return (struct range_answer){200, 0, size};
    return decide_range(r->range, size);
}
