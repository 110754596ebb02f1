/* Unread counts when a read marker moves. Inserts and deletions keep the counter by themselves
 * (txn_messages.c); a marker that moves asks for a new count, which the caller took from a snapshot. What
 * happened since stands in the _seq index: one entry for each row or tombstone that changed. */
#include "store/committer.h"

/* Numbers looked at between snapshot and commit; more: the caller counts again. */
enum { UNREAD_SEQS_MAX = 256 };

/* What the change at `seq` adds to the count. */
static enum err since_one(struct txn *t, const struct conversation *now, struct str self, uint64_t seq,
    uint64_t at_seq, int64_t *ret, struct errctx *ec)
{
    struct key k = key_seq(now->user_no, seq);
    struct str value;
    struct seq_entry entry;
    struct row_meta meta;
    struct value values[MSG_NCOLUMNS];
    enum err e = txn_get(t, &k, &value, ec);
    if (e != ERR_OK) /* not there: the row has changed again, at a higher number */
        return e == ERR_NOT_FOUND ? ERR_OK : e;
    if (!seq_entry_get(value, &entry))
        return err_internal(ec, ERR_CORRUPT, "a _seq entry is damaged");
    if (entry.conv_no != now->conv_no)
        return ERR_OK;
    k = entry.tombstone ? key_id(now->user_no, SPACE_TOMBSTONES, entry.msg_id)
                        : key_message(now->user_no, now->conv_no, entry.msg_id);
    e = txn_get(t, &k, &value, ec);
    if (e == ERR_OK && row_decode(value, &schema_messages, &meta, values) != ERR_OK)
        e = ERR_CORRUPT;
    if (e != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a _seq entry has no row");
    bool arrived = meta.ins_seq > at_seq;
    /* A tombstone does not say who wrote the row. */
    if (entry.tombstone && !arrived)
        return err_set(ec, ERR_RETRY, "a row that was counted has gone");
    if (!entry.tombstone && arrived && conversation_unread(now, values, self))
        ++*ret;
    return ERR_OK;
}

enum err txn_conversation_mark(struct txn *txn, struct conversation *c, struct value marker,
    const struct unread_count *counted, bool *ret_count, struct errctx *ec)
{
    struct head *head;
    enum err e = txn_head(txn, c->user_no, &head, ec);
    if (e != ERR_OK)
        return e;
    const struct value *last = &c->values[CONV_LAST_MSG_ID], old = c->values[CONV_READ_MSG_ID];
    bool same = value_is_null(old) ? value_is_null(marker) : !value_is_null(marker) && marker.i == old.i;
    *ret_count = false;
    c->values[CONV_READ_MSG_ID] = marker;
    if (same && !value_is_null(c->values[CONV_UNREAD]))
        return ERR_OK;
    if (value_is_null(*last) || (!value_is_null(marker) && marker.i >= last->i)) {
        c->values[CONV_UNREAD] = value_i64(0);
        return ERR_OK;
    }
    if (counted == NULL || counted->cold_epoch != head->cold_epoch || counted->seq > head->seq ||
        head->seq - counted->seq > UNREAD_SEQS_MAX) {
        *ret_count = true;
        return err_set(ec, ERR_RETRY, "unread messages must be counted");
    }
    int64_t n = counted->unread;
    for (uint64_t seq = counted->seq + 1; e == ERR_OK && seq <= head->seq; seq++)
        e = since_one(txn, c, head_user_id(head), seq, counted->seq, &n, ec);
    *ret_count = e == ERR_RETRY;
    if (e == ERR_OK)
        c->values[CONV_UNREAD] = value_i64(n);
    return e;
}
