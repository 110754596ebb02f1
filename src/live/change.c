#include "live/change.h"
#include "base/json.h"
#include <stdlib.h>

/* A row's JSON is about as long as its envelope plus the column names. */
#define JSON_OVERHEAD_BYTES 200

struct json_text {
    size_t len;
    char bytes[];
};

struct batch *changes_new(uint32_t cap)
{
    struct batch *b = malloc(sizeof *b + cap * sizeof b->changes[0]);
    if (b == NULL)
        return NULL;
    *b = (struct batch){.refs = 1, .cap = cap, .bytes = sizeof *b};
    return b;
}

static void note(struct batch *b, const struct live_change *c)
{
    b->bytes += sizeof *c + 2 * c->row.len + JSON_OVERHEAD_BYTES;
    if (!change_numbered(c->op)) {
        b->has_conversations |= c->op == CHANGE_CONVERSATION;
        return;
    }
    if (b->first_seq == 0)
        b->first_seq = c->seq;
    b->last_seq = c->seq;
}

struct batch *changes_of_event(struct commit_event *ev)
{
    if (ev->nchanges > UINT32_MAX)
        return NULL;
    struct batch *b = changes_new((uint32_t)ev->nchanges);
    if (b == NULL)
        return NULL;
    commit_event_ref(ev);
    b->event = ev;
    for (size_t i = 0; i < ev->nchanges; i++) {
        const struct change *from = &ev->changes[i];
        struct live_change *c = &b->changes[b->n++];
        *c = (struct live_change){
            .batch = b,
            .op = from->op,
            .seq = change_numbered(from->op) ? from->seq : 0,
            .conversation_id = from->conversation_id,
            .row = from->row,
        };
        note(b, c);
    }
    return b;
}

struct batch *changes_of_signal(uint64_t number, struct str conversation_id, struct str json)
{
    struct batch *b = changes_new(1);
    struct buf bytes = BUF_INIT(0);
    if (b == NULL)
        return NULL;
    buf_str(&bytes, json);
    buf_str(&bytes, conversation_id);
    if (bytes.failed) {
        buf_release(&bytes);
        free(b);
        return NULL;
    }
    b->storage = bytes.ptr;
    b->changes[b->n++] = (struct live_change){.batch = b,
        .op = CHANGE_SIGNAL,
        .seq = number,
        .conversation_id = str_n(bytes.ptr + json.len, conversation_id.len),
        .row = str_n(bytes.ptr, json.len)};
    note(b, &b->changes[0]);
    return b;
}

/* While rows grows its bytes move, so `row.ptr` holds an offset until the batch is sealed. */
void changes_add(
    struct batch *b, struct buf *rows, enum change_op op, uint64_t seq, int64_t msg_id, struct str row)
{
    size_t offset = rows->len;
    buf_str(rows, row);
    struct live_change *c = &b->changes[b->n++];
    *c = (struct live_change){
        .batch = b,
        .op = op,
        .seq = seq,
        .msg_id = msg_id,
        .row = {(const char *)(uintptr_t)offset, row.len},
    };
    note(b, c);
}

bool changes_seal(struct batch *b, struct buf *rows)
{
    if (rows->failed)
        return false;
    b->storage = rows->ptr;
    for (uint32_t i = 0; i < b->n; i++)
        b->changes[i].row.ptr = b->storage + (uintptr_t)b->changes[i].row.ptr;
    *rows = BUF_INIT(rows->max_bytes);
    return true;
}

void changes_unref(struct batch *b)
{
    if (--b->refs > 0)
        return;
    for (uint32_t i = 0; i < b->n; i++)
        free(b->changes[i].json);
    if (b->event != NULL)
        commit_event_unref(b->event);
    struct buf storage = {.ptr = b->storage};
    buf_release(&storage);
    free(b);
}

bool changes_match(const struct batch *b, struct str conversation_id)
{
    if (conversation_id.ptr == NULL)
        return true;
    for (uint32_t i = 0; i < b->n; i++)
        if (str_eq(b->changes[i].conversation_id, conversation_id))
            return true;
    return false;
}

void live_change_ref(struct live_change *c)
{
    changes_ref(c->batch);
}

void live_change_unref(struct live_change *c)
{
    changes_unref(c->batch);
}

static void put_columns(struct buf *b, const struct schema *s, const struct value *values, bool deleted)
{
    bool first = true;
    buf_u8(b, '{');
    for (int i = 0; i < s->ncolumns; i++) {
        if ((s->columns[i].flags & COLUMN_HIDDEN) != 0)
            continue;
        if (deleted && i != MSG_ID && i != MSG_CONVERSATION_ID)
            continue;
        if (!first)
            buf_u8(b, ',');
        first = false;
        json_key(b, s->columns[i].name);
        json_value(b, values[i]);
    }
    buf_u8(b, '}');
}

static bool put_delta(struct buf *b, struct str bytes)
{
    struct stream_delta d;
    if (stream_delta_decode(bytes, &d) != ERR_OK)
        return false;
    buf_str(b, STR("{\"msg_id\":"));
    json_i64(b, d.msg_id);
    buf_str(b, STR(",\"conversation_id\":"));
    json_str(b, d.conversation_id);
    buf_printf(b, ",\"offset\":%llu,\"text\":", (unsigned long long)d.offset);
    json_str(b, d.text);
    buf_u8(b, '}');
    return true;
}

static bool put_row(struct buf *b, const struct live_change *c)
{
    const struct schema *s = c->op == CHANGE_CONVERSATION ? &schema_conversations : &schema_messages;
    struct value values[SCHEMA_COLUMNS_MAX];
    struct row_meta meta;
    if (row_decode(c->row, s, &meta, values) != ERR_OK)
        return false;
    put_columns(b, s, values, c->op == CHANGE_DELETE);
    return true;
}

static struct json_text *encode(const struct live_change *c)
{
    struct buf b = BUF_INIT(0);
    bool good = true;
    if (c->op == CHANGE_SIGNAL)
        buf_str(&b, c->row);
    else
        good = c->op == CHANGE_APPEND ? put_delta(&b, c->row) : put_row(&b, c);
    struct json_text *t = !good || b.failed ? NULL : malloc(sizeof *t + b.len);
    if (t != NULL) {
        t->len = b.len;
        memcpy(t->bytes, b.ptr, b.len);
    }
    buf_release(&b);
    return t;
}

/* Two threads may encode the same change at once; the first to publish wins, so the text never changes. */
struct str live_change_json(struct live_change *c)
{
    struct json_text *t = c->json;
    if (t == NULL) {
        struct json_text *mine = encode(c);
        if (mine == NULL)
            return STR_NULL;
        if (atomic_compare_exchange_strong(&c->json, &t, mine))
            t = mine;
        else
            free(mine);
    }
    return str_n(t->bytes, t->len);
}
