/* Open messages in a transaction: records, chunks, and which rows are open.
 *
 * Record: u8 format (1) | u8 state | be64 changed_us | u8 group | varint home, copies, bytes | lstr owner,
 * producer, conversation_id. State and time stand at fixed places for the compaction filter. */
#include "store/committer.h"
#include <stdlib.h>

enum { STREAM_FORMAT = 1, RECORD_HEAD_BYTES = 10 };

static void record_encode(struct buf *b, const struct stream_record *r)
{
    buf_u8(b, STREAM_FORMAT);
    buf_u8(b, (uint8_t)r->state);
    buf_be64(b, (uint64_t)r->changed_us);
    buf_u8(b, r->group);
    buf_varint(b, r->home);
    buf_varint(b, r->copies);
    buf_varint(b, r->bytes);
    buf_lstr(b, r->owner);
    buf_lstr(b, r->producer);
    buf_lstr(b, r->conversation_id);
}

enum err stream_record_decode(struct str bytes, struct stream_record *ret)
{
    struct reader r = reader_of(bytes);
    if (read_u8(&r) != STREAM_FORMAT)
        return ERR_CORRUPT;
    struct stream_record rec = {.state = (enum stream_state)read_u8(&r)};
    rec.changed_us = (int64_t)read_be64(&r);
    rec.group = read_u8(&r) != 0;
    rec.home = read_varint(&r);
    rec.copies = read_varint(&r);
    rec.bytes = read_varint(&r);
    rec.owner = read_lstr(&r);
    rec.producer = read_lstr(&r);
    rec.conversation_id = read_lstr(&r);
    if (r.bad || reader_left(&r) != 0 || rec.state < STREAM_OPEN || rec.state > STREAM_ENDED)
        return ERR_CORRUPT;
    *ret = rec;
    return ERR_OK;
}

bool stream_record_expired(struct str value, int64_t now_us)
{
    if (value.len < RECORD_HEAD_BYTES || value.ptr[0] != STREAM_FORMAT)
        return false;
    int64_t age = now_us - (int64_t)get_be64(value.ptr + 2);
    return (value.ptr[1] == STREAM_ENDED && age > STREAM_ENDED_KEPT_US) ||
           (value.ptr[1] == STREAM_INTERRUPTED && age > STREAM_INTERRUPTED_KEPT_US);
}

enum err txn_stream(struct txn *txn, int64_t msg_id, struct stream_record *ret, struct errctx *ec)
{
    struct key k = key_stream(msg_id);
    struct str value;
    enum err e = txn_get(txn, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_set(ec, e, "no such stream") : e;
    /* Copied: what the overlay holds may be replaced within the op. */
    value = arena_str(&txn->arena, value);
    if (value.ptr == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (stream_record_decode(value, ret) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "the record of stream %lld is damaged", (long long)msg_id);
    return ERR_OK;
}

enum err txn_stream_put(struct txn *txn, int64_t msg_id, const struct stream_record *r, struct errctx *ec)
{
    buf_clear(&txn->scratch);
    record_encode(&txn->scratch, r);
    if (txn->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    struct key k = key_stream(msg_id);
    txn_put(txn, &k, buf_view(&txn->scratch));
    struct stream_note note = {msg_id, r->home, r->group};
    if (r->state == STREAM_OPEN && store_stream_note(txn->store, note) != ERR_OK)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    return ERR_OK;
}

/* ---- which rows are open ------------------------------------------------------------------------------ */

void txn_stream_opening(struct txn *txn, uint64_t home)
{
    txn->stream_opening = true;
    txn->stream_home = home;
}

void txn_stream_closing(struct txn *txn)
{
    txn->stream_closing = true;
}

uint64_t txn_stream_opened(const struct txn *txn, uint64_t *ret_home)
{
    *ret_home = txn->opened_home;
    return txn->opened;
}

void txn_stream_mark(struct txn *t, uint64_t partition, struct row_meta *meta)
{
    if (!t->stream_opening)
        return;
    meta->flags |= ROW_OPEN;
    meta->home = t->opened_home = t->stream_home != 0 ? t->stream_home : partition;
    t->opened++;
}

/* Also where this op is undone in the end: whoever writes the stream then looks, and finds it alive. */
void txn_stream_lost(struct txn *txn)
{
    atomic_fetch_add_explicit(&txn->store->streams_lost, 1, memory_order_release);
}

void txn_stream_drop(struct txn *txn, int64_t msg_id)
{
    struct key k = key_stream(msg_id);
    txn_delete(txn, &k);
    txn_stream_lost(txn);
}

enum err txn_stream_lose(struct txn *t, int64_t msg_id, struct errctx *ec)
{
    struct stream_record r;
    enum err e = txn_stream(t, msg_id, &r, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_OK : e;
    if (r.state != STREAM_OPEN)
        return ERR_OK;
    if (r.copies > 1) {
        r.copies--;
        return txn_stream_put(t, msg_id, &r, ec);
    }
    txn_stream_drop(t, msg_id);
    return txn_stream_clear(t, r.home, msg_id, ec);
}

enum err txn_stream_notes(
    struct txn *txn, uint64_t user_no, struct stream_note **ret, size_t *ret_n, struct errctx *ec)
{
    size_t n = store_stream_notes(txn->store, user_no, NULL, 0);
    struct stream_note *notes = arena_array(&txn->arena, n, sizeof *notes);
    if (notes == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    size_t now = store_stream_notes(txn->store, user_no, notes, n);
    *ret = notes;
    *ret_n = now < n ? now : n; /* only this thread adds */
    return ERR_OK;
}

enum err txn_stream_copy(struct txn *txn, uint64_t user_no, int64_t msg_id, struct row_meta *ret_meta,
    struct value *ret_values, struct errctx *ec)
{
    struct key k = key_id(user_no, SPACE_IDS, msg_id);
    struct str value;
    enum err e = txn_get(txn, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_set(ec, e, "no such message") : e;
    if (value.len != 4)
        return err_internal(ec, ERR_CORRUPT, "an id entry is damaged");
    k = key_message(user_no, get_be32(value.ptr), msg_id);
    e = txn_get(txn, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_internal(ec, ERR_CORRUPT, "an id entry has no row") : e;
    value = arena_str(&txn->arena, value);
    if (value.ptr == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (row_decode(value, &schema_messages, ret_meta, ret_values) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a message row is damaged");
    return ERR_OK;
}

/* ---- chunks ------------------------------------------------------------------------------------------- */

void txn_stream_chunk(struct txn *txn, uint64_t home, const struct stream_delta *d)
{
    struct key k = key_chunk(home, d->msg_id, d->offset);
    txn_put(txn, &k, d->text);
}

bool txn_stream_reaches(struct txn *txn, uint64_t user_no, int64_t msg_id)
{
    struct key k = key_id(user_no, SPACE_IDS, msg_id);
    struct str value;
    struct errctx ec;
    if (!txn_followed(txn, user_no) || txn_get(txn, &k, &value, &ec) != ERR_OK || value.len != 4)
        return false;
    k = key_message(user_no, get_be32(value.ptr), msg_id);
    /* Who left has a copy that is open no more, also after they came back. */
    return txn_get(txn, &k, &value, &ec) == ERR_OK && row_is_open(value);
}

enum err txn_stream_announce(
    struct txn *txn, uint64_t user_no, const struct stream_delta *d, struct errctx *ec)
{
    buf_clear(&txn->scratch);
    stream_delta_encode(&txn->scratch, d);
    if (txn->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    struct change change = {
        .op = CHANGE_APPEND, .conversation_id = d->conversation_id, .row = buf_view(&txn->scratch)};
    return txn_announce(txn, user_no, &change, ec);
}

/* The message's chunk keys in the database and in this group, as lstr after lstr, each key once. */
static enum err chunk_keys(struct txn *t, uint64_t home, int64_t msg_id, struct buf *keys, struct errctx *ec)
{
    struct key from = key_chunks_of(home, msg_id);
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_prefix_same_as_start(options, 1);
    rocksdb_iterator_t *it = rocksdb_create_iterator(t->store->db, options);
    for (rocksdb_iter_seek(it, from.bytes, from.len); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        struct str key;
        key.ptr = rocksdb_iter_key(it, &key.len);
        if (!str_starts_with(key, key_view(&from)))
            break;
        if (overlay_find(&t->overlay, key) == NULL)
            buf_lstr(keys, key);
    }
    char *message = NULL;
    rocksdb_iter_get_error(it, &message);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    enum err e = store_rocks_err(ec, message, "scan");
    for (size_t i = 0; i < t->overlay.count; i++) {
        const struct overlay_entry *entry = &t->overlay.entries[i];
        if (entry->state == OVERLAY_PUT && str_starts_with(entry->key, key_view(&from)))
            buf_lstr(keys, entry->key);
    }
    return e == ERR_OK && keys->failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : e;
}

struct chunk {
    uint64_t offset;
    struct str text;
};

static int by_offset(const void *a, const void *b)
{
    uint64_t x = ((const struct chunk *)a)->offset, y = ((const struct chunk *)b)->offset;
    return x < y ? -1 : x > y;
}

static enum err load_chunks(
    struct txn *t, struct str keys, struct chunk **ret, size_t *ret_n, struct errctx *ec)
{
    size_t n = 0, cap = keys.len / (KEY_PREFIX_BYTES + 16) + 1;
    struct chunk *chunks = arena_array(&t->arena, cap, sizeof *chunks);
    if (chunks == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    struct reader r = reader_of(keys);
    while (reader_left(&r) > 0) {
        struct str bytes = read_lstr(&r);
        struct key k = {.len = bytes.len};
        int64_t id;
        if (!key_parse_chunk(bytes, &id, &chunks[n].offset))
            return err_internal(ec, ERR_CORRUPT, "a chunk's key is damaged");
        memcpy(k.bytes, bytes.ptr, bytes.len);
        enum err e = txn_get(t, &k, &chunks[n].text, ec);
        if (e != ERR_OK)
            return e == ERR_NOT_FOUND ? err_internal(ec, ERR_CORRUPT, "a chunk is missing") : e;
        n++;
    }
    if (n > 0)
        qsort(chunks, n, sizeof *chunks, by_offset);
    *ret = chunks;
    *ret_n = n;
    return ERR_OK;
}

enum err txn_stream_text(
    struct txn *txn, uint64_t home, int64_t msg_id, struct str base, struct str *ret, struct errctx *ec)
{
    struct buf keys = BUF_INIT(0), text = BUF_INIT(0);
    struct chunk *chunks = NULL;
    size_t n = 0;
    enum err e = chunk_keys(txn, home, msg_id, &keys, ec);
    if (e == ERR_OK)
        e = load_chunks(txn, buf_view(&keys), &chunks, &n, ec);
    buf_str(&text, base);
    for (size_t i = 0; e == ERR_OK && i < n; i++) {
        if (chunks[i].offset != text.len)
            e = err_internal(ec, ERR_CORRUPT, "open message %lld: a hole before its text at %zu",
                (long long)msg_id, text.len);
        else
            buf_str(&text, chunks[i].text);
    }
    struct str copy = e == ERR_OK && !text.failed ? arena_str(&txn->arena, buf_view(&text)) : STR_NULL;
    if (e == ERR_OK && copy.ptr == NULL)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    buf_release(&keys);
    buf_release(&text);
    if (e == ERR_OK)
        *ret = copy;
    return e;
}

enum err txn_stream_clear(struct txn *txn, uint64_t home, int64_t msg_id, struct errctx *ec)
{
    struct buf keys = BUF_INIT(0);
    enum err e = chunk_keys(txn, home, msg_id, &keys, ec);
    struct reader r = reader_of(buf_view(&keys));
    while (e == ERR_OK && reader_left(&r) > 0)
        overlay_delete(&txn->overlay, read_lstr(&r));
    buf_release(&keys);
    return e;
}
