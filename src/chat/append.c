/* Which conversation a send means (contract section 2): one's own of that id first, be it an ai conversation
 * or one's copy of a group's; else, with the type `ai`, an own one is made; else an existing group of that
 * id, which one is then no member of; else it is made, of the given type or `ai`.
 *
 *   own row?  ── ai ────────────────────────────────► own
 *             ── of a group ── present member ──────► group
 *                           └─ else ────────────────► FORBIDDEN
 *   none      ── type ai, or no group and no type ──► own, made
 *             ── a group of that id exists ─────────► FORBIDDEN
 *             ── type group ────────────────────────► group, made */
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

/* Where the messages of one conversation go. */
struct place {
    struct conversation c;
    struct group g; /* c.group_no is set: its record; not `exists` when it is gone */
    bool loaded;
};

/* One apply: the conversations read so far, and what is known once per statement. */
struct appending {
    struct chat_append *a;
    struct txn *txn;
    uint64_t user_no;
    struct place *places;
    int64_t ids_below; /* supplied ids are below this; 0: not asked yet */
};

static enum err load_place(struct appending *ap, uint32_t at, struct errctx *ec)
{
    struct place *p = &ap->places[at];
    if (p->loaded)
        return ERR_OK;
    enum err e = txn_conversation(ap->txn, ap->user_no, ap->a->conversation_ids[at], &p->c, ec);
    if (e == ERR_OK && p->c.group_no != 0) {
        e = txn_group_no(ap->txn, p->c.group_no, &p->g, ec);
        e = e == ERR_NOT_FOUND ? ERR_OK : e;
    }
    p->loaded = e == ERR_OK;
    return e;
}

/* Settles a conversation that the owner has no row of, as the message's type says. */
static enum err make_place(
    struct appending *ap, struct place *p, const struct chat_message *m, struct errctx *ec)
{
    struct value type = m->values[MSG_CONVERSATION_TYPE];
    struct value values[CONV_NCOLUMNS] = {[CONV_ID] = m->values[MSG_CONVERSATION_ID]};
    struct group g = {0};
    struct member owner;
    bool ai = !value_is_null(type) && str_eq(type.s, STR("ai"));
    enum err e = ai ? ERR_OK : txn_group(ap->txn, values[CONV_ID].s, &g, ec);
    if (e == ERR_OK && g.exists)
        return rule_no_member(values[CONV_ID].s, ap->a->owner, ec);
    if (e != ERR_OK)
        return e;
    p->c.group_no = 0; /* of an earlier group's */
    if (ai || value_is_null(type))
        return rule_make_conversation(ap->txn, &p->c, ap->a->owner, values, false, ec);
    e = rule_group_sender(ap->a->caller, m->values[MSG_FROM].s, ec);
    return e != ERR_OK ? e : group_make(ap->txn, &p->c, ap->a->owner, values, &p->g, &owner, ec);
}

static enum err taken(int64_t id, struct errctx *ec)
{
    err_set(ec, ERR_CONFLICT, "duplicate key value violates unique constraint \"messages_pkey\"");
    err_detail(ec, "Key (msg_id)=(%lld) already exists.", (long long)id);
    return ec->code;
}

/* CONFLICT when the user has a row of that id, or had one whose deletion is remembered. */
static enum err check_free(struct appending *ap, uint64_t user_no, int64_t id, struct errctx *ec)
{
    struct message_copy copy;
    const struct cold_question *known;
    enum err e = txn_copy_find(ap->txn, user_no, id, &copy, ec);
    if (e != ERR_OK || copy.state == COPY_ABSENT)
        return e;
    if (copy.state != COPY_COLD_PERHAPS)
        return taken(id, ec);
    e = cold_lookup_ask(&ap->a->copies.rows, user_no, copy.cold_epoch, id, &known);
    if (e != ERR_OK)
        return err_set(ec, e, "out of memory");
    return known != NULL && known->found ? taken(id, ec) : ERR_OK;
}

static enum err settle_id(
    struct appending *ap, const struct place *p, struct chat_message *m, struct errctx *ec)
{
    if (!m->id_given) {
        m->values[MSG_ID] = value_i64(m->id_reserved != 0 ? m->id_reserved : txn_next_msg_id(ap->txn));
        return ERR_OK;
    }
    int64_t id = m->values[MSG_ID].i;
    /* "The current id" is one taken now: all later ones are above it, so no supplied id can meet a given one.
     */
    if (ap->ids_below == 0)
        ap->ids_below = txn_next_msg_id(ap->txn);
    if (id >= ap->ids_below)
        return err_set(ec, ERR_INVALID_VALUE, "msg_id %lld is not below the current id", (long long)id);
    if (p->c.group_no == 0)
        return check_free(ap, ap->user_no, id, ec);
    const uint64_t *members;
    size_t n;
    enum err e = txn_group_present(ap->txn, &p->g, &members, &n, ec);
    for (size_t i = 0; e == ERR_OK && i < n; i++)
        e = check_free(ap, members[i], id, ec);
    return e;
}

/* NOT_FOUND when it is no retry. */
static enum err find_retry(
    struct appending *ap, const struct place *p, struct chat_message *m, struct errctx *ec)
{
    struct value client = m->values[MSG_CLIENT_MSG_ID];
    struct str from = m->values[MSG_FROM].s;
    if (client.type == VALUE_NULL || p->c.conv_no == 0)
        return ERR_NOT_FOUND;
    if (p->c.group_no == 0)
        return txn_client_id_find(ap->txn, ap->user_no, p->c.conv_no, from, client.s, &m->msg_id, ec);
    enum err e = rule_group_sender(ap->a->caller, from, ec);
    return e != ERR_OK ? e : txn_group_client_id_find(ap->txn, p->c.group_no, from, client.s, &m->msg_id, ec);
}

static enum err append_to_own(
    struct appending *ap, struct place *p, struct chat_message *m, struct errctx *ec)
{
    struct value client = m->values[MSG_CLIENT_MSG_ID];
    m->values[MSG_CONVERSATION_TYPE] = value_text(STR("ai"));
    enum err e = txn_message_insert(ap->txn, &p->c, m->values, ec);
    if (e == ERR_OK && client.type != VALUE_NULL)
        e = txn_client_id_put(
            ap->txn, ap->user_no, p->c.conv_no, m->values[MSG_FROM].s, client.s, m->values[MSG_ID].i, ec);
    return e;
}

static enum err append_to_group(
    struct appending *ap, struct place *p, struct chat_message *m, struct errctx *ec)
{
    struct value client = m->values[MSG_CLIENT_MSG_ID];
    m->values[MSG_CONVERSATION_TYPE] = value_text(STR("group"));
    enum err e = txn_group_insert(ap->txn, &p->g, m->values, ap->user_no, ec);
    if (e == ERR_OK && client.type != VALUE_NULL)
        e = txn_group_client_id_put(
            ap->txn, p->g.group_no, m->values[MSG_FROM].s, client.s, m->values[MSG_ID].i, ec);
    return e;
}

static enum err append_one(struct appending *ap, struct chat_message *m, struct errctx *ec)
{
    enum err e = load_place(ap, m->conversation, ec);
    if (e != ERR_OK)
        return e;
    struct place *p = &ap->places[m->conversation];
    m->inserted = false;
    /* Before everything else: a retry writes nothing, whatever it says, also when the conversation is gone.
     */
    e = find_retry(ap, p, m, ec);
    if (e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    e = ERR_OK;
    if (!p->c.exists)
        e = make_place(ap, p, m, ec);
    else if (p->c.group_no != 0 && !p->c.present)
        e = rule_no_member(p->c.values[CONV_ID].s, ap->a->owner, ec);
    else if (p->c.group_no != 0)
        e = rule_group_sender(ap->a->caller, m->values[MSG_FROM].s, ec);
    if (e == ERR_OK)
        e = settle_id(ap, p, m, ec);
    if (e != ERR_OK || ap->a->copies.rows.open > 0)
        return e;
    if (m->values[MSG_TIMESTAMP].type == VALUE_NULL)
        m->values[MSG_TIMESTAMP] = value_ts(txn_now_us(ap->txn));
    e = p->c.group_no != 0 ? append_to_group(ap, p, m, ec) : append_to_own(ap, p, m, ec);
    if (e != ERR_OK)
        return e;
    m->msg_id = m->values[MSG_ID].i;
    m->inserted = true;
    ap->a->inserted++;
    return ERR_OK;
}

enum err chat_append_apply(struct chat_append *a, struct txn *txn, struct errctx *ec)
{
    struct appending ap = {.a = a, .txn = txn};
    a->inserted = 0;
    enum err e = txn_user(txn, a->owner, true, &ap.user_no, ec);
    if (e != ERR_OK)
        return e;
    ap.places = arena_array(txn_arena(txn), a->nconversations, sizeof *ap.places);
    if (a->nconversations > 0 && ap.places == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "append to %u conversations", a->nconversations);
    for (size_t i = 0; i < a->nmessages; i++) {
        e = append_one(&ap, &a->messages[i], ec);
        if (e != ERR_OK)
            return e;
    }
    /* All questions of the statement are collected before the caller answers them, once. */
    return a->copies.rows.open > 0 ? ERR_RETRY : ERR_OK;
}
