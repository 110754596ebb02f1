/* DuckDB's words as the contract's. The texts are what DuckDB 1.4.4 says; query_test.c checks the common ones
 * against the library itself. */
#include "analytic/errmap.h"
#include "fixture.h"
#include <string.h>

static const struct {
    const char *text;
    enum err code;
    const char *message;
} cases[] = {
    {"Binder Error: Referenced column \"x y\" not found in FROM clause!\nCandidate bindings: "
     "\"scan_0.z\"\n\nLINE 1: s",
        ERR_UNDEFINED_COLUMN, "column \"x y\" does not exist"},
    {"Binder Error: Table \"m\" does not have a column named \"q\"\n", ERR_UNDEFINED_COLUMN,
        "column m.q does not exist"},
    {"Binder Error: Table \"scan_3\" does not have a column named \"q\"", ERR_UNDEFINED_COLUMN,
        "column \"q\" does not exist"},
    {"Binder Error: Referenced table \"t\" not found!\nCandidate tables: \"scan_0\"", ERR_UNDEFINED_TABLE,
        "missing FROM-clause entry for table \"t\""},
    {"Binder Error: No function matches the given name and argument types 'substr(INTEGER_LITERAL, "
     "VARCHAR)'. You "
     "might need to add explicit type casts.\n\tCandidate functions:\n\tsubstr(VARCHAR, BIGINT) -> VARCHAR\n",
        ERR_UNDEFINED_FUNCTION, "function substr(integer, text) does not exist"},
    {"Binder Error: Could not choose a best candidate function for the function call \"+(STRING_LITERAL, "
     "BIGINT)\". In "
     "order to select one, please add explicit type casts.",
        ERR_TYPE_MISMATCH, "operator does not exist: +(unknown, bigint)"},
    {"Binder Error: Cannot compare values of type VARCHAR and type INTEGER[] - an explicit cast is required",
        ERR_TYPE_MISMATCH,
        "Cannot compare values of type VARCHAR and type INTEGER[] - an explicit cast is required"},
    {"Binder Error: aggregate function calls cannot be nested", ERR_SYNTAX,
        "aggregate function calls cannot be nested"},
    {"Catalog Error: Scalar Function with name nosuch does not exist!\nDid you mean \"cosh\"?",
        ERR_UNDEFINED_FUNCTION, "function nosuch does not exist"},
    {"Catalog Error: Table Function with name \"f g\" does not exist!", ERR_UNDEFINED_FUNCTION,
        "function f g does not exist"},
    {"Catalog Error: Type with name foo does not exist!", ERR_TYPE_MISMATCH, "type \"foo\" does not exist"},
    {"Conversion Error: Could not convert string '1''2' to INT32", ERR_INVALID_VALUE,
        "invalid input syntax for type integer: \"1\""},
    {"Conversion Error: Unimplemented type for cast (INTEGER -> INTEGER[])", ERR_TYPE_MISMATCH,
        "Unimplemented type for cast (INTEGER -> INTEGER[])"},
    {"Conversion Error: invalid date field format: \"x\", expected format is (YYYY-MM-DD)", ERR_INVALID_VALUE,
        "invalid input syntax for type date: \"x\""},
    {"Out of Range Error: Overflow in multiplication of INT32 (1 * 2)!", ERR_INVALID_VALUE,
        "integer out of range"},
    {"Out of Memory Error: failed to pin block of size 256.0 KiB (512 MiB used)\n\nPossible solutions:\n* "
     "Reducing",
        ERR_TOO_LARGE, "the query needs too much memory"},
    {"Invalid Error: std::bad_alloc", ERR_TOO_LARGE, "the query needs too much memory"},
    {"Permission Error: Cannot access file \"/etc/passwd\" - file system operations are disabled by "
     "configuration",
        ERR_UNSUPPORTED, "this is not supported"},
    {"Not implemented Error: a thing", ERR_UNSUPPORTED, "a thing"},
    {"Serialization Error: Cannot copy BoundSubqueryExpression", ERR_UNSUPPORTED,
        "a subquery is not supported at this place of a window or grouping"},
    {"INTERRUPT Error: Interrupted!", ERR_TIMEOUT, "canceling statement due to user request"},
    {"Invalid Input Error: No magic bytes found at end of file '/proc/self/fd/101'", ERR_CORRUPT,
        "internal error"},
    {"IO Error: Could not read", ERR_INTERNAL, "internal error"},
    {"INTERNAL Error: Attempted to access index 3 within vector of size 3", ERR_INTERNAL, "internal error"},
    {"Binder Error: something odd about kalamdb_rows(0)", ERR_SYNTAX, "the statement is not valid here"},
    {"", ERR_INTERNAL, "internal error"},
    {"no kind at all", ERR_INTERNAL, "internal error"},
};

static void words(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct errctx ec;
        errctx_clear(&ec);
        enum err e = errmap_duckdb(str_c(cases[i].text), &ec);
        if (e != cases[i].code || ec.code != e || strcmp(ec.message, cases[i].message) != 0)
            fail_msg("%s gave %s: %s", cases[i].text, err_wire(e), ec.message);
        assert_null(strstr(ec.hint, "scan_"));
        assert_null(strstr(ec.detail, "scan_"));
    }
}

/* Whatever is cut off, no read past the end and always an error. */
static void cut_anywhere(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t n = strlen(cases[i].text); n-- > 0;) {
            struct errctx ec;
            char *copy = test_malloc(n + 1);
            memcpy(copy, cases[i].text, n);
            assert_int_not_equal(errmap_duckdb(str_n(copy, n), &ec), ERR_OK);
            test_free(copy);
        }
}

static void retiring(void **state)
{
    (void)state;
    assert_true(errmap_retires(ERR_TOO_LARGE));
    assert_true(errmap_retires(ERR_INTERNAL));
    assert_false(errmap_retires(ERR_INVALID_VALUE));
    assert_false(errmap_retires(ERR_UNDEFINED_COLUMN));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words), cmocka_unit_test(cut_anywhere), cmocka_unit_test(retiring)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
