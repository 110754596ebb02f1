/* Tickets: base64url of
 *
 *   version u8 | role u8 | expires be64 | issued be64 | key be64 | length u8, user id | length u8, jti | HMAC
 *
 * The last three bind a ticket to the token that it was asked for with: it ends with it. */
#include "auth/auth_int.h"
#include "base/json.h"
#include <openssl/crypto.h>

#define TICKET_VERSION 2
#define MAC_BYTES 32

static bool ticket_mac(const struct auth *a, struct str payload, struct str ref, unsigned char ret[MAC_BYTES])
{
    struct buf text = BUF_INIT(65536);
    buf_str(&text, payload); /* says its own length */
    buf_str(&text, ref);
    bool ok = !text.failed &&
              hmac_sha256(str_n((const char *)a->ticket_key, sizeof a->ticket_key), buf_view(&text), ret);
    buf_release(&text);
    return ok;
}

enum err auth_ticket_mint(
    const struct auth *a, const struct identity *who, struct str ref, struct buf *b, struct errctx *ec)
{
    struct buf raw = BUF_INIT(1024);
    unsigned char mac[MAC_BYTES];
    buf_u8(&raw, TICKET_VERSION);
    buf_u8(&raw, (uint8_t)who->role);
    buf_be64(&raw, (uint64_t)who->expires_s);
    buf_be64(&raw, (uint64_t)who->issued_s);
    buf_be64(&raw, who->key_id);
    buf_u8(&raw, (uint8_t)who->user_id_len);
    buf_append(&raw, who->user_id, who->user_id_len);
    buf_u8(&raw, (uint8_t)who->jti_len);
    buf_append(&raw, who->jti, who->jti_len);
    bool ok = !raw.failed && ticket_mac(a, buf_view(&raw), ref, mac);
    if (ok) {
        buf_append(&raw, mac, sizeof mac);
        base64url_encode(b, buf_view(&raw));
    }
    ok = ok && !raw.failed && !b->failed;
    buf_release(&raw);
    return ok ? ERR_OK : err_set(ec, ERR_NO_MEMORY, "out of memory");
}

static bool ticket_read(const struct auth *a, struct str raw, struct str ref, struct identity *ret)
{
    unsigned char want[MAC_BYTES];
    if (raw.len < MAC_BYTES)
        return false;
    struct str payload = str_n(raw.ptr, raw.len - MAC_BYTES);
    if (!ticket_mac(a, payload, ref, want) || CRYPTO_memcmp(raw.ptr + payload.len, want, sizeof want) != 0)
        return false;
    struct reader r = reader_of(payload);
    uint8_t version = read_u8(&r), role = read_u8(&r);
    struct identity id = {0};
    id.expires_s = (int64_t)read_be64(&r);
    id.issued_s = (int64_t)read_be64(&r);
    id.key_id = read_be64(&r);
    struct str user = read_bytes(&r, read_u8(&r));
    struct str jti = read_bytes(&r, read_u8(&r));
    if (r.bad || reader_left(&r) != 0 || version != TICKET_VERSION || role > ROLE_ADMIN)
        return false;
    id.role = (enum role)role;
    id.user_id_len = user.len;
    memcpy(id.user_id, user.ptr, user.len);
    id.jti_len = jti.len;
    memcpy(id.jti, jti.ptr, jti.len);
    *ret = id;
    return true;
}

enum err auth_ticket_verify(const struct auth *a, struct str ticket, struct str ref, int64_t now_s,
    struct identity *ret, struct errctx *ec)
{
    struct buf raw = BUF_INIT(1024);
    struct identity id;
    bool ok = base64url_decode(&raw, ticket) && ticket_read(a, buf_view(&raw), ref, &id);
    buf_release(&raw);
    if (!ok)
        return err_set(ec, ERR_UNAUTHENTICATED, "invalid ticket");
    if (id.expires_s <= now_s)
        return err_set(ec, ERR_UNAUTHENTICATED, "ticket expired");
    *ret = id;
    return ERR_OK;
}
