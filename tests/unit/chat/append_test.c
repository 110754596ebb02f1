#include "chat_fixture.h"

static enum err say_one(
    const struct caller *caller, const char *owner, struct say line, struct chat_append *ret)
{
    return say(caller, owner, 1, &line, ret);
}

static void first_message_makes_the_conversation(void **state)
{
    (void)state;
    struct chat_append a;
    struct value c[CONV_NCOLUMNS];
    assert_false(conversation_of("alice", "c1", c));
    assert_int_equal(say_one(&alice, "alice", (struct say){"c1", "hello"}, &a), ERR_OK);
    int64_t first = a.messages[0].msg_id;
    assert_true(first > 0);
    assert_str(a.messages[0].values[MSG_FROM].s, "alice");
    assert_str(a.messages[0].values[MSG_CONVERSATION_TYPE].s, "ai");
    assert_int_equal(a.messages[0].values[MSG_TIMESTAMP].type, VALUE_TIMESTAMPTZ);
    assert_int_equal(a.messages[0].values[MSG_SEQ].i, 1);
    assert_int_equal(say_one(&alice, "alice", (struct say){"c1", "again", "assistant:gpt"}, &a), ERR_OK);
    assert_true(a.messages[0].msg_id > first);
    assert_true(conversation_of("alice", "c1", c));
    assert_str(c[CONV_TYPE].s, "ai");
    assert_int_equal(c[CONV_TOTAL_MESSAGES].i, 2);
    assert_int_equal(c[CONV_FIRST_MSG_ID].i, first);
    assert_int_equal(c[CONV_LAST_MSG_ID].i, a.messages[0].msg_id);
    assert_int_equal(seq_of("alice"), 2);
    assert_false(conversation_of("bob", "c1", c));
}

static void refused(void **state)
{
    (void)state;
    struct chat_append a;
    char big[1002], long_id[257];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    memset(long_id, 'i', sizeof long_id - 1);
    long_id[sizeof long_id - 1] = 0;
    const struct {
        struct say line;
        enum err want;
    } cases[] = {
        {{NULL, "x"}, ERR_CONSTRAINT},
        {{"", "x"}, ERR_CONSTRAINT},
        {{long_id, "x"}, ERR_CONSTRAINT},
        {{"c", NULL}, ERR_CONSTRAINT},
        {{"c", big}, ERR_TOO_LARGE},
        {{"c", "x", "bob"}, ERR_FORBIDDEN},
        {{"c", "x", .type = "channel"}, ERR_CONSTRAINT},
        {{"c", "x", "assistant", "group"}, ERR_FORBIDDEN},
        {{"c", "x", .id = 5}, ERR_FORBIDDEN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum err e = say_one(&alice, "alice", cases[i].line, &a);
        if (e != cases[i].want)
            fail_msg("case %zu: %s %s", i, err_wire(e), last_error.message);
    }
    assert_str(
        str_c(last_error.message), "column \"msg_id\" of relation \"messages\" is given by the engine");
    big[1000] = 0;
    assert_int_equal(say_one(&alice, "alice", (struct say){"c", big}, &a), ERR_OK);
    long_id[255] = 0;
    assert_int_equal(say_one(&alice, "alice", (struct say){long_id, ""}, &a), ERR_OK);
    assert_int_equal(seq_of("alice"), 2);
}

/* One's own conversation comes first, whatever type the send names. */
static void own_conversation_first(void **state)
{
    (void)state;
    struct chat_append a;
    said("c1", "x");
    assert_int_equal(say_one(&alice, "alice", (struct say){"c1", "y", .type = "group"}, &a), ERR_OK);
    assert_str(a.messages[0].values[MSG_CONVERSATION_TYPE].s, "ai");
    struct value c[CONV_NCOLUMNS];
    assert_true(conversation_of("alice", "c1", c));
    assert_int_equal(c[CONV_TOTAL_MESSAGES].i, 2);
}

static void client_ids(void **state)
{
    (void)state;
    struct chat_append a;
    struct say line = {"c1", "hello", .client_id = "k1"};
    assert_int_equal(say_one(&alice, "alice", line, &a), ERR_OK);
    int64_t id = a.messages[0].msg_id;
    assert_int_equal(a.inserted, 1);
    line.content = "other words";
    assert_int_equal(say_one(&alice, "alice", line, &a), ERR_OK);
    assert_int_equal(a.inserted, 0);
    assert_false(a.messages[0].inserted);
    assert_int_equal(a.messages[0].msg_id, id);
    /* Another sender, another conversation: other keys. */
    line.from = "assistant";
    assert_int_equal(say_one(&alice, "alice", line, &a), ERR_OK);
    assert_int_equal(a.inserted, 1);
    assert_true(a.messages[0].msg_id != id);
    line = (struct say){"c2", "hello", .client_id = "k1"};
    assert_int_equal(say_one(&alice, "alice", line, &a), ERR_OK);
    assert_int_equal(a.inserted, 1);
    /* Within one statement. */
    struct say lines[] = {{"c1", "a", .client_id = "k2"}, {"c1", "b"}, {"c1", "c", .client_id = "k2"},
        {"c1", "d", .client_id = "k1"}};
    assert_int_equal(say(&alice, "alice", 4, lines, &a), ERR_OK);
    assert_int_equal(a.inserted, 2);
    assert_int_equal(a.messages[2].msg_id, a.messages[0].msg_id);
    assert_int_equal(a.messages[3].msg_id, id);
    assert_int_equal(seq_of("alice"), 5);
    /* The key outlives its row. */
    assert_int_equal(change_messages(1, &id, NULL), ERR_OK);
    line = (struct say){"c1", "hello", .client_id = "k1"};
    assert_int_equal(say_one(&alice, "alice", line, &a), ERR_OK);
    assert_int_equal(a.inserted, 0);
    assert_int_equal(a.messages[0].msg_id, id);
    fixture_reopen(&store_fixture);
    assert_int_equal(say_one(&alice, "alice", line, &a), ERR_OK);
    assert_int_equal(a.messages[0].msg_id, id);
    assert_int_equal(seq_of("alice"), 6);
}

static void supplied_ids(void **state)
{
    (void)state;
    struct chat_append a;
    struct say line = {"c1", "old", "dave", .id = 1000};
    assert_int_equal(say_one(&service, "alice", line, &a), ERR_OK);
    assert_int_equal(a.messages[0].msg_id, 1000);
    assert_str(a.messages[0].values[MSG_FROM].s, "dave");
    assert_int_equal(say_one(&service, "alice", line, &a), ERR_CONFLICT);
    assert_str(str_c(last_error.detail), "Key (msg_id)=(1000) already exists.");
    /* The same id in another's table is free. */
    assert_int_equal(say_one(&service, "bob", line, &a), ERR_OK);
    line.id = INT64_C(1) << 52;
    assert_int_equal(say_one(&service, "alice", line, &a), ERR_INVALID_VALUE);
    line.id = -1;
    assert_int_equal(say_one(&service, "alice", line, &a), ERR_INVALID_VALUE);
    /* Just below the newest is free to take, and never given again. */
    int64_t newest = said("c1", "new");
    line.id = newest - 1;
    assert_int_equal(say_one(&service, "alice", line, &a), ERR_OK);
    line.id = newest;
    assert_int_equal(say_one(&service, "alice", line, &a), ERR_CONFLICT);
    assert_true(said("c1", "newer") > newest);
    /* A retry by client_msg_id is asked first. */
    line = (struct say){"c1", "x", "dave", .client_id = "m1", .id = 77};
    assert_int_equal(say_one(&service, "alice", line, &a), ERR_OK);
    assert_int_equal(say_one(&service, "alice", line, &a), ERR_OK);
    assert_int_equal(a.inserted, 0);
    assert_int_equal(a.messages[0].msg_id, 77);
    struct value c[CONV_NCOLUMNS];
    assert_true(conversation_of("alice", "c1", c));
    assert_int_equal(c[CONV_FIRST_MSG_ID].i, 77);
    assert_int_equal(c[CONV_TOTAL_MESSAGES].i, 5);
}

static void service_defaults_to_its_own_name(void **state)
{
    (void)state;
    struct chat_append a;
    assert_int_equal(say_one(&service, "alice", (struct say){"c1", "hi"}, &a), ERR_OK);
    assert_str(a.messages[0].values[MSG_FROM].s, "worker");
}

static void all_or_nothing(void **state)
{
    (void)state;
    struct chat_append a;
    struct value c[CONV_NCOLUMNS];
    said("c1", "first");
    struct say lines[] = {{"c2", "a", .client_id = "k"}, {"c1", "b"}, {"c3", "c", "tool", "group"}};
    assert_int_equal(say(&alice, "alice", 3, lines, &a), ERR_FORBIDDEN);
    assert_int_equal(seq_of("alice"), 1);
    assert_false(conversation_of("alice", "c2", c));
    assert_true(conversation_of("alice", "c1", c));
    assert_int_equal(c[CONV_TOTAL_MESSAGES].i, 1);
    /* Nor did the key of the failed statement stay. */
    assert_int_equal(say(&alice, "alice", 2, lines, &a), ERR_OK);
    assert_int_equal(a.inserted, 2);
    assert_int_equal(seq_of("alice"), 3);
    /* A duplicate id within one statement. */
    struct say twice[] = {{"c1", "x", "d", .id = 9}, {"c4", "y", "d", .id = 9}};
    assert_int_equal(say(&service, "alice", 2, twice, &a), ERR_CONFLICT);
    assert_false(conversation_of("alice", "c4", c));
    assert_int_equal(seq_of("alice"), 3);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, chat_setup, chat_teardown)
    const struct CMUnitTest tests[] = {
        T(first_message_makes_the_conversation),
        T(refused),
        T(own_conversation_first),
        T(client_ids),
        T(supplied_ids),
        T(service_defaults_to_its_own_name),
        T(all_or_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
