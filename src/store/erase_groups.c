/* What an erasure asks about groups: where the user was, and who else holds copies of what they sent.
 * Memberships stand in the user's partition until the last of its keys go; lists of members outlive their
 * group. */
#include "store/committer.h"
#include "store/erase_int.h"
#include <stdlib.h>

enum { SCAN_KEYS = 256, MEMBERSHIP_BYTES = 9 };

/* ---- leaving ------------------------------------------------------------------------------------------ */

enum err erase_places_read(struct store *s, uint64_t user_no, struct erase_places *ret, struct errctx *ec)
{
    struct key from = key_prefix(user_no, SPACE_MEMBERSHIPS), end = key_after(&from);
    struct buf found = BUF_INIT(0);
    enum err err = ERR_OK;
    for (int n = 1; err == ERR_OK && n > 0;) {
        err = erase_read_pairs(s, &from, &end, SCAN_KEYS, &found, &n, ec);
        struct reader r = reader_of(buf_view(&found));
        for (int i = 0; err == ERR_OK && i < n; i++) {
            struct str key = read_lstr(&r);
            (void)read_lstr(&r);
            if (ret->n == ret->cap) {
                size_t cap = ret->cap == 0 ? 64 : ret->cap * 2;
                uint32_t *p = realloc(ret->conv_nos, cap * sizeof *p);
                if (p == NULL) {
                    err = err_set(ec, ERR_NO_MEMORY, "out of memory");
                    break;
                }
                ret->conv_nos = p;
                ret->cap = cap;
            }
            if (key.len == KEY_PREFIX_BYTES + 4)
                ret->conv_nos[ret->n++] = get_be32(key.ptr + KEY_PREFIX_BYTES);
        }
    }
    buf_release(&found);
    return err;
}

static enum err leave_group(struct txn *txn, uint64_t user_no, uint64_t group_no, struct str user_id,
    erase_leave_fn *leave, struct errctx *ec)
{
    struct group g = {0};
    struct member m;
    enum err err = txn_group_no(txn, group_no, &g, ec);
    bool alive = err == ERR_OK;
    if (err == ERR_NOT_FOUND)
        g.group_no = group_no; /* the list is still there */
    else if (err != ERR_OK)
        return err;
    err = txn_group_member(txn, &g, user_id, &m, ec);
    if (err == ERR_NOT_FOUND)
        return ERR_OK;
    if (err == ERR_OK && alive && m.present)
        err = leave(txn, &g, &m, ec);
    if (err != ERR_OK)
        return err;
    char pair[16];
    struct key member = key_named(group_no, SPACE_GROUP_MEMBERS, user_id),
               copy = key_prefix(CATALOG_USER_NO, CATALOG_BACKFILLS);
    put_be64(pair, group_no);
    put_be64(pair + 8, user_no);
    memcpy(copy.bytes + copy.len, pair, sizeof pair);
    copy.len += sizeof pair;
    txn_delete(txn, &member);
    txn_delete(txn, &copy);
    return ERR_OK;
}

enum err erase_places_leave(struct txn *txn, uint64_t user_no, struct str user_id,
    const struct erase_places *places, erase_leave_fn *leave, struct errctx *ec)
{
    enum err err = ERR_OK;
    for (size_t i = 0; err == ERR_OK && i < places->n; i++) {
        struct key k = key_membership(user_no, places->conv_nos[i]);
        struct str value;
        err = txn_get(txn, &k, &value, ec);
        if (err == ERR_NOT_FOUND) {
            err = ERR_OK;
            continue;
        }
        for (size_t at = 0; err == ERR_OK && at + MEMBERSHIP_BYTES <= value.len; at += MEMBERSHIP_BYTES)
            err = leave_group(txn, user_no, get_be64(value.ptr + at), user_id, leave, ec);
    }
    return err;
}

/* ---- where the user was ------------------------------------------------------------------------------- */

typedef enum err group_fn(void *arg, uint64_t group_no, struct str conversation_id, struct errctx *ec);

static enum err read_value(struct store *s, const struct key *k, struct buf *ret, struct errctx *ec)
{
    char *message = NULL, *value = NULL;
    size_t len = 0;
    buf_clear(ret);
    pthread_rwlock_rdlock(&s->db_lock);
    bool open = s->db != NULL;
    if (open)
        value = rocksdb_get(s->db, s->read_latest, k->bytes, k->len, &len, &message);
    pthread_rwlock_unlock(&s->db_lock);
    enum err err = open ? store_rocks_err(ec, message, "erase: read")
                        : err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
    if (value != NULL)
        buf_append(ret, value, len);
    rocksdb_free(value);
    return err == ERR_OK && ret->failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : err;
}

enum err store_erase_groups(
    struct store *s, const struct erasure *e, group_fn *fn, void *arg, struct errctx *ec)
{
    struct key from = key_prefix(e->user_no, SPACE_CONVERSATIONS), end = key_after(&from);
    struct buf found = BUF_INIT(0), places = BUF_INIT(0);
    enum err err = ERR_OK;
    for (int n = 1; err == ERR_OK && n > 0;) {
        err = erase_read_pairs(s, &from, &end, SCAN_KEYS, &found, &n, ec);
        struct reader r = reader_of(buf_view(&found));
        for (int i = 0; err == ERR_OK && i < n; i++) {
            struct str key = read_lstr(&r), value = read_lstr(&r);
            struct conversation_record record;
            if (conversation_record_get(value, &record) != ERR_OK) {
                err = err_internal(ec, ERR_CORRUPT, "a conversation row is damaged");
                break;
            }
            struct key k = key_membership(e->user_no, record.conv_no);
            err = read_value(s, &k, &places, ec);
            for (size_t at = 0; err == ERR_OK && at + MEMBERSHIP_BYTES <= places.len; at += MEMBERSHIP_BYTES)
                err = fn(arg, get_be64(places.ptr + at),
                    str_n(key.ptr + KEY_PREFIX_BYTES, key.len - KEY_PREFIX_BYTES), ec);
        }
    }
    buf_release(&found);
    buf_release(&places);
    return err;
}

/* ---- who else ----------------------------------------------------------------------------------------- */

enum err store_erase_holders(
    struct store *s, uint64_t group_no, struct erase_holder **ret, size_t *ret_n, struct errctx *ec)
{
    struct key from = key_prefix(group_no, SPACE_GROUP_MEMBERS), end = key_after(&from);
    struct buf found = BUF_INIT(0), all = BUF_INIT(0), ids = BUF_INIT(0);
    size_t total = 0;
    enum err err = ERR_OK;
    for (int n = 1; err == ERR_OK && n > 0;) {
        err = erase_read_pairs(s, &from, &end, SCAN_KEYS, &found, &n, ec);
        struct reader r = reader_of(buf_view(&found));
        for (int i = 0; err == ERR_OK && i < n; i++, total++) {
            struct str key = read_lstr(&r), value = read_lstr(&r), row;
            struct str id = str_n(key.ptr + KEY_PREFIX_BYTES, key.len - KEY_PREFIX_BYTES);
            struct erase_holder h = {0};
            bool present;
            if (member_entry_head(value, &h.user_no, &present, &row) != ERR_OK) {
                err = err_internal(ec, ERR_CORRUPT, "a member of a group is damaged");
                break;
            }
            h.copying = get_be64(value.ptr + 9) != 0;
            h.user_id = str_n(NULL, id.len);
            buf_append(&all, &h, sizeof h);
            buf_append(&ids, id.ptr, id.len);
        }
    }
    char *out = err == ERR_OK && !all.failed && !ids.failed ? malloc(all.len + ids.len + 1) : NULL;
    if (err == ERR_OK && out == NULL)
        err = err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (err == ERR_OK) {
        struct erase_holder *holders = (struct erase_holder *)(void *)out;
        char *id = out + all.len;
        if (all.len > 0)
            memcpy(out, all.ptr, all.len);
        if (ids.len > 0)
            memcpy(id, ids.ptr, ids.len);
        for (size_t i = 0; i < total; id += holders[i++].user_id.len)
            holders[i].user_id.ptr = id;
        *ret = holders;
        *ret_n = total;
    }
    buf_release(&found);
    buf_release(&all);
    buf_release(&ids);
    return err;
}

/* ---- keys for idempotency ----------------------------------------------------------------------------- */

struct client_ids_op {
    struct commit_op op;
    uint64_t group_no;
    struct str from;
    size_t n;
    const struct str *ids;
};

static enum err apply_client_ids(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    const struct client_ids_op *o = (const struct client_ids_op *)op;
    (void)ec;
    for (size_t i = 0; i < o->n; i++) {
        struct key k = key_client_id(o->group_no, 0, o->from, o->ids[i]);
        txn_delete(txn, &k);
    }
    return ERR_OK;
}

enum err store_erase_client_ids(struct store *s, uint64_t group_no, struct str from, size_t n,
    const struct str *client_ids, struct errctx *ec)
{
    struct client_ids_op o = {.op = {.apply = apply_client_ids, .durability = DURABILITY_SYNC},
        .group_no = group_no,
        .from = from,
        .n = n,
        .ids = client_ids};
    return n > 0 ? store_commit_wait(s, &o.op, ec) : ERR_OK;
}
