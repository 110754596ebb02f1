/* Growable byte buffer with a cap. Appends after a failure (cap or memory) do nothing; check buf.failed once
 * at the end. One thread at a time. Also the big-endian and varint helpers of every wire and disk format. */
#ifndef KALAMDB_BASE_BUF_H
#define KALAMDB_BASE_BUF_H

#include "base/str.h"

struct buf {
    char *ptr;
    size_t len, cap;
    size_t max_bytes; /* 0: SIZE_MAX/2 */
    bool failed;
};

#define BUF_INIT(max) ((struct buf){.max_bytes = (max)})

void buf_release(struct buf *b);
static inline void buf_clear(struct buf *b)
{
    b->len = 0;
    b->failed = false;
}
/* Room for n more bytes: pointer to the tail, or NULL with failed set. */
char *buf_reserve(struct buf *b, size_t n);
void buf_append(struct buf *b, const void *p, size_t n);
static inline void buf_str(struct buf *b, struct str s)
{
    buf_append(b, s.ptr, s.len);
}
void buf_u8(struct buf *b, uint8_t v);
void buf_be16(struct buf *b, uint16_t v);
void buf_be32(struct buf *b, uint32_t v);
void buf_be64(struct buf *b, uint64_t v);
/* LEB128, at most 10 bytes; signed ones zigzag first. */
void buf_varint(struct buf *b, uint64_t v);
void buf_zigzag(struct buf *b, int64_t v);
/* varint length, then the bytes. */
void buf_lstr(struct buf *b, struct str s);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Fast decimal. */
void buf_i64(struct buf *b, int64_t v);
static inline struct str buf_view(const struct buf *b)
{
    return str_n(b->ptr, b->len);
}

static inline void put_be16(void *p, uint16_t v)
{
    uint8_t *q = p;
    q[0] = (uint8_t)(v >> 8);
    q[1] = (uint8_t)v;
}
static inline void put_be32(void *p, uint32_t v)
{
    uint8_t *q = p;
    q[0] = (uint8_t)(v >> 24);
    q[1] = (uint8_t)(v >> 16);
    q[2] = (uint8_t)(v >> 8);
    q[3] = (uint8_t)v;
}
static inline void put_be64(void *p, uint64_t v)
{
    put_be32(p, (uint32_t)(v >> 32));
    put_be32((uint8_t *)p + 4, (uint32_t)v);
}
static inline uint16_t get_be16(const void *p)
{
    const uint8_t *q = p;
    return (uint16_t)(q[0] << 8 | q[1]);
}
static inline uint32_t get_be32(const void *p)
{
    const uint8_t *q = p;
    return (uint32_t)q[0] << 24 | (uint32_t)q[1] << 16 | (uint32_t)q[2] << 8 | q[3];
}
static inline uint64_t get_be64(const void *p)
{
    return (uint64_t)get_be32(p) << 32 | get_be32((const uint8_t *)p + 4);
}

/* Reader over bytes that nobody vouches for: every read checks; after a bad one `bad` stays set and reads
 * give 0. */
struct reader {
    const char *ptr, *end;
    bool bad;
};
static inline struct reader reader_of(struct str s)
{
    return (struct reader){s.ptr, s.ptr + s.len, false};
}
static inline size_t reader_left(const struct reader *r)
{
    return r->bad ? 0 : (size_t)(r->end - r->ptr);
}
uint8_t read_u8(struct reader *r);
uint16_t read_be16(struct reader *r);
uint32_t read_be32(struct reader *r);
uint64_t read_be64(struct reader *r);
uint64_t read_varint(struct reader *r);
int64_t read_zigzag(struct reader *r);
struct str read_bytes(struct reader *r, size_t n);
struct str read_lstr(struct reader *r);

#endif
