#include "vault/sealed_file.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    SEALED_VERSION = 1,
    SLOT_BYTES = SEALED_BLOCK_BYTES + SEALED_TAG_BYTES,
    FILE_ID_AT = 16,
    FILE_ID_BYTES = 16,
    NONCE_BYTES = 12,
    CONTEXT_MAX = 4096
};
static const char magic[4] = {'K', 'D', 'B', 'S'};

uint64_t sealed_size(uint64_t plain)
{
    uint64_t blocks = plain == 0 ? 1 : (plain - 1) / SEALED_BLOCK_BYTES + 1;
    return SEALED_HEADER_BYTES + plain + blocks * SEALED_TAG_BYTES;
}

bool sealed_plain_size(uint64_t sealed, uint64_t *ret_plain)
{
    if (sealed < SEALED_HEADER_BYTES + SEALED_TAG_BYTES)
        return false;
    uint64_t body = sealed - SEALED_HEADER_BYTES, blocks = (body - 1) / SLOT_BYTES + 1;
    uint64_t last = body - (blocks - 1) * SLOT_BYTES;
    /* Only the one block of an empty file is empty. */
    if (last < SEALED_TAG_BYTES || (last == SEALED_TAG_BYTES && blocks > 1))
        return false;
    uint64_t plain = body - blocks * SEALED_TAG_BYTES;
    if (plain > SEALED_PLAIN_MAX)
        return false;
    *ret_plain = plain;
    return true;
}

/* HKDF-SHA256 (RFC 5869) with one block of output. */
static bool derive(const uint8_t key[SEALED_KEY_BYTES], const uint8_t *file_id, uint8_t ret[32])
{
    static const uint8_t info[] = "kalamdb sealed file\001"; /* the last byte is HKDF's counter */
    uint8_t prk[32];
    unsigned len = sizeof prk;
    bool good = HMAC(EVP_sha256(), file_id, FILE_ID_BYTES, key, SEALED_KEY_BYTES, prk, &len) != NULL &&
                HMAC(EVP_sha256(), prk, sizeof prk, info, sizeof info - 1, ret, &len) != NULL;
    OPENSSL_cleanse(prk, sizeof prk);
    return good;
}

/* What sealing and opening share: the cipher with its key, and the associated data. */
struct sealer {
    EVP_CIPHER_CTX *aes;
    char *aad; /* header | context */
    int aad_len;
    uint8_t *block; /* one slot: content or ciphertext, then its tag */
};

static void sealer_release(struct sealer *s)
{
    EVP_CIPHER_CTX_free(s->aes); /* wipes the key schedule */
    if (s->block != NULL)
        OPENSSL_cleanse(s->block, SLOT_BYTES);
    free(s->block);
    free(s->aad);
}

static enum err sealer_init(struct sealer *s, const uint8_t *header, const uint8_t key[SEALED_KEY_BYTES],
    struct str context, bool sealing, struct errctx *ec)
{
    uint8_t derived[32];
    *s = (struct sealer){.aes = EVP_CIPHER_CTX_new(),
        .aad = malloc(SEALED_HEADER_BYTES + context.len),
        .aad_len = (int)(SEALED_HEADER_BYTES + context.len),
        .block = malloc(SLOT_BYTES)};
    enum err err = ERR_OK;
    if (context.len > CONTEXT_MAX)
        err = err_internal(ec, ERR_INVALID_REQUEST, "sealed file: a context of %zu bytes", context.len);
    else if (s->aes == NULL || s->aad == NULL || s->block == NULL)
        err = err_internal(ec, ERR_NO_MEMORY, "sealed file: out of memory");
    else if (!derive(key, header + FILE_ID_AT, derived) ||
             EVP_CipherInit_ex(s->aes, EVP_aes_256_gcm(), NULL, derived, NULL, sealing) != 1)
        err = err_internal(ec, ERR_NO_MEMORY, "sealed file: the cipher does not start");
    OPENSSL_cleanse(derived, sizeof derived);
    if (err != ERR_OK) {
        sealer_release(s);
        return err;
    }
    memcpy(s->aad, header, SEALED_HEADER_BYTES);
    if (context.len > 0)
        memcpy(s->aad + SEALED_HEADER_BYTES, context.ptr, context.len);
    return ERR_OK;
}

static bool set_nonce(struct sealer *s, uint64_t number, bool last)
{
    uint8_t nonce[NONCE_BYTES] = {0};
    int n;
    put_be64(nonce, number);
    nonce[NONCE_BYTES - 1] = last;
    return EVP_CipherInit_ex(s->aes, NULL, NULL, NULL, nonce, -1) == 1 &&
           EVP_CipherUpdate(s->aes, NULL, &n, (const uint8_t *)s->aad, s->aad_len) == 1;
}

struct sealed_writer {
    struct sealer sealer;
    int fd;
    size_t pending; /* bytes of content in the block */
    uint64_t number, bytes;
    bool ended;
};

static enum err write_failed(struct errctx *ec, int errnum)
{
    enum err err = err_internal(ec, ERR_IO, "sealed file: write: %s", strerrorname_np(errnum));
    errno = errnum;
    return err;
}

enum err sealed_writer_open(const struct os *os, int fd, const uint8_t key[SEALED_KEY_BYTES],
    struct str context, struct sealed_writer **ret, struct errctx *ec)
{
    uint8_t header[SEALED_HEADER_BYTES] = {0};
    memcpy(header, magic, sizeof magic);
    put_be16(header + 4, SEALED_VERSION);
    put_be32(header + 8, SEALED_BLOCK_BYTES);
    os->random(os->ctx, header + FILE_ID_AT, FILE_ID_BYTES);
    struct sealed_writer *w = calloc(1, sizeof *w);
    if (w == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "sealed file: out of memory");
    enum err err = sealer_init(&w->sealer, header, key, context, true, ec);
    if (err != ERR_OK) {
        free(w);
        return err;
    }
    w->fd = fd;
    int rc = os_write_all(fd, header, sizeof header);
    if (rc < 0) {
        sealed_writer_free(w);
        return write_failed(ec, -rc);
    }
    *ret = w;
    return ERR_OK;
}

/* The block as it is pending, sealed in place. */
static enum err write_block(struct sealed_writer *w, bool last, struct errctx *ec)
{
    uint8_t *block = w->sealer.block;
    EVP_CIPHER_CTX *aes = w->sealer.aes;
    int n = 0, tail = 0;
    if (!set_nonce(&w->sealer, w->number, last) ||
        (w->pending > 0 && EVP_CipherUpdate(aes, block, &n, block, (int)w->pending) != 1) ||
        EVP_CipherFinal_ex(aes, block + n, &tail) != 1 ||
        EVP_CIPHER_CTX_ctrl(aes, EVP_CTRL_GCM_GET_TAG, SEALED_TAG_BYTES, block + w->pending) != 1)
        return err_internal(ec, ERR_INTERNAL, "sealed file: the cipher failed");
    int rc = os_write_all(w->fd, block, w->pending + SEALED_TAG_BYTES);
    if (rc < 0)
        return write_failed(ec, -rc);
    w->number++;
    w->pending = 0;
    return ERR_OK;
}

enum err sealed_writer_append(struct sealed_writer *w, struct str plain, struct errctx *ec)
{
    if (w->ended || plain.len > SEALED_PLAIN_MAX - w->bytes)
        return err_internal(ec, ERR_TOO_LARGE, "sealed file: too large, or ended");
    while (plain.len > 0) {
        /* A full block waits until more comes: only then it is not the last. */
        if (w->pending == SEALED_BLOCK_BYTES) {
            enum err err = write_block(w, false, ec);
            if (err != ERR_OK)
                return err;
        }
        size_t n = SEALED_BLOCK_BYTES - w->pending;
        n = plain.len < n ? plain.len : n;
        memcpy(w->sealer.block + w->pending, plain.ptr, n);
        w->pending += n;
        w->bytes += n;
        plain = str_n(plain.ptr + n, plain.len - n);
    }
    return ERR_OK;
}

enum err sealed_writer_end(struct sealed_writer *w, struct errctx *ec)
{
    if (w->ended)
        return err_internal(ec, ERR_INTERNAL, "sealed file: ended twice");
    w->ended = true;
    return write_block(w, true, ec);
}

uint64_t sealed_writer_bytes(const struct sealed_writer *w)
{
    return w->bytes;
}

void sealed_writer_free(struct sealed_writer *w)
{
    if (w == NULL)
        return;
    sealer_release(&w->sealer);
    free(w);
}

struct sealed_reader {
    struct sealer sealer; /* its block holds the content of block `held` */
    int fd;
    uint64_t size, blocks;
    uint64_t held; /* UINT64_MAX: none */
};

static enum err pread_exact(int fd, void *p, size_t n, uint64_t at, struct errctx *ec)
{
    for (size_t got = 0; got < n;) {
        ssize_t r = pread(fd, (char *)p + got, n - got, (off_t)(at + got));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return err_internal(ec, ERR_IO, "sealed file: read: %s", strerrorname_np(errno));
        if (r == 0)
            return err_internal(
                ec, ERR_CORRUPT, "sealed file: cut at byte %llu", (unsigned long long)at + got);
        got += (size_t)r;
    }
    return ERR_OK;
}

static size_t block_len(const struct sealed_reader *r, uint64_t number)
{
    return number + 1 < r->blocks ? SEALED_BLOCK_BYTES : (size_t)(r->size - number * SEALED_BLOCK_BYTES);
}

static enum err hold_block(struct sealed_reader *r, uint64_t number, struct errctx *ec)
{
    if (r->held == number)
        return ERR_OK;
    uint8_t *block = r->sealer.block;
    EVP_CIPHER_CTX *aes = r->sealer.aes;
    size_t len = block_len(r, number);
    int n = 0, tail = 0;
    r->held = UINT64_MAX;
    enum err err =
        pread_exact(r->fd, block, len + SEALED_TAG_BYTES, SEALED_HEADER_BYTES + number * SLOT_BYTES, ec);
    if (err != ERR_OK)
        return err;
    if (!set_nonce(&r->sealer, number, number + 1 == r->blocks) ||
        EVP_CIPHER_CTX_ctrl(aes, EVP_CTRL_GCM_SET_TAG, SEALED_TAG_BYTES, block + len) != 1 ||
        (len > 0 && EVP_CipherUpdate(aes, block, &n, block, (int)len) != 1))
        return err_internal(ec, ERR_INTERNAL, "sealed file: the cipher failed");
    if (EVP_CipherFinal_ex(aes, block + n, &tail) != 1) {
        OPENSSL_cleanse(block, len); /* what nobody vouches for is not kept */
        return err_internal(ec, ERR_CORRUPT, "sealed file: block %llu of %llu is not what was written",
            (unsigned long long)number, (unsigned long long)r->blocks);
    }
    r->held = number;
    return ERR_OK;
}

static enum err check_header(const uint8_t *header, struct errctx *ec)
{
    if (memcmp(header, magic, sizeof magic) != 0)
        return err_internal(ec, ERR_CORRUPT, "sealed file: does not begin like one");
    if (get_be16(header + 4) != SEALED_VERSION || get_be16(header + 6) != 0 ||
        get_be32(header + 8) != SEALED_BLOCK_BYTES || get_be32(header + 12) != 0)
        return err_internal(ec, ERR_CORRUPT, "sealed file: of a format that this version does not know");
    return ERR_OK;
}

enum err sealed_reader_open(int fd, const uint8_t key[SEALED_KEY_BYTES], struct str context,
    struct sealed_reader **ret, struct errctx *ec)
{
    uint8_t header[SEALED_HEADER_BYTES];
    struct stat st;
    uint64_t size;
    if (fstat(fd, &st) != 0)
        return err_internal(ec, ERR_IO, "sealed file: stat: %s", strerrorname_np(errno));
    if (!sealed_plain_size((uint64_t)st.st_size, &size))
        return err_internal(
            ec, ERR_CORRUPT, "sealed file: none has %llu bytes", (unsigned long long)st.st_size);
    enum err err = pread_exact(fd, header, sizeof header, 0, ec);
    if (err == ERR_OK)
        err = check_header(header, ec);
    if (err != ERR_OK)
        return err;
    struct sealed_reader *r = calloc(1, sizeof *r);
    if (r == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "sealed file: out of memory");
    err = sealer_init(&r->sealer, header, key, context, false, ec);
    if (err != ERR_OK) {
        free(r);
        return err;
    }
    r->fd = fd;
    r->size = size;
    r->blocks = size == 0 ? 1 : (size - 1) / SEALED_BLOCK_BYTES + 1;
    r->held = UINT64_MAX;
    err = hold_block(r, r->blocks - 1, ec);
    if (err != ERR_OK) {
        sealed_reader_close(r);
        return err;
    }
    *ret = r;
    return ERR_OK;
}

uint64_t sealed_reader_size(const struct sealed_reader *r)
{
    return r->size;
}

enum err sealed_reader_pread(
    struct sealed_reader *r, void *p, size_t n, uint64_t at, size_t *ret_n, struct errctx *ec)
{
    size_t got = 0;
    if (at >= r->size)
        n = 0;
    else if (n > r->size - at)
        n = (size_t)(r->size - at);
    while (got < n) {
        uint64_t number = (at + got) / SEALED_BLOCK_BYTES;
        size_t from = (size_t)((at + got) % SEALED_BLOCK_BYTES);
        enum err err = hold_block(r, number, ec);
        if (err != ERR_OK)
            return err;
        size_t part = block_len(r, number) - from;
        part = part < n - got ? part : n - got;
        memcpy((char *)p + got, r->sealer.block + from, part);
        got += part;
    }
    *ret_n = n;
    return ERR_OK;
}

void sealed_reader_close(struct sealed_reader *r)
{
    if (r == NULL)
        return;
    sealer_release(&r->sealer);
    free(r);
}

enum err sealed_to_memfd(int fd, const uint8_t key[SEALED_KEY_BYTES], struct str context, const char *name,
    int *ret_fd, struct errctx *ec)
{
    struct sealed_reader *r;
    enum err err = sealed_reader_open(fd, key, context, &r, ec);
    if (err != ERR_OK)
        return err;
    int memfd = os_memfd(name);
    if (memfd < 0)
        err = err_internal(ec, ERR_IO, "sealed file: memfd: %s", strerrorname_np(-memfd));
    for (uint64_t i = 0; err == ERR_OK && i < r->blocks; i++) {
        err = hold_block(r, i, ec);
        int rc = err == ERR_OK ? os_write_all(memfd, r->sealer.block, block_len(r, i)) : 0;
        if (rc < 0)
            err = err_internal(ec, ERR_IO, "sealed file: memfd: %s", strerrorname_np(-rc));
    }
    sealed_reader_close(r);
    if (err == ERR_OK &&
        (lseek(memfd, 0, SEEK_SET) != 0 ||
            fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0))
        err = err_internal(ec, ERR_IO, "sealed file: memfd: %s", strerrorname_np(errno));
    if (err != ERR_OK) {
        if (memfd >= 0)
            close(memfd);
        return err;
    }
    *ret_fd = memfd;
    return ERR_OK;
}

enum err sealed_from_fd(const struct os *os, int plain_fd, uint64_t size, int fd,
    const uint8_t key[SEALED_KEY_BYTES], struct str context, struct errctx *ec)
{
    struct sealed_writer *w;
    char *chunk = malloc(SEALED_BLOCK_BYTES);
    if (chunk == NULL)
        return err_internal(ec, ERR_NO_MEMORY, "sealed file: out of memory");
    enum err err = sealed_writer_open(os, fd, key, context, &w, ec);
    if (err != ERR_OK) {
        free(chunk);
        return err;
    }
    for (uint64_t at = 0; err == ERR_OK && at < size;) {
        size_t n = size - at < SEALED_BLOCK_BYTES ? (size_t)(size - at) : SEALED_BLOCK_BYTES;
        err = pread_exact(plain_fd, chunk, n, at, ec);
        if (err == ERR_OK)
            err = sealed_writer_append(w, str_n(chunk, n), ec);
        at += n;
    }
    if (err == ERR_OK)
        err = sealed_writer_end(w, ec);
    sealed_writer_free(w);
    OPENSSL_cleanse(chunk, SEALED_BLOCK_BYTES);
    free(chunk);
    return err;
}
