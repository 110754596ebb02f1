/* A worker taken over by hostile native code (native_attacks.c) against the cage: each attack fails with the
 * errno that stands here, or kills that worker alone. Most of the same attacks work from a worker without the
 * cage, which shows that they are ones. */
#include "fixture.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DIES (-1)  /* by SIGSYS: one error, and the pool counts it */
#define FALLS (-2) /* of something else */
#define WORKS 0
#define ANY (-3) /* depends on the kernel's settings and on who runs the test */

static const char secret[] = "the planted secret of another user";
static char folder[] = "/tmp/kalamdb-native-XXXXXX", planted[64], unix_path[64], abstract[64];
static int port;

/* %S: this process, the server; %B: another user's worker; %F, %U, %A, %P: the planted file, the listening
 * sockets; %M: the address of the secret in the server. */
static const struct {
    const char *attack;
    int caged, uncaged;
} cases[] = {
    {"open_read 0 /etc/passwd", EACCES, WORKS},
    {"open_read 0 %F", EACCES, WORKS},
    {"open_read 0 /", EACCES, EISDIR},
    {"open_read 0 /proc/1/environ", EACCES, ANY},
    {"open_read 0 /proc/self/environ", EACCES, WORKS},
    {"open_read 0 /proc/self/maps", EACCES, WORKS},
    {"open_read 0 /proc/self/mem", EACCES, EIO},
    {"open_read 0 /proc/self/fd/0", EACCES, WORKS},
    {"open_read 0 /proc/%S/environ", EACCES, WORKS},
    {"open_read 0 /proc/%S/mem", EACCES, ANY},
    {"open_read 0 /proc/%S/fd/0", EACCES, ANY},
    {"open_read 0 /proc/%B/mem", EACCES, ANY},
    {"open_read 0 /proc/%B/maps", EACCES, WORKS},
    {"open_read 0 /proc/%B/fd/3", EACCES, ENXIO},
    {"open_read 0 /sys/kernel/mm/transparent_hugepage/enabled", EACCES, ANY},
    {"open_path 0 %F", EACCES, WORKS},
    {"open_how 0 %F", EACCES, WORKS},
    {"open_write 0 %F", EACCES, WORKS},
    {"open_write 0 /dev/null", EACCES, WORKS},
    {"look 0 %F", EACCES, WORKS},
    {"statx 0 %F", EACCES, WORKS},
    {"faccess 0 %F", EACCES, WORKS},
    {"read_link 0 /proc/self/exe", EACCES, WORKS},
    {"make_dir 0 %F.d", DIES, WORKS},
    {"change_dir 0 /tmp", DIES, WORKS},
    {"change_root 0 /tmp", DIES, ANY},
    {"handle 0 %F", DIES, EINVAL},
    {"watch", DIES, WORKS},
    {"connect_tcp %P", DIES, WORKS},
    {"connect_unix 0 %U", DIES, WORKS},
    {"connect_abstract 0 %A", DIES, WORKS},
    {"bind_tcp", DIES, WORKS},
    {"bind_own", DIES, WORKS},
    {"udp", DIES, WORKS},
    {"netlink", DIES, WORKS},
    {"socket_pair", DIES, WORKS},
    {"send_elsewhere", DIES, EBADF},
    {"exec_path 0 /nonexistent", DIES, ENOENT},
    {"exec_memfd", DIES, ENOEXEC},
    {"exec_fd 4", DIES, ANY},
    {"memfd", DIES, WORKS},
    {"fork", DIES, WORKS},
    {"clone3", ENOSYS, WORKS},
    {"new_namespace", DIES, ANY},
    {"enter_namespace", DIES, EINVAL},
    {"trace %S", DIES, ANY},
    {"trace_me", DIES, ANY},
    {"read_memory %S %M", DIES, ANY},
    {"write_memory %S %M", DIES, ANY},
    {"read_memory %B %M", DIES, ANY},
    {"compare %S", DIES, ANY},
    {"kill %S", DIES, WORKS},
    {"kill %B", DIES, WORKS},
    {"kill 0", DIES, WORKS},
    {"kill -1", DIES, WORKS},
    {"tgkill %S", EPERM, WORKS},
    {"tkill %S", DIES, WORKS},
    {"queue_signal %S", DIES, ANY},
    {"open_pidfd %S", DIES, WORKS},
    {"steal_fd %S", DIES, ANY},
    {"steal_fd %B", DIES, ANY},
    {"steal_by_number", DIES, EBADF},
    {"signal_by_number", DIES, EBADF},
    {"prio", DIES, ANY},
    {"affinity %S", DIES, WORKS},
    {"limits_of %S", DIES, WORKS},
    {"more_memory", DIES, ANY},
    {"map_code", DIES, WORKS},
    {"map_file_code 0", DIES, ANY},
    {"map_shared", DIES, WORKS},
    {"protect_code", DIES, WORKS},
    {"protect_key", DIES, WORKS},
    {"shared_segment", DIES, WORKS},
    {"mount", DIES, ANY},
    {"open_tree", DIES, ANY},
    {"bpf", DIES, ANY},
    {"perf", DIES, ANY},
    {"uring", DIES, ANY},
    {"fault", DIES, ANY},
    {"key", DIES, ANY},
    {"load_module", DIES, ANY},
    {"clock_set", DIES, EINVAL},
    {"system_name", DIES, WORKS},
    {"kernel_log", DIES, ANY},
    {"become_root", DIES, ANY},
    {"capabilities", DIES, WORKS},
    {"dumpable", DIES, WORKS},
    {"outlive", DIES, WORKS},
    {"another_filter", DIES, ANY},
    {"execute_readable", DIES, WORKS},
    {"terminal", ENOTTY, ENOTTY},
    {"own_signals %S", DIES, ANY},
    {"seal 0", DIES, EPERM},
    {"new_session", DIES, WORKS},
    {"pour", DIES, ANY},
    {"write_input", EBADF, EBADF},
    {"cut_input", EINVAL, EINVAL},
    {"map_input", EACCES, EACCES},
    {"reopen_input", EACCES, WORKS},
    {"count_descriptors", WORKS, ANY},
    {"count_environment", WORKS, WORKS},
#ifdef __x86_64__
    {"other_numbers", DIES, ENOSYS},
    {"other_architecture", DIES, ANY},
#endif
    {"give_up", FALLS, FALLS},
    {"remove_file 0 %F", DIES, ANY},
};

static void fill(char *ret, size_t size, const char *pattern, long worker)
{
    size_t n = 0;
    for (const char *p = pattern; *p != '\0' && n + 80 < size; p++) {
        if (*p != '%') {
            ret[n++] = *p;
            continue;
        }
        switch (*++p) {
        case 'S':
            n += (size_t)snprintf(ret + n, size - n, "%d", (int)getpid());
            break;
        case 'B':
            n += (size_t)snprintf(ret + n, size - n, "%ld", worker);
            break;
        case 'P':
            n += (size_t)snprintf(ret + n, size - n, "%d", port);
            break;
        case 'M':
            n += (size_t)snprintf(ret + n, size - n, "%llx", (unsigned long long)(uintptr_t)secret);
            break;
        default:
            n += (size_t)snprintf(ret + n, size - n, "%s",
                *p == 'F'   ? planted
                : *p == 'U' ? unix_path
                            : abstract);
        }
    }
    ret[n] = '\0';
}

static int plant(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(planted, sizeof planted, "%s/user_bob.parquet", folder);
    snprintf(unix_path, sizeof unix_path, "%s/socket", folder);
    snprintf(abstract, sizeof abstract, "kalamdb-native-%d", (int)getpid());
    int fd = open(planted, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(os_write_all(fd, secret, sizeof secret), 0);
    close(fd);
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof in;
    int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(tcp, (struct sockaddr *)&in, sizeof in), 0);
    assert_int_equal(listen(tcp, 10), 0);
    assert_int_equal(getsockname(tcp, (struct sockaddr *)&in, &size), 0);
    port = ntohs(in.sin_port);
    for (int i = 0; i < 2; i++) {
        struct sockaddr_un un = {.sun_family = AF_UNIX};
        snprintf(un.sun_path + i, sizeof un.sun_path - 1, "%s", i == 0 ? unix_path : abstract);
        size =
            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(i == 0 ? unix_path : abstract));
        int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(s, (struct sockaddr *)&un, size), 0);
        assert_int_equal(listen(s, 10), 0);
    }
    return 0;
}

static int clear(void **state)
{
    char made[80];
    (void)state;
    snprintf(made, sizeof made, "%s.d", planted);
    rmdir(made);
    unlink(planted);
    unlink(unix_path);
    return rmdir(folder);
}

/* What a worker of this user answers: an errno, 0, or FALLS. */
static int64_t ask(struct analytic *a, const char *user, const char *sql, struct row_file *rows)
{
    struct analytic_input in = {.schema = &schema_messages, .rows_fd = rows->fd, .rows_bytes = 0};
    struct rowset rs;
    struct errctx ec;
    enum err e = run_sql(a, user, sql, &in, 1, &rs, &ec);
    if (e != ERR_OK) {
        assert_int_equal(e, ERR_INTERNAL);
        assert_string_equal(ec.message, "the query's worker died");
        return FALLS;
    }
    int64_t answer = rowset_row(&rs, 0)[0].i;
    rowset_release(&rs);
    return answer;
}

/* The zygote tells of it when it has reaped the worker. */
static bool was_expelled(struct analytic *a, uint64_t before)
{
    struct analytic_stats st;
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        analytic_stats(a, &st);
        clock_gettime(CLOCK_MONOTONIC, &now);
        sched_yield();
    } while (st.expelled == before && now.tv_sec - start.tv_sec < 10);
    assert_true(st.expelled <= before + 1);
    return st.expelled == before + 1;
}

static void attack_all(bool caged)
{
    struct analytic_config cfg = {.worker_path = getenv("NATIVE_WORKER"),
        .workers_max = 4,
        .threads = 1,
        .uncaged = !caged,
        .idle_worker_ms = 600000};
    assert_non_null(cfg.worker_path);
    struct analytic *a = fixture_start(&cfg);
    struct row_file rows;
    struct analytic_stats st;
    row_file_open(&rows);
    assert_int_equal(os_write_all(rows.fd, secret, sizeof secret), 0);
    long bob = (long)ask(a, "user_bob", "pid", &rows);
    assert_true(bob > 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char sql[512];
        int64_t want = caged ? cases[i].caged : cases[i].uncaged;
        analytic_stats(a, &st);
        assert_int_equal(st.landlock_abi > 0, caged);
        fill(sql, sizeof sql, cases[i].attack, bob);
        /* Where the cage is off this one would work. */
        if (!caged && want == ANY)
            continue;
        int64_t got = ask(a, "user_mallory", sql, &rows);
        if (want == DIES && got == FALLS && was_expelled(a, st.expelled))
            got = DIES;
        if (got != want)
            fail_msg("%s: %s, answered %d (%s), not %d", caged ? "caged" : "uncaged", sql, (int)got,
                got > 0 ? strerror((int)got) : "", (int)want);
    }
    /* Nobody else noticed. */
    assert_int_equal(ask(a, "user_bob", "pid", &rows), bob);
    row_file_close(&rows);
    analytic_close(a);
}

static void from_the_cage(void **state)
{
    (void)state;
    attack_all(true);
    assert_string_equal(secret, "the planted secret of another user");
    char bytes[sizeof secret];
    int fd = open(planted, O_RDONLY);
    assert_int_equal(read(fd, bytes, sizeof bytes), sizeof secret);
    assert_memory_equal(bytes, secret, sizeof secret);
    close(fd);
}

static void without_it(void **state)
{
    (void)state;
    attack_all(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(from_the_cage), cmocka_unit_test(without_it)};
    return cmocka_run_group_tests(tests, plant, clear);
}
