#include "base/json.h"
#include "base/timefmt.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* 0: as it is; 'u': \u00XX; else the letter after the backslash. */
static char escape_of(unsigned char c)
{
    switch (c) {
    case '"':
        return '"';
    case '\\':
        return '\\';
    case '\b':
        return 'b';
    case '\f':
        return 'f';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return c < 0x20 || c == 0x7f ? 'u' : 0;
    }
}

/* Does one of the eight bytes need an escape? The zero-byte test of "Bit Twiddling Hacks", once per kind of
 * byte. */
static bool word_needs_escape(uint64_t w)
{
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    uint64_t control = (w - ones * 0x20) & ~w;
    uint64_t q = w ^ ones * '"', s = w ^ ones * '\\', d = w ^ ones * 0x7f;
    uint64_t quote = (q - ones) & ~q, slash = (s - ones) & ~s, del = (d - ones) & ~d;
    return ((control | quote | slash | del) & highs) != 0;
}

void json_str(struct buf *b, struct str s)
{
    buf_u8(b, '"');
    size_t start = 0, i = 0;
    while (i < s.len) {
        if (s.len - i >= 8) {
            uint64_t w;
            memcpy(&w, s.ptr + i, 8);
            if (!word_needs_escape(w)) {
                i += 8;
                continue;
            }
        }
        unsigned char c = (unsigned char)s.ptr[i];
        char e = escape_of(c);
        if (e != 0) {
            buf_append(b, s.ptr + start, i - start);
            char p[7] = {'\\', e, '0', '0', "0123456789abcdef"[c >> 4], "0123456789abcdef"[c & 15], 0};
            buf_append(b, p, e == 'u' ? 6 : 2);
            start = i + 1;
        }
        i++;
    }
    if (s.len > start)
        buf_append(b, s.ptr + start, s.len - start);
    buf_u8(b, '"');
}

void json_key(struct buf *b, struct str key)
{
    json_str(b, key);
    buf_u8(b, ':');
}

void json_i64(struct buf *b, int64_t v)
{
    const int64_t safe = INT64_C(9007199254740991);
    bool quote = v > safe || v < -safe;
    if (quote)
        buf_u8(b, '"');
    buf_i64(b, v);
    if (quote)
        buf_u8(b, '"');
}

void json_f64(struct buf *b, double v)
{
    if (isnan(v)) {
        buf_str(b, STR("\"NaN\""));
    } else if (isinf(v)) {
        buf_str(b, v > 0 ? STR("\"Infinity\"") : STR("\"-Infinity\""));
    } else {
        char p[32];
        int n = 0;
        for (int digits = 15; digits <= 17; digits++) {
            n = snprintf(p, sizeof p, "%.*g", digits, v);
            if (strtod(p, NULL) == v)
                break;
        }
        buf_append(b, p, (size_t)n);
    }
}

void json_value(struct buf *b, struct value v)
{
    switch (v.type) {
    case VALUE_NULL:
        buf_str(b, STR("null"));
        break;
    case VALUE_BOOL:
        buf_str(b, v.i ? STR("true") : STR("false"));
        break;
    case VALUE_BIGINT:
        json_i64(b, v.i);
        break;
    case VALUE_DOUBLE:
        json_f64(b, v.d);
        break;
    case VALUE_TIMESTAMPTZ:
    case VALUE_TIMESTAMP:
        buf_u8(b, '"');
        time_format(b, v.i);
        buf_u8(b, '"');
        break;
    case VALUE_JSON:
    case VALUE_LIST:
        buf_str(b, v.s);
        break;
    case VALUE_BLOB:
        buf_u8(b, '"');
        base64_encode(b, v.s);
        buf_u8(b, '"');
        break;
    case VALUE_TEXT:
    case VALUE_HUGEINT:
    case VALUE_DECIMAL:
    case VALUE_DATE:
    case VALUE_TIME:
    case VALUE_INTERVAL:
    case VALUE_UUID:
        json_str(b, v.s);
        break;
    }
}

/* ---- validation: a pushdown scanner with the open brackets in a bit stack
 * --------------------------------------- */

#define JSON_DEPTH_MAX 512

static void skip_space(struct reader *r)
{
    while (r->ptr < r->end && (*r->ptr == ' ' || *r->ptr == '\t' || *r->ptr == '\n' || *r->ptr == '\r'))
        r->ptr++;
}

static bool accept(struct reader *r, char c)
{
    if (r->ptr < r->end && *r->ptr == c) {
        r->ptr++;
        return true;
    }
    return false;
}

static bool hex4(struct reader *r, unsigned *ret)
{
    struct str h = read_bytes(r, 4);
    unsigned v = 0;
    if (h.len != 4)
        return false;
    for (size_t i = 0; i < 4; i++) {
        char c = h.ptr[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            return false;
        v = v << 4 | (unsigned)d;
    }
    *ret = v;
    return true;
}

/* \uXXXX: no NUL, surrogates only in pairs (they would not be UTF-8 once unescaped). */
static bool scan_unicode(struct reader *r)
{
    unsigned hi, lo = 0;
    if (!hex4(r, &hi) || hi == 0)
        return false;
    if (hi >= 0xd800 && hi <= 0xdbff)
        return accept(r, '\\') && accept(r, 'u') && hex4(r, &lo) && lo >= 0xdc00 && lo <= 0xdfff;
    return hi < 0xdc00 || hi > 0xdfff;
}

static bool scan_string(struct reader *r)
{
    if (!accept(r, '"'))
        return false;
    while (r->ptr < r->end) {
        unsigned char c = (unsigned char)*r->ptr++;
        if (c == '"')
            return true;
        if (c < 0x20)
            return false;
        if (c == '\\') {
            if (r->ptr == r->end)
                return false;
            char e = *r->ptr++;
            if (e == 'u' ? !scan_unicode(r) : e == '\0' || strchr("\"\\/bfnrt", e) == NULL)
                return false;
        }
    }
    return false;
}

static size_t scan_digits(struct reader *r)
{
    const char *from = r->ptr;
    while (r->ptr < r->end && *r->ptr >= '0' && *r->ptr <= '9')
        r->ptr++;
    return (size_t)(r->ptr - from);
}

static bool scan_number(struct reader *r)
{
    accept(r, '-');
    if (!accept(r, '0') && scan_digits(r) == 0)
        return false;
    if (accept(r, '.') && scan_digits(r) == 0)
        return false;
    if (accept(r, 'e') || accept(r, 'E')) {
        if (!accept(r, '+'))
            accept(r, '-');
        return scan_digits(r) > 0;
    }
    return true;
}

static bool scan_word(struct reader *r, struct str word)
{
    return str_eq(read_bytes(r, word.len <= reader_left(r) ? word.len : 0), word);
}

static bool scan_scalar(struct reader *r)
{
    switch (r->ptr < r->end ? *r->ptr : 0) {
    case '"':
        return scan_string(r);
    case 't':
        return scan_word(r, STR("true"));
    case 'f':
        return scan_word(r, STR("false"));
    case 'n':
        return scan_word(r, STR("null"));
    default:
        return scan_number(r);
    }
}

/* `"key" :` and the space after it. */
static bool scan_name(struct reader *r)
{
    skip_space(r);
    if (!scan_string(r))
        return false;
    skip_space(r);
    return accept(r, ':');
}

bool json_valid(struct str s)
{
    struct reader r = reader_of(s);
    uint64_t objects[JSON_DEPTH_MAX / 64] = {0}; /* bit: the bracket at that depth is { */
    int depth = 0;
    if (s.ptr == NULL || !utf8_valid(s))
        return false;
    for (;;) {
        /* Here a value must follow. */
        skip_space(&r);
        bool object = accept(&r, '{');
        if (object || accept(&r, '[')) {
            if (depth == JSON_DEPTH_MAX)
                return false;
            skip_space(&r);
            if (!accept(&r, object ? '}' : ']')) {
                uint64_t bit = UINT64_C(1) << (depth % 64);
                objects[depth / 64] = object ? objects[depth / 64] | bit : objects[depth / 64] & ~bit;
                depth++;
                if (object && !scan_name(&r))
                    return false;
                continue;
            }
        } else if (!scan_scalar(&r)) {
            return false;
        }
        /* A value has ended: close brackets until another must follow, or the text ends. */
        for (;;) {
            skip_space(&r);
            if (depth == 0)
                return r.ptr == r.end;
            object = (objects[(depth - 1) / 64] >> ((depth - 1) % 64) & 1) != 0;
            if (accept(&r, ',')) {
                if (object && !scan_name(&r))
                    return false;
                break;
            }
            if (!accept(&r, object ? '}' : ']'))
                return false;
            depth--;
        }
    }
}

/* Of valid JSON: behind one value. */
static void skip_value(struct reader *r)
{
    int depth = 0;
    do {
        skip_space(r);
        if (r->ptr < r->end && (*r->ptr == '{' || *r->ptr == '[')) {
            depth++;
            r->ptr++;
        } else if (r->ptr < r->end && (*r->ptr == '}' || *r->ptr == ']')) {
            depth--;
            r->ptr++;
        } else if (r->ptr < r->end && (*r->ptr == ',' || *r->ptr == ':')) {
            r->ptr++;
        } else if (!scan_scalar(r)) {
            return;
        }
    } while (depth > 0 && r->ptr < r->end);
}

bool json_object_put(struct buf *b, struct str object, struct str key, struct str raw)
{
    struct reader r = reader_of(object);
    bool first = true;
    skip_space(&r);
    if (!json_valid(object) || !accept(&r, '{'))
        return false;
    buf_u8(b, '{');
    skip_space(&r);
    while (r.ptr < r.end && *r.ptr == '"') {
        const char *from = r.ptr;
        (void)scan_string(&r);
        bool same = str_eq(str_n(from + 1, (size_t)(r.ptr - from) - 2), key);
        skip_space(&r);
        accept(&r, ':');
        skip_value(&r);
        if (!same) {
            if (!first)
                buf_u8(b, ',');
            first = false;
            buf_append(b, from, (size_t)(r.ptr - from));
        }
        skip_space(&r);
        accept(&r, ',');
        skip_space(&r);
    }
    if (raw.ptr != NULL) {
        if (!first)
            buf_u8(b, ',');
        json_key(b, key);
        buf_str(b, raw);
    }
    buf_u8(b, '}');
    return true;
}

/* ---- base64
 * ------------------------------------------------------------------------------------------------------ */

static const char alphabet_std[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char alphabet_url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void encode64(struct buf *b, struct str s, const char *alphabet, bool pad)
{
    const unsigned char *p = (const unsigned char *)s.ptr;
    for (size_t i = 0; i < s.len; i += 3) {
        size_t n = s.len - i < 3 ? s.len - i : 3;
        uint32_t v = (uint32_t)p[i] << 16 | (n > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (n > 2 ? p[i + 2] : 0);
        char q[4] = {alphabet[v >> 18], alphabet[v >> 12 & 63], n > 1 ? alphabet[v >> 6 & 63] : '=',
            n > 2 ? alphabet[v & 63] : '='};
        buf_append(b, q, pad ? 4 : n + 1);
    }
}

void base64_encode(struct buf *b, struct str bytes)
{
    encode64(b, bytes, alphabet_std, true);
}

void base64url_encode(struct buf *b, struct str bytes)
{
    encode64(b, bytes, alphabet_url, false);
}

bool base64url_decode(struct buf *b, struct str text)
{
    uint32_t v = 0;
    unsigned bits = 0;
    if (text.len % 4 == 1)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        const char *at = text.ptr[i] == '\0' ? NULL : strchr(alphabet_url, text.ptr[i]);
        if (at == NULL)
            return false;
        v = v << 6 | (uint32_t)(at - alphabet_url);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            buf_u8(b, (uint8_t)(v >> bits));
        }
    }
    /* One encoding per value: left-over bits must be zero (RFC 4648 section 3.5). */
    return (v & ((1u << bits) - 1)) == 0 && !b->failed;
}
