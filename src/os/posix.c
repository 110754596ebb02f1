#include "os/os.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

static int64_t clock_us(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int64_t posix_realtime_us(void *ctx)
{
    (void)ctx;
    return clock_us(CLOCK_REALTIME);
}

static int64_t posix_monotonic_us(void *ctx)
{
    (void)ctx;
    return clock_us(CLOCK_MONOTONIC);
}

static void posix_random(void *ctx, void *p, size_t n)
{
    (void)ctx;
    for (size_t got = 0; got < n;) {
        ssize_t r = getrandom((char *)p + got, n - got, 0);
        if (r < 0 && errno != EINTR)
            abort(); /* keys and ids without entropy are worse than no process */
        if (r > 0)
            got += (size_t)r;
    }
}

static int posix_fsync(void *ctx, int fd)
{
    (void)ctx;
    return fsync(fd) == 0 ? 0 : -errno;
}

static int posix_rename(void *ctx, const char *from, const char *to)
{
    (void)ctx;
    return rename(from, to) == 0 ? 0 : -errno;
}

static int posix_unlink(void *ctx, const char *path)
{
    (void)ctx;
    return unlink(path) == 0 ? 0 : -errno;
}

static int64_t posix_free_bytes(void *ctx, const char *path)
{
    struct statvfs v;
    (void)ctx;
    if (statvfs(path, &v) != 0)
        return -errno;
    return (int64_t)v.f_bavail * (int64_t)v.f_frsize;
}

const struct os *os_posix(void)
{
    static const struct os os = {posix_realtime_us, posix_monotonic_us, posix_random, posix_fsync,
        posix_rename, posix_unlink, posix_free_bytes, NULL};
    return &os;
}

/* An operator's error: the path and errno stay in `internal`. */
static enum err io_error(struct errctx *ec, const char *what, const char *path, int errnum)
{
    char text[128];
    return err_internal(ec, ERR_IO, "%s %s: %s", what, path, strerror_r(errnum, text, sizeof text));
}

/* Makes the entry of a folder just made durable. A parent that may be written to and not be read is left to
 * the file system: nothing can be synced by it. */
static int sync_parent(const char *path)
{
    char *dir = strdup(path);
    if (dir == NULL)
        return ENOMEM;
    char *slash = strrchr(dir, '/');
    if (slash != NULL)
        slash[slash == dir] = '\0';
    int fd = open(slash == NULL ? "." : dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = fd < 0 ? (errno == EACCES ? 0 : errno) : 0;
    free(dir);
    if (fd < 0)
        return failed;
    if (fsync(fd) != 0)
        failed = errno;
    close(fd);
    return failed;
}

/* One that cannot be made durable goes again, so that the next attempt does not take it for settled. */
static int make_dir(const char *path)
{
    if (mkdir(path, 0700) != 0)
        return errno == EEXIST ? 0 : errno;
    int failed = sync_parent(path);
    if (failed != 0)
        (void)rmdir(path);
    return failed;
}

enum err os_mkdirs(const char *path, struct errctx *ec)
{
    char *p = strdup(path);
    if (p == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    int failed = 0;
    for (char *slash = p + 1; failed == 0; slash++) {
        slash = strchr(slash, '/');
        if (slash != NULL)
            *slash = '\0';
        failed = make_dir(p);
        if (slash == NULL)
            break;
        *slash = '/';
    }
    struct stat st;
    if (failed == 0 && (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)))
        failed = ENOTDIR;
    free(p);
    return failed == 0 ? ERR_OK : io_error(ec, "mkdir", path, failed);
}

enum err os_fsync_dir(const struct os *os, const char *path, struct errctx *ec)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return io_error(ec, "open", path, errno);
    int r = os->fsync(os->ctx, fd);
    close(fd);
    return r == 0 ? ERR_OK : io_error(ec, "fsync", path, -r);
}

enum err os_read_file(const char *path, struct buf *b, struct errctx *ec)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int errnum = errno;
        enum err e = io_error(ec, "open", path, errnum);
        return errnum == ENOENT ? (ec->code = ERR_NOT_FOUND) : e;
    }
    enum err e = ERR_OK;
    for (;;) {
        char chunk[16384];
        int64_t n = os_read_all(fd, chunk, sizeof chunk);
        if (n < 0) {
            e = io_error(ec, "read", path, (int)-n);
            break;
        }
        buf_append(b, chunk, (size_t)n);
        if (b->failed) {
            e = err_internal(ec, ERR_TOO_LARGE, "read %s: too large", path);
            break;
        }
        if ((size_t)n < sizeof chunk)
            break;
    }
    close(fd);
    return e;
}

enum err os_write_file(
    const struct os *os, const char *path, struct str bytes, unsigned mode, struct errctx *ec)
{
    enum err e = ERR_OK;
    char *temp = NULL, *dir = strdup(path);
    if (dir == NULL || asprintf(&temp, "%s.tmp", path) < 0) {
        free(dir);
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    char *slash = strrchr(dir, '/');
    if (slash != NULL)
        *slash = '\0';
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, (mode_t)mode);
    if (fd < 0) {
        e = io_error(ec, "create", temp, errno);
    } else {
        int r = os_write_all(fd, bytes.ptr, bytes.len);
        if (r == 0)
            r = os->fsync(os->ctx, fd);
        close(fd);
        if (r == 0)
            r = os->rename(os->ctx, temp, path);
        if (r != 0) {
            e = io_error(ec, "write", path, -r);
            os->unlink(os->ctx, temp);
        }
    }
    if (e == ERR_OK)
        e = os_fsync_dir(os, slash == NULL ? "." : dir[0] == '\0' ? "/" : dir, ec);
    free(temp);
    free(dir);
    return e;
}

void sha256(struct str bytes, uint8_t ret[32])
{
    if (EVP_Digest(bytes.ptr != NULL ? bytes.ptr : "", bytes.len, ret, NULL, EVP_sha256(), NULL) != 1)
        abort(); /* OpenSSL without SHA-256, or out of memory in a fixed-size digest */
}

enum err os_sha256_fd(int fd, uint64_t size, char ret[65], struct errctx *ec)
{
    enum { CHUNK = 65536 };
    unsigned char digest[32];
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    char *chunk = malloc(CHUNK);
    enum err e = ERR_OK;
    if (md == NULL || chunk == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    for (uint64_t at = 0; e == ERR_OK && at < size;) {
        size_t want = size - at < CHUNK ? (size_t)(size - at) : CHUNK;
        ssize_t n = pread(fd, chunk, want, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            e = err_internal(
                ec, ERR_IO, "sha256: read: %s", n < 0 ? strerrorname_np(errno) : "file is short");
        else if (EVP_DigestUpdate(md, chunk, (size_t)n) != 1)
            e = err_internal(ec, ERR_INTERNAL, "sha256: digest failed");
        else
            at += (uint64_t)n;
    }
    if (e == ERR_OK && EVP_DigestFinal_ex(md, digest, NULL) != 1)
        e = err_internal(ec, ERR_INTERNAL, "sha256: digest failed");
    for (int i = 0; e == ERR_OK && i < 32; i++)
        snprintf(ret + (size_t)i * 2, 3, "%02x", digest[i]);
    free(chunk);
    EVP_MD_CTX_free(md);
    return e;
}

struct os_sha256 {
    EVP_MD_CTX *md;
};

struct os_sha256 *os_sha256_begin(void)
{
    struct os_sha256 *h = malloc(sizeof *h);
    if (h == NULL)
        return NULL;
    h->md = EVP_MD_CTX_new();
    if (h->md == NULL || EVP_DigestInit_ex(h->md, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(h->md);
        free(h);
        return NULL;
    }
    return h;
}

void os_sha256_add(struct os_sha256 *h, const void *p, size_t n)
{
    if (EVP_DigestUpdate(h->md, p, n) != 1)
        abort(); /* of a digest that works in place */
}

void os_sha256_end(struct os_sha256 *h, char ret[65])
{
    unsigned char digest[32];
    if (h == NULL)
        return;
    if (ret != NULL) {
        if (EVP_DigestFinal_ex(h->md, digest, NULL) != 1)
            abort();
        for (size_t i = 0; i < sizeof digest; i++)
            snprintf(ret + i * 2, 3, "%02x", digest[i]);
    }
    EVP_MD_CTX_free(h->md);
    free(h);
}

int os_memfd(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd < 0 ? -errno : fd;
}

int os_write_all(int fd, const void *p, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t w = write(fd, (const char *)p + done, n - done);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return -errno;
        done += (size_t)w;
    }
    return 0;
}

int64_t os_read_all(int fd, void *p, size_t n)
{
    size_t got = 0;
    while (got < n) {
        ssize_t r = read(fd, (char *)p + got, n - got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        if (r == 0)
            break;
        got += (size_t)r;
    }
    return (int64_t)got;
}
