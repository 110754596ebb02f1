/* A worker program that has gone bad, for hostile_test.c: it is its own zygote and answers each request as
 * the SQL says instead of running it. */
#include "analytic/channel.h"
#include "analytic/protocol.h"
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CONTROL_FD 3

static struct buf out;

static void answer(struct str sql)
{
    static const struct str name = {"a", 1};
    static const enum value_type type = VALUE_BIGINT;
    buf_clear(&out);
    if (str_eq(sql, STR("garbage"))) {
        buf_append(&out, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
    } else if (str_eq(sql, STR("huge"))) {
        proto_put_columns(&out, 1, &name, &type);
        buf_append(&out, "\x0f\xff\xff\xff\x03", 5);
    } else if (str_eq(sql, STR("rows first"))) {
        proto_end(&out, proto_begin(&out, FRAME_ROWS));
        size_t at = proto_begin(&out, FRAME_ROWS);
        proto_put_value(&out, value_i64(1));
        proto_end(&out, at);
    } else if (str_eq(sql, STR("lost rows"))) {
        proto_put_columns(&out, 1, &name, &type);
        proto_put_done(&out, (struct proto_done){.rows = 5});
    } else if (str_eq(sql, STR("wrong type"))) {
        proto_put_columns(&out, 1, &name, &type);
        size_t at = proto_begin(&out, FRAME_ROWS);
        proto_put_value(&out, value_text(STR("x")));
        proto_end(&out, at);
    } else if (str_eq(sql, STR("request"))) {
        proto_put_request(&out, &(struct analytic_request){.sql = STR("SELECT 1")});
    } else if (str_eq(sql, STR("too many rows"))) {
        proto_put_columns(&out, 1, &name, &type);
        size_t at = proto_begin(&out, FRAME_ROWS);
        for (int i = 0; i < 10; i++)
            proto_put_value(&out, value_i64(i));
        proto_end(&out, at);
        proto_put_done(&out, (struct proto_done){.rows = 10});
    } else if (str_eq(sql, STR("half"))) {
        proto_put_columns(&out, 1, &name, &type);
        out.len -= 1;
    } else {
        proto_put_columns(&out, 1, &name, &type);
        size_t at = proto_begin(&out, FRAME_ROWS);
        proto_put_value(&out, value_i64(42));
        proto_end(&out, at);
        proto_put_done(&out, (struct proto_done){.rows = 1});
    }
}

static _Noreturn void serve(int sock)
{
    static char body[4096];
    uint8_t header[PROTO_HEADER_BYTES];
    int fds[PROTO_FDS_MAX], nfds;
    struct frame_header h;
    struct arena arena;
    arena_init(&arena, 1u << 20);
    while (channel_recv_fds(sock, header, sizeof header, fds, PROTO_FDS_MAX, &nfds) == sizeof header &&
           proto_header(header, &h) == ERR_OK && h.body_bytes <= sizeof body &&
           channel_recv(sock, body, h.body_bytes, CHANNEL_NO_DEADLINE) == 0) {
        struct analytic_request rq;
        if (proto_get_request(&arena, str_n(body, h.body_bytes), nfds, &rq) != ERR_OK)
            _exit(1);
        answer(rq.sql);
        if (channel_send(sock, buf_view(&out), NULL, 0, CHANNEL_NO_DEADLINE) != 0 ||
            str_eq(rq.sql, STR("half")))
            break;
    }
    _exit(0);
}

int main(void)
{
    uint8_t bytes[CONTROL_BYTES];
    struct control c;
    int sock, nfds;
    control_put(bytes, (struct control){CONTROL_READY, 0, 1});
    if (channel_send(CONTROL_FD, str_n((char *)bytes, sizeof bytes), NULL, 0, CHANNEL_NO_DEADLINE) != 0)
        return 1;
    while (channel_recv_fds(CONTROL_FD, bytes, sizeof bytes, &sock, 1, &nfds) == sizeof bytes &&
           control_get(str_n((char *)bytes, sizeof bytes), &c) == ERR_OK) {
        pid_t pid = fork();
        if (pid == 0) {
            close(CONTROL_FD);
            serve(sock);
        }
        close(sock);
        int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        control_put(bytes, (struct control){CONTROL_FORKED, c.id, (uint32_t)pid});
        if (channel_send(CONTROL_FD, str_n((char *)bytes, sizeof bytes), &pidfd, 1, CHANNEL_NO_DEADLINE) != 0)
            return 1;
        close(pidfd);
    }
    return 0;
}
