#include "row/schema.h"

#define COLUMN(n, t, f)                                                                                      \
    {                                                                                                        \
        .name = {n, sizeof n - 1}, .type = t, .flags = f                                                     \
    }

static const struct column message_columns[] = {
    [MSG_ID] = COLUMN("msg_id", VALUE_BIGINT, COLUMN_NOT_NULL | COLUMN_KEY),
    [MSG_CONVERSATION_ID] = COLUMN("conversation_id", VALUE_TEXT, COLUMN_NOT_NULL | COLUMN_KEY),
    [MSG_CONVERSATION_TYPE] = COLUMN("conversation_type", VALUE_TEXT, 0),
    [MSG_FROM] = COLUMN("from", VALUE_TEXT, 0),
    [MSG_TIMESTAMP] = COLUMN("timestamp", VALUE_TIMESTAMPTZ, 0),
    [MSG_CONTENT] = COLUMN("content", VALUE_TEXT, COLUMN_NOT_NULL),
    [MSG_CONTENT_REF] = COLUMN("content_ref", VALUE_TEXT, 0),
    [MSG_METADATA] = COLUMN("metadata", VALUE_JSON, 0),
    [MSG_CLIENT_MSG_ID] = COLUMN("client_msg_id", VALUE_TEXT, 0),
    [MSG_SEQ] = COLUMN("_seq", VALUE_BIGINT, COLUMN_HIDDEN | COLUMN_SEQ),
    [MSG_INS_SEQ] = COLUMN("_ins_seq", VALUE_BIGINT, COLUMN_HIDDEN | COLUMN_INS_SEQ),
};

static const struct column conversation_columns[] = {
    [CONV_ID] = COLUMN("conversation_id", VALUE_TEXT, COLUMN_NOT_NULL | COLUMN_KEY),
    [CONV_TYPE] = COLUMN("conversation_type", VALUE_TEXT, 0),
    [CONV_TITLE] = COLUMN("title", VALUE_TEXT, 0),
    [CONV_FIRST_MSG_ID] = COLUMN("first_msg_id", VALUE_BIGINT, 0),
    [CONV_LAST_MSG_ID] = COLUMN("last_msg_id", VALUE_BIGINT, 0),
    [CONV_TOTAL_MESSAGES] = COLUMN("total_messages", VALUE_BIGINT, 0),
    [CONV_CREATED] = COLUMN("created", VALUE_TIMESTAMPTZ, 0),
    [CONV_UPDATED] = COLUMN("updated", VALUE_TIMESTAMPTZ, 0),
    [CONV_METADATA] = COLUMN("metadata", VALUE_JSON, 0),
    [CONV_READ_MSG_ID] = COLUMN("_read_msg_id", VALUE_BIGINT, COLUMN_HIDDEN),
    [CONV_UNREAD] = COLUMN("_unread", VALUE_BIGINT, COLUMN_HIDDEN),
};

static const struct column member_columns[] = {
    [MEMBER_CONVERSATION_ID] = COLUMN("conversation_id", VALUE_TEXT, COLUMN_NOT_NULL | COLUMN_KEY),
    [MEMBER_USER_ID] = COLUMN("user_id", VALUE_TEXT, COLUMN_NOT_NULL | COLUMN_KEY),
    [MEMBER_ROLE] = COLUMN("role", VALUE_TEXT, 0),
    [MEMBER_JOINED] = COLUMN("joined", VALUE_TIMESTAMPTZ, 0),
    [MEMBER_LAST_READ_MSG_ID] = COLUMN("last_read_msg_id", VALUE_BIGINT, 0),
    [MEMBER_METADATA] = COLUMN("metadata", VALUE_JSON, 0),
};

const struct schema schema_messages = {1, {"messages", 8}, MSG_ID, MSG_NCOLUMNS, message_columns};
const struct schema schema_conversations = {
    2, {"conversations", 13}, CONV_ID, CONV_NCOLUMNS, conversation_columns};
const struct schema schema_conversation_users = {
    3, {"conversation_users", 18}, MEMBER_CONVERSATION_ID, MEMBER_NCOLUMNS, member_columns};

static const struct schema *const catalog[] = {
    &schema_messages, &schema_conversations, &schema_conversation_users};

const struct schema *catalog_table(struct str name)
{
    for (size_t i = 0; i < sizeof catalog / sizeof *catalog; i++) {
        if (str_eq(catalog[i]->name, name))
            return catalog[i];
    }
    return NULL;
}

const struct schema *catalog_table_no(uint32_t table_no)
{
    for (size_t i = 0; i < sizeof catalog / sizeof *catalog; i++) {
        if (catalog[i]->table_no == table_no)
            return catalog[i];
    }
    return NULL;
}

int schema_column(const struct schema *s, struct str name)
{
    for (int i = 0; i < s->ncolumns; i++) {
        if (str_eq(s->columns[i].name, name))
            return i;
    }
    return -1;
}
