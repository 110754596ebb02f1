/* Hot scans: one bounded range of keys in either direction, and what stands behind each key.
 *
 *   SCAN_BY_CONVERSATION  MESSAGES of the conversation; the value is the row
 *   SCAN_BY_ID, _BY_SEQ   an index; each entry costs one point read more
 *   SCAN_TABLE            CONVERSATIONS; for conversation_users, per conversation, its MEMBERS, or the
 * present members of its group, from the group's partition
 *
 * Ids stand complemented, so newest first runs forward; the other direction seeks in total order, because
 * prefix filters are made for forward scans. */
#include "store/internal.h"
#include <stdlib.h>

struct range {
    rocksdb_iterator_t *it;
    rocksdb_readoptions_t *options;
    struct key lower, upper; /* [lower, upper); RocksDB keeps pointers to them */
    bool reverse, started;
};

struct hot_iter {
    struct snapshot *snap;
    struct hot_iter *prev, *next; /* of the snapshot; under db_lock */
    enum scan_order order;
    bool tombstones, empty, stale;
    bool filter; /* by conv_no */
    uint32_t conv_no, row_conv_no;
    const struct schema *table;
    struct range outer, inner; /* inner: members of the conversation that outer stands at */
    bool inner_is_group;
    struct buf row, resolved;
    struct buf conversation, member; /* opened values of outer and inner */
};

/* ---- ranges ------------------------------------------------------------------------------------------- */

static void range_open(struct range *r, struct snapshot *snap)
{
    r->options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_snapshot(r->options, snap->rocks);
    rocksdb_readoptions_set_iterate_upper_bound(r->options, r->upper.bytes, r->upper.len);
    if (r->reverse) {
        rocksdb_readoptions_set_iterate_lower_bound(r->options, r->lower.bytes, r->lower.len);
        rocksdb_readoptions_set_total_order_seek(r->options, 1);
    } else {
        rocksdb_readoptions_set_prefix_same_as_start(r->options, 1);
    }
    r->it = rocksdb_create_iterator(snap->store->db, r->options);
    r->started = false;
}

static void range_close(struct range *r)
{
    if (r->it == NULL)
        return;
    rocksdb_iter_destroy(r->it);
    rocksdb_readoptions_destroy(r->options);
    r->it = NULL;
    r->options = NULL;
}

/* ERR_OK standing at an entry, NOT_FOUND at the end. */
static enum err range_next(struct range *r, struct errctx *ec)
{
    if (r->started) {
        if (r->reverse)
            rocksdb_iter_prev(r->it);
        else
            rocksdb_iter_next(r->it);
    } else if (r->reverse) {
        rocksdb_iter_seek_for_prev(r->it, r->upper.bytes, r->upper.len);
        size_t len; /* upper itself is outside */
        const char *key = rocksdb_iter_valid(r->it) ? rocksdb_iter_key(r->it, &len) : NULL;
        if (key != NULL && str_eq(str_n(key, len), key_view(&r->upper)))
            rocksdb_iter_prev(r->it);
    } else {
        rocksdb_iter_seek(r->it, r->lower.bytes, r->lower.len);
    }
    r->started = true;
    if (rocksdb_iter_valid(r->it))
        return ERR_OK;
    char *message = NULL;
    rocksdb_iter_get_error(r->it, &message);
    enum err e = store_rocks_err(ec, message, "scan");
    return e == ERR_OK ? ERR_NOT_FOUND : e;
}

static struct str range_key(const struct range *r)
{
    struct str s;
    s.ptr = rocksdb_iter_key(r->it, &s.len);
    return s;
}

static struct str range_value(const struct range *r)
{
    struct str s;
    s.ptr = rocksdb_iter_value(r->it, &s.len);
    return s;
}

/* ---- open --------------------------------------------------------------------------------------------- */

/* Resolves the conversation to its number; an unknown one makes the scan empty. */
static enum err resolve(struct hot_iter *it, struct str conversation_id, struct errctx *ec)
{
    struct conversation_record record;
    enum err e = snapshot_conversation_record(it->snap, conversation_id, &record, ec);
    if (e == ERR_NOT_FOUND) {
        it->empty = true;
        return ERR_OK;
    }
    if (e == ERR_OK) {
        it->filter = true;
        it->conv_no = record.conv_no;
    }
    return e;
}

static void set_id_bounds(struct range *r, struct key (*key)(uint64_t, uint32_t, int64_t), uint64_t user_no,
    uint32_t a, const struct scan_spec *spec)
{
    r->lower = key(user_no, a, spec->id_max);
    r->upper = key(user_no, a, spec->id_min);
    r->upper = key_after(&r->upper);
    r->reverse = !spec->descending;
}

static struct key id_key(uint64_t user_no, uint32_t unused, int64_t msg_id)
{
    (void)unused;
    return key_id(user_no, SPACE_IDS, msg_id);
}

static enum err set_range(struct hot_iter *it, const struct scan_spec *spec, struct errctx *ec)
{
    uint64_t user_no = it->snap->user_no;
    struct range *r = &it->outer;
    enum err e = ERR_OK;
    it->empty = !it->snap->exists;
    switch (spec->order) {
    case SCAN_BY_CONVERSATION:
        e = resolve(it, spec->conversation_id, ec);
        it->empty = it->empty || spec->id_min > spec->id_max;
        set_id_bounds(r, key_message, user_no, it->conv_no, spec);
        break;
    case SCAN_BY_ID:
        it->empty = it->empty || spec->id_min > spec->id_max;
        set_id_bounds(r, id_key, user_no, 0, spec);
        break;
    case SCAN_BY_SEQ:
        if (spec->conversation_id.ptr != NULL)
            e = resolve(it, spec->conversation_id, ec);
        it->empty = it->empty || spec->seq_min > spec->seq_max;
        r->lower = key_seq(user_no, spec->seq_min);
        r->upper = key_seq(user_no, spec->seq_max);
        r->upper = key_after(&r->upper);
        break;
    case SCAN_TABLE:
        r->lower = key_prefix(user_no, SPACE_CONVERSATIONS);
        r->upper = key_after(&r->lower);
        r->reverse = spec->descending;
        if (spec->conversation_id.ptr != NULL) {
            it->empty = it->empty || spec->conversation_id.len > 255;
            r->lower = r->upper = key_named(user_no, SPACE_CONVERSATIONS, spec->conversation_id);
            r->upper.bytes[r->upper.len++] = '\0';
        }
        break;
    }
    return e;
}

enum err hot_iter_open(
    struct snapshot *snap, const struct scan_spec *spec, struct hot_iter **ret, struct errctx *ec)
{
    struct hot_iter *it = calloc(1, sizeof *it);
    if (it == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    it->snap = snap;
    it->order = spec->order;
    it->tombstones = spec->tombstones;
    it->table = spec->table;
    enum err e = set_range(it, spec, ec);
    pthread_rwlock_rdlock(&snap->store->db_lock);
    if (e == ERR_OK && snap->rocks == NULL)
        e = err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
    if (e == ERR_OK && !it->empty)
        range_open(&it->outer, snap);
    if (e == ERR_OK) {
        it->next = snap->iters;
        if (it->next != NULL)
            it->next->prev = it;
        snap->iters = it;
    }
    pthread_rwlock_unlock(&snap->store->db_lock);
    if (e != ERR_OK) {
        free(it);
        return e;
    }
    *ret = it;
    return ERR_OK;
}

void hot_iter_close(struct hot_iter *it)
{
    if (it == NULL)
        return;
    pthread_rwlock_rdlock(&it->snap->store->db_lock);
    range_close(&it->inner);
    range_close(&it->outer);
    if (it->prev != NULL)
        it->prev->next = it->next;
    else
        it->snap->iters = it->next;
    if (it->next != NULL)
        it->next->prev = it->prev;
    pthread_rwlock_unlock(&it->snap->store->db_lock);
    buf_release(&it->row);
    buf_release(&it->resolved);
    buf_release(&it->conversation);
    buf_release(&it->member);
    free(it);
}

void hot_iter_make_stale(struct hot_iter *it)
{
    for (; it != NULL; it = it->next) {
        range_close(&it->inner);
        range_close(&it->outer);
        it->stale = true;
    }
}

uint32_t hot_iter_conv_no(const struct hot_iter *it)
{
    return it->row_conv_no;
}

/* ---- next; db_lock is held ---------------------------------------------------------------------------- */

static enum err damaged(struct errctx *ec, const char *what)
{
    return err_internal(ec, ERR_CORRUPT, "%s is damaged", what);
}

static enum err take(struct hot_iter *it, struct str row, struct errctx *ec)
{
    buf_clear(&it->row);
    buf_str(&it->row, row);
    return it->row.failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
}

/* The same of a value as it is stored. */
static enum err take_value(struct hot_iter *it, struct str key, struct str value, struct errctx *ec)
{
    struct str row;
    enum err e = store_unseal(it->snap->store, key, value, &it->row, &row, ec);
    return e != ERR_OK || row.ptr != value.ptr ? e : take(it, row, ec);
}

/* The row behind an index entry. */
static enum err fetch(struct hot_iter *it, const struct key *k, struct errctx *ec)
{
    char *message = NULL;
    rocksdb_pinnableslice_t *slice =
        rocksdb_get_pinned(it->snap->store->db, it->snap->options, k->bytes, k->len, &message);
    enum err e = store_rocks_err(ec, message, "read");
    if (e != ERR_OK)
        return e;
    if (slice == NULL)
        return damaged(ec, "an index entry without its row");
    size_t len;
    const char *value = rocksdb_pinnableslice_value(slice, &len);
    e = take_value(it, key_view(k), str_n(value, len), ec);
    rocksdb_pinnableslice_destroy(slice);
    return e;
}

static enum err membership_at(
    struct hot_iter *it, const struct key *k, uint64_t *ret_group_no, bool *ret_present, struct errctx *ec)
{
    char *message = NULL;
    rocksdb_pinnableslice_t *slice =
        rocksdb_get_pinned(it->snap->store->db, it->snap->options, k->bytes, k->len, &message);
    enum err e = store_rocks_err(ec, message, "read");
    if (e != ERR_OK || slice == NULL)
        return e != ERR_OK ? e : ERR_NOT_FOUND;
    size_t len;
    const char *value = rocksdb_pinnableslice_value(slice, &len);
    if (membership_get(str_n(value, len), ret_group_no, ret_present) != ERR_OK)
        e = damaged(ec, "a membership");
    rocksdb_pinnableslice_destroy(slice);
    return e;
}

static enum err next_of_conversation(struct hot_iter *it, struct errctx *ec)
{
    enum err e = range_next(&it->outer, ec);
    it->row_conv_no = it->conv_no;
    return e == ERR_OK ? take_value(it, range_key(&it->outer), range_value(&it->outer), ec) : e;
}

static enum err next_by_id(struct hot_iter *it, struct errctx *ec)
{
    enum err e = range_next(&it->outer, ec);
    if (e != ERR_OK)
        return e;
    int64_t msg_id;
    struct str value = range_value(&it->outer);
    if (!key_parse_id(range_key(&it->outer), &msg_id) || value.len != 4)
        return damaged(ec, "an id entry");
    it->row_conv_no = get_be32(value.ptr);
    struct key k = key_message(it->snap->user_no, it->row_conv_no, msg_id);
    return fetch(it, &k, ec);
}

static enum err next_by_seq(struct hot_iter *it, struct errctx *ec)
{
    for (;;) {
        enum err e = range_next(&it->outer, ec);
        if (e != ERR_OK)
            return e;
        struct seq_entry entry;
        if (!seq_entry_get(range_value(&it->outer), &entry))
            return damaged(ec, "a sequence entry");
        if ((entry.tombstone && !it->tombstones) || (it->filter && entry.conv_no != it->conv_no))
            continue;
        it->row_conv_no = entry.conv_no;
        struct key k = entry.tombstone ? key_id(it->snap->user_no, SPACE_TOMBSTONES, entry.msg_id)
                                       : key_message(it->snap->user_no, entry.conv_no, entry.msg_id);
        return fetch(it, &k, ec);
    }
}

/* Moves the outer range to the next conversation that exists. */
static enum err next_conversation(struct hot_iter *it, struct conversation_record *ret, struct errctx *ec)
{
    for (;;) {
        enum err e = range_next(&it->outer, ec);
        if (e != ERR_OK)
            return e;
        struct row_meta meta;
        struct str value;
        e = store_unseal(
            it->snap->store, range_key(&it->outer), range_value(&it->outer), &it->conversation, &value, ec);
        if (e != ERR_OK)
            return e;
        if (conversation_record_get(value, ret) != ERR_OK || row_decode_meta(ret->row, &meta) != ERR_OK)
            return damaged(ec, "a conversation row");
        if ((meta.flags & ROW_TOMBSTONE) == 0)
            return ERR_OK;
    }
}

/* Opens the inner range on the members of the conversation; none for one who is no member any more. */
static enum err open_members(struct hot_iter *it, const struct conversation_record *record, struct errctx *ec)
{
    struct value values[CONV_NCOLUMNS];
    struct row_meta meta;
    if (row_decode(record->row, &schema_conversations, &meta, values) != ERR_OK)
        return damaged(ec, "a conversation row");
    it->inner_is_group = conversation_is_group(values);
    it->inner.lower = key_members_of(it->snap->user_no, record->conv_no);
    if (it->inner_is_group) {
        struct key k = key_membership(it->snap->user_no, record->conv_no);
        uint64_t group_no;
        bool present = false;
        enum err e = membership_at(it, &k, &group_no, &present, ec);
        if (e != ERR_OK || !present)
            return e == ERR_NOT_FOUND ? ERR_OK : e;
        it->inner.lower = key_prefix(group_no, SPACE_GROUP_MEMBERS);
    }
    it->inner.upper = key_after(&it->inner.lower);
    it->inner.reverse = it->outer.reverse;
    range_open(&it->inner, it->snap);
    return ERR_OK;
}

/* The next row of the inner range. NOT_FOUND: its end. */
static enum err next_member(struct hot_iter *it, struct errctx *ec)
{
    for (;;) {
        uint64_t user_no;
        struct str row;
        bool present = true;
        enum err e = range_next(&it->inner, ec);
        if (e != ERR_OK)
            return e;
        e = store_unseal(
            it->snap->store, range_key(&it->inner), range_value(&it->inner), &it->member, &row, ec);
        if (e != ERR_OK)
            return e;
        if (it->inner_is_group && member_entry_head(row, &user_no, &present, &row) != ERR_OK)
            return damaged(ec, "a member of a group");
        if (present)
            return take(it, row, ec);
    }
}

static enum err next_in_table(struct hot_iter *it, struct errctx *ec)
{
    struct conversation_record record;
    enum err e;
    if (it->table != &schema_conversation_users) {
        e = next_conversation(it, &record, ec);
        return e == ERR_OK ? take(it, record.row, ec) : e;
    }
    for (;;) {
        if (it->inner.it != NULL) {
            e = next_member(it, ec);
            if (e != ERR_NOT_FOUND)
                return e;
            range_close(&it->inner);
        }
        e = next_conversation(it, &record, ec);
        if (e == ERR_OK)
            e = open_members(it, &record, ec);
        if (e != ERR_OK)
            return e;
    }
}

static enum err next_locked(struct hot_iter *it, struct errctx *ec)
{
    if (it->stale)
        return err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
    if (it->empty)
        return ERR_NOT_FOUND;
    enum err e = ERR_INTERNAL;
    switch (it->order) {
    case SCAN_BY_CONVERSATION:
        e = next_of_conversation(it, ec);
        break;
    case SCAN_BY_ID:
        e = next_by_id(it, ec);
        break;
    case SCAN_BY_SEQ:
        e = next_by_seq(it, ec);
        break;
    case SCAN_TABLE:
        e = next_in_table(it, ec);
        break;
    }
    it->empty = e == ERR_NOT_FOUND;
    return e;
}

enum err hot_iter_next(struct hot_iter *it, struct str *ret_row, struct errctx *ec)
{
    pthread_rwlock_rdlock(&it->snap->store->db_lock);
    enum err e = next_locked(it, ec);
    bool open = e == ERR_OK && it->order != SCAN_TABLE && row_is_open(buf_view(&it->row));
    if (open) {
        buf_clear(&it->resolved);
        e = stream_resolve(it->snap, buf_view(&it->row), &it->resolved, ec);
    }
    pthread_rwlock_unlock(&it->snap->store->db_lock);
    if (e == ERR_OK)
        *ret_row = buf_view(open ? &it->resolved : &it->row);
    return e;
}
