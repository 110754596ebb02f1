/* POST /api/v1/conversations: a conversation with its first members, made at once. The answer is its row. */
#include "api/json_in.h"
#include "api/server.h"
#include "base/json.h"
#include <stdlib.h>

#define MEMBERS_MAX 100000 /* what max_group_members may be at most */

struct body {
    struct kalamdb_new_conversation c;
    struct kalamdb_member *members;
    size_t cap_members;
    bool has_members;
};

static const char *take_text(const struct json_item *item, struct kalamdb_str *ret, const char *why)
{
    if (item->kind == JSON_IS_NULL)
        return NULL;
    if (item->kind != JSON_IS_STRING)
        return why;
    *ret = kstr(item->s);
    return NULL;
}

static const char *add_member(struct arena *arena, struct body *b, struct kalamdb_member m)
{
    if (b->c.nmembers == MEMBERS_MAX)
        return "too many members";
    if (b->c.nmembers == b->cap_members) {
        size_t cap = b->cap_members == 0 ? 16 : b->cap_members * 2;
        struct kalamdb_member *grown = arena_array(arena, cap, sizeof *grown);
        if (grown == NULL)
            return "out of memory";
        if (b->c.nmembers > 0)
            memcpy(grown, b->members, b->c.nmembers * sizeof *grown);
        b->members = grown;
        b->cap_members = cap;
    }
    b->members[b->c.nmembers++] = m;
    return NULL;
}

/* {"user_id": "bob", "role": "admin"} */
static const char *read_member(struct json_in *in, struct kalamdb_member *ret)
{
    struct str key;
    struct json_item item;
    const char *why = NULL;
    (void)json_in_object(in);
    while (json_in_member(in, &key) && json_in_value(in, &item)) {
        const char *bad = NULL;
        if (str_eq(key, STR("user_id")))
            bad = take_text(&item, &ret->user_id, "user_id of a member must be a string");
        else if (str_eq(key, STR("role")))
            bad = take_text(&item, &ret->role, "role of a member must be a string");
        why = why != NULL ? why : bad;
    }
    if (in->why == NULL && why == NULL && ret->user_id.ptr == NULL)
        why = "a member has no user_id";
    return in->why != NULL ? in->why : why;
}

static const char *read_members(struct json_in *in, struct body *b)
{
    static const char *const what =
        "members must be an array of user ids, or of objects with user_id and role";
    const char *why = NULL;
    struct json_item item;
    if (b->has_members)
        return "members is given twice";
    b->has_members = true;
    if (json_in_peek(in) != '[')
        return json_in_value(in, &item) ? (item.kind == JSON_IS_NULL ? NULL : what) : in->why;
    (void)json_in_array(in);
    while (why == NULL && json_in_element(in)) {
        struct kalamdb_member m = {0};
        if (json_in_peek(in) == '{')
            why = read_member(in, &m);
        else if (!json_in_value(in, &item))
            why = in->why;
        else if (item.kind != JSON_IS_STRING)
            why = what;
        else
            m.user_id = kstr(item.s);
        if (why == NULL)
            why = add_member(in->arena, b, m);
    }
    return why != NULL ? why : in->why;
}

static const char *read_field(struct json_in *in, struct str key, struct body *b)
{
    struct json_item item;
    if (str_eq(key, STR("members")))
        return read_members(in, b);
    if (!json_in_value(in, &item))
        return in->why;
    if (str_eq(key, STR("conversation_id")))
        return take_text(&item, &b->c.conversation_id, "conversation_id must be a string");
    if (str_eq(key, STR("conversation_type")))
        return take_text(&item, &b->c.type, "conversation_type must be a string");
    if (str_eq(key, STR("title")))
        return take_text(&item, &b->c.title, "title must be a string");
    if (str_eq(key, STR("userId")))
        return take_text(&item, &b->c.user_id, "userId must be a string");
    if (str_eq(key, STR("metadata")) && item.kind != JSON_IS_NULL) {
        if (item.kind != JSON_IS_OBJECT)
            return "metadata must be an object";
        b->c.metadata = kstr(item.s);
    }
    return NULL;
}

static const char *read_body(struct str text, struct arena *arena, struct body *b)
{
    struct json_in in = json_in(text, arena);
    struct str key;
    const char *why = NULL;
    if (!utf8_valid(text))
        return "the body is not UTF-8";
    if (!json_in_object(&in))
        return text.len == 0 ? "the body is empty" : "the body must be a JSON object";
    while (why == NULL && json_in_member(&in, &key))
        why = read_field(&in, key, b);
    if (why == NULL && in.why == NULL && json_in_end(&in) && b->c.conversation_id.ptr == NULL)
        why = "conversation_id is missing";
    b->c.members = b->members;
    return why != NULL ? why : in.why;
}

/* The one row as an object by column name. */
static void write_row(const struct kalamdb_result *r, struct buf *b)
{
    buf_u8(b, '{');
    for (int i = 0; i < kalamdb_result_columns(r); i++) {
        struct kalamdb_value v;
        struct kalamdb_str name = kalamdb_result_column_name(r, i);
        kalamdb_result_value(r, 0, i, &v);
        struct value out = {.type = (enum value_type)v.type};
        if (value_is_bytes(out.type))
            out.s = str_n(v.s.ptr, v.s.len);
        else if (out.type == VALUE_DOUBLE)
            out.d = v.d;
        else
            out.i = v.i;
        if (i > 0)
            buf_u8(b, ',');
        json_key(b, str_n(name.ptr, name.len));
        json_value(b, out);
    }
    buf_u8(b, '}');
}

static void complete(struct call *c)
{
    if (c->result != NULL && kalamdb_result_rows(c->result) > 0) {
        write_row(c->result, &c->req->body);
        answer_json(c, 201);
        return;
    }
    answer_failure(c);
}

/* The one member of an ai conversation may be named, others not. */
static bool only_owner(const struct body *b, struct str owner)
{
    for (size_t i = 0; i < b->c.nmembers; i++) {
        if (!str_eq(str_n(b->members[i].user_id.ptr, b->members[i].user_id.len), owner))
            return false;
    }
    return true;
}

static void finish(struct net_task *task)
{
    complete((struct call *)task);
}

void serve_conversations(struct call *c)
{
    struct body b = {.c = {.caller = principal_caller(c->who)}};
    const char *why = read_body(buf_view(&c->req->in.body), &c->req->arena, &b);
    if (why != NULL) {
        answer_error(c, ERR_INVALID_REQUEST, "%s", why);
        return;
    }
    c->audit.conversation = str_n(b.c.conversation_id.ptr, b.c.conversation_id.len);
    c->audit.user = str_n(b.c.user_id.ptr, b.c.user_id.len);
    if (!call_durability(c, &b.c.durability))
        return;
    if (b.c.user_id.ptr != NULL && c->who->role == ROLE_USER &&
        !str_eq(str_n(b.c.user_id.ptr, b.c.user_id.len), str_n(c->who->user_id, c->who->user_id_len))) {
        answer_error(c, ERR_FORBIDDEN, "userId is not the token's user");
        return;
    }
    if (b.c.type.ptr != NULL && str_eq(str_n(b.c.type.ptr, b.c.type.len), STR("ai"))) {
        if (!only_owner(&b, b.c.user_id.ptr != NULL ? str_n(b.c.user_id.ptr, b.c.user_id.len)
                                                    : str_n(c->who->user_id, c->who->user_id_len))) {
            answer_error(c, ERR_INVALID_REQUEST, "an ai conversation has no members but its owner");
            return;
        }
        b.c.nmembers = 0;
    }
    c->task.run = finish;
    call_submit_begin(c);
    kalamdb_create_conversation(c->worker->server->db, &b.c, call_done, c, &c->query);
    if (call_submit_end(c))
        complete(c);
}
