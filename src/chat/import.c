#include "chat/import.h"
#include "base/json.h"
#include "base/timefmt.h"
#include "chat/rules.h"
#include "store/group.h"

/* ---- what an archive may say -------------------------------------------------------------------------- */

static enum err check_column(const struct schema *schema, int column, struct value v, struct errctx *ec)
{
    struct str name = schema->columns[column].name;
    if (v.type == VALUE_NULL)
        return ERR_OK;
    if (v.type == VALUE_TIMESTAMPTZ && (v.i < TIME_US_MIN || v.i > TIME_US_MAX))
        return err_set(ec, ERR_INVALID_VALUE, "%.*s is out of range", STR_FMT(name));
    if (v.type != VALUE_TEXT && v.type != VALUE_JSON)
        return ERR_OK;
    if (!utf8_valid(v.s) || (v.s.len > 0 && memchr(v.s.ptr, 0, v.s.len) != NULL))
        return err_set(ec, ERR_INVALID_VALUE, "%.*s is no UTF-8 text without NUL", STR_FMT(name));
    if (v.type == VALUE_JSON && !json_valid(v.s))
        return err_set(ec, ERR_INVALID_VALUE, "%.*s is no JSON", STR_FMT(name));
    return ERR_OK;
}

static enum err check_columns(const struct schema *schema, const struct value *values, struct errctx *ec)
{
    for (int i = 0; i < schema->ncolumns; i++) {
        enum err e = check_column(schema, i, values[i], ec);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static bool within(struct value v, int64_t min, int64_t max)
{
    return v.type == VALUE_BIGINT && v.i >= min && v.i <= max;
}

static enum err check_type(const struct schema *schema, int column, struct value type, struct errctx *ec)
{
    return type.type == VALUE_NULL ? rule_not_null(schema, column, ec)
                                   : rule_conversation_type(schema, type, ec);
}

enum err chat_import_check_message(const struct value *v, int64_t ids_below, uint64_t seq_max,
    const struct chat_limits *limits, struct errctx *ec)
{
    const struct schema *schema = &schema_messages;
    const struct caller service = {.user_id = STR("service"), .role = ROLE_SERVICE};
    int64_t top = seq_max < INT64_MAX ? (int64_t)seq_max : INT64_MAX;
    enum err e = check_columns(schema, v, ec);
    if (e != ERR_OK)
        return e;
    if (!within(v[MSG_ID], 1, ids_below - 1))
        return err_set(ec, ERR_INVALID_VALUE, "msg_id is not between 1 and the current id");
    if (!within(v[MSG_SEQ], 1, top) || !within(v[MSG_INS_SEQ], 1, v[MSG_SEQ].i))
        return err_set(ec, ERR_INVALID_VALUE, "_seq and _ins_seq do not fit the manifest's seq");
    e = rule_conversation_id(schema, v[MSG_CONVERSATION_ID], ec);
    if (e == ERR_OK)
        e = check_type(schema, MSG_CONVERSATION_TYPE, v[MSG_CONVERSATION_TYPE], ec);
    if (e == ERR_OK && v[MSG_FROM].type == VALUE_NULL)
        e = rule_not_null(schema, MSG_FROM, ec);
    if (e == ERR_OK)
        e = rule_sender(&service, v[MSG_FROM].s, ec);
    if (e == ERR_OK)
        e = rule_content(v[MSG_CONTENT], limits, ec);
    /* An INSERT would take the time of now; the time of an old message is not that. */
    if (e == ERR_OK && v[MSG_TIMESTAMP].type == VALUE_NULL)
        e = rule_not_null(schema, MSG_TIMESTAMP, ec);
    return e;
}

enum err chat_import_check_conversation(const struct value *v, struct errctx *ec)
{
    const struct schema *schema = &schema_conversations;
    enum err e = check_columns(schema, v, ec);
    if (e == ERR_OK)
        e = rule_conversation_id(schema, v[CONV_ID], ec);
    if (e == ERR_OK)
        e = check_type(schema, CONV_TYPE, v[CONV_TYPE], ec);
    return e;
}

enum err chat_import_check_member(const struct value *v, struct errctx *ec)
{
    const struct schema *schema = &schema_conversation_users;
    enum member_role role;
    enum err e = check_columns(schema, v, ec);
    if (e == ERR_OK)
        e = rule_conversation_id(schema, v[MEMBER_CONVERSATION_ID], ec);
    if (e != ERR_OK)
        return e;
    if (v[MEMBER_USER_ID].type == VALUE_NULL || v[MEMBER_USER_ID].s.len == 0 ||
        v[MEMBER_USER_ID].s.len > CHAT_ID_BYTES_MAX)
        return err_set(ec, ERR_CONSTRAINT, "user_id must be 1 to %d bytes long", CHAT_ID_BYTES_MAX);
    if (v[MEMBER_ROLE].type == VALUE_NULL || !member_role_of(v[MEMBER_ROLE].s, &role))
        return err_set(ec, ERR_CONSTRAINT, "role must be 'owner', 'admin' or 'member'");
    if (v[MEMBER_LAST_READ_MSG_ID].type != VALUE_NULL && v[MEMBER_LAST_READ_MSG_ID].i < 0)
        return err_set(ec, ERR_INVALID_VALUE, "last_read_msg_id is negative");
    return ERR_OK;
}

int64_t chat_import_ids_below(struct txn *txn)
{
    return txn_next_msg_id(txn);
}

/* ---- writing ------------------------------------------------------------------------------------------ */

struct importing {
    struct chat_import *im;
    struct txn *txn;
    uint64_t user_no;
    bool ids_known; /* the look-up in files still holds */
};

static enum err wrote(struct importing *in, struct errctx *ec)
{
    if (!in->im->renew || in->im->renewed)
        return ERR_OK;
    in->im->renewed = true;
    return txn_feed_renew(in->txn, in->user_no, ec);
}

/* A row as it was, but empty: its messages bring counts and ids. A group comes without members, so its owner
 * reads it and sends nothing; the read marker stays with the row. */
static enum err make_conversation(struct importing *in, struct conversation *c, const struct value *from,
    const struct value *member, struct errctx *ec)
{
    int64_t now = txn_now_us(in->txn);
    enum err e = wrote(in, ec);
    if (e != ERR_OK)
        return e;
    bool group = str_eq(from[CONV_TYPE].s, STR("group"));
    c->values[CONV_ID] = from[CONV_ID];
    c->values[CONV_TYPE] = value_text(group ? STR("group") : STR("ai"));
    c->values[CONV_TITLE] = from[CONV_TITLE];
    c->values[CONV_FIRST_MSG_ID] = c->values[CONV_LAST_MSG_ID] = VALUE_OF_NULL;
    c->values[CONV_TOTAL_MESSAGES] = value_i64(0);
    c->values[CONV_CREATED] = value_is_null(from[CONV_CREATED]) ? value_ts(now) : from[CONV_CREATED];
    c->values[CONV_UPDATED] = value_is_null(from[CONV_UPDATED]) ? value_ts(now) : from[CONV_UPDATED];
    c->values[CONV_METADATA] = from[CONV_METADATA];
    c->values[CONV_READ_MSG_ID] = member != NULL ? member[MEMBER_LAST_READ_MSG_ID] : VALUE_OF_NULL;
    c->values[CONV_UNREAD] = value_i64(0);
    e = txn_conversation_put(in->txn, c, true, ec);
    if (e == ERR_OK && group) {
        e = txn_membership_put(in->txn, c, GROUP_ELSEWHERE, false, ec);
        c->group_no = GROUP_ELSEWHERE;
        c->present = false;
    }
    if (e != ERR_OK || group)
        return e;
    struct value own[MEMBER_NCOLUMNS] = {
        [MEMBER_CONVERSATION_ID] = from[CONV_ID],
        [MEMBER_USER_ID] = value_text(in->im->owner),
        [MEMBER_ROLE] = value_text(STR("owner")),
        [MEMBER_JOINED] = c->values[CONV_CREATED],
    };
    if (member != NULL) {
        own[MEMBER_JOINED] =
            value_is_null(member[MEMBER_JOINED]) ? own[MEMBER_JOINED] : member[MEMBER_JOINED];
        own[MEMBER_LAST_READ_MSG_ID] = member[MEMBER_LAST_READ_MSG_ID];
        own[MEMBER_METADATA] = member[MEMBER_METADATA];
    }
    return txn_member_put(in->txn, c, own, ec);
}

static enum err import_conversation(
    struct importing *in, const struct chat_import_conversation *one, struct errctx *ec)
{
    struct conversation c;
    enum err e = txn_conversation(in->txn, in->user_no, one->values[CONV_ID].s, &c, ec);
    return e != ERR_OK || c.exists ? e : make_conversation(in, &c, one->values, one->member, ec);
}

/* Its conversation may have been deleted while the import went on. */
static enum err conversation_of(
    struct importing *in, const struct value *values, struct conversation *ret, struct errctx *ec)
{
    enum err e = txn_conversation(in->txn, in->user_no, values[MSG_CONVERSATION_ID].s, ret, ec);
    if (e != ERR_OK || ret->exists)
        return e;
    struct value v[CONV_NCOLUMNS] = {
        [CONV_ID] = values[MSG_CONVERSATION_ID], [CONV_TYPE] = values[MSG_CONVERSATION_TYPE]};
    return make_conversation(in, ret, v, NULL, ec);
}

static enum err is_there(struct importing *in, struct chat_import_message *m, bool *ret, struct errctx *ec)
{
    bool taken = false, unsure = false;
    enum err e = txn_msg_id_taken(in->txn, in->user_no, m->values[MSG_ID].i, &taken, &unsure, ec);
    if (e == ERR_OK && !taken && unsure && !in->ids_known)
        in->im->ids_unsure = true;
    *ret = taken || (unsure && in->ids_known && m->there);
    return e;
}

static enum err import_blob(struct importing *in, const struct chat_import_message *m, struct errctx *ec)
{
    struct blob there;
    struct str ref = m->values[MSG_CONTENT_REF].s;
    enum err e = txn_blob(in->txn, ref, &there, ec);
    if (e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    if (m->blob == NULL)
        return err_set(ec, ERR_RETRY, "a file went while it was imported");
    return txn_blob_put(in->txn, ref, m->blob, 0, ec);
}

static enum err import_message(struct importing *in, struct chat_import_message *m, struct errctx *ec)
{
    struct value *v = m->values;
    struct conversation c;
    int64_t first;
    enum err e = wrote(in, ec);
    if (e == ERR_OK)
        e = conversation_of(in, v, &c, ec);
    if (e == ERR_OK && !value_is_null(v[MSG_CONTENT_REF]))
        e = import_blob(in, m, ec);
    if (e != ERR_OK)
        return e;
    /* Not the transaction's bytes: the operation may be repeated. */
    v[MSG_CONVERSATION_TYPE] =
        value_text(str_eq(c.values[CONV_TYPE].s, STR("group")) ? STR("group") : STR("ai"));
    e = txn_message_insert(in->txn, &c, v, ec);
    if (e != ERR_OK || value_is_null(v[MSG_CLIENT_MSG_ID]))
        return e;
    struct str from = v[MSG_FROM].s, key = v[MSG_CLIENT_MSG_ID].s;
    e = txn_client_id_find(in->txn, in->user_no, c.conv_no, from, key, &first, ec);
    if (e != ERR_NOT_FOUND)
        return e;
    errctx_clear(ec);
    return txn_client_id_put(in->txn, in->user_no, c.conv_no, from, key, v[MSG_ID].i, ec);
}

enum err chat_import_apply(struct chat_import *im, struct txn *txn, struct errctx *ec)
{
    struct importing in = {.im = im, .txn = txn};
    im->inserted = 0;
    im->renewed = im->ids_unsure = false;
    enum err e = txn_user(txn, im->owner, true, &in.user_no, ec);
    if (e == ERR_OK && im->owner_no != 0 && in.user_no != im->owner_no)
        e = err_set(ec, ERR_CONFLICT, "the user was erased while the import went on");
    if (e != ERR_OK)
        return e;
    im->owner_now = in.user_no;
    in.ids_known = im->ids_looked_up && txn_cold_epoch(txn, in.user_no) == im->ids_epoch;
    for (size_t i = 0; e == ERR_OK && i < im->nconversations; i++)
        e = import_conversation(&in, &im->conversations[i], ec);
    for (size_t i = 0; e == ERR_OK && i < im->nmessages; i++) {
        bool there = false;
        e = is_there(&in, &im->messages[i], &there, ec);
        if (e != ERR_OK || there || im->ids_unsure) /* unsure: only to collect the others before the RETRY */
            continue;
        e = import_message(&in, &im->messages[i], ec);
        im->inserted++;
    }
    return e == ERR_OK && im->ids_unsure ? ERR_RETRY : e;
}
