/* One listening socket per loop on the same address through SO_REUSEPORT: the kernel spreads connections, no
 * loop hands sockets to another. Since SO_REUSEPORT would also let a second server of the same user share the
 * port without a word, a probe without it comes first. */
#include "net/conn.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 4096

static enum err split(const char *address, char host[256], char port[16], struct errctx *ec)
{
    const char *colon = strrchr(address, ':'), *start = address;
    size_t host_len = colon != NULL ? (size_t)(colon - address) : 0;
    bool bracketed = host_len >= 2 && address[0] == '[' && colon[-1] == ']';
    if (bracketed) {
        start++;
        host_len -= 2;
    }
    int64_t number;
    if (colon == NULL || host_len > 255 || (!bracketed && memchr(start, ':', host_len) != NULL) ||
        strlen(colon + 1) > 15 || !str_to_i64(str_c(colon + 1), &number) || number < 0 || number > 65535)
        return err_set(ec, ERR_INVALID_REQUEST, "listen: \"%s\" is not host:port", address);
    memcpy(host, start, host_len);
    host[host_len] = '\0';
    snprintf(port, 16, "%d", (int)number);
    return ERR_OK;
}

/* A bound socket, or -errno. */
static int bind_one(const struct addrinfo *ai, int port, bool reuse_port)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int on = 1, off = 0;
    struct sockaddr_storage addr = {0};
    memcpy(&addr, ai->ai_addr, ai->ai_addrlen);
    if (ai->ai_family == AF_INET6) {
        ((struct sockaddr_in6 *)&addr)->sin6_port = htons((uint16_t)port);
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    } else {
        ((struct sockaddr_in *)&addr)->sin_port = htons((uint16_t)port);
    }
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        (reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0) ||
        bind(fd, (struct sockaddr *)&addr, ai->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

static int port_of(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } addr = {.v6 = {0}};
    socklen_t len = sizeof addr;
    if (getsockname(fd, &addr.any, &len) != 0)
        return -1;
    return ntohs(addr.any.sa_family == AF_INET6 ? addr.v6.sin6_port : addr.v4.sin_port);
}

static int bind_all(const struct addrinfo *ai, int n, int port, int *ret_fds)
{
    if (port != 0) {
        int probe = bind_one(ai, port, false);
        if (probe < 0)
            return probe;
        close(probe);
    }
    for (int i = 0; i < n; i++) {
        ret_fds[i] = bind_one(ai, port, true);
        if (ret_fds[i] < 0) {
            int e = ret_fds[i];
            while (i-- > 0) {
                close(ret_fds[i]);
                ret_fds[i] = -1;
            }
            return e;
        }
        if (port == 0)
            port = port_of(ret_fds[i]);
    }
    return port;
}

enum err listen_sockets(const char *address, int n, int *ret_fds, int *ret_port, struct errctx *ec)
{
    char host[256] = "", port[16] = "";
    enum err e = split(address, host, port, ec);
    if (e != ERR_OK)
        return e;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE},
                    *list;
    int rc = getaddrinfo(host[0] != '\0' ? host : NULL, port, &hints, &list);
    if (rc != 0)
        return err_set(ec, ERR_INVALID_REQUEST, "listen: \"%s\": %s", address, gai_strerror(rc));
    int number = (int)strtol(port, NULL, 10), got = -EADDRNOTAVAIL;
    /* Without a host, IPv6 first: its socket takes IPv4 too. */
    for (int pass = host[0] != '\0' ? 1 : 0; pass < 2 && got < 0; pass++) {
        for (struct addrinfo *ai = list; ai != NULL && got < 0; ai = ai->ai_next) {
            if (pass == 1 || ai->ai_family == AF_INET6)
                got = bind_all(ai, n, number, ret_fds);
        }
    }
    freeaddrinfo(list);
    if (got < 0)
        return err_set(ec, ERR_INVALID_REQUEST, "cannot listen on %s: %s", address, strerror(-got));
    *ret_port = got;
    return ERR_OK;
}
