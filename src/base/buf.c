#include "base/buf.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void buf_release(struct buf *b)
{
    free(b->ptr);
    b->ptr = NULL;
    b->len = b->cap = 0;
    b->failed = false;
}

char *buf_reserve(struct buf *b, size_t n)
{
    if (b->failed)
        return NULL;
    size_t max = b->max_bytes != 0 ? b->max_bytes : SIZE_MAX / 2;
    if (n > max || b->len > max - n) {
        b->failed = true;
        return NULL;
    }
    if (b->cap - b->len < n) {
        size_t cap = b->cap < 64 ? 64 : b->cap * 2;
        if (cap < b->len + n)
            cap = b->len + n;
        if (cap > max)
            cap = max;
        char *p = realloc(b->ptr, cap);
        if (p == NULL) {
            b->failed = true;
            return NULL;
        }
        b->ptr = p;
        b->cap = cap;
    }
    return b->ptr + b->len;
}

void buf_append(struct buf *b, const void *p, size_t n)
{
    if (n == 0)
        return;
    char *to = buf_reserve(b, n);
    if (to != NULL) {
        memcpy(to, p, n);
        b->len += n;
    }
}

void buf_u8(struct buf *b, uint8_t v)
{
    buf_append(b, &v, 1);
}

void buf_be16(struct buf *b, uint16_t v)
{
    char p[2];
    put_be16(p, v);
    buf_append(b, p, sizeof p);
}

void buf_be32(struct buf *b, uint32_t v)
{
    char p[4];
    put_be32(p, v);
    buf_append(b, p, sizeof p);
}

void buf_be64(struct buf *b, uint64_t v)
{
    char p[8];
    put_be64(p, v);
    buf_append(b, p, sizeof p);
}

void buf_varint(struct buf *b, uint64_t v)
{
    uint8_t p[10];
    size_t n = 0;
    while (v >= 0x80) {
        p[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    p[n++] = (uint8_t)v;
    buf_append(b, p, n);
}

void buf_zigzag(struct buf *b, int64_t v)
{
    buf_varint(b, (uint64_t)v << 1 ^ (v < 0 ? UINT64_MAX : 0));
}

void buf_lstr(struct buf *b, struct str s)
{
    buf_varint(b, s.len);
    buf_str(b, s);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *to = n < 0 ? NULL : buf_reserve(b, (size_t)n + 1);
    if (to != NULL) {
        vsnprintf(to, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    } else {
        b->failed = true;
    }
    va_end(again);
}

void buf_i64(struct buf *b, int64_t v)
{
    char p[20];
    size_t i = sizeof p;
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do {
        p[--i] = (char)('0' + u % 10);
        u /= 10;
    } while (u != 0);
    if (v < 0)
        p[--i] = '-';
    buf_append(b, p + i, sizeof p - i);
}

struct str read_bytes(struct reader *r, size_t n)
{
    if (n > reader_left(r)) {
        r->bad = true;
        return str_n("", 0);
    }
    struct str s = str_n(r->ptr, n);
    r->ptr += n;
    return s;
}

uint8_t read_u8(struct reader *r)
{
    struct str s = read_bytes(r, 1);
    return s.len == 1 ? (uint8_t)s.ptr[0] : 0;
}

uint16_t read_be16(struct reader *r)
{
    struct str s = read_bytes(r, 2);
    return s.len == 2 ? get_be16(s.ptr) : 0;
}

uint32_t read_be32(struct reader *r)
{
    struct str s = read_bytes(r, 4);
    return s.len == 4 ? get_be32(s.ptr) : 0;
}

uint64_t read_be64(struct reader *r)
{
    struct str s = read_bytes(r, 8);
    return s.len == 8 ? get_be64(s.ptr) : 0;
}

uint64_t read_varint(struct reader *r)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = read_u8(r);
        if (r->bad)
            return 0;
        /* The tenth byte has room for one bit. */
        if (shift == 63 && byte > 1)
            break;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return v;
    }
    r->bad = true;
    return 0;
}

int64_t read_zigzag(struct reader *r)
{
    uint64_t u = read_varint(r);
    return (int64_t)(u >> 1 ^ (0 - (u & 1)));
}

struct str read_lstr(struct reader *r)
{
    uint64_t n = read_varint(r);
    if (n > reader_left(r)) {
        r->bad = true;
        return str_n("", 0);
    }
    return read_bytes(r, (size_t)n);
}
