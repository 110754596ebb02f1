/* Rules that need no store. */
#include "../test.h"
#include "chat/rules.h"
#include <stdlib.h>

static void user_ids(void **state)
{
    (void)state;
    static const char *good[] = {"alice", "a", "auth0|5f7c", "Ünïcode", "aid", "airport", "bottle", "systems",
        "x:y", "tooling:x", "../etc", "a b"};
    static const char *bad[] = {"", "shared", "deleted_user", "ai", "assistant", "system", "tool", "bot",
        "assistant:gpt", "ai:x", "tool:", "a\nb", "a\x7f", "\xc2\x85", "\xff"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(user_id_valid(str_c(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(user_id_valid(str_c(bad[i])));
    assert_false(user_id_valid(STR_NULL));
    assert_false(user_id_valid(str_n("a\0b", 3)));
    char long_id[256];
    memset(long_id, 'a', sizeof long_id);
    assert_true(user_id_valid(str_n(long_id, 255)));
    assert_false(user_id_valid(str_n(long_id, 256)));
}

static void senders(void **state)
{
    (void)state;
    struct caller alice = {STR("alice"), ROLE_USER}, service = {STR("svc"), ROLE_SERVICE},
                  admin = {STR("root"), ROLE_ADMIN};
    static const char *reserved[] = {
        "ai", "assistant", "system", "tool", "bot", "assistant:gpt", "tool:search", "ai:x", "bot:a:b"};
    static const char *others[] = {"bob", "assistant:", "assistants", "AI", "alice2", "tool search"};
    struct errctx ec;
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        assert_int_equal(rule_sender(&alice, str_c(reserved[i]), &ec), ERR_OK);
    assert_int_equal(rule_sender(&alice, STR("alice"), &ec), ERR_OK);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_int_equal(rule_sender(&alice, str_c(others[i]), &ec), ERR_FORBIDDEN);
        assert_int_equal(rule_sender(&service, str_c(others[i]), &ec), ERR_OK);
        assert_int_equal(rule_sender(&admin, str_c(others[i]), &ec), ERR_OK);
    }
    assert_int_equal(rule_sender(&service, STR(""), &ec), ERR_CONSTRAINT);
    assert_int_equal(rule_sender(&alice, STR(""), &ec), ERR_FORBIDDEN);
}

static void settable_columns(void **state)
{
    (void)state;
    struct errctx ec;
    const struct schema *tables[] = {&schema_messages, &schema_conversations, &schema_conversation_users};
    static const uint64_t may[] = {1 << MSG_CONTENT | 1 << MSG_METADATA, 1 << CONV_TITLE | 1 << CONV_METADATA,
        1 << MEMBER_ROLE | 1 << MEMBER_LAST_READ_MSG_ID | 1 << MEMBER_METADATA};
    for (int t = 0; t < 3; t++) {
        for (int c = 0; c < tables[t]->ncolumns; c++) {
            uint64_t bit = UINT64_C(1) << c;
            enum err want = (may[t] & bit) != 0 ? ERR_OK : ERR_FORBIDDEN;
            assert_int_equal(chat_update_check_columns(tables[t], bit, &ec), want);
        }
        assert_int_equal(chat_update_check_columns(tables[t], may[t], &ec), ERR_OK);
        assert_int_equal(chat_update_check_columns(tables[t], may[t] | 1, &ec), ERR_FORBIDDEN);
    }
    assert_str(str_c(ec.message),
        "column \"conversation_id\" of relation \"conversation_users\" is kept by the engine");
}

static void distinct(void **state)
{
    (void)state;
    struct arena arena;
    struct errctx ec;
    arena_init(&arena, 1 << 16);
    struct str in[] = {STR("b"), STR("a"), STR("b"), STR("c"), STR("a")}, *out;
    uint32_t index[5], n;
    assert_int_equal(rule_distinct(5, in, &arena, index, &out, &n, &ec), ERR_OK);
    assert_int_equal(n, 3);
    for (size_t i = 0; i < 5; i++)
        assert_true(str_eq(out[index[i]], in[i]));
    assert_true(str_cmp(out[0], out[1]) < 0 && str_cmp(out[1], out[2]) < 0);
    assert_int_equal(rule_distinct(0, in, &arena, index, &out, &n, &ec), ERR_OK);
    assert_int_equal(n, 0);
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(user_ids),
        cmocka_unit_test(senders),
        cmocka_unit_test(settable_columns),
        cmocka_unit_test(distinct),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
