/* SIGKILL in the middle of commits, again and again on the same folder: what a child told us through a pipe
 * that it had been acknowledged is there afterwards, once, under gap-free numbers; ids never go back. */
#include "fixture.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
/* cmocka wants the three before */
#include <cmocka.h>

enum { ROUNDS = 6, WRITERS = 4, ACKS_BEFORE_KILL = 150, ACKS_MAX = 100000 };

struct ack {
    int writer;
    int64_t id;
    uint64_t seq;
};

struct child_writer {
    struct store *store;
    int number, fd;
};

static void *child_write(void *arg)
{
    struct child_writer *w = arg;
    struct errctx ec;
    char user[16];
    snprintf(user, sizeof user, "u%d", w->number % 2);
    for (int i = 0;; i++) {
        struct message m = {
            .user = user, .conversation = i % 3 == 0 ? "c" : "d", .content = "text of a message"};
        if (insert(w->store, &m, &ec) != ERR_OK)
            _exit(3);
        struct ack a = {w->number, m.id, m.seq};
        if (write(w->fd, &a, sizeof a) != (ssize_t)sizeof a)
            _exit(4);
        if (i % 7 == 6 && update_message(w->store, user, m.id, "changed", &ec) != ERR_OK)
            _exit(5);
    }
    return NULL;
}

/* The program itself, started as `crash_test <dir> <fd>`. Ends by being killed. */
static int child(const char *dir, int fd)
{
    struct errctx ec;
    struct store *s;
    struct child_writer w[WRITERS];
    pthread_t threads[WRITERS];
    struct store_config cfg = {.data_dir = dir, .os = os_posix(), .async_window_ms = 50};
    if (store_open(&cfg, &s, &ec) != ERR_OK)
        return 2;
    for (int i = 0; i < WRITERS; i++) {
        w[i] = (struct child_writer){s, i, fd};
        if (pthread_create(&threads[i], NULL, child_write, &w[i]) != 0)
            return 2;
    }
    pthread_join(threads[0], NULL);
    return 6;
}

static size_t run_and_kill(const char *dir, struct ack *acks, size_t n)
{
    int pipes[2], status;
    char fd[16];
    assert_int_equal(pipe(pipes), 0);
    snprintf(fd, sizeof fd, "%d", pipes[1]);
    pid_t pid = fork();
    if (pid == 0) {
        close(pipes[0]);
        execl("/proc/self/exe", "crash_test", dir, fd, (char *)NULL);
        _exit(7);
    }
    close(pipes[1]);
    size_t first = n;
    bool killed = false;
    for (ssize_t r; (r = read(pipes[0], &acks[n], sizeof acks[n])) > 0; n++) {
        assert_int_equal(r, sizeof acks[n]);
        assert_true(n + 1 < ACKS_MAX);
        if (!killed && n - first >= ACKS_BEFORE_KILL) {
            kill(pid, SIGKILL);
            killed = true;
        }
    }
    close(pipes[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return n;
}

static void check_user(struct store *s, const char *user, int64_t *highest)
{
    struct errctx ec;
    struct snapshot *snap;
    struct hot_iter *it;
    struct str row;
    struct row_meta meta;
    struct value v[MSG_NCOLUMNS];
    int64_t rows = 0, c = 0;
    uint64_t last_ins = 0;
    assert_int_equal(snapshot_open(s, str_c(user), &snap, &ec), ERR_OK);
    struct scan_spec spec = {.order = SCAN_BY_SEQ, .seq_max = UINT64_MAX};
    assert_int_equal(hot_iter_open(snap, &spec, &it, &ec), ERR_OK);
    uint64_t seen_max = 0;
    while (hot_iter_next(it, &row, &ec) == ERR_OK) {
        assert_int_equal(row_decode(row, &schema_messages, &meta, v), ERR_OK);
        assert_true(meta.seq > seen_max);
        seen_max = meta.seq;
        if (meta.seq == meta.ins_seq) {
            assert_true(meta.ins_seq > last_ins);
            last_ins = meta.ins_seq;
        }
        if (v[MSG_ID].i > *highest)
            *highest = v[MSG_ID].i;
        c += str_eq(v[MSG_CONVERSATION_ID].s, STR("c"));
        rows++;
    }
    hot_iter_close(it);
    assert_int_equal(rows, snapshot_total_messages(snap));
    assert_int_equal(seen_max, snapshot_seq(snap));
    struct value conversation[CONV_NCOLUMNS];
    assert_int_equal(snapshot_conversation(snap, STR("c"), conversation, &ec), ERR_OK);
    assert_int_equal(conversation[CONV_TOTAL_MESSAGES].i, c);
    snapshot_close(snap);
}

static void test_kill_loop(void **state)
{
    struct fixture f;
    struct errctx ec;
    (void)state;
    fixture_open(&f);
    store_close(f.store); /* the children have it */
    struct ack *acks = calloc(ACKS_MAX, sizeof *acks);
    size_t n = 0, checked = 0;
    int64_t highest = 0;
    for (int round = 0; round < ROUNDS; round++) {
        n = run_and_kill(f.dir, acks, n);
        assert_int_equal(store_open(&f.cfg, &f.store, &ec), ERR_OK);
        for (; checked < n; checked++)
            assert_true(acks[checked].id > highest); /* above all of the rounds before */
        for (size_t i = 0; i < n; i++) {
            struct snapshot *snap;
            struct row_meta meta;
            struct value v[MSG_NCOLUMNS];
            const char *user = acks[i].writer % 2 == 0 ? "u0" : "u1";
            assert_int_equal(snapshot_open(f.store, str_c(user), &snap, &ec), ERR_OK);
            assert_int_equal(snapshot_message(snap, acks[i].id, &meta, v, &ec), ERR_OK);
            assert_int_equal(meta.ins_seq, acks[i].seq);
            snapshot_close(snap);
        }
        check_user(f.store, "u0", &highest);
        check_user(f.store, "u1", &highest);
        store_close(f.store);
    }
    assert_true(n >= ROUNDS * ACKS_BEFORE_KILL);
    free(acks);
    fixture_remove_dir(f.dir);
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return child(argv[1], atoi(argv[2]));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kill_loop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
