/* Tables as data. `messages`, `conversations` and `conversation_users` are entries of the catalog; nothing
 * below sql knows a column by struct field. User-defined tables will be further entries. Immutable, any
 * thread. */
#ifndef KALAMDB_ROW_SCHEMA_H
#define KALAMDB_ROW_SCHEMA_H

#include "base/value.h"

enum column_flags {
    COLUMN_NOT_NULL = 1,
    COLUMN_HIDDEN = 2,  /* not in `*`, selectable by name */
    COLUMN_SEQ = 4,     /* value comes from the row envelope's seq */
    COLUMN_INS_SEQ = 8, /* … ins_seq */
    COLUMN_KEY = 16     /* names the row: kept in its tombstone, which keeps nothing else */
};

struct column {
    struct str name;
    enum value_type type;
    unsigned flags;
};

#define SCHEMA_COLUMNS_MAX 64
struct schema {
    uint32_t table_no; /* part of every key; never reused */
    struct str name;
    int key_column; /* the primary key; for conversation_users the first of two */
    int ncolumns;
    const struct column *columns;
};

/* Column numbers of the built-in tables, in schema order. */
enum {
    MSG_ID,
    MSG_CONVERSATION_ID,
    MSG_CONVERSATION_TYPE,
    MSG_FROM,
    MSG_TIMESTAMP,
    MSG_CONTENT,
    MSG_CONTENT_REF,
    MSG_METADATA,
    MSG_CLIENT_MSG_ID,
    MSG_SEQ,
    MSG_INS_SEQ,
    MSG_NCOLUMNS
};
enum {
    CONV_ID,
    CONV_TYPE,
    CONV_TITLE,
    CONV_FIRST_MSG_ID,
    CONV_LAST_MSG_ID,
    CONV_TOTAL_MESSAGES,
    CONV_CREATED,
    CONV_UPDATED,
    CONV_METADATA,
    /* The owner's read marker, as in their row of conversation_users, and the messages of others above it: a
     * counter. Rows written before these columns have NULL in both; such a counter stays NULL, not known,
     * until the marker is set or the conversation is empty once. */
    CONV_READ_MSG_ID,
    CONV_UNREAD,
    CONV_NCOLUMNS
};
enum {
    MEMBER_CONVERSATION_ID,
    MEMBER_USER_ID,
    MEMBER_ROLE,
    MEMBER_JOINED,
    MEMBER_LAST_READ_MSG_ID,
    MEMBER_METADATA,
    MEMBER_NCOLUMNS
};

extern const struct schema schema_messages, schema_conversations, schema_conversation_users;

/* NULL when there is no such table. */
const struct schema *catalog_table(struct str name);
const struct schema *catalog_table_no(uint32_t table_no);
/* -1 when there is no such column. Exact match (SQL folds case before). */
int schema_column(const struct schema *s, struct str name);

#endif
