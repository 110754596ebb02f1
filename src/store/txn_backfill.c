/* Record of CATALOG_BACKFILLS: u8 format (1) | zigzag until, cursor | varint copied, total. */
#include "base/json.h"
#include "store/backfill.h"
#include "store/committer.h"
#include "store/stream.h"
#include <stdio.h>
#include <stdlib.h>

enum { BACKFILL_FORMAT = 1 };

static struct key backfill_key(uint64_t group_no, uint64_t user_no)
{
    char name[16];
    put_be64(name, group_no);
    put_be64(name + 8, user_no);
    return key_named(CATALOG_USER_NO, CATALOG_BACKFILLS, str_n(name, sizeof name));
}

static enum err backfill_decode(struct str value, struct backfill *b)
{
    struct reader r = reader_of(value);
    if (read_u8(&r) != BACKFILL_FORMAT)
        return ERR_CORRUPT;
    b->until = read_zigzag(&r);
    b->cursor = read_zigzag(&r);
    b->copied = read_varint(&r);
    b->total = read_varint(&r);
    return r.bad || reader_left(&r) != 0 ? ERR_CORRUPT : ERR_OK;
}

static enum err backfill_put(struct txn *t, const struct backfill *b, struct errctx *ec)
{
    struct key k = backfill_key(b->group_no, b->user_no);
    buf_clear(&t->scratch);
    buf_u8(&t->scratch, BACKFILL_FORMAT);
    buf_zigzag(&t->scratch, b->until);
    buf_zigzag(&t->scratch, b->cursor);
    buf_varint(&t->scratch, b->copied);
    buf_varint(&t->scratch, b->total);
    if (t->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    txn_put(t, &k, buf_view(&t->scratch));
    return ERR_OK;
}

/* Progress, as the member "history" of the metadata. Metadata that is no object is the member's own affair
 * and stays. */
static enum err show_progress(
    struct txn *t, struct member *m, const struct backfill *b, bool complete, struct errctx *ec)
{
    struct value *metadata = &m->values[MEMBER_METADATA];
    struct buf all = BUF_INIT(0);
    char text[128];
    snprintf(text, sizeof text, "{\"state\":\"%s\",\"copied\":%llu,\"total\":%llu}",
        complete ? "complete" : "copying", (unsigned long long)b->copied,
        (unsigned long long)(complete ? b->copied : b->total));
    bool object = json_object_put(
        &all, value_is_null(*metadata) ? STR("{}") : metadata->s, STR("history"), str_c(text));
    struct str copy = object && !all.failed ? arena_str(&t->arena, buf_view(&all)) : STR_NULL;
    bool failed = object && copy.ptr == NULL;
    buf_release(&all);
    if (failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (object)
        *metadata = value_json(copy);
    return ERR_OK;
}

enum err txn_backfill_begin(
    struct txn *txn, const struct group *g, struct member *m, struct conversation *c, struct errctx *ec)
{
    struct backfill b = {
        .group_no = g->group_no, .user_no = m->user_no, .until = g->last_msg_id, .total = g->nmessages};
    bool count;
    if (!g->history_shared || g->last_msg_id == 0)
        return ERR_OK;
    /* Who joins has read what came before them. */
    struct value *marker = &m->values[MEMBER_LAST_READ_MSG_ID];
    if (value_is_null(*marker) || marker->i < b.until)
        *marker = value_i64(b.until);
    enum err e = txn_conversation_mark(txn, c, *marker, NULL, &count, ec);
    if (e == ERR_OK)
        e = show_progress(txn, m, &b, false, ec);
    return e == ERR_OK ? backfill_put(txn, &b, ec) : e;
}

/* ---- one chunk ---------------------------------------------------------------------------------------- */

/* Does every row of the chunk stand as it was read? */
static enum err source_unchanged(
    struct txn *t, const struct backfill_chunk *ch, struct str conversation_id, struct errctx *ec)
{
    struct head *head;
    struct conversation c;
    enum err e = txn_conversation(t, ch->source_no, conversation_id, &c, ec);
    if (e == ERR_OK && (!c.exists || !c.present || c.group_no != ch->b.group_no))
        e = err_set(ec, ERR_RETRY, "the source of a history copy has left");
    if (e == ERR_OK)
        e = txn_head(t, ch->source_no, &head, ec);
    if (e != ERR_OK || head->seq == ch->source_seq)
        return e;
    for (size_t i = 0; i < ch->nrows; i++) {
        struct message_copy copy;
        const struct value *v = ch->rows[i];
        e = txn_copy_find(t, ch->source_no, v[MSG_ID].i, &copy, ec);
        if (e != ERR_OK)
            return e;
        bool same = copy.state == COPY_HOT
                        ? copy.meta.seq == (uint64_t)v[MSG_SEQ].i
                        : copy.state == COPY_COLD_PERHAPS && copy.cold_epoch == ch->source_epoch;
        if (!same)
            return err_set(ec, ERR_RETRY, "a message has changed while it was copied");
    }
    return ERR_OK;
}

static int id_cmp(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* What has come in chunks is no part of the row that followers are shown, and the next piece goes on behind
 * it. */
static enum err announce_text(struct txn *t, struct conversation *c, const struct row_meta *meta, int64_t id,
    const struct value *values, struct errctx *ec)
{
    struct str text, base = values[MSG_CONTENT].s;
    enum err e = txn_stream_text(t, meta->home, id, base, &text, ec);
    if (e != ERR_OK || text.len == base.len)
        return e;
    struct stream_delta d = {.msg_id = id,
        .offset = base.len,
        .conversation_id = values[MSG_CONVERSATION_ID].s,
        .text = str_n(text.ptr + base.len, text.len - base.len)};
    return txn_stream_announce(t, c->user_no, &d, ec);
}

/* A message that still grows: the target's row is open as the source's is, with the same beginning, and the
 * stream's end finds it. False in *ret: it does not grow (any more). */
static enum err copy_open_row(struct txn *t, struct backfill_chunk *ch, struct conversation *c, int64_t id,
    bool *ret, struct errctx *ec)
{
    struct row_meta meta;
    struct value values[MSG_NCOLUMNS];
    struct stream_record stream;
    *ret = false;
    enum err e = txn_stream_copy(t, ch->source_no, id, &meta, values, ec);
    if (e != ERR_OK || (meta.flags & ROW_OPEN) == 0) {
        errctx_clear(ec);
        return e == ERR_NOT_FOUND ? ERR_OK : e;
    }
    e = txn_stream(t, id, &stream, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_internal(ec, ERR_CORRUPT, "an open row has no stream") : e;
    stream.copies++;
    e = txn_stream_put(t, id, &stream, ec);
    if (e != ERR_OK)
        return e;
    *ret = true;
    txn_stream_opening(t, meta.home);
    e = txn_message_insert(t, c, values, ec);
    t->stream_opening = false;
    return e == ERR_OK && txn_followed(t, c->user_no) ? announce_text(t, c, &meta, id, values, ec) : e;
}

/* Copies one row unless the target has it, or had it and deleted it. */
static enum err copy_row(struct txn *t, struct backfill_chunk *ch, struct conversation *c,
    const struct value *row, struct errctx *ec)
{
    struct message_copy copy;
    struct value values[MSG_NCOLUMNS];
    enum err e = txn_copy_find(t, c->user_no, row[MSG_ID].i, &copy, ec);
    if (e != ERR_OK || copy.state == COPY_HOT || copy.state == COPY_DELETED)
        return e;
    if (copy.state == COPY_COLD_PERHAPS) {
        if (copy.cold_epoch != ch->target_epoch)
            return err_set(ec, ERR_RETRY, "rows of the target have moved");
        if (ch->nthere > 0 &&
            bsearch(&row[MSG_ID].i, ch->there, ch->nthere, sizeof *ch->there, id_cmp) != NULL)
            return ERR_OK;
    }
    bool open = false;
    for (size_t i = 0; e == ERR_OK && !open && i < ch->nopen; i++) {
        if (ch->open[i] == row[MSG_ID].i)
            e = copy_open_row(t, ch, c, ch->open[i], &open, ec);
    }
    memcpy(values, row, sizeof values);
    if (e == ERR_OK && !open)
        e = txn_message_insert(t, c, values, ec);
    ch->b.copied += e == ERR_OK;
    return e;
}

static enum err target_of(struct txn *t, const struct backfill *b, struct group *g, struct member *m,
    struct conversation *c, struct errctx *ec)
{
    struct head *head;
    enum err e = txn_group_no(t, b->group_no, g, ec);
    if (e == ERR_OK)
        e = txn_head(t, b->user_no, &head, ec);
    if (e == ERR_OK)
        e = txn_group_member(t, g, arena_str(&t->arena, head_user_id(head)), m, ec);
    if (e == ERR_OK && !m->present)
        e = ERR_NOT_FOUND;
    if (e == ERR_OK)
        e = txn_conversation(t, b->user_no, g->values[CONV_ID].s, c, ec);
    if (e == ERR_OK && (!c->exists || c->group_no != g->group_no))
        e = ERR_NOT_FOUND;
    return e;
}

enum err txn_backfill_chunk(struct txn *txn, struct backfill_chunk *ch, struct errctx *ec)
{
    struct key k = backfill_key(ch->b.group_no, ch->b.user_no);
    struct backfill now = ch->b;
    struct str value;
    struct group g;
    struct member m;
    struct conversation c;
    ch->over = false;
    enum err e = txn_get(txn, &k, &value, ec);
    if (e == ERR_NOT_FOUND) {
        ch->over = true;
        return ERR_OK;
    }
    if (e == ERR_OK && backfill_decode(value, &now) != ERR_OK)
        e = err_internal(ec, ERR_CORRUPT, "the record of a history copy is damaged");
    if (e == ERR_OK && (now.cursor != ch->b.cursor || now.until != ch->b.until))
        e = err_set(ec, ERR_RETRY, "the history copy has begun anew");
    if (e != ERR_OK)
        return e;
    ch->b = now;
    e = target_of(txn, &now, &g, &m, &c, ec);
    if (e == ERR_NOT_FOUND) { /* gone or left: what is there stays */
        errctx_clear(ec);
        ch->over = true;
        txn_delete(txn, &k);
        return ERR_OK;
    }
    if (e == ERR_OK && ch->nrows > 0)
        e = source_unchanged(txn, ch, g.values[CONV_ID].s, ec);
    txn_refs_from(txn, ch->source_no); /* who has the row has the key of its file */
    for (size_t i = 0; e == ERR_OK && i < ch->nrows; i++)
        e = copy_row(txn, ch, &c, ch->rows[i], ec);
    if (e != ERR_OK)
        return e;
    ch->over = ch->last;
    ch->b.cursor = ch->nrows > 0 ? ch->rows[ch->nrows - 1][MSG_ID].i : now.cursor;
    ch->b.total = ch->total != 0 ? ch->total : now.total;
    e = show_progress(txn, &m, &ch->b, ch->last, ec);
    if (e == ERR_OK)
        e = txn_group_member_put(txn, &g, &m, ec);
    if (e == ERR_OK)
        e = txn_conversation_put(txn, &c, true, ec);
    if (e == ERR_OK && !ch->last)
        return backfill_put(txn, &ch->b, ec);
    if (e == ERR_OK)
        txn_delete(txn, &k);
    return e;
}

/* ---- outside the committer ---------------------------------------------------------------------------- */

enum err store_backfill_next(
    struct store *s, uint64_t group_no, uint64_t user_no, struct backfill *ret, struct errctx *ec)
{
    struct key from = backfill_key(group_no, user_no), space = key_prefix(CATALOG_USER_NO, CATALOG_BACKFILLS);
    struct key after = key_after(&space);
    enum err e = ERR_NOT_FOUND;
    from.bytes[from.len++] = '\0'; /* behind it */
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db == NULL) {
        pthread_rwlock_unlock(&s->db_lock);
        return err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
    }
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_total_order_seek(options, 1);
    rocksdb_readoptions_set_iterate_upper_bound(options, after.bytes, after.len);
    rocksdb_iterator_t *it = rocksdb_create_iterator(s->db, options);
    rocksdb_iter_seek(it, from.bytes, from.len);
    if (rocksdb_iter_valid(it)) {
        struct str key, value;
        key.ptr = rocksdb_iter_key(it, &key.len);
        value.ptr = rocksdb_iter_value(it, &value.len);
        struct backfill b = {0};
        if (key.len != KEY_PREFIX_BYTES + 16 || backfill_decode(value, &b) != ERR_OK) {
            e = err_internal(ec, ERR_CORRUPT, "the record of a history copy is damaged");
        } else {
            b.group_no = get_be64(key.ptr + KEY_PREFIX_BYTES);
            b.user_no = get_be64(key.ptr + KEY_PREFIX_BYTES + 8);
            *ret = b;
            e = ERR_OK;
        }
    }
    char *message = NULL;
    rocksdb_iter_get_error(it, &message);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    pthread_rwlock_unlock(&s->db_lock);
    enum err scan = store_rocks_err(ec, message, "scan history copies");
    return scan != ERR_OK ? scan : e == ERR_NOT_FOUND ? err_set(ec, e, "no history copy is pending") : e;
}

/* Messages that one member has of a conversation. */
static enum err messages_of(
    struct snapshot *snap, uint64_t user_no, struct str id, int64_t *ret, struct errctx *ec)
{
    struct key k = key_named(user_no, SPACE_CONVERSATIONS, id);
    struct conversation_record record;
    struct row_meta meta;
    struct value values[CONV_NCOLUMNS];
    struct str value;
    *ret = -1;
    enum err e = snapshot_get(snap, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_OK : e;
    if (conversation_record_get(value, &record) != ERR_OK ||
        row_decode(record.row, &schema_conversations, &meta, values) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a conversation row is damaged");
    if ((meta.flags & ROW_TOMBSTONE) == 0)
        *ret = values[CONV_TOTAL_MESSAGES].i;
    return ERR_OK;
}

enum err store_backfill_source(struct store *s, const struct backfill *b, struct arena *arena,
    uint64_t *ret_source_no, struct str *ret_conversation_id, struct errctx *ec)
{
    struct snapshot *snap;
    struct str value;
    struct group g;
    const uint64_t *members;
    size_t n = 0;
    int64_t most = -1;
    enum err e = snapshot_open_no(s, b->user_no, &snap, ec);
    if (e != ERR_OK)
        return e;
    struct key k = key_prefix(b->group_no, SPACE_GROUP);
    e = snapshot_get(snap, &k, &value, ec);
    if (e == ERR_OK && group_decode(value, b->group_no, &g) != ERR_OK)
        e = err_internal(ec, ERR_CORRUPT, "a group's record is damaged");
    struct str id = e == ERR_OK ? arena_str(arena, g.values[CONV_ID].s) : STR_NULL;
    if (e == ERR_OK)
        e = snapshot_members(snap, g.values[CONV_ID].s, &members, &n, ec);
    for (size_t i = 0; e == ERR_OK && i < n; i++) {
        int64_t messages;
        if (members[i] == b->user_no)
            continue;
        e = messages_of(snap, members[i], id, &messages, ec);
        if (messages > most) {
            most = messages;
            *ret_source_no = members[i];
        }
    }
    snapshot_close(snap);
    if (e == ERR_OK && most < 0)
        e = err_set(ec, ERR_NOT_FOUND, "nobody has the history");
    *ret_conversation_id = id;
    return e;
}
