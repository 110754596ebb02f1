#include "net/wheel.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct timer {
    struct wheel_entry e;
    uint64_t fired_ms;
    int times;
    uint64_t again_ms; /* set again when it fires; 0: no */
};
struct clock {
    struct wheel w;
    uint64_t now;
};

static void fire(void *arg, struct wheel_entry *e)
{
    struct clock *c = arg;
    struct timer *t = (struct timer *)e;
    t->fired_ms = c->now;
    t->times++;
    if (t->again_ms != 0)
        wheel_set(&c->w, e, c->now + t->again_ms);
}

static void run_to(struct clock *c, uint64_t ms, uint64_t step)
{
    while (c->now < ms) {
        c->now = c->now + step < ms ? c->now + step : ms;
        wheel_advance(&c->w, c->now, fire, c);
    }
}

/* Never early, at most a tick and a step late, whatever the distance and whatever the steps. */
static void fires_in_time(void **state)
{
    (void)state;
    static const uint64_t due[] = {0, 1, 24, 25, 26, 1000, 25599, 25600, 25601, 120000, 1000000};
    static const uint64_t steps[] = {1, 7, 25, 400, 30000};
    for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
        static struct clock c;
        struct timer t[sizeof due / sizeof *due] = {0};
        c.now = 12345;
        wheel_init(&c.w, c.now);
        for (size_t i = 0; i < sizeof due / sizeof *due; i++)
            wheel_set(&c.w, &t[i].e, 12345 + due[i]);
        run_to(&c, 12345 + 1100000, steps[s]);
        for (size_t i = 0; i < sizeof due / sizeof *due; i++) {
            assert_int_equal(t[i].times, 1);
            assert_true(t[i].fired_ms >= 12345 + due[i]);
            assert_true(t[i].fired_ms < 12345 + due[i] + WHEEL_TICK_MS + steps[s] + 1);
        }
        assert_int_equal(c.w.count, 0);
    }
}

static void moved_unset_and_set_again(void **state)
{
    (void)state;
    static struct clock c;
    struct timer a = {0}, b = {0}, again = {.again_ms = 100};
    c.now = 0;
    wheel_init(&c.w, 0);
    wheel_set(&c.w, &a.e, 100);
    wheel_set(&c.w, &a.e, 500);
    wheel_set(&c.w, &b.e, 100);
    wheel_unset(&c.w, &b.e);
    wheel_unset(&c.w, &b.e);
    wheel_set(&c.w, &again.e, 100);
    assert_int_equal(c.w.count, 2);
    run_to(&c, 450, 5);
    assert_int_equal(a.times, 0);
    assert_int_equal(b.times, 0);
    assert_in_range(again.times, 3, 4);
    run_to(&c, 1000, 5);
    assert_int_equal(a.times, 1);
    assert_in_range(a.fired_ms, 500, 530);
    assert_int_equal(c.w.count, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fires_in_time), cmocka_unit_test(moved_unset_and_set_again)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
