/* Token buckets and counts per key: exact at the edges, bounded with more keys than room. */
#include "net/limit.h"
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const uint8_t *key(uint64_t n)
{
    static uint8_t k[LIMIT_KEY_BYTES];
    memset(k, 0, sizeof k);
    memcpy(k, &n, sizeof n);
    return k;
}

static void buckets(void **state)
{
    (void)state;
    struct limit_rate *l = limit_rate_new(10, 3, 1000);
    uint64_t t = 1000000;
    for (int i = 0; i < 3; i++)
        assert_int_equal(limit_rate_take(l, key(1), t), 0);
    assert_int_equal(limit_rate_take(l, key(1), t), 100); /* milliseconds */
    assert_int_equal(limit_rate_take(l, key(1), t + 99999), 1);
    assert_int_equal(limit_rate_take(l, key(2), t), 0); /* another's bucket */
    assert_int_equal(limit_rate_take(l, key(1), t + 100000), 0);
    assert_int_equal(limit_rate_take(l, key(1), t + 100000), 100);
    t += 3600000000u; /* a bucket is never fuller than full */
    for (int i = 0; i < 3; i++)
        assert_int_equal(limit_rate_take(l, key(1), t), 0);
    assert_int_equal(limit_rate_take(l, key(1), t), 100);
    limit_rate_free(l);
}

static void refused_costs_nothing(void **state)
{
    (void)state;
    struct limit_rate *l = limit_rate_new(1, 1, 1000);
    assert_int_equal(limit_rate_take(l, key(1), 5000000), 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(limit_rate_take(l, key(1), 5000000), 1000);
    assert_int_equal(limit_rate_take(l, key(1), 6000000), 0);
    limit_rate_free(l);
}

/* Ten times as many keys as entries: each first request passes, and one that keeps coming is still limited.
 */
static void more_keys_than_room(void **state)
{
    (void)state;
    struct limit_rate *l = limit_rate_new(1, 2, 1024);
    int passed = 0;
    for (uint64_t i = 1; i <= 10240; i++) {
        assert_int_equal(limit_rate_take(l, key(1000 + i), 1000000), 0);
        passed += limit_rate_take(l, key(7), 1000000) == 0;
    }
    assert_true(passed < 2000); /* not 10240: what it used up outweighs newcomers' */
    limit_rate_free(l);
}

static void counts(void **state)
{
    (void)state;
    struct limit_count *l = limit_count_new(2);
    for (int round = 0; round < 3; round++) {
        assert_true(limit_count_enter(l, key(1)));
        assert_true(limit_count_enter(l, key(1)));
        assert_false(limit_count_enter(l, key(1)));
        assert_true(limit_count_enter(l, key(2)));
        limit_count_leave(l, key(1));
        assert_true(limit_count_enter(l, key(1)));
        limit_count_leave(l, key(1));
        limit_count_leave(l, key(1));
        limit_count_leave(l, key(2));
    }
    for (uint64_t i = 0; i < 100000; i++)
        assert_true(limit_count_enter(l, key(i)));
    for (uint64_t i = 0; i < 99999; i++)
        limit_count_leave(l, key(i));
    limit_count_free(l); /* ASan: what is left is freed */
}

static void addresses(void **state)
{
    (void)state;
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6}, mapped = v6, near = v6, far = v6;
    uint8_t a[LIMIT_KEY_BYTES], b[LIMIT_KEY_BYTES];
    inet_pton(AF_INET, "192.0.2.7", &v4.sin_addr);
    inet_pton(AF_INET6, "::ffff:192.0.2.7", &mapped.sin6_addr);
    limit_address_key((struct sockaddr *)&v4, a);
    limit_address_key((struct sockaddr *)&mapped, b);
    assert_memory_equal(a, b, LIMIT_KEY_BYTES);
    inet_pton(AF_INET6, "2001:db8:1:2::1", &v6.sin6_addr);
    inet_pton(AF_INET6, "2001:db8:1:2:ffff::9", &near.sin6_addr);
    inet_pton(AF_INET6, "2001:db8:1:3::1", &far.sin6_addr);
    limit_address_key((struct sockaddr *)&v6, a);
    limit_address_key((struct sockaddr *)&near, b);
    assert_memory_equal(a, b, LIMIT_KEY_BYTES); /* one /64 */
    limit_address_key((struct sockaddr *)&far, b);
    assert_memory_not_equal(a, b, LIMIT_KEY_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(buckets), cmocka_unit_test(refused_costs_nothing),
        cmocka_unit_test(more_keys_than_room), cmocka_unit_test(counts), cmocka_unit_test(addresses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
