/* Who calls: JSON Web Tokens (RFC 7519, RFC 8725). The algorithm is pinned per key; nothing in a token
 * chooses it. Any thread; keys are replaced as a whole by auth_refresh, everything else stays as it was at
 * open. */
#ifndef KALAMDB_AUTH_AUTH_H
#define KALAMDB_AUTH_AUTH_H

#include "base/err.h"
#include "base/role.h"
#include "os/os.h"

struct auth;

struct auth_config {
    const char *secret; /* HS256 key, raw bytes; NULL: secret_path, unless there are public keys */
    size_t secret_len;
    const char *secret_path; /* made with 32 random bytes (hex), mode 0600, when absent and `create` */
    bool create;
    const char *public_key_path;   /* PEM, or as jwks_path: RS256, ES256, EdDSA; NULL: none */
    const char *jwks_path;         /* RFC 7517; NULL: none */
    const char *issuer, *audience; /* NULL: not checked */
    int64_t leeway_s;
    const struct os *os;
    /* Told of keys that are passed over, also by auth_refresh; may be NULL. */
    void (*warn)(void *arg, const char *text);
    void *warn_arg;
};

#define TOKEN_ID_BYTES_MAX 255 /* jti */
/* 1 to TOKEN_ID_BYTES_MAX bytes of UTF-8 without control characters. */
bool token_id_valid(struct str jti);

struct identity {
    enum role role;
    int64_t expires_s; /* exp, without leeway */
    int64_t issued_s;  /* iat; INT64_MIN when absent */
    uint64_t key_id;   /* what it was signed with: auth_key_live */
    size_t user_id_len, jti_len;
    char user_id[256]; /* bytes, also NUL-terminated */
    char jti[256];     /* likewise; jti_len 0: none */
};

/* INVALID_REQUEST with an operator's message: secret under 32 bytes, unreadable file … */
enum err auth_open(const struct auth_config *cfg, struct auth **ret, struct errctx *ec) CHECKED;
void auth_close(struct auth *a);

/* Reads the key files again if one of them is another than when it was last read (device, inode, size, time),
 * or when told to by `force`. OK with *ret_changed: other keys count from now on. An error: the file is
 * broken and the keys stay what they were; the same file is not complained about again. */
enum err auth_refresh(struct auth *a, bool force, bool *ret_changed, struct errctx *ec) CHECKED;
/* Changes whenever the keys do, from 1 on. */
uint64_t auth_generation(const struct auth *a);
/* Is the key still one of those that count? */
bool auth_key_live(const struct auth *a, uint64_t key_id);
/* Can tokens be minted here (is there a secret)? */
bool auth_mints(const struct auth *a);
size_t auth_key_count(const struct auth *a);

/* UNAUTHENTICATED, message "token expired" or "invalid token". */
enum err auth_verify(
    const struct auth *a, struct str token, int64_t now_s, struct identity *ret, struct errctx *ec) CHECKED;
/* A token for `kalamdb token`. Appends to b. Its jti is random. INVALID_REQUEST also where there are
 * only public keys. */
enum err auth_mint(const struct auth *a, struct str user_id, enum role role, int64_t now_s, int64_t ttl_s,
    struct buf *b, struct errctx *ec) CHECKED;

/* A ticket lets whoever has it read one file as `who` until who->expires_s: text for a URL, for what cannot
 * send a header. It names its user, the HMAC binds it to the file. Its key is derived from the secret (where
 * there are only public keys, random, so that tickets end with the process): no ticket is a token, nor a
 * token a ticket. Appends to b. */
enum err auth_ticket_mint(const struct auth *a, const struct identity *who, struct str ref, struct buf *b,
    struct errctx *ec) CHECKED;
/* UNAUTHENTICATED, message "ticket expired" or "invalid ticket". */
enum err auth_ticket_verify(const struct auth *a, struct str ticket, struct str ref, int64_t now_s,
    struct identity *ret, struct errctx *ec) CHECKED;

#endif
