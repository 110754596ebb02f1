/* The one list of errors. Fallible functions return `enum err` (warn_unused_result) and fill a caller-owned
 * `struct errctx` with what a client may read; outputs are ret_* parameters, last, untouched on failure. */
#ifndef KALAMDB_BASE_ERR_H
#define KALAMDB_BASE_ERR_H

#include "base/str.h"
#include <stdarg.h>

/* X(symbol, wire code, HTTP status) */
#define ERR_LIST(X)                                                                                          \
    X(ERR_OK, "OK", 200)                                                                                     \
    X(ERR_INVALID_REQUEST, "INVALID_REQUEST", 400)                                                           \
    X(ERR_SYNTAX, "SYNTAX_ERROR", 400)                                                                       \
    X(ERR_UNDEFINED_TABLE, "UNDEFINED_TABLE", 400)                                                           \
    X(ERR_UNDEFINED_COLUMN, "UNDEFINED_COLUMN", 400)                                                         \
    X(ERR_UNDEFINED_FUNCTION, "UNDEFINED_FUNCTION", 400)                                                     \
    X(ERR_TYPE_MISMATCH, "TYPE_MISMATCH", 400)                                                               \
    X(ERR_CONSTRAINT, "CONSTRAINT_VIOLATION", 400)                                                           \
    X(ERR_INVALID_VALUE, "INVALID_VALUE", 400)                                                               \
    X(ERR_UNSUPPORTED, "UNSUPPORTED", 400)                                                                   \
    X(ERR_UNAUTHENTICATED, "UNAUTHENTICATED", 401)                                                           \
    X(ERR_FORBIDDEN, "FORBIDDEN", 403)                                                                       \
    X(ERR_NOT_FOUND, "NOT_FOUND", 404)                                                                       \
    X(ERR_METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", 405)                                                     \
    X(ERR_TIMEOUT, "TIMEOUT", 408)                                                                           \
    X(ERR_CONFLICT, "CONFLICT", 409)                                                                         \
    X(ERR_TOO_LARGE, "TOO_LARGE", 413)                                                                       \
    X(ERR_RATE_LIMITED, "RATE_LIMITED", 429)                                                                 \
    X(ERR_INTERNAL, "INTERNAL", 500)                                                                         \
    X(ERR_UNAVAILABLE, "UNAVAILABLE", 503)                                                                   \
    X(ERR_OUTCOME_UNKNOWN, "OUTCOME_UNKNOWN", 503)                                                           \
    /* Below: never leave the engine. */                                                                     \
    X(ERR_IO, "INTERNAL", 500)                                                                               \
    X(ERR_CORRUPT, "INTERNAL", 500)                                                                          \
    X(ERR_NO_MEMORY, "INTERNAL", 500)                                                                        \
    X(ERR_RETRY, "INTERNAL", 500)

enum err {
#define X(sym, wire, status) sym,
    ERR_LIST(X)
#undef X
};

#define CHECKED __attribute__((warn_unused_result))

struct errctx {
    enum err code;
    int position;      /* 1-based byte in the SQL text; 0: unknown */
    char message[512]; /* NUL-terminated, cut on a character */
    char detail[512];  /* "" : none */
    char hint[256];
    char internal[512]; /* for the log only: paths, errno, library messages */
};

const char *err_wire(enum err e);
int err_status(enum err e);

void errctx_clear(struct errctx *ec);
/* Sets code and message (replacing what was there) and returns `code`, so `return err_set(ec, ERR_…, "…")`
 * works. */
enum err err_set(struct errctx *ec, enum err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void err_detail(struct errctx *ec, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void err_hint(struct errctx *ec, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Code, generic client message ("internal error"), and the given text for the log only. */
enum err err_internal(struct errctx *ec, enum err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Prefixes `internal` with "what: " on the way up. */
void err_path(struct errctx *ec, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
