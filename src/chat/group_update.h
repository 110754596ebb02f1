/* UPDATE of conversations and conversation_users where the conversation is a group's. Within chat; on the
 * committer. */
#ifndef KALAMDB_CHAT_GROUP_UPDATE_H
#define KALAMDB_CHAT_GROUP_UPDATE_H

#include "chat/rules.h"

/* conversation.c. Settles one row that is `now` in the transaction: OK to go on, NOT_FOUND to leave it out,
 * RETRY. */
enum err update_recheck(
    const struct chat_update *u, const struct value *read, const struct value *now) CHECKED;
void update_merge(const struct chat_update *u, const struct value *set, struct value *values);
/* The row as stored, for RETURNING. RETRY. */
enum err update_keep(struct chat_row_change *row, const struct schema *schema, const struct value *stored,
    uint64_t set_columns) CHECKED;

/* Of one statement: a group for each conversation that its rows name. */
struct group_updating {
    struct group g;
    enum member_role self; /* the rank of the schema's user before the statement */
    bool loaded, owner_lost, announce;
};
struct group_updates {
    struct chat_update *u;
    struct txn *txn;
    uint32_t n, *index; /* of each row's conversation */
    struct group_updating *all;
};
enum err group_updates_init(
    struct group_updates *gs, struct chat_update *u, struct txn *txn, struct errctx *ec) CHECKED;
/* Row i of the statement; *c is the schema's user's conversation. NOT_FOUND: not, or no longer, there. */
enum err group_update_row(
    struct group_updates *gs, struct conversation *c, size_t i, struct errctx *ec) CHECKED;
/* After the last row: every group has an owner; its members are told. */
enum err group_updates_finish(struct group_updates *gs, struct errctx *ec) CHECKED;

#endif
