/* Records of groups and what can be known of them without the committer.
 *
 * Group record: u8 format (1) | u8 1: history is shared | varint present members | zigzag newest msg_id |
 * varint messages ever sent | row envelope of conversations (id, type, title, created, metadata). */
#include "store/committer.h"
#include <stdlib.h>

enum { GROUP_FORMAT = 1, MEMBERSHIP_BYTES = 9, HISTORY_SHARED = 1, PRESENT = 1 };

static const struct str role_names[] = {
    [ROLE_OF_MEMBER] = {"member", 6}, [ROLE_OF_ADMIN] = {"admin", 5}, [ROLE_OF_OWNER] = {"owner", 5}};

struct str member_role_name(enum member_role role)
{
    return role_names[role];
}

bool member_role_of(struct str name, enum member_role *ret)
{
    for (size_t i = 0; i < sizeof role_names / sizeof *role_names; i++) {
        if (str_eq(name, role_names[i])) {
            *ret = (enum member_role)i;
            return true;
        }
    }
    return false;
}

/* ---- records ------------------------------------------------------------------------------------------ */

void group_encode(struct buf *b, const struct group *g)
{
    buf_u8(b, GROUP_FORMAT);
    buf_u8(b, g->history_shared ? HISTORY_SHARED : 0);
    buf_varint(b, g->nmembers);
    buf_zigzag(b, g->last_msg_id);
    buf_varint(b, g->nmessages);
    row_encode(b, &schema_conversations, (struct row_meta){0}, g->values);
}

enum err group_decode(struct str value, uint64_t group_no, struct group *ret)
{
    struct reader r = reader_of(value);
    struct group g = {.group_no = group_no, .exists = true};
    struct row_meta meta;
    if (read_u8(&r) != GROUP_FORMAT)
        return ERR_CORRUPT;
    g.history_shared = (read_u8(&r) & HISTORY_SHARED) != 0;
    uint64_t nmembers = read_varint(&r);
    g.last_msg_id = read_zigzag(&r);
    g.nmessages = read_varint(&r);
    if (r.bad || nmembers > UINT32_MAX)
        return ERR_CORRUPT;
    g.nmembers = (uint32_t)nmembers;
    if (row_decode(str_n(r.ptr, reader_left(&r)), &schema_conversations, &meta, g.values) != ERR_OK ||
        meta.flags != 0) /* a tombstone's columns may be NULL */
        return ERR_CORRUPT;
    *ret = g;
    return ERR_OK;
}

void member_entry_encode(struct buf *b, const struct member *m)
{
    struct value values[MEMBER_NCOLUMNS];
    memcpy(values, m->values, sizeof values);
    values[MEMBER_ROLE] = value_text(member_role_name(m->role));
    buf_be64(b, m->user_no);
    buf_u8(b, m->present ? PRESENT : 0);
    buf_be64(b, (uint64_t)m->history);
    row_encode(b, &schema_conversation_users, (struct row_meta){0}, values);
}

enum err member_entry_head(struct str value, uint64_t *ret_user_no, bool *ret_present, struct str *ret_row)
{
    if (value.len < MEMBER_ENTRY_PREFIX)
        return ERR_CORRUPT;
    *ret_user_no = get_be64(value.ptr);
    *ret_present = (value.ptr[8] & PRESENT) != 0;
    *ret_row = str_n(value.ptr + MEMBER_ENTRY_PREFIX, value.len - MEMBER_ENTRY_PREFIX);
    return ERR_OK;
}

enum err member_entry_decode(struct str value, struct member *ret)
{
    struct member m = {0};
    struct row_meta meta;
    struct str row;
    enum err e = member_entry_head(value, &m.user_no, &m.present, &row);
    if (e == ERR_OK)
        e = row_decode(row, &schema_conversation_users, &meta, m.values);
    if (e != ERR_OK || meta.flags != 0 || value_is_null(m.values[MEMBER_ROLE]) ||
        !member_role_of(m.values[MEMBER_ROLE].s, &m.role))
        return ERR_CORRUPT;
    m.history = (int64_t)get_be64(value.ptr + 9);
    m.user_id = m.values[MEMBER_USER_ID].s;
    *ret = m;
    return ERR_OK;
}

/* The first entry is what counts now; the others are earlier groups. */
enum err membership_get(struct str value, uint64_t *ret_group_no, bool *ret_present)
{
    if (value.len < MEMBERSHIP_BYTES || value.len % MEMBERSHIP_BYTES != 0)
        return ERR_CORRUPT;
    *ret_group_no = get_be64(value.ptr);
    *ret_present = (value.ptr[8] & PRESENT) != 0;
    return ERR_OK;
}

void membership_encode(struct buf *b, uint64_t group_no, bool present, struct str before)
{
    buf_be64(b, group_no);
    buf_u8(b, present ? PRESENT : 0);
    for (size_t at = 0; at + MEMBERSHIP_BYTES <= before.len; at += MEMBERSHIP_BYTES) {
        if (get_be64(before.ptr + at) == group_no)
            continue;
        buf_append(b, before.ptr + at, 8);
        buf_u8(b, 0);
    }
}

/* Is it a copy of a group's conversation? `row` is the record's envelope, decoded. */
bool conversation_is_group(const struct value *values)
{
    return !value_is_null(values[CONV_TYPE]) && str_eq(values[CONV_TYPE].s, STR("group"));
}

/* ---- questions to files ------------------------------------------------------------------------------- */

void cold_lookup_release(struct cold_lookup *l)
{
    free(l->items);
    free(l->slots);
    *l = (struct cold_lookup){0};
}

/* The slot of that question, or the empty one where it would be: 0, else index + 1. */
static uint32_t *lookup_slot(const struct cold_lookup *l, uint64_t user_no, int64_t msg_id)
{
    uint64_t h = (user_no * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)msg_id) * UINT64_C(0xd6e8feb86659fd93);
    size_t at = (size_t)(h >> 32) & (l->nslots - 1);
    while (l->slots[at] != 0 &&
           (l->items[l->slots[at] - 1].user_no != user_no || l->items[l->slots[at] - 1].msg_id != msg_id))
        at = (at + 1) & (l->nslots - 1);
    return &l->slots[at];
}

/* Room for one more question, with at most half of the slots in use. */
static bool lookup_grow(struct cold_lookup *l)
{
    if (l->n < l->cap)
        return true;
    size_t cap = l->cap == 0 ? 16 : l->cap * 2;
    struct cold_question *items = cap < UINT32_MAX ? realloc(l->items, cap * sizeof *items) : NULL;
    if (items == NULL)
        return false;
    l->items = items;
    uint32_t *slots = calloc(cap * 2, sizeof *slots);
    if (slots == NULL)
        return false;
    free(l->slots);
    l->slots = slots;
    l->nslots = cap * 2;
    l->cap = cap;
    for (size_t i = 0; i < l->n; i++)
        *lookup_slot(l, items[i].user_no, items[i].msg_id) = (uint32_t)i + 1;
    return true;
}

enum err cold_lookup_ask(
    struct cold_lookup *l, uint64_t user_no, uint64_t epoch, int64_t msg_id, const struct cold_question **ret)
{
    if (!lookup_grow(l))
        return ERR_NO_MEMORY;
    uint32_t *slot = lookup_slot(l, user_no, msg_id);
    struct cold_question *q = *slot != 0 ? &l->items[*slot - 1] : NULL;
    if (q != NULL && q->answered && q->epoch == epoch) {
        *ret = q;
        return ERR_OK;
    }
    if (q == NULL) {
        q = &l->items[l->n++];
        *slot = (uint32_t)l->n;
    } else {
        l->open -= !q->answered;
    }
    *q = (struct cold_question){.user_no = user_no, .epoch = epoch, .msg_id = msg_id};
    l->open++;
    *ret = NULL;
    return ERR_OK;
}

void cold_lookup_answer(struct cold_lookup *l, struct cold_question *q, uint64_t epoch, bool found,
    uint64_t seq, uint64_t ins_seq)
{
    l->open -= !q->answered;
    q->epoch = epoch;
    q->answered = true;
    q->found = found;
    q->seq = seq;
    q->ins_seq = ins_seq;
}

/* ---- snapshots ---------------------------------------------------------------------------------------- */

static enum err no_conversation(struct errctx *ec)
{
    return err_set(ec, ERR_NOT_FOUND, "no such conversation");
}

enum err snapshot_membership(
    struct snapshot *snap, uint32_t conv_no, uint64_t *ret_group_no, bool *ret_present, struct errctx *ec)
{
    struct key k = key_membership(snap->user_no, conv_no);
    struct str value;
    enum err e = snapshot_get(snap, &k, &value, ec);
    if (e == ERR_OK && membership_get(value, ret_group_no, ret_present) != ERR_OK)
        e = err_internal(ec, ERR_CORRUPT, "a membership is damaged");
    return e;
}

enum err snapshot_place(
    struct snapshot *snap, struct str conversation_id, struct conversation_place *ret, struct errctx *ec)
{
    struct conversation_record record;
    struct value values[CONV_NCOLUMNS];
    enum err e = snapshot_conversation_live(snap, conversation_id, &record, values, ec);
    if (e != ERR_OK)
        return e;
    struct conversation_place place = {.conv_no = record.conv_no, .present = true};
    if (conversation_is_group(values)) {
        place.present = false;
        e = snapshot_membership(snap, record.conv_no, &place.group_no, &place.present, ec);
        if (e != ERR_OK)
            return e == ERR_NOT_FOUND ? no_conversation(ec) : e;
    }
    *ret = place;
    return ERR_OK;
}

enum err snapshot_member(struct snapshot *snap, struct str conversation_id, struct errctx *ec)
{
    struct conversation_place place;
    enum err e = snapshot_place(snap, conversation_id, &place, ec);
    return e == ERR_OK && !place.present ? no_conversation(ec) : e;
}

enum err snapshot_stranger(struct snapshot *snap, struct str conversation_id, bool *ret, struct errctx *ec)
{
    struct conversation_record record;
    uint64_t group_no;
    enum err e = snapshot_conversation_record(snap, conversation_id, &record, ec);
    *ret = false;
    if (e != ERR_NOT_FOUND)
        return e;
    e = snapshot_group_no(snap, conversation_id, &group_no, ec);
    *ret = e == ERR_OK;
    if (e == ERR_NOT_FOUND)
        errctx_clear(ec);
    return e == ERR_NOT_FOUND ? ERR_OK : e;
}

/* Present members' numbers, gathered with db_lock held: the partition of a group is small. */
static enum err gather_members(
    struct snapshot *snap, uint64_t group_no, struct buf *numbers, struct errctx *ec)
{
    struct store *s = snap->store;
    struct buf opened = BUF_INIT(0);
    struct key from = key_prefix(group_no, SPACE_GROUP_MEMBERS), after = key_after(&from);
    enum err e = ERR_OK;
    pthread_rwlock_rdlock(&s->db_lock);
    if (snap->rocks == NULL) {
        e = err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
    } else {
        rocksdb_readoptions_t *options = rocksdb_readoptions_create();
        rocksdb_readoptions_set_snapshot(options, snap->rocks);
        rocksdb_readoptions_set_iterate_upper_bound(options, after.bytes, after.len);
        rocksdb_readoptions_set_prefix_same_as_start(options, 1);
        rocksdb_iterator_t *it = rocksdb_create_iterator(s->db, options);
        for (rocksdb_iter_seek(it, from.bytes, from.len); e == ERR_OK && rocksdb_iter_valid(it);
             rocksdb_iter_next(it)) {
            struct str key, value, row;
            uint64_t user_no;
            bool present;
            key.ptr = rocksdb_iter_key(it, &key.len);
            value.ptr = rocksdb_iter_value(it, &value.len);
            e = store_unseal(s, key, value, &opened, &value, ec);
            if (e != ERR_OK)
                break;
            if (member_entry_head(value, &user_no, &present, &row) != ERR_OK)
                e = err_internal(ec, ERR_CORRUPT, "a member of a group is damaged");
            else if (present)
                buf_append(numbers, &user_no, sizeof user_no);
        }
        char *message = NULL;
        rocksdb_iter_get_error(it, &message);
        rocksdb_iter_destroy(it);
        rocksdb_readoptions_destroy(options);
        enum err scan = store_rocks_err(ec, message, "scan members");
        e = e == ERR_OK ? scan : e;
        buf_release(&opened);
    }
    pthread_rwlock_unlock(&s->db_lock);
    return e;
}

enum err snapshot_members(
    struct snapshot *snap, struct str conversation_id, const uint64_t **ret, size_t *ret_n, struct errctx *ec)
{
    struct conversation_place place;
    struct buf numbers = BUF_INIT(0);
    enum err e = snapshot_place(snap, conversation_id, &place, ec);
    if (e == ERR_OK && !place.present)
        e = no_conversation(ec);
    if (e == ERR_OK && place.group_no == 0)
        buf_append(&numbers, &snap->user_no, sizeof snap->user_no);
    else if (e == ERR_OK)
        e = gather_members(snap, place.group_no, &numbers, ec);
    size_t n = numbers.len / sizeof(uint64_t);
    uint64_t *copy = e == ERR_OK ? arena_array(&snap->arena, n, sizeof *copy) : NULL;
    if (e == ERR_OK && (numbers.failed || copy == NULL))
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (e == ERR_OK) {
        if (n > 0)
            memcpy(copy, numbers.ptr, n * sizeof *copy);
        *ret = copy;
        *ret_n = n;
    }
    buf_release(&numbers);
    return e;
}

enum err snapshot_group_no(
    struct snapshot *snap, struct str conversation_id, uint64_t *ret, struct errctx *ec)
{
    struct str value;
    if (conversation_id.len == 0 || conversation_id.len > 255)
        return no_conversation(ec);
    struct key k = key_named(CATALOG_USER_NO, CATALOG_GROUPS, conversation_id);
    enum err e = snapshot_get(snap, &k, &value, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? no_conversation(ec) : e;
    if (value.len != 8)
        return err_internal(ec, ERR_CORRUPT, "a group's number is damaged");
    *ret = get_be64(value.ptr);
    return ERR_OK;
}
