#include "cli/cli.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct request {
    struct str user;
    enum role role;
    int64_t ttl_s;
};

/* 90, 90s, 15m, 24h, 30d. */
static bool parse_duration(struct str s, int64_t *ret_s)
{
    static const struct {
        char unit;
        int64_t s;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    int64_t factor = 1, n;
    for (size_t i = 0; s.len > 0 && i < sizeof units / sizeof *units; i++) {
        if (s.ptr[s.len - 1] == units[i].unit) {
            factor = units[i].s;
            s.len--;
            break;
        }
    }
    return str_to_i64(s, &n) && n > 0 && !__builtin_mul_overflow(n, factor, ret_s);
}

static bool parse_role(struct str s, enum role *ret)
{
    if (str_eq(s, STR("user")))
        *ret = ROLE_USER;
    else if (str_eq(s, STR("service")))
        *ret = ROLE_SERVICE;
    else if (str_eq(s, STR("admin")))
        *ret = ROLE_ADMIN;
    else
        return false;
    return true;
}

static bool parse(int argc, char **argv, struct request *rq, struct errctx *ec)
{
    for (int i = 0; i < argc;) {
        struct str v = STR_NULL;
        bool ok = true;
        int used = cli_flag(argc - i, argv + i, "--user", &v);
        if (used > 0) {
            rq->user = v;
        } else if ((used = cli_flag(argc - i, argv + i, "--role", &v)) > 0) {
            ok = parse_role(v, &rq->role);
        } else if ((used = cli_flag(argc - i, argv + i, "--ttl", &v)) > 0) {
            ok = parse_duration(v, &rq->ttl_s);
        }
        if (used <= 0) {
            err_set(
                ec, ERR_INVALID_REQUEST, used == 0 ? "unknown argument: %s" : "%s: needs a value", argv[i]);
            return false;
        }
        if (!ok) {
            err_set(ec, ERR_INVALID_REQUEST, "%s: bad value \"%.*s\"", argv[i], STR_FMT(v));
            return false;
        }
        i += used;
    }
    if (rq->user.ptr == NULL) {
        err_set(ec, ERR_INVALID_REQUEST, "--user is missing");
        err_hint(ec, "kalamdb token --user user_alice [--role user|service|admin] [--ttl 24h]");
        return false;
    }
    return true;
}

int cli_token(int argc, char **argv, char **envp)
{
    struct config c;
    struct errctx ec = {0};
    struct request rq = {.role = ROLE_USER, .ttl_s = 86400};
    int left = 0;
    if (!cli_config(&c, argc, argv, envp, &left))
        return EXIT_USAGE;
    struct auth *auth = NULL;
    struct buf token = BUF_INIT(16384);
    int status = EXIT_SUCCESS;
    if (!parse(left, argv, &rq, &ec))
        status = cli_fail(&ec, EXIT_USAGE);
    else if (cli_open_auth(&c, &auth, &ec) != ERR_OK ||
             auth_mint(auth, rq.user, rq.role, os_realtime_us(os_posix()) / 1000000, rq.ttl_s, &token, &ec) !=
                 ERR_OK)
        status = cli_fail(&ec, EXIT_FAILED);
    else
        printf("%.*s\n", (int)token.len, token.ptr);
    buf_release(&token);
    auth_close(auth);
    config_release(&c);
    return status;
}
