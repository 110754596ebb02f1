#include "analytic/channel.h"
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FDS_PER_MESSAGE_MAX 253

int64_t channel_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* 0 when the socket is ready (or has ended, which the next call then says). */
static int wait_for(int sock, short events, int64_t deadline_us)
{
    for (;;) {
        int ms = -1;
        if (deadline_us != CHANNEL_NO_DEADLINE) {
            int64_t left_us = deadline_us - channel_now_us();
            if (left_us <= 0)
                return -ETIMEDOUT;
            /* Rounded up, or the last fraction of a millisecond would spin. */
            ms = left_us > 1000000000 ? 1000000 : (int)((left_us + 999) / 1000);
        }
        struct pollfd p = {.fd = sock, .events = events};
        int n = poll(&p, 1, ms);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

int channel_send(int sock, struct str bytes, const int *fds, int nfds, int64_t deadline_us)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FDS_PER_MESSAGE_MAX * sizeof(int))];
    } control;
    if (nfds > FDS_PER_MESSAGE_MAX)
        return -E2BIG;
    for (size_t done = 0; done < bytes.len;) {
        struct iovec iov = {(void *)(uintptr_t)(bytes.ptr + done), bytes.len - done};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
        if (done == 0 && nfds > 0) {
            memset(&control, 0, sizeof control);
            m.msg_control = control.bytes;
            m.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
            memcpy(CMSG_DATA(c), fds, (size_t)nfds * sizeof(int));
        }
        ssize_t n = sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            done += (size_t)n;
        } else if (errno == EAGAIN) {
            int e = wait_for(sock, POLLOUT, deadline_us);
            if (e != 0)
                return e;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int channel_recv(int sock, void *p, size_t n, int64_t deadline_us)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = recv(sock, (char *)p + done, n - done, MSG_DONTWAIT);
        if (got > 0) {
            done += (size_t)got;
        } else if (got == 0) {
            return -ECONNRESET;
        } else if (errno == EAGAIN) {
            int e = wait_for(sock, POLLIN, deadline_us);
            if (e != 0)
                return e;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int64_t channel_recv_fds(int sock, void *p, size_t n, int *fds, int fds_max, int *ret_nfds)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FDS_PER_MESSAGE_MAX * sizeof(int))];
    } control;
    struct iovec iov = {p, n};
    struct msghdr m = {.msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes};
    ssize_t got;
    do
        got = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;
    int nfds = 0;
    bool bad = (m.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
            if (nfds < fds_max) {
                fds[nfds++] = fd;
            } else {
                close(fd);
                bad = true;
            }
        }
    }
    if (bad) {
        while (nfds > 0)
            close(fds[--nfds]);
        return -EPROTO;
    }
    *ret_nfds = nfds;
    return got;
}
