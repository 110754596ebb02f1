#include "auth/receipt.h"
#include "base/json.h"
#include "base/timefmt.h"
#include <jansson.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdlib.h>

#define KEY_FILE_BYTES_MAX 4096

struct receipt_key {
    EVP_PKEY *pkey;
    uint8_t public_key[RECEIPT_KEY_BYTES];
};

/* ---- the key ---- */

static enum err create_key(const struct os *os, const char *path, struct errctx *ec)
{
    EVP_PKEY *pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    BIO *bio = BIO_new(BIO_s_mem());
    char *pem = NULL;
    enum err e = err_internal(ec, ERR_INTERNAL, "OpenSSL makes no Ed25519 key");
    if (pkey != NULL && bio != NULL && PEM_write_bio_PKCS8PrivateKey(bio, pkey, NULL, NULL, 0, NULL, NULL)) {
        long n = BIO_get_mem_data(bio, &pem);
        e = os_write_file(os, path, str_n(pem, (size_t)n), 0600, ec);
        OPENSSL_cleanse(pem, (size_t)n);
    }
    BIO_free(bio);
    EVP_PKEY_free(pkey);
    return e;
}

static enum err parse_key(struct receipt_key *k, struct str pem, const char *path, struct errctx *ec)
{
    size_t n = sizeof k->public_key;
    BIO *bio = BIO_new_mem_buf(pem.ptr, (int)pem.len);
    k->pkey = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    if (k->pkey == NULL || EVP_PKEY_get_id(k->pkey) != EVP_PKEY_ED25519 ||
        !EVP_PKEY_get_raw_public_key(k->pkey, k->public_key, &n)) {
        err_set(ec, ERR_INVALID_REQUEST, "%s is no Ed25519 private key in PEM", path);
        err_hint(ec, "Move it away: a new one is made, and receipts of before keep naming the old one.");
        return ec->code;
    }
    return ERR_OK;
}

enum err receipt_key_open(
    const struct os *os, const char *path, bool create, struct receipt_key **ret, struct errctx *ec)
{
    struct buf pem = BUF_INIT(KEY_FILE_BYTES_MAX);
    enum err e = os_read_file(path, &pem, ec);
    if (e == ERR_NOT_FOUND && create) {
        e = create_key(os, path, ec);
        buf_clear(&pem);
        if (e == ERR_OK)
            e = os_read_file(path, &pem, ec);
    }
    if (e == ERR_NOT_FOUND)
        e = err_set(ec, ERR_INVALID_REQUEST, "there is no %s", path);
    struct receipt_key *k = e == ERR_OK ? calloc(1, sizeof *k) : NULL;
    if (e == ERR_OK && k == NULL)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (e == ERR_OK)
        e = parse_key(k, buf_view(&pem), path, ec);
    if (pem.len > 0)
        OPENSSL_cleanse(pem.ptr, pem.len);
    buf_release(&pem);
    if (e != ERR_OK) {
        receipt_key_close(k);
        return e;
    }
    *ret = k;
    return ERR_OK;
}

void receipt_key_close(struct receipt_key *k)
{
    if (k == NULL)
        return;
    EVP_PKEY_free(k->pkey);
    free(k);
}

void receipt_key_public(const struct receipt_key *k, uint8_t ret[RECEIPT_KEY_BYTES])
{
    memcpy(ret, k->public_key, RECEIPT_KEY_BYTES);
}

/* ---- signing ---- */

void receipt_text(const struct receipt *r, struct buf *b)
{
    buf_str(b, STR("kalamdb erasure receipt 1\nuser: "));
    buf_str(b, r->user);
    buf_str(b, STR("\nerasedAt: "));
    time_format(b, r->erased_at_us);
    buf_printf(b, "\nmessages: %llu\nfiles: %llu\nbytes: %llu\nbackups: ", (unsigned long long)r->messages,
        (unsigned long long)r->files, (unsigned long long)r->bytes);
    buf_str(b, r->backups);
    buf_u8(b, '\n');
}

enum err receipt_sign(
    const struct receipt_key *k, const struct receipt *r, struct buf *json, struct errctx *ec)
{
    uint8_t signature[RECEIPT_SIGNATURE_BYTES];
    size_t n = sizeof signature;
    struct buf text = BUF_INIT(0);
    receipt_text(r, &text);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = !text.failed && md != NULL && EVP_DigestSignInit(md, NULL, NULL, NULL, k->pkey) == 1 &&
              EVP_DigestSign(md, signature, &n, (const uint8_t *)text.ptr, text.len) == 1;
    EVP_MD_CTX_free(md);
    buf_release(&text);
    if (!ok)
        return err_internal(ec, ERR_INTERNAL, "OpenSSL does not sign");
    buf_str(json, STR("{\"user\":"));
    json_str(json, r->user);
    buf_str(json, STR(",\"erasedAt\":\""));
    time_format(json, r->erased_at_us);
    buf_printf(json,
        "\",\"messages\":%llu,\"files\":%llu,\"bytes\":%llu,\"backups\":", (unsigned long long)r->messages,
        (unsigned long long)r->files, (unsigned long long)r->bytes);
    json_str(json, r->backups);
    buf_str(json, STR(",\"signature\":\""));
    base64_encode(json, str_n((const char *)signature, n));
    buf_str(json, STR("\",\"key\":\""));
    base64_encode(json, str_n((const char *)k->public_key, sizeof k->public_key));
    buf_str(json, STR("\"}"));
    return json->failed ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
}

/* ---- checking ---- */

bool receipt_base64(struct str text, uint8_t *ret, size_t n)
{
    uint8_t out[96];
    struct buf again = BUF_INIT(0);
    if (text.len != (n + 2) / 3 * 4 || text.len / 4 * 3 > sizeof out)
        return false;
    int got = EVP_DecodeBlock(out, (const uint8_t *)text.ptr, (int)text.len);
    /* It says nothing of padding: that this is the one way to write these bytes, writing them tells. */
    base64_encode(&again, str_n((const char *)out, n));
    bool ok = got >= (int)n && str_eq(buf_view(&again), text);
    buf_release(&again);
    if (ok)
        memcpy(ret, out, n);
    return ok;
}

static struct str member(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_string(v) ? str_n(json_string_value(v), json_string_length(v)) : STR_NULL;
}

static bool count(const json_t *o, const char *name, uint64_t *ret)
{
    const json_t *v = json_object_get(o, name);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *ret = (uint64_t)json_integer_value(v);
    return true;
}

static bool read_receipt(const json_t *o, struct receipt *r, uint8_t *signature, uint8_t *key)
{
    r->user = member(o, "user");
    r->backups = member(o, "backups");
    return r->user.ptr != NULL && memchr(r->user.ptr, '\n', r->user.len) == NULL && r->backups.ptr != NULL &&
           memchr(r->backups.ptr, '\n', r->backups.len) == NULL &&
           time_parse(member(o, "erasedAt"), &r->erased_at_us) && count(o, "messages", &r->messages) &&
           count(o, "files", &r->files) && count(o, "bytes", &r->bytes) &&
           receipt_base64(member(o, "signature"), signature, RECEIPT_SIGNATURE_BYTES) &&
           receipt_base64(member(o, "key"), key, RECEIPT_KEY_BYTES);
}

enum err receipt_verify(struct str json, const uint8_t *key, uint8_t ret_key[RECEIPT_KEY_BYTES],
    struct buf *ret_text, struct errctx *ec)
{
    struct receipt r;
    uint8_t signature[RECEIPT_SIGNATURE_BYTES], named[RECEIPT_KEY_BYTES];
    json_t *o = json_loadb(json.ptr, json.len, JSON_REJECT_DUPLICATES, NULL);
    if (o == NULL || !read_receipt(o, &r, signature, named)) {
        json_decref(o);
        return err_set(ec, ERR_INVALID_REQUEST, "that is no receipt of an erasure");
    }
    size_t start = ret_text->len;
    receipt_text(&r, ret_text);
    json_decref(o);
    if (ret_text->failed)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (key == NULL)
        key = named;
    EVP_PKEY *pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key, RECEIPT_KEY_BYTES);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = pkey != NULL && md != NULL && EVP_DigestVerifyInit(md, NULL, NULL, NULL, pkey) == 1 &&
              EVP_DigestVerify(md, signature, sizeof signature, (const uint8_t *)ret_text->ptr + start,
                  ret_text->len - start) == 1;
    EVP_MD_CTX_free(md);
    EVP_PKEY_free(pkey);
    memcpy(ret_key, key, RECEIPT_KEY_BYTES);
    return ok ? ERR_OK
              : err_set(ec, ERR_FORBIDDEN,
                    "the signature is not by this key over these words: the receipt "
                    "was changed, or comes from another server");
}
