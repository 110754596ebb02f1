/* Rows in the hot tier: what a commit writes, what a snapshot reads. Long: one case per function of
 * store.h over one fixture. */
#include "fixture.h"
#include "store/internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
/* cmocka wants the three before */
#include <cmocka.h>

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    fixture_open(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture_close(*state);
    free(*state);
    return 0;
}

#define OK(call)                                                                                             \
    do {                                                                                                     \
        enum err e_ = (call);                                                                                \
        if (e_ != ERR_OK)                                                                                    \
            fail_msg("%s: %s: %s (%s)", #call, err_wire(e_), ec.message, ec.internal);                       \
    } while (0)

static int64_t add(struct fixture *f, const char *user, const char *conversation, const char *content)
{
    struct errctx ec;
    struct message m = {.user = user, .conversation = conversation, .content = content};
    OK(insert(f->store, &m, &ec));
    return m.id;
}

static struct snapshot *view(struct fixture *f, const char *user)
{
    struct errctx ec;
    struct snapshot *snap;
    OK(snapshot_open(f->store, str_c(user), &snap, &ec));
    return snap;
}

/* Contents of a scan as one text, a comma behind each; a tombstone shows as -. */
static void scan(struct snapshot *snap, struct scan_spec spec, char *ret, size_t size)
{
    struct errctx ec;
    struct hot_iter *it;
    struct str row;
    enum err e;
    size_t n = 0;
    ret[0] = '\0';
    OK(hot_iter_open(snap, &spec, &it, &ec));
    while ((e = hot_iter_next(it, &row, &ec)) == ERR_OK) {
        struct row_meta meta;
        struct value v[SCHEMA_COLUMNS_MAX];
        const struct schema *schema = spec.order == SCAN_TABLE ? spec.table : &schema_messages;
        assert_int_equal(row_decode(row, schema, &meta, v), ERR_OK);
        struct str s = (meta.flags & ROW_TOMBSTONE) != 0 ? STR("-")
                       : schema == &schema_messages      ? v[MSG_CONTENT].s
                       : schema == &schema_conversations ? v[CONV_ID].s
                                                         : v[MEMBER_USER_ID].s;
        n += (size_t)snprintf(ret + n, size - n, "%.*s,", STR_FMT(s));
        assert_true(n < size);
    }
    assert_int_equal(e, ERR_NOT_FOUND);
    hot_iter_close(it);
}

#define NEWEST(conv)                                                                                         \
    (struct scan_spec)                                                                                       \
    {                                                                                                        \
        .order = SCAN_BY_CONVERSATION, .descending = true, .conversation_id = STR(conv), .id_max = INT64_MAX \
    }
#define OLDEST(conv)                                                                                         \
    (struct scan_spec)                                                                                       \
    {                                                                                                        \
        .order = SCAN_BY_CONVERSATION, .conversation_id = STR(conv), .id_max = INT64_MAX                     \
    }

static void test_insert_and_scan(void **state)
{
    struct fixture *f = *state;
    char text[256];
    int64_t a = add(f, "alice", "c1", "a");
    int64_t b = add(f, "alice", "c2", "b");
    int64_t c = add(f, "alice", "c1", "c");
    add(f, "bob", "c1", "other");
    assert_true(a < b && b < c);
    struct snapshot *snap = view(f, "alice");
    assert_true(snapshot_exists(snap));
    assert_int_equal(snapshot_seq(snap), 3);
    assert_int_equal(snapshot_total_messages(snap), 3);
    assert_int_equal(snapshot_feed(snap).len, 16);
    assert_int_equal(snapshot_conversation_floor(snap, STR("c1")), 0);
    scan(snap, NEWEST("c1"), text, sizeof text);
    assert_string_equal(text, "c,a,");
    scan(snap, OLDEST("c1"), text, sizeof text);
    assert_string_equal(text, "a,c,");
    scan(snap, NEWEST("c2"), text, sizeof text);
    assert_string_equal(text, "b,");
    scan(snap, NEWEST("c3"), text, sizeof text);
    assert_string_equal(text, "");
    struct scan_spec spec = {.order = SCAN_BY_ID, .descending = true, .id_max = INT64_MAX};
    scan(snap, spec, text, sizeof text);
    assert_string_equal(text, "c,b,a,");
    spec = (struct scan_spec){.order = SCAN_BY_ID, .id_min = b, .id_max = c};
    scan(snap, spec, text, sizeof text);
    assert_string_equal(text, "b,c,");
    spec = (struct scan_spec){.order = SCAN_BY_SEQ, .seq_min = 2, .seq_max = UINT64_MAX};
    scan(snap, spec, text, sizeof text);
    assert_string_equal(text, "b,c,");
    spec = (struct scan_spec){.order = SCAN_BY_SEQ, .seq_min = 0, .seq_max = 2, .conversation_id = STR("c1")};
    scan(snap, spec, text, sizeof text);
    assert_string_equal(text, "a,");
    spec = (struct scan_spec){
        .order = SCAN_BY_CONVERSATION, .descending = true, .conversation_id = STR("c1"), .id_max = c - 1};
    scan(snap, spec, text, sizeof text);
    assert_string_equal(text, "a,");
    spec = (struct scan_spec){.order = SCAN_TABLE, .table = &schema_conversations};
    scan(snap, spec, text, sizeof text);
    assert_string_equal(text, "c1,c2,");
    spec.descending = true;
    scan(snap, spec, text, sizeof text);
    assert_string_equal(text, "c2,c1,");
    snapshot_close(snap);
}

static void test_unknown_user(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    struct row_meta meta;
    struct value values[MSG_NCOLUMNS];
    char text[16];
    struct snapshot *snap = view(f, "nobody");
    assert_false(snapshot_exists(snap));
    assert_int_equal(snapshot_seq(snap), 0);
    assert_int_equal(snapshot_user_no(snap), 0);
    assert_int_equal(snapshot_feed(snap).len, 0);
    assert_int_equal(snapshot_message(snap, 1, &meta, values, &ec), ERR_NOT_FOUND);
    assert_int_equal(snapshot_conversation(snap, STR("c"), values, &ec), ERR_NOT_FOUND);
    scan(snap, NEWEST("c"), text, sizeof text);
    assert_string_equal(text, "");
    snapshot_close(snap);
}

static void test_snapshot_does_not_move(void **state)
{
    struct fixture *f = *state;
    char text[64];
    add(f, "alice", "c", "1");
    struct snapshot *snap = view(f, "alice");
    add(f, "alice", "c", "2");
    scan(snap, NEWEST("c"), text, sizeof text);
    assert_string_equal(text, "1,");
    assert_int_equal(snapshot_seq(snap), 1);
    snapshot_close(snap);
}

static void test_conversation_counters(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    struct value v[CONV_NCOLUMNS];
    int64_t a = add(f, "alice", "c", "1"), b = add(f, "alice", "c", "2"), c = add(f, "alice", "c", "3");
    struct snapshot *snap = view(f, "alice");
    OK(snapshot_conversation(snap, STR("c"), v, &ec));
    assert_int_equal(v[CONV_FIRST_MSG_ID].i, a);
    assert_int_equal(v[CONV_LAST_MSG_ID].i, c);
    assert_int_equal(v[CONV_TOTAL_MESSAGES].i, 3);
    assert_true(str_eq(v[CONV_TYPE].s, STR("ai")));
    snapshot_close(snap);
    OK(delete_message(f->store, "alice", a, &ec));
    OK(delete_message(f->store, "alice", c, &ec));
    snap = view(f, "alice");
    OK(snapshot_conversation(snap, STR("c"), v, &ec));
    assert_int_equal(v[CONV_FIRST_MSG_ID].i, b);
    assert_int_equal(v[CONV_LAST_MSG_ID].i, b);
    assert_int_equal(v[CONV_TOTAL_MESSAGES].i, 1);
    assert_int_equal(snapshot_total_messages(snap), 1);
    snapshot_close(snap);
    OK(delete_message(f->store, "alice", b, &ec));
    snap = view(f, "alice");
    OK(snapshot_conversation(snap, STR("c"), v, &ec));
    assert_true(value_is_null(v[CONV_FIRST_MSG_ID]));
    assert_true(value_is_null(v[CONV_LAST_MSG_ID]));
    assert_int_equal(v[CONV_TOTAL_MESSAGES].i, 0);
    assert_int_equal(snapshot_seq(snap), 6);
    snapshot_close(snap);
}

static void test_update_and_tombstone(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    char text[64];
    struct row_meta meta;
    struct value v[MSG_NCOLUMNS];
    int64_t a = add(f, "alice", "c", "one"), b = add(f, "alice", "c", "two");
    OK(update_message(f->store, "alice", a, "ONE", &ec));
    OK(delete_message(f->store, "alice", b, &ec));
    struct snapshot *snap = view(f, "alice");
    scan(snap, NEWEST("c"), text, sizeof text);
    assert_string_equal(text, "ONE,");
    struct scan_spec by_seq = {.order = SCAN_BY_SEQ, .seq_max = UINT64_MAX, .tombstones = true};
    scan(snap, by_seq, text, sizeof text);
    assert_string_equal(text, "ONE,-,"); /* each row once, at its last change */
    by_seq.tombstones = false;
    scan(snap, by_seq, text, sizeof text);
    assert_string_equal(text, "ONE,");
    OK(snapshot_message(snap, a, &meta, v, &ec));
    assert_int_equal(meta.seq, 3);
    assert_int_equal(meta.ins_seq, 1);
    OK(snapshot_message(snap, b, &meta, v, &ec));
    assert_int_equal(meta.seq, 4);
    assert_int_equal(meta.ins_seq, 2);
    assert_int_equal(meta.flags, ROW_TOMBSTONE);
    assert_true(str_eq(v[MSG_CONVERSATION_ID].s, STR("c")));
    assert_true(value_is_null(v[MSG_CONTENT]));
    uint64_t ins_seq;
    bool cold;
    OK(snapshot_arrival(snap, a, &ins_seq, &cold, &ec));
    assert_int_equal(ins_seq, 1);
    OK(snapshot_arrival(snap, b + 5, &ins_seq, &cold, &ec)); /* unknown: the newest before it */
    assert_int_equal(ins_seq, 1);
    OK(snapshot_arrival(snap, 1, &ins_seq, &cold, &ec));
    assert_int_equal(ins_seq, 0);
    assert_false(cold);
    snapshot_close(snap);
}

/* ---- edits that lost a race --------------------------------------------------------------------------- */

struct stale_edit {
    int64_t id;
    uint64_t expected_seq;
    bool delete;
};

static enum err stale_edit(struct txn *txn, void *arg, struct errctx *ec)
{
    struct stale_edit *s = arg;
    uint64_t user_no;
    struct conversation c;
    struct value v[MSG_NCOLUMNS] = {0};
    v[MSG_ID] = value_i64(s->id);
    v[MSG_CONVERSATION_ID] = value_text(STR("c"));
    v[MSG_FROM] = value_text(STR("alice"));
    v[MSG_TIMESTAMP] = value_ts(1);
    v[MSG_CONTENT] = value_text(STR("late"));
    enum err e = txn_user(txn, STR("alice"), false, &user_no, ec);
    if (e == ERR_OK)
        e = txn_conversation(txn, user_no, STR("c"), &c, ec);
    if (e != ERR_OK)
        return e;
    return s->delete ? txn_message_delete(txn, &c, v, s->expected_seq, 1, 0, ec)
                     : txn_message_update(txn, &c, v, s->expected_seq, 1, 0, STR_NULL, ec);
}

static void test_stale_edits_retry(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    char text[64];
    struct stale_edit s = {.id = add(f, "alice", "c", "first"), .expected_seq = 1};
    OK(update_message(f->store, "alice", s.id, "second", &ec));
    assert_int_equal(commit(f->store, stale_edit, &s, DURABILITY_DEFAULT, &ec), ERR_RETRY);
    s.delete = true;
    assert_int_equal(commit(f->store, stale_edit, &s, DURABILITY_DEFAULT, &ec), ERR_RETRY);
    struct snapshot *snap = view(f, "alice");
    scan(snap, NEWEST("c"), text, sizeof text);
    assert_string_equal(text, "second,");
    assert_int_equal(snapshot_seq(snap), 2);
    snapshot_close(snap);
    s.expected_seq = 2;
    OK(commit(f->store, stale_edit, &s, DURABILITY_DEFAULT, &ec));
    /* gone: neither its last number nor that of the tombstone brings it back */
    s.delete = false;
    for (s.expected_seq = 2; s.expected_seq <= 3; s.expected_seq++)
        assert_int_equal(commit(f->store, stale_edit, &s, DURABILITY_DEFAULT, &ec), ERR_RETRY);
}

/* ---- all or nothing ----------------------------------------------------------------------------------- */

struct many {
    const char *users[3];
    bool fail;
};

static enum err insert_many(struct txn *txn, void *arg, struct errctx *ec)
{
    struct many *many = arg;
    for (int i = 0; i < 3; i++) {
        struct message m = {.user = many->users[i], .conversation = "shared", .content = "x"};
        enum err e = insert_message(txn, &m, ec);
        if (e != ERR_OK)
            return e;
    }
    return many->fail ? err_set(ec, ERR_CONFLICT, "refused") : ERR_OK;
}

static void test_failed_op_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    struct many bad = {{"alice", "new1", "new2"}, true}, good = {{"alice", "bob", "carol"}, false};
    struct pending_commit p[5];
    add(f, "alice", "shared", "before");
    /* queued together, so that they share groups */
    for (int i = 0; i < 5; i++)
        commit_start(f->store, &p[i], insert_many, i % 2 == 0 ? &good : &bad, DURABILITY_DEFAULT);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(commit_end(&p[i]), i % 2 == 0 ? ERR_OK : ERR_CONFLICT);
        if (i % 2 == 1)
            assert_string_equal(p[i].ec.message, "refused");
    }
    struct snapshot *snap = view(f, "new1");
    assert_false(snapshot_exists(snap));
    snapshot_close(snap);
    struct value v[CONV_NCOLUMNS];
    const char *users[] = {"alice", "bob", "carol"};
    for (int i = 0; i < 3; i++) {
        snap = view(f, users[i]);
        assert_int_equal(snapshot_seq(snap), i == 0 ? 4 : 3);
        assert_int_equal(snapshot_user_no(snap), i + 1); /* numbers of undone users are given again */
        OK(snapshot_conversation(snap, STR("shared"), v, &ec));
        assert_int_equal(v[CONV_TOTAL_MESSAGES].i, i == 0 ? 4 : 3);
        snapshot_close(snap);
    }
    struct store_stats stats;
    store_stats(f->store, &stats);
    assert_int_equal(stats.users, 3);
    assert_int_equal(stats.rows_hot, 10);
    assert_int_equal(stats.rows_inserted, 10);
}

static void test_reopen_keeps_everything(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    char text[64], feed[33];
    int64_t a = add(f, "alice", "c", "1"), b = add(f, "alice", "c", "2");
    OK(delete_message(f->store, "alice", a, &ec));
    struct snapshot *snap = view(f, "alice");
    snprintf(feed, sizeof feed, "%.*s", STR_FMT(snapshot_feed(snap)));
    snapshot_close(snap);
    fixture_reopen(f);
    snap = view(f, "alice");
    assert_int_equal(snapshot_seq(snap), 3);
    assert_true(str_eq(snapshot_feed(snap), str_c(feed)));
    scan(snap, NEWEST("c"), text, sizeof text);
    assert_string_equal(text, "2,");
    snapshot_close(snap);
    assert_true(add(f, "alice", "c", "3") > b);
    snap = view(f, "alice");
    assert_int_equal(snapshot_seq(snap), 4);
    snapshot_close(snap);
}

/* ---- idempotency, ids, conversations, members --------------------------------------------------------- */

static void test_client_ids(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    atomic_store(&f->realtime_us, INT64_C(1760000000000000));
    struct message m = {.user = "alice", .conversation = "c", .content = "x", .client_id = "k1"};
    OK(insert(f->store, &m, &ec));
    assert_false(m.existed);
    int64_t id = m.id;
    struct message again = m;
    again.id = 0;
    OK(insert(f->store, &again, &ec));
    assert_true(again.existed);
    assert_int_equal(again.id, id);
    again = (struct message){.user = "alice", .conversation = "d", .content = "x", .client_id = "k1"};
    OK(insert(f->store, &again, &ec));
    assert_false(again.existed); /* another conversation */
    OK(delete_message(f->store, "alice", id, &ec));
    fixture_reopen(f);
    atomic_fetch_add(&f->realtime_us, INT64_C(30) * 24 * 3600 * 1000000);
    again = (struct message){.user = "alice", .conversation = "c", .content = "x", .client_id = "k1"};
    OK(insert(f->store, &again, &ec));
    assert_true(again.existed); /* kept through deletion and restart for 30 days */
    assert_int_equal(again.id, id);
    atomic_fetch_add(&f->realtime_us, INT64_C(2) * 24 * 3600 * 1000000);
    again = (struct message){.user = "alice", .conversation = "c", .content = "x", .client_id = "k1"};
    OK(insert(f->store, &again, &ec));
    assert_false(again.existed);
}

static void test_ids_never_go_back(void **state)
{
    struct fixture *f = *state;
    int64_t now = INT64_C(1760000000000000), last = 0;
    atomic_store(&f->realtime_us, now);
    for (int i = 0; i < 20; i++) {
        int64_t id = add(f, "alice", "c", "x");
        assert_true(id > last);
        last = id;
        if (i == 10)
            atomic_store(&f->realtime_us, now - INT64_C(3600) * 1000000); /* stepped back an hour */
        if (i == 15)
            fixture_reopen(f);
    }
    assert_true(last < INT64_C(1) << 53);
    int64_t ahead = (last >> 12) - (now / 1000 - INT64_C(1735689600000));
    assert_in_range(ahead, 1000, 2000); /* the leap at open: ids_leap */
    assert_int_equal(last & 4095, 19);
}

struct taken {
    int64_t id;
    bool taken, unsure;
    int64_t last;
};

static enum err ask_taken(struct txn *txn, void *arg, struct errctx *ec)
{
    struct taken *t = arg;
    uint64_t user_no;
    enum err e = txn_user(txn, STR("alice"), true, &user_no, ec);
    t->last = txn_last_msg_id(txn);
    return e == ERR_OK ? txn_msg_id_taken(txn, user_no, t->id, &t->taken, &t->unsure, ec) : e;
}

static void test_supplied_ids(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    struct taken t = {.id = 777};
    OK(commit(f->store, ask_taken, &t, DURABILITY_DEFAULT, &ec));
    assert_false(t.taken);
    assert_false(t.unsure);
    assert_true(t.last > (INT64_C(1) << 40)); /* an empty store takes ids up to its clock */
    struct message m = {.user = "alice", .conversation = "c", .content = "old", .id = 777};
    int64_t newer = add(f, "alice", "c", "new");
    assert_true(newer > t.last);
    OK(insert(f->store, &m, &ec));
    OK(commit(f->store, ask_taken, &t, DURABILITY_DEFAULT, &ec));
    assert_true(t.taken);
    char text[32];
    struct snapshot *snap = view(f, "alice");
    scan(snap, NEWEST("c"), text, sizeof text);
    assert_string_equal(text, "new,old,"); /* order of ids, not of arrival */
    struct value v[CONV_NCOLUMNS];
    OK(snapshot_conversation(snap, STR("c"), v, &ec));
    assert_int_equal(v[CONV_FIRST_MSG_ID].i, 777);
    assert_int_equal(v[CONV_LAST_MSG_ID].i, newer);
    snapshot_close(snap);
    OK(delete_message(f->store, "alice", 777, &ec));
    OK(commit(f->store, ask_taken, &t, DURABILITY_DEFAULT, &ec));
    assert_true(t.taken); /* its tombstone keeps the id */
}

static enum err delete_conversation(struct txn *txn, void *arg, struct errctx *ec)
{
    struct conversation c;
    uint64_t user_no;
    enum err e = txn_user(txn, STR("alice"), false, &user_no, ec);
    if (e == ERR_OK)
        e = txn_conversation(txn, user_no, STR("c"), &c, ec);
    if (e == ERR_OK)
        e = txn_members_delete(txn, &c, ec);
    *(uint32_t *)arg = c.conv_no;
    return e == ERR_OK ? txn_conversation_delete(txn, &c, ec) : e;
}

static enum err add_members(struct txn *txn, void *arg, struct errctx *ec)
{
    struct conversation c;
    uint64_t user_no;
    struct value v[MEMBER_NCOLUMNS] = {0};
    const char **names = arg;
    enum err e = txn_user(txn, STR("alice"), false, &user_no, ec);
    if (e == ERR_OK)
        e = txn_conversation(txn, user_no, STR("c"), &c, ec);
    v[MEMBER_CONVERSATION_ID] = value_text(STR("c"));
    v[MEMBER_ROLE] = value_text(STR("member"));
    v[MEMBER_JOINED] = value_ts(5);
    for (; e == ERR_OK && *names != NULL; names++) {
        v[MEMBER_USER_ID] = value_text(str_c(*names));
        e = txn_member_put(txn, &c, v, ec);
        struct value read[MEMBER_NCOLUMNS];
        if (e == ERR_OK)
            e = txn_member(txn, &c, str_c(*names), read, ec);
        assert_int_equal(e, ERR_OK);
        assert_int_equal(read[MEMBER_JOINED].i, 5);
    }
    return e == ERR_OK && txn_member(txn, &c, STR("stranger"), v, ec) != ERR_NOT_FOUND ? ERR_INTERNAL : e;
}

static void test_members_and_recreation(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    char text[128];
    uint32_t conv_no;
    const char *names[] = {"zoe", "alice", "bob", NULL};
    struct scan_spec members = {.order = SCAN_TABLE, .table = &schema_conversation_users};
    struct scan_spec conversations = {.order = SCAN_TABLE, .table = &schema_conversations};
    int64_t id = add(f, "alice", "c", "x");
    add(f, "alice", "d", "y");
    OK(commit(f->store, add_members, names, DURABILITY_DEFAULT, &ec));
    struct snapshot *snap = view(f, "alice");
    scan(snap, members, text, sizeof text);
    assert_string_equal(text, "alice,bob,zoe,");
    snapshot_close(snap);
    OK(delete_message(f->store, "alice", id, &ec));
    OK(commit(f->store, delete_conversation, &conv_no, DURABILITY_DEFAULT, &ec));
    assert_int_equal(commit(f->store, delete_conversation, &conv_no, DURABILITY_DEFAULT, &ec), ERR_NOT_FOUND);
    snap = view(f, "alice");
    scan(snap, members, text, sizeof text);
    assert_string_equal(text, "");
    scan(snap, conversations, text, sizeof text);
    assert_string_equal(text, "d,");
    struct value v[CONV_NCOLUMNS];
    assert_int_equal(snapshot_conversation(snap, STR("c"), v, &ec), ERR_NOT_FOUND);
    snapshot_close(snap);
    add(f, "alice", "c", "again");
    snap = view(f, "alice");
    struct conversation_record record;
    OK(snapshot_conversation_record(snap, STR("c"), &record, &ec));
    assert_int_equal(record.conv_no, conv_no); /* the number outlives the conversation */
    OK(snapshot_conversation(snap, STR("c"), v, &ec));
    assert_int_equal(v[CONV_TOTAL_MESSAGES].i, 1);
    scan(snap, NEWEST("c"), text, sizeof text);
    assert_string_equal(text, "again,");
    snapshot_close(snap);
}

/* ---- what the cold half builds on --------------------------------------------------------------------- */

struct release {
    int64_t id;
    uint64_t seq;
    bool row, tombstone;
};

static enum err release(struct txn *txn, void *arg, struct errctx *ec)
{
    struct release *r = arg;
    uint64_t user_no;
    enum err e = txn_user(txn, STR("alice"), false, &user_no, ec);
    if (e == ERR_OK)
        e = txn_row_release(txn, user_no, 1, r->id, r->seq, &r->row, ec);
    if (e == ERR_OK)
        e = txn_tombstone_release(txn, user_no, r->id, r->seq, &r->tombstone, ec);
    if (e == ERR_OK)
        e = txn_conversation_floor(txn, user_no, STR("c"), r->id + 1, ec);
    return e;
}

static void test_release(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    char text[64];
    struct release a = {.id = add(f, "alice", "c", "a"), .seq = 1},
                   b = {.id = add(f, "alice", "c", "b"), .seq = 2};
    OK(update_message(f->store, "alice", a.id, "A", &ec));
    OK(commit(f->store, release, &a, DURABILITY_DEFAULT, &ec));
    assert_false(a.row); /* it is at 3 by now */
    OK(commit(f->store, release, &b, DURABILITY_DEFAULT, &ec));
    assert_true(b.row);
    OK(delete_message(f->store, "alice", a.id, &ec));
    a.seq = 4;
    struct snapshot *before = view(f, "alice");
    OK(commit(f->store, release, &a, DURABILITY_DEFAULT, &ec));
    assert_false(a.row);
    assert_true(a.tombstone);
    struct scan_spec by_seq = {.order = SCAN_BY_SEQ, .seq_max = UINT64_MAX, .tombstones = true};
    scan(before, by_seq, text, sizeof text);
    assert_string_equal(text, "-,");
    snapshot_close(before);
    struct snapshot *snap = view(f, "alice");
    scan(snap, by_seq, text, sizeof text);
    assert_string_equal(text, "");
    struct conversation_record record;
    OK(snapshot_conversation_record(snap, STR("c"), &record, &ec));
    assert_int_equal(record.hot_floor, a.id + 1);
    assert_int_equal(snapshot_seq(snap), 4);
    snapshot_close(snap);
}

static enum err put_manifest(struct txn *txn, void *arg, struct errctx *ec)
{
    struct manifest m = {.epoch = *(uint64_t *)arg, .watermark = 2, .user_floor = 9};
    uint64_t user_no;
    enum err e = txn_user(txn, STR("alice"), false, &user_no, ec);
    if (e == ERR_OK)
        e = txn_manifest_put(txn, user_no, &m, ec);
    struct manifest *read = NULL;
    if (e == ERR_OK)
        e = txn_manifest(txn, user_no, &read, ec);
    if (e == ERR_OK)
        assert_int_equal(read->epoch, m.epoch);
    manifest_unref(read);
    return e;
}

static void test_manifest_versions(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    uint64_t epoch = 1;
    add(f, "alice", "c", "a");
    struct snapshot *zero = view(f, "alice");
    OK(commit(f->store, put_manifest, &epoch, DURABILITY_DEFAULT, &ec));
    assert_int_equal(commit(f->store, put_manifest, &epoch, DURABILITY_DEFAULT, &ec), ERR_RETRY);
    struct snapshot *one = view(f, "alice"), *again = view(f, "alice");
    epoch = 2;
    OK(commit(f->store, put_manifest, &epoch, DURABILITY_DEFAULT, &ec));
    struct snapshot *two = view(f, "alice");
    assert_int_equal(snapshot_cold_epoch(zero), 0);
    assert_null(zero->manifest);
    assert_int_equal(one->manifest->epoch, 1);
    assert_ptr_equal(one->manifest, again->manifest); /* decoded once */
    assert_int_equal(two->manifest->epoch, 2);
    assert_int_equal(snapshot_user_floor(two), 9);
    assert_int_equal(snapshot_user_floor(zero), 0);
    snapshot_close(zero);
    snapshot_close(one);
    snapshot_close(again);
    snapshot_close(two);
}

static bool count_user(void *arg, uint64_t user_no, struct str user_id)
{
    uint64_t *sum = arg;
    char name[16];
    snprintf(name, sizeof name, "u%04llu", (unsigned long long)user_no);
    assert_true(str_eq(user_id, str_c(name)));
    *sum += user_no;
    return true;
}

static enum err make_users(struct txn *txn, void *arg, struct errctx *ec)
{
    for (int i = 1; i <= 600; i++) {
        char name[16];
        uint64_t user_no;
        snprintf(name, sizeof name, "u%04d", i);
        enum err e = txn_user(txn, str_c(name), true, &user_no, ec);
        if (e != ERR_OK)
            return e;
        assert_int_equal(user_no, i);
    }
    (void)arg;
    return ERR_OK;
}

static void test_each_user(void **state)
{
    struct fixture *f = *state;
    struct errctx ec;
    uint64_t sum = 0;
    OK(commit(f->store, make_users, NULL, DURABILITY_DEFAULT, &ec));
    OK(store_each_user(f->store, count_user, &sum, &ec));
    assert_int_equal(sum, 600 * 601 / 2);
}

static void test_folder_names(void **state)
{
    (void)state;
    struct buf b = BUF_INIT(0);
    store_folder_name(&b, STR("user_alice-1"));
    assert_true(str_eq(buf_view(&b), STR("user_alice-1")));
    buf_clear(&b);
    store_folder_name(&b, STR("../a|\xc3\xa9"));
    assert_true(str_eq(buf_view(&b), STR("%2E%2E%2Fa%7C%C3%A9")));
    char id[255];
    memset(id, 'x', sizeof id);
    buf_clear(&b);
    store_folder_name(&b, str_n(id, 200));
    assert_int_equal(b.len, 200);
    buf_clear(&b);
    store_folder_name(&b, str_n(id, 201));
    assert_int_equal(b.len, 133);
    assert_int_equal(b.ptr[100], '~');
    /* printf 'x%.0s' {1..201} | sha256sum */
    assert_memory_equal(b.ptr + 101, "84a0678c90937f5dcf9994d5866668da", 32);
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_insert_and_scan, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_user, setup, teardown),
        cmocka_unit_test_setup_teardown(test_snapshot_does_not_move, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conversation_counters, setup, teardown),
        cmocka_unit_test_setup_teardown(test_update_and_tombstone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stale_edits_retry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failed_op_leaves_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reopen_keeps_everything, setup, teardown),
        cmocka_unit_test_setup_teardown(test_client_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ids_never_go_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_supplied_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(test_members_and_recreation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_release, setup, teardown),
        cmocka_unit_test_setup_teardown(test_manifest_versions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_user, setup, teardown),
        cmocka_unit_test(test_folder_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
