/* A worker whose native code has gone bad, for native_test.c: the worker program as it is shipped, but what
 * runs a statement is this file. It makes system calls itself, past libc and past everything that the program
 * keeps DuckDB from, and says what the kernel answered: 0 when the attack worked, else its errno.
 *
 * A statement is the attack's name and up to two arguments, divided by blanks. */
#include "analytic/channel.h"
#include "analytic/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

struct attack {
    const char *name;
    long (*run)(const char *text, long number);
};

static char scratch[65536];

static long open_read(const char *path, long n)
{
    (void)n;
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY);
    return fd < 0 ? fd : syscall(SYS_read, fd, scratch, sizeof scratch) >= 0 ? 0 : -1;
}
static long open_write(const char *path, long n)
{
    (void)n;
    return syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT, 0600);
}
static long open_path(const char *path, long n)
{
    (void)n;
    return syscall(SYS_openat, AT_FDCWD, path, O_PATH);
}
static long open_how(const char *path, long n)
{
    uint64_t how[3] = {O_RDONLY};
    (void)n;
    return syscall(SYS_openat2, AT_FDCWD, path, how, sizeof how);
}
static long look(const char *path, long n)
{
    (void)n;
    return syscall(SYS_newfstatat, AT_FDCWD, path, scratch, 0);
}
static long statx_path(const char *path, long n)
{
    (void)n;
    return syscall(SYS_statx, AT_FDCWD, path, 0, 0x7ff, scratch);
}
static long faccess(const char *path, long n)
{
    (void)n;
    return syscall(SYS_faccessat, AT_FDCWD, path, R_OK);
}
static long read_link(const char *path, long n)
{
    (void)n;
    return syscall(SYS_readlinkat, AT_FDCWD, path, scratch, sizeof scratch);
}
static long remove_file(const char *path, long n)
{
    (void)n;
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
static long make_dir(const char *path, long n)
{
    (void)n;
    return syscall(SYS_mkdirat, AT_FDCWD, path, 0700);
}
static long change_dir(const char *path, long n)
{
    (void)n;
    return syscall(SYS_chdir, path);
}
static long change_root(const char *path, long n)
{
    (void)n;
    return syscall(SYS_chroot, path);
}
static long handle(const char *path, long n)
{
    int mount = 0;
    (void)n;
    return syscall(SYS_name_to_handle_at, AT_FDCWD, path, scratch, &mount, 0);
}
static long watch(const char *path, long n)
{
    (void)path, (void)n;
    return syscall(SYS_inotify_init1, 0);
}

static long dial(int family, const void *address, socklen_t size)
{
    int fd = (int)syscall(SYS_socket, family, SOCK_STREAM, 0);
    return fd < 0 ? -1 : syscall(SYS_connect, fd, address, size);
}
static long connect_tcp(const char *text, long port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    (void)text;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return dial(AF_INET, &to, sizeof to);
}
static long connect_unix(const char *path, long n)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    (void)n;
    snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
    return dial(AF_UNIX, &to, sizeof to);
}
static long connect_abstract(const char *name, long n)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    (void)n;
    snprintf(to.sun_path + 1, sizeof to.sun_path - 1, "%s", name);
    return dial(AF_UNIX, &to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name)));
}
static long bind_tcp(const char *text, long n)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    (void)text, (void)n;
    int fd = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    return fd < 0 ? -1 : syscall(SYS_bind, fd, &at, sizeof at);
}
static long bind_own(const char *text, long n)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    (void)text, (void)n;
    return syscall(SYS_bind, 3, &at, sizeof at.sun_family);
}
static long udp(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_socket, AF_INET, SOCK_DGRAM, 0);
}
static long netlink(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_socket, AF_NETLINK, SOCK_RAW, 0);
}
static long socket_pair(const char *text, long n)
{
    int fds[2];
    (void)text, (void)n;
    return syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, fds);
}
static long send_elsewhere(const char *text, long n)
{
    struct msghdr m = {0};
    (void)text, (void)n;
    return syscall(SYS_sendmsg, 1900, &m, 0);
}

static long exec_path(const char *path, long n)
{
    char *argv[] = {scratch, NULL}, *envp[] = {NULL};
    (void)n;
    return syscall(SYS_execve, path, argv, envp);
}
static long exec_memfd(const char *text, long n)
{
    char *argv[] = {scratch, NULL}, *envp[] = {NULL};
    (void)text, (void)n;
    int fd = (int)syscall(SYS_memfd_create, "x", 0);
    return fd < 0 ? -1 : syscall(SYS_execveat, fd, "", argv, envp, AT_EMPTY_PATH);
}
/* Of a file that it was handed. */
static long exec_fd(const char *text, long n)
{
    char *argv[] = {scratch, NULL}, *envp[] = {NULL};
    (void)text;
    return syscall(SYS_execveat, n, "", argv, envp, AT_EMPTY_PATH);
}
static long memfd(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_memfd_create, "x", 0);
}
static long do_fork(const char *text, long n)
{
    (void)text, (void)n;
    long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    return pid;
}
static long do_clone3(const char *text, long n)
{
    uint64_t args[8] = {[4] = SIGCHLD};
    (void)text, (void)n;
    long pid = syscall(SYS_clone3, args, sizeof args);
    if (pid == 0)
        _exit(0);
    return pid;
}
static long new_namespace(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS);
}
static long enter_namespace(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_setns, 3, 0);
}

static long trace(const char *text, long pid)
{
    (void)text;
    return syscall(SYS_ptrace, PTRACE_SEIZE, pid, 0, 0);
}
static long trace_me(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0);
}
static long read_memory(const char *address, long pid)
{
    struct iovec here = {scratch, 64}, there = {(void *)(uintptr_t)strtoull(address, NULL, 16), 64};
    return syscall(SYS_process_vm_readv, pid, &here, 1, &there, 1, 0) < 0 ? -1 : 0;
}
static long write_memory(const char *address, long pid)
{
    struct iovec here = {scratch, 1}, there = {(void *)(uintptr_t)strtoull(address, NULL, 16), 1};
    return syscall(SYS_process_vm_writev, pid, &here, 1, &there, 1, 0) < 0 ? -1 : 0;
}
static long compare(const char *text, long pid)
{
    (void)text;
    return syscall(SYS_kcmp, getpid(), pid, 0, 3, 3) < 0 ? -1 : 0;
}
/* Harmless where it works: signal 0 asks for leave only. */
static long do_kill(const char *text, long pid)
{
    (void)text;
    return syscall(SYS_kill, pid, 0);
}
static long do_tgkill(const char *text, long pid)
{
    (void)text;
    return syscall(SYS_tgkill, pid, pid, 0);
}
static long do_tkill(const char *text, long pid)
{
    (void)text;
    return syscall(SYS_tkill, pid, 0);
}
static long queue_signal(const char *text, long pid)
{
    (void)text;
    memset(scratch, 0, 128);
    return syscall(SYS_rt_sigqueueinfo, pid, 0, scratch);
}
static long open_pidfd(const char *text, long pid)
{
    (void)text;
    return syscall(SYS_pidfd_open, pid, 0);
}
static long steal_fd(const char *text, long pid)
{
    (void)text;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return fd < 0 ? -1 : syscall(SYS_pidfd_getfd, fd, 3, 0);
}
/* Whatever is at the number: a worker holds no pidfd of anybody. */
static long steal_by_number(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_pidfd_getfd, 3, 3, 0);
}
static long signal_by_number(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_pidfd_send_signal, 3, 0, NULL, 0);
}
static long prio(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_setpriority, PRIO_USER, 0, 0);
}
static long affinity(const char *text, long pid)
{
    unsigned long mask = 1;
    (void)text;
    return syscall(SYS_sched_setaffinity, pid, sizeof mask, &mask);
}
static long limits_of(const char *text, long pid)
{
    (void)text;
    return syscall(SYS_prlimit64, pid, RLIMIT_NOFILE, NULL, scratch);
}
static long more_memory(const char *text, long n)
{
    struct rlimit l = {RLIM_INFINITY, RLIM_INFINITY};
    (void)text, (void)n;
    return syscall(SYS_prlimit64, 0, RLIMIT_DATA, &l, NULL);
}

static long map(int protection, int flags, int fd)
{
    return syscall(SYS_mmap, NULL, 4096, protection, flags, fd, 0) == -1 ? -1 : 0;
}
static long map_code(const char *text, long n)
{
    (void)text, (void)n;
    return map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}
static long map_file_code(const char *text, long fd)
{
    (void)text;
    return map(PROT_READ | PROT_EXEC, MAP_PRIVATE, (int)fd);
}
static long map_shared(const char *text, long n)
{
    (void)text, (void)n;
    return map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
}
static long protect_code(const char *text, long n)
{
    (void)text, (void)n;
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return syscall(SYS_mprotect, p, 4096, PROT_READ | PROT_EXEC);
}
static long protect_key(const char *text, long n)
{
    (void)text, (void)n;
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return syscall(SYS_pkey_mprotect, p, 4096, PROT_READ | PROT_EXEC, -1);
}
static long shared_segment(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_shmget, 0, 4096, 01600);
}

static long do_mount(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, NULL);
}
static long open_tree(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_open_tree, AT_FDCWD, "/", 1);
}
static long do_bpf(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_bpf, 0, scratch, 64);
}
static long perf(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_perf_event_open, scratch, 0, -1, -1, 0);
}
static long uring(const char *text, long n)
{
    (void)text, (void)n;
    memset(scratch, 0, 256);
    return syscall(SYS_io_uring_setup, 4, scratch);
}
static long fault(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_userfaultfd, 0);
}
static long key(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0, 0, 0);
}
static long load_module(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_finit_module, 3, "", 0);
}
static long clock_set(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_clock_settime, 99, scratch);
}
static long system_name(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_uname, scratch);
}
static long kernel_log(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_syslog, 3, scratch, 100);
}
static long become_root(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_setuid, 0);
}
static long capabilities(const char *text, long n)
{
    uint32_t header[2] = {0x20080522, 0};
    (void)text, (void)n;
    return syscall(SYS_capget, header, scratch);
}
static long dumpable(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
}
static long outlive(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0);
}
static long another_filter(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_seccomp, 2, 0, scratch);
}
static long execute_readable(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_personality, 0x0400000);
}
static long terminal(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_ioctl, 0, 0x5412, "x");
}
static long own_signals(const char *text, long pid)
{
    (void)text;
    return syscall(SYS_fcntl, 3, F_SETOWN, pid);
}
static long seal(const char *text, long fd)
{
    (void)text;
    return syscall(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_SEAL);
}
static long new_session(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_setsid) < 0 ? -1 : 0;
}
static long pour(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_sendfile, 3, 0, NULL, 1);
}

static int input_fd;
static long write_input(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_pwrite64, input_fd, "x", 1, 0);
}
static long cut_input(const char *text, long n)
{
    (void)text, (void)n;
    return syscall(SYS_ftruncate, input_fd, 0);
}
static long map_input(const char *text, long n)
{
    (void)text, (void)n;
    return map(PROT_READ | PROT_WRITE, MAP_SHARED, input_fd);
}
static long reopen_input(const char *text, long n)
{
    char path[64];
    (void)text, (void)n;
    snprintf(path, sizeof path, "/proc/self/fd/%d", input_fd);
    return syscall(SYS_openat, AT_FDCWD, path, O_RDWR);
}
/* /dev/null thrice, the socket, the file of its request, and nothing else. A worker that did not open things
 * in an attack before. */
static long count_descriptors(const char *text, long n)
{
    (void)text, (void)n;
    long count = 0;
    for (int fd = 0; fd < 2048; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    errno = (int)count;
    return count == 5 ? 0 : -1;
}
extern char **environ;
static long count_environment(const char *text, long n)
{
    (void)text, (void)n;
    long count = 0;
    for (char **e = environ; e != NULL && *e != NULL; e++)
        count += strcmp(*e, "TZ=UTC") != 0;
    errno = 1;
    return count == 0 ? 0 : -1;
}
static long other_numbers(const char *text, long n)
{
    (void)text, (void)n;
#ifdef __x86_64__
    return syscall(0x40000000L + SYS_getpid);
#else
    abort();
#endif
}
static long other_architecture(const char *text, long n)
{
    (void)text, (void)n;
    long r = -1;
#ifdef __x86_64__
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(20L) : "memory");
#else
    abort();
#endif
    return r;
}
static long give_up(const char *text, long n)
{
    (void)text, (void)n;
    abort();
}

static const struct attack attacks[] = {{"open_read", open_read}, {"open_write", open_write},
    {"open_path", open_path}, {"open_how", open_how}, {"look", look}, {"statx", statx_path},
    {"faccess", faccess}, {"read_link", read_link}, {"remove_file", remove_file}, {"make_dir", make_dir},
    {"change_dir", change_dir}, {"change_root", change_root}, {"handle", handle}, {"watch", watch},
    {"connect_tcp", connect_tcp}, {"connect_unix", connect_unix}, {"connect_abstract", connect_abstract},
    {"bind_tcp", bind_tcp}, {"bind_own", bind_own}, {"udp", udp}, {"netlink", netlink},
    {"socket_pair", socket_pair}, {"send_elsewhere", send_elsewhere}, {"exec_path", exec_path},
    {"exec_memfd", exec_memfd}, {"exec_fd", exec_fd}, {"memfd", memfd}, {"fork", do_fork},
    {"clone3", do_clone3}, {"new_namespace", new_namespace}, {"enter_namespace", enter_namespace},
    {"trace", trace}, {"trace_me", trace_me}, {"read_memory", read_memory}, {"write_memory", write_memory},
    {"compare", compare}, {"kill", do_kill}, {"tgkill", do_tgkill}, {"tkill", do_tkill},
    {"queue_signal", queue_signal}, {"open_pidfd", open_pidfd}, {"steal_fd", steal_fd},
    {"steal_by_number", steal_by_number}, {"signal_by_number", signal_by_number}, {"prio", prio},
    {"affinity", affinity}, {"limits_of", limits_of}, {"more_memory", more_memory}, {"map_code", map_code},
    {"map_file_code", map_file_code}, {"map_shared", map_shared}, {"protect_code", protect_code},
    {"protect_key", protect_key}, {"shared_segment", shared_segment}, {"mount", do_mount},
    {"open_tree", open_tree}, {"bpf", do_bpf}, {"perf", perf}, {"uring", uring}, {"fault", fault},
    {"key", key}, {"load_module", load_module}, {"clock_set", clock_set}, {"system_name", system_name},
    {"kernel_log", kernel_log}, {"become_root", become_root}, {"capabilities", capabilities},
    {"dumpable", dumpable}, {"outlive", outlive}, {"another_filter", another_filter},
    {"execute_readable", execute_readable}, {"terminal", terminal}, {"own_signals", own_signals},
    {"seal", seal}, {"new_session", new_session}, {"pour", pour}, {"write_input", write_input},
    {"cut_input", cut_input}, {"map_input", map_input}, {"reopen_input", reopen_input},
    {"count_descriptors", count_descriptors}, {"count_environment", count_environment},
    {"other_numbers", other_numbers}, {"other_architecture", other_architecture}, {"give_up", give_up}};

static int64_t run(struct str statement)
{
    char line[512], name[64] = "", text[400] = "";
    long number = 0;
    snprintf(line, sizeof line, "%.*s", STR_FMT(statement));
    sscanf(line, "%63s %ld %399s", name, &number, text);
    if (strcmp(name, "pid") == 0)
        return getpid();
    for (size_t i = 0; i < sizeof attacks / sizeof *attacks; i++)
        if (strcmp(attacks[i].name, name) == 0)
            return attacks[i].run(text, number) < 0 ? errno : 0;
    return -1;
}

enum err worker_result_run(struct worker *w, int sock, bool *ret_gone, struct errctx *ec)
{
    static const struct str name = {"errno", 5};
    static const enum value_type type = VALUE_BIGINT;
    (void)ec;
    input_fd = w->rq->ninputs > 0 ? w->rq->inputs[0].rows_fd : -1;
    int64_t answer = run(w->rq->sql);
    struct buf out = BUF_INIT(4096);
    proto_put_columns(&out, 1, &name, &type);
    size_t at = proto_begin(&out, FRAME_ROWS);
    proto_put_value(&out, value_i64(answer));
    proto_end(&out, at);
    proto_put_done(&out, (struct proto_done){.rows = 1});
    *ret_gone = channel_send(sock, buf_view(&out), NULL, 0, CHANNEL_NO_DEADLINE) != 0;
    buf_release(&out);
    return ERR_OK;
}
