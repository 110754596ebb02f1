/* Who may ask how often: per user, per address, and for those who fail to say who they are. Probes and
 * metrics are not counted: whoever watches the server must see it also then. Nothing of X-Forwarded-For is
 * believed: behind a proxy every address is the proxy's, and limits per address are the proxy's matter. */
#include "api/session.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <uv.h>

#define ENTRIES ((size_t)1 << 20) /* 16 bytes each, taken as they are touched */
#define OWN_FILES 64
#define OFFENCES_MAX 100 /* messages of one socket over the rate, in a row, before it is closed */

static uint64_t now_us(void)
{
    return uv_hrtime() / 1000;
}

static bool rate_open(struct limit_rate **l, int64_t per_s, int64_t burst)
{
    if (per_s == 0)
        return true;
    *l = limit_rate_new((double)per_s, (uint32_t)(burst > 0 ? burst : 2 * per_s), ENTRIES);
    return *l != NULL;
}

enum err limits_open(struct server *s, struct errctx *ec)
{
    const struct config *c = s->cfg;
    struct limits *l = &s->limits;
    bool ok = rate_open(&l->user, c->rate_limit_per_user, c->rate_limit_per_user_burst) &&
              rate_open(&l->address, c->rate_limit_per_address, c->rate_limit_per_address_burst);
    if (ok && c->auth_failures_per_address > 0) {
        l->failures = limit_rate_new(
            (double)c->auth_failures_per_address / 60, (uint32_t)c->auth_failures_per_address, ENTRIES);
        ok = l->failures != NULL;
    }
    if (ok && c->max_connections_per_user > 0) {
        l->sockets = limit_count_new((uint32_t)c->max_connections_per_user);
        ok = l->sockets != NULL;
    }
    return ok ? ERR_OK : err_set(ec, ERR_NO_MEMORY, "out of memory");
}

void limits_close(struct server *s)
{
    limit_rate_free(s->limits.user);
    limit_rate_free(s->limits.address);
    limit_rate_free(s->limits.failures);
    limit_count_free(s->limits.sockets);
}

size_t limits_connections(const struct config *c)
{
    struct rlimit limit;
    if (c->max_connections > 0)
        return (size_t)c->max_connections;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 1000;
    size_t files = limit.rlim_cur < 10000000 ? (size_t)limit.rlim_cur : 10000000, tenth = files / 10;
    return files > 4 * OWN_FILES ? files - tenth - OWN_FILES : files / 2;
}

/* The key of a text that may be longer than one. */
static void text_key(struct kalamdb_str text, uint8_t ret[LIMIT_KEY_BYTES])
{
    uint8_t digest[32];
    sha256(str_n(text.ptr, text.len), digest);
    memcpy(ret, digest, LIMIT_KEY_BYTES);
}

static bool refuse(struct call *c, uint64_t wait_ms, const char *message)
{
    char retry[48];
    if (wait_ms == 0)
        return false;
    snprintf(retry, sizeof retry, "Retry-After: %llu\r\n", (unsigned long long)(wait_ms + 999) / 1000);
    counter_add(&c->worker->limited, 1);
    answer_status(c, 429, STR("RATE_LIMITED"), str_c(message), str_c(retry));
    return true;
}

bool limited_address(struct call *c)
{
    const struct limits *l = &c->worker->server->limits;
    bool probe = c->route == ROUTE_HEALTH || c->route == ROUTE_HEALTHZ || c->route == ROUTE_READYZ ||
                 c->route == ROUTE_METRICS;
    const uint8_t *key = net_request_address(c->req);
    return l->address != NULL && !probe && key != NULL &&
           refuse(c, limit_rate_take(l->address, key, now_us()), "too many requests from this address");
}

bool limited_user(struct call *c)
{
    const struct limits *l = &c->worker->server->limits;
    uint8_t key[LIMIT_KEY_BYTES];
    if (l->user == NULL)
        return false;
    text_key(principal_id(c->who), key);
    return refuse(c, limit_rate_take(l->user, key, now_us()), "too many requests");
}

bool limited_failure(struct call *c)
{
    const struct limits *l = &c->worker->server->limits;
    const uint8_t *key = net_request_address(c->req);
    return l->failures != NULL && key != NULL &&
           refuse(c, limit_rate_take(l->failures, key, now_us()), "too many bad tokens from this address");
}

bool session_limited_failure(struct session *s, const uint8_t *address)
{
    const struct limits *l = &s->worker->server->limits;
    if (l->failures == NULL || address == NULL || limit_rate_take(l->failures, address, now_us()) == 0)
        return false;
    counter_add(&s->worker->limited, 1);
    net_stream_close(s->conn, WS_CODE_LIMITED, STR("too many bad tokens from this address"), false);
    return true;
}

enum session_pace session_pace(struct session *s)
{
    const struct limits *l = &s->worker->server->limits;
    uint8_t key[LIMIT_KEY_BYTES];
    uint64_t wait = 0;
    if (l->address != NULL)
        wait = limit_rate_take(l->address, net_stream_address(s->conn), now_us());
    if (wait == 0 && l->user != NULL && s->who != NULL) {
        text_key(principal_id(s->who), key);
        wait = limit_rate_take(l->user, key, now_us());
    }
    if (wait == 0) {
        s->offences = 0;
        return PACE_FINE;
    }
    counter_add(&s->worker->limited, 1);
    if (s->who != NULL && ++s->offences <= OFFENCES_MAX)
        return PACE_TOO_FAST;
    net_stream_close(s->conn, WS_CODE_LIMITED, STR("too many messages"), false);
    return PACE_CLOSED;
}

bool session_enter(struct session *s)
{
    const struct limits *l = &s->worker->server->limits;
    uint8_t key[LIMIT_KEY_BYTES];
    if (l->sockets == NULL || s->counted || s->who == NULL)
        return true;
    text_key(principal_id(s->who), key);
    s->counted = limit_count_enter(l->sockets, key);
    if (!s->counted)
        counter_add(&s->worker->limited, 1);
    return s->counted;
}

void session_leave(struct session *s)
{
    uint8_t key[LIMIT_KEY_BYTES];
    if (!s->counted)
        return;
    text_key(principal_id(s->who), key);
    limit_count_leave(s->worker->server->limits.sockets, key);
    s->counted = false;
}
