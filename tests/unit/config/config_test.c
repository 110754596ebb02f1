#include "../test.h"
#include "config/config.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int warned;

static void count_warning(const char *name)
{
    assert_string_equal(name, "KALAMDB_SERVICE_HOST");
    warned++;
}

/* Loads words (ended by NULL) and an environment; the file's text, where given, goes by --config. */
static enum err load(struct config *c, const char *yaml, char **words, char **envp, struct errctx *ec)
{
    char path[] = "/tmp/kalamdb-config-XXXXXX";
    char *argv[16];
    char *none[] = {NULL};
    int argc = 0;
    for (; words != NULL && *words != NULL; words++)
        argv[argc++] = *words;
    if (yaml != NULL) {
        int fd = mkstemp(path);
        assert_int_equal(write(fd, yaml, strlen(yaml)), strlen(yaml));
        close(fd);
        argv[argc++] = (char *)"--config";
        argv[argc++] = path;
    }
    enum err e = config_load(c, argc, argv, envp != NULL ? envp : none, NULL, count_warning, ec);
    if (yaml != NULL)
        unlink(path);
    return e;
}

static void defaults_hold(void **state)
{
    (void)state;
    struct config c;
    struct errctx ec;
    assert_int_equal(load(&c, NULL, NULL, NULL, &ec), ERR_OK);
    assert_string_equal(c.listen, "127.0.0.1:8080");
    assert_int_equal(c.consolidate_rows, 10000);
    assert_int_equal(c.query_timeout_ms, 30000);
    assert_null(c.jwt_secret);
    config_release(&c);
}

static void flag_before_environment_before_file(void **state)
{
    (void)state;
    struct config c;
    struct errctx ec;
    const char *yaml =
        "query_timeout_ms: 1\nmax_result_rows: 2\nhot_tail_rows: 3\n# comment\nallowed_origins:\n"
        "  - https://a\n  - https://b\n";
    char *envp[] = {
        (char *)"KALAMDB_QUERY_TIMEOUT_MS=10", (char *)"KALAMDB_MAX_RESULT_ROWS=20", (char *)"HOME=/", NULL};
    char *words[] = {(char *)"--query-timeout-ms", (char *)"100", NULL};
    assert_int_equal(load(&c, yaml, words, envp, &ec), ERR_OK);
    assert_int_equal(c.query_timeout_ms, 100);
    assert_int_equal(c.max_result_rows, 20);
    assert_int_equal(c.hot_tail_rows, 3);
    assert_string_equal(c.allowed_origins, "https://a,https://b");
    config_release(&c);
}

static void what_cannot_be_is_refused_with_key_and_line(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *want;
    } cases[] = {
        {"listen: x\nquery_timeout: 5\n", ":2: unknown setting \"query_timeout\""},
        {"query-timeout-ms: 5\n", ":1: unknown setting \"query-timeout-ms\""},
        {"\n\nquery_timeout_ms: soon\n", ":3: query_timeout_ms: \"soon\" is not a whole number"},
        {"query_timeout_ms: 0\n", ":1: query_timeout_ms: 0 is out of range"},
        {"durability: fast\n", "none of [sync|async]"},
        {"loops: 1\nloops: 2\n", ":2: loops: given twice"},
        {"data: [a]\n", "a plain value is expected"},
        {"- a\n", "a mapping of settings is expected"},
        {"data: 'x\n", ":2: "},
        {"jwt_secret: short\n", "at least 32"},
        {"idle_timeout_ms: 1000\n", "idle_timeout_ms: must be above ping_interval_ms"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct config c;
        struct errctx ec = {0};
        assert_int_equal(load(&c, cases[i].yaml, NULL, NULL, &ec), ERR_INVALID_REQUEST);
        if (strstr(ec.message, cases[i].want) == NULL)
            fail_msg("%s: %s", cases[i].yaml, ec.message);
    }
}

/* One threshold lowered must not ask for the others: the first that is reached counts. */
static void a_limit_below_the_default_of_another_works(void **state)
{
    (void)state;
    struct config c;
    struct errctx ec = {0};
    char *envp[] = {(char *)"KALAMDB_CONSOLIDATE_ROWS=10", (char *)"KALAMDB_MAX_BODY_BYTES=4096", NULL};
    assert_int_equal(load(&c, NULL, NULL, envp, &ec), ERR_OK);
    assert_int_equal(c.consolidate_rows, 10);
    assert_int_equal(c.consolidate_min_rows, 500);
    config_release(&c);
}

static void a_wrong_value_in_the_file_is_refused_even_when_outranked(void **state)
{
    (void)state;
    struct config c;
    struct errctx ec;
    char *words[] = {(char *)"--loops=2", NULL};
    assert_int_equal(load(&c, "loops: many\n", words, NULL, &ec), ERR_INVALID_REQUEST);
}

static void unknown_flags_stop_unknown_variables_warn(void **state)
{
    (void)state;
    struct config c;
    struct errctx ec;
    char *flag[] = {(char *)"--quer-timeout-ms=5", NULL}, *word[] = {(char *)"now", NULL},
         *bare[] = {(char *)"--loops", NULL};
    assert_int_equal(load(&c, NULL, flag, NULL, &ec), ERR_INVALID_REQUEST);
    assert_non_null(strstr(ec.message, "--quer-timeout-ms"));
    assert_int_equal(load(&c, NULL, word, NULL, &ec), ERR_INVALID_REQUEST);
    assert_int_equal(load(&c, NULL, bare, NULL, &ec), ERR_INVALID_REQUEST);
    char *envp[] = {(char *)"KALAMDB_SERVICE_HOST=10.0.0.1", NULL};
    warned = 0;
    assert_int_equal(load(&c, NULL, NULL, envp, &ec), ERR_OK);
    assert_int_equal(warned, 1);
    config_release(&c);
    char *bad[] = {(char *)"KALAMDB_LOOPS=x", NULL};
    assert_int_equal(load(&c, NULL, NULL, bad, &ec), ERR_INVALID_REQUEST);
    assert_non_null(strstr(ec.message, "KALAMDB_LOOPS"));
}

static void prints_itself_with_secrets_masked_and_reads_it_back(void **state)
{
    (void)state;
    struct config c, again;
    struct errctx ec;
    struct buf b = BUF_INIT(0);
    char *words[] = {
        (char *)"--jwt-secret=0123456789abcdef0123456789abcdef", (char *)"--data=/x \"y\\z", NULL};
    assert_int_equal(load(&c, NULL, words, NULL, &ec), ERR_OK);
    config_print(&c, &b);
    buf_u8(&b, 0);
    assert_null(strstr(b.ptr, "0123456789"));
    assert_non_null(strstr(b.ptr, "jwt_secret: \"********\""));
    char *secret = strstr(b.ptr, "\"********\"");
    memcpy(secret, "null      ", 10);
    assert_int_equal(load(&again, b.ptr, NULL, NULL, &ec), ERR_OK);
    assert_string_equal(again.data, "/x \"y\\z");
    config_release(&again);
    config_release(&c);
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_hold),
        cmocka_unit_test(flag_before_environment_before_file),
        cmocka_unit_test(what_cannot_be_is_refused_with_key_and_line),
        cmocka_unit_test(a_limit_below_the_default_of_another_works),
        cmocka_unit_test(a_wrong_value_in_the_file_is_refused_even_when_outranked),
        cmocka_unit_test(unknown_flags_stop_unknown_variables_warn),
        cmocka_unit_test(prints_itself_with_secrets_masked_and_reads_it_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
