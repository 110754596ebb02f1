/* The transaction: users, conversations, members, client ids, over a batch that reads its own writes.
 * Messages are in txn_messages.c, what consolidation writes in txn_cold.c.
 *
 * CATALOG_STATE: u8 format (2) | varint highest msg_id, next user_no | zigzag rows_hot | varint groups;
 * format 1 ended before the last. */
#include "base/plant.h"
#include "store/committer.h"
#include <stdlib.h>

enum { CATALOG_STATE_FORMAT = 2 };
#define IDEMPOTENCY_RETENTION_US (INT64_C(31) * 24 * 3600 * 1000000)

void catalog_encode(struct buf *b, const struct catalog_state *c)
{
    buf_u8(b, CATALOG_STATE_FORMAT);
    buf_varint(b, (uint64_t)c->ids.last);
    buf_varint(b, c->next_user_no);
    buf_zigzag(b, c->rows_hot);
    buf_varint(b, c->groups);
}

enum err catalog_decode(struct str bytes, struct catalog_state *ret)
{
    struct reader r = reader_of(bytes);
    uint8_t format = read_u8(&r);
    if (format == 0 || format > CATALOG_STATE_FORMAT)
        return ERR_CORRUPT;
    struct catalog_state c = {0};
    uint64_t last = read_varint(&r);
    c.next_user_no = read_varint(&r);
    c.rows_hot = read_zigzag(&r);
    c.groups = format > 1 ? read_varint(&r) : 0;
    if (r.bad || reader_left(&r) != 0 || last > (uint64_t)IDS_MAX || c.next_user_no == 0 ||
        c.groups >= c.next_user_no)
        return ERR_CORRUPT;
    c.ids.last = (int64_t)last;
    *ret = c;
    return ERR_OK;
}

/* ---- one op, one group -------------------------------------------------------------------------------- */

void txn_begin_op(struct txn *t)
{
    arena_clear(&t->arena);
    t->stream_opening = t->stream_closing = false;
    t->stream_home = t->opened = t->opened_home = 0;
    blob_keys_clear(&t->blob_keys);
    t->unsealable.code = ERR_OK;
    t->ready_owner = UINT64_MAX;
    heads_begin_op(&t->heads);
    t->catalog_saved = t->catalog;
    t->pending_saved = t->pending.count;
    t->buried_saved = t->buried.len;
    t->inserted_saved = t->inserted;
    t->updated_saved = t->updated;
    t->deleted_saved = t->deleted;
    overlay_begin_op(&t->overlay);
}

void txn_undo_op(struct txn *t)
{
    overlay_undo_op(&t->overlay);
    heads_undo_op(&t->heads);
    struct ids ids = t->catalog.ids; /* an id once seen is not given again, whatever became of the op */
    t->catalog = t->catalog_saved;
    t->catalog.ids = ids;
    t->pending.count = t->pending_saved;
    t->buried.len = t->buried_saved;
    t->buried.failed = false;
    t->inserted = t->inserted_saved;
    t->updated = t->updated_saved;
    t->deleted = t->deleted_saved;
}

void txn_finish_group(struct txn *t)
{
    for (struct head_entry *e = t->heads.dirty; e != NULL; e = e->next_dirty) {
        buf_clear(&t->scratch);
        head_encode(&t->scratch, &e->head);
        struct key k = key_prefix(e->user_no, SPACE_HEAD);
        txn_put(t, &k, buf_view(&t->scratch));
    }
    if (memcmp(&t->catalog, &t->catalog_written, sizeof t->catalog) == 0)
        return;
    buf_clear(&t->scratch);
    catalog_encode(&t->scratch, &t->catalog);
    struct key k = key_prefix(CATALOG_USER_NO, CATALOG_STATE);
    txn_put(t, &k, buf_view(&t->scratch));
}

struct arena *txn_arena(struct txn *txn)
{
    return &txn->arena;
}

int64_t txn_now_us(const struct txn *txn)
{
    return txn->now_us;
}

struct store *txn_store(struct txn *txn)
{
    return txn->store;
}

enum err txn_get(struct txn *txn, const struct key *key, struct str *ret, struct errctx *ec)
{
    const struct overlay_entry *e = overlay_find(&txn->overlay, key_view(key));
    if (e != NULL) {
        if (e->state == OVERLAY_DELETE)
            return ERR_NOT_FOUND;
        *ret = e->value; /* lives as long as the group */
        return ERR_OK;
    }
    bool kept = records_take(key_view(key));
    if (kept && records_get(&txn->records, key_view(key), ret))
        return ERR_OK;
    char *message = NULL;
    rocksdb_pinnableslice_t *slice =
        rocksdb_get_pinned(txn->store->db, txn->store->read_latest, key->bytes, key->len, &message);
    enum err err = store_rocks_err(ec, message, "read");
    if (err != ERR_OK || slice == NULL)
        return err != ERR_OK ? err : ERR_NOT_FOUND;
    size_t len;
    const char *value = rocksdb_pinnableslice_value(slice, &len);
    struct str copy;
    err = store_unseal_copy(txn->store, key_view(key), str_n(value, len), &txn->arena, &copy, ec);
    rocksdb_pinnableslice_destroy(slice);
    if (err == ERR_OK && kept)
        records_put(&txn->records, key_view(key), copy);
    if (err == ERR_OK)
        *ret = copy;
    return err;
}

void txn_put(struct txn *txn, const struct key *key, struct str value)
{
    uint64_t owner = get_be64(key->bytes);
    overlay_put(&txn->overlay, key_view(key), value);
    /* Asked here, a partition whose key is damaged fails the op that wants it, not the group. */
    if (txn->store->vault == NULL || owner == txn->ready_owner || !key_sealed(key_view(key)))
        return;
    struct errctx ec;
    errctx_clear(&ec);
    enum err e = vault_ready(txn->store->vault, owner, &ec);
    if (e == ERR_OK)
        txn->ready_owner = owner;
    else if (txn->unsealable.code == ERR_OK)
        txn->unsealable = ec;
}

enum err txn_room(const struct txn *txn, struct errctx *ec)
{
    if (txn->unsealable.code != ERR_OK) {
        *ec = txn->unsealable;
        return ec->code;
    }
    if (!txn->overlay.failed)
        return ERR_OK;
    /* Far from the bound it is the machine that has no more. */
    if (overlay_bytes(&txn->overlay) < OVERLAY_BYTES_MAX / 2)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    err_set(ec, ERR_TOO_LARGE, "the statement would write over %zu MiB", OVERLAY_BYTES_MAX >> 20);
    err_detail(ec, "In a group every member's copy counts.");
    return ec->code;
}

void txn_delete(struct txn *txn, const struct key *key)
{
    overlay_delete(&txn->overlay, key_view(key));
}

/* ---- users -------------------------------------------------------------------------------------------- */

static enum err load_entry(struct txn *t, uint64_t user_no, struct head_entry **ret, struct errctx *ec)
{
    *ret = heads_by_no(&t->heads, user_no);
    if (*ret != NULL)
        return ERR_OK;
    struct key k = key_prefix(user_no, SPACE_HEAD);
    struct str value;
    struct head head;
    enum err e = txn_get(t, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_set(ec, e, "no such user") : e;
    if (head_decode(value, &head) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "head of user %llu is damaged", (unsigned long long)user_no);
    *ret = heads_add(&t->heads, user_no, &head, false);
    return *ret != NULL ? ERR_OK : err_set(ec, ERR_NO_MEMORY, "out of memory");
}

enum err txn_entry(struct txn *t, uint64_t user_no, struct head_entry **ret, struct errctx *ec)
{
    struct head_entry *entry;
    enum err e = load_entry(t, user_no, &entry, ec);
    if (e == ERR_OK && entry->head.user_id_len == 0) /* erased: nothing is written there any more */
        e = err_set(ec, ERR_NOT_FOUND, "no such user");
    if (e == ERR_OK && heads_touch(&t->heads, entry) != ERR_OK)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (e == ERR_OK)
        *ret = entry;
    return e;
}

enum err txn_partition(struct txn *txn, uint64_t user_no, struct errctx *ec)
{
    struct head_entry *entry;
    enum err e = load_entry(txn, user_no, &entry, ec);
    if (e == ERR_OK && entry->head.user_id_len == 0)
        e = err_set(ec, ERR_NOT_FOUND, "no such user");
    return e;
}

enum err txn_head(struct txn *txn, uint64_t user_no, struct head **ret, struct errctx *ec)
{
    struct head_entry *entry;
    enum err e = txn_entry(txn, user_no, &entry, ec);
    if (e == ERR_OK)
        *ret = &entry->head;
    return e;
}

static void name_feed(struct txn *t, struct head *head)
{
    uint8_t random[8];
    t->store->os->random(t->store->os->ctx, random, sizeof random);
    head->feed_len = 2 * sizeof random;
    for (size_t i = 0; i < sizeof random; i++) {
        head->feed[2 * i] = "0123456789abcdef"[random[i] >> 4];
        head->feed[2 * i + 1] = "0123456789abcdef"[random[i] & 15];
    }
}

enum err txn_feed_renew(struct txn *txn, uint64_t user_no, struct errctx *ec)
{
    struct head *head;
    enum err e = txn_head(txn, user_no, &head, ec);
    if (e == ERR_OK)
        name_feed(txn, head);
    return e;
}

static enum err create_user(struct txn *t, struct str user_id, uint64_t *ret, struct errctx *ec)
{
    if (t->refuse_writes)
        return err_set(ec, ERR_UNAVAILABLE, "writes are stopped");
    if (user_id.len == 0 || user_id.len > USER_ID_BYTES_MAX)
        return err_set(ec, ERR_INVALID_REQUEST, "a user id has 1 to %d bytes", USER_ID_BYTES_MAX);
    struct head head = {.next_conv_no = 1, .active_us = t->now_us};
    name_feed(t, &head);
    head.user_id_len = (uint8_t)user_id.len;
    head.user_id = user_id.ptr;
    uint64_t user_no = t->catalog.next_user_no;
    enum err e = vault_key_make(t->store->vault, user_no, ec);
    if (e != ERR_OK)
        return e;
    if (heads_add(&t->heads, user_no, &head, true) == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    t->catalog.next_user_no++;
    char value[8];
    put_be64(value, user_no);
    struct key k = key_named(CATALOG_USER_NO, CATALOG_USERS, user_id);
    txn_put(t, &k, str_n(value, sizeof value));
    *ret = user_no;
    return ERR_OK;
}

enum err txn_user(struct txn *txn, struct str user_id, bool create, uint64_t *ret_user_no, struct errctx *ec)
{
    struct head_entry *entry = heads_by_id(&txn->heads, user_id);
    if (entry != NULL) {
        *ret_user_no = entry->user_no;
        return ERR_OK;
    }
    struct str value = STR_NULL;
    struct key k = key_named(CATALOG_USER_NO, CATALOG_USERS, user_id);
    enum err e = user_id.len <= USER_ID_BYTES_MAX ? txn_get(txn, &k, &value, ec) : ERR_NOT_FOUND;
    if (e == ERR_NOT_FOUND)
        return create ? create_user(txn, user_id, ret_user_no, ec) : err_set(ec, e, "no such user");
    if (e != ERR_OK)
        return e;
    if (value.len != 8)
        return err_internal(ec, ERR_CORRUPT, "a user's number is damaged");
    e = load_entry(txn, get_be64(value.ptr), &entry, ec);
    if (e == ERR_OK)
        *ret_user_no = entry->user_no;
    return e;
}

enum err txn_user_id(struct txn *txn, uint64_t user_no, struct str *ret, struct errctx *ec)
{
    struct head_entry *entry;
    enum err e = load_entry(txn, user_no, &entry, ec);
    if (e != ERR_OK)
        return e;
    struct str id = arena_str(&txn->arena, head_user_id(&entry->head));
    if (id.ptr == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    *ret = id;
    return ERR_OK;
}

uint64_t txn_cold_epoch(struct txn *txn, uint64_t user_no)
{
    struct head_entry *entry;
    struct errctx ec;
    /* A head that cannot be read matches no epoch, so that its rows are not changed. */
    return load_entry(txn, user_no, &entry, &ec) == ERR_OK ? entry->head.cold_epoch : UINT64_MAX;
}

int64_t txn_total_messages(struct txn *txn, uint64_t user_no)
{
    struct head_entry *entry;
    struct errctx ec;
    return load_entry(txn, user_no, &entry, &ec) == ERR_OK ? entry->head.total_messages : 0;
}

/* ---- ids ---------------------------------------------------------------------------------------------- */

int64_t txn_next_msg_id(struct txn *txn)
{
    return ids_next(&txn->catalog.ids, os_realtime_us(txn->store->os));
}

int64_t txn_last_msg_id(struct txn *txn)
{
    return ids_current(&txn->catalog.ids, os_realtime_us(txn->store->os));
}

enum err txn_msg_id_taken(
    struct txn *txn, uint64_t user_no, int64_t msg_id, bool *ret_taken, bool *ret_unsure, struct errctx *ec)
{
    struct str value;
    struct key k = key_id(user_no, SPACE_IDS, msg_id);
    enum err e = txn_get(txn, &k, &value, ec);
    if (e == ERR_NOT_FOUND) {
        /* A deleted row's id stays taken while its tombstone is kept: a file may still hold the row, and one
         * id must not stand for two rows in the tiers. */
        k = key_id(user_no, SPACE_TOMBSTONES, msg_id);
        e = txn_get(txn, &k, &value, ec);
    }
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    bool taken = e == ERR_OK, unsure = false;
    if (!taken) {
        struct manifest *m;
        e = txn_manifest(txn, user_no, &m, ec);
        if (e != ERR_OK)
            return e;
        unsure = manifest_covers_id(m, msg_id);
        manifest_unref(m);
    }
    *ret_taken = taken;
    *ret_unsure = unsure;
    return ERR_OK;
}

/* ---- conversations ------------------------------------------------------------------------------------ */

bool txn_followed(struct txn *t, uint64_t user_no)
{
    struct committer *c = t->committer;
    pthread_mutex_lock(&c->listener_lock);
    bool wanted = c->listener.wanted != NULL && c->listener.wanted(c->listener.arg, user_no);
    pthread_mutex_unlock(&c->listener_lock);
    return wanted;
}

enum err txn_announce(struct txn *t, uint64_t user_no, const struct change *change, struct errctx *ec)
{
    if (!txn_followed(t, user_no))
        return ERR_OK;
    if (pending_add(&t->pending, user_no, change) != ERR_OK)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    return ERR_OK;
}

enum err txn_conversation_read(struct txn *txn, uint64_t user_no, struct str conversation_id,
    struct conversation *ret, struct errctx *ec)
{
    struct conversation c = {.user_no = user_no};
    struct key k = key_named(user_no, SPACE_CONVERSATIONS, conversation_id);
    struct str value;
    if (conversation_id.len == 0 || conversation_id.len > 255)
        return err_set(ec, ERR_CONSTRAINT, "a conversation_id has 1 to 255 bytes");
    enum err e = txn_get(txn, &k, &value, ec);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    if (e == ERR_OK) {
        struct conversation_record record;
        struct row_meta meta;
        e = conversation_record_get(value, &record);
        if (e == ERR_OK)
            e = row_decode(record.row, &schema_conversations, &meta, c.values);
        if (e != ERR_OK)
            return err_internal(ec, e, "a conversation row is damaged");
        c.conv_no = record.conv_no;
        c.hot_floor = record.hot_floor;
        c.exists = (meta.flags & ROW_TOMBSTONE) == 0;
    }
    if (!c.exists)
        for (int i = 0; i < CONV_NCOLUMNS; i++)
            c.values[i] = VALUE_OF_NULL;
    *ret = c;
    return ERR_OK;
}

enum err txn_conversation(struct txn *txn, uint64_t user_no, struct str conversation_id,
    struct conversation *ret, struct errctx *ec)
{
    struct conversation c;
    enum err e = txn_conversation_read(txn, user_no, conversation_id, &c, ec);
    /* A deleted one may have been a group's. */
    if (e == ERR_OK && c.conv_no != 0 && (!c.exists || conversation_is_group(c.values))) {
        struct key k = key_membership(user_no, c.conv_no);
        struct str value;
        e = txn_get(txn, &k, &value, ec);
        if (e == ERR_OK && membership_get(value, &c.group_no, &c.present) != ERR_OK)
            e = err_internal(ec, ERR_CORRUPT, "a membership is damaged");
        e = e == ERR_NOT_FOUND ? ERR_OK : e;
    }
    if (e == ERR_OK)
        *ret = c;
    return e;
}

void txn_put_conversation_record(struct txn *t, uint64_t user_no, struct str conversation_id,
    uint32_t conv_no, int64_t hot_floor, bool deleted, const struct value *values)
{
    buf_clear(&t->scratch);
    buf_be32(&t->scratch, conv_no);
    buf_be64(&t->scratch, (uint64_t)hot_floor);
    struct row_meta meta = {.flags = deleted ? ROW_TOMBSTONE : 0};
    row_encode(&t->scratch, &schema_conversations, meta, values);
    struct key k = key_named(user_no, SPACE_CONVERSATIONS, conversation_id);
    txn_put(t, &k, buf_view(&t->scratch));
}

enum err txn_conversation_put(struct txn *txn, struct conversation *c, bool announce, struct errctx *ec)
{
    struct head_entry *entry;
    enum err e = txn_room(txn, ec);
    if (e == ERR_OK)
        e = txn_entry(txn, c->user_no, &entry, ec);
    if (e != ERR_OK)
        return e;
    if (c->conv_no == 0) {
        if (entry->head.next_conv_no == UINT32_MAX)
            return err_set(ec, ERR_TOO_LARGE, "too many conversations");
        c->conv_no = entry->head.next_conv_no++;
    }
    if (value_is_null(c->values[CONV_CREATED]))
        c->values[CONV_CREATED] = value_ts(txn->now_us);
    if (value_is_null(c->values[CONV_UPDATED]))
        c->values[CONV_UPDATED] = value_ts(txn->now_us);
    if (value_is_null(c->values[CONV_TOTAL_MESSAGES]))
        c->values[CONV_TOTAL_MESSAGES] = value_i64(0);
    if (c->values[CONV_TOTAL_MESSAGES].i == 0)
        c->values[CONV_UNREAD] = value_i64(0);
    c->exists = true;
    struct str id = c->values[CONV_ID].s;
    txn_put_conversation_record(txn, c->user_no, id, c->conv_no, c->hot_floor, false, c->values);
    if (txn->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (!announce)
        return ERR_OK;
    struct str record = buf_view(&txn->scratch);
    struct change change = {.op = CHANGE_CONVERSATION,
        .conv_no = c->conv_no,
        .conversation_id = id,
        .row = str_n(record.ptr + CONVERSATION_RECORD_PREFIX, record.len - CONVERSATION_RECORD_PREFIX)};
    return txn_announce(txn, c->user_no, &change, ec);
}

enum err txn_conversation_delete(struct txn *txn, struct conversation *c, struct errctx *ec)
{
    if (!c->exists)
        return err_set(ec, ERR_NOT_FOUND, "no such conversation");
    struct value kept[CONV_NCOLUMNS] = {0};
    kept[CONV_ID] = c->values[CONV_ID];
    txn_put_conversation_record(txn, c->user_no, c->values[CONV_ID].s, c->conv_no, c->hot_floor, true, kept);
    if (txn->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    c->exists = false;
    for (int i = 0; i < CONV_NCOLUMNS; i++)
        c->values[i] = VALUE_OF_NULL;
    return ERR_OK;
}

/* ---- client ids --------------------------------------------------------------------------------------- */

enum err txn_client_id_find(struct txn *txn, uint64_t user_no, uint32_t conv_no, struct str from,
    struct str client_id, int64_t *ret_msg_id, struct errctx *ec)
{
    struct key k = key_client_id(user_no, conv_no, from, client_id);
    struct str value;
    enum err e = txn_get(txn, &k, &value, ec);
    if (e != ERR_OK)
        return e;
    if (value.len != 16)
        return err_internal(ec, ERR_CORRUPT, "a client id's record is damaged");
    if ((int64_t)get_be64(value.ptr + 8) < txn->now_us - IDEMPOTENCY_RETENTION_US)
        return ERR_NOT_FOUND; /* not compacted away yet */
    *ret_msg_id = (int64_t)get_be64(value.ptr);
    return ERR_OK;
}

enum err txn_client_id_put(struct txn *txn, uint64_t user_no, uint32_t conv_no, struct str from,
    struct str client_id, int64_t msg_id, struct errctx *ec)
{
    (void)ec;
    struct key k = key_client_id(user_no, conv_no, from, client_id);
    char value[16];
    put_be64(value, (uint64_t)msg_id);
    put_be64(value + 8, (uint64_t)txn->now_us);
    if (!PLANT(CLIENT_ID_LOST))
        txn_put(txn, &k, str_n(value, sizeof value));
    return ERR_OK;
}

/* ---- members ------------------------------------------------------------------------------------------ */

enum err txn_member(struct txn *txn, const struct conversation *c, struct str member,
    struct value *ret_values, struct errctx *ec)
{
    struct key k = key_member(c->user_no, c->conv_no, member);
    struct str value;
    struct row_meta meta;
    if (member.len > USER_ID_BYTES_MAX)
        return err_set(ec, ERR_NOT_FOUND, "no such member");
    enum err e = txn_get(txn, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_set(ec, e, "no such member") : e;
    if (row_decode(value, &schema_conversation_users, &meta, ret_values) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a member's row is damaged");
    return ERR_OK;
}

enum err txn_member_put(
    struct txn *txn, const struct conversation *c, const struct value *values, struct errctx *ec)
{
    struct str member = values[MEMBER_USER_ID].s;
    if (c->conv_no == 0 || member.len == 0 || member.len > USER_ID_BYTES_MAX)
        return err_set(ec, ERR_INVALID_REQUEST, "a user id has 1 to %d bytes", USER_ID_BYTES_MAX);
    buf_clear(&txn->scratch);
    row_encode(&txn->scratch, &schema_conversation_users, (struct row_meta){0}, values);
    if (txn->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    struct key k = key_member(c->user_no, c->conv_no, member);
    txn_put(txn, &k, buf_view(&txn->scratch));
    return ERR_OK;
}
