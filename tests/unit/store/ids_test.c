/* Ids against clocks that stand still, step back and overflow; keys against the order they promise. */
#include "store/ids.h"
#include "store/keys.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
/* cmocka wants the three before */
#include <cmocka.h>

#define AT_MS(ms) ((IDS_EPOCH_MS + (ms)) * 1000)

static void test_id_is_the_clock(void **state)
{
    (void)state;
    struct ids ids = {0};
    assert_int_equal(ids_next(&ids, AT_MS(5)), 5 << 12);
    assert_int_equal(ids_next(&ids, AT_MS(6)), 6 << 12);
    /* 2025-10-13T12:00:00Z */
    assert_int_equal(
        ids_next(&ids, INT64_C(1760356800000000)), (INT64_C(1760356800000) - IDS_EPOCH_MS) << 12);
}

static void test_burst_borrows(void **state)
{
    (void)state;
    struct ids ids = {0};
    int64_t last = 0;
    for (int i = 0; i < 10000; i++) {
        int64_t id = ids_next(&ids, AT_MS(100));
        assert_true(id > last);
        last = id;
    }
    assert_int_equal(last, (100 << 12) + 9999);
    /* the clock is still behind what was borrowed, then passes it */
    assert_int_equal(ids_next(&ids, AT_MS(102)), last + 1);
    assert_int_equal(ids_next(&ids, AT_MS(103)), 103 << 12);
}

static void test_clock_steps_back(void **state)
{
    (void)state;
    struct ids ids = {0};
    int64_t id = ids_next(&ids, AT_MS(1000));
    assert_int_equal(ids_next(&ids, AT_MS(10)), id + 1);
    assert_int_equal(ids_next(&ids, 0), id + 2);
    assert_int_equal(ids_next(&ids, INT64_MIN), id + 3);
}

static void test_current_is_below_the_next(void **state)
{
    (void)state;
    struct ids ids = {0};
    int64_t current = ids_current(&ids, AT_MS(50));
    assert_int_equal(current, 50 << 12);
    assert_true(ids_next(&ids, AT_MS(50)) > current);
    assert_true(ids_next(&ids, AT_MS(1)) > current);
    assert_int_equal(ids_current(&ids, AT_MS(1)), current + 2);
}

/* What a power cut took back of asynchronous writes is not given again, whatever the clock says now. */
static void test_leap(void **state)
{
    (void)state;
    struct ids ids = {0}, lost;
    ids_next(&ids, AT_MS(1000));
    lost = ids;
    for (int i = 0; i < 3000; i++)
        ids_next(&lost, AT_MS(1000 + i / 60)); /* within a window of 50 ms */
    ids_leap(&ids, 50);
    assert_true(ids_next(&ids, AT_MS(10)) > lost.last);
    assert_int_equal(ids_next(&ids, AT_MS(9000)), INT64_C(9000) << 12);
    ids.last = IDS_MAX - 5;
    ids_leap(&ids, 50);
    assert_int_equal(ids.last, IDS_MAX);
}

static void test_end_of_time(void **state)
{
    (void)state;
    struct ids ids = {0};
    assert_int_equal(ids_next(&ids, INT64_MAX), IDS_MAX);
    assert_int_equal(ids_next(&ids, INT64_MAX), IDS_MAX);
}

static void test_keys_sort(void **state)
{
    (void)state;
    struct key newer = key_message(7, 3, 200), older = key_message(7, 3, 100), other = key_message(7, 4, 500);
    struct key of = key_messages_of(7, 3), after = key_after(&of);
    assert_true(str_cmp(key_view(&newer), key_view(&older)) < 0);
    assert_true(str_cmp(key_view(&of), key_view(&newer)) < 0);
    assert_true(str_cmp(key_view(&older), key_view(&after)) < 0);
    assert_true(str_cmp(key_view(&after), key_view(&other)) <= 0);
    uint32_t conv_no = 0;
    int64_t msg_id = 0;
    assert_true(key_parse_message(key_view(&newer), &conv_no, &msg_id));
    assert_int_equal(conv_no, 3);
    assert_int_equal(msg_id, 200);
    assert_false(key_parse_message(key_view(&of), &conv_no, &msg_id));
    struct key id = key_id(7, SPACE_IDS, 123);
    assert_true(key_parse_id(key_view(&id), &msg_id));
    assert_int_equal(msg_id, 123);
    struct key s1 = key_seq(7, 255), s2 = key_seq(7, 256);
    assert_true(str_cmp(key_view(&s1), key_view(&s2)) < 0);
}

static void test_key_after_carries(void **state)
{
    (void)state;
    struct key k = key_seq(7, 0x01ff), after = key_after(&k);
    struct key next = key_seq(7, 0x0200);
    assert_true(str_cmp(key_view(&k), key_view(&after)) < 0);
    assert_true(str_cmp(key_view(&after), key_view(&next)) <= 0);
    k = key_seq(7, UINT64_MAX);
    after = key_after(&k);
    struct key space = key_prefix(7, SPACE_CONVERSATIONS);
    assert_true(str_cmp(key_view(&after), key_view(&space)) <= 0);
}

static void test_client_keys_differ(void **state)
{
    (void)state;
    struct key a = key_client_id(1, 1, STR("ab"), STR("c")), b = key_client_id(1, 1, STR("a"), STR("bc"));
    struct key c = key_client_id(1, 2, STR("ab"), STR("c")), again = key_client_id(1, 1, STR("ab"), STR("c"));
    assert_true(str_eq(key_view(&a), key_view(&again)));
    assert_false(str_eq(key_view(&a), key_view(&b)));
    assert_false(str_eq(key_view(&a), key_view(&c)));
}

static void test_longest_names_fit(void **state)
{
    (void)state;
    char name[300];
    memset(name, 'n', sizeof name);
    struct key k = key_member(1, 1, str_n(name, 255));
    assert_int_equal(k.len, KEY_BYTES_MAX);
    k = key_named(1, SPACE_CONVERSATIONS, str_n(name, 300));
    assert_int_equal(k.len, KEY_BYTES_MAX); /* cut, never past the end */
}

static void test_seq_entries(void **state)
{
    (void)state;
    char value[SEQ_ENTRY_BYTES];
    struct seq_entry e;
    seq_entry_put(value, (struct seq_entry){9, 1234567890123, true});
    assert_true(seq_entry_get(str_n(value, sizeof value), &e));
    assert_int_equal(e.conv_no, 9);
    assert_int_equal(e.msg_id, 1234567890123);
    assert_true(e.tombstone);
    assert_false(seq_entry_get(str_n(value, sizeof value - 1), &e));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_id_is_the_clock),
        cmocka_unit_test(test_burst_borrows),
        cmocka_unit_test(test_clock_steps_back),
        cmocka_unit_test(test_current_is_below_the_next),
        cmocka_unit_test(test_leap),
        cmocka_unit_test(test_end_of_time),
        cmocka_unit_test(test_keys_sort),
        cmocka_unit_test(test_key_after_carries),
        cmocka_unit_test(test_client_keys_differ),
        cmocka_unit_test(test_longest_names_fit),
        cmocka_unit_test(test_seq_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
