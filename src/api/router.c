/* Targets, paths, query strings. */
#include "api/server.h"

static const struct {
    int methods;
    const char *label;
} routes[] = {
#define X(sym, methods, label) {methods, label},
    ROUTE_LIST(X)
#undef X
};

const char *route_label(enum route r)
{
    return routes[r].label;
}

/* The path up to a name in braces; the whole label where there is none. */
static struct str fixed_part(enum route r)
{
    struct str label = str_c(routes[r].label);
    return str_n(label.ptr, str_find(label, '{'));
}

enum route route_of(struct str path)
{
    for (int r = ROUTE_NONE + 1; r < ROUTE_COUNT; r++) {
        struct str fixed = fixed_part((enum route)r);
        bool open = routes[r].label[fixed.len] == '{';
        if (open ? path.len > fixed.len && str_starts_with(path, fixed) : str_eq(path, fixed))
            return (enum route)r;
    }
    return str_eq(path, STR("/api/v1/ws")) ? ROUTE_WS : ROUTE_NONE;
}

struct str route_rest(enum route r, struct str path)
{
    size_t n = fixed_part(r).len;
    return str_n(path.ptr + n, path.len - n);
}

bool route_allows(enum route r, enum http_method method)
{
    if (method == HTTP_M_GET)
        return (routes[r].methods & ALLOW_GET) != 0;
    if (method == HTTP_M_HEAD)
        return (routes[r].methods & ALLOW_GET) != 0 && r != ROUTE_WS;
    if (method == HTTP_M_DELETE)
        return (routes[r].methods & ALLOW_DELETE) != 0;
    return method == HTTP_M_POST && (routes[r].methods & ALLOW_POST) != 0;
}

struct str route_allow_header(enum route r)
{
    static const struct str lines[] = {
        {"Allow: OPTIONS\r\n", 16},
        {"Allow: GET, HEAD, OPTIONS\r\n", 27},
        {"Allow: POST, OPTIONS\r\n", 22},
        {"Allow: GET, HEAD, POST, OPTIONS\r\n", 33},
        {"Allow: DELETE, OPTIONS\r\n", 24},
        {"Allow: GET, HEAD, DELETE, OPTIONS\r\n", 35},
        {"Allow: POST, DELETE, OPTIONS\r\n", 30},
        {"Allow: GET, HEAD, POST, DELETE, OPTIONS\r\n", 41},
    };
    return r == ROUTE_WS ? STR("Allow: GET, OPTIONS\r\n") : lines[routes[r].methods & 7];
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

bool percent_decode(struct arena *a, struct str raw, bool plus_is_space, struct str *ret)
{
    if (raw.len == 0 || raw.ptr == NULL) {
        *ret = STR("");
        return true;
    }
    if (memchr(raw.ptr, '%', raw.len) == NULL && (!plus_is_space || memchr(raw.ptr, '+', raw.len) == NULL)) {
        *ret = raw;
        return utf8_valid(raw);
    }
    char *out = arena_alloc(a, raw.len);
    size_t n = 0;
    if (out == NULL)
        return false;
    for (size_t i = 0; i < raw.len; i++) {
        char c = raw.ptr[i];
        if (c == '%') {
            int hi = raw.len - i > 2 ? hex(raw.ptr[i + 1]) : -1,
                lo = raw.len - i > 2 ? hex(raw.ptr[i + 2]) : -1;
            if (hi < 0 || lo < 0 || (hi == 0 && lo == 0))
                return false;
            c = (char)(hi << 4 | lo);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        out[n++] = c;
    }
    *ret = str_n(out, n);
    return utf8_valid(*ret);
}

bool query_param(struct arena *a, struct str query, struct str name, struct str *ret)
{
    *ret = STR_NULL;
    while (query.len > 0) {
        size_t n = str_find(query, '&');
        struct str pair = str_n(query.ptr, n);
        size_t eq = str_find(pair, '=');
        struct str key, raw = eq < n ? str_n(pair.ptr + eq + 1, n - eq - 1) : STR("");
        query.ptr += n < query.len ? n + 1 : n;
        query.len -= n < query.len ? n + 1 : n;
        if (!percent_decode(a, str_n(pair.ptr, eq), true, &key))
            return false;
        if (str_eq(key, name))
            return percent_decode(a, raw, true, ret);
    }
    return true;
}

bool target_split(struct arena *a, struct str target, struct str *ret_path, struct str *ret_query)
{
    static const struct str schemes[] = {{"http://", 7}, {"https://", 8}};
    for (size_t i = 0; i < 2; i++) { /* absolute form (RFC 9112, 3.2.2) */
        if (target.len >= schemes[i].len && str_ieq(str_n(target.ptr, schemes[i].len), schemes[i])) {
            struct str rest = str_n(target.ptr + schemes[i].len, target.len - schemes[i].len);
            size_t slash = str_find(rest, '/');
            target = slash < rest.len ? str_n(rest.ptr + slash, rest.len - slash) : STR("/");
            break;
        }
    }
    size_t mark = str_find(target, '?');
    *ret_query = mark < target.len ? str_n(target.ptr + mark + 1, target.len - mark - 1) : STR("");
    struct str path = str_n(target.ptr, mark);
    if (percent_decode(a, path, false, ret_path))
        return true;
    /* A ref is taken as it stands, and the name of a long id is cut anywhere, also within an encoded byte. */
    *ret_path = path;
    return str_starts_with(path, STR("/api/v1/content/")) && utf8_valid(path);
}
