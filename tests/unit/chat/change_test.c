#include "chat_fixture.h"

static void assert_bounds(const char *id, int64_t total, int64_t first, int64_t last)
{
    struct value c[CONV_NCOLUMNS];
    assert_true(conversation_of("alice", id, c));
    assert_int_equal(c[CONV_TOTAL_MESSAGES].i, total);
    assert_int_equal(c[CONV_FIRST_MSG_ID].type, first != 0 ? VALUE_BIGINT : VALUE_NULL);
    assert_int_equal(c[CONV_LAST_MSG_ID].type, last != 0 ? VALUE_BIGINT : VALUE_NULL);
    if (first != 0)
        assert_int_equal(c[CONV_FIRST_MSG_ID].i, first);
    if (last != 0)
        assert_int_equal(c[CONV_LAST_MSG_ID].i, last);
}

static void deletes_keep_the_counters(void **state)
{
    (void)state;
    int64_t a[4], b[2];
    for (int i = 0; i < 4; i++)
        a[i] = said("a", "x");
    for (int i = 0; i < 2; i++)
        b[i] = said("b", "x");
    assert_int_equal(change_messages(1, &a[1], NULL), ERR_OK);
    assert_bounds("a", 3, a[0], a[3]);
    int64_t ends[] = {a[0], a[3], b[1]};
    assert_int_equal(change_messages(3, ends, NULL), ERR_OK);
    assert_bounds("a", 1, a[2], a[2]);
    assert_bounds("b", 1, b[0], b[0]);
    assert_int_equal(change_messages(1, &a[2], NULL), ERR_OK);
    assert_bounds("a", 0, 0, 0); /* an emptied conversation stays */
    assert_int_equal(seq_of("alice"), 6 + 5);
    int64_t again = said("a", "y");
    assert_bounds("a", 1, again, again);
}

static void updates_take_a_number_each(void **state)
{
    (void)state;
    int64_t ids[3];
    for (int i = 0; i < 3; i++)
        ids[i] = said("a", "x");
    assert_int_equal(change_messages(2, ids, "edited"), ERR_OK);
    assert_int_equal(seq_of("alice"), 5);
    struct snapshot *snap;
    struct row_meta meta;
    struct value v[MSG_NCOLUMNS];
    assert_int_equal(snapshot_open(store_fixture.store, alice.user_id, &snap, &last_error), ERR_OK);
    assert_int_equal(snapshot_message(snap, ids[1], &meta, v, &last_error), ERR_OK);
    assert_str(v[MSG_CONTENT].s, "edited");
    assert_int_equal(meta.seq, 5);
    assert_int_equal(meta.ins_seq, 2);
    snapshot_close(snap);
    assert_bounds("a", 3, ids[0], ids[2]);
}

/* A row that has changed since it was read sends the whole statement back. */
static enum err update_stale(struct txn *txn, void *arg, struct errctx *ec)
{
    return chat_messages_update(arg, txn, ec);
}

static void stale_rows_are_read_again(void **state)
{
    (void)state;
    int64_t ids[2] = {said("a", "x"), said("a", "y")};
    struct snapshot *snap;
    struct row_meta meta[2];
    struct value v[2][MSG_NCOLUMNS];
    struct arena arena;
    arena_init(&arena, 1 << 20);
    assert_int_equal(snapshot_open(store_fixture.store, alice.user_id, &snap, &last_error), ERR_OK);
    struct chat_row rows[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(snapshot_message(snap, ids[i], &meta[i], v[i], &last_error), ERR_OK);
        rows[i] = (struct chat_row){v[i], meta[i].seq, meta[i].ins_seq, 0};
    }
    assert_int_equal(change_messages(1, &ids[1], "first"), ERR_OK);
    struct chat_change c = {.caller = &alice, .owner = alice.user_id, .nrows = 2, .rows = rows};
    assert_int_equal(chat_change_group(&c, &arena, &last_error), ERR_OK);
    assert_int_equal(commit(store_fixture.store, update_stale, &c, DURABILITY_ASYNC, &last_error), ERR_RETRY);
    assert_int_equal(seq_of("alice"), 3); /* the row that was still as read did not change either */
    snapshot_close(snap);
    arena_release(&arena);
}

static void conversations_are_made_once(void **state)
{
    (void)state;
    struct value rows[2][CONV_NCOLUMNS] = {
        {[CONV_ID] = value_text(STR("c1")), [CONV_TITLE] = value_text(STR("t"))},
        {[CONV_ID] = value_text(STR("c2")), [CONV_METADATA] = value_json(STR("{}"))}};
    struct chat_create c = {.caller = &alice, .owner = alice.user_id, .nrows = 2, .rows = rows};
    assert_int_equal(run_create(&c), ERR_OK);
    assert_bounds("c1", 0, 0, 0);
    assert_int_equal(seq_of("alice"), 0);
    struct value again[2][CONV_NCOLUMNS] = {
        {[CONV_ID] = value_text(STR("c3"))}, {[CONV_ID] = value_text(STR("c2"))}};
    c.rows = again;
    assert_int_equal(run_create(&c), ERR_CONFLICT);
    assert_str(str_c(last_error.detail), "Key (conversation_id)=(c2) already exists.");
    struct value v[CONV_NCOLUMNS];
    assert_false(conversation_of("alice", "c3", v));
    struct value third[1][CONV_NCOLUMNS] = {{[CONV_ID] = value_text(STR("c3"))}};
    c.rows = third;
    c.nrows = 1;
    c.from = value_text(STR("bob"));
    assert_int_equal(run_create(&c), ERR_FORBIDDEN);
    c.from = value_text(STR("assistant"));
    third[0][CONV_TYPE] = value_text(STR("group"));
    assert_int_equal(run_create(&c), ERR_FORBIDDEN); /* in a group a user is only themselves */
    third[0][CONV_TYPE] = value_text(STR("ai"));
    third[0][CONV_TOTAL_MESSAGES] = value_i64(7);
    assert_int_equal(run_create(&c), ERR_FORBIDDEN); /* kept by the engine */
    third[0][CONV_TOTAL_MESSAGES] = VALUE_OF_NULL;
    assert_int_equal(run_create(&c), ERR_OK);
    assert_true(conversation_of("alice", "c2", v));
    assert_str(v[CONV_METADATA].s, "{}");
}

static bool never(void *arg, const struct value *values)
{
    (void)arg, (void)values;
    return false;
}

static void titles_and_read_markers(void **state)
{
    (void)state;
    said("c1", "x");
    struct value v[CONV_NCOLUMNS], read[CONV_NCOLUMNS],
        set[CONV_NCOLUMNS] = {[CONV_TITLE] = value_text(STR("T"))};
    assert_true(conversation_of("alice", "c1", v));
    memcpy(read, v, sizeof read);
    struct chat_row_change row = {.values = read, .set = set};
    struct chat_update u = {.owner = alice.user_id,
        .schema = &schema_conversations,
        .columns = UINT64_C(1) << CONV_TITLE,
        .nrows = 1,
        .rows = &row};
    assert_int_equal(run_update(&u), ERR_OK);
    assert_int_equal(u.changed, 1);
    assert_true(conversation_of("alice", "c1", v));
    assert_str(v[CONV_TITLE].s, "T");
    assert_int_equal(v[CONV_TOTAL_MESSAGES].i, 1);
    assert_int_equal(seq_of("alice"), 1); /* no row of messages: no number */
    /* The row as read is no more the row. */
    memcpy(read, v, sizeof read);
    read[CONV_TITLE] = VALUE_OF_NULL;
    assert_int_equal(run_update(&u), ERR_RETRY);
    u.still = never;
    assert_int_equal(run_update(&u), ERR_OK);
    assert_int_equal(u.changed, 0);
    assert_true(row.gone);

    struct value member[MEMBER_NCOLUMNS] = {[MEMBER_CONVERSATION_ID] = value_text(STR("c1")),
        [MEMBER_USER_ID] = value_text(STR("alice")),
        [MEMBER_ROLE] = value_text(STR("owner")),
        [MEMBER_JOINED] = v[CONV_CREATED]};
    struct value marker[MEMBER_NCOLUMNS] = {[MEMBER_LAST_READ_MSG_ID] = value_i64(5)};
    row = (struct chat_row_change){.values = member, .set = marker};
    u = (struct chat_update){.owner = alice.user_id,
        .schema = &schema_conversation_users,
        .columns = UINT64_C(1) << MEMBER_LAST_READ_MSG_ID,
        .nrows = 1,
        .rows = &row};
    /* Below the last message: the caller counts what is unread, as of some number. */
    assert_int_equal(run_update(&u), ERR_RETRY);
    assert_true(u.need_count);
    member[MEMBER_LAST_READ_MSG_ID] = VALUE_OF_NULL;
    row.counted = true;
    row.count = (struct unread_count){.unread = 0, .seq = seq_of("alice")};
    said("c1", "y"); /* since then; alice's own */
    struct chat_append a;
    assert_int_equal(
        say(&alice, "alice", 2, (struct say[]){{"c1", "z", "assistant"}, {"c2", "z", "tool"}}, &a), ERR_OK);
    assert_int_equal(run_update(&u), ERR_OK);
    assert_int_equal(u.changed, 1);
    assert_int_equal(member[MEMBER_LAST_READ_MSG_ID].i, 5);
    assert_true(conversation_of("alice", "c1", v));
    assert_int_equal(v[CONV_UNREAD].i, 1);
    assert_int_equal(v[CONV_READ_MSG_ID].i, 5);
    u.columns = UINT64_C(1) << MEMBER_ROLE;
    assert_int_equal(run_update(&u), ERR_FORBIDDEN);
}

/* Rows of a version without the columns: not known, rather than wrong. */
static enum err forget_unread(struct txn *txn, void *arg, struct errctx *ec)
{
    uint64_t user_no;
    struct conversation c;
    enum err e = txn_user(txn, alice.user_id, false, &user_no, ec);
    if (e == ERR_OK)
        e = txn_conversation(txn, user_no, str_c(arg), &c, ec);
    c.values[CONV_UNREAD] = c.values[CONV_READ_MSG_ID] = VALUE_OF_NULL;
    return e == ERR_OK ? txn_conversation_put(txn, &c, false, ec) : e;
}

static void unread_of_old_rows(void **state)
{
    (void)state;
    struct chat_append a;
    struct value v[CONV_NCOLUMNS];
    struct say two[] = {{"c1", "x", "assistant"}, {"c1", "y", "assistant"}};
    assert_int_equal(say(&alice, "alice", 2, two, &a), ERR_OK);
    int64_t first = a.messages[0].msg_id, second = a.messages[1].msg_id;
    assert_int_equal(
        commit(store_fixture.store, forget_unread, (void *)"c1", DURABILITY_ASYNC, &last_error), ERR_OK);
    assert_int_equal(say(&alice, "alice", 1, two, &a), ERR_OK);
    assert_int_equal(change_messages(1, &second, NULL), ERR_OK);
    assert_true(conversation_of("alice", "c1", v));
    assert_int_equal(v[CONV_UNREAD].type, VALUE_NULL);
    /* The marker makes it known, also one that is where it was. */
    struct value member[MEMBER_NCOLUMNS] = {[MEMBER_CONVERSATION_ID] = value_text(STR("c1")),
        [MEMBER_USER_ID] = value_text(STR("alice")),
        [MEMBER_ROLE] = value_text(STR("owner")),
        [MEMBER_JOINED] = v[CONV_CREATED]};
    struct value marker[MEMBER_NCOLUMNS] = {[MEMBER_LAST_READ_MSG_ID] = VALUE_OF_NULL};
    struct chat_row_change row = {
        .values = member, .set = marker, .counted = true, .count = {.unread = 2, .seq = seq_of("alice")}};
    struct chat_update u = {.owner = alice.user_id,
        .schema = &schema_conversation_users,
        .columns = UINT64_C(1) << MEMBER_LAST_READ_MSG_ID,
        .nrows = 1,
        .rows = &row};
    assert_int_equal(run_update(&u), ERR_OK);
    assert_true(conversation_of("alice", "c1", v));
    assert_int_equal(v[CONV_UNREAD].i, 2);
    /* So does an empty conversation. */
    assert_int_equal(
        commit(store_fixture.store, forget_unread, (void *)"c1", DURABILITY_ASYNC, &last_error), ERR_OK);
    int64_t rest[] = {first, a.messages[0].msg_id};
    assert_int_equal(change_messages(2, rest, NULL), ERR_OK);
    assert_true(conversation_of("alice", "c1", v));
    assert_int_equal(v[CONV_UNREAD].i, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, chat_setup, chat_teardown)
    const struct CMUnitTest tests[] = {
        T(deletes_keep_the_counters),
        T(updates_take_a_number_each),
        T(stale_rows_are_read_again),
        T(conversations_are_made_once),
        T(titles_and_read_markers),
        T(unread_of_old_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
