/* Each wall of the cage by itself: Landlock with a list that allows every call, seccomp's list without
 * Landlock's domains. What both refuse together is native_test.c. */
#include "analytic/cage.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char secret[] = "of the server";

/* A child in Landlock's two domains and in no list of calls. */
static struct cage landlock_only(void)
{
    static struct sock_filter all = {.code = BPF_RET | BPF_K, .k = 0x7fff0000};
    struct cage c;
    struct errctx ec;
    errctx_clear(&ec);
    if (cage_prepare(&c, &ec) != ERR_OK)
        fail_msg("%s", ec.internal);
    free(c.zygote.filter);
    free(c.worker.filter);
    c.zygote = c.worker = (struct sock_fprog){.len = 1, .filter = &all};
    return c;
}

#define CHECK(number, condition)                                                                             \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            _exit(number);                                                                                   \
    } while (0)

static int open_of(pid_t pid, const char *file, int flags)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    return open(path, flags);
}

static _Noreturn void try_landlock(const struct cage *c, pid_t server, pid_t sibling, int port, int memfd)
{
    struct errctx ec;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct iovec here = {secret, 4}, there = {secret, 4};
    char path[64];
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    snprintf(un.sun_path + 1, sizeof un.sun_path - 1, "kalamdb-cage-%d", (int)server);
    CHECK(10, cage_zygote(c, &ec) == ERR_OK && cage_worker(c, &ec) == ERR_OK);
    CHECK(11, open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
    CHECK(12, open("/tmp/x", O_WRONLY | O_CREAT, 0600) < 0 && errno == EACCES);
    CHECK(13, open("/proc/self/environ", O_RDONLY) < 0 && errno == EACCES);
    CHECK(14, open("/proc/self/mem", O_RDWR) < 0 && errno == EACCES);
    CHECK(15, open_of(server, "mem", O_RDONLY) < 0);
    CHECK(16, open_of(server, "environ", O_RDONLY) < 0);
    CHECK(17, open_of(server, "fd/0", O_RDONLY) < 0);
    CHECK(18, open_of(sibling, "mem", O_RDONLY) < 0);
    CHECK(19, ptrace(PTRACE_SEIZE, server, 0, 0) < 0 && errno == EPERM);
    CHECK(20, ptrace(PTRACE_SEIZE, sibling, 0, 0) < 0 && errno == EPERM);
    CHECK(21, process_vm_readv(server, &here, 1, &there, 1, 0) < 0 && errno == EPERM);
    CHECK(22, process_vm_readv(sibling, &here, 1, &there, 1, 0) < 0 && errno == EPERM);
    CHECK(23, syscall(SYS_execve, "/bin/true", NULL, NULL) < 0 && errno == EACCES);
    /* What it was handed it may still open by number. */
    snprintf(path, sizeof path, "/proc/self/fd/%d", memfd);
    CHECK(24, open(path, O_RDONLY) >= 0);
    if (c->landlock_abi >= 4)
        CHECK(25, connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&in, sizeof in) < 0 && errno == EACCES);
    if (c->landlock_abi >= 6) {
        socklen_t n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(un.sun_path + 1));
        CHECK(26, connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&un, n) < 0 && errno == EPERM);
        CHECK(27, kill(server, 0) < 0 && errno == EPERM);
        CHECK(28, kill(sibling, 0) < 0 && errno == EPERM);
    }
    _exit(0);
}

static int ended(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/* Another worker: waits in its domain to be attacked. */
static pid_t start_sibling(const struct cage *c, int ready)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct errctx ec;
        CHECK(1, cage_zygote(c, &ec) == ERR_OK && cage_worker(c, &ec) == ERR_OK && write(ready, "x", 1) == 1);
        for (;;)
            pause();
    }
    return pid;
}

static void landlock_alone(void **state)
{
    (void)state;
    struct cage c = landlock_only();
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    socklen_t size = sizeof in;
    int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), name = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(un.sun_path + 1, sizeof un.sun_path - 1, "kalamdb-cage-%d", (int)getpid());
    assert_int_equal(bind(tcp, (struct sockaddr *)&in, sizeof in), 0);
    assert_int_equal(listen(tcp, 1), 0);
    assert_int_equal(getsockname(tcp, (struct sockaddr *)&in, &size), 0);
    size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(un.sun_path + 1));
    assert_int_equal(bind(name, (struct sockaddr *)&un, size), 0);
    assert_int_equal(listen(name, 1), 0);
    int memfd = memfd_create("input", 0), ready[2];
    char x;
    assert_int_equal(pipe(ready), 0);
    pid_t sibling = start_sibling(&c, ready[1]), server = getpid();
    assert_int_equal(read(ready[0], &x, 1), 1);
    int code = 0, newest = c.landlock_abi;
    /* As on older kernels: they know fewer rights. */
    for (c.landlock_abi = 1; code == 0 && c.landlock_abi <= newest; c.landlock_abi++) {
        pid_t pid = fork();
        if (pid == 0)
            try_landlock(&c, server, sibling, ntohs(in.sin_port), memfd);
        code = ended(pid);
    }
    kill(sibling, SIGKILL);
    ended(sibling);
    if (code != 0)
        fail_msg("check %d, Landlock %d", code, c.landlock_abi - 1);
    close(tcp);
    close(name);
    close(memfd);
    close(ready[0]);
    close(ready[1]);
}

static void no_call_without_landlock_either(void **state)
{
    (void)state;
    struct cage c;
    struct errctx ec;
    assert_int_equal(cage_prepare(&c, &ec), ERR_OK);
    assert_true(c.landlock_abi >= 1);
    assert_true(c.worker.len > 50 && c.zygote.len > c.worker.len);
    pid_t pid = fork();
    if (pid == 0) {
        /* As after cage_zygote, but for its Landlock. */
        struct sock_fprog list = c.worker;
        CHECK(1, syscall(SYS_prctl, 38, 1, 0, 0, 0) == 0 && syscall(SYS_seccomp, 1, 0, &list) == 0);
        CHECK(2, syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
        CHECK(3, syscall(SYS_getpid) > 0);
        syscall(SYS_kill, 1, 0);
        _exit(4);
    }
    assert_int_equal(ended(pid), 256 + SIGSYS);
    cage_release(&c);
    assert_null(c.worker.filter);
}

/* The probe says so when a list lets through what it should not. */
static void a_cage_with_a_hole_is_none(void **state)
{
    (void)state;
    struct cage c = landlock_only();
    pid_t pid = fork();
    if (pid == 0) {
        struct errctx ec;
        errctx_clear(&ec);
        CHECK(1, cage_zygote(&c, &ec) == ERR_OK);
        CHECK(2, cage_prove(&c, &ec) == ERR_UNAVAILABLE);
        CHECK(3, strstr(ec.internal, "does not hold") != NULL);
        _exit(0);
    }
    assert_int_equal(ended(pid), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(landlock_alone),
        cmocka_unit_test(no_call_without_landlock_either), cmocka_unit_test(a_cage_with_a_hole_is_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
