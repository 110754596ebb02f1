/* Reading open rows: content and chunks become the text so far. */
#include "store/internal.h"
#include <stdlib.h>

/* Appends the chunks of a message to `text`, which must go on where it ends. */
static enum err read_chunks(
    struct snapshot *snap, uint64_t home, int64_t msg_id, struct buf *text, struct errctx *ec)
{
    struct buf opened = BUF_INIT(0);
    struct key from = key_chunks_of(home, msg_id), end = key_after(&from);
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_snapshot(options, snap->rocks);
    rocksdb_readoptions_set_iterate_upper_bound(options, end.bytes, end.len);
    rocksdb_readoptions_set_prefix_same_as_start(options, 1);
    rocksdb_iterator_t *it = rocksdb_create_iterator(snap->store->db, options);
    enum err e = ERR_OK;
    rocksdb_iter_seek(it, from.bytes, from.len);
    for (; e == ERR_OK && rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        struct str key, chunk;
        int64_t id;
        uint64_t offset;
        key.ptr = rocksdb_iter_key(it, &key.len);
        chunk.ptr = rocksdb_iter_value(it, &chunk.len);
        e = store_unseal(snap->store, key, chunk, &opened, &chunk, ec);
        if (e != ERR_OK)
            break;
        if (!key_parse_chunk(key, &id, &offset) || id != msg_id || offset != text->len)
            e = err_internal(ec, ERR_CORRUPT, "open message %lld: a hole before its text at %zu",
                (long long)msg_id, text->len);
        else
            buf_str(text, chunk);
    }
    char *message = NULL;
    rocksdb_iter_get_error(it, &message);
    enum err io = store_rocks_err(e == ERR_OK ? ec : &(struct errctx){0}, message, "scan");
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    buf_release(&opened);
    if (e == ERR_OK)
        e = io;
    return e == ERR_OK && text->failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : e;
}

enum err stream_resolve(struct snapshot *snap, struct str row, struct buf *ret, struct errctx *ec)
{
    struct row_meta meta;
    struct value values[MSG_NCOLUMNS];
    if (row_decode(row, &schema_messages, &meta, values) != ERR_OK || values[MSG_CONTENT].type != VALUE_TEXT)
        return err_internal(ec, ERR_CORRUPT, "a message row is damaged");
    struct buf text = BUF_INIT(0);
    buf_str(&text, values[MSG_CONTENT].s);
    enum err e = read_chunks(snap, meta.home, values[MSG_ID].i, &text, ec);
    if (e == ERR_OK) {
        values[MSG_CONTENT] = value_text(text.len > 0 ? buf_view(&text) : STR(""));
        row_encode(ret, &schema_messages, meta, values);
        if (ret->failed)
            e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    buf_release(&text);
    return e;
}

/* ---- records ------------------------------------------------------------------------------------------ */

enum err store_each_stream(struct store *s,
    bool (*fn)(void *arg, int64_t msg_id, const struct stream_record *r), void *arg, struct errctx *ec)
{
    struct key from = key_prefix(CATALOG_USER_NO, CATALOG_STREAMS), end = key_after(&from);
    struct buf found = BUF_INIT(0);
    enum err e = ERR_OK;
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db == NULL) {
        e = err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
    } else {
        rocksdb_readoptions_t *options = rocksdb_readoptions_create();
        rocksdb_readoptions_set_iterate_upper_bound(options, end.bytes, end.len);
        rocksdb_iterator_t *it = rocksdb_create_iterator(s->db, options);
        for (rocksdb_iter_seek(it, from.bytes, from.len); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
            size_t klen, vlen;
            const char *key = rocksdb_iter_key(it, &klen), *value = rocksdb_iter_value(it, &vlen);
            buf_lstr(&found, str_n(key, klen));
            buf_lstr(&found, str_n(value, vlen));
        }
        char *message = NULL;
        rocksdb_iter_get_error(it, &message);
        rocksdb_iter_destroy(it);
        rocksdb_readoptions_destroy(options);
        e = store_rocks_err(ec, message, "scan streams");
    }
    pthread_rwlock_unlock(&s->db_lock);
    if (e == ERR_OK && found.failed)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    struct reader r = reader_of(buf_view(&found));
    while (e == ERR_OK && reader_left(&r) > 0) {
        struct str key = read_lstr(&r), value = read_lstr(&r);
        struct stream_record record;
        int64_t msg_id;
        if (!key_parse_stream(key, &msg_id) || stream_record_decode(value, &record) != ERR_OK)
            e = err_internal(ec, ERR_CORRUPT, "a stream's record is damaged");
        else if (!fn(arg, msg_id, &record))
            break;
    }
    buf_release(&found);
    return e;
}

/* ---- notes --------------------------------------------------------------------------------------------
 *
 * A note stays for a while after it was forgotten: whoever opens a snapshot reads the notes a moment later,
 * and what was open at the snapshot must be among them. */

#define NOTE_LINGERS_US (INT64_C(10) * 1000000)

static bool over(const struct stream_note *n, int64_t now_us)
{
    return n->forgotten_us != 0 && now_us - n->forgotten_us > NOTE_LINGERS_US;
}

static void drop_old(struct store *s, int64_t now_us)
{
    for (size_t i = 0; i < s->notes.count;)
        if (over(&s->notes.items[i], now_us))
            s->notes.items[i] = s->notes.items[--s->notes.count];
        else
            i++;
}

enum err store_stream_note(struct store *s, struct stream_note note)
{
    enum err e = ERR_OK;
    note.forgotten_us = 0;
    pthread_mutex_lock(&s->notes.lock);
    size_t at = 0;
    while (at < s->notes.count && s->notes.items[at].msg_id != note.msg_id)
        at++;
    if (at == s->notes.cap) {
        drop_old(s, os_monotonic_us(s->os));
        at = s->notes.count;
    }
    if (at == s->notes.cap) {
        size_t cap = at == 0 ? 64 : at * 2;
        struct stream_note *items = realloc(s->notes.items, cap * sizeof *items);
        if (items == NULL) {
            e = ERR_NO_MEMORY;
        } else {
            s->notes.items = items;
            s->notes.cap = cap;
        }
    }
    if (e == ERR_OK) {
        s->notes.items[at] = note;
        s->notes.count += at == s->notes.count;
    }
    pthread_mutex_unlock(&s->notes.lock);
    return e;
}

void store_stream_forget(struct store *s, int64_t msg_id)
{
    int64_t now_us = os_monotonic_us(s->os);
    pthread_mutex_lock(&s->notes.lock);
    for (size_t i = 0; i < s->notes.count; i++)
        if (s->notes.items[i].msg_id == msg_id)
            s->notes.items[i].forgotten_us = now_us;
    pthread_mutex_unlock(&s->notes.lock);
}

size_t store_stream_notes(struct store *s, uint64_t user_no, struct stream_note *ret, size_t max)
{
    size_t n = 0;
    if (atomic_load(&s->notes.count) == 0)
        return 0;
    pthread_mutex_lock(&s->notes.lock);
    drop_old(s, os_monotonic_us(s->os));
    for (size_t i = 0; i < s->notes.count; i++) {
        const struct stream_note *note = &s->notes.items[i];
        if (!note->group && note->home != user_no)
            continue;
        if (n < max)
            ret[n] = *note;
        n++;
    }
    pthread_mutex_unlock(&s->notes.lock);
    return n;
}

enum err snapshot_take_notes(struct snapshot *snap, struct errctx *ec)
{
    struct store *s = snap->store;
    size_t n = store_stream_notes(s, snap->user_no, NULL, 0), now;
    for (; n > snap->nnotes; n = now) { /* others may come in between */
        void *grown = realloc(snap->notes, n * sizeof *snap->notes);
        if (grown == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
        snap->notes = grown;
        now = store_stream_notes(s, snap->user_no, snap->notes, n);
        snap->nnotes = n;
        if (now <= n) {
            snap->nnotes = now;
            break;
        }
    }
    return ERR_OK;
}

uint64_t store_streams_lost(const struct store *s)
{
    return atomic_load_explicit(&s->streams_lost, memory_order_acquire);
}
