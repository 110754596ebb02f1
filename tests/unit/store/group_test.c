/* Records of groups against bytes that nobody vouches for, and the questions that a commit has for files. */
#include "store/committer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
/* cmocka wants the three before */
#include <cmocka.h>

static struct group a_group(void)
{
    struct group g = {.history_shared = true, .nmembers = 3, .last_msg_id = 1234567, .nmessages = 9};
    g.values[CONV_ID] = value_text(STR("g"));
    g.values[CONV_TYPE] = value_text(STR("group"));
    g.values[CONV_TITLE] = value_text(STR("Title"));
    g.values[CONV_CREATED] = value_ts(77);
    return g;
}

static struct member a_member(void)
{
    struct member m = {.user_no = 42, .role = ROLE_OF_ADMIN, .present = true, .history = 5};
    m.values[MEMBER_CONVERSATION_ID] = value_text(STR("g"));
    m.values[MEMBER_USER_ID] = value_text(STR("alice"));
    m.values[MEMBER_JOINED] = value_ts(78);
    return m;
}

static void records_come_back(void **state)
{
    struct buf b = BUF_INIT(0);
    struct group g = a_group(), back;
    struct member m = a_member(), again;
    (void)state;
    group_encode(&b, &g);
    assert_int_equal(group_decode(buf_view(&b), 7, &back), ERR_OK);
    assert_true(back.exists && back.history_shared);
    assert_int_equal(back.group_no, 7);
    assert_int_equal(back.nmembers, 3);
    assert_int_equal(back.last_msg_id, 1234567);
    assert_int_equal(back.nmessages, 9);
    assert_true(str_eq(back.values[CONV_TITLE].s, STR("Title")));
    assert_true(value_is_null(back.values[CONV_METADATA]));
    /* Columns at the end may be missing, as from before they were there; nothing else may. */
    for (size_t n = 0; n < b.len; n++) {
        enum err e = group_decode(str_n(b.ptr, n), 7, &back);
        assert_true(e == ERR_CORRUPT || (e == ERR_OK && str_eq(back.values[CONV_ID].s, STR("g"))));
    }
    assert_int_equal(group_decode(str_n(b.ptr, 7), 7, &back), ERR_CORRUPT);
    /* Nor may it be a tombstone, whose columns need not be there. */
    /* Format, shared, members, id in four bytes, messages; then the row. */
    static const size_t row_at = 8;
    b.ptr[row_at + 1] = ROW_TOMBSTONE;
    assert_int_equal(group_decode(buf_view(&b), 7, &back), ERR_CORRUPT);
    b.ptr[row_at + 1] = 0;
    assert_int_equal(group_decode(buf_view(&b), 7, &back), ERR_OK);
    buf_clear(&b);
    member_entry_encode(&b, &m);
    assert_int_equal(member_entry_decode(buf_view(&b), &again), ERR_OK);
    assert_int_equal(again.user_no, 42);
    assert_int_equal(again.role, ROLE_OF_ADMIN);
    assert_int_equal(again.history, 5);
    assert_true(again.present && str_eq(again.user_id, STR("alice")));
    assert_true(str_eq(again.values[MEMBER_ROLE].s, STR("admin")));
    for (size_t n = 0; n < b.len; n++) {
        enum err e = member_entry_decode(str_n(b.ptr, n), &again);
        assert_true(e == ERR_CORRUPT || (e == ERR_OK && again.role == ROLE_OF_ADMIN));
    }
    assert_int_equal(member_entry_decode(str_n(b.ptr, MEMBER_ENTRY_PREFIX), &again), ERR_CORRUPT);
    b.ptr[MEMBER_ENTRY_PREFIX + 1] = ROW_TOMBSTONE;
    assert_int_equal(member_entry_decode(buf_view(&b), &again), ERR_CORRUPT);
    buf_release(&b);
}

/* A conversation may have been of one group after another: the last counts, none is forgotten. */
static void memberships_remember(void **state)
{
    struct buf a = BUF_INIT(0), b = BUF_INIT(0);
    uint64_t no;
    bool present;
    (void)state;
    membership_encode(&a, 5, true, STR_NULL);
    assert_int_equal(membership_get(buf_view(&a), &no, &present), ERR_OK);
    assert_true(no == 5 && present);
    membership_encode(&b, 9, true, buf_view(&a));
    assert_int_equal(b.len, 18);
    assert_int_equal(membership_get(buf_view(&b), &no, &present), ERR_OK);
    assert_true(no == 9 && present);
    assert_int_equal(get_be64(b.ptr + 9), 5);
    assert_int_equal(b.ptr[17], 0); /* a past one */
    buf_clear(&a);
    membership_encode(&a, 9, false, buf_view(&b));
    assert_int_equal(a.len, 18);
    assert_int_equal(membership_get(buf_view(&a), &no, &present), ERR_OK);
    assert_true(no == 9 && !present);
    assert_int_equal(membership_get(str_n(a.ptr, 17), &no, &present), ERR_CORRUPT);
    assert_int_equal(membership_get(STR(""), &no, &present), ERR_CORRUPT);
    buf_release(&a);
    buf_release(&b);
}

static void questions_are_asked_once(void **state)
{
    struct cold_lookup l = {0};
    const struct cold_question *known;
    (void)state;
    for (int round = 0; round < 2; round++) {
        for (uint64_t user = 1; user <= 50; user++) {
            for (int64_t id = 1; id <= 40; id++) {
                assert_int_equal(cold_lookup_ask(&l, user, 3, id, &known), ERR_OK);
                assert_null(known);
            }
        }
    }
    assert_int_equal(l.n, 2000);
    assert_int_equal(l.open, 2000);
    for (size_t i = 0; i < l.n; i++)
        cold_lookup_answer(&l, &l.items[i], 3, l.items[i].msg_id % 2 == 0, l.items[i].user_no, 1);
    assert_int_equal(l.open, 0);
    assert_int_equal(cold_lookup_ask(&l, 17, 3, 8, &known), ERR_OK);
    assert_non_null(known);
    assert_true(known->found && known->seq == 17);
    assert_int_equal(cold_lookup_ask(&l, 17, 3, 9, &known), ERR_OK);
    assert_true(known != NULL && !known->found);
    assert_int_equal(l.open, 0);
    /* Rows have moved since: the answer is void. */
    assert_int_equal(cold_lookup_ask(&l, 17, 4, 8, &known), ERR_OK);
    assert_null(known);
    assert_int_equal(l.open, 1);
    assert_int_equal(l.n, 2000);
    cold_lookup_release(&l);
    assert_int_equal(l.n, 0);
}

static struct str key_of(struct key *k, uint64_t user_no, const char *id)
{
    *k = key_named(user_no, SPACE_CONVERSATIONS, str_c(id));
    return key_view(k);
}

static void records_follow_what_is_written(void **state)
{
    struct records r = {0};
    struct overlay o;
    struct key k;
    struct str value;
    (void)state;
    assert_false(records_take(str_n("short", 5)));
    k = key_message(1, 2, 3);
    assert_false(records_take(key_view(&k)));
    assert_true(records_take(key_of(&k, 1, "c")));
    assert_false(records_get(&r, key_view(&k), &value));
    overlay_init(&o);
    overlay_begin_op(&o);
    overlay_put(&o, key_of(&k, 1, "c"), STR("one"));
    overlay_put(&o, key_of(&k, 1, "d"), STR("two"));
    k = key_message(1, 2, 3);
    overlay_put(&o, key_view(&k), STR("a row"));
    overlay_begin_op(&o);
    overlay_put(&o, key_of(&k, 1, "c"), STR("undone"));
    overlay_put(&o, key_of(&k, 1, "e"), STR("undone"));
    overlay_undo_op(&o);
    records_written(&r, &o);
    assert_true(records_get(&r, key_of(&k, 1, "c"), &value) && str_eq(value, STR("one")));
    assert_true(records_get(&r, key_of(&k, 1, "d"), &value) && str_eq(value, STR("two")));
    assert_false(records_get(&r, key_of(&k, 1, "e"), &value));
    assert_false(records_get(&r, key_of(&k, 2, "c"), &value));
    k = key_message(1, 2, 3);
    assert_false(records_get(&r, key_view(&k), &value));
    overlay_clear(&o);
    static char large[300];
    memset(large, 'x', sizeof large);
    overlay_delete(&o, key_of(&k, 1, "c"));
    overlay_put(&o, key_of(&k, 1, "d"), str_n(large, sizeof large));
    records_written(&r, &o);
    assert_false(records_get(&r, key_of(&k, 1, "c"), &value));
    assert_true(records_get(&r, key_of(&k, 1, "d"), &value) && value.len == sizeof large);
    records_clear(&r);
    assert_false(records_get(&r, key_of(&k, 1, "d"), &value));
    assert_int_equal(r.bytes, 0);
    records_release(&r);
    overlay_release(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_come_back),
        cmocka_unit_test(memberships_remember),
        cmocka_unit_test(questions_are_asked_once),
        cmocka_unit_test(records_follow_what_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
