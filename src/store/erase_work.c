/* Value of SPACE_ERASED_WORK: u8 format (1) | varint Parquet files, their rows and bytes | varint n | n names
 * of files, those set aside included, as lstr | varint n | n times varint conv_no, lstr conversation id. */
#include "store/erase_int.h"

enum { WORK_FORMAT = 1 };

enum err erase_work_put(struct txn *txn, uint64_t user_no, const struct manifest *m,
    const struct erase_places *places, struct errctx *ec)
{
    struct key k = key_prefix(user_no, SPACE_ERASED_WORK);
    struct buf b = BUF_INIT(0);
    buf_u8(&b, WORK_FORMAT);
    buf_varint(&b, m != NULL ? m->nfiles : 0);
    buf_varint(&b, m != NULL ? manifest_rows(m) : 0);
    buf_varint(&b, m != NULL ? manifest_bytes(m) : 0);
    buf_varint(&b, m != NULL ? m->nfiles + m->ngarbage : 0);
    for (size_t i = 0; m != NULL && i < m->nfiles; i++)
        buf_lstr(&b, m->files[i].name);
    for (size_t i = 0; m != NULL && i < m->ngarbage; i++)
        buf_lstr(&b, m->garbage[i]);
    buf_varint(&b, places->n);
    for (size_t i = 0; i < places->n; i++) {
        buf_varint(&b, places->items[i].conv_no);
        buf_lstr(&b, places->items[i].conversation_id);
    }
    enum err e = b.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
    if (e == ERR_OK)
        txn_put(txn, &k, buf_view(&b));
    buf_release(&b);
    return e;
}

enum err erase_work_decode(struct str value, struct erase_work *ret, struct errctx *ec)
{
    struct erase_work w = {.bytes_read = BUF_INIT(0)};
    struct reader r = reader_of(value);
    bool known = read_u8(&r) == WORK_FORMAT;
    w.files = read_varint(&r);
    w.rows = read_varint(&r);
    w.bytes = read_varint(&r);
    w.nnames = read_varint(&r);
    w.names_at = value.len - reader_left(&r);
    for (size_t i = 0; i < w.nnames && !r.bad; i++)
        (void)read_lstr(&r);
    w.nplaces = read_varint(&r);
    w.places_at = value.len - reader_left(&r);
    for (size_t i = 0; i < w.nplaces && !r.bad; i++) {
        (void)read_varint(&r);
        (void)read_lstr(&r);
    }
    if (!known || r.bad || reader_left(&r) != 0)
        return err_internal(ec, ERR_CORRUPT, "what an erasure has to do is damaged");
    buf_str(&w.bytes_read, value);
    if (w.bytes_read.failed) {
        buf_release(&w.bytes_read);
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    *ret = w;
    return ERR_OK;
}

enum err erase_work_read(struct store *s, uint64_t user_no, struct erase_work *ret, struct errctx *ec)
{
    struct key k = key_prefix(user_no, SPACE_ERASED_WORK);
    struct buf value = BUF_INIT(0);
    enum err e = erase_read_value(s, &k, &value, ec);
    if (e == ERR_OK)
        e = erase_work_decode(buf_view(&value), ret, ec);
    buf_release(&value);
    return e;
}

static struct str from(const struct erase_work *w, size_t at)
{
    return str_n(w->bytes_read.ptr + at, w->bytes_read.len - at);
}

enum err erase_work_each_name(const struct erase_work *w,
    enum err (*fn)(void *arg, struct str name, struct errctx *ec), void *arg, struct errctx *ec)
{
    struct reader r = reader_of(from(w, w->names_at));
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < w->nnames; i++)
        e = fn(arg, read_lstr(&r), ec);
    return e;
}

enum err erase_work_each_place(const struct erase_work *w,
    enum err (*fn)(void *arg, uint32_t conv_no, struct str conversation_id, struct errctx *ec), void *arg,
    struct errctx *ec)
{
    struct reader r = reader_of(from(w, w->places_at));
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < w->nplaces; i++) {
        uint32_t conv_no = (uint32_t)read_varint(&r);
        e = fn(arg, conv_no, read_lstr(&r), ec);
    }
    return e;
}

void erase_work_release(struct erase_work *w)
{
    buf_release(&w->bytes_read);
}
