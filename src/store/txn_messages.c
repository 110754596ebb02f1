/* Messages in a transaction: the row, its id and _seq entries, the head and the conversation's counters move
 * together. A deleted row leaves a tombstone, which keeps its place in the _seq order until it is forgotten.
 */
#include "base/plant.h"
#include "store/committer.h"
#include <stdlib.h>

/* ---- counters ----------------------------------------------------------------------------------------- */

/* Does it count as unread in the conversation of `self`: written by another, above the marker? */
bool conversation_unread(const struct conversation *c, const struct value *values, struct str self)
{
    const struct value *from = &values[MSG_FROM], *marker = &c->values[CONV_READ_MSG_ID];
    bool own = !value_is_null(*from) && str_eq(from->s, self);
    return !own && (value_is_null(*marker) || values[MSG_ID].i > marker->i);
}

static void count_unread(struct conversation *c, const struct value *values, struct str self, int by)
{
    struct value *unread = &c->values[CONV_UNREAD];
    if (!value_is_null(*unread) && conversation_unread(c, values, self))
        unread->i += by;
}

static void count_insert(struct conversation *c, const struct value *values, struct str self, int64_t now_us)
{
    int64_t id = values[MSG_ID].i;
    struct value *first = &c->values[CONV_FIRST_MSG_ID], *last = &c->values[CONV_LAST_MSG_ID];
    int64_t total = value_is_null(c->values[CONV_TOTAL_MESSAGES]) ? 0 : c->values[CONV_TOTAL_MESSAGES].i;
    if (value_is_null(c->values[CONV_ID]))
        c->values[CONV_ID] = values[MSG_CONVERSATION_ID];
    if (value_is_null(c->values[CONV_TYPE]))
        c->values[CONV_TYPE] = values[MSG_CONVERSATION_TYPE];
    if (value_is_null(*first) || id < first->i)
        *first = value_i64(id);
    if (value_is_null(*last) || id > last->i)
        *last = value_i64(id);
    c->values[CONV_TOTAL_MESSAGES] = value_i64(total + 1);
    c->values[CONV_UPDATED] = value_ts(now_us);
    if (total == 0)
        c->values[CONV_UNREAD] = value_i64(0);
    count_unread(c, values, self, 1);
}

static void fresh_add(struct head *h, size_t bytes, int64_t now_us)
{
    h->fresh_rows++;
    h->fresh_bytes += bytes;
    if (h->fresh_since_us == 0)
        h->fresh_since_us = now_us;
}

static void fresh_remove(struct head *h, size_t bytes)
{
    h->fresh_rows -= h->fresh_rows > 0;
    h->fresh_bytes -= bytes < h->fresh_bytes ? bytes : h->fresh_bytes;
    if (h->fresh_rows == 0)
        h->fresh_since_us = 0;
}

/* ---- writing one row ---------------------------------------------------------------------------------- */

static void put_seq(struct txn *t, uint64_t user_no, uint64_t seq, struct seq_entry entry)
{
    char value[SEQ_ENTRY_BYTES];
    seq_entry_put(value, entry);
    struct key k = key_seq(user_no, seq);
    txn_put(t, &k, str_n(value, sizeof value));
}

static void put_id(struct txn *t, uint64_t user_no, int64_t msg_id, uint32_t conv_no)
{
    char value[4];
    put_be32(value, conv_no);
    struct key k = key_id(user_no, SPACE_IDS, msg_id);
    txn_put(t, &k, str_n(value, sizeof value));
}

/* Encodes into the scratch buffer, which stays as it is until the next use. */
static enum err encode_row(struct txn *t, struct row_meta meta, const struct value *values, struct errctx *ec)
{
    buf_clear(&t->scratch);
    row_encode(&t->scratch, &schema_messages, meta, values);
    return t->scratch.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
}

static enum err announce_row(struct txn *t, enum change_op op, const struct conversation *c,
    struct row_meta meta, struct str conversation_id, struct str row, struct errctx *ec)
{
    struct change change = {.op = op,
        .seq = meta.seq,
        .ins_seq = meta.ins_seq,
        .conv_no = c->conv_no,
        .conversation_id = conversation_id,
        .row = row};
    return txn_announce(t, c->user_no, &change, ec);
}

/* So that txn_hot_bounds need not look through everything that a large statement changed, once for each of
 * its conversations. */
enum err txn_note_put(struct txn *t, struct put_notes *notes, const struct key *k, struct errctx *ec)
{
    const struct overlay_entry *e = overlay_find(&t->overlay, key_view(k));
    if (notes->n == notes->cap) {
        size_t cap = notes->cap == 0 ? 128 : notes->cap * 2;
        size_t *at = realloc(notes->at, cap * sizeof *at);
        if (at == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
        notes->at = at;
        notes->cap = cap;
    }
    if (e == NULL) { /* it found no room */
        enum err room = txn_room(t, ec);
        return room != ERR_OK ? room : err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    notes->at[notes->n++] = (size_t)(e - t->overlay.entries);
    return ERR_OK;
}

/* Row, id and _seq entries of a live row, which is in the scratch buffer and stays there. */
static enum err put_row(
    struct txn *t, const struct conversation *c, struct row_meta meta, int64_t id, struct errctx *ec)
{
    struct key k = key_message(c->user_no, c->conv_no, id);
    txn_put(t, &k, buf_view(&t->scratch));
    put_id(t, c->user_no, id, c->conv_no);
    put_seq(t, c->user_no, meta.seq, (struct seq_entry){c->conv_no, id, false});
    return txn_note_put(t, &t->puts, &k, ec);
}

/* A row that named `before` (ptr NULL: nothing) now names `now`. Uses the scratch buffer. */
static enum err count_refs(
    struct txn *t, uint64_t user_no, struct str before, struct value now, struct errctx *ec)
{
    bool names = !value_is_null(now);
    if (before.ptr != NULL && names && str_eq(before, now.s))
        return ERR_OK;
    if (PLANT(COUNT_LOST) && before.ptr != NULL)
        return ERR_OK;
    enum err e = names ? txn_ref(t, user_no, now.s, +1, ec) : ERR_OK;
    return e == ERR_OK && before.ptr != NULL ? txn_ref(t, user_no, before, -1, ec) : e;
}

enum err txn_message_columns(struct txn *txn, const struct value *values, struct str *ret, struct errctx *ec)
{
    buf_clear(&txn->columns);
    row_encode_columns(&txn->columns, &schema_messages, values);
    if (txn->columns.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    *ret = buf_view(&txn->columns);
    return ERR_OK;
}

enum err txn_message_copy(struct txn *txn, struct conversation *c, const struct value *values,
    struct str columns, struct row_meta *ret, struct errctx *ec)
{
    struct head_entry *entry;
    enum err e = txn_entry(txn, c->user_no, &entry, ec);
    if (e != ERR_OK)
        return e;
    count_insert(c, values, head_user_id(&entry->head), txn->now_us);
    e = txn_conversation_put(txn, c, false, ec); /* gives conv_no */
    if (e != ERR_OK)
        return e;
    struct head *h = &entry->head;
    struct row_meta meta = {.seq = h->seq + 1, .ins_seq = h->seq + 1};
    txn_stream_mark(txn, c->user_no, &meta);
    buf_clear(&txn->scratch);
    row_encode_head(&txn->scratch, meta);
    buf_str(&txn->scratch, columns);
    if (txn->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    e = put_row(txn, c, meta, values[MSG_ID].i, ec);
    if (e != ERR_OK)
        return e;
    h->seq = meta.seq;
    h->total_messages++;
    h->active_us = txn->now_us;
    fresh_add(h, txn->scratch.len, txn->now_us);
    txn->catalog.rows_hot++;
    txn->inserted++;
    *ret = meta;
    return announce_row(
        txn, CHANGE_INSERT, c, meta, values[MSG_CONVERSATION_ID].s, buf_view(&txn->scratch), ec);
}

enum err txn_message_insert(struct txn *txn, struct conversation *c, struct value *values, struct errctx *ec)
{
    struct str columns;
    struct row_meta meta;
    enum err e = txn_message_columns(txn, values, &columns, ec);
    if (e == ERR_OK)
        e = txn_message_copy(txn, c, values, columns, &meta, ec);
    if (e != ERR_OK)
        return e;
    values[MSG_SEQ] = value_i64((int64_t)meta.seq);
    values[MSG_INS_SEQ] = value_i64((int64_t)meta.ins_seq);
    return count_refs(txn, c->user_no, STR_NULL, values[MSG_CONTENT_REF], ec);
}

/* ---- changing a row that was read earlier ------------------------------------------------------------- */

struct target {
    struct head *head;
    bool hot;
    struct row_meta meta; /* as it stands now */
    size_t bytes;         /* of the hot envelope */
    struct str ref;       /* content_ref of the hot row; ptr NULL: none */
    bool fresh;           /* in no file */
    bool uncovered;       /* … although the watermark has passed it */
};

/* Finds the row as it stands and makes sure that it is still what the caller read. A row that is not hot can
 * only be in a file; rows of files change by overlays, which are hot, or by consolidation, which moves the
 * epoch. */
static enum err find_target(struct txn *t, const struct conversation *c, int64_t msg_id,
    uint64_t expected_seq, uint64_t ins_seq, uint64_t cold_epoch, struct target *ret, struct errctx *ec)
{
    struct head_entry *entry;
    struct target target = {0};
    struct str row;
    enum err e = txn_entry(t, c->user_no, &entry, ec);
    if (e != ERR_OK)
        return e;
    target.head = &entry->head;
    struct key k = key_message(c->user_no, c->conv_no, msg_id);
    e = c->conv_no != 0 ? txn_get(t, &k, &row, ec) : ERR_NOT_FOUND;
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    if (e == ERR_OK) {
        target.hot = true;
        target.bytes = row.len;
        struct value values[MSG_NCOLUMNS];
        if (row_decode(row, &schema_messages, &target.meta, values) != ERR_OK)
            return err_internal(ec, ERR_CORRUPT, "a message row is damaged");
        target.ref = value_is_null(values[MSG_CONTENT_REF]) ? STR_NULL : values[MSG_CONTENT_REF].s;
        if (target.meta.seq != expected_seq)
            return err_set(ec, ERR_RETRY, "the row has changed");
    } else {
        struct str tombstone;
        k = key_id(c->user_no, SPACE_TOMBSTONES, msg_id);
        e = txn_get(t, &k, &tombstone, ec);
        if (e != ERR_OK && e != ERR_NOT_FOUND)
            return e;
        if (e == ERR_OK || target.head->cold_epoch == 0 || target.head->cold_epoch != cold_epoch)
            return err_set(ec, ERR_RETRY, "the row has changed or moved");
        target.meta = (struct row_meta){.seq = expected_seq, .ins_seq = ins_seq};
    }
    struct manifest *m;
    e = txn_manifest(t, c->user_no, &m, ec);
    if (e != ERR_OK)
        return e;
    target.fresh = manifest_row_state(m, target.meta) == ROW_FRESH;
    target.uncovered = target.fresh && m != NULL && target.meta.ins_seq <= m->watermark;
    manifest_unref(m);
    if (target.fresh && !target.hot)
        return err_set(ec, ERR_RETRY, "the row has moved");
    *ret = target;
    return ERR_OK;
}

enum err txn_message_update(struct txn *txn, struct conversation *c, struct value *values,
    uint64_t expected_seq, uint64_t ins_seq, uint64_t cold_epoch, struct str ref_read, struct errctx *ec)
{
    struct target target = {0};
    enum err e = find_target(txn, c, values[MSG_ID].i, expected_seq, ins_seq, cold_epoch, &target, ec);
    if (e != ERR_OK)
        return e;
    bool was_open = (target.meta.flags & ROW_OPEN) != 0;
    if (was_open && !txn->stream_closing) {
        err_set(ec, ERR_CONFLICT, "message %lld is still being streamed", (long long)values[MSG_ID].i);
        err_hint(ec, "It can be changed when its stream has ended; it can be deleted at any time.");
        return ec->code;
    }
    struct head *h = target.head;
    struct row_meta meta = {.seq = h->seq + 1, .ins_seq = target.meta.ins_seq};
    /* While it was open the file that would have covered it went away, with all its rows. A file covers a
     * range of arrivals, so it has to arrive anew to be taken into one. */
    if (was_open && target.uncovered)
        meta.ins_seq = meta.seq;
    txn_stream_mark(txn, c->user_no, &meta);
    values[MSG_SEQ] = value_i64((int64_t)meta.seq);
    values[MSG_INS_SEQ] = value_i64((int64_t)meta.ins_seq);
    c->values[CONV_UPDATED] = value_ts(txn->now_us);
    e = txn_conversation_put(txn, c, false, ec);
    if (e == ERR_OK)
        e = encode_row(txn, meta, values, ec);
    if (e == ERR_OK)
        e = put_row(txn, c, meta, values[MSG_ID].i, ec);
    if (e != ERR_OK)
        return e;
    if (target.hot) {
        struct key k = key_seq(c->user_no, target.meta.seq);
        txn_delete(txn, &k);
    } else {
        txn->catalog.rows_hot++;
    }
    h->seq = meta.seq;
    h->active_us = txn->now_us;
    if (target.fresh)
        h->fresh_bytes += txn->scratch.len - (target.bytes < h->fresh_bytes ? target.bytes : h->fresh_bytes);
    else
        h->overlays++;
    txn->updated++;
    e = announce_row(txn, CHANGE_UPDATE, c, meta, values[MSG_CONVERSATION_ID].s, buf_view(&txn->scratch), ec);
    struct str before = target.hot ? target.ref : ref_read;
    return e == ERR_OK ? count_refs(txn, c->user_no, before, values[MSG_CONTENT_REF], ec) : e;
}

enum err txn_message_delete(struct txn *txn, struct conversation *c, const struct value *values,
    uint64_t expected_seq, uint64_t ins_seq, uint64_t cold_epoch, struct errctx *ec)
{
    int64_t id = values[MSG_ID].i;
    struct target target = {0};
    enum err e = find_target(txn, c, id, expected_seq, ins_seq, cold_epoch, &target, ec);
    if (e != ERR_OK)
        return e;
    if ((target.meta.flags & ROW_OPEN) != 0)
        e = txn_stream_lose(txn, id, ec);
    if (e != ERR_OK)
        return e;
    c->values[CONV_TOTAL_MESSAGES].i -= c->values[CONV_TOTAL_MESSAGES].i > 0;
    if (!PLANT(UNREAD_NOT_UNDONE))
        count_unread(c, values, head_user_id(target.head), -1);
    c->values[CONV_UPDATED] = value_ts(txn->now_us);
    e = txn_conversation_put(txn, c, false, ec);
    if (e != ERR_OK)
        return e;
    struct head *h = target.head;
    struct row_meta meta = {.seq = h->seq + 1, .ins_seq = target.meta.ins_seq, .flags = ROW_TOMBSTONE};
    /* What was deleted must not live on in the tombstone. */
    struct value kept[MSG_NCOLUMNS] = {0};
    kept[MSG_ID] = values[MSG_ID];
    kept[MSG_CONVERSATION_ID] = values[MSG_CONVERSATION_ID];
    e = encode_row(txn, meta, kept, ec);
    if (e != ERR_OK)
        return e;
    struct key k = key_id(c->user_no, SPACE_TOMBSTONES, id);
    txn_put(txn, &k, buf_view(&txn->scratch));
    put_seq(txn, c->user_no, meta.seq, (struct seq_entry){c->conv_no, id, true});
    if (target.hot) {
        k = key_message(c->user_no, c->conv_no, id);
        txn_delete(txn, &k);
        k = key_id(c->user_no, SPACE_IDS, id);
        txn_delete(txn, &k);
        k = key_seq(c->user_no, target.meta.seq);
        txn_delete(txn, &k);
        txn->catalog.rows_hot--;
    }
    h->seq = meta.seq;
    h->total_messages -= h->total_messages > 0;
    h->active_us = txn->now_us;
    h->tombstones++;
    if (target.fresh)
        fresh_remove(h, target.bytes);
    else
        h->overlays++;
    txn->deleted++;
    e = announce_row(txn, CHANGE_DELETE, c, meta, values[MSG_CONVERSATION_ID].s, buf_view(&txn->scratch), ec);
    struct value read = values[MSG_CONTENT_REF];
    struct str before = target.hot ? target.ref : value_is_null(read) ? STR_NULL : read.s;
    return e == ERR_OK ? count_refs(txn, c->user_no, before, VALUE_OF_NULL, ec) : e;
}

/* ---- first and last ids after deletions --------------------------------------------------------------- */

/* The outermost id that the database has and this group has not deleted; 0: none. */
static enum err stored_bound(
    struct txn *t, const struct key *from, bool newest, int64_t *ret, struct errctx *ec)
{
    struct key after = key_after(from);
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_total_order_seek(options, 1);
    rocksdb_readoptions_set_iterate_lower_bound(options, from->bytes, from->len);
    rocksdb_readoptions_set_iterate_upper_bound(options, after.bytes, after.len);
    rocksdb_iterator_t *it = rocksdb_create_iterator(t->store->db, options);
    int64_t found = 0;
    /* Ids stand complemented: the first key is the newest. */
    if (newest)
        rocksdb_iter_seek(it, from->bytes, from->len);
    else
        rocksdb_iter_seek_for_prev(it, after.bytes, after.len);
    for (; found == 0 && rocksdb_iter_valid(it); newest ? rocksdb_iter_next(it) : rocksdb_iter_prev(it)) {
        struct str key;
        uint32_t conv_no;
        key.ptr = rocksdb_iter_key(it, &key.len);
        const struct overlay_entry *e = overlay_find(&t->overlay, key);
        if (e == NULL || e->state == OVERLAY_PUT)
            (void)key_parse_message(key, &conv_no, &found);
    }
    char *message = NULL;
    rocksdb_iter_get_error(it, &message);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    enum err e = store_rocks_err(ec, message, "scan");
    if (e == ERR_OK)
        *ret = found;
    return e;
}

/* Smallest and largest hot id of the conversation, this group's own changes included; 0: none. */
enum err txn_hot_bounds(
    struct txn *t, const struct conversation *c, int64_t *ret_first, int64_t *ret_last, struct errctx *ec)
{
    struct key from = key_messages_of(c->user_no, c->conv_no);
    int64_t first = 0, last = 0;
    enum err e = stored_bound(t, &from, false, &first, ec);
    if (e == ERR_OK)
        e = stored_bound(t, &from, true, &last, ec);
    if (e != ERR_OK)
        return e;
    for (size_t i = 0; i < t->puts.n; i++) {
        const struct overlay_entry *entry = &t->overlay.entries[t->puts.at[i]];
        uint32_t conv_no;
        int64_t id;
        if (entry->state != OVERLAY_PUT || !str_starts_with(entry->key, key_view(&from)) ||
            !key_parse_message(entry->key, &conv_no, &id))
            continue;
        if (first == 0 || id < first)
            first = id;
        if (id > last)
            last = id;
    }
    *ret_first = first;
    *ret_last = last;
    return ERR_OK;
}

/* Another op may have deleted the candidate since the caller looked. */
static enum err candidate_alive(struct txn *t, uint64_t user_no, int64_t msg_id, struct errctx *ec)
{
    if (msg_id == 0)
        return ERR_OK;
    struct key k = key_id(user_no, SPACE_TOMBSTONES, msg_id);
    struct str value;
    enum err e = txn_get(t, &k, &value, ec);
    if (e == ERR_OK)
        return err_set(ec, ERR_RETRY, "the row has changed");
    return e == ERR_NOT_FOUND ? ERR_OK : e;
}

enum err txn_conversation_hot_from(
    struct txn *txn, const struct conversation *c, int64_t *ret, struct errctx *ec)
{
    struct manifest *m;
    enum err e = txn_manifest(txn, c->user_no, &m, ec);
    if (e != ERR_OK)
        return e;
    if (m == NULL || m->nfiles == 0)
        *ret = 0;
    else
        *ret = c->hot_floor < m->user_floor ? c->hot_floor : m->user_floor;
    manifest_unref(m);
    return ERR_OK;
}

enum err txn_conversation_bounds(struct txn *txn, struct conversation *c, int64_t cold_first,
    int64_t cold_last, uint64_t cold_epoch, struct errctx *ec)
{
    int64_t first = 0, last = 0;
    if (c->values[CONV_TOTAL_MESSAGES].i == 0) {
        c->values[CONV_FIRST_MSG_ID] = c->values[CONV_LAST_MSG_ID] = VALUE_OF_NULL;
        return txn_conversation_put(txn, c, false, ec);
    }
    enum err e = txn_hot_bounds(txn, c, &first, &last, ec);
    struct manifest *m = NULL;
    if (e == ERR_OK)
        e = txn_manifest(txn, c->user_no, &m, ec);
    if (e != ERR_OK)
        return e;
    if (m != NULL && m->nfiles > 0) {
        if (m->epoch != cold_epoch)
            e = err_set(ec, ERR_RETRY, "rows have moved");
        if (e == ERR_OK)
            e = candidate_alive(txn, c->user_no, cold_first, ec);
        if (e == ERR_OK)
            e = candidate_alive(txn, c->user_no, cold_last, ec);
        if (cold_first != 0 && (first == 0 || cold_first < first))
            first = cold_first;
        if (cold_last > last)
            last = cold_last;
    }
    manifest_unref(m);
    if (e != ERR_OK)
        return e;
    c->values[CONV_FIRST_MSG_ID] = first != 0 ? value_i64(first) : VALUE_OF_NULL;
    c->values[CONV_LAST_MSG_ID] = last != 0 ? value_i64(last) : VALUE_OF_NULL;
    return txn_conversation_put(txn, c, false, ec);
}

/* The keys are gathered first, from the database and from this group: deleting changes the overlay. */
enum err txn_members_delete(struct txn *txn, const struct conversation *c, struct errctx *ec)
{
    struct key from = key_members_of(c->user_no, c->conv_no);
    struct buf keys = BUF_INIT(0);
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_total_order_seek(options, 1);
    rocksdb_iterator_t *it = rocksdb_create_iterator(txn->store->db, options);
    for (rocksdb_iter_seek(it, from.bytes, from.len); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
        struct str key;
        key.ptr = rocksdb_iter_key(it, &key.len);
        if (!str_starts_with(key, key_view(&from)))
            break;
        buf_lstr(&keys, key);
    }
    char *message = NULL;
    rocksdb_iter_get_error(it, &message);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    enum err e = store_rocks_err(ec, message, "scan");
    for (size_t i = 0; i < txn->overlay.count; i++)
        if (str_starts_with(txn->overlay.entries[i].key, key_view(&from)))
            buf_lstr(&keys, txn->overlay.entries[i].key);
    if (e == ERR_OK && keys.failed)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    struct reader r = reader_of(buf_view(&keys));
    while (e == ERR_OK && reader_left(&r) > 0)
        overlay_delete(&txn->overlay, read_lstr(&r));
    buf_release(&keys);
    return e;
}
