/*   PREAMBLE ──delimiter──▶ AFTER ──CR LF──▶ HEAD ──blank line──▶ DATA ──delimiter──▶ AFTER …
 *                             └────"--"────▶ DONE
 *
 * The delimiter is CR LF "--" boundary. A boundary holds no CR, so the delimiter's only CR is its first byte:
 * where a match fails after k bytes, those k are data, and the next match begins at the failing byte or
 * later. No table of failures is needed, and no byte is looked at more than twice. Bytes of a match that was
 * cut by the end of the input need not be kept: they are the delimiter's own.
 *
 * The line break of a delimiter may be the one before the first byte there is: the start of the body, and the
 * blank line after a part's headers (RFC 2046: a part's data is optional). It counts as matched (`given`),
 * but is not data when the match fails. */
#include "net/multipart.h"

enum { PREAMBLE, AFTER, AFTER_DASH, AFTER_PADDING, AFTER_CR, HEAD, DATA, DONE, BROKEN };

static enum multipart_kind broken(struct multipart *m, const char *why)
{
    m->state = BROKEN;
    m->why = why;
    return MULTIPART_BROKEN;
}

static bool is_token_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

/* ---- parameters: `; name=value`, values as tokens or quoted (RFC 9110, 5.6.6)
 * ---------------------------------------------------- */

struct params {
    char *at, *end;
};

/* In place, without its quotes. Only \" and \\ are escapes: browsers of old send paths with single
 * backslashes. False: no closing quote. */
static bool read_quoted(struct params *p, struct str *ret)
{
    char *to = p->at, *start = p->at;
    for (; p->at < p->end && *p->at != '"'; p->at++) {
        if (*p->at == '\\' && p->end - p->at > 1 && (p->at[1] == '"' || p->at[1] == '\\'))
            p->at++;
        *to++ = *p->at;
    }
    if (p->at == p->end)
        return false;
    p->at++;
    *ret = str_n(start, (size_t)(to - start));
    return true;
}

static struct str read_token(struct params *p)
{
    char *start = p->at;
    while (p->at < p->end && is_token_char(*p->at))
        p->at++;
    return str_n(start, (size_t)(p->at - start));
}

static void skip_space(struct params *p)
{
    while (p->at < p->end && is_space(*p->at))
        p->at++;
}

/* The next parameter. False: there is none (ret_bad: because of what stands there). */
static bool next_param(struct params *p, struct str *ret_name, struct str *ret_value, bool *ret_bad)
{
    skip_space(p);
    while (p->at < p->end && *p->at == ';') {
        p->at++;
        skip_space(p);
    }
    if (p->at == p->end)
        return false;
    *ret_bad = true;
    *ret_name = read_token(p);
    if (ret_name->len == 0 || p->at == p->end || *p->at++ != '=' || p->at == p->end)
        return false;
    if (*p->at == '"') {
        p->at++;
        if (!read_quoted(p, ret_value))
            return false;
    } else {
        *ret_value = read_token(p);
        if (ret_value->len == 0)
            return false;
    }
    skip_space(p);
    *ret_bad = p->at < p->end && *p->at != ';';
    return !*ret_bad;
}

/* ---- the boundary
 * -------------------------------------------------------------------------------------------------- */

/* RFC 2046, 5.1.1: bchars, and not ending in a space. */
static bool boundary_valid(struct str b)
{
    if (b.len == 0 || b.len > MULTIPART_BOUNDARY_BYTES_MAX || b.ptr[b.len - 1] == ' ')
        return false;
    for (size_t i = 0; i < b.len; i++) {
        char c = b.ptr[i];
        bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!word && (c == '\0' || strchr("'()+_,-./:=? ", c) == NULL))
            return false;
    }
    return true;
}

const char *multipart_init(struct multipart *m, struct str content_type)
{
    static const struct str type = {"multipart/form-data", 19};
    char copy[512];
    struct str name, value, boundary = STR_NULL;
    bool bad = false;
    m->why = NULL;
    if (content_type.len < type.len || !str_ieq(str_n(content_type.ptr, type.len), type))
        return "the body must be multipart/form-data";
    size_t n = content_type.len - type.len;
    if (n > sizeof copy)
        return "Content-Type is too long";
    memcpy(copy, content_type.ptr + type.len, n);
    if (n > 0 && copy[0] != ';' && !is_space(copy[0]))
        return "the body must be multipart/form-data";
    struct params p = {copy, copy + n};
    while (next_param(&p, &name, &value, &bad)) {
        if (!str_ieq(name, STR("boundary")))
            continue;
        if (boundary.ptr != NULL)
            return "Content-Type has two boundaries";
        boundary = value;
    }
    if (bad)
        return "malformed Content-Type";
    if (boundary.ptr == NULL)
        return "Content-Type has no boundary";
    if (!boundary_valid(boundary))
        return "Content-Type has a bad boundary";
    memcpy(m->delimiter, "\r\n--", 4);
    memcpy(m->delimiter + 4, boundary.ptr, boundary.len);
    m->delimiter_len = (uint8_t)(4 + boundary.len);
    m->matched = m->given = 2;
    m->state = PREAMBLE;
    m->in_part = m->cr_seen = false;
    m->parts = 0;
    m->name = m->filename = m->content_type = STR_NULL;
    return NULL;
}

/* ---- the head of a part
 * -------------------------------------------------------------------------------------------------- */

static const char *read_disposition(struct multipart *m, struct str value)
{
    static const struct str type = {"form-data", 9};
    struct str name, v;
    bool bad = false;
    if (m->name.ptr != NULL)
        return "a part has two Content-Dispositions";
    if (value.len < type.len || !str_ieq(str_n(value.ptr, type.len), type))
        return "a part's Content-Disposition must be form-data";
    struct params p = {(char *)(uintptr_t)value.ptr + type.len, (char *)(uintptr_t)value.ptr + value.len};
    if (p.at < p.end && *p.at != ';' && !is_space(*p.at))
        return "a part's Content-Disposition must be form-data";
    while (next_param(&p, &name, &v, &bad)) {
        struct str *to = str_ieq(name, STR("name"))       ? &m->name
                         : str_ieq(name, STR("filename")) ? &m->filename
                                                          : NULL;
        if (to == NULL)
            continue;
        if (to->ptr != NULL)
            return "a part has two names";
        if (!utf8_valid(v))
            return "a part's name is not UTF-8";
        *to = v;
    }
    if (bad)
        return "malformed Content-Disposition of a part";
    if (m->name.ptr == NULL || m->name.len == 0 || m->name.len > 255)
        return "a part's name must have 1 to 255 bytes";
    return NULL;
}

static const char *read_header(struct multipart *m, struct str line)
{
    size_t colon = 0;
    while (colon < line.len && is_token_char(line.ptr[colon]))
        colon++;
    if (colon == 0 || colon == line.len || line.ptr[colon] != ':')
        return "malformed header of a part"; /* a folded line too: it begins with a space */
    struct str name = str_n(line.ptr, colon),
               value = str_trim(str_n(line.ptr + colon + 1, line.len - colon - 1));
    if (str_ieq(name, STR("content-disposition")))
        return read_disposition(m, value);
    if (str_ieq(name, STR("content-type"))) {
        if (m->content_type.ptr != NULL)
            return "a part has two Content-Types";
        m->content_type = value;
    } else if (str_ieq(name, STR("content-transfer-encoding"))) {
        if (!str_ieq(value, STR("binary")) && !str_ieq(value, STR("8bit")) && !str_ieq(value, STR("7bit")))
            return "a part with a Content-Transfer-Encoding is not accepted";
    }
    return NULL;
}

static const char *read_head(struct multipart *m)
{
    m->name = m->filename = m->content_type = STR_NULL;
    for (size_t at = 0; at < m->head_len;) {
        struct str rest = str_n(m->head + at, m->head_len - at);
        size_t n = str_find(rest, '\r');
        const char *why = read_header(m, str_n(rest.ptr, n));
        if (why != NULL)
            return why;
        at += n + 2;
    }
    return m->name.ptr != NULL ? NULL : "a part has no Content-Disposition";
}

/* One byte of header lines. MULTIPART_MORE: go on. */
static enum multipart_kind head_byte(struct multipart *m, char c)
{
    if (m->cr_seen != (c == '\n') || c == '\0')
        return broken(m, "header lines of a part end in CR LF and hold neither nor NUL");
    m->cr_seen = c == '\r';
    if (c == '\n' && m->head_len == m->line_start + 1) { /* the blank line */
        m->head_len = m->line_start;
        const char *why = read_head(m);
        if (why != NULL)
            return broken(m, why);
        m->state = DATA;
        m->in_part = true;
        m->matched = m->given = 2;
        return MULTIPART_PART;
    }
    if (m->head_len == sizeof m->head)
        return broken(m, "the header of a part is too large");
    m->head[m->head_len++] = c;
    if (c == '\n') {
        m->line_start = m->head_len;
        if (++m->headers > MULTIPART_HEADERS_MAX)
            return broken(m, "a part has too many header lines");
    }
    return MULTIPART_MORE;
}

/* ---- between the delimiter and what follows it
 * ------------------------------------------------------------------------------------ */

static enum multipart_kind after_byte(struct multipart *m, char c)
{
    switch (m->state) {
    case AFTER:
        if (c == '-') {
            m->state = AFTER_DASH;
            return MULTIPART_MORE;
        }
        m->state = AFTER_PADDING;
        break;
    case AFTER_DASH:
        if (c != '-')
            return broken(m, "a boundary is followed by neither a line break nor two dashes");
        m->state = DONE;
        return MULTIPART_END;
    case AFTER_CR:
        if (c != '\n')
            return broken(m, "a boundary's line ends in CR LF");
        if (m->parts++ == MULTIPART_PARTS_MAX)
            return broken(m, "too many parts");
        m->state = HEAD;
        m->head_len = m->line_start = m->headers = 0;
        m->cr_seen = false;
        return MULTIPART_MORE;
    default:
        break;
    }
    if (c == '\r')
        m->state = AFTER_CR;
    else if (!is_space(c)) /* padding on the way (RFC 2046) */
        return broken(m, "a boundary is followed by neither a line break nor two dashes");
    return MULTIPART_MORE;
}

/* ---- data
 * ------------------------------------------------------------------------------------------------------ */

static enum multipart_kind delimiter_seen(struct multipart *m)
{
    bool was = m->in_part;
    m->matched = m->given = 0;
    m->state = AFTER;
    m->in_part = false;
    return was ? MULTIPART_PART_END : MULTIPART_MORE;
}

/* Goes on with a delimiter of which some bytes came before. MULTIPART_DATA: they were data after all. */
static enum multipart_kind go_on_matching(
    struct multipart *m, const char **p, const char *end, struct str *ret_data)
{
    while (*p < end && **p == m->delimiter[m->matched]) {
        ++*p;
        if (++m->matched == m->delimiter_len)
            return delimiter_seen(m);
    }
    if (*p == end)
        return MULTIPART_MORE;
    *ret_data = str_n(m->delimiter + m->given, (size_t)(m->matched - m->given));
    m->matched = m->given = 0;
    return m->in_part && ret_data->len > 0 ? MULTIPART_DATA : MULTIPART_MORE;
}

/* The longest run of data, up to a delimiter or to what may become one. */
static enum multipart_kind run_of_data(
    struct multipart *m, const char **p, const char *end, struct str *ret_data)
{
    const char *start = *p, *stop = end;
    size_t k = 0;
    for (const char *q = start; q < end; q += k) {
        const char *cr = memchr(q, '\r', (size_t)(end - q));
        if (cr == NULL)
            break;
        for (k = 1; cr + k < end && k < m->delimiter_len && cr[k] == m->delimiter[k];)
            k++;
        if (k == m->delimiter_len || cr + k == end) {
            stop = cr;
            break;
        }
        q = cr;
    }
    *p = stop;
    *ret_data = str_n(start, (size_t)(stop - start));
    if (stop > start)
        return m->in_part ? MULTIPART_DATA : MULTIPART_MORE;
    return go_on_matching(m, p, end, ret_data); /* stands at its CR */
}

enum multipart_kind multipart_next(struct multipart *m, const char **p, const char *end, struct str *ret_data)
{
    *ret_data = STR_NULL;
    if (m->state == BROKEN)
        return MULTIPART_BROKEN;
    while (*p < end) {
        enum multipart_kind kind = MULTIPART_MORE;
        switch (m->state) {
        case PREAMBLE:
        case DATA:
            kind = m->matched > 0 ? go_on_matching(m, p, end, ret_data) : run_of_data(m, p, end, ret_data);
            break;
        case HEAD:
            kind = head_byte(m, *(*p)++);
            break;
        case DONE:
            *p = end;
            break;
        default:
            kind = after_byte(m, *(*p)++);
            break;
        }
        if (kind != MULTIPART_MORE)
            return kind;
    }
    return MULTIPART_MORE;
}

bool multipart_complete(const struct multipart *m)
{
    return m->state == DONE;
}
