/* The seam to the operating system: clock, entropy, files. Tests, the simulator and fuzzers install another
 * `struct os`; production uses os_posix(). RocksDB and sockets do not go through it (RocksDB's C API has no
 * Env; libuv owns sockets). Thread-safe as the functions it holds. */
#ifndef KALAMDB_OS_OS_H
#define KALAMDB_OS_OS_H

#include "base/buf.h"
#include "base/err.h"

struct os {
    int64_t (*realtime_us)(void *ctx); /* wall clock, may step backwards */
    int64_t (*monotonic_us)(void *ctx);
    /* Fills n bytes from the kernel's generator; aborts if it cannot. */
    void (*random)(void *ctx, void *p, size_t n);
    /* 0, or -errno. */
    int (*fsync)(void *ctx, int fd);
    int (*rename)(void *ctx, const char *from, const char *to);
    int (*unlink)(void *ctx, const char *path);
    /* Free bytes for us on the file system of path, or -errno. */
    int64_t (*free_bytes)(void *ctx, const char *path);
    void *ctx;
};

const struct os *os_posix(void);

static inline int64_t os_realtime_us(const struct os *os)
{
    return os->realtime_us(os->ctx);
}
static inline int64_t os_monotonic_us(const struct os *os)
{
    return os->monotonic_us(os->ctx);
}

/* mkdir -p with mode 0700; what it makes survives power loss. */
enum err os_mkdirs(const char *path, struct errctx *ec) CHECKED;
/* fsync of a folder, so that renames and creations in it survive power loss. */
enum err os_fsync_dir(const struct os *os, const char *path, struct errctx *ec) CHECKED;
/* Whole file into b, up to b->max_bytes; ERR_NOT_FOUND when absent. */
enum err os_read_file(const char *path, struct buf *b, struct errctx *ec) CHECKED;
/* Writes a temporary beside it, fsyncs, renames, fsyncs the folder. */
enum err os_write_file(
    const struct os *os, const char *path, struct str bytes, unsigned mode, struct errctx *ec) CHECKED;
/* SHA-256 of the first `size` bytes of fd (pread), hex into ret[65]. */
enum err os_sha256_fd(int fd, uint64_t size, char ret[65], struct errctx *ec) CHECKED;
void sha256(struct str bytes, uint8_t ret[32]);
/* SHA-256 of bytes as they come. NULL: out of memory. `end` gives hex and frees; ret NULL: only frees. */
struct os_sha256;
struct os_sha256 *os_sha256_begin(void);
void os_sha256_add(struct os_sha256 *h, const void *p, size_t n);
void os_sha256_end(struct os_sha256 *h, char ret[65]);
/* A sealed-size anonymous file, CLOEXEC; -errno on failure. */
int os_memfd(const char *name);
/* write(2) until done; 0 or -errno. */
int os_write_all(int fd, const void *p, size_t n);
/* read(2) until n bytes or end; bytes read or -errno. */
int64_t os_read_all(int fd, void *p, size_t n);

#endif
