#include "../test.h"
#include "base/arena.h"

static void gives_aligned_zeroed_memory(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 1 << 20);
    for (size_t n = 0; n < 3000; n += 7) {
        unsigned char *p = arena_alloc(&a, n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xff, n);
    }
    arena_clear(&a);
    unsigned char *again = arena_alloc(&a, 64);
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(again[i], 0);
    arena_release(&a);
}

static void fails_at_its_cap_and_on_overflow(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 100);
    assert_non_null(arena_alloc(&a, 60));
    assert_null(arena_alloc(&a, 41));
    assert_true(arena_failed(&a));
    arena_clear(&a);
    assert_false(arena_failed(&a));
    assert_null(arena_array(&a, SIZE_MAX / 2, 3));
    assert_true(arena_failed(&a));
    arena_release(&a);
}

static void copies_and_formats(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 1000);
    struct str s = arena_str(&a, STR("abc"));
    assert_str(s, "abc");
    assert_int_equal(s.ptr[3], 0);
    assert_str(arena_printf(&a, "%d-%s", 7, "x"), "7-x");
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_aligned_zeroed_memory),
        cmocka_unit_test(fails_at_its_cap_and_on_overflow),
        cmocka_unit_test(copies_and_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
