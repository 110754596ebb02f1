#include "analytic/zygote.h"
#include "analytic/channel.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef KALAMDB_WORKER_INSTALLED
#define KALAMDB_WORKER_INSTALLED "/usr/local/libexec/kalamdb/kalamdb-worker"
#endif

static bool is_program(const char *path)
{
    return access(path, X_OK) == 0;
}

bool zygote_find(const char *given, char *ret, size_t size)
{
    const char *env = given != NULL ? given : secure_getenv("KALAMDB_WORKER");
    if (env != NULL && env[0] != '\0')
        return (size_t)snprintf(ret, size, "%s", env) < size && is_program(ret);
    static const char *const beside[] = {"kalamdb-worker", "../analytic/kalamdb-worker",
        "../src/analytic/kalamdb-worker", "../libexec/kalamdb/kalamdb-worker"};
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe);
    while (n > 0 && exe[n - 1] != '/')
        n--;
    for (size_t i = 0; n > 0 && (size_t)n < sizeof exe && i < sizeof beside / sizeof *beside; i++)
        if ((size_t)snprintf(ret, size, "%.*s%s", (int)n, exe, beside[i]) < size && is_program(ret))
            return true;
    return (size_t)snprintf(ret, size, "%s", KALAMDB_WORKER_INSTALLED) < size && is_program(ret);
}

/* 0 or an errno. */
static int spawn(const char *path, char *memory, char *cage, int control, pid_t *ret)
{
    char name[] = "kalamdb-worker";
    char *argv[] = {name, memory, cage, NULL}, *envp[] = {NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int e = posix_spawn_file_actions_init(&files);
    if (e != 0)
        return e;
    e = posix_spawnattr_init(&attr);
    if (e == 0) {
        /* A queries' worker has nothing to say that may be logged: its stderr could quote rows. */
        e = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
        e = e != 0 ? e : posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
        e = e != 0 ? e : posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
        e = e != 0 ? e : posix_spawn_file_actions_adddup2(&files, control, 3);
        e = e != 0 ? e : posix_spawn_file_actions_addclosefrom_np(&files, 4);
        e = e != 0 ? e : posix_spawnattr_setsigmask(&attr, &none);
        e = e != 0 ? e : posix_spawnattr_setsigdefault(&attr, &all);
        e = e != 0 ? e
                   : posix_spawnattr_setflags(
                         &attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
        e = e != 0 ? e : posix_spawn(ret, path, &files, &attr, argv, envp);
        posix_spawnattr_destroy(&attr);
    }
    posix_spawn_file_actions_destroy(&files);
    return e;
}

enum err zygote_start(
    const char *path, size_t memory_bytes_max, bool caged, struct zygote *ret, struct errctx *ec)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return err_internal(ec, ERR_UNAVAILABLE, "socketpair: %s", strerror(errno));
    char memory[32], cage[16];
    snprintf(memory, sizeof memory, "%zu", memory_bytes_max);
    snprintf(cage, sizeof cage, "%s", caged ? "caged" : "uncaged");
    pid_t pid = 0;
    /* dup2 of a descriptor onto itself would keep close-on-exec; a server has 3 taken long before, a test may
     * not. */
    int control = pair[1] == 3 ? fcntl(pair[1], F_DUPFD_CLOEXEC, 4) : pair[1];
    int e = control < 0 ? errno : spawn(path, memory, cage, control, &pid);
    if (control != pair[1] && control >= 0)
        close(control);
    close(pair[1]);
    if (e != 0) {
        close(pair[0]);
        return err_internal(ec, ERR_UNAVAILABLE, "start %s: %s", path, strerror(e));
    }
    *ret = (struct zygote){pid, pair[0]};
    return ERR_OK;
}

void zygote_end(struct zygote *z)
{
    if (z->control >= 0)
        close(z->control);
    if (z->pid > 0) {
        /* Not reaped yet, so the number is still its own. */
        kill(z->pid, SIGKILL);
        while (waitpid(z->pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    *z = ZYGOTE_NONE;
}

int zygote_fork(struct zygote *z, uint32_t id)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return -1;
    uint8_t bytes[CONTROL_BYTES];
    control_put(bytes, (struct control){CONTROL_FORK, id, 0});
    /* A full queue means a stuck zygote: its deadline is short, and its end begins a new one. */
    int e =
        channel_send(z->control, str_n((char *)bytes, sizeof bytes), &pair[1], 1, channel_now_us() + 1000000);
    close(pair[1]);
    if (e != 0) {
        close(pair[0]);
        errno = -e;
        return -1;
    }
    return pair[0];
}

bool zygote_read(struct zygote *z, struct zygote_event *ret)
{
    uint8_t bytes[CONTROL_BYTES + sizeof ret->text];
    int fd = -1, nfds = 0;
    int64_t n = channel_recv_fds(z->control, bytes, sizeof bytes, &fd, 1, &nfds);
    if (n <= 0)
        return false;
    struct zygote_event ev = {.pidfd = nfds == 1 ? fd : -1};
    size_t text = (size_t)n > CONTROL_BYTES ? (size_t)n - CONTROL_BYTES : 0;
    if (control_get(str_n((char *)bytes, (size_t)n - text), &ev.control) != ERR_OK ||
        (ev.control.type == CONTROL_FORKED) != (nfds == 1)) {
        if (nfds == 1)
            close(fd);
        return false;
    }
    text = text < sizeof ev.text ? text : sizeof ev.text - 1;
    memcpy(ev.text, bytes + CONTROL_BYTES, text);
    ev.text[text] = '\0';
    *ret = ev;
    return true;
}
