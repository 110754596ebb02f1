/* Checks that several operations of chat share. Pure functions, any thread. */
#ifndef KALAMDB_CHAT_RULES_H
#define KALAMDB_CHAT_RULES_H

#include "chat/chat.h"

/* CONSTRAINT: NULL, empty or too long. */
enum err rule_conversation_id(const struct schema *schema, struct value id, struct errctx *ec) CHECKED;
/* CONSTRAINT: neither NULL, `ai` nor `group`. */
enum err rule_conversation_type(const struct schema *schema, struct value type, struct errctx *ec) CHECKED;
/* FORBIDDEN: a sender that `caller` may not use in a conversation of its own. CONSTRAINT: empty, too long. */
enum err rule_sender(const struct caller *caller, struct str from, struct errctx *ec) CHECKED;
/* FORBIDDEN: a sender that `caller` may not use in a group, where a user sends only as themselves. */
enum err rule_group_sender(const struct caller *caller, struct str from, struct errctx *ec) CHECKED;
enum err rule_content(struct value content, const struct chat_limits *limits, struct errctx *ec) CHECKED;
enum err rule_not_null(const struct schema *schema, int column, struct errctx *ec) CHECKED;
enum err rule_kept_by_engine(const struct schema *schema, int column, struct errctx *ec) CHECKED;

/* Numbers the distinct ones of n strings in order of their bytes: ret_index[i] is the number of strings[i],
 * (*ret_distinct)[ret_index[i]] equals it. */
enum err rule_distinct(size_t n, const struct str *strings, struct arena *arena, uint32_t *ret_index,
    struct str **ret_distinct, uint32_t *ret_ndistinct, struct errctx *ec) CHECKED;

bool rule_same_value(struct value a, struct value b);
/* Is the row as it was read? What this statement sets counts as well: another one may have been first. */
bool rule_same_row(const struct schema *schema, const struct value *read, const struct value *now);

/* FORBIDDEN: `user` is no present member of the group. */
enum err rule_no_member(struct str conversation_id, struct str user, struct errctx *ec) CHECKED;
/* Writes the row and the one member of a new `ai` conversation of `owner`. */
enum err rule_make_conversation(struct txn *txn, struct conversation *c, struct str owner,
    const struct value *values, bool announce, struct errctx *ec) CHECKED;

/* One row of chat_create_apply, not announced when it is a group's; *ret_group not `exists` for an ai one. */
enum err chat_create_one(struct chat_create *cr, struct txn *txn, uint64_t user_no, struct value *values,
    struct group *ret_group, struct errctx *ec) CHECKED;

/* ---- groups: group.c ---- */

/* Makes the group with the schema's user as its owner: record, member, and the conversation row *c. Title and
 * metadata are from `values` (by column of schema_conversations). Announces nothing. */
enum err group_make(struct txn *txn, struct conversation *c, struct str owner, const struct value *values,
    struct group *ret, struct member *ret_owner, struct errctx *ec) CHECKED;

#endif
