/* One HTTP/1.1 request whose body, or whose answer, is too large to hold: both are streamed. Blocking. */
#ifndef KALAMDB_CLI_HTTP_H
#define KALAMDB_CLI_HTTP_H

#include "base/buf.h"
#include "base/err.h"
#include "cli/link.h"

struct http_exchange {
    const struct link_target *at;
    const char *method;
    struct str target; /* path and query, encoded */
    struct str token;
    int body_fd; /* read to its end and sent in chunks; -1: no body */
    /* Bytes of a 200 answer; false: stop. */
    bool (*take)(void *arg, struct str bytes);
    void *arg;
    /* Out. */
    int status;
    struct buf answer; /* of any other status; the caller's to release */
};
/* http://host[:port][/] or https://…: INVALID_REQUEST for anything else. Sets host, port and tls. */
enum err http_url(struct str url, struct link_target *ret, struct errctx *ec) CHECKED;
/* UNAVAILABLE: no connection, or it was cut before the answer was whole. */
enum err http_run(struct http_exchange *x, struct errctx *ec) CHECKED;

#endif
