#include "chat_fixture.h"
#include <stdio.h>

static const struct caller carol = {{"carol", 5}, ROLE_USER};

/* ---- operations, short ---- */

static enum err apply_add(struct txn *txn, void *arg, struct errctx *ec)
{
    return chat_members_add_apply(arg, txn, ec);
}

static enum err apply_remove(struct txn *txn, void *arg, struct errctx *ec)
{
    return chat_members_remove_apply(arg, txn, ec);
}

struct who {
    const char *user, *role;
};

/* INSERT INTO conversation_users by `caller` into their own tables, or owner's. */
static enum err add_as(
    const struct caller *caller, const char *owner, const char *id, size_t n, const struct who *who)
{
    static struct value rows[64][MEMBER_NCOLUMNS];
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct chat_members_add a = {
        .caller = caller, .owner = str_c(owner), .group_members_max = 5, .nrows = n, .rows = rows};
    memset(rows, 0, sizeof rows);
    for (size_t i = 0; i < n; i++) {
        rows[i][MEMBER_CONVERSATION_ID] = value_text(str_c(id));
        rows[i][MEMBER_USER_ID] = value_text(str_c(who[i].user));
        if (who[i].role != NULL)
            rows[i][MEMBER_ROLE] = value_text(str_c(who[i].role));
    }
    errctx_clear(&last_error);
    enum err e = chat_members_add_check(&a, &arena, &last_error);
    if (e == ERR_OK)
        e = commit(store_fixture.store, apply_add, &a, DURABILITY_ASYNC, &last_error);
    arena_release(&arena);
    return e;
}

static enum err add(const struct caller *caller, const char *id, const char *user, const char *role)
{
    return add_as(caller, caller->user_id.ptr, id, 1, &(struct who){user, role});
}

/* Members as conversation_users of `user` shows them: "alice:owner bob:member". Also the values as read. */
static struct value read_rows[64][MEMBER_NCOLUMNS];
static size_t nread;
static struct arena read_arena;

static const char *members(const char *user, const char *id)
{
    static char text[1024];
    struct errctx ec;
    struct snapshot *snap;
    struct hot_iter *it;
    struct str row;
    struct row_meta meta;
    size_t len = 0;
    arena_release(&read_arena);
    arena_init(&read_arena, 1 << 20);
    nread = 0;
    text[0] = 0;
    assert_int_equal(snapshot_open(store_fixture.store, str_c(user), &snap, &ec), ERR_OK);
    struct scan_spec spec = {.order = SCAN_TABLE,
        .table = &schema_conversation_users,
        .conversation_id = id != NULL ? str_c(id) : STR_NULL,
        .id_max = INT64_MAX,
        .seq_max = UINT64_MAX};
    assert_int_equal(hot_iter_open(snap, &spec, &it, &ec), ERR_OK);
    enum err e;
    while ((e = hot_iter_next(it, &row, &ec)) == ERR_OK) {
        struct value *v = read_rows[nread++];
        assert_int_equal(
            row_decode(arena_str(&read_arena, row), &schema_conversation_users, &meta, v), ERR_OK);
        if (len > 0)
            text[len++] = ' ';
        if (id == NULL)
            len += (size_t)snprintf(
                text + len, sizeof text - len, "%.*s/", STR_FMT(v[MEMBER_CONVERSATION_ID].s));
        len += (size_t)snprintf(text + len, sizeof text - len, "%.*s:%.*s", STR_FMT(v[MEMBER_USER_ID].s),
            STR_FMT(v[MEMBER_ROLE].s));
    }
    assert_int_equal(e, ERR_NOT_FOUND);
    hot_iter_close(it);
    snapshot_close(snap);
    return text;
}

/* DELETE FROM conversation_users WHERE conversation_id = id AND user_id in (users), comma-separated. */
static enum err remove_as(
    const struct caller *caller, const char *owner, const char *id, const char *users, int64_t *ret)
{
    struct chat_row_change rows[64];
    size_t n = 0;
    (void)members(owner, id);
    for (size_t i = 0; i < nread; i++) {
        char needle[64], hay[256];
        snprintf(needle, sizeof needle, ",%.*s,", STR_FMT(read_rows[i][MEMBER_USER_ID].s));
        snprintf(hay, sizeof hay, ",%s,", users);
        if (strstr(hay, needle) != NULL)
            rows[n++] = (struct chat_row_change){.values = read_rows[i]};
    }
    struct chat_members_remove r = {.caller = caller, .owner = str_c(owner), .nrows = n, .rows = rows};
    errctx_clear(&last_error);
    enum err e = commit(store_fixture.store, apply_remove, &r, DURABILITY_ASYNC, &last_error);
    if (ret != NULL)
        *ret = r.removed;
    return e;
}

static enum err drop(const struct caller *caller, const char *id, const char *users)
{
    return remove_as(caller, caller->user_id.ptr, id, users, NULL);
}

static enum err send_to(const struct caller *caller, const char *id, const char *content, int64_t *ret)
{
    struct chat_append a;
    enum err e = say(caller, caller->user_id.ptr, 1, &(struct say){id, content}, &a);
    if (e == ERR_OK && ret != NULL)
        *ret = a.messages[0].msg_id;
    return e;
}

/* The hot rows of a user in a conversation as "content@seq content@seq …", by id. */
static const char *texts(const char *user, const char *id)
{
    static char text[1024];
    struct errctx ec;
    struct snapshot *snap;
    struct hot_iter *it;
    struct str row;
    struct row_meta meta;
    struct value v[MSG_NCOLUMNS];
    size_t len = 0;
    text[0] = 0;
    assert_int_equal(snapshot_open(store_fixture.store, str_c(user), &snap, &ec), ERR_OK);
    struct scan_spec spec = {.order = SCAN_BY_CONVERSATION,
        .conversation_id = str_c(id),
        .id_max = INT64_MAX,
        .seq_max = UINT64_MAX};
    assert_int_equal(hot_iter_open(snap, &spec, &it, &ec), ERR_OK);
    while (hot_iter_next(it, &row, &ec) == ERR_OK) {
        assert_int_equal(row_decode(row, &schema_messages, &meta, v), ERR_OK);
        assert_str(v[MSG_CONVERSATION_TYPE].s, "group");
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%.*s@%llu", len > 0 ? " " : "",
            STR_FMT(v[MSG_CONTENT].s), (unsigned long long)meta.seq);
    }
    hot_iter_close(it);
    snapshot_close(snap);
    return text;
}

static void make_abc(const char *id)
{
    assert_int_equal(
        add_as(&alice, "alice", id, 2, (struct who[]){{"bob", NULL}, {"carol", "admin"}}), ERR_OK);
}

/* ---- tests ---- */

static void a_message_reaches_every_member(void **state)
{
    (void)state;
    struct value v[CONV_NCOLUMNS];
    int64_t first, second;
    make_abc("g");
    assert_string_equal(members("alice", "g"), "alice:owner bob:member carol:admin");
    assert_string_equal(members("bob", NULL), "g/alice:owner g/bob:member g/carol:admin");
    assert_int_equal(seq_of("bob"), 0);
    said("own", "before"); /* alice's numbers are her own */
    assert_int_equal(send_to(&alice, "g", "one", &first), ERR_OK);
    assert_int_equal(send_to(&bob, "g", "two", &second), ERR_OK);
    assert_true(second > first);
    assert_string_equal(texts("alice", "g"), "one@2 two@3");
    assert_string_equal(texts("bob", "g"), "one@1 two@2");
    assert_string_equal(texts("carol", "g"), "one@1 two@2");
    assert_true(conversation_of("bob", "g", v));
    assert_str(v[CONV_TYPE].s, "group");
    assert_int_equal(v[CONV_TOTAL_MESSAGES].i, 2);
    assert_int_equal(v[CONV_FIRST_MSG_ID].i, first);
    assert_int_equal(v[CONV_LAST_MSG_ID].i, second);
    assert_int_equal(v[CONV_UNREAD].i, 1); /* alice's, not his own */
    assert_string_equal(members("alice", "own"), "alice:owner");
}

static void which_conversation_a_send_means(void **state)
{
    (void)state;
    struct chat_append a;
    struct value v[CONV_NCOLUMNS];
    struct say group = {"g", "hello", .type = "group"}, plain = {"g", "x"}, ai = {"g", "y", .type = "ai"};
    /* Nothing there: a group is made of the given type. */
    assert_int_equal(say(&alice, "alice", 1, &group, &a), ERR_OK);
    assert_str(a.messages[0].values[MSG_CONVERSATION_TYPE].s, "group");
    assert_int_equal(a.messages[0].values[MSG_SEQ].i, 1);
    assert_string_equal(members("alice", "g"), "alice:owner");
    /* It is there, and bob is no member, whatever he says but `ai`. */
    assert_int_equal(say(&bob, "bob", 1, &plain, &a), ERR_FORBIDDEN);
    assert_int_equal(say(&bob, "bob", 1, &group, &a), ERR_FORBIDDEN);
    assert_false(conversation_of("bob", "g", v));
    assert_int_equal(say(&bob, "bob", 1, &ai, &a), ERR_OK);
    /* From now on "g" is his own, also for a send that says group. */
    assert_int_equal(say(&bob, "bob", 1, &group, &a), ERR_OK);
    assert_str(a.messages[0].values[MSG_CONVERSATION_TYPE].s, "ai");
    assert_string_equal(texts("alice", "g"), "hello@1");
    /* A member's own copy wins over the type. */
    assert_int_equal(say(&alice, "alice", 1, &ai, &a), ERR_OK);
    assert_str(a.messages[0].values[MSG_CONVERSATION_TYPE].s, "group");
}

static void senders_in_groups(void **state)
{
    (void)state;
    struct chat_append a;
    make_abc("g");
    struct say assistant = {"g", "x", "assistant"}, as_bob = {"g", "x", "bob"};
    assert_int_equal(say(&alice, "alice", 1, &assistant, &a), ERR_FORBIDDEN);
    assert_int_equal(say(&alice, "alice", 1, &as_bob, &a), ERR_FORBIDDEN);
    assert_int_equal(seq_of("carol"), 0);
    assert_int_equal(say(&service, "alice", 1, &assistant, &a), ERR_OK);
    /* The service sends for a member of the group, not for itself. */
    assert_int_equal(say(&service, "worker", 1, &as_bob, &a), ERR_FORBIDDEN);
    assert_int_equal(seq_of("carol"), 1);
}

static void retries(void **state)
{
    (void)state;
    struct chat_append a;
    make_abc("g");
    struct say line = {"g", "x", .client_id = "k"};
    assert_int_equal(say(&bob, "bob", 1, &line, &a), ERR_OK);
    int64_t id = a.messages[0].msg_id;
    assert_int_equal(say(&bob, "bob", 1, &line, &a), ERR_OK);
    assert_int_equal(a.inserted, 0);
    assert_int_equal(a.messages[0].msg_id, id);
    assert_int_equal(seq_of("carol"), 1);
    /* Of another sender it is another key. */
    assert_int_equal(say(&carol, "carol", 1, &line, &a), ERR_OK);
    assert_int_equal(a.inserted, 1);
    /* A retry is one also after its sender was removed; anything new is refused. */
    assert_int_equal(drop(&alice, "g", "bob"), ERR_OK);
    assert_int_equal(say(&bob, "bob", 1, &line, &a), ERR_OK);
    assert_int_equal(a.messages[0].msg_id, id);
    line.client_id = "new";
    assert_int_equal(say(&bob, "bob", 1, &line, &a), ERR_FORBIDDEN);
    assert_int_equal(seq_of("alice"), 2);
}

static void supplied_ids(void **state)
{
    (void)state;
    struct chat_append a;
    make_abc("g");
    struct say own = {"c", "x", "bob", .id = 7}, line = {"g", "y", "alice", .id = 7};
    assert_int_equal(say(&service, "bob", 1, &own, &a), ERR_OK);
    /* Taken in one recipient's table: nobody gets it. */
    assert_int_equal(say(&service, "alice", 1, &line, &a), ERR_CONFLICT);
    assert_int_equal(seq_of("alice"), 0);
    line.id = 8;
    assert_int_equal(say(&service, "alice", 1, &line, &a), ERR_OK);
    assert_string_equal(texts("carol", "g"), "y@1");
}

static void one_statement_for_many_groups(void **state)
{
    (void)state;
    struct chat_append a;
    make_abc("g");
    struct say lines[] = {{"g", "1"}, {"h", "2", .type = "group"}, {"g", "3"}, {"own", "4"}, {"h", "5"}};
    assert_int_equal(say(&alice, "alice", 5, lines, &a), ERR_OK);
    assert_int_equal(a.inserted, 5);
    assert_string_equal(texts("alice", "g"), "1@1 3@3");
    assert_string_equal(texts("alice", "h"), "2@2 5@5");
    assert_string_equal(texts("bob", "g"), "1@1 3@2");
    /* All or nothing. */
    struct say bad[] = {{"g", "6"}, {"g", "7", "tool"}};
    assert_int_equal(say(&alice, "alice", 2, bad, &a), ERR_FORBIDDEN);
    assert_int_equal(seq_of("bob"), 2);
    assert_int_equal(seq_of("alice"), 5);
}

static void who_may_add(void **state)
{
    (void)state;
    make_abc("g");
    assert_int_equal(add(&bob, "g", "dave", NULL), ERR_FORBIDDEN);      /* a member */
    assert_int_equal(add(&carol, "g", "dave", "owner"), ERR_FORBIDDEN); /* above an admin */
    assert_int_equal(add(&carol, "g", "dave", "admin"), ERR_OK);
    assert_int_equal(add(&alice, "g", "dave", NULL), ERR_CONFLICT);
    assert_int_equal(add(&(struct caller){{"erin", 4}, ROLE_USER}, "g", "erin", NULL), ERR_FORBIDDEN);
    assert_int_equal(add_as(&service, "bob", "g", 1, &(struct who){"erin", "owner"}), ERR_OK);
    assert_int_equal(add_as(&service, "frank", "g", 1, &(struct who){"frank", NULL}), ERR_FORBIDDEN);
    assert_string_equal(members("erin", "g"), "alice:owner bob:member carol:admin dave:admin erin:owner");
    /* Five is this test's bound. */
    assert_int_equal(add(&alice, "g", "frank", NULL), ERR_CONSTRAINT);
    assert_non_null(strstr(last_error.message, "max_group_members"));
    assert_string_equal(members("frank", NULL), "");
    assert_int_equal(add(&alice, "g", "assistant", NULL), ERR_INVALID_VALUE);
    assert_int_equal(add(&alice, "g", "frank", "boss"), ERR_CONSTRAINT);
}

static void own_conversations_stand_in_the_way(void **state)
{
    (void)state;
    struct chat_append a;
    struct say own = {"g", "mine"};
    said("mine", "x");
    assert_int_equal(add(&alice, "mine", "bob", NULL), ERR_CONFLICT);
    assert_int_equal(say(&bob, "bob", 1, &own, &a), ERR_OK);
    assert_int_equal(
        add_as(&alice, "alice", "g", 2, (struct who[]){{"carol", NULL}, {"bob", NULL}}), ERR_CONFLICT);
    /* The whole statement: no group was made. */
    assert_string_equal(members("alice", "g"), "");
    assert_int_equal(add(&alice, "g", "carol", NULL), ERR_OK);
    assert_int_equal(add(&bob, "g", "dave", NULL), ERR_CONFLICT); /* his is an ai conversation */
    assert_int_equal(
        add_as(&alice, "alice", "h", 2, (struct who[]){{"alice", "owner"}, {"bob", NULL}}), ERR_OK);
    assert_string_equal(members("bob", "h"), "alice:owner bob:member");
    assert_int_equal(
        add_as(&alice, "alice", "i", 2, (struct who[]){{"bob", NULL}, {"bob", "admin"}}), ERR_CONFLICT);
    assert_int_equal(add_as(&alice, "alice", "i", 1, &(struct who){"alice", "member"}), ERR_CONSTRAINT);
}

static void who_may_remove(void **state)
{
    (void)state;
    int64_t removed;
    make_abc("g");
    assert_int_equal(drop(&bob, "g", "carol"), ERR_FORBIDDEN);
    assert_int_equal(drop(&carol, "g", "alice"), ERR_FORBIDDEN);
    assert_int_equal(drop(&carol, "g", "bob,alice"), ERR_FORBIDDEN); /* whole */
    assert_string_equal(members("bob", "g"), "alice:owner bob:member carol:admin");
    assert_int_equal(remove_as(&carol, "carol", "g", "bob", &removed), ERR_OK);
    assert_int_equal(removed, 1);
    assert_string_equal(members("alice", "g"), "alice:owner carol:admin");
    assert_string_equal(members("bob", "g"), ""); /* of a group he left he sees no members */
    assert_int_equal(remove_as(&service, "carol", "g", "alice", &removed), ERR_OK);
    assert_string_equal(members("carol", "g"), "carol:owner");
    said("own", "x");
    assert_int_equal(drop(&alice, "own", "alice"), ERR_FORBIDDEN);
}

static void leaving_and_coming_back(void **state)
{
    (void)state;
    struct value v[CONV_NCOLUMNS];
    make_abc("g");
    assert_int_equal(send_to(&alice, "g", "one", NULL), ERR_OK);
    assert_int_equal(drop(&bob, "g", "bob"), ERR_OK);
    assert_int_equal(send_to(&alice, "g", "two", NULL), ERR_OK);
    assert_int_equal(send_to(&bob, "g", "no", NULL), ERR_FORBIDDEN);
    assert_string_equal(texts("bob", "g"), "one@1"); /* he keeps what he has */
    assert_true(conversation_of("bob", "g", v));
    assert_int_equal(v[CONV_TOTAL_MESSAGES].i, 1);
    assert_int_equal(add(&carol, "g", "bob", NULL), ERR_OK);
    assert_int_equal(send_to(&bob, "g", "three", NULL), ERR_OK);
    assert_string_equal(texts("bob", "g"), "one@1 three@2");
    assert_string_equal(texts("carol", "g"), "one@1 two@2 three@3");
}

static void ownership_is_handed_over(void **state)
{
    (void)state;
    make_abc("g");
    assert_int_equal(drop(&alice, "g", "alice"), ERR_OK); /* the admin comes before the older member */
    assert_string_equal(members("bob", "g"), "bob:member carol:owner");
    assert_int_equal(drop(&carol, "g", "carol"), ERR_OK);
    assert_string_equal(members("bob", "g"), "bob:owner");
    /* The last one out: the group goes, and its id is free for another. */
    assert_int_equal(drop(&bob, "g", "bob"), ERR_OK);
    struct say again = {"g", "new", .type = "group"};
    struct chat_append a;
    const struct caller dave = {{"dave", 4}, ROLE_USER};
    assert_int_equal(say(&dave, "dave", 1, &again, &a), ERR_OK);
    assert_string_equal(members("dave", "g"), "dave:owner");
    /* Who still holds the old one cannot be in the new one, nor write to either. */
    assert_int_equal(add(&dave, "g", "alice", NULL), ERR_CONFLICT);
    assert_int_equal(send_to(&alice, "g", "x", NULL), ERR_FORBIDDEN);
    assert_string_equal(texts("dave", "g"), "new@1");
}

static void all_at_once_leave(void **state)
{
    (void)state;
    struct errctx ec;
    struct snapshot *snap;
    uint64_t no;
    make_abc("g");
    assert_int_equal(drop(&alice, "g", "alice,bob,carol"), ERR_OK);
    assert_string_equal(members("carol", NULL), "");
    assert_int_equal(snapshot_open(store_fixture.store, alice.user_id, &snap, &ec), ERR_OK);
    assert_int_equal(snapshot_group_no(snap, STR("g"), &no, &ec), ERR_NOT_FOUND);
    snapshot_close(snap);
}

/* What signals and content ask. */
static void snapshots_know_members(void **state)
{
    (void)state;
    struct errctx ec;
    struct snapshot *snap;
    const uint64_t *nos;
    size_t n;
    make_abc("g");
    said("own", "x");
    assert_int_equal(drop(&bob, "g", "bob"), ERR_OK);
    assert_int_equal(snapshot_open(store_fixture.store, alice.user_id, &snap, &ec), ERR_OK);
    assert_int_equal(snapshot_member(snap, STR("g"), &ec), ERR_OK);
    assert_int_equal(snapshot_members(snap, STR("g"), &nos, &n, &ec), ERR_OK);
    assert_int_equal(n, 2);
    assert_int_equal(nos[0], snapshot_user_no(snap));
    assert_int_equal(snapshot_members(snap, STR("own"), &nos, &n, &ec), ERR_OK);
    assert_int_equal(n, 1);
    assert_int_equal(snapshot_member(snap, STR("none"), &ec), ERR_NOT_FOUND);
    snapshot_close(snap);
    assert_int_equal(snapshot_open(store_fixture.store, bob.user_id, &snap, &ec), ERR_OK);
    assert_int_equal(snapshot_member(snap, STR("g"), &ec), ERR_NOT_FOUND);
    assert_int_equal(snapshot_members(snap, STR("g"), &nos, &n, &ec), ERR_NOT_FOUND);
    snapshot_close(snap);
}

static void groups_outlive_the_process(void **state)
{
    (void)state;
    make_abc("g");
    assert_int_equal(send_to(&alice, "g", "one", NULL), ERR_OK);
    fixture_reopen(&store_fixture);
    assert_int_equal(send_to(&carol, "g", "two", NULL), ERR_OK);
    assert_string_equal(texts("bob", "g"), "one@1 two@2");
    struct store_stats stats;
    store_stats(store_fixture.store, &stats);
    assert_int_equal(stats.users, 3); /* the group is none */
}

static struct chat_members_add add_one_row(
    struct value (*row)[MEMBER_NCOLUMNS], const char *id, const char *user)
{
    static uint32_t index;
    static struct str ids[1];
    memset(row, 0, sizeof *row);
    (*row)[MEMBER_CONVERSATION_ID] = value_text(str_c(id));
    (*row)[MEMBER_USER_ID] = value_text(str_c(user));
    ids[0] = str_c(id);
    return (struct chat_members_add){.caller = &alice,
        .owner = alice.user_id,
        .group_members_max = 9,
        .nrows = 1,
        .rows = row,
        .nconversations = 1,
        .conversation = &index,
        .conversation_ids = ids};
}

static enum err apply_add_and_fail(struct txn *txn, void *arg, struct errctx *ec)
{
    struct group g;
    const uint64_t *nos;
    size_t n;
    enum err e = chat_members_add_apply(arg, txn, ec);
    if (e == ERR_OK)
        e = txn_group(txn, STR("g"), &g, ec);
    if (e == ERR_OK)
        e = txn_group_present(txn, &g, &nos, &n, ec);
    assert_int_equal(e, ERR_OK);
    assert_int_equal(n, 4); /* it is there for whoever looks inside */
    return err_set(ec, ERR_CONFLICT, "not after all");
}

/* An op that changes members and is undone leaves no list behind that a later send would follow. */
static void undone_members_get_nothing(void **state)
{
    (void)state;
    struct value row[1][MEMBER_NCOLUMNS];
    make_abc("g");
    for (int warm = 0; warm < 2; warm++) {
        struct chat_members_add a = add_one_row(row, "g", "dave");
        assert_int_equal(
            commit(store_fixture.store, apply_add_and_fail, &a, DURABILITY_ASYNC, &last_error), ERR_CONFLICT);
        assert_int_equal(send_to(&alice, "g", "one", NULL), ERR_OK);
        assert_string_equal(members("alice", "g"), "alice:owner bob:member carol:admin");
        assert_int_equal(seq_of("dave"), 0);
        assert_int_equal(seq_of("bob"), warm + 1);
    }
}

struct add_and_send {
    struct chat_members_add add;
    int64_t removed;
    int members_then, members_after;
};

/* All in one commit group: joining, a send to the longer list, leaving, a send to the shorter one. */
static enum err apply_add_send_remove(struct txn *txn, void *arg, struct errctx *ec)
{
    struct add_and_send *x = arg;
    struct group g;
    struct member m;
    const uint64_t *nos;
    size_t n;
    enum err e = chat_members_add_apply(&x->add, txn, ec);
    if (e == ERR_OK)
        e = txn_group(txn, STR("g"), &g, ec);
    if (e == ERR_OK)
        e = txn_group_present(txn, &g, &nos, &n, ec);
    x->members_then = (int)n;
    if (e == ERR_OK)
        e = txn_group_member(txn, &g, STR("bob"), &m, ec);
    if (e == ERR_OK)
        e = chat_group_leave(txn, &g, &m, ec);
    if (e == ERR_OK)
        e = txn_group_present(txn, &g, &nos, &n, ec);
    x->members_after = (int)n;
    assert_int_equal(g.nmembers, n);
    struct value v[MSG_NCOLUMNS] = {[MSG_ID] = value_i64(txn_next_msg_id(txn)),
        [MSG_CONVERSATION_ID] = value_text(STR("g")),
        [MSG_CONVERSATION_TYPE] = value_text(STR("group")),
        [MSG_FROM] = value_text(STR("alice")),
        [MSG_TIMESTAMP] = value_ts(txn_now_us(txn)),
        [MSG_CONTENT] = value_text(STR("x"))};
    return e == ERR_OK ? txn_group_insert(txn, &g, v, 1, ec) : e;
}

static void members_change_within_a_commit(void **state)
{
    (void)state;
    struct value row[1][MEMBER_NCOLUMNS];
    make_abc("g");
    assert_int_equal(send_to(&alice, "g", "one", NULL), ERR_OK); /* the list is cached */
    struct add_and_send x = {.add = add_one_row(row, "g", "dave")};
    assert_int_equal(
        commit(store_fixture.store, apply_add_send_remove, &x, DURABILITY_ASYNC, &last_error), ERR_OK);
    assert_int_equal(x.members_then, 4);
    assert_int_equal(x.members_after, 3);
    assert_string_equal(texts("dave", "g"), "x@1");
    assert_string_equal(texts("bob", "g"), "one@1");
    assert_int_equal(send_to(&carol, "g", "two", NULL), ERR_OK);
    assert_string_equal(texts("dave", "g"), "x@1 two@2");
    assert_string_equal(texts("bob", "g"), "one@1");
}

static int teardown(void **state)
{
    arena_release(&read_arena);
    return chat_teardown(state);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, chat_setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_message_reaches_every_member),
        T(which_conversation_a_send_means),
        T(senders_in_groups),
        T(retries),
        T(supplied_ids),
        T(one_statement_for_many_groups),
        T(who_may_add),
        T(own_conversations_stand_in_the_way),
        T(who_may_remove),
        T(leaving_and_coming_back),
        T(ownership_is_handed_over),
        T(all_at_once_leave),
        T(snapshots_know_members),
        T(groups_outlive_the_process),
        T(undone_members_get_nothing),
        T(members_change_within_a_commit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
