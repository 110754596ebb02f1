#include "../test.h"
#include "base/hist.h"

static void every_value_falls_under_its_bound(void **state)
{
    (void)state;
    for (uint64_t us = 0; us < 100000; us = us * 9 / 8 + 1) {
        struct hist h = {0};
        hist_add(&h, us);
        for (int i = 0; i < HIST_BUCKETS; i++) {
            if (h.count[i] == 0)
                continue;
            assert_true(us <= hist_bound_us(i));
            assert_true(i == 0 || us > hist_bound_us(i - 1));
        }
    }
    for (int i = 1; i < HIST_BUCKETS; i++)
        assert_true(hist_bound_us(i) > hist_bound_us(i - 1));
}

static void quantiles_are_within_a_quarter(void **state)
{
    (void)state;
    struct hist h = {0};
    assert_int_equal(hist_quantile_us(&h, 0.5), 0);
    for (uint64_t us = 1; us <= 1000; us++)
        hist_add(&h, us);
    uint64_t p50 = hist_quantile_us(&h, 0.5), p99 = hist_quantile_us(&h, 0.99);
    assert_in_range(p50, 500, 640);
    assert_in_range(p99, 990, 1024);
    hist_add(&h, UINT64_MAX / 2);
    assert_true(hist_quantile_us(&h, 1.0) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_falls_under_its_bound),
        cmocka_unit_test(quantiles_are_within_a_quarter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
