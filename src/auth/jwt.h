/* Compact JWS (RFC 7515) and the claims of RFC 7519: bytes and keys in, claims out. */
#ifndef KALAMDB_AUTH_JWT_H
#define KALAMDB_AUTH_JWT_H

#include "auth/auth.h"
#include "auth/keys.h"

#define JWT_BYTES_MAX 8192

struct jwt_rules {
    const struct key_set *keys;
    struct str issuer, audience; /* ptr NULL: not checked */
    int64_t leeway_s, now_s;
};

enum jwt_result { JWT_OK, JWT_INVALID, JWT_EXPIRED };

/* The signature is checked before a claim is looked at. The header's `alg` and `kid` select among the keys;
 * a key without a name is tried whatever the kid, and without a kid every key of that algorithm is. */
enum jwt_result jwt_verify(struct str token, const struct jwt_rules *rules, struct identity *ret);
/* Appends the token of a payload (JSON), signed with HS256. False when memory ran out. */
bool jwt_sign(struct str key, struct str payload, struct buf *ret);

#endif
