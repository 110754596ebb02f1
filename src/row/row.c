#include "row/row.h"

#define ROW_FORMAT 1

static bool stored(const struct column *c)
{
    return (c->flags & (COLUMN_SEQ | COLUMN_INS_SEQ)) == 0;
}

static void put_value(struct buf *b, struct value v)
{
    buf_u8(b, (uint8_t)v.type);
    if (value_is_bytes(v.type)) {
        buf_lstr(b, v.s);
    } else if (v.type == VALUE_DOUBLE) {
        uint64_t bits;
        memcpy(&bits, &v.d, sizeof bits);
        buf_be64(b, bits);
    } else if (v.type != VALUE_NULL) {
        buf_zigzag(b, v.i);
    }
}

void row_encode_head(struct buf *b, struct row_meta meta)
{
    buf_u8(b, ROW_FORMAT);
    buf_u8(b, (uint8_t)meta.flags);
    if ((meta.flags & ROW_OPEN) != 0)
        buf_varint(b, meta.home);
    buf_varint(b, meta.seq);
    buf_varint(b, meta.ins_seq);
}

void row_encode_columns(struct buf *b, const struct schema *s, const struct value *values)
{
    for (int i = 0; i < s->ncolumns; i++) {
        if (stored(&s->columns[i]))
            put_value(b, values[i]);
    }
}

void row_encode(struct buf *b, const struct schema *s, struct row_meta meta, const struct value *values)
{
    row_encode_head(b, meta);
    bool tombstone = (meta.flags & ROW_TOMBSTONE) != 0;
    for (int i = 0; i < s->ncolumns; i++) {
        const struct column *c = &s->columns[i];
        if (!stored(c))
            continue;
        put_value(b, tombstone && (c->flags & COLUMN_KEY) == 0 ? VALUE_OF_NULL : values[i]);
    }
}

static enum err decode_meta(struct reader *r, struct row_meta *ret)
{
    if (read_u8(r) != ROW_FORMAT)
        return ERR_CORRUPT;
    struct row_meta m = {.flags = read_u8(r)};
    if ((m.flags & ~(unsigned)(ROW_TOMBSTONE | ROW_OPEN)) != 0 || m.flags == (ROW_TOMBSTONE | ROW_OPEN))
        return ERR_CORRUPT;
    if ((m.flags & ROW_OPEN) != 0)
        m.home = read_varint(r);
    m.seq = read_varint(r);
    m.ins_seq = read_varint(r);
    if (r->bad)
        return ERR_CORRUPT;
    *ret = m;
    return ERR_OK;
}

enum err row_decode_meta(struct str bytes, struct row_meta *ret_meta)
{
    struct reader r = reader_of(bytes);
    return decode_meta(&r, ret_meta);
}

/* A stored value is NULL or of its column's type, nothing else. */
static bool get_value(struct reader *r, enum value_type type, struct value *ret)
{
    unsigned tag = read_u8(r);
    *ret = VALUE_OF_NULL;
    if (tag == VALUE_NULL)
        return !r->bad;
    if (tag != (unsigned)type)
        return false;
    ret->type = type;
    if (value_is_bytes(type)) {
        ret->s = read_lstr(r);
    } else if (type == VALUE_DOUBLE) {
        uint64_t bits = read_be64(r);
        memcpy(&ret->d, &bits, sizeof bits);
    } else {
        ret->i = read_zigzag(r);
    }
    return !r->bad;
}

enum err row_decode(
    struct str bytes, const struct schema *s, struct row_meta *ret_meta, struct value *ret_values)
{
    struct reader r = reader_of(bytes);
    struct row_meta m;
    enum err e = decode_meta(&r, &m);
    if (e != ERR_OK)
        return e;
    for (int i = 0; i < s->ncolumns; i++) {
        const struct column *c = &s->columns[i];
        if ((c->flags & COLUMN_SEQ) != 0)
            ret_values[i] = value_i64((int64_t)m.seq);
        else if ((c->flags & COLUMN_INS_SEQ) != 0)
            ret_values[i] = value_i64((int64_t)m.ins_seq);
        else if (reader_left(&r) == 0)
            ret_values[i] = VALUE_OF_NULL; /* a column added after this row was written */
        else if (!get_value(&r, c->type, &ret_values[i]))
            return ERR_CORRUPT;
        if ((c->flags & COLUMN_NOT_NULL) != 0 && value_is_null(ret_values[i]) &&
            (m.flags & ROW_TOMBSTONE) == 0)
            return ERR_CORRUPT;
    }
    if (reader_left(&r) != 0)
        return ERR_CORRUPT;
    *ret_meta = m;
    return ERR_OK;
}
