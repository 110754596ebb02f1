/* Which system calls a caged process has. An allow-list: a call that is not here kills the process that makes
 * it, with SIGSYS, and the server answers one error for the statement that it was running.
 *
 * Built with libseccomp, which Debian maintains in its security suite, rather than by hand: it knows the
 * numbers of each architecture, refuses calls by another architecture's numbers (x32 and i386 on x86-64),
 * compares 64-bit arguments in both halves, and makes a balanced tree of the list. The programs are compiled
 * once in the zygote; a worker installs ready bytes.
 *
 * A few calls answer an error instead of killing, since C and C++ libraries make them as a matter of course
 * and go on without: everything that takes a path (EACCES), tgkill (EPERM: abort() then ends in its own
 * illegal instruction), mlock (EPERM), ioctl (ENOTTY: is it a terminal?), clone3 and rseq (ENOSYS, as on an
 * older kernel).
 */
#include "analytic/cage.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAMED(call)                                                                                          \
    {                                                                                                        \
        SCMP_SYS(call), #call                                                                                \
    }
struct call {
    int number;
    const char *name;
};

/* Memory, time, locks, and descriptors that are there already. */
static const struct call plain[] = {NAMED(brk), NAMED(munmap), NAMED(mremap), NAMED(madvise), NAMED(futex),
    NAMED(sched_yield), NAMED(sched_getaffinity), NAMED(getcpu), NAMED(clock_gettime), NAMED(clock_getres),
    NAMED(clock_nanosleep), NAMED(nanosleep), NAMED(gettimeofday), NAMED(time), NAMED(getrandom),
    NAMED(getpid), NAMED(gettid), NAMED(sysinfo), NAMED(getrusage), NAMED(rt_sigreturn),
    NAMED(rt_sigprocmask), NAMED(rt_sigaction), NAMED(setitimer), NAMED(sigaltstack), NAMED(restart_syscall),
    NAMED(read), NAMED(pread64), NAMED(write), NAMED(writev), NAMED(pwrite64), NAMED(lseek), NAMED(ftruncate),
    NAMED(fsync), NAMED(fdatasync), NAMED(fstat), NAMED(close), NAMED(dup3), NAMED(poll), NAMED(ppoll),
    NAMED(exit), NAMED(exit_group)};

/* Answered, not obeyed. */
static const struct {
    struct call call;
    int error;
} refused[] = {{NAMED(open), EACCES}, {NAMED(openat), EACCES}, {NAMED(openat2), EACCES},
    {NAMED(creat), EACCES}, {NAMED(stat), EACCES}, {NAMED(lstat), EACCES}, {NAMED(newfstatat), EACCES},
    {NAMED(statx), EACCES}, {NAMED(statfs), EACCES}, {NAMED(access), EACCES}, {NAMED(faccessat), EACCES},
    {NAMED(faccessat2), EACCES}, {NAMED(readlink), EACCES}, {NAMED(readlinkat), EACCES},
    {NAMED(getcwd), EACCES}, {NAMED(tgkill), EPERM}, {NAMED(ioctl), ENOTTY}, {NAMED(clone3), ENOSYS},
    {NAMED(rseq), ENOSYS}, {NAMED(mlock), EPERM}, {NAMED(munlock), EPERM}};

/* Of the zygote and of a worker that is not closed in yet. */
static const struct call zygote_plain[] = {NAMED(wait4), NAMED(pidfd_open), NAMED(getppid),
    NAMED(set_robust_list), NAMED(landlock_create_ruleset), NAMED(landlock_restrict_self), NAMED(seccomp)};

/* libseccomp's results are negative errnos. -EDOM: a call that this architecture never had. */
static int allow(scmp_filter_ctx ctx, int number)
{
    int e = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, number, 0);
    return e == -EDOM ? 0 : e;
}

/* Data, never code: no page becomes executable once the cage is closed. Shared memory only of descriptors:
 * anonymous shared pages would not count against RLIMIT_DATA. */
static int allow_memory(scmp_filter_ctx ctx)
{
    const struct scmp_arg_cmp data = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
    int e = seccomp_rule_add(
        ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2, data, SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, 0));
    if (e == 0)
        e = seccomp_rule_add(
            ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2, data, SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_SHARED, 0));
    return e == 0 ? seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, data) : e;
}

/* The one socket, both ways. */
static int allow_socket(scmp_filter_ctx ctx)
{
    static const int calls[] = {SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(recvfrom)};
    int e = 0;
    for (size_t i = 0; e == 0 && i < sizeof calls / sizeof *calls; i++)
        e = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 1, SCMP_A0(SCMP_CMP_EQ, CAGE_SOCK));
    return e;
}

/* No owner of signals, no seals, no notifications. */
static int allow_fcntl(scmp_filter_ctx ctx)
{
    static const int commands[] = {F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_GETLK, F_SETLK};
    int e = 0;
    for (size_t i = 0; e == 0 && i < sizeof commands / sizeof *commands; i++)
        e = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
            SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, (scmp_datum_t)commands[i]));
    return e;
}

/* Its own limit of CPU time, below the hard one, and stepping back itself. */
static int allow_limits(scmp_filter_ctx ctx)
{
    int e = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(setpriority), 2,
        SCMP_A0(SCMP_CMP_EQ, PRIO_PROCESS), SCMP_A1(SCMP_CMP_EQ, 0));
    return e != 0 ? e
                  : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2, SCMP_A0(SCMP_CMP_EQ, 0),
                        SCMP_A1(SCMP_CMP_EQ, RLIMIT_CPU));
}

/* fork and nothing else of clone: no thread, no namespace, no shared memory. */
static int allow_zygote(scmp_filter_ctx ctx)
{
    int e = 0;
    for (size_t i = 0; e == 0 && i < sizeof zygote_plain / sizeof *zygote_plain; i++)
        e = allow(ctx, zygote_plain[i].number);
    if (e == 0)
        e = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
            SCMP_A0(SCMP_CMP_MASKED_EQ, ~(scmp_datum_t)(CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID), SIGCHLD));
    if (e == 0)
        e = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_PDEATHSIG));
    if (e == 0)
        e = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    /* A worker sets the limits that are its own. */
    return e == 0 ? seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, SCMP_A0(SCMP_CMP_EQ, 0))
                  : e;
}

static int add_rules(scmp_filter_ctx ctx, bool zygote)
{
    int e = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (e == 0)
        e = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    for (size_t i = 0; e == 0 && i < sizeof plain / sizeof *plain; i++)
        e = allow(ctx, plain[i].number);
    for (size_t i = 0; e == 0 && i < sizeof refused / sizeof *refused; i++) {
        e = seccomp_rule_add(ctx, SCMP_ACT_ERRNO((unsigned)refused[i].error), refused[i].call.number, 0);
        e = e == -EDOM ? 0 : e;
    }
    if (e == 0)
        e = allow_memory(ctx);
    if (e == 0)
        e = allow_socket(ctx);
    if (e == 0)
        e = allow_fcntl(ctx);
    if (e == 0)
        e = allow_limits(ctx);
    return e == 0 && zygote ? allow_zygote(ctx) : e;
}

/* libseccomp 2.5 gives programs to descriptors only. */
static int export(scmp_filter_ctx ctx, struct sock_fprog *ret)
{
    int fd = memfd_create("seccomp", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int e = seccomp_export_bpf(ctx, fd);
    off_t size = e == 0 ? lseek(fd, 0, SEEK_END) : 0;
    struct sock_filter *code = size > 0 ? malloc((size_t)size) : NULL;
    if (e == 0 && (code == NULL || pread(fd, code, (size_t)size, 0) != size))
        e = -ENOMEM;
    close(fd);
    if (e != 0) {
        free(code);
        return e;
    }
    *ret = (struct sock_fprog){.len = (unsigned short)((size_t)size / sizeof *code), .filter = code};
    return 0;
}

enum err cage_filter_compile(bool zygote, struct sock_fprog *ret, struct errctx *ec)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (ctx == NULL)
        return err_internal(ec, ERR_UNAVAILABLE, "libseccomp does not start");
    int e = add_rules(ctx, zygote);
    if (e == 0)
        e = export(ctx, ret);
    seccomp_release(ctx);
    return e == 0 ? ERR_OK : err_internal(ec, ERR_UNAVAILABLE, "the list of system calls: %s", strerror(-e));
}
