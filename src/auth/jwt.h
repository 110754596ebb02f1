/* Compact JWS (RFC 7515) with HS256 and the claims of RFC 7519, no key management: bytes in, claims out. */
#ifndef KALAMDB_AUTH_JWT_H
#define KALAMDB_AUTH_JWT_H

#include "auth/auth.h"

struct jwt_rules {
    struct str key;
    struct str issuer, audience; /* ptr NULL: not checked */
    int64_t leeway_s, now_s;
};

enum jwt_result { JWT_OK, JWT_INVALID, JWT_EXPIRED };

bool hmac_sha256(struct str key, struct str text, unsigned char ret[32]);
/* The signature is checked before a claim is looked at. */
enum jwt_result jwt_verify(struct str token, const struct jwt_rules *rules, struct identity *ret);
/* Appends the signed token of a payload (JSON). False when memory ran out. */
bool jwt_sign(struct str key, struct str payload, struct buf *ret);

#endif
