/* The order matters: capabilities first (so that nothing below depends on being root), then no_new_privs,
 * which both walls demand of the unprivileged, then Landlock, then seccomp, which takes away the calls that
 * built the rest. Landlock comes once in the zygote, where it takes away files and network, and once more in
 * each worker: a domain of its own, from which neither another worker, nor the zygote, nor the server can be
 * signalled, traced or looked into. */
#include "analytic/cage.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of kernels newer than the headers that we are built with (linux/landlock.h). A kernel that does not know a
 * field takes it as long as it is zero. */
struct rights {
    uint64_t fs, net, scoped;
};
#define FS_ABI_1 ((UINT64_C(1) << 13) - 1)
#define FS_REFER (UINT64_C(1) << 13)
#define FS_TRUNCATE (UINT64_C(1) << 14)
#define FS_IOCTL_DEV (UINT64_C(1) << 15)
#define NET_TCP UINT64_C(3)   /* bind, connect */
#define SCOPE_ALL UINT64_C(3) /* abstract sockets, signals */
#define PROBE_OPENS 100       /* exit codes of the probe: what should have failed did not */
#define PROBE_SOCKETS 101

static struct rights all_rights(int abi)
{
    struct rights r = {.fs = FS_ABI_1};
    if (abi >= 2)
        r.fs |= FS_REFER;
    if (abi >= 3)
        r.fs |= FS_TRUNCATE;
    if (abi >= 4)
        r.net = NET_TCP;
    if (abi >= 5)
        r.fs |= FS_IOCTL_DEV;
    if (abi >= 6)
        r.scoped = SCOPE_ALL;
    return r;
}

/* Every right that this kernel can take away, and no rule that gives one back. 0 or an errno. */
static int landlock(int abi)
{
    struct rights r = all_rights(abi);
    int fd = (int)syscall(SYS_landlock_create_ruleset, &r, sizeof r, 0);
    if (fd < 0)
        return errno;
    int e = syscall(SYS_landlock_restrict_self, fd, 0) == 0 ? 0 : errno;
    close(fd);
    return e;
}

/* 0 or an errno. */
static int seccomp(const struct sock_fprog *program)
{
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program) == 0 ? 0 : errno;
}

static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    return syscall(SYS_capset, &header, none) == 0 ? 0 : errno;
}

enum err cage_prepare(struct cage *ret, struct errctx *ec)
{
    struct cage c = {0};
    c.landlock_abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (c.landlock_abi < 1)
        return err_internal(ec, ERR_UNAVAILABLE,
            errno == EPERM ? "the container's policy forbids Landlock (landlock_create_ruleset: %s)"
                           : "this kernel has no Landlock, or it is not among its active security modules "
                             "(Linux 5.13 or newer with `lsm=landlock,…`; landlock_create_ruleset: %s)",
            strerror(errno));
    unsigned kill = SECCOMP_RET_KILL_PROCESS;
    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &kill) != 0)
        return err_internal(
            ec, ERR_UNAVAILABLE, "this kernel or container has no seccomp filters: %s", strerror(errno));
    enum err e = cage_filter_compile(true, &c.zygote, ec);
    if (e == ERR_OK)
        e = cage_filter_compile(false, &c.worker, ec);
    if (e != ERR_OK)
        cage_release(&c);
    else
        *ret = c;
    return e;
}

void cage_release(struct cage *c)
{
    free(c->zygote.filter);
    free(c->worker.filter);
    *c = (struct cage){0};
}

static enum err failed(const char *what, int error, struct errctx *ec)
{
    return err_internal(ec, ERR_UNAVAILABLE, "%s: %s", what, strerror(error));
}

enum err cage_zygote(const struct cage *c, struct errctx *ec)
{
    int e = drop_capabilities();
    if (e != 0)
        return failed("giving up capabilities", e, ec);
    /* No core files, and no look into it by processes of the same user. */
    if (prctl(PR_SET_DUMPABLE, 0) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return failed("no_new_privs", errno, ec);
    e = landlock(c->landlock_abi);
    if (e != 0)
        return failed("Landlock", e, ec);
    /* Some sandboxes say yes to calls that they do not carry out. */
    int root = (int)syscall(SYS_openat, AT_FDCWD, "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root >= 0 || errno != EACCES)
        return failed("Landlock is there but does not hold", root >= 0 ? 0 : errno, ec);
    e = seccomp(&c->zygote);
    return e == 0 ? ERR_OK : failed("seccomp", e, ec);
}

enum err cage_worker(const struct cage *c, struct errctx *ec)
{
    int e = landlock(c->landlock_abi);
    if (e != 0)
        return failed("Landlock", e, ec);
    e = seccomp(&c->worker);
    return e == 0 ? ERR_OK : failed("seccomp", e, ec);
}

/* Never returns; killed by SIGSYS when the cage holds. */
static _Noreturn void probe(const struct cage *c)
{
    struct errctx ec;
    if (cage_worker(c, &ec) != ERR_OK)
        _exit(errno > 0 && errno < PROBE_OPENS ? errno : 1);
    if (syscall(SYS_openat, AT_FDCWD, "/", O_RDONLY) >= 0 || errno != EACCES)
        _exit(PROBE_OPENS);
    syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    _exit(PROBE_SOCKETS);
}

enum err cage_prove(const struct cage *c, struct errctx *ec)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        probe(c);
    if (pid < 0)
        return failed("fork", errno, ec);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return failed("waitpid", errno, ec);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        return ERR_OK;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    if (code == PROBE_OPENS || code == PROBE_SOCKETS)
        return err_internal(ec, ERR_UNAVAILABLE, "seccomp is there but does not hold: a worker could %s",
            code == PROBE_OPENS ? "open a file" : "make a socket");
    return err_internal(ec, ERR_UNAVAILABLE, "a worker cannot be caged: %s",
        code != 0 ? strerror(code) : "it died of something else");
}
