/* What consolidation changes: the manifest, floors, and the physical release of hot copies and of old
 * tombstones. */
#include "store/committer.h"

enum err txn_manifest(struct txn *txn, uint64_t user_no, struct manifest **ret, struct errctx *ec)
{
    uint64_t epoch = txn_cold_epoch(txn, user_no);
    if (epoch == UINT64_MAX)
        return err_internal(ec, ERR_IO, "head of user %llu cannot be read", (unsigned long long)user_no);
    struct manifest *m = NULL;
    if (epoch != 0) {
        m = manifest_cache_get(txn->store, user_no, epoch);
        if (m == NULL) {
            /* Not put into the cache: the record may belong to this very group and never be committed. */
            struct key k = key_prefix(user_no, SPACE_MANIFEST);
            struct str value;
            enum err e = txn_get(txn, &k, &value, ec);
            if (e == ERR_OK)
                e = manifest_decode(value, &m, ec);
            if (e != ERR_OK)
                return e == ERR_NOT_FOUND ? err_internal(ec, ERR_CORRUPT, "a manifest is missing") : e;
        }
        if (m->epoch != epoch) {
            manifest_unref(m);
            return err_internal(ec, ERR_CORRUPT, "head and manifest disagree");
        }
    }
    *ret = m;
    return ERR_OK;
}

enum err txn_manifest_put(struct txn *txn, uint64_t user_no, const struct manifest *m, struct errctx *ec)
{
    struct head *head;
    enum err e = txn_head(txn, user_no, &head, ec);
    if (e != ERR_OK)
        return e;
    if (m->epoch != head->cold_epoch + 1)
        return err_set(ec, ERR_RETRY, "the manifest has changed");
    buf_clear(&txn->scratch);
    manifest_encode(&txn->scratch, m);
    if (txn->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    struct key k = key_prefix(user_no, SPACE_MANIFEST);
    txn_put(txn, &k, buf_view(&txn->scratch));
    head->cold_epoch = m->epoch;
    return ERR_OK;
}

enum err txn_conversation_floor(
    struct txn *txn, uint64_t user_no, struct str conversation_id, int64_t hot_floor, struct errctx *ec)
{
    struct key k = key_named(user_no, SPACE_CONVERSATIONS, conversation_id);
    struct str value;
    enum err e = txn_get(txn, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_OK : e;
    struct conversation_record record;
    if (conversation_record_get(value, &record) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a conversation row is damaged");
    buf_clear(&txn->scratch);
    buf_be32(&txn->scratch, record.conv_no);
    buf_be64(&txn->scratch, (uint64_t)hot_floor);
    buf_str(&txn->scratch, record.row);
    if (txn->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    txn_put(txn, &k, buf_view(&txn->scratch));
    return ERR_OK;
}

/* *ret_is: the value at k is a row whose last change was `seq`. */
static enum err row_is_at(struct txn *t, const struct key *k, uint64_t seq, bool *ret_is, struct errctx *ec)
{
    struct str row;
    struct row_meta meta;
    enum err e = txn_get(t, k, &row, ec);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    if (e == ERR_OK && row_decode_meta(row, &meta) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a message row is damaged");
    *ret_is = e == ERR_OK && meta.seq == seq;
    return ERR_OK;
}

enum err txn_row_release(struct txn *txn, uint64_t user_no, uint32_t conv_no, int64_t msg_id, uint64_t seq,
    bool *ret_done, struct errctx *ec)
{
    struct key row = key_message(user_no, conv_no, msg_id);
    bool is = false;
    enum err e = row_is_at(txn, &row, seq, &is, ec);
    if (e != ERR_OK)
        return e;
    if (is) {
        struct key id = key_id(user_no, SPACE_IDS, msg_id), number = key_seq(user_no, seq);
        txn_delete(txn, &row);
        txn_delete(txn, &id);
        txn_delete(txn, &number);
        txn->catalog.rows_hot--;
    }
    *ret_done = is;
    return ERR_OK;
}

enum err txn_tombstone_release(
    struct txn *txn, uint64_t user_no, int64_t msg_id, uint64_t seq, bool *ret_done, struct errctx *ec)
{
    struct key row = key_id(user_no, SPACE_TOMBSTONES, msg_id);
    bool is = false;
    enum err e = row_is_at(txn, &row, seq, &is, ec);
    if (e != ERR_OK)
        return e;
    if (is) {
        struct head *head;
        e = txn_head(txn, user_no, &head, ec);
        if (e != ERR_OK)
            return e;
        struct key number = key_seq(user_no, seq);
        txn_delete(txn, &row);
        txn_delete(txn, &number);
        head->tombstones -= head->tombstones > 0;
    }
    *ret_done = is;
    return ERR_OK;
}
