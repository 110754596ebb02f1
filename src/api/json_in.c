#include "api/json_in.h"
#include "base/json.h"
#include <math.h>
#include <stdlib.h>

struct json_in json_in(struct str text, struct arena *arena)
{
    return (struct json_in){text.ptr, text.ptr + text.len, arena, NULL};
}

static bool fail(struct json_in *in, const char *why)
{
    if (in->why == NULL)
        in->why = why;
    return false;
}

static void space(struct json_in *in)
{
    while (in->p < in->end && (*in->p == ' ' || *in->p == '\n' || *in->p == '\r' || *in->p == '\t'))
        in->p++;
}

char json_in_peek(struct json_in *in)
{
    if (in->why != NULL)
        return 0;
    space(in);
    return in->p < in->end ? *in->p : (char)0;
}

static int hex4(const char *p)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        v = v << 4 | digit;
    }
    return v;
}

static char *put_utf8(char *out, int c)
{
    if (c < 0x80) {
        *out++ = (char)c;
    } else if (c < 0x800) {
        *out++ = (char)(0xC0 | c >> 6);
        *out++ = (char)(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        *out++ = (char)(0xE0 | c >> 12);
        *out++ = (char)(0x80 | (c >> 6 & 0x3F));
        *out++ = (char)(0x80 | (c & 0x3F));
    } else {
        *out++ = (char)(0xF0 | c >> 18);
        *out++ = (char)(0x80 | (c >> 12 & 0x3F));
        *out++ = (char)(0x80 | (c >> 6 & 0x3F));
        *out++ = (char)(0x80 | (c & 0x3F));
    }
    return out;
}

/* \uXXXX (p behind the u), with its second half if it is a surrogate; *p moves on. -1: none. */
static int code_point(const char **p, const char *end)
{
    int c = end - *p >= 4 ? hex4(*p) : -1;
    if (c < 0)
        return -1;
    *p += 4;
    if (c < 0xD800 || c > 0xDFFF)
        return c;
    int low = c < 0xDC00 && end - *p >= 6 && (*p)[0] == '\\' && (*p)[1] == 'u' ? hex4(*p + 2) : -1;
    if (low < 0xDC00 || low > 0xDFFF)
        return -1;
    *p += 6;
    return 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
}

/* The character behind a backslash: decoded, or -1. */
static int escape(const char **p, const char *end)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (*p >= end)
        return -1;
    char c = *(*p)++;
    if (c == 'u')
        return code_point(p, end);
    const char *at = c != '\0' ? strchr(from, c) : NULL;
    return at != NULL ? to[at - from] : -1;
}

/* Moves behind the closing quote, checking; *ret_escaped: it holds a backslash. */
static bool scan_string(struct json_in *in, bool *ret_escaped)
{
    *ret_escaped = false;
    for (in->p++; in->p < in->end; in->p++) {
        unsigned char c = (unsigned char)*in->p;
        if (c == '"') {
            in->p++;
            return true;
        }
        if (c < 0x20)
            return fail(in, "control character in a string");
        if (c == '\\') {
            *ret_escaped = true;
            const char *at = in->p + 1;
            int code = escape(&at, in->end);
            if (code < 0)
                return fail(in, "bad escape in a string");
            if (code == 0)
                return fail(in, "NUL characters are not accepted");
            in->p = at - 1;
        }
    }
    return fail(in, "unterminated string");
}

static bool string(struct json_in *in, struct str *ret)
{
    const char *from = in->p + 1;
    bool escaped;
    if (!scan_string(in, &escaped))
        return false;
    const char *end = in->p - 1;
    if (!escaped) {
        *ret = str_n(from, (size_t)(end - from));
        return true;
    }
    char *out = arena_alloc(in->arena, (size_t)(end - from)), *start = out;
    if (out == NULL)
        return fail(in, "out of memory");
    while (from < end) {
        if (*from != '\\') {
            *out++ = *from++;
            continue;
        }
        from++;
        out = put_utf8(out, escape(&from, end)); /* never longer than its escape */
    }
    *ret = str_n(start, (size_t)(out - start));
    return true;
}

static bool is_digit(const struct json_in *in)
{
    return in->p < in->end && *in->p >= '0' && *in->p <= '9';
}

static bool digits(struct json_in *in)
{
    if (!is_digit(in))
        return fail(in, "bad number");
    while (is_digit(in))
        in->p++;
    return true;
}

static bool number(struct json_in *in, struct json_item *ret)
{
    const char *from = in->p;
    bool whole = true;
    if (*in->p == '-')
        in->p++;
    bool zero = in->p < in->end && *in->p == '0';
    const char *first = in->p;
    if (!digits(in))
        return false;
    if (zero && in->p - first > 1)
        return fail(in, "bad number");
    if (in->p < in->end && *in->p == '.') {
        whole = false;
        in->p++;
        if (!digits(in))
            return false;
    }
    if (in->p < in->end && (*in->p == 'e' || *in->p == 'E')) {
        whole = false;
        in->p++;
        if (in->p < in->end && (*in->p == '+' || *in->p == '-'))
            in->p++;
        if (!digits(in))
            return false;
    }
    struct str text = str_n(from, (size_t)(in->p - from));
    ret->kind = JSON_IS_INT;
    if (whole && str_to_i64(text, &ret->i))
        return true;
    struct str z = arena_str(in->arena, text); /* strtod wants a terminator */
    if (z.ptr == NULL)
        return fail(in, "out of memory");
    ret->kind = JSON_IS_DOUBLE;
    ret->d = strtod(z.ptr, NULL);
    return isfinite(ret->d) ? true : fail(in, "number out of range");
}

static bool word(struct json_in *in, struct str w)
{
    if ((size_t)(in->end - in->p) < w.len || memcmp(in->p, w.ptr, w.len) != 0)
        return fail(in, "bad value");
    in->p += w.len;
    return true;
}

/* A nested value: finds its end, then the full check of the JSON writer's module decides. */
static bool nested(struct json_in *in, struct str *ret)
{
    const char *from = in->p;
    int depth = 0;
    bool escaped;
    do {
        if (in->p >= in->end)
            return fail(in, "unterminated value");
        char c = *in->p;
        if (c == '"') {
            if (!scan_string(in, &escaped))
                return false;
            continue;
        }
        in->p++;
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        if (depth > JSON_IN_DEPTH_MAX)
            return fail(in, "nested too deeply");
    } while (depth > 0);
    *ret = str_n(from, (size_t)(in->p - from));
    return json_valid(*ret) ? true : fail(in, "malformed JSON");
}

bool json_in_value(struct json_in *in, struct json_item *ret)
{
    *ret = (struct json_item){0};
    switch (json_in_peek(in)) {
    case '"':
        ret->kind = JSON_IS_STRING;
        return string(in, &ret->s);
    case '{':
        ret->kind = JSON_IS_OBJECT;
        return nested(in, &ret->s);
    case '[':
        ret->kind = JSON_IS_ARRAY;
        return nested(in, &ret->s);
    case 't':
        ret->kind = JSON_IS_BOOL;
        ret->b = true;
        return word(in, STR("true"));
    case 'f':
        ret->kind = JSON_IS_BOOL;
        return word(in, STR("false"));
    case 'n':
        return word(in, STR("null"));
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        return number(in, ret);
    case 0:
        return fail(in, "unexpected end");
    default:
        return fail(in, "malformed JSON");
    }
}

/* Whether an item of a list closed by `close` follows: behind `open` directly, else behind a comma. */
static bool next_item(struct json_in *in, char open, char close)
{
    char c = json_in_peek(in);
    if (c == close) {
        in->p++;
        return false;
    }
    if (c == 0)
        return fail(in, "unexpected end");
    const char *before = in->p - 1;
    while (*before == ' ' || *before == '\n' || *before == '\r' || *before == '\t')
        before--;
    if (*before == open)
        return true;
    if (c != ',')
        return fail(in, "malformed JSON");
    in->p++;
    return true;
}

bool json_in_object(struct json_in *in)
{
    if (json_in_peek(in) != '{')
        return fail(in, "a JSON object is expected");
    in->p++;
    return true;
}

bool json_in_member(struct json_in *in, struct str *ret_key)
{
    if (!next_item(in, '{', '}'))
        return false;
    if (json_in_peek(in) != '"')
        return fail(in, "malformed JSON");
    if (!string(in, ret_key))
        return false;
    if (json_in_peek(in) != ':')
        return fail(in, "malformed JSON");
    in->p++;
    return true;
}

bool json_in_array(struct json_in *in)
{
    if (json_in_peek(in) != '[')
        return fail(in, "a JSON array is expected");
    in->p++;
    return true;
}

bool json_in_element(struct json_in *in)
{
    return next_item(in, '[', ']');
}

bool json_in_end(struct json_in *in)
{
    if (in->why != NULL)
        return false;
    space(in);
    return in->p == in->end ? true : fail(in, "more than one JSON value");
}
