#include "../test.h"
#include "base/err.h"

static void carries_message_detail_hint_and_path(void **state)
{
    (void)state;
    struct errctx ec = {.position = 9};
    assert_int_equal(err_set(&ec, ERR_SYNTAX, "bad %d", 7), ERR_SYNTAX);
    err_detail(&ec, "d");
    err_hint(&ec, "h");
    assert_string_equal(ec.message, "bad 7");
    assert_int_equal(ec.position, 0);
    assert_int_equal(err_internal(&ec, ERR_IO, "fsync: %s", "full"), ERR_IO);
    assert_string_equal(ec.message, "internal error");
    assert_string_equal(ec.detail, "");
    err_path(&ec, "write batch");
    err_path(&ec, "consolidate %s", "user_alice");
    assert_string_equal(ec.internal, "consolidate user_alice: write batch: fsync: full");
    assert_string_equal(err_wire(ERR_CONSTRAINT), "CONSTRAINT_VIOLATION");
    assert_int_equal(err_status(ERR_OUTCOME_UNKNOWN), 503);
}

static void cuts_long_messages_on_a_character(void **state)
{
    (void)state;
    char text[600];
    for (size_t shift = 0; shift < 4; shift++) {
        struct errctx ec = {0};
        memset(text, 'a', shift);
        for (size_t i = shift; i + 3 < sizeof text; i += 3)
            memcpy(text + i, "\xe2\x82\xac", 4);
        err_set(&ec, ERR_SYNTAX, "%s", text);
        assert_in_range(strlen(ec.message), sizeof ec.message - 4, sizeof ec.message - 1);
        assert_true(utf8_valid(str_c(ec.message)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(carries_message_detail_hint_and_path),
        cmocka_unit_test(cuts_long_messages_on_a_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
