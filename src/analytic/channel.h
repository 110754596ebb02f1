/* Frames and descriptors over a socket. Blocking with a deadline, EINTR and short transfers handled, never
 * SIGPIPE. Both programs use it. One thread per socket at a time; nothing is owned. */
#ifndef KALAMDB_ANALYTIC_CHANNEL_H
#define KALAMDB_ANALYTIC_CHANNEL_H

#include "base/str.h"

#define CHANNEL_NO_DEADLINE INT64_MAX

/* Deadlines are of this clock. */
int64_t channel_now_us(void);

/* All of the bytes, descriptors attached to the first. 0, -ETIMEDOUT, or -errno (-EPIPE: the other side is
 * gone). */
int channel_send(int sock, struct str bytes, const int *fds, int nfds, int64_t deadline_us);
/* Exactly n bytes. 0, -ETIMEDOUT, -ECONNRESET when the other side ended, or -errno. */
int channel_recv(int sock, void *p, size_t n, int64_t deadline_us);
/* One recvmsg: up to n bytes and up to fds_max descriptors, which become the caller's (close-on-exec).
 * Returns bytes (0: the other side ended) or -errno; -EPROTO, with every descriptor closed, when more came
 * than fit. */
int64_t channel_recv_fds(int sock, void *p, size_t n, int *fds, int fds_max, int *ret_nfds);

#endif
