/* Receipts of erasures: a signed statement that anybody who has it can check, with OpenSSL or ten lines of
 * any language. Ed25519 (RFC 8032) over the UTF-8 bytes of
 *
 *     kalamdb erasure receipt 1
 *     user: <id>
 *     erasedAt: <RFC 3339, microseconds, Z>
 *     messages: <n>
 *     files: <n>
 *     bytes: <n>
 *     backups: covered|not covered
 *
 * each line ended by a line feed. A user id holds no control characters, so the lines cannot be confused. The
 * key pair is made in <data>/.kalamdb/receipt.key (PKCS #8, PEM, mode 0600) when it is first needed.
 *
 * Threading: a key is immutable, any thread. */
#ifndef KALAMDB_AUTH_RECEIPT_H
#define KALAMDB_AUTH_RECEIPT_H

#include "base/err.h"
#include "os/os.h"

#define RECEIPT_KEY_BYTES 32
#define RECEIPT_SIGNATURE_BYTES 64

struct receipt {
    struct str user;
    int64_t erased_at_us;
    uint64_t messages, files, bytes;
    struct str backups;
};

struct receipt_key;

/* INVALID_REQUEST: the file is no Ed25519 key, or is absent and not to be made. IO. */
enum err receipt_key_open(
    const struct os *os, const char *path, bool create, struct receipt_key **ret, struct errctx *ec) CHECKED;
void receipt_key_close(struct receipt_key *k);
void receipt_key_public(const struct receipt_key *k, uint8_t ret[RECEIPT_KEY_BYTES]);

/* The text that is signed. */
void receipt_text(const struct receipt *r, struct buf *b);
/* Appends the receipt as a JSON object, with "signature" and "key" in base64. */
enum err receipt_sign(
    const struct receipt_key *k, const struct receipt *r, struct buf *json, struct errctx *ec) CHECKED;

/* Reads a receipt and checks its signature with `key`, or, when NULL, with the key that it names itself.
 * INVALID_REQUEST: it is none; FORBIDDEN: the signature is not by that key over these words. ret_key: the key
 * that it was checked with. */
enum err receipt_verify(struct str json, const uint8_t *key, uint8_t ret_key[RECEIPT_KEY_BYTES],
    struct buf *ret_text, struct errctx *ec) CHECKED;
/* Standard base64 with padding, of exactly n bytes. */
bool receipt_base64(struct str text, uint8_t *ret, size_t n);

#endif
