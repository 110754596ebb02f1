#include "chat/rules.h"
#include <stdlib.h>

/* Senders that are no users (contract section 1), alone or with a suffix behind a colon. */
static const struct str senders[] = {{"ai", 2}, {"assistant", 9}, {"system", 6}, {"tool", 4}, {"bot", 3}};
#define NSENDERS (sizeof senders / sizeof *senders)

static bool is_sender_stem(struct str s)
{
    for (size_t i = 0; i < NSENDERS; i++) {
        if (str_eq(s, senders[i]))
            return true;
    }
    return false;
}

bool chat_sender_is_reserved(struct str from)
{
    size_t colon = str_find(from, ':');
    if (colon + 1 == from.len) /* a colon without a suffix names nobody */
        return false;
    return is_sender_stem(str_n(from.ptr, colon));
}

enum err rule_not_null(const struct schema *schema, int column, struct errctx *ec)
{
    return err_set(ec, ERR_CONSTRAINT,
        "null value in column \"%.*s\" of relation \"%.*s\" violates not-null constraint",
        STR_FMT(schema->columns[column].name), STR_FMT(schema->name));
}

enum err rule_kept_by_engine(const struct schema *schema, int column, struct errctx *ec)
{
    return err_set(ec, ERR_FORBIDDEN, "column \"%.*s\" of relation \"%.*s\" is kept by the engine",
        STR_FMT(schema->columns[column].name), STR_FMT(schema->name));
}

enum err rule_conversation_id(const struct schema *schema, struct value id, struct errctx *ec)
{
    if (id.type == VALUE_NULL)
        return rule_not_null(schema, schema_column(schema, STR("conversation_id")), ec);
    if (id.s.len == 0 || id.s.len > CHAT_ID_BYTES_MAX)
        return err_set(ec, ERR_CONSTRAINT, "conversation_id must be 1 to %d bytes long", CHAT_ID_BYTES_MAX);
    return ERR_OK;
}

enum err rule_conversation_type(const struct schema *schema, struct value type, struct errctx *ec)
{
    if (type.type == VALUE_NULL || str_eq(type.s, STR("ai")) || str_eq(type.s, STR("group")))
        return ERR_OK;
    err_set(ec, ERR_CONSTRAINT, "conversation_type of relation \"%.*s\" must be 'ai' or 'group'",
        STR_FMT(schema->name));
    return ec->code;
}

enum err rule_sender(const struct caller *caller, struct str from, struct errctx *ec)
{
    if (str_eq(from, caller->user_id))
        return ERR_OK;
    if (caller->role == ROLE_USER && !chat_sender_is_reserved(from)) {
        err_set(ec, ERR_FORBIDDEN, "sending as \"%.*s\" is not allowed",
            (int)utf8_cut(from, CHAT_ID_BYTES_MAX), from.ptr != NULL ? from.ptr : "");
        err_hint(ec,
            "A user sends as themselves or, in their own ai conversations, as ai, assistant, system, tool "
            "or bot, also with a suffix such as assistant:gpt.");
        return ec->code;
    }
    if (from.len == 0 || from.len > CHAT_ID_BYTES_MAX)
        return err_set(ec, ERR_CONSTRAINT, "\"from\" must be 1 to %d bytes long", CHAT_ID_BYTES_MAX);
    return ERR_OK;
}

enum err rule_group_sender(const struct caller *caller, struct str from, struct errctx *ec)
{
    if (caller->role != ROLE_USER || str_eq(from, caller->user_id))
        return ERR_OK;
    err_set(ec, ERR_FORBIDDEN, "sending as \"%.*s\" is not allowed in a group",
        (int)utf8_cut(from, CHAT_ID_BYTES_MAX), from.ptr != NULL ? from.ptr : "");
    err_hint(ec, "In groups a user sends only as themselves.");
    return ec->code;
}

enum err rule_content(struct value content, const struct chat_limits *limits, struct errctx *ec)
{
    if (content.type == VALUE_NULL)
        return rule_not_null(&schema_messages, MSG_CONTENT, ec);
    if (content.s.len > limits->content_bytes_max)
        return err_set(ec, ERR_TOO_LARGE, "content of %zu bytes is over max_content_bytes (%zu)",
            content.s.len, limits->content_bytes_max);
    return ERR_OK;
}

struct keyed {
    struct str s;
    size_t at;
};

static int keyed_cmp(const void *a, const void *b)
{
    const struct keyed *x = a, *y = b;
    return str_cmp(x->s, y->s);
}

enum err rule_distinct(size_t n, const struct str *strings, struct arena *arena, uint32_t *ret_index,
    struct str **ret_distinct, uint32_t *ret_ndistinct, struct errctx *ec)
{
    if (n >= UINT32_MAX)
        return err_set(ec, ERR_TOO_LARGE, "too many rows");
    struct keyed *k = arena_array(arena, n, sizeof *k);
    struct str *distinct = arena_array(arena, n, sizeof *distinct);
    if (n > 0 && (k == NULL || distinct == NULL))
        return err_internal(ec, ERR_NO_MEMORY, "grouping %zu rows by conversation", n);
    for (size_t i = 0; i < n; i++)
        k[i] = (struct keyed){strings[i], i};
    if (n > 1)
        qsort(k, n, sizeof *k, keyed_cmp);
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || !str_eq(k[i].s, k[i - 1].s))
            distinct[count++] = k[i].s;
        ret_index[k[i].at] = count - 1;
    }
    *ret_distinct = distinct;
    *ret_ndistinct = count;
    return ERR_OK;
}

bool rule_same_value(struct value a, struct value b)
{
    if (a.type != b.type)
        return false;
    return a.type == VALUE_NULL || value_cmp(a, b) == 0;
}

bool rule_same_row(const struct schema *schema, const struct value *read, const struct value *now)
{
    for (int i = 0; i < schema->ncolumns; i++) {
        if (!rule_same_value(read[i], now[i]))
            return false;
    }
    return true;
}

enum err rule_make_conversation(struct txn *txn, struct conversation *c, struct str owner,
    const struct value *values, bool announce, struct errctx *ec)
{
    int64_t now = txn_now_us(txn);
    c->values[CONV_ID] = values[CONV_ID];
    c->values[CONV_TYPE] = value_text(STR("ai"));
    c->values[CONV_TITLE] = values[CONV_TITLE];
    c->values[CONV_FIRST_MSG_ID] = VALUE_OF_NULL;
    c->values[CONV_LAST_MSG_ID] = VALUE_OF_NULL;
    c->values[CONV_TOTAL_MESSAGES] = value_i64(0);
    c->values[CONV_CREATED] = value_ts(now);
    c->values[CONV_UPDATED] = value_ts(now);
    c->values[CONV_METADATA] = values[CONV_METADATA];
    c->values[CONV_READ_MSG_ID] = VALUE_OF_NULL;
    c->values[CONV_UNREAD] = value_i64(0);
    enum err e = txn_conversation_put(txn, c, announce, ec);
    if (e != ERR_OK)
        return e;
    struct value member[MEMBER_NCOLUMNS] = {
        [MEMBER_CONVERSATION_ID] = values[CONV_ID],
        [MEMBER_USER_ID] = value_text(owner),
        [MEMBER_ROLE] = value_text(STR("owner")),
        [MEMBER_JOINED] = value_ts(now),
    };
    return txn_member_put(txn, c, member, ec);
}

enum err rule_no_member(struct str conversation_id, struct str user, struct errctx *ec)
{
    return err_set(ec, ERR_FORBIDDEN, "\"%.*s\" is no member of conversation \"%.*s\"", STR_FMT(user),
        STR_FMT(conversation_id));
}
