/* The zygote process as the pool's keeper sees it. One thread. */
#ifndef KALAMDB_ANALYTIC_ZYGOTE_H
#define KALAMDB_ANALYTIC_ZYGOTE_H

#include "analytic/protocol.h"
#include <sys/types.h>

struct zygote {
    pid_t pid;   /* 0: none */
    int control; /* SOCK_SEQPACKET, -1: none */
};
#define ZYGOTE_NONE ((struct zygote){0, -1})

/* The worker program: `given`, else $KALAMDB_WORKER, else beside the running executable (installed together,
 * or in a build tree), else where it is installed. False when there is none. */
bool zygote_find(const char *given, char *ret, size_t size);
/* Starts it with a control socket and nothing else: no descriptors, no environment, signals as default, its
 * own session. Returns at once; READY or FAILED follow on the socket. */
enum err zygote_start(
    const char *path, size_t memory_bytes_max, bool caged, struct zygote *ret, struct errctx *ec) CHECKED;
/* Kills and reaps it; its workers die with it. */
void zygote_end(struct zygote *z);
/* Asks for a worker. Returns our end of its socket, or -1 (errno). */
int zygote_fork(struct zygote *z, uint32_t id);
struct zygote_event {
    struct control control;
    int pidfd;      /* FORKED: ours now; else -1 */
    char text[512]; /* FAILED */
};
/* One message that poll said is there. False: the zygote is gone or talks nonsense. */
bool zygote_read(struct zygote *z, struct zygote_event *ret);

#endif
