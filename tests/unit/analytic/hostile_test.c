/* The server against a worker that does not keep the protocol: one error, the worker replaced, nothing else.
 */
#include "fixture.h"
#include <stdlib.h>

static enum err ask(struct analytic *a, const char *sql, size_t rows_max, struct errctx *ec)
{
    struct analytic_request rq = {
        .user_id = STR("user_alice"), .sql = str_c(sql), .rows_max = rows_max, .timeout_ms = 10000};
    struct rowset rs;
    enum err e = analytic_run(a, &rq, &rs, ec);
    if (e == ERR_OK) {
        assert_int_equal(rowset_row(&rs, 0)[0].i, 42);
        rowset_release(&rs);
    }
    return e;
}

static void bad_answers(void **state)
{
    (void)state;
    struct analytic_config cfg = {.worker_path = getenv("HOSTILE_WORKER"),
        .workers_max = 2,
        .threads = 1,
        .result_bytes_max = 1u << 20,
        .idle_worker_ms = 60000};
    assert_non_null(cfg.worker_path);
    struct analytic *a = fixture_start(&cfg);
    static const struct {
        const char *sql;
        size_t rows_max;
        enum err e;
    } cases[] = {{"garbage", 0, ERR_INTERNAL}, {"huge", 0, ERR_TOO_LARGE}, {"rows first", 0, ERR_INTERNAL},
        {"lost rows", 0, ERR_INTERNAL}, {"wrong type", 0, ERR_INTERNAL}, {"request", 0, ERR_INTERNAL},
        {"too many rows", 5, ERR_TOO_LARGE}, {"half", 0, ERR_INTERNAL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct errctx ec;
        errctx_clear(&ec);
        enum err e = ask(a, cases[i].sql, cases[i].rows_max, &ec);
        if (e != cases[i].e || ec.code != e)
            fail_msg("%s gave %s %s", cases[i].sql, err_wire(e), ec.message);
        assert_int_equal(ask(a, "good", 5, &ec), ERR_OK);
    }
    struct analytic_stats st;
    analytic_stats(a, &st);
    assert_int_equal(st.died + st.killed, sizeof cases / sizeof *cases);
    assert_int_equal(st.busy, 0);
    analytic_close(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bad_answers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
