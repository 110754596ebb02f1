/* What chat allows: the rules of messages, conversations and their members, as operations inside a commit.
 *
 * An operation has two halves. `*_check` settles what depends on the statement alone (senders, sizes, JSON)
 * on any thread, before anything is queued. `*_apply` settles the rest on the committer, inside the
 * transaction, and may be repeated: ERR_RETRY asks the caller to read again and come back. What an apply
 * leaves in its operation (ids, change numbers, counts) is meaningful after ERR_OK only. Values are of their
 * columns' types when they come here: texts are UTF-8 without NUL, JSON is valid. Ownership: every pointer in
 * an operation is the caller's and outlives the commit. */
#ifndef KALAMDB_CHAT_CHAT_H
#define KALAMDB_CHAT_CHAT_H

#include "base/err.h"
#include "row/schema.h"
#include "sql/sql.h"
#include "store/group.h"

#define CHAT_ID_BYTES_MAX 255

struct chat_limits {
    size_t content_bytes_max;
};

/* Reserved sender (`ai`, `assistant:gpt` …), which a user may use in their own ai conversations? */
bool chat_sender_is_reserved(struct str from);

/* ---- other users' files ---- */

/* First and last id of a member's conversation without one message, by both tiers at `epoch`. */
struct copy_bounds {
    uint64_t user_no, epoch;
    int64_t without;
    bool answered;
    int64_t first, last; /* 0: none */
};
/* What a change of a group's messages asks of the other members' files. The commit answers ERR_RETRY with
 * questions; whoever submits it has them answered and submits it again, or reads again and keeps the answers
 * that there are. Zeroed: empty. */
struct chat_copies {
    struct cold_lookup rows;
    size_t nbounds, cap_bounds, open_bounds;
    struct copy_bounds *bounds;
};
void chat_copies_release(struct chat_copies *c);
size_t chat_copies_open(const struct chat_copies *c); /* questions without an answer */

/* ---- append ---- */

struct chat_message {
    /* In: the row by column of schema_messages, of the columns' types, NULL where not given. Out: the row as
     * stored. */
    struct value values[MSG_NCOLUMNS];
    bool id_given;       /* msg_id supplied */
    int64_t id_reserved; /* the id that it gets, from store_reserve_ids; 0: a new one at the commit */
    /* Out. */
    int64_t msg_id; /* of the new row, or of the first one with this client_msg_id */
    bool inserted;  /* false: a retry, nothing was written */
    /* Private. */
    uint32_t conversation; /* index into chat_append.conversation_ids */
};

struct chat_append {
    const struct caller *caller;
    struct str owner; /* whose tables */
    size_t nmessages;
    struct chat_message *messages;
    /* With ERR_RETRY and open questions (supplied ids that may stand in recipients' files): answer them, then
     * submit again. The caller releases it. */
    struct chat_copies copies;
    int64_t inserted; /* out */
    /* Private, from chat_append_check. */
    uint32_t nconversations;
    struct str *conversation_ids;
};

/* FORBIDDEN (sender, msg_id of a user, columns the engine keeps), CONSTRAINT (NULLs, lengths), INVALID_VALUE,
 * TOO_LARGE. */
enum err chat_append_check(
    struct chat_append *a, const struct chat_limits *limits, struct arena *arena, struct errctx *ec) CHECKED;
/* FORBIDDEN (a group that the schema's user is no member of, a sender that a group does not allow), CONFLICT
 * (id taken in a recipient's table), INVALID_VALUE (id above the current one). */
enum err chat_append_apply(struct chat_append *a, struct txn *txn, struct errctx *ec) CHECKED;

/* ---- conversations ---- */

/* INSERT INTO conversations without content. */
struct chat_create {
    const struct caller *caller;
    struct str owner;
    struct value from; /* NULL: not given */
    size_t nrows;
    struct value (*rows)[CONV_NCOLUMNS]; /* in: as given; out: as stored */
};
enum err chat_create_check(const struct chat_create *c, struct errctx *ec) CHECKED;
/* CONFLICT: exists, as one's own or as a group. */
enum err chat_create_apply(struct chat_create *c, struct txn *txn, struct errctx *ec) CHECKED;

/* One row of conversations or conversation_users to change. The statement's WHERE was decided on `values`;
 * where the row has changed since, `still` decides again, or, when NULL, the statement is read again. */
struct chat_row_change {
    struct value *values;    /* in: the row as read; out: as stored */
    const struct value *set; /* by column of the schema; only the columns in `columns` count */
    bool gone;               /* out: no longer there, or no longer meant */
    bool counted;            /* a read marker: `count` holds */
    struct unread_count count;
};
struct chat_update {
    const struct caller *caller;
    struct str owner;
    const struct schema *schema; /* conversations or conversation_users */
    uint64_t columns;            /* bit per column set */
    size_t nrows;
    struct chat_row_change *rows;
    bool (*still)(void *arg, const struct value *values);
    void *still_arg;
    int64_t changed; /* out */
    bool need_count; /* out with ERR_RETRY: read again, with `count` of every row */
};
/* FORBIDDEN for columns the engine keeps, for messages too. `columns` as in chat_update. */
enum err chat_update_check_columns(const struct schema *schema, uint64_t columns, struct errctx *ec) CHECKED;
/* FORBIDDEN: another member's marker or metadata, a role or a group's title above one's rank. CONSTRAINT: no
 * such role, a group without an owner. */
enum err chat_update_apply(struct chat_update *u, struct txn *txn, struct errctx *ec) CHECKED;

/* ---- members of groups: group.c ---- */

/* INSERT INTO conversation_users: new members of groups in which the schema's user is owner or admin. A group
 * that does not exist is made, with that user as its owner. */
struct chat_members_add {
    const struct caller *caller;
    struct str owner; /* whose tables */
    uint32_t group_members_max;
    size_t nrows;
    struct value (*rows)[MEMBER_NCOLUMNS]; /* in: as given; out: as stored */
    /* Instead of a statement's: one conversation, made with its members (POST /api/v1/conversations);
     * CONFLICT when it exists. Its row comes back in it. */
    struct chat_create *create;
    /* Private, from the check. */
    uint32_t nconversations;
    uint32_t *conversation; /* of each row */
    struct str *conversation_ids;
};
enum err chat_members_add_check(struct chat_members_add *a, struct arena *arena, struct errctx *ec) CHECKED;
/* FORBIDDEN (no member, rank), CONFLICT (is a member, has an own conversation of that id), CONSTRAINT (too
 * many). */
enum err chat_members_add_apply(struct chat_members_add *a, struct txn *txn, struct errctx *ec) CHECKED;

/* DELETE FROM conversation_users: removes members, or leaves. Rows as read, in any order. */
struct chat_members_remove {
    const struct caller *caller;
    struct str owner;
    size_t nrows;
    struct chat_row_change *rows; /* `set` is not used; `still` as in chat_update */
    bool (*still)(void *arg, const struct value *values);
    void *still_arg;
    int64_t removed; /* out */
};
enum err chat_members_remove_apply(struct chat_members_remove *r, struct txn *txn, struct errctx *ec) CHECKED;

/* For other operations of chat inside an apply. */

/* The schema's user `c` as a member of the group that c is a copy of. FORBIDDEN: not present. */
enum err chat_group_member_self(struct txn *txn, const struct conversation *c, struct group *ret_group,
    struct member *ret_member, struct errctx *ec) CHECKED;
/* Ends the membership of one present member; puts the group, hands ownership over when the last owner goes,
 * and lets the group go with the last member. The member's conversation and rows stay. */
enum err chat_group_leave(struct txn *txn, struct group *g, struct member *m, struct errctx *ec) CHECKED;
/* Does the JSON object say "history":"shared"? */
bool chat_metadata_shares_history(struct value metadata);

/* ---- changes of messages ---- */

struct chat_row {
    struct value *values; /* all columns of schema_messages: as read (delete), with the changes made (update).
                             After an update's ERR_OK, with the new _seq. */
    uint64_t seq, ins_seq; /* as read */
    uint32_t conversation; /* index into chat_change.conversations */
    struct str ref_read;   /* content_ref as read; ptr NULL: none */
};
/* A conversation that loses rows, with live rows of the snapshot that stay: its lowest and highest known (0:
 * none). */
struct chat_bounds {
    struct str conversation_id;
    bool known; /* first and last hold for both tiers */
    int64_t first, last;
    const struct value *values; /* conversations_too: its row as read */
};
struct chat_change {
    const struct caller *caller;
    struct str owner;
    uint64_t cold_epoch; /* of the snapshot that was read */
    size_t nrows;
    struct chat_row *rows;
    bool conversations_too; /* DELETE FROM conversations: `conversations` go, `rows` are all their messages */
    uint32_t nconversations;
    struct chat_bounds *conversations; /* from chat_change_group, or, for conversations_too, the caller's */
    bool (*still)(void *arg, const struct value *values); /* conversations_too: as in chat_update */
    void *still_arg;
    bool need_bounds; /* out with ERR_RETRY: read again, with `known` bounds of every conversation */
    /* UPDATE, and DELETE for everyone, of a group's messages: every present member's copy changes. */
    bool everyone;
    size_t copies_max;          /* changed rows, all members' together */
    struct chat_copies *copies; /* the caller's */
    bool need_copies;           /* out with ERR_RETRY: answer `copies`, submit again */
};
/* Fills `conversations` (distinct, in order of id) and the rows' index into them. */
enum err chat_change_group(struct chat_change *c, struct arena *arena, struct errctx *ec) CHECKED;
/* New content of a message: CONSTRAINT (NULL), TOO_LARGE. */
enum err chat_content_check(
    struct value content, const struct chat_limits *limits, struct errctx *ec) CHECKED;
/* Also FORBIDDEN: a message of a group that `owner` may not change, or of which they are no member. */
enum err chat_messages_update(struct chat_change *c, struct txn *txn, struct errctx *ec) CHECKED;
enum err chat_messages_delete(struct chat_change *c, struct txn *txn, struct errctx *ec) CHECKED;

#endif
