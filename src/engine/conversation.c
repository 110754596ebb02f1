/* kalamdb_create_conversation: texts of the host become the rows of one INSERT. */
#include "base/json.h"
#include "base/role.h"
#include "engine/insert.h"

static enum err take(struct kalamdb_query *q, struct kalamdb_str in, enum value_type type, struct value *ret)
{
    struct str s;
    if (in.ptr == NULL)
        return ERR_OK;
    enum err e = query_take_text(q, in, &s);
    if (e == ERR_OK)
        *ret = (struct value){.type = type, .s = s};
    return e;
}

static enum err take_row(
    struct kalamdb_query *q, const struct kalamdb_new_conversation *in, struct value *row)
{
    enum err e = take(q, in->conversation_id, VALUE_TEXT, &row[CONV_ID]);
    if (e == ERR_OK)
        e = take(q, in->type, VALUE_TEXT, &row[CONV_TYPE]);
    if (e == ERR_OK)
        e = take(q, in->title, VALUE_TEXT, &row[CONV_TITLE]);
    if (e == ERR_OK)
        e = take(q, in->metadata, VALUE_JSON, &row[CONV_METADATA]);
    if (e == ERR_OK && row[CONV_METADATA].type == VALUE_JSON && !json_valid(row[CONV_METADATA].s))
        e = err_set(&q->ec, ERR_INVALID_REQUEST, "metadata is not valid JSON");
    if (e == ERR_OK && row[CONV_TYPE].type == VALUE_NULL && in->nmembers > 0)
        row[CONV_TYPE] = value_text(STR("group"));
    return e;
}

void kalamdb_create_conversation(struct kalamdb *db, const struct kalamdb_new_conversation *in,
    kalamdb_done *done, void *arg, struct kalamdb_query **ret_query)
{
    struct kalamdb_query *q = query_begin(db, &in->caller, in->durability, 0, done, arg, ret_query);
    if (q == NULL)
        return;
    struct value(*row)[CONV_NCOLUMNS] = arena_alloc(&q->arena, sizeof *row);
    struct value(*members)[MEMBER_NCOLUMNS] = arena_array(&q->arena, in->nmembers, sizeof *members);
    struct str owner = q->caller.user_id;
    enum err e = row != NULL && members != NULL ? take_row(q, in, *row)
                                                : err_set(&q->ec, ERR_TOO_LARGE, "too many members");
    if (e == ERR_OK && in->user_id.ptr != NULL)
        e = query_take_text(q, in->user_id, &owner);
    if (e == ERR_OK && !user_id_valid(owner))
        e = err_set(&q->ec, ERR_INVALID_VALUE, "userId is not a valid user id");
    if (e == ERR_OK && q->caller.role == ROLE_USER && !str_eq(owner, q->caller.user_id))
        e = err_set(&q->ec, ERR_FORBIDDEN, "a user makes conversations of their own only");
    for (size_t i = 0; e == ERR_OK && i < in->nmembers; i++) {
        members[i][MEMBER_CONVERSATION_ID] = (*row)[CONV_ID];
        e = take(q, in->members[i].user_id, VALUE_TEXT, &members[i][MEMBER_USER_ID]);
        if (e == ERR_OK)
            e = take(q, in->members[i].role, VALUE_TEXT, &members[i][MEMBER_ROLE]);
    }
    if (e != ERR_OK)
        query_finish(q, e);
    else
        insert_conversation(q, owner, row, in->nmembers, members);
}
