#include "base/buf.h"
#include "net/out.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static int released;
static void release(void *owner)
{
    (void)owner;
    released++;
}

/* Sends at most n bytes of what the vectors show. */
static void send_some(struct out *o, struct buf *wire, size_t n)
{
    struct iovec v[8];
    int k = out_vectors(o, v, 8, false);
    size_t left = n;
    for (int i = 0; i < k && left > 0; i++) {
        size_t m = v[i].iov_len < left ? v[i].iov_len : left;
        buf_append(wire, v[i].iov_base, m);
        left -= m;
    }
    out_advance(o, n - left);
}

static void order_and_release_at_every_step(void **state)
{
    (void)state;
    for (size_t step = 1; step < 40; step++) {
        struct out o = {0};
        struct buf wire = {0};
        released = 0;
        out_copy(&o, STR("one,"), false);
        out_copy(&o, STR("two-"), false);
        out_borrow(&o, STR("borrowed"), true, release, NULL);
        out_copy(&o, STR("-tail,"), true);
        out_copy(&o, STR("three"), false);
        assert_int_equal(o.bytes, 27);
        while (o.bytes > 0)
            send_some(&o, &wire, step);
        assert_int_equal(wire.len, 27);
        assert_memory_equal(wire.ptr, "one,two-borrowed-tail,three", 27);
        assert_int_equal(released, 1);
        assert_null(o.head);
        assert_null(o.tail);
        assert_false(o.begun);
        buf_release(&wire);
        out_release(&o);
    }
}

/* After a drop what remains on the wire is a whole number of messages, wherever the sending stood. */
static void drop_keeps_messages_whole(void **state)
{
    (void)state;
    for (size_t sent = 0; sent <= 34; sent++) {
        struct out o = {0};
        struct buf wire = {0};
        released = 0;
        out_copy(&o, STR("A-head:"), false);
        out_borrow(&o, STR("A-shared:"), true, release, NULL);
        out_copy(&o, STR("A-end;"), true); /* 22 */
        out_copy(&o, STR("BBBBB;"), false);
        out_copy(&o, STR("CCCCC;"), false); /* 34 */
        send_some(&o, &wire, sent);
        out_drop_unstarted(&o);
        out_copy(&o, STR("CLOSE"), false);
        while (o.bytes > 0)
            send_some(&o, &wire, 3);
        buf_u8(&wire, 0);
        if (sent == 0)
            assert_string_equal(wire.ptr, "CLOSE");
        else if (sent <= 22)
            assert_string_equal(
                wire.ptr, sent == 22 ? "A-head:A-shared:A-end;CLOSE" : "A-head:A-shared:A-end;CLOSE");
        else
            assert_string_equal(wire.ptr, "A-head:A-shared:A-end;BBBBB;CCCCC;CLOSE");
        assert_int_equal(released, 1);
        buf_release(&wire);
    }
}

static void the_locked_head_stays(void **state)
{
    (void)state;
    struct out o = {0};
    struct iovec v[8];
    out_copy(&o, STR("first"), false);
    o.locked = true;
    out_copy(&o, STR("second"), false); /* must not be written into the segment that the kernel reads */
    assert_int_equal(out_vectors(&o, v, 8, true), 1);
    assert_int_equal(v[0].iov_len, 5);
    assert_int_equal(out_vectors(&o, v, 8, false), 2);
    out_drop_unstarted(&o);
    assert_int_equal(o.bytes, 5);
    o.locked = false;
    out_advance(&o, 5);
    assert_null(o.head);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(order_and_release_at_every_step),
        cmocka_unit_test(drop_keeps_messages_whole), cmocka_unit_test(the_locked_head_stays)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
