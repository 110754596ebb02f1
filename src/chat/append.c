/* Which conversation a send means (contract section 2): one's own of that id; else, with the type `ai` or
 * none, one's own is made. A new group would be next in that order. */
#include "chat/rules.h"

/* What the engine keeps may be named with NULL (INSERT … SELECT * from elsewhere), not with a value. */
static enum err check_kept(const struct chat_message *m, struct errctx *ec)
{
    static const int kept[] = {MSG_CONTENT_REF, MSG_SEQ, MSG_INS_SEQ};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        if (m->values[kept[i]].type != VALUE_NULL)
            return rule_kept_by_engine(&schema_messages, kept[i], ec);
    }
    return ERR_OK;
}

static enum err check_id(const struct chat_append *a, const struct chat_message *m, struct errctx *ec)
{
    if (!m->id_given)
        return ERR_OK;
    if (a->caller->role == ROLE_USER) {
        err_set(ec, ERR_FORBIDDEN, "column \"msg_id\" of relation \"messages\" is given by the engine");
        err_hint(ec, "Only a service may supply a msg_id.");
        return ec->code;
    }
    if (m->values[MSG_ID].type == VALUE_NULL)
        return rule_not_null(&schema_messages, MSG_ID, ec);
    if (m->values[MSG_ID].i <= 0)
        return err_set(ec, ERR_INVALID_VALUE, "msg_id must be positive");
    return ERR_OK;
}

static enum err check_message(
    struct chat_append *a, struct chat_message *m, const struct chat_limits *limits, struct errctx *ec)
{
    struct value *v = m->values;
    enum err e = rule_conversation_id(&schema_messages, v[MSG_CONVERSATION_ID], ec);
    if (e == ERR_OK)
        e = rule_conversation_type(&schema_messages, v[MSG_CONVERSATION_TYPE], ec);
    if (e == ERR_OK)
        e = check_kept(m, ec);
    if (e == ERR_OK)
        e = check_id(a, m, ec);
    if (e != ERR_OK)
        return e;
    if (v[MSG_FROM].type == VALUE_NULL)
        v[MSG_FROM] = value_text(a->caller->user_id);
    e = rule_sender(a->caller, v[MSG_FROM].s, ec);
    if (e == ERR_OK)
        e = rule_content(v[MSG_CONTENT], limits, ec);
    return e;
}

enum err chat_append_check(
    struct chat_append *a, const struct chat_limits *limits, struct arena *arena, struct errctx *ec)
{
    for (size_t i = 0; i < a->nmessages; i++) {
        enum err e = check_message(a, &a->messages[i], limits, ec);
        if (e != ERR_OK)
            return e;
    }
    struct str *ids = arena_array(arena, a->nmessages, sizeof *ids);
    uint32_t *index = arena_array(arena, a->nmessages, sizeof *index);
    if (a->nmessages > 0 && (ids == NULL || index == NULL))
        return err_internal(ec, ERR_NO_MEMORY, "append of %zu rows", a->nmessages);
    for (size_t i = 0; i < a->nmessages; i++)
        ids[i] = a->messages[i].values[MSG_CONVERSATION_ID].s;
    enum err e = rule_distinct(a->nmessages, ids, arena, index, &a->conversation_ids, &a->nconversations, ec);
    if (e != ERR_OK)
        return e;
    for (size_t i = 0; i < a->nmessages; i++)
        a->messages[i].conversation = index[i];
    return ERR_OK;
}

/* One apply: the conversations read so far, and what is known once per statement. */
struct appending {
    struct chat_append *a;
    struct txn *txn;
    uint64_t user_no;
    struct conversation *conversations;
    bool *loaded;
    int64_t ids_below; /* supplied ids are below this; 0: not asked yet */
    bool ids_known;    /* the look-up in files still holds */
};

static enum err load_conversation(struct appending *ap, uint32_t at, struct errctx *ec)
{
    if (ap->loaded[at])
        return ERR_OK;
    enum err e =
        txn_conversation(ap->txn, ap->user_no, ap->a->conversation_ids[at], &ap->conversations[at], ec);
    if (e == ERR_OK)
        ap->loaded[at] = true;
    return e;
}

static enum err make_conversation(
    struct appending *ap, struct conversation *c, const struct chat_message *m, struct errctx *ec)
{
    struct value type = m->values[MSG_CONVERSATION_TYPE];
    if (type.type != VALUE_NULL && str_eq(type.s, STR("group")))
        return err_set(ec, ERR_UNSUPPORTED, "group conversations are not available yet");
    struct value values[CONV_NCOLUMNS] = {[CONV_ID] = m->values[MSG_CONVERSATION_ID]};
    return rule_make_conversation(ap->txn, c, ap->a->owner, values, false, ec);
}

static enum err settle_id(struct appending *ap, struct chat_message *m, struct errctx *ec)
{
    if (!m->id_given) {
        m->values[MSG_ID] = value_i64(txn_next_msg_id(ap->txn));
        return ERR_OK;
    }
    int64_t id = m->values[MSG_ID].i;
    /* "The current id" is one taken now: all later ones are above it, so no supplied id can meet a given one.
     */
    if (ap->ids_below == 0)
        ap->ids_below = txn_next_msg_id(ap->txn);
    if (id >= ap->ids_below)
        return err_set(ec, ERR_INVALID_VALUE, "msg_id %lld is not below the current id", (long long)id);
    bool taken = false, unsure = false;
    enum err e = txn_msg_id_taken(ap->txn, ap->user_no, id, &taken, &unsure, ec);
    if (e != ERR_OK)
        return e;
    if (taken) {
        err_set(ec, ERR_CONFLICT, "duplicate key value violates unique constraint \"messages_pkey\"");
        err_detail(ec, "Key (msg_id)=(%lld) already exists.", (long long)id);
        return ec->code;
    }
    if (unsure && !ap->ids_known) {
        m->id_unsure = true;
        ap->a->ids_unsure = true;
    }
    return ERR_OK;
}

static enum err append_one(struct appending *ap, struct chat_message *m, struct errctx *ec)
{
    enum err e = load_conversation(ap, m->conversation, ec);
    if (e != ERR_OK)
        return e;
    struct conversation *c = &ap->conversations[m->conversation];
    struct value client = m->values[MSG_CLIENT_MSG_ID];
    m->inserted = false;
    /* Before everything else: a retry writes nothing, whatever it says, also when the conversation is gone.
     */
    if (client.type != VALUE_NULL && c->conv_no != 0) {
        e = txn_client_id_find(
            ap->txn, ap->user_no, c->conv_no, m->values[MSG_FROM].s, client.s, &m->msg_id, ec);
        if (e != ERR_NOT_FOUND)
            return e;
        errctx_clear(ec);
    }
    e = settle_id(ap, m, ec);
    if (e != ERR_OK || ap->a->ids_unsure)
        return e;
    if (!c->exists && (e = make_conversation(ap, c, m, ec)) != ERR_OK)
        return e;
    if (m->values[MSG_TIMESTAMP].type == VALUE_NULL)
        m->values[MSG_TIMESTAMP] = value_ts(txn_now_us(ap->txn));
    m->values[MSG_CONVERSATION_TYPE] =
        value_text(str_eq(c->values[CONV_TYPE].s, STR("group")) ? STR("group") : STR("ai"));
    c->values[CONV_UPDATED] = value_ts(txn_now_us(ap->txn));
    e = txn_message_insert(ap->txn, c, m->values, ec);
    if (e != ERR_OK)
        return e;
    m->msg_id = m->values[MSG_ID].i;
    m->inserted = true;
    ap->a->inserted++;
    if (client.type != VALUE_NULL)
        e = txn_client_id_put(
            ap->txn, ap->user_no, c->conv_no, m->values[MSG_FROM].s, client.s, m->msg_id, ec);
    return e;
}

enum err chat_append_apply(struct chat_append *a, struct txn *txn, struct errctx *ec)
{
    struct appending ap = {.a = a, .txn = txn};
    a->inserted = 0;
    a->ids_unsure = false;
    enum err e = txn_user(txn, a->owner, true, &ap.user_no, ec);
    if (e != ERR_OK)
        return e;
    ap.ids_known = a->ids_looked_up && txn_cold_epoch(txn, ap.user_no) == a->ids_epoch;
    ap.conversations = arena_array(txn_arena(txn), a->nconversations, sizeof *ap.conversations);
    ap.loaded = arena_array(txn_arena(txn), a->nconversations, sizeof *ap.loaded);
    if (a->nconversations > 0 && (ap.conversations == NULL || ap.loaded == NULL))
        return err_internal(ec, ERR_NO_MEMORY, "append to %u conversations", a->nconversations);
    for (size_t i = 0; i < a->nmessages; i++) {
        a->messages[i].id_unsure = false;
        e = append_one(&ap, &a->messages[i], ec);
        if (e != ERR_OK)
            return e;
    }
    /* All unsure ids of the statement are collected before the caller looks them up, once. */
    return a->ids_unsure ? ERR_RETRY : ERR_OK;
}
