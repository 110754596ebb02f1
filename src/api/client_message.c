#include "api/client_message.h"
#include "api/json_in.h"

/* A number, or its decimal text (as BIGINTs outside the safe range travel). */
static const char *integer_field(const struct json_item *item, int64_t *ret, bool *ret_has, const char *why)
{
    if (item->kind == JSON_IS_NULL)
        return NULL;
    *ret_has = true;
    if (item->kind == JSON_IS_INT)
        *ret = item->i;
    else if (item->kind != JSON_IS_STRING || !str_to_i64(item->s, ret))
        return why;
    return NULL;
}

static const char *positive_field(const struct json_item *item, int64_t *ret, bool *ret_has, const char *why)
{
    const char *bad = integer_field(item, ret, ret_has, why);
    return bad == NULL && *ret < 0 ? why : bad;
}

/* Any JSON but null, as written. */
static void json_field(const struct json_item *item, struct str raw, struct str *ret)
{
    if (item->kind != JSON_IS_NULL)
        *ret = str_trim(raw);
}

static const char *read_text(
    struct str key, const struct json_item *item, struct client_message *m, bool *ret_is)
{
    struct subscribe_request *r = &m->subscribe;
    const struct {
        struct str key;
        struct str *to;
        const char *why;
    } texts[] = {
        {STR("type"), &m->type, "type must be a string"},
        {STR("id"), &m->id, "id must be a string"},
        {STR("text"), &m->text, "text must be a string"},
        {STR("token"), &m->token, "token must be a string"},
        {STR("subscriptionId"), &m->sub_id, "subscriptionId must be a string"},
        {STR("userId"), &r->user_id, "userId must be a string"},
        {STR("conversationId"), &r->conversation_id, "conversationId must be a string"},
        {STR("feed"), &r->feed, "feed must be a string"},
        {STR("conversationType"), &m->conversation_type, "conversationType must be a string"},
        {STR("from"), &m->from, "from must be a string"},
        {STR("clientMsgId"), &m->client_msg_id, "clientMsgId must be a string"},
        {STR("kind"), &m->kind, "kind must be a string"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (!str_eq(key, texts[i].key))
            continue;
        *ret_is = true;
        if (item->kind != JSON_IS_STRING && item->kind != JSON_IS_NULL)
            return texts[i].why;
        if (item->kind == JSON_IS_STRING)
            *texts[i].to = item->s;
    }
    return NULL;
}

static const char *read_field(
    struct str key, const struct json_item *item, struct str raw, struct client_message *m)
{
    struct subscribe_request *r = &m->subscribe;
    bool is = false;
    int64_t seq = 0;
    const char *why = read_text(key, item, m, &is);
    if (is)
        return why;
    if (str_eq(key, STR("msgId")))
        return positive_field(item, &m->msg_id, &m->has_msg_id, "msgId must be a positive integer");
    if (str_eq(key, STR("offset")))
        return positive_field(item, &m->offset, &m->has_offset, "offset must be an integer, not negative");
    if (str_eq(key, STR("lastMsgId")))
        return integer_field(item, &r->last_msg_id, &r->has_last_msg_id, "lastMsgId must be an integer");
    if (str_eq(key, STR("metadata")))
        json_field(item, raw, &m->metadata);
    if (str_eq(key, STR("data")))
        json_field(item, raw, &m->data);
    if (!str_eq(key, STR("lastSeq")))
        return NULL;
    why = positive_field(item, &seq, &r->has_last_seq, "lastSeq must be an integer, not negative");
    r->last_seq = (uint64_t)seq;
    return why;
}

const char *client_message_read(struct str text, struct arena *arena, struct client_message *m)
{
    struct json_in in = json_in(text, arena);
    struct json_item item;
    struct str key;
    const char *why = NULL;
    if (!json_in_object(&in))
        return "a message is a JSON object";
    while (json_in_member(&in, &key)) {
        const char *from = in.p;
        if (!json_in_value(&in, &item))
            break;
        const char *bad = read_field(key, &item, str_n(from, (size_t)(in.p - from)), m);
        why = why != NULL ? why : bad;
    }
    if (!json_in_end(&in))
        return in.why;
    if (why == NULL && m->type.ptr == NULL)
        return "type is missing";
    return why;
}
