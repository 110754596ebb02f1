/* Workers that hang, die, eat memory, and the supervisor that outlives them. */
#include "fixture.h"
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ENDLESS "SELECT count(*) FROM range(10000000) a(i), range(10000000) b(i), range(10000000) c(i)"

/* A sanitizer's allocator ends the process when its own bookkeeping meets the limit; DuckDB's does not. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Processes of this name whose parent is `parent`; returns how many, at most max pids. */
static int children(pid_t parent, const char *name, pid_t *ret, int max)
{
    DIR *d = opendir("/proc");
    assert_non_null(d);
    int n = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[300], line[512], comm[64];
        int pid, ppid;
        char state;
        snprintf(path, sizeof path, "/proc/%s/stat", e->d_name);
        FILE *f = e->d_name[0] >= '0' && e->d_name[0] <= '9' ? fopen(path, "r") : NULL;
        if (f == NULL)
            continue;
        bool read = fgets(line, sizeof line, f) != NULL &&
                    sscanf(line, "%d (%63[^)]) %c %d", &pid, comm, &state, &ppid) == 4;
        fclose(f);
        if (read && ppid == parent && state != 'Z' && strcmp(comm, name) == 0 && n < max)
            ret[n++] = pid;
    }
    closedir(d);
    return n;
}

/* Orphans are reaped by whoever is process 1, which may take its time. */
static bool is_zombie(pid_t pid)
{
    char path[64], line[512], state = 'Z';
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return true;
    if (fgets(line, sizeof line, f) == NULL || sscanf(line, "%*d (%*[^)]) %c", &state) != 1)
        state = 'Z';
    fclose(f);
    return state == 'Z';
}

static pid_t zygote_pid(void)
{
    pid_t pid = 0;
    assert_int_equal(children(getpid(), "kalamdb-zygote", &pid, 1), 1);
    return pid;
}

/* Looks until it is so; the test's time limit is the deadline. */
static void until_busy(struct analytic *a, int n)
{
    struct analytic_stats st;
    do {
        sched_yield();
        analytic_stats(a, &st);
    } while (st.busy != n);
}

struct background {
    pthread_t thread;
    struct analytic *a;
    const char *user;
    const char *sql;
    int timeout_ms;
    struct analytic_cancel cancel;
    enum err e;
    struct errctx ec;
    char answer[64];
};

static void *background_main(void *arg)
{
    struct background *b = arg;
    struct analytic_request rq = {.user_id = str_c(b->user),
        .sql = str_c(b->sql),
        .timeout_ms = b->timeout_ms > 0 ? b->timeout_ms : 100000,
        .cancel = &b->cancel};
    struct rowset rs;
    errctx_clear(&b->ec);
    b->e = analytic_run(b->a, &rq, &rs, &b->ec);
    if (b->e == ERR_OK) {
        struct value v = rowset_row(&rs, 0)[0];
        if (value_is_bytes(v.type))
            snprintf(b->answer, sizeof b->answer, "%.*s", STR_FMT(v.s));
        else
            snprintf(b->answer, sizeof b->answer, "%lld", (long long)v.i);
        rowset_release(&rs);
    }
    return NULL;
}

static void start(struct background *b, struct analytic *a, const char *user, const char *sql)
{
    *b = (struct background){.a = a, .user = user, .sql = sql};
    assert_int_equal(pthread_create(&b->thread, NULL, background_main, b), 0);
}

static void timeout_ends_it(void **state)
{
    struct fixture *f = *state;
    struct analytic_request rq = {.user_id = STR("user_alice"), .sql = STR(ENDLESS), .timeout_ms = 300};
    struct rowset rs;
    struct errctx ec;
    int64_t begin = now_ms();
    assert_int_equal(analytic_run(f->a, &rq, &rs, &ec), ERR_TIMEOUT);
    assert_string_equal(ec.message, "canceling statement due to statement timeout");
    int64_t took = now_ms() - begin;
    assert_true(took >= 300 && took < 3000);
    assert_string_equal(one(f->a, "SELECT 5", NULL, 0), "5");
    struct analytic_stats st;
    analytic_stats(f->a, &st);
    assert_int_equal(st.killed, 1);
    assert_int_equal(st.died, 0);
    assert_int_equal(st.busy, 0);
}

static void cancel_ends_it(void **state)
{
    struct fixture *f = *state;
    struct background b;
    start(&b, f->a, "user_alice", ENDLESS);
    until_busy(f->a, 1);
    analytic_cancel(&b.cancel);
    pthread_join(b.thread, NULL);
    assert_int_equal(b.e, ERR_TIMEOUT);
    assert_string_equal(b.ec.message, "canceling statement due to user request");
    assert_int_equal(b.cancel.pidfd, 0);
    /* One that was cancelled before it began never runs. */
    struct analytic_request rq = {
        .user_id = STR("user_alice"), .sql = STR(ENDLESS), .timeout_ms = 60000, .cancel = &b.cancel};
    struct rowset rs;
    assert_int_equal(analytic_run(f->a, &rq, &rs, &b.ec), ERR_TIMEOUT);
    assert_string_equal(one(f->a, "SELECT 6", NULL, 0), "6");
}

/* Cancels at every moment of short runs: each is whole or cancelled, and no descriptor is lost or closed
 * twice. */
static void cancel_at_any_moment(void **state)
{
    struct fixture *f = *state;
    int whole = 0, ended = 0;
    for (int i = 0; i < 200; i++) {
        struct background b;
        start(&b, f->a, "user_alice", "SELECT count(*) FROM range(100000)");
        for (int spin = 0; spin < i * 20; spin++)
            sched_yield();
        analytic_cancel(&b.cancel);
        pthread_join(b.thread, NULL);
        assert_int_equal(b.cancel.pidfd, 0);
        if (b.e == ERR_OK)
            whole++;
        else
            ended++;
        assert_true(b.e == ERR_OK || b.e == ERR_TIMEOUT);
    }
    assert_int_equal(whole + ended, 200);
    assert_string_equal(one(f->a, "SELECT 7", NULL, 0), "7");
}

static void sigkilled_worker_costs_one_error(void **state)
{
    struct fixture *f = *state;
    struct background b;
    struct analytic_stats st;
    start(&b, f->a, "user_alice", ENDLESS);
    until_busy(f->a, 1);
    pid_t pids[64];
    /* The busy one and two spare ones: it counts as busy from its request on, perhaps before it has its name.
     */
    int n;
    while ((n = children(zygote_pid(), "kalamdb-query", pids, 64)) < 3)
        sched_yield();
    for (int i = 0; i < n; i++)
        kill(pids[i], SIGKILL);
    /* Until the kernel has closed their sockets; the keeper may have forked others meanwhile. */
    for (int i = 0; i < n; i++)
        while (kill(pids[i], 0) == 0)
            sched_yield();
    pthread_join(b.thread, NULL);
    assert_int_equal(b.e, ERR_INTERNAL);
    assert_string_equal(b.ec.message, "the query's worker died");
    analytic_stats(f->a, &st);
    assert_true(st.died >= 1);
    /* The reserved ones died with it; nobody else notices. */
    for (int i = 0; i < 5; i++)
        assert_string_equal(one(f->a, "SELECT 8", NULL, 0), "8");
}

static void killed_idle_worker_is_not_noticed(void **state)
{
    struct fixture *f = *state;
    assert_string_equal(one(f->a, "SELECT 1", NULL, 0), "1");
    pid_t pids[64];
    int n = children(zygote_pid(), "kalamdb-query", pids, 64);
    for (int i = 0; i < n; i++)
        kill(pids[i], SIGKILL);
    /* Until the kernel has closed their sockets; the keeper may have forked others meanwhile. */
    for (int i = 0; i < n; i++)
        while (kill(pids[i], 0) == 0)
            sched_yield();
    assert_string_equal(one(f->a, "SELECT 9", NULL, 0), "9");
}

static void zygote_is_restarted(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 3; i++) {
        assert_string_equal(one(f->a, "SELECT 1", NULL, 0), "1");
        pid_t pid = zygote_pid();
        struct background b;
        start(&b, f->a, "user_bob", ENDLESS);
        until_busy(f->a, 1);
        kill(pid, SIGKILL);
        /* Its workers die with it, by their parent-death signal. */
        pthread_join(b.thread, NULL);
        assert_int_equal(b.e, ERR_INTERNAL);
        struct rowset rs;
        struct errctx ec;
        enum err e = run_sql(f->a, "user_alice", "SELECT 10", NULL, 0, &rs, &ec);
        /* An idle worker may have been taken in the instant of its death. */
        if (e == ERR_INTERNAL)
            e = run_sql(f->a, "user_alice", "SELECT 10", NULL, 0, &rs, &ec);
        assert_int_equal(e, ERR_OK);
        assert_int_equal(rowset_row(&rs, 0)[0].i, 10);
        rowset_release(&rs);
        assert_int_not_equal(zygote_pid(), pid);
    }
}

static void memory_bombs(void **state)
{
    static const char *const bombs[] = {"SELECT repeat('x', 300000000)",
        "SELECT length(repeat('x', 3000000000))",
        "SELECT count(DISTINCT a.i || '-' || b.i) FROM range(100000) a(i), range(100000) b(i)",
        "SELECT list(i) FROM range(1000000000) t(i)", "SELECT * FROM range(30000000) a(i) ORDER BY random()",
        "WITH RECURSIVE t(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM t) SELECT max(length(x)) FROM t",
        "SELECT length(array_to_string(range(100000000), ','))"};
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof bombs / sizeof *bombs; i++) {
        struct rowset rs;
        struct errctx ec;
        enum err e = run_sql(f->a, "user_alice", bombs[i], NULL, 0, &rs, &ec);
        if (e == ERR_INTERNAL && SANITIZED)
            continue;
        if (e != ERR_TOO_LARGE)
            fail_msg("%s gave %s %s %s", bombs[i], err_wire(e), ec.message, ec.internal);
        assert_string_equal(ec.message, "the query needs too much memory");
        assert_string_equal(one(f->a, "SELECT 11", NULL, 0), "11");
    }
    struct analytic_stats st;
    analytic_stats(f->a, &st);
    assert_true(st.died == 0 || SANITIZED);
}

/* A statement that computes for long leaves the processor to others, and its worker serves nobody after. */
static void long_statements_step_back(void **state)
{
    struct fixture *f = *state;
    struct background b;
    struct analytic_stats st;
    pid_t pids[64];
    int lowest = 0;
    start(&b, f->a, "user_bob", ENDLESS);
    until_busy(f->a, 1);
    while (lowest < 10) {
        int n = children(zygote_pid(), "kalamdb-query", pids, 64);
        for (int i = 0; i < n; i++) {
            int nice_now = getpriority(PRIO_PROCESS, (id_t)pids[i]);
            lowest = nice_now > lowest ? nice_now : lowest;
        }
        sched_yield();
    }
    analytic_cancel(&b.cancel);
    pthread_join(b.thread, NULL);
    /* One that ends by itself: told so, and without an error for the next. */
    for (int i = 0; i < 3; i++) {
        one(f->a, "SELECT sum(hash(i)) FROM range(30000000) t(i)", NULL, 0);
        analytic_stats(f->a, &st);
        assert_int_equal(st.idle, 0);
        assert_string_equal(one(f->a, "SELECT 1", NULL, 0), "1");
    }
}

/* A user's temporary state would survive in a worker; another user's statement never meets it. */
static void users_never_share(void **state)
{
    struct fixture *f = *state;
    struct analytic_stats before, after;
    analytic_stats(f->a, &before);
    for (int i = 0; i < 12; i++) {
        char user[16];
        snprintf(user, sizeof user, "user_%d", i);
        struct rowset rs;
        struct errctx ec;
        for (int again = 0; again < 3; again++) {
            assert_int_equal(run_sql(f->a, user, "SELECT 1", NULL, 0, &rs, &ec), ERR_OK);
            rowset_release(&rs);
        }
        analytic_stats(f->a, &after);
        /* 4 workers at most, whoever they belong to. */
        assert_true(after.idle + after.busy <= 4);
    }
    analytic_stats(f->a, &after);
    assert_int_equal(after.runs - before.runs, 36);
    /* Each user's first statement took a worker that nobody had; its next two took that one again. */
    assert_true(after.started - before.started >= 12 - 2);
    assert_true(after.started - before.started <= 12 + 2);
    assert_int_equal(after.died, before.died);
}

static void fifty_on_four(void **state)
{
    struct fixture *f = *state;
    struct background b[50];
    char users[50][16], sql[50][64];
    for (int i = 0; i < 50; i++) {
        snprintf(users[i], sizeof users[i], "user_%d", i % 7);
        snprintf(sql[i], sizeof sql[i], "SELECT sum(i + %d) FROM range(1000) t(i)", i);
        start(&b[i], f->a, users[i], sql[i]);
    }
    for (int i = 0; i < 50; i++) {
        char want[32];
        snprintf(want, sizeof want, "%d", 499500 + 1000 * i);
        pthread_join(b[i].thread, NULL);
        if (b[i].e != ERR_OK)
            fail_msg("run %d: %s %s", i, b[i].ec.message, b[i].ec.internal);
        assert_string_equal(b[i].answer, want);
    }
    struct analytic_stats st;
    analytic_stats(f->a, &st);
    assert_int_equal(st.runs, 50);
    assert_int_equal(st.died, 0);
    assert_int_equal(st.waiting, 0);
}

static void waiting_is_part_of_the_time(void **state)
{
    struct fixture *f = *state;
    struct background b[4];
    for (int i = 0; i < 4; i++)
        start(&b[i], f->a, "user_busy", ENDLESS);
    until_busy(f->a, 4);
    struct analytic_request rq = {.user_id = STR("user_alice"), .sql = STR("SELECT 1"), .timeout_ms = 200};
    struct rowset rs;
    struct errctx ec;
    assert_int_equal(analytic_run(f->a, &rq, &rs, &ec), ERR_TIMEOUT);
    /* A waiting caller can be cancelled as well. */
    struct background w;
    start(&w, f->a, "user_alice", "SELECT 1");
    analytic_cancel(&w.cancel);
    pthread_join(w.thread, NULL);
    assert_int_equal(w.e, ERR_TIMEOUT);
    for (int i = 0; i < 4; i++) {
        analytic_cancel(&b[i].cancel);
        pthread_join(b[i].thread, NULL);
        assert_int_equal(b[i].e, ERR_TIMEOUT);
    }
}

struct counting_job {
    struct analytic_job job;
    struct analytic *a;
    _Atomic int *done, *unavailable;
};

static void run_counting_job(struct analytic_job *job)
{
    struct counting_job *c = (struct counting_job *)job;
    struct rowset rs;
    struct errctx ec;
    enum err e = run_sql(c->a, "user_alice", "SELECT 1", NULL, 0, &rs, &ec);
    if (e == ERR_OK)
        rowset_release(&rs);
    else if (e == ERR_UNAVAILABLE)
        atomic_fetch_add(c->unavailable, 1);
    atomic_fetch_add(c->done, 1);
}

static void close_runs_queued_jobs(void **state)
{
    struct fixture *f = *state;
    _Atomic int done = 0, unavailable = 0;
    struct counting_job jobs[100];
    struct background b;
    start(&b, f->a, "user_bob", ENDLESS);
    until_busy(f->a, 1);
    for (int i = 0; i < 100; i++) {
        jobs[i] = (struct counting_job){
            .job.run = run_counting_job, .a = f->a, .done = &done, .unavailable = &unavailable};
        analytic_submit(f->a, &jobs[i].job);
    }
    pid_t zygote = zygote_pid(), pids[64];
    analytic_close(f->a);
    assert_int_equal(done, 100);
    pthread_join(b.thread, NULL);
    assert_true(b.e == ERR_INTERNAL || b.e == ERR_UNAVAILABLE);
    assert_int_equal(children(getpid(), "kalamdb-zygote", pids, 64), 0);
    while (children(zygote, "kalamdb-query", pids, 64) > 0)
        sched_yield();
    /* For the tear-down. */
    struct analytic_config cfg = {.workers_max = 1, .threads = 1};
    f->a = fixture_start(&cfg);
}

/* A clock that tests set: only the age of idle workers is read from it. */
static _Atomic int64_t fake_us;
static int64_t fake_monotonic(void *ctx)
{
    (void)ctx;
    return fake_us;
}

static void idle_workers_leave(void **state)
{
    (void)state;
    struct os os = *os_posix();
    os.monotonic_us = fake_monotonic;
    struct analytic_config cfg = {.workers_max = 4, .threads = 1, .idle_worker_ms = 3000, .os = &os};
    struct analytic *a = fixture_start(&cfg);
    struct analytic_stats st;
    assert_string_equal(one(a, "SELECT 1", NULL, 0), "1");
    analytic_stats(a, &st);
    assert_int_equal(st.idle, 1);
    fake_us = 2999999;
    struct rowset rs;
    struct errctx ec;
    assert_int_equal(run_sql(a, "user_bob", "SELECT 1", NULL, 0, &rs, &ec), ERR_OK);
    rowset_release(&rs);
    analytic_stats(a, &st);
    assert_int_equal(st.idle, 2);
    fake_us = 3000000;
    assert_int_equal(run_sql(a, "user_bob", "SELECT 1", NULL, 0, &rs, &ec), ERR_OK);
    rowset_release(&rs);
    do {
        sched_yield();
        analytic_stats(a, &st);
    } while (st.idle != 1);
    analytic_close(a);
}

/* A server that is killed can clean up nothing: its zygote and the running worker must go by themselves. */
static void all_die_with_the_server(void **state)
{
    (void)state;
    pid_t server = fork(), zygote = 0, workers[64];
    assert_true(server >= 0);
    if (server == 0) {
        struct analytic_config cfg = {.workers_max = 1, .threads = 1};
        struct analytic *a = NULL;
        struct errctx ec;
        struct rowset rs;
        if (analytic_open(&cfg, &a, &ec) == ERR_OK && run_sql(a, "u", ENDLESS, NULL, 0, &rs, &ec) == ERR_OK)
            _exit(0);
        _exit(1);
    }
    while (children(server, "kalamdb-zygote", &zygote, 1) == 0)
        sched_yield();
    int n;
    while ((n = children(zygote, "kalamdb-query", workers, 64)) == 0)
        sched_yield();
    kill(server, SIGKILL);
    assert_int_equal(waitpid(server, NULL, 0), server);
    while (kill(zygote, 0) == 0 && !is_zombie(zygote))
        sched_yield();
    for (int i = 0; i < n; i++)
        while (kill(workers[i], 0) == 0 && !is_zombie(workers[i]))
            sched_yield();
}

static void no_worker_program(void **state)
{
    (void)state;
    struct analytic *a = NULL;
    struct errctx ec;
    struct analytic_config cfg = {
        .worker_path = "/nonexistent/kalamdb-worker", .workers_max = 1, .threads = 1};
    assert_int_equal(analytic_open(&cfg, &a, &ec), ERR_UNAVAILABLE);
    cfg.worker_path = "/bin/true";
    assert_int_equal(analytic_open(&cfg, &a, &ec), ERR_UNAVAILABLE);
    assert_non_null(strstr(ec.internal, "zygote"));
    assert_null(a);
}

int main(void)
{
#define EACH(t) cmocka_unit_test_setup_teardown(t, fixture_open, fixture_close)
    const struct CMUnitTest tests[] = {
        EACH(timeout_ends_it),
        EACH(cancel_ends_it),
        EACH(cancel_at_any_moment),
        EACH(sigkilled_worker_costs_one_error),
        EACH(killed_idle_worker_is_not_noticed),
        EACH(zygote_is_restarted),
        EACH(memory_bombs),
        EACH(long_statements_step_back),
        EACH(users_never_share),
        EACH(fifty_on_four),
        EACH(waiting_is_part_of_the_time),
        EACH(close_runs_queued_jobs),
        cmocka_unit_test(idle_workers_leave),
        cmocka_unit_test(all_die_with_the_server),
        cmocka_unit_test(no_worker_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
