/* The disk fails under followers (failfs.c): nobody sees what was never durable, nobody misses what was and
 * was not published, and everybody goes on by itself once the store is back. */
#include "fixture.h"
#include "follower.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char control[64];

static void disk(const char *mode)
{
    FILE *file = fopen(control, "w");
    assert_non_null(file);
    fputs(mode, file);
    assert_int_equal(fclose(file), 0);
}

static void insert_many(struct fixture *f, int n)
{
    struct errctx ec;
    for (int i = 0; i < n; i++) {
        struct message m = {.user = "alice", .conversation = "c", .content = "x"};
        assert_int_equal(insert(f->store, &m, &ec), ERR_OK);
    }
}

/* As a client does: the same key until it is acknowledged. */
static void insert_stubbornly(struct fixture *f, const char *key)
{
    struct errctx ec;
    struct timespec pause = {0, 1000000};
    for (;;) {
        struct message m = {.user = "alice", .conversation = "c", .content = "x", .client_id = key};
        enum err e = insert(f->store, &m, &ec);
        if (e == ERR_OK)
            return;
        assert_true(e == ERR_OUTCOME_UNKNOWN || e == ERR_UNAVAILABLE);
        nanosleep(&pause, NULL);
    }
}

static uint64_t last_seq(struct fixture *f)
{
    struct errctx ec;
    struct snapshot *snap;
    assert_int_equal(snapshot_open(f->store, STR("alice"), &snap, &ec), ERR_OK);
    uint64_t seq = snapshot_seq(snap);
    snapshot_close(snap);
    return seq;
}

static void check(struct follower *r, uint64_t first, uint64_t last)
{
    read_to(r, last);
    assert_int_equal(r->n, last - first + 1);
    for (size_t i = 0; i < r->n; i++) {
        assert_int_equal(r->seen[i].seq, first + i);
        assert_int_equal(r->seen[i].op, CHANGE_INSERT);
        assert_true(i == 0 || r->seen[i].id > r->seen[i - 1].id);
    }
}

static void followers_survive(void **state)
{
    (void)state;
    static const char *const modes[] = {"fsync EIO", "write EIO", "write ENOSPC", "fsync EIO"};
    struct fixture f;
    struct live *live;
    struct errctx ec;
    struct live_event ev;
    disk("");
    fixture_open(&f);
    assert_int_equal(live_open(f.store, NULL, 2 << 10, &live, &ec), ERR_OK);
    insert_many(&f, 600);
    struct follower at_tail, behind;
    follower_start(&at_tail, live, (struct live_subscribe){0});
    follower_start(&behind, live, (struct live_subscribe){0});
    read_ack(&at_tail);
    read_ack(&behind);
    for (int round = 0; round < 4; round++) {
        struct follower replaying, early;
        follower_start(&replaying, live, from_seq(0));
        read_ack(&replaying);
        for (int i = 0; i < 10; i++)
            assert_true(take_one(&replaying));
        insert_many(&f, 20); /* out of the ring: `behind` will need storage */
        read_to(&at_tail, last_seq(&f));

        disk(modes[round]);
        char key[16];
        snprintf(key, sizeof key, "k%d", round);
        struct message m = {.user = "alice", .conversation = "c", .content = "x", .client_id = key};
        assert_int_equal(insert(f.store, &m, &ec), ERR_OUTCOME_UNKNOWN);
        assert_int_equal(live_next(at_tail.sub, &ev), LIVE_PENDING);
        while (take_one(&behind)) /* up to the barrier that the store refuses */
            ;
        follower_start(&early, live, (struct live_subscribe){0});
        while (early.closed == ERR_OK) {
            if (live_next(early.sub, &ev) == LIVE_PENDING)
                sleep_until_woken(&early);
            else if (ev.kind == LIVE_CLOSED)
                early.closed = ev.code;
        }
        assert_int_equal(early.closed, ERR_UNAVAILABLE);
        follower_stop(&early);

        disk("");
        insert_stubbornly(&f, key);
        insert_many(&f, 5);
        uint64_t last = last_seq(&f);
        assert_int_equal(last, 600 + 26 * (unsigned)(round + 1));
        check(&replaying, 1, last);
        follower_stop(&replaying);
        check(&at_tail, 601, last);
        check(&behind, 601, last);
    }
    follower_stop(&at_tail);
    follower_stop(&behind);
    live_close_all(live);
    live_close(live);
    fixture_close(&f);
}

int main(void)
{
    snprintf(control, sizeof control, "/tmp/kalamdb-live-failfs-%ld", (long)getpid());
    setenv("FAILFS_CONTROL", control, 1);
    setenv("FAILFS_ROOT", "/tmp/kalamdb-test-", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(followers_survive),
    };
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(control);
    return failures;
}
