/* Content files for reading, sealed or not. */
#include "store/blob_read.h"
#include "store/internal.h"
#include "vault/sealed_file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES SEALED_BLOCK_BYTES

struct blob_reader {
    int fd;
    uint64_t size;
    bool is_sealed;
    uint8_t key[BLOB_KEY_BYTES];  /* until the first read: opening reads blocks, and a loop must not wait */
    struct sealed_reader *sealed; /* from then on */
};

enum err blob_reader_new(int fd, const uint8_t *key, struct blob_reader **ret, struct errctx *ec)
{
    struct stat st;
    struct blob_reader *r = calloc(1, sizeof *r);
    if (r == NULL) {
        close(fd);
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    r->fd = fd;
    r->is_sealed = key != NULL;
    enum err e = ERR_OK;
    if (fstat(fd, &st) < 0)
        e = err_internal(ec, ERR_IO, "content file: %s", strerror(errno));
    else if (key == NULL)
        r->size = (uint64_t)st.st_size;
    else if (!sealed_plain_size((uint64_t)st.st_size, &r->size))
        e = err_internal(
            ec, ERR_CORRUPT, "content file: no sealed file has %lld bytes", (long long)st.st_size);
    else
        memcpy(r->key, key, sizeof r->key);
    if (e != ERR_OK) {
        blob_reader_close(r);
        return e;
    }
    *ret = r;
    return ERR_OK;
}

enum err store_blob_open(
    struct store *s, struct str content_ref, const uint8_t *key, struct blob_reader **ret, struct errctx *ec)
{
    struct buf path = BUF_INIT(8192);
    store_blob_path(s, content_ref, &path);
    if (path.failed) {
        buf_release(&path);
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    int fd = open(path.ptr, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int error = errno;
    buf_release(&path);
    if (fd < 0)
        return error == ENOENT ? err_set(ec, ERR_NOT_FOUND, "the file is missing")
                               : err_internal(ec, ERR_IO, "content file: open: %s", strerror(error));
    enum err e = blob_reader_new(fd, key, ret, ec);
    if (e != ERR_OK)
        err_path(ec, "%.*s", STR_FMT(content_ref));
    return e;
}

uint64_t blob_reader_size(const struct blob_reader *r)
{
    return r->size;
}

int blob_reader_fd(const struct blob_reader *r)
{
    return r->is_sealed ? -1 : r->fd;
}

enum err blob_reader_pread(
    struct blob_reader *r, void *p, size_t n, uint64_t at, size_t *ret_n, struct errctx *ec)
{
    if (r->is_sealed && r->sealed == NULL) {
        enum err e = sealed_reader_open(r->fd, r->key, BLOB_CONTEXT, &r->sealed, ec);
        if (e != ERR_OK)
            return e;
        explicit_bzero(r->key, sizeof r->key);
    }
    if (r->is_sealed)
        return sealed_reader_pread(r->sealed, p, n, at, ret_n, ec);
    size_t done = 0;
    while (done < n && at < INT64_MAX - n) {
        ssize_t got = pread(r->fd, (char *)p + done, n - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_internal(ec, ERR_IO, "content file: read: %s", strerror(errno));
        if (got == 0)
            break;
        done += (size_t)got;
    }
    *ret_n = done;
    return ERR_OK;
}

void blob_reader_close(struct blob_reader *r)
{
    if (r == NULL)
        return;
    sealed_reader_close(r->sealed);
    explicit_bzero(r->key, sizeof r->key);
    close(r->fd);
    free(r);
}

int64_t blob_reader_source(void *arg, uint64_t offset, void *p, size_t n)
{
    struct errctx ec;
    size_t got = 0;
    errctx_clear(&ec);
    return blob_reader_pread(arg, p, n, offset, &got, &ec) == ERR_OK ? (int64_t)got : -1;
}

enum err blob_describe(struct blob_reader *r, bool media, struct blob *ret, struct errctx *ec)
{
    struct media_type type = BLOB_TEXT_TYPE;
    struct os_sha256 *hash = os_sha256_begin();
    char *piece = malloc(PIECE_BYTES);
    enum err e = hash == NULL || piece == NULL ? err_set(ec, ERR_NO_MEMORY, "out of memory") : ERR_OK;
    for (uint64_t at = 0; e == ERR_OK && at < r->size;) {
        size_t n = 0;
        e = blob_reader_pread(r, piece, PIECE_BYTES, at, &n, ec);
        if (e == ERR_OK && n == 0)
            e = err_internal(ec, ERR_IO, "content file: it became shorter");
        if (e == ERR_OK && at == 0 && media)
            type = media_sniff(str_n(piece, n < MEDIA_HEAD_BYTES ? n : MEDIA_HEAD_BYTES));
        if (e == ERR_OK)
            os_sha256_add(hash, piece, n);
        at += n;
    }
    if (e == ERR_OK && media && r->size == 0)
        type = media_sniff(str_n(NULL, 0));
    if (hash != NULL)
        os_sha256_end(hash, ret->sha256);
    ret->bytes = r->size;
    snprintf(ret->content_type, sizeof ret->content_type, "%s", type.content_type);
    free(piece);
    return e;
}
