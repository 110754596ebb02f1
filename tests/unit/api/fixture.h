/* A server over the fake engine on a port of its own, for the tests of this folder. */
#ifndef TEST_FIXTURE_H
#define TEST_FIXTURE_H

#include "api/api.h"
#include "client.h"
#include "fake_engine.h"
#include <pthread.h>

#define SECRET "0123456789abcdef0123456789abcdef"

struct fixture {
    struct config cfg;
    struct auth *auth;
    struct kalamdb *db;
    struct server *server;
    pthread_t thread;
    int port;
    bool running;
    char *alice, *service, *admin, *expired; /* "Authorization: Bearer …\r\n" */
};

/* `flags` as on the command line, NULL-terminated: "--idle-timeout-ms", "300", NULL. */
struct fixture *fixture_start(const char *const *flags);
/* Stops, waits for server_run, frees. */
void fixture_stop(struct fixture *f);
/* Waits until server_run has returned. */
void fixture_join(struct fixture *f);
/* A token for a user; owned by the caller. */
char *fixture_token(struct fixture *f, const char *user, enum role role, int64_t ttl_s);
/* The token behind an Authorization line, in a static buffer. */
const char *token_of(const char *authorization);
/* POST /api/v1/query as alice. */
struct reply query(struct fixture *f, const char *body);

#define assert_reply(r, want_status, want_body)                                                              \
    do {                                                                                                     \
        struct reply reply_ = (r);                                                                           \
        assert_int_equal(reply_.status, want_status);                                                        \
        assert_string_equal(reply_.body.ptr, want_body);                                                     \
        reply_release(&reply_);                                                                              \
    } while (0)

#endif
