#include "chat_fixture.h"

struct fixture store_fixture;
struct errctx last_error;
const struct caller alice = {{"alice", 5}, ROLE_USER}, bob = {{"bob", 3}, ROLE_USER},
                    service = {{"worker", 6}, ROLE_SERVICE};

static struct arena arena;
static struct snapshot *held;

int chat_setup(void **state)
{
    (void)state;
    fixture_open(&store_fixture);
    arena_init(&arena, (size_t)64 << 20);
    errctx_clear(&last_error);
    return 0;
}

int chat_teardown(void **state)
{
    (void)state;
    snapshot_close(held);
    held = NULL;
    arena_release(&arena);
    fixture_close(&store_fixture);
    return 0;
}

static struct value text_or_null(const char *s)
{
    return s != NULL ? value_text(str_c(s)) : VALUE_OF_NULL;
}

static enum err apply_append(struct txn *txn, void *arg, struct errctx *ec)
{
    return chat_append_apply(arg, txn, ec);
}

enum err say(const struct caller *caller, const char *owner, size_t n, const struct say *lines,
    struct chat_append *ret)
{
    struct chat_limits limits = {.content_bytes_max = 1000};
    *ret = (struct chat_append){.caller = caller,
        .owner = str_c(owner),
        .nmessages = n,
        .messages = arena_array(&arena, n, sizeof *ret->messages)};
    for (size_t i = 0; i < n; i++) {
        struct value *v = ret->messages[i].values;
        v[MSG_CONVERSATION_ID] = text_or_null(lines[i].conversation);
        v[MSG_CONTENT] = text_or_null(lines[i].content);
        v[MSG_FROM] = text_or_null(lines[i].from);
        v[MSG_CONVERSATION_TYPE] = text_or_null(lines[i].type);
        v[MSG_CLIENT_MSG_ID] = text_or_null(lines[i].client_id);
        if (lines[i].id != 0) {
            v[MSG_ID] = value_i64(lines[i].id);
            ret->messages[i].id_given = true;
        }
    }
    errctx_clear(&last_error);
    enum err e = chat_append_check(ret, &limits, &arena, &last_error);
    return e != ERR_OK ? e : commit(store_fixture.store, apply_append, ret, DURABILITY_ASYNC, &last_error);
}

int64_t said(const char *conversation, const char *content)
{
    struct chat_append a;
    enum err e = say(&alice, "alice", 1, &(struct say){conversation, content}, &a);
    if (e != ERR_OK)
        fail_msg("%s: %s", err_wire(e), last_error.message);
    assert_int_equal(a.inserted, 1);
    return a.messages[0].msg_id;
}

static enum err apply_create(struct txn *txn, void *arg, struct errctx *ec)
{
    return chat_create_apply(arg, txn, ec);
}

enum err run_create(struct chat_create *c)
{
    errctx_clear(&last_error);
    enum err e = chat_create_check(c, &last_error);
    return e != ERR_OK ? e : commit(store_fixture.store, apply_create, c, DURABILITY_ASYNC, &last_error);
}

static enum err apply_update(struct txn *txn, void *arg, struct errctx *ec)
{
    return chat_update_apply(arg, txn, ec);
}

enum err run_update(struct chat_update *u)
{
    errctx_clear(&last_error);
    enum err e = chat_update_check_columns(u->schema, u->columns, &last_error);
    return e != ERR_OK ? e : commit(store_fixture.store, apply_update, u, DURABILITY_ASYNC, &last_error);
}

static enum err apply_messages_update(struct txn *txn, void *arg, struct errctx *ec)
{
    return chat_messages_update(arg, txn, ec);
}

static enum err apply_messages_delete(struct txn *txn, void *arg, struct errctx *ec)
{
    return chat_messages_delete(arg, txn, ec);
}

enum err change_messages(size_t n, const int64_t *ids, const char *content)
{
    struct snapshot *snap;
    errctx_clear(&last_error);
    assert_int_equal(snapshot_open(store_fixture.store, alice.user_id, &snap, &last_error), ERR_OK);
    struct chat_change c = {.caller = &alice,
        .owner = alice.user_id,
        .cold_epoch = snapshot_cold_epoch(snap),
        .nrows = n,
        .rows = arena_array(&arena, n, sizeof *c.rows)};
    for (size_t i = 0; i < n; i++) {
        struct row_meta meta;
        c.rows[i].values = arena_array(&arena, MSG_NCOLUMNS, sizeof(struct value));
        assert_int_equal(snapshot_message(snap, ids[i], &meta, c.rows[i].values, &last_error), ERR_OK);
        c.rows[i].seq = meta.seq;
        c.rows[i].ins_seq = meta.ins_seq;
        if (content != NULL)
            c.rows[i].values[MSG_CONTENT] = value_text(str_c(content));
    }
    enum err e = chat_change_group(&c, &arena, &last_error);
    if (e == ERR_OK)
        e = commit(store_fixture.store, content != NULL ? apply_messages_update : apply_messages_delete, &c,
            DURABILITY_ASYNC, &last_error);
    snapshot_close(snap);
    return e;
}

bool conversation_of(const char *user, const char *id, struct value *ret)
{
    struct errctx ec;
    snapshot_close(held);
    assert_int_equal(snapshot_open(store_fixture.store, str_c(user), &held, &ec), ERR_OK);
    enum err e = snapshot_conversation(held, str_c(id), ret, &ec);
    assert_true(e == ERR_OK || e == ERR_NOT_FOUND);
    return e == ERR_OK;
}

uint64_t seq_of(const char *user)
{
    struct errctx ec;
    struct snapshot *snap;
    assert_int_equal(snapshot_open(store_fixture.store, str_c(user), &snap, &ec), ERR_OK);
    uint64_t seq = snapshot_seq(snap);
    snapshot_close(snap);
    return seq;
}
