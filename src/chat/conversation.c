/* Rows of conversations and conversation_users: made, and changed in what their owner may set. */
#include "chat/group_update.h"

static bool is_group(struct value type)
{
    return type.type != VALUE_NULL && str_eq(type.s, STR("group"));
}

enum err chat_create_check(const struct chat_create *c, struct errctx *ec)
{
    static const int kept[] = {CONV_FIRST_MSG_ID, CONV_LAST_MSG_ID, CONV_TOTAL_MESSAGES, CONV_CREATED,
        CONV_UPDATED, CONV_READ_MSG_ID, CONV_UNREAD};
    const struct schema *schema = &schema_conversations;
    if (c->from.type != VALUE_NULL) {
        enum err e = rule_sender(c->caller, c->from.s, ec);
        if (e != ERR_OK)
            return e;
    }
    for (size_t i = 0; i < c->nrows; i++) {
        const struct value *v = c->rows[i];
        enum err e = rule_conversation_id(schema, v[CONV_ID], ec);
        if (e == ERR_OK)
            e = rule_conversation_type(schema, v[CONV_TYPE], ec);
        if (e == ERR_OK && c->from.type != VALUE_NULL && is_group(v[CONV_TYPE]))
            e = rule_group_sender(c->caller, c->from.s, ec);
        for (size_t k = 0; e == ERR_OK && k < sizeof kept / sizeof *kept; k++) {
            if (v[kept[k]].type != VALUE_NULL)
                e = rule_kept_by_engine(schema, kept[k], ec);
        }
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static enum err exists(struct str id, struct errctx *ec)
{
    err_set(ec, ERR_CONFLICT, "duplicate key value violates unique constraint \"conversations_pkey\"");
    err_detail(ec, "Key (conversation_id)=(%.*s) already exists.", STR_FMT(id));
    return ec->code;
}

enum err chat_create_one(struct chat_create *cr, struct txn *txn, uint64_t user_no, struct value *v,
    struct group *ret_group, struct errctx *ec)
{
    struct conversation c;
    struct group g = {0};
    struct member owner;
    bool group = is_group(v[CONV_TYPE]), ai = !group && v[CONV_TYPE].type != VALUE_NULL;
    enum err e = txn_conversation(txn, user_no, v[CONV_ID].s, &c, ec);
    if (e == ERR_OK && c.exists)
        return exists(v[CONV_ID].s, ec);
    /* Without a type, an id that a group has would mean that group. */
    if (e == ERR_OK && !ai)
        e = txn_group(txn, v[CONV_ID].s, &g, ec);
    if (e == ERR_OK && g.exists) {
        exists(v[CONV_ID].s, ec);
        err_hint(ec, "A group has this id.");
        return ec->code;
    }
    if (e == ERR_OK)
        e = group ? group_make(txn, &c, cr->owner, v, &g, &owner, ec)
                  : rule_make_conversation(txn, &c, cr->owner, v, true, ec);
    if (e != ERR_OK)
        return e;
    /* The bytes of title, metadata and id stay the statement's own, so that RETURNING outlives the
     * transaction. */
    v[CONV_TYPE] = value_text(group ? STR("group") : STR("ai"));
    v[CONV_TOTAL_MESSAGES] = value_i64(0);
    v[CONV_CREATED] = c.values[CONV_CREATED];
    v[CONV_UPDATED] = c.values[CONV_UPDATED];
    v[CONV_READ_MSG_ID] = VALUE_OF_NULL;
    v[CONV_UNREAD] = value_i64(0);
    *ret_group = g;
    return ERR_OK;
}

enum err chat_create_apply(struct chat_create *cr, struct txn *txn, struct errctx *ec)
{
    uint64_t user_no;
    enum err e = txn_user(txn, cr->owner, true, &user_no, ec);
    for (size_t i = 0; e == ERR_OK && i < cr->nrows; i++) {
        struct group g;
        e = chat_create_one(cr, txn, user_no, cr->rows[i], &g, ec);
        if (e == ERR_OK && g.exists)
            e = txn_group_announce(txn, &g, ec);
    }
    return e;
}

/* ---- UPDATE ---- */

#define BIT(column) (UINT64_C(1) << (column))

static uint64_t settable(const struct schema *schema)
{
    if (schema == &schema_messages)
        return BIT(MSG_CONTENT) | BIT(MSG_METADATA);
    if (schema == &schema_conversations)
        return BIT(CONV_TITLE) | BIT(CONV_METADATA);
    return BIT(MEMBER_ROLE) | BIT(MEMBER_LAST_READ_MSG_ID) | BIT(MEMBER_METADATA);
}

enum err chat_update_check_columns(const struct schema *schema, uint64_t columns, struct errctx *ec)
{
    uint64_t allowed = settable(schema);
    for (int i = 0; i < schema->ncolumns; i++) {
        if ((columns & BIT(i)) != 0 && (allowed & BIT(i)) == 0)
            return rule_kept_by_engine(schema, i, ec);
    }
    return ERR_OK;
}

enum err update_recheck(const struct chat_update *u, const struct value *read, const struct value *now)
{
    if (u->still != NULL)
        return u->still(u->still_arg, now) ? ERR_OK : ERR_NOT_FOUND;
    return rule_same_row(u->schema, read, now) ? ERR_OK : ERR_RETRY;
}

void update_merge(const struct chat_update *u, const struct value *set, struct value *values)
{
    for (int i = 0; i < u->schema->ncolumns; i++) {
        if ((u->columns & BIT(i)) != 0)
            values[i] = set[i];
    }
}

/* Numbers come from the transaction, bytes from the statement or from what it read (columns that the
 * statement does not set and that hold bytes never change, or, title and metadata, were compared). */
enum err update_keep(struct chat_row_change *row, const struct schema *schema, const struct value *stored,
    uint64_t set_columns)
{
    for (int i = 0; i < schema->ncolumns; i++) {
        bool bytes = value_is_bytes(stored[i].type);
        if (bytes && (set_columns & BIT(i)) == 0 && !rule_same_value(row->values[i], stored[i]))
            return ERR_RETRY;
        if (!bytes || (set_columns & BIT(i)) != 0)
            row->values[i] = stored[i];
    }
    return ERR_OK;
}

static enum err update_conversation(struct chat_update *u, struct txn *txn, struct conversation *c,
    struct chat_row_change *row, struct errctx *ec)
{
    enum err e = update_recheck(u, row->values, c->values);
    if (e != ERR_OK)
        return e;
    update_merge(u, row->set, c->values);
    c->values[CONV_UPDATED] = value_ts(txn_now_us(txn));
    e = update_keep(row, u->schema, c->values, u->columns);
    return e != ERR_OK ? e : txn_conversation_put(txn, c, true, ec);
}

static enum err update_member(struct chat_update *u, struct txn *txn, struct conversation *c,
    struct chat_row_change *row, struct errctx *ec)
{
    struct value values[MEMBER_NCOLUMNS];
    if ((u->columns & BIT(MEMBER_ROLE)) != 0)
        return rule_kept_by_engine(u->schema, MEMBER_ROLE, ec); /* the owner of an ai conversation stays it */
    enum err e = txn_member(txn, c, row->values[MEMBER_USER_ID].s, values, ec);
    if (e != ERR_OK)
        return e;
    e = update_recheck(u, row->values, values);
    if (e != ERR_OK)
        return e;
    update_merge(u, row->set, values);
    e = update_keep(row, u->schema, values, u->columns);
    if (e == ERR_OK && (u->columns & BIT(MEMBER_LAST_READ_MSG_ID)) != 0 &&
        str_eq(values[MEMBER_USER_ID].s, u->owner))
        e = txn_conversation_mark(
            txn, c, values[MEMBER_LAST_READ_MSG_ID], row->counted ? &row->count : NULL, &u->need_count, ec);
    if (e == ERR_OK)
        e = txn_member_put(txn, c, values, ec);
    /* Read markers are announced with their conversation (contract section 3). */
    return e != ERR_OK ? e : txn_conversation_put(txn, c, true, ec);
}

enum err chat_update_apply(struct chat_update *u, struct txn *txn, struct errctx *ec)
{
    uint64_t user_no;
    struct group_updates groups;
    u->changed = 0;
    u->need_count = false;
    enum err e = txn_user(txn, u->owner, false, &user_no, ec);
    if (e == ERR_NOT_FOUND)
        return ERR_RETRY; /* rows were read of a user who is gone */
    if (e == ERR_OK)
        e = group_updates_init(&groups, u, txn, ec);
    for (size_t i = 0; e == ERR_OK && i < u->nrows; i++) {
        struct chat_row_change *row = &u->rows[i];
        struct conversation c;
        /* Column 0 of both tables. */
        e = txn_conversation(txn, user_no, row->values[0].s, &c, ec);
        if (e != ERR_OK)
            break;
        row->gone = false;
        if (!c.exists)
            e = ERR_NOT_FOUND;
        else if (c.group_no != 0)
            e = group_update_row(&groups, &c, i, ec);
        else if (u->schema == &schema_conversations)
            e = update_conversation(u, txn, &c, row, ec);
        else
            e = update_member(u, txn, &c, row, ec);
        if (e == ERR_OK) {
            u->changed++;
        } else if (e == ERR_NOT_FOUND) {
            row->gone = true;
            errctx_clear(ec);
            e = ERR_OK;
        }
    }
    return e == ERR_OK ? group_updates_finish(&groups, ec) : e;
}
