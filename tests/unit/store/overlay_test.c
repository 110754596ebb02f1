/* The overlay against a model: random puts, deletes, undone ops and groups, with every key compared after
 * each op. */
#include "store/overlay.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
/* cmocka wants the three before */
#include <cmocka.h>

enum { KEYS = 400 };

struct model {
    enum overlay_state state[KEYS];
    int value[KEYS];
};

static struct str key_of(int i, char text[64])
{
    /* short and long keys, with common beginnings longer than both ranks */
    int n = i % 3 == 0 ? snprintf(text, 64, "k%03d", i)
                       : snprintf(text, 64, "a common beginning of keys %03d", i);
    return str_n(text, (size_t)n);
}

static void compare(const struct overlay *o, const struct model *m)
{
    bool empty = true;
    for (int i = 0; i < KEYS; i++) {
        char key[64], value[16];
        const struct overlay_entry *e = overlay_find(o, key_of(i, key));
        if (m->state[i] == OVERLAY_NONE) {
            assert_null(e);
            continue;
        }
        empty = false;
        assert_non_null(e);
        assert_int_equal(e->state, m->state[i]);
        snprintf(value, sizeof value, "%d", m->value[i]);
        if (e->state == OVERLAY_PUT)
            assert_true(str_eq(e->value, str_c(value)));
    }
    assert_int_equal(overlay_empty(o), empty);
}

static void random_op(struct overlay *o, struct model *m)
{
    struct model before = *m;
    overlay_begin_op(o);
    for (int n = rand() % 30; n > 0; n--) {
        char key[64], value[16];
        int i = rand() % KEYS;
        struct str k = key_of(i, key);
        if (rand() % 3 == 0) {
            overlay_delete(o, k);
            m->state[i] = OVERLAY_DELETE;
        } else {
            m->value[i] = rand();
            snprintf(value, sizeof value, "%d", m->value[i]);
            overlay_put(o, k, str_c(value));
            m->state[i] = OVERLAY_PUT;
        }
    }
    if (rand() % 3 == 0) {
        overlay_undo_op(o);
        *m = before;
    }
}

static void test_against_model(void **state)
{
    struct overlay o;
    (void)state;
    srand(7);
    overlay_init(&o);
    for (int group = 0; group < 60; group++) {
        struct model m = {0};
        compare(&o, &m);
        for (int op = rand() % 40; op >= 0; op--) {
            random_op(&o, &m);
            compare(&o, &m);
        }
        assert_false(o.failed);
        overlay_clear(&o);
    }
    overlay_release(&o);
}

struct emitted {
    char last[64];
    int puts, deletes;
};

static void seen(struct emitted *e, const char *k, size_t klen)
{
    char key[64];
    snprintf(key, sizeof key, "%.*s", (int)klen, k);
    assert_true(strcmp(e->last, key) < 0); /* ascending, each once */
    memcpy(e->last, key, sizeof key);
}

static void seen_put(void *arg, const char *k, size_t klen, const char *v, size_t vlen)
{
    struct emitted *e = arg;
    seen(e, k, klen);
    assert_true(vlen > 0 && v[0] == 'v');
    e->puts++;
}

static void seen_delete(void *arg, const char *k, size_t klen)
{
    struct emitted *e = arg;
    seen(e, k, klen);
    e->deletes++;
}

static void test_emit_is_sorted_and_folded(void **state)
{
    struct overlay o;
    struct emitted e = {0};
    char key[64];
    (void)state;
    overlay_init(&o);
    overlay_begin_op(&o);
    for (int round = 0; round < 3; round++)
        for (int i = KEYS - 1; i >= 0; i--)
            overlay_put(&o, key_of(i, key), STR("v"));
    for (int i = 0; i < 10; i++)
        overlay_delete(&o, key_of(i, key));
    overlay_begin_op(&o);
    overlay_put(&o, STR("zzz undone"), STR("v"));
    overlay_undo_op(&o);
    rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
    struct errctx ec;
    assert_int_equal(overlay_emit(&o, batch, NULL, NULL, &ec), ERR_OK);
    assert_int_equal(rocksdb_writebatch_count(batch), KEYS);
    rocksdb_writebatch_iterate(batch, &e, seen_put, seen_delete);
    assert_int_equal(e.puts, KEYS - 10);
    assert_int_equal(e.deletes, 10);
    rocksdb_writebatch_destroy(batch);
    overlay_release(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_emit_is_sorted_and_folded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
