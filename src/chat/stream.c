#include "chat/stream.h"
#include "base/json_object.h"
#include "chat/rules.h"
#include "store/group.h"

static const struct str key = {"stream", 6};
static const struct str opened = {"{\"stream\":\"open\"}", 17},
                        interrupted = {"{\"stream\":\"interrupted\"}", 24};

enum err chat_stream_metadata_check(struct value metadata, struct errctx *ec)
{
    if (!value_is_null(metadata) && !json_text_is_object(metadata.s))
        return err_set(ec, ERR_INVALID_REQUEST, "metadata of a streamed message must be an object");
    return ERR_OK;
}

/* The metadata of a row with `more` merged in and the state as given (ptr NULL: none). */
static enum err with_state(struct value metadata, struct value more, struct str state, struct arena *arena,
    struct value *ret, struct errctx *ec)
{
    struct buf merged = BUF_INIT(0), done = BUF_INIT(0);
    struct str a = value_is_null(metadata) || !json_text_is_object(metadata.s) ? STR_NULL : metadata.s;
    (void)json_text_merge(&merged, a, value_is_null(more) ? STR_NULL : more.s, key);
    bool any = json_text_merge(&done, buf_view(&merged), state, key);
    struct str copy = merged.failed || done.failed ? STR_NULL : arena_str(arena, buf_view(&done));
    buf_release(&merged);
    buf_release(&done);
    if (copy.ptr == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "metadata of a stream");
    *ret = any ? value_json(copy) : VALUE_OF_NULL;
    return ERR_OK;
}

/* ---- begin ---- */

enum err chat_stream_begin_check(
    struct chat_stream_begin *b, const struct chat_limits *limits, struct arena *arena, struct errctx *ec)
{
    struct value *v = b->append.messages[0].values;
    v[MSG_CONTENT] = value_text(STR(""));
    enum err e = chat_stream_metadata_check(v[MSG_METADATA], ec);
    if (e == ERR_OK)
        e = with_state(v[MSG_METADATA], VALUE_OF_NULL, opened, arena, &v[MSG_METADATA], ec);
    return e == ERR_OK ? chat_append_check(&b->append, limits, arena, ec) : e;
}

enum err chat_stream_begin_apply(struct chat_stream_begin *b, struct txn *txn, struct errctx *ec)
{
    struct chat_message *m = &b->append.messages[0];
    struct value values[MSG_NCOLUMNS];
    uint64_t owner_no, home;
    memcpy(values, m->values, sizeof values); /* an apply may come again */
    b->known = false;
    txn_stream_opening(txn, 0);
    enum err e = chat_append_apply(&b->append, txn, ec);
    int64_t msg_id = m->msg_id;
    bool inserted = m->inserted;
    memcpy(m->values, values, sizeof values);
    if (e != ERR_OK)
        return e;
    if (!inserted) {
        e = txn_stream(txn, msg_id, &b->record, ec);
        b->known = e == ERR_OK;
        return e == ERR_NOT_FOUND ? ERR_OK : e;
    }
    uint64_t copies = txn_stream_opened(txn, &home);
    e = txn_user(txn, b->append.owner, false, &owner_no, ec);
    if (e != ERR_OK)
        return e;
    b->record = (struct stream_record){.state = STREAM_OPEN,
        .group = home != owner_no,
        .home = home,
        .copies = copies,
        .changed_us = txn_now_us(txn),
        .owner = b->append.owner,
        .producer = b->producer,
        .conversation_id = values[MSG_CONVERSATION_ID].s};
    b->known = true;
    return txn_stream_put(txn, msg_id, &b->record, ec);
}

/* ---- text ---- */

enum err chat_stream_append(const struct chat_stream_text *t, struct txn *txn, struct errctx *ec)
{
    if (!t->group) { /* its owner may be erased, and nothing may come after what removes the partition */
        enum err e = txn_partition(txn, t->home, ec);
        if (e != ERR_OK)
            return e;
        txn_stream_chunk(txn, t->home, &t->delta);
        return txn_stream_announce(txn, t->home, &t->delta, ec);
    }
    txn_stream_chunk(txn, t->home, &t->delta);
    struct group g = {.group_no = t->home}; /* its list is there even when the group is gone */
    const uint64_t *members;
    size_t n;
    enum err e = txn_group_present(txn, &g, &members, &n, ec);
    /* Who came later, or deleted their copy, hears nothing of it. */
    for (size_t i = 0; e == ERR_OK && i < n; i++)
        if (txn_stream_reaches(txn, members[i], t->delta.msg_id))
            e = txn_stream_announce(txn, members[i], &t->delta, ec);
    return e;
}

/* ---- end ---- */

struct closing {
    struct chat_stream_close *c;
    struct txn *txn;
    struct str text; /* what the rows get */
    bool text_known;
    uint64_t closed;
};

static enum err settle_text(struct closing *cl, struct str base, struct errctx *ec)
{
    struct chat_stream_close *c = cl->c;
    if (cl->text_known)
        return ERR_OK;
    cl->text = c->text;
    if (!c->has_text) {
        enum err e = txn_stream_text(cl->txn, c->record.home, c->msg_id, base, &cl->text, ec);
        if (e != ERR_OK)
            return e;
    }
    if (value_is_null(c->content_ref))
        c->bytes = cl->text.len;
    cl->text_known = true;
    return ERR_OK;
}

static enum err close_copy(struct closing *cl, uint64_t user_no, struct errctx *ec)
{
    struct chat_stream_close *c = cl->c;
    struct row_meta meta;
    struct value v[MSG_NCOLUMNS];
    struct conversation conversation;
    enum err e = txn_stream_copy(cl->txn, user_no, c->msg_id, &meta, v, ec);
    if (e == ERR_NOT_FOUND || (e == ERR_OK && (meta.flags & ROW_OPEN) == 0))
        return ERR_OK;
    if (e == ERR_OK)
        e = settle_text(cl, v[MSG_CONTENT].s, ec);
    if (e == ERR_OK)
        e = with_state(v[MSG_METADATA], c->metadata, c->interrupt ? interrupted : STR_NULL,
            txn_arena(cl->txn), &v[MSG_METADATA], ec);
    if (e == ERR_OK)
        e = txn_conversation(cl->txn, user_no, v[MSG_CONVERSATION_ID].s, &conversation, ec);
    if (e != ERR_OK)
        return e;
    v[MSG_CONTENT] = value_text(cl->text);
    v[MSG_CONTENT_REF] = c->content_ref;
    cl->closed++;
    return txn_message_update(
        cl->txn, &conversation, v, meta.seq, meta.ins_seq, txn_cold_epoch(cl->txn, user_no), STR_NULL, ec);
}

static enum err close_copies(struct closing *cl, struct errctx *ec)
{
    const struct stream_record *r = &cl->c->record;
    if (!r->group)
        return close_copy(cl, r->home, ec);
    struct group g = {.group_no = r->home};
    struct member *members;
    size_t n;
    enum err e = txn_group_members(cl->txn, &g, true, &members, &n, ec);
    for (size_t i = 0; e == ERR_OK && i < n; i++)
        e = close_copy(cl, members[i].user_no, ec);
    return e;
}

enum err chat_stream_close_apply(struct chat_stream_close *c, struct txn *txn, struct errctx *ec)
{
    struct closing cl = {.c = c, .txn = txn};
    enum err e = txn_stream(txn, c->msg_id, &c->record, ec);
    if (e != ERR_OK || c->record.state != STREAM_OPEN)
        return e;
    txn_stream_closing(txn);
    e = close_copies(&cl, ec);
    if (e == ERR_OK)
        e = txn_stream_clear(txn, c->record.home, c->msg_id, ec);
    if (e != ERR_OK)
        return e;
    c->record.state = c->interrupt ? STREAM_INTERRUPTED : STREAM_ENDED;
    c->record.copies = 0;
    c->record.bytes = c->bytes;
    c->record.changed_us = txn_now_us(txn);
    return txn_stream_put(txn, c->msg_id, &c->record, ec);
}

/* ---- going on ---- */

enum err chat_stream_reopen_row(struct value *values, struct arena *arena, struct errctx *ec)
{
    if (!value_is_null(values[MSG_CONTENT_REF]))
        return err_set(ec, ERR_CONFLICT, "the message was edited since and cannot be gone on with");
    return with_state(values[MSG_METADATA], VALUE_OF_NULL, opened, arena, &values[MSG_METADATA], ec);
}

enum err chat_stream_reopen_begin(struct txn *txn, int64_t msg_id, struct errctx *ec)
{
    struct stream_record r;
    enum err e = txn_stream(txn, msg_id, &r, ec);
    if (e != ERR_OK)
        return e;
    if (r.state != STREAM_INTERRUPTED)
        return err_set(ec, ERR_CONFLICT, "the stream of message %lld is not interrupted", (long long)msg_id);
    txn_stream_opening(txn, r.home);
    return ERR_OK;
}

enum err chat_stream_reopen_end(struct txn *txn, int64_t msg_id, struct errctx *ec)
{
    struct stream_record r;
    uint64_t home;
    enum err e = txn_stream(txn, msg_id, &r, ec);
    if (e != ERR_OK)
        return e;
    r.state = STREAM_OPEN;
    r.copies = txn_stream_opened(txn, &home);
    r.changed_us = txn_now_us(txn);
    return txn_stream_put(txn, msg_id, &r, ec);
}

/* ---- erasure ---- */

enum err chat_stream_erase(struct txn *txn, uint64_t user_no, int64_t msg_id, struct errctx *ec)
{
    struct stream_record r;
    enum err e = txn_stream(txn, msg_id, &r, ec);
    if (e != ERR_OK)
        return e == ERR_NOT_FOUND ? ERR_OK : e;
    /* What is in the partition that goes needs no end: its chunks go with it. */
    struct chat_stream_close c = {.msg_id = msg_id, .interrupt = true};
    if (r.state == STREAM_OPEN && r.home != user_no)
        e = chat_stream_close_apply(&c, txn, ec);
    if (e == ERR_OK || e == ERR_NOT_FOUND)
        txn_stream_drop(txn, msg_id);
    return e == ERR_NOT_FOUND ? ERR_OK : e;
}

/* ---- leaving ---- */

static enum err leave_one(struct txn *txn, uint64_t user_no, int64_t msg_id, struct errctx *ec)
{
    struct chat_stream_close c = {.msg_id = msg_id, .interrupt = true};
    struct closing cl = {.c = &c, .txn = txn};
    uint64_t owner_no;
    enum err e = txn_stream(txn, msg_id, &c.record, ec);
    if (e != ERR_OK || c.record.state != STREAM_OPEN)
        return e == ERR_NOT_FOUND ? ERR_OK : e;
    e = txn_user(txn, c.record.owner, false, &owner_no, ec);
    if (e == ERR_OK && owner_no == user_no) { /* nobody says a word for who is no member */
        txn_stream_lost(txn);
        return chat_stream_close_apply(&c, txn, ec);
    }
    if (e != ERR_OK && e != ERR_NOT_FOUND)
        return e;
    e = close_copy(&cl, user_no, ec);
    if (e != ERR_OK || cl.closed == 0)
        return e;
    return txn_stream_lose(txn, msg_id, ec);
}

enum err chat_stream_leave(struct txn *txn, uint64_t user_no, uint64_t group_no, struct errctx *ec)
{
    struct stream_note *notes;
    size_t n;
    enum err e = txn_stream_notes(txn, user_no, &notes, &n, ec);
    if (e == ERR_OK && n > 0)
        txn_stream_closing(txn);
    for (size_t i = 0; e == ERR_OK && i < n; i++)
        if (notes[i].home == group_no)
            e = leave_one(txn, user_no, notes[i].msg_id, ec);
    return e;
}
