/* UPDATE and DELETE of messages that were read under a snapshot, and DELETE of whole conversations. */
#include "chat/copies.h"

enum err chat_content_check(struct value content, const struct chat_limits *limits, struct errctx *ec)
{
    return rule_content(content, limits, ec);
}

enum err chat_change_group(struct chat_change *c, struct arena *arena, struct errctx *ec)
{
    struct str *ids = arena_array(arena, c->nrows, sizeof *ids), *distinct;
    uint32_t *index = arena_array(arena, c->nrows, sizeof *index);
    if (c->nrows > 0 && (ids == NULL || index == NULL))
        return err_internal(ec, ERR_NO_MEMORY, "change of %zu rows", c->nrows);
    for (size_t i = 0; i < c->nrows; i++)
        ids[i] = c->rows[i].values[MSG_CONVERSATION_ID].s;
    enum err e = rule_distinct(c->nrows, ids, arena, index, &distinct, &c->nconversations, ec);
    if (e != ERR_OK)
        return e;
    c->conversations = arena_array(arena, c->nconversations, sizeof *c->conversations);
    if (c->nconversations > 0 && c->conversations == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "change of %u conversations", c->nconversations);
    for (uint32_t i = 0; i < c->nconversations; i++)
        c->conversations[i].conversation_id = distinct[i];
    for (size_t i = 0; i < c->nrows; i++)
        c->rows[i].conversation = index[i];
    return ERR_OK;
}

static enum err changing_new(
    struct chat_change *ch, struct txn *txn, uint64_t *ret_user_no, struct changing **ret, struct errctx *ec)
{
    enum err e = txn_user(txn, ch->owner, false, ret_user_no, ec);
    if (e == ERR_NOT_FOUND)
        return ERR_RETRY;
    if (e != ERR_OK)
        return e;
    *ret = arena_array(txn_arena(txn), ch->nconversations, sizeof **ret);
    if (ch->nconversations > 0 && *ret == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "change of %u conversations", ch->nconversations);
    return ERR_OK;
}

static enum err changing_load(struct chat_change *ch, struct txn *txn, uint64_t user_no, struct changing *all,
    uint32_t at, struct errctx *ec)
{
    struct changing *one = &all[at];
    if (one->loaded)
        return ERR_OK;
    enum err e = txn_conversation(txn, user_no, ch->conversations[at].conversation_id, &one->c, ec);
    if (e != ERR_OK)
        return e;
    if (!one->c.exists)
        return ERR_RETRY;
    memcpy(one->read, one->c.values, sizeof one->read);
    one->c.values[CONV_UPDATED] = value_ts(txn_now_us(txn));
    one->loaded = true;
    return ERR_OK;
}

static enum err changing_load_rows(
    struct chat_change *ch, struct txn *txn, uint64_t user_no, struct changing *all, struct errctx *ec)
{
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < ch->nrows; i++)
        e = changing_load(ch, txn, user_no, all, ch->rows[i].conversation, ec);
    return e;
}

enum err chat_messages_update(struct chat_change *ch, struct txn *txn, struct errctx *ec)
{
    uint64_t user_no;
    struct changing *all;
    struct copies *copies = NULL;
    ch->need_copies = false;
    enum err e = changing_new(ch, txn, &user_no, &all, ec);
    if (e == ERR_OK)
        e = changing_load_rows(ch, txn, user_no, all, ec);
    if (e == ERR_OK && !ch->caller->internal) /* which goes from user to user, past members too */
        e = copies_find(ch, txn, user_no, all, &copies, ec);
    for (size_t i = 0; e == ERR_OK && i < ch->nrows; i++) {
        struct chat_row *row = &ch->rows[i];
        e = txn_message_update(txn, &all[row->conversation].c, row->values, row->seq, row->ins_seq,
            ch->cold_epoch, row->ref_read, ec);
    }
    return e == ERR_OK ? copies_update(copies, ec) : e;
}

static bool is_id(struct value v, int64_t id)
{
    return v.type != VALUE_NULL && v.i == id;
}

static enum err settle_bounds(
    struct chat_change *ch, struct txn *txn, struct changing *one, uint32_t at, struct errctx *ec)
{
    const struct chat_bounds *b = &ch->conversations[at];
    bool emptied = one->c.values[CONV_TOTAL_MESSAGES].i == 0;
    if (!emptied && !b->known && one->c.hot_floor != 0) {
        ch->need_bounds = true;
        return ERR_RETRY;
    }
    return txn_conversation_bounds(
        txn, &one->c, emptied ? 0 : b->first, emptied ? 0 : b->last, ch->cold_epoch, ec);
}

static enum err recheck_conversation(
    const struct chat_change *ch, const struct chat_bounds *conversation, const struct value *now)
{
    bool same = ch->still != NULL ? ch->still(ch->still_arg, now)
                                  : rule_same_row(&schema_conversations, conversation->values, now);
    return same ? ERR_OK : ERR_RETRY;
}

static enum err delete_conversation(struct txn *txn, struct conversation *c, struct errctx *ec)
{
    /* Messages that came after the snapshot: read again, they go too. */
    if (c->values[CONV_TOTAL_MESSAGES].i != 0)
        return ERR_RETRY;
    struct group g;
    struct member self;
    enum err e = ERR_OK;
    if (c->group_no == 0) {
        e = txn_members_delete(txn, c, ec);
    } else if (c->present) {
        e = chat_group_member_self(txn, c, &g, &self, ec);
        if (e == ERR_OK)
            e = chat_group_leave(txn, &g, &self, ec);
    }
    return e != ERR_OK ? e : txn_conversation_delete(txn, c, ec);
}

enum err chat_messages_delete(struct chat_change *ch, struct txn *txn, struct errctx *ec)
{
    uint64_t user_no;
    struct changing *all;
    struct copies *copies = NULL;
    ch->need_bounds = ch->need_copies = false;
    enum err e = changing_new(ch, txn, &user_no, &all, ec);
    if (e == ERR_OK && ch->everyone)
        e = changing_load_rows(ch, txn, user_no, all, ec);
    if (e == ERR_OK && ch->everyone)
        e = copies_find(ch, txn, user_no, all, &copies, ec);
    for (uint32_t i = 0; e == ERR_OK && ch->conversations_too && i < ch->nconversations; i++) {
        e = changing_load(ch, txn, user_no, all, i, ec);
        if (e == ERR_OK)
            e = recheck_conversation(ch, &ch->conversations[i], all[i].read);
    }
    for (size_t i = 0; e == ERR_OK && i < ch->nrows; i++) {
        struct chat_row *row = &ch->rows[i];
        struct changing *one = &all[row->conversation];
        e = changing_load(ch, txn, user_no, all, row->conversation, ec);
        if (e != ERR_OK)
            break;
        int64_t id = row->values[MSG_ID].i;
        one->bounds_lost = one->bounds_lost || is_id(one->c.values[CONV_FIRST_MSG_ID], id) ||
                           is_id(one->c.values[CONV_LAST_MSG_ID], id);
        e = txn_message_delete(txn, &one->c, row->values, row->seq, row->ins_seq, ch->cold_epoch, ec);
    }
    for (uint32_t i = 0; e == ERR_OK && i < ch->nconversations; i++) {
        if (ch->conversations_too)
            e = delete_conversation(txn, &all[i].c, ec);
        else if (all[i].bounds_lost)
            e = settle_bounds(ch, txn, &all[i], i, ec);
    }
    return e == ERR_OK ? copies_delete(copies, ec) : e;
}
