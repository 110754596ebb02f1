/* Tokens from anybody. The input is a header, a newline, a payload: signed with the key, so that the fuzzer
 * gets past the signature; and, as it stands, a whole token. What is accepted must be an identity that the
 * contract allows. */
#include "auth/jwt.h"
#include "base/json.h"
#include <openssl/hmac.h>
#include <stdlib.h>

static const struct str key = {"0123456789abcdef0123456789abcdef", 32};

static void verify(struct str token)
{
    struct jwt_rules rules = {.key = key, .leeway_s = 30, .now_s = 1800000000};
    struct identity id;
    if (jwt_verify(token, &rules, &id) != JWT_OK)
        return;
    if (!user_id_valid(str_n(id.user_id, id.user_id_len)) || id.expires_s + 30 <= rules.now_s ||
        (unsigned)id.role > ROLE_ADMIN || id.user_id[id.user_id_len] != '\0')
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str in = {(const char *)data, size};
    verify(in);
    size_t line = str_find(in, '\n');
    struct buf b = BUF_INIT(1 << 20);
    unsigned char mac[32];
    unsigned int n = sizeof mac;
    base64url_encode(&b, str_n(in.ptr, line));
    buf_u8(&b, '.');
    if (line < size)
        base64url_encode(&b, str_n(in.ptr + line + 1, size - line - 1));
    if (b.ptr != NULL &&
        HMAC(EVP_sha256(), key.ptr, (int)key.len, (unsigned char *)b.ptr, b.len, mac, &n) != NULL) {
        buf_u8(&b, '.');
        base64url_encode(&b, str_n((char *)mac, n));
        verify(buf_view(&b));
    }
    buf_release(&b);
    return 0;
}
