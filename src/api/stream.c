#include "api/stream.h"
#include "base/json.h"
#include <stdlib.h>

struct stream_id {
    struct stream_id *next;
    uint64_t tag;
    size_t len; /* SIZE_MAX: no id was given */
    char id[];
};

bool stream_call_is(struct str type)
{
    return str_eq(type, STR("append")) || str_eq(type, STR("stream_begin")) ||
           str_eq(type, STR("stream_end"));
}

const char *stream_call(struct kalamdb_producer *p, const struct kalamdb_caller *caller,
    const struct client_message *m, uint64_t tag)
{
    if (str_eq(m->type, STR("stream_begin"))) {
        if (m->subscribe.conversation_id.ptr == NULL)
            return "conversationId is missing";
        struct kalamdb_stream_begin begin = {.caller = *caller,
            .user_id = kstr(m->subscribe.user_id),
            .conversation_id = kstr(m->subscribe.conversation_id),
            .conversation_type = kstr(m->conversation_type),
            .from = kstr(m->from),
            .metadata = kstr(m->metadata),
            .client_msg_id = kstr(m->client_msg_id)};
        kalamdb_stream_begin(p, &begin, tag);
        return NULL;
    }
    if (!m->has_msg_id)
        return "msgId is missing";
    if (str_eq(m->type, STR("stream_end"))) {
        kalamdb_stream_end(p, caller, m->msg_id, kstr(m->metadata), tag);
        return NULL;
    }
    if (!m->has_offset)
        return "offset is missing";
    if (m->text.ptr == NULL)
        return "text is missing";
    kalamdb_stream_append(p, caller, m->msg_id, (uint64_t)m->offset, kstr(m->text), tag);
    return NULL;
}

const char *stream_error_code(kalamdb_code code)
{
    switch (kalamdb_code_status(code)) {
    case 401:
    case 403:
        return "FORBIDDEN";
    case 429:
        return "RATE_LIMITED";
    case 500:
    case 503:
        return "INTERNAL";
    default:
        return strcmp(kalamdb_code_name(code), "UNSUPPORTED") == 0 ? "UNSUPPORTED" : "INVALID_MESSAGE";
    }
}

static void put_place(struct buf *b, const struct kalamdb_stream_event *ev)
{
    if (ev->msg_id != 0) {
        buf_str(b, STR(",\"msgId\":"));
        json_i64(b, ev->msg_id);
    }
    if (ev->kind != KALAMDB_STREAM_ERROR || ev->has_offset)
        buf_printf(b, ",\"offset\":%llu", (unsigned long long)ev->offset);
}

void stream_event_json(struct buf *b, const struct kalamdb_stream_event *ev, struct str id)
{
    static const char *const types[] = {[KALAMDB_STREAM_BEGUN] = "stream_ack",
        [KALAMDB_STREAM_ACK] = "append_ack",
        [KALAMDB_STREAM_ENDED] = "stream_end_ack",
        [KALAMDB_STREAM_ERROR] = "error"};
    buf_printf(b, "{\"type\":\"%s\"", types[ev->kind]);
    if (id.ptr != NULL) {
        buf_str(b, STR(",\"id\":"));
        json_str(b, id);
    }
    if (ev->kind == KALAMDB_STREAM_ERROR) {
        bool ours = kalamdb_code_status(ev->error.code) == 500;
        buf_printf(b, ",\"code\":\"%s\",\"message\":", stream_error_code(ev->error.code));
        json_str(b, str_c(ours ? "internal error" : ev->error.message));
    }
    put_place(b, ev);
    if (ev->kind == KALAMDB_STREAM_BEGUN && ev->ended)
        buf_str(b, STR(",\"ended\":true"));
    buf_u8(b, '}');
}

void stream_refusal_json(struct buf *b, const char *code, const char *why, const struct client_message *m)
{
    buf_printf(b, "{\"type\":\"error\",\"code\":\"%s\",\"message\":", code);
    json_str(b, str_c(why));
    if (m->has_msg_id) {
        buf_str(b, STR(",\"msgId\":"));
        json_i64(b, m->msg_id);
    }
    if (m->id.ptr != NULL) {
        buf_str(b, STR(",\"id\":"));
        json_str(b, m->id);
    }
    buf_u8(b, '}');
}

/* ---- ids ---- */

uint64_t stream_ids_add(struct stream_ids *ids, struct str id)
{
    struct stream_id *one =
        ids->count < STREAM_IDS_MAX ? malloc(sizeof *one + (id.ptr != NULL ? id.len : 0)) : NULL;
    if (one == NULL)
        return 0;
    *one =
        (struct stream_id){.next = ids->first, .tag = ++ids->next, .len = id.ptr != NULL ? id.len : SIZE_MAX};
    if (id.ptr != NULL)
        memcpy(one->id, id.ptr, id.len);
    ids->first = one;
    ids->count++;
    return one->tag;
}

struct str stream_ids_take(struct stream_ids *ids, uint64_t tag, struct arena *arena)
{
    struct stream_id **link = &ids->first;
    if (tag == 0)
        return STR_NULL;
    while (*link != NULL && (*link)->tag != tag)
        link = &(*link)->next;
    struct stream_id *one = *link;
    if (one == NULL)
        return STR_NULL;
    *link = one->next;
    ids->count--;
    struct str id = one->len != SIZE_MAX ? arena_str(arena, str_n(one->id, one->len)) : STR_NULL;
    free(one);
    return id;
}

void stream_ids_release(struct stream_ids *ids)
{
    while (ids->first != NULL) {
        struct stream_id *next = ids->first->next;
        free(ids->first);
        ids->first = next;
    }
    ids->count = 0;
}
