/* Byte strings by value. A `struct str` never owns; its bytes live as long as the arena, buffer or message it
 * was cut from. Not NUL-terminated: C strings exist only at the os seam. Thread-safe: pure functions. */
#ifndef KALAMDB_BASE_STR_H
#define KALAMDB_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
    const char *ptr;
    size_t len;
};

#define STR(lit) ((struct str){(lit), sizeof(lit) - 1})
#define STR_NULL ((struct str){NULL, 0})
/* For printf("%.*s", STR_FMT(s)). */
#define STR_FMT(s) (int)(s).len, (s).ptr != NULL ? (s).ptr : ""

static inline struct str str_c(const char *c)
{
    return (struct str){c, c != NULL ? strlen(c) : 0};
}

static inline struct str str_n(const char *ptr, size_t len)
{
    return (struct str){ptr, len};
}

static inline bool str_eq(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

/* memcmp order, shorter first: PostgreSQL's collation C. */
int str_cmp(struct str a, struct str b);
/* ASCII case-insensitive equality. */
bool str_ieq(struct str a, struct str b);
bool str_starts_with(struct str s, struct str prefix);
bool str_ends_with(struct str s, struct str suffix);
/* Index of the first `c`, or s.len. */
size_t str_find(struct str s, char c);
struct str str_trim(struct str s);
/* Whole-string decimal integer; false on anything else or overflow. */
bool str_to_i64(struct str s, int64_t *ret);
/* 64-bit hash for in-memory maps (not stable across releases). */
uint64_t str_hash(struct str s);

/* Valid UTF-8 (RFC 3629: no surrogates, no overlongs, at most U+10FFFF)? */
bool utf8_valid(struct str s);
/* The largest prefix of at most `max` bytes that ends on a character. */
size_t utf8_cut(struct str s, size_t max);

#endif
