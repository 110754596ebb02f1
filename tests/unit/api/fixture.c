#include "fixture.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

char *fixture_token(struct fixture *f, const char *user, enum role role, int64_t ttl_s)
{
    struct buf b = {0};
    struct errctx ec = {0};
    int64_t now = os_realtime_us(os_posix()) / 1000000;
    /* one that has expired was made in the past */
    enum err e = auth_mint(
        f->auth, str_c(user), role, ttl_s > 0 ? now : now + ttl_s - 1, ttl_s > 0 ? ttl_s : 1, &b, &ec);
    assert(e == ERR_OK);
    buf_u8(&b, 0);
    return b.ptr;
}

static char *line(struct fixture *f, const char *user, enum role role, int64_t ttl_s)
{
    char *token = fixture_token(f, user, role, ttl_s);
    struct buf b = {0};
    buf_printf(&b, "Authorization: Bearer %s\r\n", token);
    buf_u8(&b, 0);
    free(token);
    return b.ptr;
}

const char *token_of(const char *authorization)
{
    static char token[2048];
    snprintf(token, sizeof token, "%.*s", (int)(strlen(authorization) - 24), authorization + 22);
    return token;
}

static void *run(void *arg)
{
    struct fixture *f = arg;
    struct errctx ec = {0};
    enum err e = server_run(f->server, &ec);
    if (e != ERR_OK)
        fprintf(stderr, "server_run: %s\n", ec.message);
    return NULL;
}

struct fixture *fixture_start(const char *const *flags)
{
    struct fixture *f = calloc(1, sizeof *f);
    char *argv[32] = {"--listen", "127.0.0.1:0", "--loops", "2", "--jwt-leeway-s", "0"}, *envp[] = {NULL};
    int argc = 6;
    struct errctx ec = {0};
    while (flags != NULL && *flags != NULL)
        argv[argc++] = (char *)(uintptr_t)*flags++;
    enum err e = config_load(&f->cfg, argc, argv, envp, NULL, NULL, &ec);
    if (e != ERR_OK)
        fprintf(stderr, "config_load: %s\n", ec.message);
    assert(e == ERR_OK);
    struct auth_config ac = {.secret = SECRET, .secret_len = sizeof SECRET - 1, .os = os_posix()};
    e = auth_open(&ac, &f->auth, &ec);
    assert(e == ERR_OK);
    f->db = fake_open();
    e = server_open(&f->cfg, f->db, f->auth, &f->server, &ec);
    if (e != ERR_OK)
        fprintf(stderr, "server_open: %s\n", ec.message);
    assert(e == ERR_OK);
    f->port = server_port(f->server);
    f->alice = line(f, "alice", ROLE_USER, 3600);
    f->service = line(f, "worker", ROLE_SERVICE, 3600);
    f->admin = line(f, "root", ROLE_ADMIN, 3600);
    f->expired = line(f, "alice", ROLE_USER, -10);
    pthread_create(&f->thread, NULL, run, f);
    f->running = true;
    return f;
}

void fixture_join(struct fixture *f)
{
    if (f->running)
        pthread_join(f->thread, NULL);
    f->running = false;
}

void fixture_stop(struct fixture *f)
{
    if (f->running)
        server_stop(f->server);
    fixture_join(f);
    server_close(f->server);
    fake_close(f->db);
    auth_close(f->auth);
    config_release(&f->cfg);
    free(f->alice);
    free(f->service);
    free(f->admin);
    free(f->expired);
    free(f);
}

struct reply query(struct fixture *f, const char *body)
{
    return http(f->port, "POST", "/api/v1/query", f->alice, body);
}
