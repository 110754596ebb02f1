/* Load generator: closed loop over keep-alive HTTP connections, live delivery, idle WebSockets, and the
 * disk's own append + fdatasync as the yardstick. One thread, epoll. Prints one JSON object.
 *
 *   load disk DIR SECONDS
 *   load http PORT TOKEN CONNECTIONS SECONDS BODY [HEADER]
 *   load fill PORT TOKEN CONNECTIONS REQUESTS BODY [HEADER]
 *   load live PORT TOKEN USER RATE SECONDS
 *   load idle PORT TOKEN SOCKETS PID
 *
 * In BODY {u} is a random user below --users N (before the verb), {n} a counter; `fill` sends so many
 * requests; `live` inserts at a fixed rate under one subscriber; `idle` opens one subscription each, for
 * users idle_0 …
 *
 * Latencies are of each request from write to the end of its answer; in `live` sends follow the clock, so a
 * late send counts from when it was due (no coordinated omission). */
#include "client.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static uint64_t users = 1;

/* ---- disk
 * -------------------------------------------------------------------------------------------------------- */

static void bench_disk(const char *dir, double seconds)
{
    char path[4096], block[400];
    snprintf(path, sizeof path, "%s/append-fsync.tmp", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        fail("%s: %s", path, strerror(errno));
    memset(block, 'x', sizeof block);
    uint64_t start = now_us(), end = start + (uint64_t)(seconds * 1e6), done = 0;
    for (uint64_t t = start; t < end; done++) {
        if (write(fd, block, sizeof block) != (ssize_t)sizeof block || fdatasync(fd) != 0)
            fail("%s: %s", path, strerror(errno));
        uint64_t after = now_us();
        add_sample(after - t);
        t = after;
    }
    close(fd);
    unlink(path);
    report("disk append+fdatasync", (double)(now_us() - start) / 1e6, done, 0);
}

/* ---- HTTP
 * -------------------------------------------------------------------------------------------------------- */

struct request {
    int port;
    const char *token, *body, *header;
    uint64_t counter, seed;
};

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* The whole request with {u} and {n} filled in. */
static size_t build_request(struct request *rq, char *out, size_t size)
{
    char body[65536];
    size_t n = 0;
    for (const char *p = rq->body; *p != '\0' && n + 24 < sizeof body; p++) {
        if (strncmp(p, "{u}", 3) == 0 || strncmp(p, "{n}", 3) == 0) {
            n += (size_t)sprintf(
                body + n, "%" PRIu64, p[1] == 'u' ? next_random(&rq->seed) % users : rq->counter);
            p += 2;
        } else {
            body[n++] = *p;
        }
    }
    rq->counter++;
    int head = snprintf(out, size,
        "POST /api/v1/query HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
        "Content-Type: application/json\r\n%s%sContent-Length: %zu\r\n\r\n",
        rq->token, rq->header != NULL ? rq->header : "", rq->header != NULL ? "\r\n" : "", n);
    if (head < 0 || (size_t)head + n > size)
        fail("request too large");
    memcpy(out + head, body, n);
    return (size_t)head + n;
}

struct connection {
    int fd;
    uint64_t sent_us;
    size_t have, need; /* need: bytes of the whole answer once its head is in */
    char *in;
};

#define ANSWER_MAX (4u << 20)

/* Reads what is there; true when the answer is complete. */
static bool read_answer(struct connection *c, bool *ret_ok)
{
    ssize_t r = read(c->fd, c->in + c->have, ANSWER_MAX - c->have - 1);
    if (r < 0 && errno == EAGAIN)
        return false;
    if (r <= 0)
        fail("connection closed by the server: %s", r < 0 ? strerror(errno) : "end of stream");
    c->have += (size_t)r;
    c->in[c->have] = '\0';
    if (c->need == 0) {
        char *end = strstr(c->in, "\r\n\r\n");
        if (end == NULL)
            return false;
        char *length = strcasestr(c->in, "content-length:");
        if (length == NULL || length > end)
            fail("answer without Content-Length: %.200s", c->in);
        c->need = (size_t)(end + 4 - c->in) + strtoul(length + 15, NULL, 10);
    }
    if (c->have < c->need)
        return false;
    *ret_ok = strncmp(c->in + 9, "200", 3) == 0;
    if (!*ret_ok) {
        static int shown;
        if (shown++ < 3)
            fprintf(stderr, "%.*s\n", (int)(c->need < 600 ? c->need : 600), c->in);
    }
    c->have = c->need = 0;
    return true;
}

/* Ends after `seconds`, or after `requests` where that is not 0. */
static void bench_http(struct request *rq, int connections, double seconds, uint64_t requests)
{
    char *out = malloc(1 << 17);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    int ep = epoll_create1(EPOLL_CLOEXEC);
    if (out == NULL || all == NULL || ep < 0)
        fail("out of memory");
    uint64_t start = now_us(), end = start + (uint64_t)(seconds * 1e6), done = 0, errors = 0;
    for (int i = 0; i < connections; i++) {
        struct connection *c = &all[i];
        c->fd = dial(rq->port);
        c->in = malloc(ANSWER_MAX);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
        c->sent_us = now_us();
        write_all(c->fd, out, build_request(rq, out, 1 << 17));
    }
    int open_requests = connections;
    uint64_t warm = requests > 0 ? start : start + (end - start) / 10; /* the first tenth only warms up */
    uint64_t counted_from = 0;
    while (open_requests > 0) {
        struct epoll_event events[256];
        int n = epoll_wait(ep, events, 256, 5000);
        if (n == 0)
            fail("no answer within 5 s, %d requests open", open_requests);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            bool ok = false;
            if (!read_answer(c, &ok))
                continue;
            uint64_t t = now_us();
            if (t >= warm) {
                if (counted_from == 0)
                    counted_from = t;
                else
                    done++;
                add_sample(t - c->sent_us);
                errors += !ok;
            }
            if (requests > 0 ? rq->counter >= requests : t >= end) {
                open_requests--;
                continue;
            }
            c->sent_us = t;
            write_all(c->fd, out, build_request(rq, out, 1 << 17));
        }
    }
    report("http", (double)(now_us() - counted_from) / 1e6, done, errors);
}

/* The insert's content is the µs at which it was due; the subscriber's frame carries it back. */
static void bench_live(int port, const char *token, const char *user, double rate, double seconds)
{
    static char frame[65536];
    int ws = dial(port);
    ws_open(ws, port, token);
    char text[512];
    snprintf(text, sizeof text, "{\"type\":\"subscribe\",\"id\":\"s\",\"userId\":\"%s\"}", user);
    ws_send(ws, text);
    ws_read(ws, frame, sizeof frame);
    if (strstr(frame, "subscribe_ack") == NULL)
        fail("%s", frame);

    enum { CONNECTIONS = 64 };
    struct connection all[CONNECTIONS] = {0};
    int ep = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < CONNECTIONS; i++) {
        all[i].fd = dial(port);
        all[i].in = malloc(ANSWER_MAX);
        fcntl(all[i].fd, F_SETFL, O_NONBLOCK);
        epoll_ctl(
            ep, EPOLL_CTL_ADD, all[i].fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &all[i]});
    }
    epoll_ctl(ep, EPOLL_CTL_ADD, ws, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL});

    uint64_t start = now_us(), total = (uint64_t)(rate * seconds), sent = 0, delivered = 0, answered = 0,
             errors = 0;
    uint64_t from_ack_negative = 0;
    static uint64_t acked_us[1 << 20];
    static uint32_t after_ack[1 << 20];
    static char out[1 << 16], body[512];
    if (total > 1 << 20)
        fail("too many");
    bool busy[CONNECTIONS] = {false};
    uint64_t carried[CONNECTIONS] = {0};
    while (delivered < total) {
        uint64_t t = now_us();
        uint64_t due = start + (uint64_t)((double)sent * 1e6 / rate);
        if (sent < total && t >= due) {
            int i = 0;
            while (i < CONNECTIONS && busy[i])
                i++;
            if (i < CONNECTIONS) {
                snprintf(body, sizeof body,
                    "{\"sql\":\"INSERT INTO \\\"%s\\\".messages (conversation_id, content) VALUES ('live', "
                    "'<%" PRIu64 ":%" PRIu64 ">')\"}",
                    user, due, sent);
                struct request rq = {.port = port, .token = token, .body = body};
                write_all(all[i].fd, out, build_request(&rq, out, sizeof out));
                busy[i] = true;
                carried[i] = sent++;
                continue;
            }
        }
        struct epoll_event events[64];
        int wait_ms = sent < total ? (due > t ? (int)((due - t) / 1000) : 0) : 5000;
        int n = epoll_wait(ep, events, 64, wait_ms);
        if (n == 0 && sent == total)
            fail("%" PRIu64 " of %" PRIu64 " delivered", delivered, total);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == NULL) {
                ws_read(ws, frame, sizeof frame);
                char *mark = strstr(frame, "\"content\":\"<");
                if (mark == NULL)
                    continue;
                uint64_t got = now_us(), k = 0, was = 0;
                if (sscanf(mark + 12, "%" SCNu64 ":%" SCNu64, &was, &k) != 2)
                    fail("%s", frame);
                add_sample(got - was);
                if (acked_us[k] == 0)
                    from_ack_negative++;
                else
                    after_ack[k] = (uint32_t)(got - acked_us[k]);
                delivered++;
            } else {
                bool ok = false;
                if (read_answer(c, &ok)) {
                    busy[c - all] = false;
                    acked_us[carried[c - all]] = now_us();
                    answered++;
                    errors += !ok;
                }
            }
        }
    }
    report("insert due -> delivered", (double)(now_us() - start) / 1e6, delivered, errors);
    clear_samples();
    for (uint64_t k = 0; k < total; k++)
        add_sample(after_ack[k]); /* 0 where the frame came before the answer */
    printf("%" PRIu64 " of %" PRIu64 " frames came before the answer\n", from_ack_negative, total);
    report("answer -> delivered", (double)(now_us() - start) / 1e6, answered, errors);
}

static long rss_kib(const char *pid, const char *field)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%s/status", pid);
    FILE *f = fopen(path, "re");
    long kib = -1;
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, field, strlen(field)) == 0)
            kib = strtol(line + strlen(field), NULL, 10);
    }
    if (f != NULL)
        fclose(f);
    return kib;
}

static void bench_idle(int port, const char *token, int sockets, const char *pid)
{
    static char frame[65536];
    int *fds = calloc((size_t)sockets, sizeof *fds);
    if (fds == NULL)
        fail("out of memory");
    long before = 0;
    const int warm = sockets / 10;
    for (int i = 0; i < sockets; i++) {
        char text[256];
        if (i == warm)
            before = rss_kib(pid, "RssAnon:");
        fds[i] = dial(port);
        ws_open(fds[i], port, token);
        snprintf(text, sizeof text, "{\"type\":\"subscribe\",\"id\":\"s\",\"userId\":\"idle_%d\"}", i);
        ws_send(fds[i], text);
        ws_read(fds[i], frame, sizeof frame);
        if (strstr(frame, "subscribe_ack") == NULL)
            fail("%s", frame);
    }
    long after = rss_kib(pid, "RssAnon:");
    printf("{\"what\":\"idle\",\"sockets\":%d,\"rss_anon_kib_before\":%ld,\"rss_anon_kib_after\":%ld,"
           "\"bytes_per_socket\":%.0f}\n",
        sockets, before, after, (double)(after - before) * 1024 / (sockets - warm));
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "--users") == 0) {
        users = strtoull(argv[2], NULL, 10);
        argc -= 2;
        argv += 2;
    }
    const char *verb = argc > 1 ? argv[1] : "";
    if (strcmp(verb, "disk") == 0 && argc == 4) {
        bench_disk(argv[2], atof(argv[3]));
    } else if (strcmp(verb, "http") == 0 && argc >= 7) {
        struct request rq = {.port = atoi(argv[2]),
            .token = argv[3],
            .body = argv[6],
            .header = argc > 7 ? argv[7] : NULL,
            .seed = now_us() | 1};
        bench_http(&rq, atoi(argv[4]), atof(argv[5]), 0);
    } else if (strcmp(verb, "fill") == 0 && argc >= 7) {
        struct request rq = {.port = atoi(argv[2]),
            .token = argv[3],
            .body = argv[6],
            .header = argc > 7 ? argv[7] : NULL,
            .seed = 1};
        bench_http(&rq, atoi(argv[4]), 1e6, strtoull(argv[5], NULL, 10));
    } else if (strcmp(verb, "live") == 0 && argc == 7) {
        bench_live(atoi(argv[2]), argv[3], argv[4], atof(argv[5]), atof(argv[6]));
    } else if (strcmp(verb, "idle") == 0 && argc == 6) {
        bench_idle(atoi(argv[2]), argv[3], atoi(argv[4]), argv[5]);
    } else {
        fail("usage: see the head of bench/load.c");
    }
    return 0;
}
