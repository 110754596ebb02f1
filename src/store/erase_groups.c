/* What an erasure asks about groups: where the user was, and who else holds copies of what they sent.
 * Memberships stand in the user's partition until the last of its keys go; lists of members outlive their
 * group. */
#include "store/committer.h"
#include "store/erase_int.h"
#include <stdlib.h>

enum { SCAN_KEYS = 256, MEMBERSHIP_BYTES = 9 };

/* ---- leaving ------------------------------------------------------------------------------------------ */

static enum err add_place(struct erase_places *p, uint32_t conv_no, struct errctx *ec)
{
    if (p->n == p->cap) {
        size_t cap = p->cap == 0 ? 64 : p->cap * 2;
        struct erase_place *items = realloc(p->items, cap * sizeof *items);
        if (items == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
        p->items = items;
        p->cap = cap;
    }
    p->items[p->n++] = (struct erase_place){.conv_no = conv_no, .conversation_id = STR("")};
    return ERR_OK;
}

static int by_conv_no(const void *a, const void *b)
{
    uint32_t x = ((const struct erase_place *)a)->conv_no, y = ((const struct erase_place *)b)->conv_no;
    return x < y ? -1 : x > y;
}

static enum err name_place(
    struct erase_places *p, struct erase_place *place, struct str id, struct errctx *ec)
{
    place->conversation_id = arena_str(&p->arena, id);
    return place->conversation_id.ptr != NULL ? ERR_OK : err_set(ec, ERR_NO_MEMORY, "out of memory");
}

/* The conversation's id, by the user's own record of it. */
static enum err name_by_record(void *arg, struct str key, struct str value, struct errctx *ec)
{
    struct erase_places *p = arg;
    struct conversation_record record;
    if (conversation_record_get(value, &record) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a conversation row is damaged");
    struct erase_place wanted = {.conv_no = record.conv_no},
                       *place = p->n > 0 ? bsearch(&wanted, p->items, p->n, sizeof wanted, by_conv_no) : NULL;
    struct str id = str_n(key.ptr + KEY_PREFIX_BYTES, key.len - KEY_PREFIX_BYTES);
    return place != NULL ? name_place(p, place, id, ec) : ERR_OK;
}

/* The same by the group's, where the user's cannot be opened. */
static enum err name_by_group(struct snapshot *snap, struct erase_places *p, struct erase_place *place,
    uint64_t group_no, struct errctx *ec)
{
    struct key k = key_prefix(group_no, SPACE_GROUP);
    struct str value;
    struct group g;
    enum err err = snapshot_get(snap, &k, &value, ec);
    if (err == ERR_OK && group_decode(value, group_no, &g) != ERR_OK)
        err = err_internal(ec, ERR_CORRUPT, "a group's record is damaged");
    if (err == ERR_OK)
        err = name_place(p, place, g.values[CONV_ID].s, ec);
    if (err != ERR_NOT_FOUND)
        return err;
    errctx_clear(ec);
    return ERR_OK;
}

enum err erase_places_read(
    struct snapshot *snap, uint64_t user_no, struct erase_places *ret, struct errctx *ec)
{
    struct key from = key_prefix(user_no, SPACE_MEMBERSHIPS), end = key_after(&from),
               names = key_prefix(user_no, SPACE_CONVERSATIONS);
    struct buf found = BUF_INIT(0);
    enum err err = ERR_OK;
    bool readable = snapshot_exists(snap);
    ret->n = 0;
    for (int n = 1; err == ERR_OK && n > 0;) {
        err = erase_read_pairs(snap->store, &from, &end, SCAN_KEYS, &found, &n, ec);
        struct reader r = reader_of(buf_view(&found));
        for (int i = 0; err == ERR_OK && i < n; i++) {
            struct str key = read_lstr(&r), value = read_lstr(&r);
            if (key.len != KEY_PREFIX_BYTES + 4)
                continue;
            err = add_place(ret, get_be32(key.ptr + KEY_PREFIX_BYTES), ec);
            if (err == ERR_OK && !readable && value.len >= MEMBERSHIP_BYTES)
                err = name_by_group(snap, ret, &ret->items[ret->n - 1], get_be64(value.ptr), ec);
        }
    }
    buf_release(&found);
    return err == ERR_OK && readable && ret->n > 0 ? snapshot_scan(snap, &names, name_by_record, ret, ec)
                                                   : err;
}

void erase_places_release(struct erase_places *p)
{
    free(p->items);
    arena_release(&p->arena);
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
        struct key k = key_membership(user_no, places->items[i].conv_no);
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

enum err erase_read_value(struct store *s, const struct key *k, struct buf *ret, struct errctx *ec)
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
    if (err == ERR_OK && value == NULL)
        return ERR_NOT_FOUND;
    struct buf opened = BUF_INIT(0);
    struct str plain = str_n(value, len);
    if (value != NULL)
        err = store_unseal(s, key_view(k), plain, &opened, &plain, ec);
    if (value != NULL && err == ERR_OK)
        buf_str(ret, plain);
    buf_release(&opened);
    rocksdb_free(value);
    return err == ERR_OK && ret->failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : err;
}

struct groups_of {
    struct store *s;
    uint64_t user_no;
    group_fn *fn;
    void *arg;
    struct buf value;
};

static enum err groups_of_place(void *arg, uint32_t conv_no, struct str conversation_id, struct errctx *ec)
{
    struct groups_of *g = arg;
    struct key k = key_membership(g->user_no, conv_no);
    enum err err = erase_read_value(g->s, &k, &g->value, ec);
    if (err != ERR_OK || conversation_id.len == 0)
        return err == ERR_NOT_FOUND ? ERR_OK : err;
    for (size_t at = 0; err == ERR_OK && at + MEMBERSHIP_BYTES <= g->value.len; at += MEMBERSHIP_BYTES)
        err = g->fn(g->arg, get_be64(g->value.ptr + at), conversation_id, ec);
    return err;
}

enum err store_erase_groups(
    struct store *s, const struct erasure *e, group_fn *fn, void *arg, struct errctx *ec)
{
    struct groups_of g = {s, e->user_no, fn, arg, BUF_INIT(0)};
    struct erase_work work;
    enum err err = erase_work_read(s, e->user_no, &work, ec);
    if (err == ERR_NOT_FOUND) /* the partition is gone already */
        return ERR_OK;
    if (err != ERR_OK)
        return err;
    err = erase_work_each_place(&work, groups_of_place, &g, ec);
    erase_work_release(&work);
    buf_release(&g.value);
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
