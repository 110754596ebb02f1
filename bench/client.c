#include "client.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX (8u << 20)

static uint32_t samples[SAMPLES_MAX];
static size_t nsamples;
uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

void fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

void add_sample(uint64_t us)
{
    if (nsamples < SAMPLES_MAX)
        samples[nsamples++] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

void clear_samples(void)
{
    nsamples = 0;
}

void report(const char *what, double seconds, uint64_t done, uint64_t errors)
{
    qsort(samples, nsamples, sizeof *samples, compare);
    printf("{\"what\":\"%s\",\"seconds\":%.2f,\"done\":%" PRIu64 ",\"errors\":%" PRIu64
           ",\"per_second\":%.1f",
        what, seconds, done, errors, (double)done / seconds);
    static const struct {
        const char *name;
        double q;
    } quantiles[] = {{"p50_us", 0.5}, {"p90_us", 0.9}, {"p99_us", 0.99}, {"p999_us", 0.999}, {"max_us", 1}};
    for (size_t i = 0; nsamples > 0 && i < sizeof quantiles / sizeof *quantiles; i++)
        printf(",\"%s\":%u", quantiles[i].name, samples[(size_t)(quantiles[i].q * (double)(nsamples - 1))]);
    puts("}");
}

int dial(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) != 0)
        fail("connect: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

void write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EAGAIN) {
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
            continue;
        }
        if (w <= 0)
            fail("write: %s", strerror(errno));
        p += w;
        n -= (size_t)w;
    }
}

void ws_open(int fd, int port, const char *token)
{
    char text[16384];
    int n = snprintf(text, sizeof text,
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        "Authorization: Bearer %s\r\n\r\n",
        port, token);
    write_all(fd, text, (size_t)n);
    size_t have = 0;
    while (have < 4 || memcmp(text + have - 4, "\r\n\r\n", 4) != 0) {
        if (read(fd, text + have, 1) != 1 || ++have == sizeof text)
            fail("no upgrade");
    }
    if (strncmp(text, "HTTP/1.1 101", 12) != 0)
        fail("no upgrade: %.*s", (int)have, text);
}

void ws_send(int fd, const char *text)
{
    unsigned char frame[512];
    size_t n = strlen(text), at = 2;
    if (n > 400)
        fail("frame too long");
    frame[0] = 0x81;
    if (n < 126) {
        frame[1] = (unsigned char)(0x80 | n);
    } else {
        frame[1] = 0x80 | 126;
        frame[2] = (unsigned char)(n >> 8);
        frame[3] = (unsigned char)n;
        at = 4;
    }
    memset(frame + at, 0, 4); /* the zero mask: a load generator needs no better */
    memcpy(frame + at + 4, text, n);
    write_all(fd, (char *)frame, at + 4 + n);
}

void ws_read(int fd, char *out, size_t size)
{
    unsigned char h[10];
    for (;;) {
        size_t n, head = 2;
        if (recv(fd, h, 2, MSG_WAITALL) != 2)
            fail("socket closed");
        n = h[1] & 0x7f;
        if (n >= 126) {
            size_t more = n == 126 ? 2 : 8;
            if (recv(fd, h + head, more, MSG_WAITALL) != (ssize_t)more)
                fail("socket closed");
            n = 0;
            for (size_t i = 0; i < more; i++)
                n = n << 8 | h[head + i];
        }
        if (n >= size || (n > 0 && recv(fd, out, n, MSG_WAITALL) != (ssize_t)n))
            fail("frame of %zu bytes", n);
        out[n] = '\0';
        if ((h[0] & 15) == 1)
            return;
    }
}
