/* Streamed bodies, file answers and streams against a real loop and real sockets: every answer as the bytes
 * that a client reads. One loop, the client on the main thread, the handler on the loop's. Long: one server
 * and one client for all cases. */
#include "net/net.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

/* More than the kernel buffers for a client that does not read. */
#define FILE_BYTES ((size_t)12 << 20)
#define ANSWER_BYTES ((size_t)8 << 20)

/* What the handler saw of one streamed body. */
struct body {
    struct net_task task; /* later: resume, or answer */
    struct net_request *req;
    struct net_conn *stream;
    struct buf got;
    size_t made;
    bool pause_each, echo, answered;
};

static struct fixture {
    struct net *net;
    struct net_handler handler;
    uv_thread_t thread;
    int port;
    uint64_t dialed;
    _Atomic(struct body *) held;                            /* paused from its head on */
    atomic_int ended, aborted, client_gone, closed, bodies; /* bodies: alive */
    char path[64];
} fx;

static void body_free(struct body *b)
{
    buf_release(&b->got);
    free(b);
    atomic_fetch_sub(&fx.bodies, 1);
}

static void respond(struct body *b, int status)
{
    struct net_request *req = b->req;
    buf_printf(&req->body, "%zu:", b->got.len);
    if (b->got.len < 100)
        buf_str(&req->body, buf_view(&b->got));
    net_respond(req, status, STR("text/plain"), STR(""));
    body_free(b);
}

static void resume(struct net_task *task)
{
    net_body_resume(((struct body *)task)->req);
}

static void on_data(void *arg, struct str bytes)
{
    struct body *b = arg;
    buf_str(&b->got, bytes);
    if (b->echo) {
        net_stream_send(b->stream, bytes);
        if (memchr(bytes.ptr, '!', bytes.len) != NULL)
            net_stream_close(b->stream, 0, STR_NULL, false);
        return;
    }
    if (memchr(bytes.ptr, '!', bytes.len) != NULL) {
        respond(b, 403);
        return;
    }
    if (b->pause_each) {
        net_body_pause(b->req);
        b->task.run = resume;
        net_post(b->req->loop, &b->task);
    }
}

static void on_end(void *arg)
{
    struct body *b = arg;
    atomic_fetch_add(&fx.ended, 1);
    if (b->echo) {
        net_stream_send(b->stream, STR("end"));
        net_stream_close(b->stream, 0, STR_NULL, false);
        return;
    }
    respond(b, 200);
}

static void on_body_aborted(void *arg)
{
    struct body *b = arg;
    atomic_fetch_add(&fx.aborted, 1);
    if (b->echo) {
        net_stream_send(b->stream, str_c(b->req->failed_why));
        net_stream_close(b->stream, 0, STR_NULL, false);
        return;
    }
    if (b->req->conn == NULL)
        atomic_fetch_add(&fx.client_gone, 1);
    respond(b, b->req->failed_status);
}

static void on_stream_closed(void *arg)
{
    atomic_fetch_add(&fx.closed, 1);
    body_free(arg);
}

static void answer_more(void *arg)
{
    struct body *b = arg;
    static const char block[10000];
    while (b->made < ANSWER_BYTES && net_stream_room(b->stream) > 0) {
        size_t left = ANSWER_BYTES - b->made, n = left < sizeof block ? left : sizeof block;
        net_stream_send(b->stream, str_n(block, n));
        b->made += n;
    }
    if (b->made == ANSWER_BYTES)
        net_stream_close(b->stream, 0, STR_NULL, false);
}

static void no_text(void *arg, struct str text)
{
    (void)arg;
    (void)text;
}

static void no_drained(void *arg)
{
    (void)arg;
}

static void on_timer(void *arg, uint64_t now)
{
    (void)arg;
    (void)now;
}

static const struct net_body_ops body_ops = {on_data, on_end, on_body_aborted};
static const struct net_stream_ops echo_ops = {no_text, no_drained, on_timer, on_stream_closed},
                                   answer_ops = {no_text, answer_more, NULL, on_stream_closed};

static struct body *body_new(struct net_request *req)
{
    struct body *b = calloc(1, sizeof *b);
    b->req = req;
    atomic_fetch_add(&fx.bodies, 1);
    return b;
}

static bool target_is(struct net_request *req, const char *path)
{
    return str_eq(http_message_target(&req->in), str_c(path));
}

static void on_head(void *arg, struct net_request *req)
{
    (void)arg;
    struct body *b;
    if (target_is(req, "/collect"))
        return;
    if (target_is(req, "/deny")) {
        net_respond(req, 401, STR("text/plain"), STR(""));
        return;
    }
    b = body_new(req);
    if (!net_request_stream(req, &body_ops, b, 1 << 20)) {
        body_free(b);
        net_respond(req, 413, STR("text/plain"), STR(""));
        return;
    }
    b->pause_each = target_is(req, "/pause");
    if (target_is(req, "/hold")) {
        net_body_pause(req);
        b->task.run = resume;
        atomic_store(&fx.held, b);
    }
    b->echo = target_is(req, "/echo");
    if (b->echo)
        b->stream = net_stream_chunked(req, STR("text/plain"), STR(""), &echo_ops, b);
}

static int64_t read_file(void *arg, uint64_t at, void *p, size_t n)
{
    return pread((int)(intptr_t)arg, p, n, (off_t)at);
}

static void close_file(void *arg)
{
    close((int)(intptr_t)arg);
}

/* By its descriptor, or by a function as a sealed one is. */
static struct net_file file_of(bool by_fd)
{
    int fd = open(fx.path, O_RDONLY | O_CLOEXEC);
    return (struct net_file){by_fd ? fd : -1, read_file, close_file, (void *)(intptr_t)fd};
}

static void on_request(void *arg, struct net_request *req)
{
    (void)arg;
    struct body *b;
    int64_t n;
    if (str_starts_with(http_message_target(&req->in), STR("/file?"))) {
        struct str t = http_message_target(&req->in);
        if (!str_to_i64(str_n(t.ptr + 6, t.len - 6), &n))
            n = 0;
        net_respond_file(
            req, 200, STR("image/x"), STR("Cache-Control: private\r\n"), file_of(true), 1, (uint64_t)n);
    } else if (str_starts_with(http_message_target(&req->in), STR("/read?"))) {
        struct str t = http_message_target(&req->in);
        if (!str_to_i64(str_n(t.ptr + 6, t.len - 6), &n))
            n = 0;
        net_respond_file(
            req, 200, STR("image/x"), STR("Cache-Control: private\r\n"), file_of(false), 1, (uint64_t)n);
    } else if (target_is(req, "/answer") || target_is(req, "/sized") || target_is(req, "/short")) {
        b = body_new(req);
        int64_t length = target_is(req, "/answer") ? -1 : (int64_t)ANSWER_BYTES + target_is(req, "/short");
        b->stream = net_stream_answer(req, STR("application/x-tar"),
            STR("Content-Disposition: attachment\r\n"), length, &answer_ops, b);
        answer_more(b);
    } else {
        buf_printf(&req->body, "whole:%zu", req->in.body.len);
        net_respond(req, 200, STR("text/plain"), STR(""));
    }
}

static void on_failed(void *arg, struct net_request *req, enum http_failure failure, const char *why)
{
    (void)arg;
    (void)why;
    net_respond(req, (int)failure, STR("text/plain"), STR(""));
}

static void on_aborted(void *arg, struct net_request *req)
{
    (void)arg;
    (void)req;
}

static void *loop_start(void *arg, struct net_loop *loop)
{
    (void)loop;
    return arg;
}

static void loop_stop(void *arg, struct net_loop *loop, void *user)
{
    (void)arg;
    (void)loop;
    (void)user;
}

static void serve(void *arg)
{
    struct errctx ec = {0};
    (void)arg;
    if (net_run(fx.net, false, &ec) != ERR_OK)
        abort();
}

static int start(void **state)
{
    (void)state;
    struct errctx ec = {0};
    char *bytes = malloc(FILE_BYTES);
    snprintf(fx.path, sizeof fx.path, "/tmp/kalamdb-net-XXXXXX");
    int fd = mkstemp(fx.path);
    for (size_t i = 0; i < FILE_BYTES; i++)
        bytes[i] = (char)(i * 7 + (i >> 12));
    assert_int_equal(write(fd, bytes, FILE_BYTES), FILE_BYTES);
    close(fd);
    free(bytes);
    fx.handler = (struct net_handler){.arg = &fx,
        .head = on_head,
        .request = on_request,
        .failed = on_failed,
        .aborted = on_aborted,
        .loop_start = loop_start,
        .loop_stop = loop_stop};
    struct net_options o = {.listen = STR("127.0.0.1:0"),
        .loops = 1,
        .max_body_bytes = 1000,
        .max_connections = 100,
        .max_frame_bytes = 1000,
        .max_socket_buffer_bytes = 65536,
        .header_timeout_ms = 300,
        .idle_timeout_ms = 600,
        .shutdown_timeout_ms = 5000};
    assert_int_equal(net_open(&o, &fx.handler, &fx.net, &ec), ERR_OK);
    fx.port = net_port(fx.net);
    return uv_thread_create(&fx.thread, serve, NULL);
}

static int stop(void **state)
{
    (void)state;
    net_stop(fx.net);
    uv_thread_join(&fx.thread);
    unlink(fx.path);
    return net_close(fx.net) && atomic_load(&fx.bodies) == 0 ? 0 : -1;
}

/* ---- the client
 * ------------------------------------------------------------------------------------------------- */

static int dial(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
        .sin_port = htons((uint16_t)fx.port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    fx.dialed++;
    return fd;
}

static void say(int fd, struct str bytes)
{
    while (bytes.len > 0) {
        ssize_t n = send(fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
        if (n < 0)
            return; /* the server may have cut us off: what it said counts */
        bytes = str_n(bytes.ptr + n, bytes.len - (size_t)n);
    }
}

/* Reads until `want` is seen, or (NULL) the end; fails after 10 s. */
static void hear(int fd, struct buf *b, const char *want)
{
    char piece[65536];
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (want != NULL && b->len > 0 && memmem(b->ptr, b->len, want, strlen(want)) != NULL)
            return;
        if (poll(&p, 1, 10000) <= 0)
            fail_msg("nothing came; so far: %.*s", (int)b->len, b->ptr);
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        if (n <= 0) {
            if (want != NULL)
                fail_msg("the end instead of %s; so far: %.*s", want, (int)b->len, b->ptr);
            return;
        }
        buf_append(b, piece, (size_t)n);
    }
}

static void expect_seen(struct buf *b, const char *want)
{
    if (b->len == 0 || memmem(b->ptr, b->len, want, strlen(want)) == NULL)
        fail_msg("no %s in: %.*s", want, (int)b->len, b->ptr);
}

static int times(struct buf *b, const char *what)
{
    int n = 0;
    for (const char *p = b->ptr, *end = b->ptr + b->len;
         (p = memmem(p, (size_t)(end - p), what, strlen(what))) != NULL; p++)
        n++;
    return n;
}

/* The whole conversation: all is said, in pieces, then all is heard to the end. */
static void talk(const char *said, size_t piece, struct buf *heard)
{
    int fd = dial();
    size_t n = strlen(said);
    buf_clear(heard);
    for (size_t at = 0; at < n; at += piece)
        say(fd, str_n(said + at, n - at < piece ? n - at : piece));
    hear(fd, heard, NULL);
    close(fd);
}

static void until(atomic_int *counter, int want)
{
    for (int i = 0; i < 1000 && atomic_load(counter) != want; i++)
        uv_sleep(10);
    assert_int_equal(atomic_load(counter), want);
}

/* Every client was seen, and none is left. */
static void until_quiet(void)
{
    struct net_stats stats = {0};
    for (int i = 0; i < 1000 && (stats.accepted_total != fx.dialed || stats.connections != 0); i++) {
        uv_sleep(10);
        net_stats(fx.net, &stats);
    }
    assert_int_equal(stats.accepted_total, fx.dialed);
    assert_int_equal(stats.connections, 0);
    assert_int_equal(atomic_load(&fx.bodies), 0);
}

#define HOST "Host: h\r\n"
#define LAST "GET /x HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n"

/* ---- tests
 * -------------------------------------------------------------------------------------------------------- */

static void streamed_bodies_at_every_cut(void **state)
{
    (void)state;
    static const char *const said[] = {
        "POST /s HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello" LAST,
        "POST /pause HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello" LAST,
        "POST /s HTTP/1.1\r\n" HOST
        "Transfer-Encoding: chunked\r\n\r\n3;e=1\r\nhel\r\n2\r\nlo\r\n0\r\nT: x\r\n\r\n" LAST,
        "POST /pause HTTP/1.1\r\n" HOST
        "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n" LAST,
    };
    struct buf heard = {0};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        for (size_t piece = 1; piece <= 128; piece = piece < 8 ? piece + 1 : piece * 4) {
            talk(said[i], piece, &heard);
            expect_seen(&heard, "\r\n\r\n5:hello");
            expect_seen(&heard, "whole:0"); /* what came behind it */
            assert_int_equal(times(&heard, "HTTP/1.1 200"), 2);
        }
    }
    buf_release(&heard);
}

static void collected_and_streamed_in_one_pipeline(void **state)
{
    (void)state;
    struct buf heard = {0};
    talk("POST /collect HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabcPOST /s HTTP/1.1\r\n" HOST
         "Content-Length: 2\r\n\r\nde" LAST,
        7, &heard);
    expect_seen(&heard, "whole:3");
    expect_seen(&heard, "2:de");
    expect_seen(&heard, "whole:0");
    talk("POST /s HTTP/1.0\r\nContent-Length: 2\r\n\r\nde", 3, &heard);
    expect_seen(&heard, "2:de");
    expect_seen(&heard, "Connection: close");
    talk("POST /collect HTTP/1.1\r\n" HOST "Content-Length: 1001\r\n\r\n", 100, &heard);
    expect_seen(&heard, "HTTP/1.1 413");
    talk("POST /s HTTP/1.1\r\n" HOST "Content-Length: 1048577\r\n\r\n", 100, &heard);
    expect_seen(&heard, "HTTP/1.1 413");
    buf_release(&heard);
}

static void continue_only_when_the_body_is_taken(void **state)
{
    (void)state;
    struct buf heard = {0};
    int fd = dial();
    say(fd, STR("POST /s HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
    hear(fd, &heard, "100 Continue\r\n\r\n");
    say(fd, STR("ok"));
    hear(fd, &heard, "2:ok");
    buf_clear(&heard);
    say(fd, STR("POST /collect HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
    hear(fd, &heard, "100 Continue\r\n\r\n");
    say(fd, STR("ok"));
    hear(fd, &heard, "whole:2");
    close(fd);
    static const char *const refused[] = {"POST /deny HTTP/1.1\r\n" HOST
                                          "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        "POST /s HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 9999999\r\n\r\n",
        "POST /collect HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 9999\r\n\r\n"};
    for (int i = 0; i < 3; i++) {
        talk(refused[i], 1000, &heard);
        assert_int_equal(times(&heard, "100 Continue"), 0);
        expect_seen(&heard, i == 0 ? "HTTP/1.1 401" : "HTTP/1.1 413");
        expect_seen(&heard, "Connection: close");
    }
    buf_release(&heard);
}

static void early_answers_end_the_connection(void **state)
{
    (void)state;
    struct buf heard = {0};
    /* from the head, and in the middle of the body; what follows is no request */
    talk("POST /deny HTTP/1.1\r\n" HOST "Content-Length: 200\r\n\r\n" LAST, 10, &heard);
    expect_seen(&heard, "HTTP/1.1 401");
    assert_int_equal(times(&heard, "HTTP/1.1"), 1);
    for (size_t piece = 1; piece < 200; piece *= 3) {
        talk("GET /a HTTP/1.1\r\n" HOST "\r\nPOST /s HTTP/1.1\r\n" HOST
             "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\n!\r\n2\r\ncd\r\n0\r\n\r\n" LAST,
            piece, &heard);
        expect_seen(&heard, "HTTP/1.1 403");
        expect_seen(&heard, "3:ab!");
        assert_int_equal(times(&heard, "HTTP/1.1"), 2);
    }
    /* a body that nobody reads does not keep the answer from a client that sends all of it first */
    int fd = dial();
    char *much = calloc(1, 900000);
    buf_clear(&heard);
    say(fd, STR("POST /s HTTP/1.1\r\n" HOST "Content-Length: 900001\r\n\r\n!"));
    say(fd, str_n(much, 900000));
    hear(fd, &heard, NULL);
    expect_seen(&heard, "HTTP/1.1 403");
    free(much);
    close(fd);
    buf_release(&heard);
}

static void broken_bodies_are_aborted(void **state)
{
    (void)state;
    struct buf heard = {0};
    int before = atomic_load(&fx.aborted);
    talk("POST /s HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nz\r\n", 5, &heard);
    expect_seen(&heard, "HTTP/1.1 400");
    expect_seen(&heard, "2:ab");
    assert_int_equal(atomic_load(&fx.aborted), before + 1);
    char *much = malloc(1100000);
    int head =
        snprintf(much, 200, "POST /s HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n100001\r\n");
    memset(much + head, 'x', 1048577);
    much[head + 1048577] = '\0';
    talk(much, 50000, &heard); /* one byte over max_bytes, unannounced */
    expect_seen(&heard, "HTTP/1.1 413");
    free(much);
    talk("POST /s HTTP/1.1\r\n" HOST "Content-Length: 9\r\n\r\nhel", 100, &heard); /* then silence */
    expect_seen(&heard, "HTTP/1.1 408");
    expect_seen(&heard, "3:hel");
    assert_int_equal(atomic_load(&fx.aborted), before + 3);
    buf_release(&heard);
}

/* The client leaves after each byte of the conversation: nothing leaks (stop() counts), and what was handed
 * over is told once. */
static void the_client_leaves_anywhere(void **state)
{
    (void)state;
    static const char *const said[] = {"POST /s HTTP/1.1\r\n" HOST
                                       "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        "POST /pause HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nabcd",
        "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nabcd"};
    for (size_t i = 0; i < 3; i++) {
        for (size_t n = 1; n <= strlen(said[i]); n++) {
            int fd = dial();
            struct linger at_once = {.l_onoff = (int)(n % 2)};
            (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            say(fd, str_n(said[i], n));
            close(fd);
        }
    }
    until_quiet();
    int gone = atomic_load(&fx.client_gone), ended = atomic_load(&fx.ended);
    int fd = dial();
    say(fd, STR("POST /s HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nab"));
    until(&fx.bodies, 1);
    close(fd);
    until(&fx.bodies, 0);
    assert_int_equal(atomic_load(&fx.client_gone), gone + 1);
    assert_int_equal(atomic_load(&fx.ended), ended);
}

/* The time that the handler takes is not the client's: no timeout while paused, nothing is handed over. */
static void a_pause_is_not_the_clients(void **state)
{
    (void)state;
    struct buf heard = {0};
    struct body *b;
    int fd = dial();
    say(fd, STR("POST /hold HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nab"));
    while ((b = atomic_load(&fx.held)) == NULL)
        uv_sleep(5);
    uv_sleep(1000); /* longer than every timeout of this server */
    assert_int_equal(atomic_load(&fx.bodies), 1);
    net_post(b->req->loop, &b->task);
    uv_sleep(100);
    say(fd, STR("cd" LAST));
    hear(fd, &heard, NULL);
    expect_seen(&heard, "HTTP/1.1 200");
    expect_seen(&heard, "4:abcd");
    expect_seen(&heard, "whole:0");
    close(fd);
    buf_release(&heard);
}

static void both_directions_at_once(void **state)
{
    (void)state;
    struct buf heard = {0};
    int fd = dial();
    say(fd, STR("POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"));
    hear(fd, &heard, "100 Continue\r\n\r\nHTTP/1.1 200 OK");
    say(fd, STR("3\r\none\r\n"));
    hear(fd, &heard, "3\r\none\r\n"); /* while the body is not over */
    say(fd, STR("3\r\ntwo\r\n"));
    hear(fd, &heard, "3\r\ntwo\r\n");
    say(fd, STR("0\r\n\r\n"));
    hear(fd, &heard, NULL);
    expect_seen(&heard, "3\r\nend\r\n0\r\n\r\n");
    close(fd);
    /* the answer ends first: the rest of the body is dropped */
    talk("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 100\r\n\r\nab!cd", 1, &heard);
    expect_seen(&heard, "!");
    assert_memory_equal(heard.ptr + heard.len - 5, "0\r\n\r\n", 5);
    /* a broken body is told to the answer's owner */
    talk("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nz\r\n", 1, &heard);
    expect_seen(&heard, "bad chunk");
    until(&fx.bodies, 0);
    buf_release(&heard);
}

static void file_answers(void **state)
{
    (void)state;
    struct buf heard = {0};
    char request[200];
    static const size_t sizes[] = {0, 1, 32768, 65536, 65537, FILE_BYTES - 1};
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i / 2];
        snprintf(request, sizeof request, "GET /%s?%zu HTTP/1.1\r\n" HOST "\r\n" LAST,
            i % 2 == 0 ? "file" : "read", size);
        talk(request, 200, &heard);
        char want[100];
        snprintf(want, sizeof want, "Content-Length: %zu\r\n", size);
        expect_seen(&heard, want);
        expect_seen(&heard, "Cache-Control: private\r\n");
        expect_seen(&heard, "whole:0");
        const char *body = (char *)memmem(heard.ptr, heard.len, "\r\n\r\n", 4) + 4;
        for (size_t k = 0; k < size; k++) {
            if (body[k] != (char)((k + 1) * 7 + ((k + 1) >> 12)))
                fail_msg("byte %zu of %zu", k, size);
        }
        assert_memory_equal(body + size, "HTTP/1.1 200", 12);
    }
    talk("HEAD /file?100 HTTP/1.1\r\n" HOST "\r\n" LAST, 200, &heard);
    expect_seen(&heard, "Content-Length: 100\r\n");
    assert_int_equal(times(&heard, "HTTP/1.1 200"), 2);
    /* shorter than promised: cut, never padded, and nothing after it */
    for (int i = 0; i < 2; i++) {
        snprintf(request, sizeof request, "GET /%s?%zu HTTP/1.1\r\n" HOST "\r\n" LAST,
            i == 0 ? "file" : "read", FILE_BYTES + 100);
        talk(request, 200, &heard);
        const char *body = (char *)memmem(heard.ptr, heard.len, "\r\n\r\n", 4) + 4;
        assert_int_equal(heard.ptr + heard.len - body, FILE_BYTES - 1);
    }
    buf_release(&heard);
}

static void file_and_its_client(void **state)
{
    (void)state;
    struct buf heard = {0};
    /* one that says no more after its request still gets all of it */
    int fd = dial();
    char request[200];
    snprintf(request, sizeof request, "GET /file?%zu HTTP/1.1\r\n" HOST "\r\n", FILE_BYTES - 1);
    say(fd, str_c(request));
    uv_sleep(50);
    shutdown(fd, SHUT_WR);
    hear(fd, &heard, NULL);
    assert_true(heard.len > FILE_BYTES);
    close(fd);
    /* one that reads slowly does too, longer than the stall timeout */
    int small = 65536;
    fd = dial();
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    say(fd, str_c(request));
    buf_clear(&heard);
    for (int i = 0; i < 20; i++) {
        char piece[20000];
        uv_sleep(60);
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        assert_true(n > 0);
        buf_append(&heard, piece, (size_t)n);
    }
    say(fd, STR(LAST));
    hear(fd, &heard, NULL);
    expect_seen(&heard, "whole:0");
    assert_true(heard.len > FILE_BYTES);
    close(fd);
    /* one that reads nothing is cut, one that leaves is forgotten */
    fd = dial();
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    say(fd, str_c(request));
    until_quiet();
    close(fd);
    buf_release(&heard);
}

static void made_answers(void **state)
{
    (void)state;
    struct buf heard = {0};
    talk("GET /sized HTTP/1.1\r\n" HOST "\r\n", 200, &heard);
    expect_seen(&heard, "Content-Length: 8388608\r\n");
    expect_seen(&heard, "Content-Disposition: attachment\r\n");
    const char *body = (char *)memmem(heard.ptr, heard.len, "\r\n\r\n", 4) + 4;
    assert_int_equal(heard.ptr + heard.len - body, ANSWER_BYTES);
    talk("GET /answer HTTP/1.1\r\n" HOST "\r\n", 200, &heard);
    expect_seen(&heard, "Transfer-Encoding: chunked\r\n");
    assert_memory_equal(heard.ptr + heard.len - 5, "0\r\n\r\n", 5);
    assert_int_equal(times(&heard, "\r\n2710\r\n"), ANSWER_BYTES / 10000);
    /* less than announced is no whole answer: cut, which the length shows */
    talk("GET /short HTTP/1.1\r\n" HOST "\r\n", 200, &heard);
    expect_seen(&heard, "Content-Length: 8388609\r\n");
    until(&fx.bodies, 0);
    /* a client that reads nothing is cut off */
    int small = 65536, fd = dial(), closed = atomic_load(&fx.closed);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    say(fd, STR("GET /answer HTTP/1.1\r\n" HOST "\r\n"));
    until(&fx.closed, closed + 1);
    close(fd);
    buf_release(&heard);
}

/* A shutdown waits for bodies and made answers that are under way. */
static void a_stop_waits(void **state)
{
    (void)state;
    struct buf heard = {0};
    int small = 65536, body = dial(), answer = dial();
    (void)setsockopt(answer, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    say(body, STR("POST /s HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nab"));
    say(answer, STR("GET /answer HTTP/1.1\r\n" HOST "\r\n"));
    until(&fx.bodies, 2);
    net_stop(fx.net);
    uv_sleep(100);
    say(body, STR("cd"));
    hear(body, &heard, NULL);
    expect_seen(&heard, "4:abcd");
    buf_clear(&heard);
    hear(answer, &heard, NULL);
    assert_memory_equal(heard.ptr + heard.len - 5, "0\r\n\r\n", 5);
    assert_int_equal(times(&heard, "\r\n2710\r\n"), ANSWER_BYTES / 10000); /* whole, not only ended */
    close(body);
    close(answer);
    buf_release(&heard);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(streamed_bodies_at_every_cut),
        cmocka_unit_test(collected_and_streamed_in_one_pipeline),
        cmocka_unit_test(continue_only_when_the_body_is_taken),
        cmocka_unit_test(early_answers_end_the_connection), cmocka_unit_test(broken_bodies_are_aborted),
        cmocka_unit_test(the_client_leaves_anywhere), cmocka_unit_test(a_pause_is_not_the_clients),
        cmocka_unit_test(both_directions_at_once), cmocka_unit_test(file_answers),
        cmocka_unit_test(file_and_its_client), cmocka_unit_test(made_answers),
        cmocka_unit_test(a_stop_waits)};
    return cmocka_run_group_tests(tests, start, stop);
}
