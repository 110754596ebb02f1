/* History copies, chunk by chunk: what happens between the reading of a chunk and its commit. */
#include "chat_fixture.h"
#include "store/backfill.h"

enum { MESSAGES = 6 };
static int64_t ids[MESSAGES];

static enum err apply_add(struct txn *txn, void *arg, struct errctx *ec)
{
    return chat_members_add_apply(arg, txn, ec);
}

static void add(const char *user)
{
    struct arena arena;
    struct value row[1][MEMBER_NCOLUMNS] = {
        {[MEMBER_CONVERSATION_ID] = value_text(STR("g")), [MEMBER_USER_ID] = value_text(str_c(user))}};
    struct chat_members_add a = {
        .caller = &alice, .owner = alice.user_id, .group_members_max = 9, .nrows = 1, .rows = row};
    arena_init(&arena, 1 << 20);
    assert_int_equal(chat_members_add_check(&a, &arena, &last_error), ERR_OK);
    assert_int_equal(commit(store_fixture.store, apply_add, &a, DURABILITY_ASYNC, &last_error), ERR_OK);
    arena_release(&arena);
}

static enum err apply_leave(struct txn *txn, void *arg, struct errctx *ec)
{
    struct group g;
    struct member m;
    enum err e = txn_group(txn, STR("g"), &g, ec);
    if (e == ERR_OK)
        e = txn_group_member(txn, &g, str_c(arg), &m, ec);
    return e == ERR_OK ? chat_group_leave(txn, &g, &m, ec) : e;
}

static void leave(const char *user)
{
    assert_int_equal(
        commit(store_fixture.store, apply_leave, (void *)user, DURABILITY_ASYNC, &last_error), ERR_OK);
}

/* A group of alice and bob with messages and a shared history; carol has just joined. */
static void make_group(struct backfill *ret)
{
    struct value rows[1][CONV_NCOLUMNS] = {{[CONV_ID] = value_text(STR("g")),
        [CONV_TYPE] = value_text(STR("group")),
        [CONV_METADATA] = value_json(STR("{\"history\":\"shared\"}"))}};
    struct chat_create c = {.caller = &alice, .owner = alice.user_id, .nrows = 1, .rows = rows};
    assert_int_equal(run_create(&c), ERR_OK);
    add("bob");
    for (int i = 0; i < MESSAGES; i++)
        ids[i] = said("g", "x");
    add("carol");
    assert_int_equal(store_backfill_next(store_fixture.store, 0, 0, ret, &last_error), ERR_OK);
    assert_int_equal(ret->until, ids[MESSAGES - 1]);
    assert_int_equal(ret->total, MESSAGES);
}

static struct value page[MESSAGES][MSG_NCOLUMNS];
static struct snapshot *held;

/* Messages from..to of a member as the chunk that follows b. */
static struct backfill_chunk chunk_of(const char *source, const struct backfill *b, int from, int to)
{
    struct backfill_chunk ch = {
        .b = *b, .nrows = (size_t)(to - from + 1), .rows = page, .last = to == MESSAGES - 1};
    struct row_meta meta;
    snapshot_close(held);
    assert_int_equal(snapshot_open(store_fixture.store, str_c(source), &held, &last_error), ERR_OK);
    ch.source_no = snapshot_user_no(held);
    ch.source_seq = snapshot_seq(held);
    ch.source_epoch = snapshot_cold_epoch(held);
    for (int i = from; i <= to; i++)
        assert_int_equal(snapshot_message(held, ids[i], &meta, page[i - from], &last_error), ERR_OK);
    return ch;
}

static enum err apply_chunk(struct txn *txn, void *arg, struct errctx *ec)
{
    return txn_backfill_chunk(txn, arg, ec);
}

static enum err copy(struct backfill_chunk *ch)
{
    errctx_clear(&last_error);
    return commit(store_fixture.store, apply_chunk, ch, DURABILITY_ASYNC, &last_error);
}

static int64_t total_of(const char *user)
{
    struct value v[CONV_NCOLUMNS];
    assert_true(conversation_of(user, "g", v));
    return v[CONV_TOTAL_MESSAGES].i;
}

static int teardown(void **state)
{
    snapshot_close(held);
    held = NULL;
    return chat_teardown(state);
}

static void chunks_follow_each_other(void **state)
{
    (void)state;
    struct backfill b, none;
    make_group(&b);
    struct backfill_chunk ch = chunk_of("alice", &b, 0, 2), again = ch;
    assert_int_equal(copy(&ch), ERR_OK);
    assert_false(ch.over);
    assert_int_equal(total_of("carol"), 3);
    /* The same once more, as after an outcome that was not heard: nothing comes twice. */
    assert_int_equal(copy(&again), ERR_RETRY);
    assert_int_equal(store_backfill_next(store_fixture.store, 0, 0, &b, &last_error), ERR_OK);
    assert_int_equal(b.cursor, ids[2]);
    assert_int_equal(b.copied, 3);
    ch = chunk_of("bob", &b, 3, 5);
    assert_int_equal(copy(&ch), ERR_OK);
    assert_true(ch.over);
    assert_int_equal(total_of("carol"), MESSAGES);
    assert_int_equal(seq_of("carol"), MESSAGES);
    assert_int_equal(store_backfill_next(store_fixture.store, 0, 0, &none, &last_error), ERR_NOT_FOUND);
    struct value v[CONV_NCOLUMNS];
    assert_true(conversation_of("carol", "g", v));
    assert_int_equal(v[CONV_FIRST_MSG_ID].i, ids[0]);
    assert_int_equal(v[CONV_UNREAD].i, 0);
}

static void a_message_that_changes_meanwhile_is_read_again(void **state)
{
    (void)state;
    struct backfill b;
    make_group(&b);
    struct backfill_chunk ch = chunk_of("alice", &b, 0, 5);
    said("g", "live"); /* other changes of the source do not matter */
    assert_int_equal(change_messages(1, &ids[2], NULL), ERR_OK);
    assert_int_equal(copy(&ch), ERR_RETRY);
    assert_int_equal(total_of("carol"), 1);
    ch = chunk_of("alice", &b, 3, 5);
    said("g", "live");
    assert_int_equal(copy(&ch), ERR_OK);
    assert_int_equal(total_of("carol"), 5);
}

static void who_leaves_is_no_source_and_no_target(void **state)
{
    (void)state;
    struct backfill b;
    make_group(&b);
    struct backfill_chunk ch = chunk_of("bob", &b, 0, 5);
    leave("bob");
    assert_int_equal(copy(&ch), ERR_RETRY);
    ch = chunk_of("alice", &b, 0, 5);
    leave("carol");
    assert_int_equal(copy(&ch), ERR_OK);
    assert_true(ch.over);
    assert_int_equal(total_of("carol"), 0);
    assert_int_equal(store_backfill_next(store_fixture.store, 0, 0, &b, &last_error), ERR_NOT_FOUND);
}

static void joining_again_brings_nothing_twice(void **state)
{
    (void)state;
    struct backfill b;
    make_group(&b);
    struct backfill_chunk ch = chunk_of("alice", &b, 0, 5);
    assert_int_equal(copy(&ch), ERR_OK);
    /* Alice deletes one of hers, leaves and comes again: the copy begins anew, with bob as its source. */
    assert_int_equal(change_messages(1, &ids[4], NULL), ERR_OK);
    leave("carol");
    add("carol");
    assert_int_equal(store_backfill_next(store_fixture.store, 0, 0, &b, &last_error), ERR_OK);
    assert_int_equal(b.cursor, 0);
    ch = chunk_of("bob", &b, 0, 5);
    assert_int_equal(copy(&ch), ERR_OK);
    assert_int_equal(ch.b.copied, 0);
    assert_int_equal(total_of("carol"), MESSAGES);
    assert_int_equal(total_of("alice"), MESSAGES - 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, chat_setup, teardown)
    const struct CMUnitTest tests[] = {
        T(chunks_follow_each_other),
        T(a_message_that_changes_meanwhile_is_read_again),
        T(who_leaves_is_no_source_and_no_target),
        T(joining_again_brings_nothing_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
