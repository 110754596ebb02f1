/* Groups in a transaction: the record, the list of members, and one message fanned out to all of them.
 *
 * A fan-out needs the present members by number, nothing else of them; lists are cached by group. What the
 * running commit group changed is in no cache: an op that changes a list evicts it, and until the commit
 * group is written no list is cached again, so that neither an undone op nor a failed write leaves one that
 * never was. */
#include "base/plant.h"
#include "store/committer.h"
#include <stdlib.h>

/* ---- cached lists ------------------------------------------------------------------------------------- */

struct group_list {
    struct group_list *next;
    uint64_t group_no;
    size_t n;
    uint64_t user_nos[];
};

static struct group_list **list_bucket(struct group_lists *l, uint64_t group_no)
{
    return &l->buckets[group_no % GROUP_LISTS_BUCKETS];
}

static struct group_list *list_find(struct group_lists *l, uint64_t group_no)
{
    struct group_list *list = *list_bucket(l, group_no);
    while (list != NULL && list->group_no != group_no)
        list = list->next;
    return list;
}

void group_lists_clear(struct group_lists *l)
{
    for (size_t i = 0; i < GROUP_LISTS_BUCKETS; i++) {
        for (struct group_list *list = l->buckets[i], *next; list != NULL; list = next) {
            next = list->next;
            free(list);
        }
        l->buckets[i] = NULL;
    }
    l->members = 0;
    l->full = false;
}

/* Memory that is not there only costs the next reader time. The lists handed out so far stay where they are:
 * a full cache starts over when the commit group is written. */
static void list_add(struct group_lists *l, uint64_t group_no, const uint64_t *user_nos, size_t n)
{
    l->full = l->full || l->members + n > GROUP_LISTS_MEMBERS_MAX;
    if (l->full)
        return;
    struct group_list *list = malloc(sizeof *list + n * sizeof *list->user_nos);
    if (list == NULL)
        return;
    struct group_list **bucket = list_bucket(l, group_no);
    *list = (struct group_list){.next = *bucket, .group_no = group_no, .n = n};
    memcpy(list->user_nos, user_nos, n * sizeof *user_nos);
    *bucket = list;
    l->members += n;
}

static void list_evict(struct group_lists *l, uint64_t group_no)
{
    struct group_list **p = list_bucket(l, group_no);
    while (*p != NULL && (*p)->group_no != group_no)
        p = &(*p)->next;
    struct group_list *list = *p;
    if (list == NULL)
        return;
    *p = list->next;
    l->members -= list->n;
    free(list);
}

/* ---- the record --------------------------------------------------------------------------------------- */

enum err txn_group_no(struct txn *txn, uint64_t group_no, struct group *ret, struct errctx *ec)
{
    struct key k = key_prefix(group_no, SPACE_GROUP);
    struct str value;
    enum err e = txn_get(txn, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_set(ec, e, "no such group") : e;
    if (group_decode(value, group_no, ret) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "record of group %llu is damaged", (unsigned long long)group_no);
    return ERR_OK;
}

enum err txn_group(struct txn *txn, struct str conversation_id, struct group *ret, struct errctx *ec)
{
    struct str value;
    if (conversation_id.len == 0 || conversation_id.len > 255)
        return err_set(ec, ERR_CONSTRAINT, "a conversation_id has 1 to 255 bytes");
    struct key k = key_named(CATALOG_USER_NO, CATALOG_GROUPS, conversation_id);
    enum err e = txn_get(txn, &k, &value, ec);
    if (e == ERR_NOT_FOUND) {
        *ret = (struct group){0};
        return ERR_OK;
    }
    if (e != ERR_OK)
        return e;
    if (value.len != 8)
        return err_internal(ec, ERR_CORRUPT, "a group's number is damaged");
    e = txn_group_no(txn, get_be64(value.ptr), ret, ec);
    return e == ERR_NOT_FOUND ? err_internal(ec, ERR_CORRUPT, "a group's record is missing") : e;
}

enum err txn_group_put(struct txn *txn, struct group *g, struct errctx *ec)
{
    if (txn->refuse_writes)
        return err_set(ec, ERR_UNAVAILABLE, "writes are stopped");
    if (g->group_no == 0) {
        char value[8];
        enum err e = vault_key_make(txn->store->vault, txn->catalog.next_user_no, ec);
        if (e != ERR_OK)
            return e;
        g->group_no = txn->catalog.next_user_no++;
        txn->catalog.groups++;
        put_be64(value, g->group_no);
        struct key name = key_named(CATALOG_USER_NO, CATALOG_GROUPS, g->values[CONV_ID].s);
        txn_put(txn, &name, str_n(value, sizeof value));
    }
    if (value_is_null(g->values[CONV_CREATED]))
        g->values[CONV_CREATED] = value_ts(txn->now_us);
    g->values[CONV_TYPE] = value_text(STR("group"));
    g->exists = true;
    buf_clear(&txn->scratch);
    group_encode(&txn->scratch, g);
    if (txn->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    struct key k = key_prefix(g->group_no, SPACE_GROUP);
    txn_put(txn, &k, buf_view(&txn->scratch));
    return ERR_OK;
}

enum err txn_group_delete(struct txn *txn, struct group *g, struct errctx *ec)
{
    if (!g->exists)
        return err_set(ec, ERR_NOT_FOUND, "no such group");
    struct key name = key_named(CATALOG_USER_NO, CATALOG_GROUPS, g->values[CONV_ID].s);
    struct key k = key_prefix(g->group_no, SPACE_GROUP);
    txn_delete(txn, &name);
    txn_delete(txn, &k);
    g->exists = false;
    return ERR_OK;
}

/* ---- members ------------------------------------------------------------------------------------------ */

enum err txn_group_member(
    struct txn *txn, const struct group *g, struct str user_id, struct member *ret, struct errctx *ec)
{
    struct str value;
    if (user_id.len == 0 || user_id.len > USER_ID_BYTES_MAX)
        return err_set(ec, ERR_NOT_FOUND, "no such member");
    struct key k = key_named(g->group_no, SPACE_GROUP_MEMBERS, user_id);
    enum err e = txn_get(txn, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? err_set(ec, e, "no such member") : e;
    if (member_entry_decode(value, ret) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a member of a group is damaged");
    return ERR_OK;
}

enum err txn_group_member_put(struct txn *txn, struct group *g, struct member *m, struct errctx *ec)
{
    struct str id = m->values[MEMBER_USER_ID].s, before, row;
    if (g->group_no == 0 || id.len == 0 || id.len > USER_ID_BYTES_MAX)
        return err_set(ec, ERR_INVALID_REQUEST, "a user id has 1 to %d bytes", USER_ID_BYTES_MAX);
    struct key k = key_named(g->group_no, SPACE_GROUP_MEMBERS, id);
    uint64_t user_no;
    bool was = false;
    enum err e = txn_get(txn, &k, &before, ec);
    if (e == ERR_OK && member_entry_head(before, &user_no, &was, &row) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a member of a group is damaged");
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    buf_clear(&txn->scratch);
    member_entry_encode(&txn->scratch, m);
    if (txn->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    txn_put(txn, &k, buf_view(&txn->scratch));
    e = txn_note_put(txn, &txn->member_puts, &k, ec);
    if (e != ERR_OK)
        return e;
    if (was != m->present) {
        g->nmembers = m->present ? g->nmembers + 1 : g->nmembers - (g->nmembers > 0);
        txn->members_changed = true;
        list_evict(&txn->group_lists, g->group_no);
    }
    return ERR_OK;
}

enum err txn_group_member_remove(struct txn *txn, struct group *g, struct member *m, struct errctx *ec)
{
    struct conversation c;
    m->present = false;
    enum err e = txn_group_member_put(txn, g, m, ec);
    if (txn_partition_lost(txn, m->user_no))
        return e; /* their own rows go as a whole */
    if (e == ERR_OK)
        e = txn_conversation(txn, m->user_no, m->values[MEMBER_CONVERSATION_ID].s, &c, ec);
    if (e == ERR_OK && c.conv_no != 0)
        e = txn_membership_put(txn, &c, g->group_no, false, ec);
    return e;
}

enum err txn_membership_put(
    struct txn *txn, const struct conversation *c, uint64_t group_no, bool present, struct errctx *ec)
{
    struct key k = key_membership(c->user_no, c->conv_no);
    struct str before = STR_NULL;
    enum err e = txn_get(txn, &k, &before, ec);
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    buf_clear(&txn->scratch);
    membership_encode(&txn->scratch, group_no, present, e == ERR_OK ? before : STR_NULL);
    if (txn->scratch.failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    txn_put(txn, &k, buf_view(&txn->scratch));
    return ERR_OK;
}

/* Calls fn with every entry of the group's list as it stands in the transaction, the database's first, then
 * those that this commit group wrote, some of them perhaps twice. */
static enum err each_entry(struct txn *t, uint64_t group_no,
    enum err (*fn)(void *arg, struct str value, struct errctx *ec), void *arg, struct errctx *ec)
{
    struct buf opened = BUF_INIT(0);
    struct key from = key_prefix(group_no, SPACE_GROUP_MEMBERS), after = key_after(&from);
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_iterate_upper_bound(options, after.bytes, after.len);
    rocksdb_readoptions_set_prefix_same_as_start(options, 1);
    rocksdb_iterator_t *it = rocksdb_create_iterator(t->store->db, options);
    enum err e = ERR_OK;
    for (rocksdb_iter_seek(it, from.bytes, from.len); e == ERR_OK && rocksdb_iter_valid(it);
         rocksdb_iter_next(it)) {
        struct str key, value;
        key.ptr = rocksdb_iter_key(it, &key.len);
        value.ptr = rocksdb_iter_value(it, &value.len);
        if (overlay_find(&t->overlay, key) != NULL)
            continue;
        e = store_unseal(t->store, key, value, &opened, &value, ec);
        if (e == ERR_OK)
            e = fn(arg, value, ec);
    }
    buf_release(&opened);
    char *message = NULL;
    rocksdb_iter_get_error(it, &message);
    rocksdb_iter_destroy(it);
    rocksdb_readoptions_destroy(options);
    enum err scan = store_rocks_err(ec, message, "scan members");
    e = e == ERR_OK ? scan : e;
    for (size_t i = 0; e == ERR_OK && i < t->member_puts.n; i++) {
        const struct overlay_entry *entry = &t->overlay.entries[t->member_puts.at[i]];
        if (entry->state == OVERLAY_PUT && str_starts_with(entry->key, key_view(&from)))
            e = fn(arg, entry->value, ec);
    }
    return e;
}

struct gathered {
    struct txn *txn;
    bool include_past;
    struct buf members; /* of struct member, or of numbers */
};

static enum err gather_member(void *arg, struct str value, struct errctx *ec)
{
    struct gathered *g = arg;
    struct member m;
    /* The iterator's bytes are gone with its next step. */
    struct str copy = arena_str(&g->txn->arena, value);
    if (copy.ptr == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (member_entry_decode(copy, &m) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a member of a group is damaged");
    if (m.present || g->include_past)
        buf_append(&g->members, &m, sizeof m);
    return ERR_OK;
}

static enum err gather_number(void *arg, struct str value, struct errctx *ec)
{
    struct gathered *g = arg;
    uint64_t user_no;
    struct str row;
    bool present;
    if (member_entry_head(value, &user_no, &present, &row) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a member of a group is damaged");
    if (present)
        buf_append(&g->members, &user_no, sizeof user_no);
    return ERR_OK;
}

static int member_cmp(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    return str_cmp(x->user_id, y->user_id);
}

static int number_cmp(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Sorts, leaves each once, and moves the array into the txn's arena. */
static enum err settle(struct gathered *g, size_t size, int (*cmp)(const void *, const void *), void **ret,
    size_t *ret_n, struct errctx *ec)
{
    size_t n = g->members.len / size, kept = 0;
    char *out = g->members.failed ? NULL : arena_array(&g->txn->arena, n, size);
    if (out == NULL) {
        buf_release(&g->members);
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    if (n > 1)
        qsort(g->members.ptr, n, size, cmp);
    for (size_t i = 0; i < n; i++) {
        const char *one = g->members.ptr + i * size;
        if (kept > 0 && cmp(out + (kept - 1) * size, one) == 0)
            continue;
        memcpy(out + kept++ * size, one, size);
    }
    buf_release(&g->members);
    *ret = out;
    *ret_n = kept;
    return ERR_OK;
}

enum err txn_group_members(struct txn *txn, const struct group *g, bool include_past, struct member **ret,
    size_t *ret_n, struct errctx *ec)
{
    struct gathered all = {.txn = txn, .include_past = include_past, .members = BUF_INIT(0)};
    void *list = NULL;
    enum err e = each_entry(txn, g->group_no, gather_member, &all, ec);
    if (e != ERR_OK) {
        buf_release(&all.members);
        return e;
    }
    e = settle(&all, sizeof(struct member), member_cmp, &list, ret_n, ec);
    if (e == ERR_OK)
        *ret = list;
    return e;
}

enum err txn_group_present(
    struct txn *txn, const struct group *g, const uint64_t **ret, size_t *ret_n, struct errctx *ec)
{
    const struct group_list *list = list_find(&txn->group_lists, g->group_no);
    if (list != NULL) {
        *ret = list->user_nos;
        *ret_n = list->n;
        return ERR_OK;
    }
    struct gathered all = {.txn = txn, .members = BUF_INIT(0)};
    void *numbers = NULL;
    enum err e = each_entry(txn, g->group_no, gather_number, &all, ec);
    if (e != ERR_OK) {
        buf_release(&all.members);
        return e;
    }
    e = settle(&all, sizeof(uint64_t), number_cmp, &numbers, ret_n, ec);
    if (e != ERR_OK)
        return e;
    *ret = numbers;
    if (!txn->members_changed)
        list_add(&txn->group_lists, g->group_no, numbers, *ret_n);
    return ERR_OK;
}

/* ---- fan-out ------------------------------------------------------------------------------------------ */

enum err txn_group_insert(
    struct txn *txn, struct group *g, struct value *values, uint64_t viewer, struct errctx *ec)
{
    const uint64_t *members;
    size_t n;
    enum err e = txn_group_present(txn, g, &members, &n, ec);
    n -= PLANT(GROUP_COPY_MISSING) && n > 2;
    struct str columns = STR_NULL;
    if (e == ERR_OK)
        e = txn_message_columns(txn, values, &columns, ec);
    if (txn->stream_opening && txn->stream_home == 0)
        txn->stream_home = g->group_no;
    for (size_t i = 0; e == ERR_OK && i < n; i++) {
        struct conversation c;
        struct row_meta meta;
        e = txn_conversation_read(txn, members[i], values[MSG_CONVERSATION_ID].s, &c, ec);
        if (e == ERR_OK && !c.exists)
            e = err_internal(ec, ERR_CORRUPT, "user %llu has no conversation of group %llu",
                (unsigned long long)members[i], (unsigned long long)g->group_no);
        if (e == ERR_OK)
            e = txn_message_copy(txn, &c, values, columns, &meta, ec);
        if (e == ERR_OK && members[i] == viewer) {
            values[MSG_SEQ] = value_i64((int64_t)meta.seq);
            values[MSG_INS_SEQ] = value_i64((int64_t)meta.ins_seq);
        }
    }
    if (e == ERR_OK && !value_is_null(values[MSG_CONTENT_REF]))
        e = txn_ref_users(txn, n, members, values[MSG_CONTENT_REF].s, +1, ec);
    if (e != ERR_OK)
        return e;
    if (values[MSG_ID].i > g->last_msg_id)
        g->last_msg_id = values[MSG_ID].i;
    g->nmessages++;
    return txn_group_put(txn, g, ec);
}

enum err txn_conversation_announce(
    struct txn *txn, uint64_t user_no, struct str conversation_id, struct errctx *ec)
{
    if (!txn_followed(txn, user_no))
        return ERR_OK;
    struct key k = key_named(user_no, SPACE_CONVERSATIONS, conversation_id);
    struct conversation_record record;
    struct row_meta meta;
    struct str value;
    enum err e = txn_get(txn, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_OK : e;
    if (conversation_record_get(value, &record) != ERR_OK || row_decode_meta(record.row, &meta) != ERR_OK)
        return err_internal(ec, ERR_CORRUPT, "a conversation row is damaged");
    if ((meta.flags & ROW_TOMBSTONE) != 0)
        return ERR_OK;
    struct change change = {.op = CHANGE_CONVERSATION,
        .conv_no = record.conv_no,
        .conversation_id = conversation_id,
        .row = record.row};
    return txn_announce(txn, user_no, &change, ec);
}

enum err txn_group_announce(struct txn *txn, const struct group *g, struct errctx *ec)
{
    const uint64_t *members;
    size_t n;
    enum err e = txn_group_present(txn, g, &members, &n, ec);
    for (size_t i = 0; e == ERR_OK && i < n; i++)
        e = txn_conversation_announce(txn, members[i], g->values[CONV_ID].s, ec);
    return e;
}

/* ---- one user's copy ---------------------------------------------------------------------------------- */

enum err txn_copy_find(
    struct txn *txn, uint64_t user_no, int64_t msg_id, struct message_copy *ret, struct errctx *ec)
{
    struct message_copy copy = {.cold_epoch = txn_cold_epoch(txn, user_no)};
    struct str value;
    struct key k = key_id(user_no, SPACE_IDS, msg_id);
    enum err e = txn_get(txn, &k, &value, ec);
    if (e == ERR_OK && value.len == 4) {
        copy.state = COPY_HOT;
        copy.conv_no = get_be32(value.ptr);
        k = key_message(user_no, copy.conv_no, msg_id);
        e = txn_get(txn, &k, &copy.row, ec);
        if (e == ERR_NOT_FOUND)
            return err_internal(ec, ERR_CORRUPT, "an id entry has no row");
    } else if (e == ERR_OK) {
        return err_internal(ec, ERR_CORRUPT, "an id entry is damaged");
    } else if (e == ERR_NOT_FOUND) {
        copy.state = COPY_DELETED;
        k = key_id(user_no, SPACE_TOMBSTONES, msg_id);
        e = txn_get(txn, &k, &copy.row, ec);
    }
    if (e == ERR_NOT_FOUND) {
        struct manifest *m;
        e = txn_manifest(txn, user_no, &m, ec);
        if (e != ERR_OK)
            return e;
        copy.state = manifest_covers_id(m, msg_id) ? COPY_COLD_PERHAPS : COPY_ABSENT;
        manifest_unref(m);
    } else if (e == ERR_OK && row_decode_meta(copy.row, &copy.meta) != ERR_OK) {
        e = err_internal(ec, ERR_CORRUPT, "a message row is damaged");
    }
    if (e == ERR_OK)
        *ret = copy;
    return e;
}
