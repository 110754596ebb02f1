/* Who calls: JSON Web Tokens (RFC 7519, RFC 8725). The algorithm is pinned per key; nothing in a token
 * chooses it. Immutable after open, any thread. */
#ifndef KALAMDB_AUTH_AUTH_H
#define KALAMDB_AUTH_AUTH_H

#include "base/err.h"
#include "base/role.h"
#include "os/os.h"

struct auth;

struct auth_config {
    const char *secret; /* HS256 key, raw bytes; NULL: secret_path */
    size_t secret_len;
    const char *secret_path; /* made with 32 random bytes (hex), mode 0600, when absent and `create` */
    bool create;
    const char *issuer, *audience; /* NULL: not checked */
    int64_t leeway_s;
    const struct os *os;
};

struct identity {
    enum role role;
    int64_t expires_s; /* exp, without leeway */
    int64_t issued_s;  /* iat; INT64_MIN when absent */
    size_t user_id_len;
    char user_id[256]; /* bytes, also NUL-terminated */
};

/* INVALID_REQUEST with an operator's message: secret under 32 bytes, unreadable file … */
enum err auth_open(const struct auth_config *cfg, struct auth **ret, struct errctx *ec) CHECKED;
void auth_close(struct auth *a);
/* UNAUTHENTICATED, message "token expired" or "invalid token". */
enum err auth_verify(
    const struct auth *a, struct str token, int64_t now_s, struct identity *ret, struct errctx *ec) CHECKED;
/* A token for `kalamdb token`. Appends to b. */
enum err auth_mint(const struct auth *a, struct str user_id, enum role role, int64_t now_s, int64_t ttl_s,
    struct buf *b, struct errctx *ec) CHECKED;

/* A ticket lets whoever has it read one file as `who` until who->expires_s: text for a URL, for what cannot
 * send a header. It names its user, the HMAC binds it to the file. Its key is derived from the secret, so
 * that no ticket is a token, nor a token a ticket. Appends to b. */
enum err auth_ticket_mint(const struct auth *a, const struct identity *who, struct str ref, struct buf *b,
    struct errctx *ec) CHECKED;
/* UNAUTHENTICATED, message "ticket expired" or "invalid ticket". */
enum err auth_ticket_verify(const struct auth *a, struct str ticket, struct str ref, int64_t now_s,
    struct identity *ret, struct errctx *ec) CHECKED;

#endif
