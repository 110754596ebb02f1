/* Streamed replies: SERVICE TOKEN's connections begin `streams` replies, each in the ai conversation of a
 * user of its own, and append a token of eight bytes to each at a fixed rate; subscribers of all these users
 * take the deltas.
 *
 *   streams PORT TOKEN STREAMS TOKENS_PER_SECOND SECONDS
 *
 * Latency is from the moment a token was due to the moment the delta with its last byte was read (no
 * coordinated omission). One thread, epoll. Fails when a byte is missing, doubled or out of order. Prints one
 * JSON object each for all deltas and for the first delta of each reply. */
#include "client.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define TOKEN_BYTES 8
#define PER_CONNECTION 100
#define IN_BYTES (4u << 20)

struct reply {
    int64_t msg_id;
    uint32_t sent, seen; /* tokens */
    uint64_t *due_us;    /* of each token */
    bool ended;
};

struct socket {
    int fd;
    char *in;
    size_t have;
    char *out;
    size_t waiting;
};

static struct reply *replies;
static int nreplies, nbegun;
static uint64_t acks, deltas, ended;
static uint32_t *first_us;

/* Open addressing by message id. */
static struct {
    int64_t id;
    struct reply *reply;
} * table;
static size_t table_size;

static struct reply *find(int64_t id, struct reply *add)
{
    for (size_t at = (uint64_t)id * 0x9E3779B97F4A7C15u % table_size;; at = (at + 1) % table_size) {
        if (table[at].id == id)
            return table[at].reply;
        if (table[at].id == 0 && add == NULL)
            return NULL;
        if (table[at].id == 0) {
            table[at].id = id;
            table[at].reply = add;
            return add;
        }
    }
}

static int64_t number(const char *text, const char *name)
{
    const char *p = strstr(text, name);
    return p == NULL ? -1 : strtoll(p + strlen(name), NULL, 10);
}

static void on_delta(const char *text)
{
    struct reply *r = find(number(text, "\"msg_id\":"), NULL);
    const char *at = strstr(text, "\"text\":\"");
    if (r == NULL || at == NULL)
        fail("a delta of nobody: %.300s", text);
    int64_t offset = number(text, "\"offset\":");
    const char *end = strchr(at + 8, '"');
    size_t bytes = end == NULL ? 0 : (size_t)(end - at - 8);
    if (offset == 0 && bytes == 0)
        return;
    if (offset != (int64_t)r->seen * TOKEN_BYTES || bytes % TOKEN_BYTES != 0)
        fail("offset %lld after %u tokens", (long long)offset, r->seen);
    uint64_t now = now_us();
    for (size_t i = 0; i < bytes / TOKEN_BYTES; i++) {
        uint64_t late = now - r->due_us[r->seen];
        if (r->seen == 0)
            first_us[r - replies] = (uint32_t)late;
        r->seen++;
        add_sample(late);
    }
    deltas++;
}

static void on_frame(const char *text)
{
    if (strstr(text, "\"op\":\"append\"") != NULL) {
        on_delta(text);
    } else if (strstr(text, "\"type\":\"append_ack\"") != NULL) {
        acks++;
    } else if (strstr(text, "\"type\":\"stream_ack\"") != NULL) {
        int64_t k = number(text, "\"id\":\"");
        if (k < 0 || k >= nreplies)
            fail("%.300s", text);
        struct reply *r = &replies[k];
        r->msg_id = number(text, "\"msgId\":");
        find(r->msg_id, r);
        nbegun++;
    } else if (strstr(text, "\"op\":\"update\"") != NULL) {
        struct reply *r = find(number(text, "\"msg_id\":"), NULL);
        if (r != NULL && !r->ended && strstr(text, "\"stream\"") == NULL) {
            r->ended = true;
            ended++;
        }
    } else if (strstr(text, "\"type\":\"error\"") != NULL) {
        fail("%.400s", text);
    }
}

/* Takes the whole frames out of what was read. */
static void parse(struct socket *s)
{
    size_t at = 0;
    while (s->have - at >= 2) {
        const unsigned char *p = (unsigned char *)s->in + at;
        size_t n = p[1] & 0x7f, head = n == 126 ? 4 : n == 127 ? 10 : 2;
        if (s->have - at < head)
            break;
        if (head > 2) {
            n = 0;
            for (size_t i = 2; i < head; i++)
                n = n << 8 | p[i];
        }
        if (s->have - at - head < n)
            break;
        if ((p[0] & 15) == 8)
            fail("closed by the server: %.*s", (int)n - 2, s->in + at + head + 2);
        char *text = s->in + at + head, saved = text[n];
        text[n] = '\0';
        if ((p[0] & 15) == 1)
            on_frame(text);
        text[n] = saved;
        at += head + n;
    }
    memmove(s->in, s->in + at, s->have - at);
    s->have -= at;
}

static void take(struct socket *s)
{
    ssize_t n = read(s->fd, s->in + s->have, IN_BYTES - 1 - s->have);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        fail("socket closed");
    if (n > 0) {
        s->have += (size_t)n;
        parse(s);
    }
}

/* Collects frames so that what is due together is one write. */
static void queue(struct socket *s, const char *text)
{
    size_t n = strlen(text), at = 2;
    unsigned char *frame = (unsigned char *)s->out + s->waiting;
    frame[0] = 0x81;
    frame[1] = (unsigned char)(0x80 | (n < 126 ? n : 126));
    if (n >= 126) {
        frame[2] = (unsigned char)(n >> 8);
        frame[3] = (unsigned char)n;
        at = 4;
    }
    memset(frame + at, 0, 4);
    memcpy(frame + at + 4, text, n);
    s->waiting += at + 4 + n;
}

static void flush(struct socket *s)
{
    if (s->waiting > 0)
        write_all(s->fd, s->out, s->waiting);
    s->waiting = 0;
}

static void open_sockets(struct socket *all, int n, int port, const char *token, int ep)
{
    for (int i = 0; i < n; i++) {
        all[i] = (struct socket){.fd = dial(port), .in = malloc(IN_BYTES), .out = malloc(1 << 20)};
        if (all[i].in == NULL || all[i].out == NULL)
            fail("out of memory");
        ws_open(all[i].fd, port, token);
        fcntl(all[i].fd, F_SETFL, O_NONBLOCK);
        epoll_ctl(
            ep, EPOLL_CTL_ADD, all[i].fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &all[i]});
    }
}

static void pump(int ep, int wait_ms)
{
    struct epoll_event events[64];
    int n = epoll_wait(ep, events, 64, wait_ms);
    for (int i = 0; i < n; i++)
        take(events[i].data.ptr);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 6)
        fail("usage: streams PORT TOKEN STREAMS TOKENS_PER_SECOND SECONDS");
    int port = atoi(argv[1]), rate = atoi(argv[4]);
    const char *token = argv[2];
    nreplies = atoi(argv[3]);
    uint32_t tokens = (uint32_t)(atof(argv[5]) * rate);
    int sockets = (nreplies + PER_CONNECTION - 1) / PER_CONNECTION, ep = epoll_create1(EPOLL_CLOEXEC);
    replies = calloc((size_t)nreplies, sizeof *replies);
    first_us = calloc((size_t)nreplies, sizeof *first_us);
    table_size = (size_t)nreplies * 4 + 1;
    table = calloc(table_size, sizeof *table);
    struct socket *producers = calloc((size_t)sockets, sizeof *producers),
                  *subscribers = calloc((size_t)sockets, sizeof *subscribers);
    if (replies == NULL || first_us == NULL || table == NULL || producers == NULL || subscribers == NULL)
        fail("out of memory");
    open_sockets(producers, sockets, port, token, ep);
    open_sockets(subscribers, sockets, port, token, ep);
    char text[512];
    for (int i = 0; i < nreplies; i++) {
        replies[i].due_us = calloc(tokens, sizeof *replies[i].due_us);
        snprintf(text, sizeof text, "{\"type\":\"subscribe\",\"id\":\"s%d\",\"userId\":\"reader_%d\"}", i, i);
        queue(&subscribers[i / PER_CONNECTION], text);
        flush(&subscribers[i / PER_CONNECTION]);
        snprintf(text, sizeof text,
            "{\"type\":\"stream_begin\",\"id\":\"%d\",\"userId\":\"reader_%d\",\"conversationId\":\"reply\","
            "\"from\":\"assistant\"}",
            i, i);
        queue(&producers[i / PER_CONNECTION], text);
        flush(&producers[i / PER_CONNECTION]);
    }
    uint64_t patience = now_us() + 30000000;
    while (nbegun < nreplies && now_us() < patience)
        pump(ep, 100);
    if (nbegun < nreplies)
        fail("%d of %d replies begun", nbegun, nreplies);
    uint64_t start = now_us(), step = 1000000u / (unsigned)rate;
    uint64_t total = (uint64_t)nreplies * tokens, seen = 0, sent = 0;
    while (sent < total) {
        uint64_t t = now_us();
        /* Replies are spread evenly over the step. */
        while (sent < total) {
            struct reply *r = &replies[sent % (uint64_t)nreplies];
            uint64_t due = start + sent / (uint64_t)nreplies * step +
                           sent % (uint64_t)nreplies * step / (uint64_t)nreplies;
            if (due > t)
                break;
            struct socket *s = &producers[(r - replies) / PER_CONNECTION];
            snprintf(text, sizeof text,
                "{\"type\":\"append\",\"msgId\":%lld,\"offset\":%u,\"text\":\"tok%04u \"}",
                (long long)r->msg_id, r->sent * TOKEN_BYTES, r->sent % 10000);
            r->due_us[r->sent++] = due;
            queue(s, text);
            if (s->waiting > (1 << 20) - 1024)
                flush(s);
            sent++;
        }
        for (int i = 0; i < sockets; i++)
            flush(&producers[i]);
        pump(ep, 0);
    }
    double sending = (double)(now_us() - start) / 1e6;
    for (int i = 0; i < nreplies; i++) {
        snprintf(text, sizeof text, "{\"type\":\"stream_end\",\"msgId\":%lld}", (long long)replies[i].msg_id);
        queue(&producers[i / PER_CONNECTION], text);
        flush(&producers[i / PER_CONNECTION]);
    }
    patience = now_us() + 30000000;
    while (ended < (uint64_t)nreplies && now_us() < patience)
        pump(ep, 100);
    for (int i = 0; i < nreplies; i++)
        seen += replies[i].seen;
    if (seen != total || ended != (uint64_t)nreplies)
        fail("%" PRIu64 " of %" PRIu64 " tokens delivered, %" PRIu64 " of %d replies ended", seen, total,
            ended, nreplies);
    report("token due -> delta", sending, total, 0);
    qsort(first_us, (size_t)nreplies, sizeof *first_us, by_value);
    printf("{\"what\":\"first delta\",\"p50_us\":%u,\"p99_us\":%u,\"deltas\":%" PRIu64 ",\"acks\":%" PRIu64
           "}\n",
        first_us[nreplies / 2], first_us[(size_t)nreplies * 99 / 100], deltas, acks);
    return 0;
}
