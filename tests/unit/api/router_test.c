#include "api/server.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void refs_stay_raw_where_they_do_not_decode(void **state)
{
    (void)state;
    struct arena a;
    struct str path, query;
    static const char *const raw[] = {"/api/v1/content/%C3%B~00/msg-1.bin",
        "/api/v1/content/%C3~00/msg-1.bin", "/api/v1/content/a%00/msg-1.bin", "/api/v1/content/%"};
    arena_init(&a, 65536);
    for (size_t i = 0; i < sizeof raw / sizeof *raw; i++) {
        assert_true(target_split(&a, str_c(raw[i]), &path, &query));
        assert_true(str_eq(path, str_c(raw[i])));
    }
    assert_true(target_split(&a, STR("/api/v1/content/a%2Fb?x=%"), &path, &query));
    assert_true(str_eq(path, STR("/api/v1/content/a/b")));
    assert_false(target_split(&a, STR("/api/v1/messages/%C3~"), &path, &query));
    assert_false(target_split(&a, STR("/api/v1/content/\xff"), &path, &query));
    arena_release(&a);
}

static void paths_to_routes(void **state)
{
    (void)state;
    assert_int_equal(route_of(STR("/api/v1/query")), ROUTE_QUERY);
    assert_int_equal(route_of(STR("/ws")), ROUTE_WS);
    assert_int_equal(route_of(STR("/api/v1/ws")), ROUTE_WS);
    assert_int_equal(route_of(STR("/api/v1/events")), ROUTE_EVENTS);
    assert_int_equal(route_of(STR("/api/v1/admin/consolidate")), ROUTE_CONSOLIDATE);
    assert_int_equal(route_of(STR("/metrics")), ROUTE_METRICS);
    static const char *const none[] = {
        "", "/", "other", "/API/v1/query", "/api/v1/query/", "//ws", "/ws\0", "/api/v1"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(route_of(i == 6 ? str_n("/ws\0", 4) : str_c(none[i])), ROUTE_NONE);
    assert_true(route_allows(ROUTE_HEALTH, HTTP_M_HEAD));
    assert_false(route_allows(ROUTE_WS, HTTP_M_HEAD));
    assert_false(route_allows(ROUTE_QUERY, HTTP_M_GET));
    assert_false(route_allows(ROUTE_QUERY, HTTP_M_OTHER));
    assert_false(route_allows(ROUTE_QUERY, HTTP_M_DELETE));
}

static void targets(void **state)
{
    (void)state;
    static const struct {
        const char *target, *path, *query; /* path NULL: malformed */
    } table[] = {
        {"/a", "/a", ""},
        {"/a?b=c?d", "/a", "b=c?d"},
        {"/%61%2fb+c", "/a/b+c", ""},
        {"http://h:1/a?b", "/a", "b"},
        {"HTTPS://h", "/", ""},
        {"*", "*", ""},
        {"/%", NULL, NULL},
        {"/%4", NULL, NULL},
        {"/%4g", NULL, NULL},
        {"/%00", NULL, NULL},
        {"/%ff", NULL, NULL},
    };
    struct arena a;
    arena_init(&a, 1 << 20);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct str path, query;
        bool ok = target_split(&a, str_c(table[i].target), &path, &query);
        assert_int_equal(ok, table[i].path != NULL);
        if (ok) {
            assert_true(str_eq(path, str_c(table[i].path)));
            assert_true(str_eq(query, str_c(table[i].query)));
        }
    }
    arena_release(&a);
}

static void query_strings(void **state)
{
    (void)state;
    static const struct {
        const char *query, *value; /* of x; NULL: absent; "!": malformed */
    } table[] = {{"", NULL}, {"x", ""}, {"x=", ""}, {"x=1", "1"}, {"a=2&x=1&x=3", "1"}, {"ax=1", NULL},
        {"%78=1", "1"}, {"x=a%20b+c%2B", "a b c+"}, {"x=%C3%A9", "\xC3\xA9"}, {"x=%C3", "!"}, {"x=%", "!"},
        {"%zz=1&x=1", "!"}, {"&&x=1", "1"}, {"x==1", "=1"}};
    struct arena a;
    arena_init(&a, 1 << 20);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct str v;
        bool ok = query_param(&a, str_c(table[i].query), STR("x"), &v);
        bool malformed = table[i].value != NULL && strcmp(table[i].value, "!") == 0;
        assert_int_equal(ok, !malformed);
        if (ok && table[i].value == NULL)
            assert_null(v.ptr);
        else if (ok)
            assert_true(v.ptr != NULL && str_eq(v, str_c(table[i].value)));
    }
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(paths_to_routes), cmocka_unit_test(targets),
        cmocka_unit_test(query_strings), cmocka_unit_test(refs_stay_raw_where_they_do_not_decode)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
