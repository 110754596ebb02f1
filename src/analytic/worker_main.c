/* kalamdb-worker: the zygote, and the workers forked from it.
 *
 *   server --posix_spawn--> zygote: opens and warms DuckDB once, then forks on FORK
 *                             |-- worker: serves requests of one user on the socket that came with FORK
 *                             |-- worker …
 *
 * The zygote has one thread and never runs a user's statement. It ends when its control socket does; its
 * workers are then killed by their parent-death signal, so nothing survives the server. Its only descriptors
 * are the control socket and /dev/null; a worker keeps its own socket alone, at the same number. Once the
 * instance is warm the zygote shuts itself into a cage, and each worker into a narrower one (cage.h). */
#include "analytic/cage.h"
#include "analytic/channel.h"
#include "analytic/errmap.h"
#include "analytic/worker.h"
#include "base/err.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTROL_FD CAGE_SOCK
/* Numbers for the slots, for what DuckDB duplicates of them, and some. */
#define DESCRIPTORS_MAX 2048
/* Address space above memory: row files are mapped. */
#define MAPPED_BYTES_MAX (UINT64_C(8) << 30)
#define OUTPUT_BYTES_MAX (UINT64_C(4) << 30)
/* Above DuckDB's own limit: what its scalar functions, the C++ runtime and result frames take without asking
 * it. */
#define MEMORY_SLACK_BYTES (64u << 20)

/* Sanitizer builds: DuckDB keeps its instance to the end, and workers end by _exit or a signal. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0:allocator_may_return_null=1";
}

/* A machine out of memory takes the fattest worker, never the server. The zygote sets it for all of them:
 * each weighs what the zygote does, and its own query. */
static void volunteer_for_oom(void)
{
    FILE *f = fopen("/proc/self/oom_score_adj", "we");
    if (f != NULL) {
        /* Best effort: a container may not let us. */
        fputs("1000", f);
        fclose(f);
    }
}

/* What this process has already, in bytes: address space and private writable memory, the first and the sixth
 * number of statm. The zygote measures, before it can open nothing any more; its forks begin with the same.
 */
static void measure(uint64_t *ret_space, uint64_t *ret_data)
{
    unsigned long pages[6] = {0};
    FILE *f = fopen("/proc/self/statm", "re");
    if (f == NULL)
        return;
    int n = fscanf(
        f, "%lu %lu %lu %lu %lu %lu", &pages[0], &pages[1], &pages[2], &pages[3], &pages[4], &pages[5]);
    fclose(f);
    if (n == 6) {
        *ret_space = pages[0] * (uint64_t)sysconf(_SC_PAGESIZE);
        *ret_data = pages[5] * (uint64_t)sysconf(_SC_PAGESIZE);
    }
}

/* CPU time after which a statement counts as long, and what it yields to then. */
#define LONG_US 100000
#define LONG_NICE 10
static volatile sig_atomic_t lowered; /* set by the handler below, read by the same thread */

static void lower(int sig)
{
    int error = errno;
    (void)sig;
    setpriority(PRIO_PROCESS, 0, LONG_NICE);
    lowered = 1;
    errno = error;
}

bool worker_stepped_back(void)
{
    return lowered != 0;
}

/* A statement that computes for long steps behind those that do not, so that one user's bombs are not felt in
 * another's small statements. A process cannot climb back by itself: the worker is retired afterwards. */
static void watch_length(bool on)
{
    struct itimerval t = {.it_value.tv_usec = on ? LONG_US : 0};
    setitimer(ITIMER_PROF, &t, NULL);
}

static bool limit(enum __rlimit_resource what, uint64_t max)
{
    struct rlimit now, l = {max, max};
    if (getrlimit(what, &now) != 0)
        return false;
    if (l.rlim_max > now.rlim_max)
        l.rlim_cur = l.rlim_max = now.rlim_max;
    return setrlimit(what, &l) == 0;
}

/* Memory is DATA, where the request's mapped files do not count; AS bounds those. */
static bool limit_all(const struct worker *w)
{
    uint64_t more = w->memory_bytes_max + w->memory_bytes_max / 4 + MEMORY_SLACK_BYTES;
    uint64_t output = (uint64_t)w->memory_bytes_max * 4;
    /* Over the limit of a file's size is an error, as a full disk is. */
    signal(SIGXFSZ, SIG_IGN);
    struct sigaction prof = {.sa_handler = lower, .sa_flags = SA_RESTART};
    sigaction(SIGPROF, &prof, NULL);
    return limit(RLIMIT_DATA, w->data_bytes + more) &&
           limit(RLIMIT_AS, w->space_bytes + more + MAPPED_BYTES_MAX) &&
           limit(RLIMIT_FSIZE, output > OUTPUT_BYTES_MAX ? output : OUTPUT_BYTES_MAX) &&
           limit(RLIMIT_NOFILE, DESCRIPTORS_MAX) && limit(RLIMIT_NPROC, 0) &&
           /* A core would hold a user's rows. */
           limit(RLIMIT_CORE, 0);
}

/* A second bound beside the server's clock: should the server stop looking, the kernel ends the query. Only
 * the soft limit moves, so that the next request can have its own. */
static void limit_cpu(uint64_t timeout_ms)
{
    struct rusage used;
    struct rlimit cpu;
    if (getrusage(RUSAGE_SELF, &used) != 0 || getrlimit(RLIMIT_CPU, &cpu) != 0)
        return;
    rlim_t spent = (rlim_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec);
    cpu.rlim_cur = timeout_ms == 0 ? RLIM_INFINITY : spent + timeout_ms / 1000 + 3;
    setrlimit(RLIMIT_CPU, &cpu);
}

/* The numbers of the slots must stay free for them. */
static bool move_above_slots(int *fds, int nfds)
{
    bool good = true;
    for (int i = 0; i < nfds; i++)
        if (fds[i] >= WORKER_FD_BASE && fds[i] < WORKER_FD_BASE + WORKER_SLOTS) {
            int above = fcntl(fds[i], F_DUPFD_CLOEXEC, WORKER_FD_BASE + WORKER_SLOTS);
            close(fds[i]);
            fds[i] = above;
            good = good && above >= 0;
        }
    return good;
}

/* Reads one REQUEST. False at the end of the socket or on nonsense, after which the worker ends. */
static bool read_request(int sock, struct buf *body, int fds[PROTO_FDS_MAX], int *ret_nfds)
{
    uint8_t header[PROTO_HEADER_BYTES];
    int nfds = 0;
    int64_t got = channel_recv_fds(sock, header, sizeof header, fds, PROTO_FDS_MAX, &nfds);
    if (got <= 0 || !move_above_slots(fds, nfds))
        return false;
    struct frame_header h;
    if (((size_t)got < sizeof header &&
            channel_recv(sock, header + got, sizeof header - (size_t)got, CHANNEL_NO_DEADLINE) != 0) ||
        proto_header(header, &h) != ERR_OK || h.type != FRAME_REQUEST)
        return false;
    buf_clear(body);
    char *p = buf_reserve(body, h.body_bytes);
    if (p == NULL || channel_recv(sock, p, h.body_bytes, CHANNEL_NO_DEADLINE) != 0)
        return false;
    body->len = h.body_bytes;
    *ret_nfds = nfds;
    return true;
}

/* Who the worker belongs to, from its first request on. */
static bool same_user(struct buf *user, bool *claimed, struct str id)
{
    if (!*claimed) {
        buf_str(user, id);
        *claimed = !user->failed;
        return *claimed;
    }
    return str_eq(buf_view(user), id);
}

/* Runs one request and answers it. False when the worker should end. */
static bool serve_one(struct worker *w, int sock, const struct analytic_request *rq)
{
    struct errctx ec;
    errctx_clear(&ec);
    bool gone = false;
    w->rq = rq;
    w->corrupt = false;
    w->retiring = false;
    limit_cpu((uint64_t)rq->timeout_ms);
    watch_length(true);
    enum err e = worker_scan_open(w, &ec);
    if (e == ERR_OK)
        e = worker_result_run(w, sock, &gone, &ec);
    watch_length(false);
    if (gone)
        return false;
    bool stay = true;
    if (e != ERR_OK) {
        stay = !errmap_retires(e) && !worker_stepped_back();
        struct buf frame = BUF_INIT(1u << 20);
        ec.code = e;
        proto_put_error(&frame, &ec, !stay);
        stay =
            !frame.failed && channel_send(sock, buf_view(&frame), NULL, 0, CHANNEL_NO_DEADLINE) == 0 && stay;
        buf_release(&frame);
    }
    /* After the answer, so that its caller does not wait for it. */
    stay = stay && worker_duckdb_reconnect(w, &ec) == ERR_OK;
    worker_scan_close(w);
    w->rq = NULL;
    worker_files_done(w, rq);
    return stay && !worker_files_exhausted(w) && !w->retiring;
}

static void serve(struct worker *w, int sock)
{
    struct buf body = BUF_INIT(PROTO_REQUEST_MAX), user = BUF_INIT(1024);
    struct arena arena;
    bool claimed = false;
    int fds[PROTO_FDS_MAX], nfds = 0;
    arena_init(&arena, PROTO_REQUEST_MAX);
    while (read_request(sock, &body, fds, &nfds)) {
        struct analytic_request rq;
        arena_clear(&arena);
        if (proto_get_request(&arena, buf_view(&body), nfds, &rq) != ERR_OK ||
            !same_user(&user, &claimed, rq.user_id) || !worker_files_place(w, &rq, fds, nfds) ||
            !serve_one(w, sock, &rq))
            break;
    }
}

/* In the child, which is left with /dev/null and the one socket. */
static _Noreturn void become_worker(struct worker *w, const struct cage *cage, int sock, pid_t zygote)
{
    struct errctx ec;
    errctx_clear(&ec);
    prctl(PR_SET_NAME, "kalamdb-query");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* The zygote died before the line above took effect. */
    if (getppid() != zygote || dup3(sock, CAGE_SOCK, O_CLOEXEC) < 0)
        _exit(1);
    close(sock);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (!limit_all(w) || (cage != NULL && cage_worker(cage, &ec) != ERR_OK))
        _exit(1);
    if (worker_duckdb_reconnect(w, &ec) == ERR_OK)
        serve(w, CAGE_SOCK);
    /* No destructors: the instance is a copy, and there is nothing on disk to leave in order. */
    _exit(0);
}

static bool send_control(struct control c, int fd, const char *text)
{
    uint8_t bytes[CONTROL_BYTES + 600];
    size_t n = strnlen(text, 600);
    control_put(bytes, c);
    memcpy(bytes + CONTROL_BYTES, text, n);
    return channel_send(CONTROL_FD, str_n((char *)bytes, CONTROL_BYTES + n), &fd, fd >= 0 ? 1 : 0,
               CHANNEL_NO_DEADLINE) == 0;
}

/* Serves one FORK. False when the server is gone or speaks nonsense. */
static bool fork_one(struct worker *w, const struct cage *cage, int signals)
{
    uint8_t bytes[CONTROL_BYTES];
    struct control c;
    int sock = -1, nfds = 0;
    int64_t n = channel_recv_fds(CONTROL_FD, bytes, sizeof bytes, &sock, 1, &nfds);
    if (n <= 0 || control_get(str_n((char *)bytes, (size_t)n), &c) != ERR_OK || c.type != CONTROL_FORK ||
        nfds != 1)
        return false;
    pid_t zygote = getpid(), pid = fork();
    if (pid == 0) {
        close(signals);
        become_worker(w, cage, sock, zygote);
    }
    int error = errno;
    close(sock);
    /* Not reaped before this: the number cannot mean another process. */
    int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (pidfd < 0) {
        /* A child without a number for the server ends when it finds its socket closed. */
        error = pid > 0 ? errno : error;
        return send_control((struct control){CONTROL_FORK_FAILED, c.id, (uint32_t)error}, -1, "");
    }
    bool sent = send_control((struct control){CONTROL_FORKED, c.id, (uint32_t)pid}, pidfd, "");
    close(pidfd);
    return sent;
}

/* False when the server is gone. */
static bool reap(int signals)
{
    int status;
    bool there = true;
    struct signalfd_siginfo si;
    ssize_t n = read(signals, &si, sizeof si);
    (void)n;
    while (waitpid(-1, &status, WNOHANG) > 0)
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
            there = send_control((struct control){CONTROL_EXPELLED, 0, 0}, -1, "") && there;
    return there;
}

static void zygote_loop(struct worker *w, const struct cage *cage, int signals)
{
    for (;;) {
        struct pollfd p[2] = {{.fd = CONTROL_FD, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return;
        if (p[1].revents != 0 && !reap(signals))
            return;
        if (p[0].revents != 0 && !fork_one(w, cage, signals))
            return;
    }
}

/* From here on the process opens nothing. */
static enum err close_cage(struct cage *cage, struct errctx *ec)
{
    enum err e = cage_prepare(cage, ec);
    if (e == ERR_OK)
        e = cage_zygote(cage, ec);
    return e == ERR_OK ? cage_prove(cage, ec) : e;
}

/* An instance that is warm, and a cage around it unless the server wants none. */
static enum err get_ready(struct worker *w, struct cage *cage, bool caged, struct errctx *ec)
{
    enum err e = worker_duckdb_open(w, ec);
    if (e != ERR_OK)
        return e;
    measure(&w->space_bytes, &w->data_bytes);
    if (caged && close_cage(cage, ec) != ERR_OK) {
        err_path(ec, "the cage around query workers cannot be built (worker_cage: off runs them without)");
        return ERR_UNAVAILABLE;
    }
    return ERR_OK;
}

int main(int argc, char **argv)
{
    static struct worker w;
    static struct cage cage;
    int type = 0;
    socklen_t len = sizeof type;
    if (getsockopt(CONTROL_FD, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_SEQPACKET ||
        argc != 3) {
        fprintf(stderr, "kalamdb-worker is started by the server and by nobody else\n");
        return 2;
    }
    fcntl(CONTROL_FD, F_SETFD, FD_CLOEXEC);
    prctl(PR_SET_NAME, "kalamdb-zygote");
    /* Not to hold the server's folder, whatever it was started in. */
    if (chdir("/") != 0)
        return 2;
    /* The environment came empty. libc would look for a file that says where we are. */
    setenv("TZ", "UTC", 1);
    volunteer_for_oom();
    w.memory_bytes_max = (size_t)strtoull(argv[1], NULL, 10);
    bool caged = strcmp(argv[2], "uncaged") != 0;
    sigset_t chld;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_SETMASK, &chld, NULL);
    int signals = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
    struct errctx ec;
    errctx_clear(&ec);
    if (signals < 0 || get_ready(&w, &cage, caged, &ec) != ERR_OK) {
        send_control((struct control){CONTROL_FAILED, 0, 0}, -1, ec.internal);
        return 1;
    }
    if (!send_control((struct control){CONTROL_READY, 0, (uint32_t)cage.landlock_abi}, -1, ""))
        return 1;
    zygote_loop(&w, caged ? &cage : NULL, signals);
    return 0;
}
