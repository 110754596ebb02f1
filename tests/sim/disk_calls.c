/* libc's calls on descriptors, defined here: each asks the plan, goes to the kernel, and tells the model. Raw
 * system calls, so that nothing depends on which libc (or sanitizer) would have been next. */
#undef _FILE_OFFSET_BITS /* both pwrite and pwrite64 are defined here */
#include "sim/disk_int.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- writing ------------------------------------------------------------------------------------------- */

static int64_t position(int fd)
{
    struct stat st;
    if ((fcntl(fd, F_GETFL) & O_APPEND) != 0)
        return fstat(fd, &st) == 0 ? st.st_size : 0;
    return lseek(fd, 0, SEEK_CUR);
}

/* at < 0: at the descriptor's position. */
static ssize_t put(int fd, const void *p, size_t n, int64_t at)
{
    struct disk_node *node;
    if (!disk_begin_fd(fd, &node))
        return at < 0 ? syscall(SYS_write, fd, p, n) : syscall(SYS_pwrite64, fd, p, n, at);
    ssize_t done = -1;
    enum verdict v = disk_verdict_fd(DISK_WRITE, node, true);
    if (v != FAIL) {
        int64_t from = at < 0 ? position(fd) : at;
        size_t want = v == SHORT && n > 1 ? n / 2 : n;
        done = at < 0 ? syscall(SYS_write, fd, p, want) : syscall(SYS_pwrite64, fd, p, want, at);
        if (done > 0)
            disk_note_write(node, from, from + done);
    }
    disk_end();
    return done;
}

ssize_t write(int fd, const void *p, size_t n)
{
    return put(fd, p, n, -1);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    return put(fd, p, n, at);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
    return put(fd, p, n, at);
}

/* One piece per call is a short write, which callers of writev know. */
static ssize_t put_vector(int fd, const struct iovec *v, int n, int64_t at)
{
    struct disk_node *node;
    if (!disk_begin_fd(fd, &node)) {
        if (at < 0)
            return syscall(SYS_writev, fd, v, n);
        return syscall(SYS_pwritev, fd, v, n, (long)at, 0L);
    }
    disk_end();
    for (int i = 0; i < n; i++)
        if (v[i].iov_len > 0)
            return put(fd, v[i].iov_base, v[i].iov_len, at);
    return 0;
}

ssize_t writev(int fd, const struct iovec *v, int n)
{
    return put_vector(fd, v, n, -1);
}

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at)
{
    return put_vector(fd, v, n, at);
}

ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t at)
{
    return put_vector(fd, v, n, at);
}

/* Into a file of ours; what it reads from is not looked at. */
ssize_t sendfile(int to, int from, off_t *at, size_t n)
{
    struct disk_node *node;
    if (!disk_begin_fd(to, &node))
        return syscall(SYS_sendfile, to, from, at, n);
    ssize_t done = -1;
    enum verdict v = disk_verdict_fd(DISK_WRITE, node, true);
    if (v != FAIL) {
        int64_t start = position(to);
        done = syscall(SYS_sendfile, to, from, at, v == SHORT && n > 1 ? n / 2 : n);
        if (done > 0)
            disk_note_write(node, start, start + done);
    }
    disk_end();
    return done;
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t n)
{
    return sendfile(to, from, at, n);
}

static int truncate_fd(int fd, int64_t size)
{
    struct disk_node *node;
    if (!disk_begin_fd(fd, &node))
        return (int)syscall(SYS_ftruncate, fd, size);
    int r = -1;
    if (disk_verdict_fd(DISK_TRUNCATE, node, true) != FAIL &&
        (r = (int)syscall(SYS_ftruncate, fd, size)) == 0)
        disk_note_truncate(node, size);
    disk_end();
    return r;
}

int ftruncate(int fd, off_t size)
{
    return truncate_fd(fd, size);
}

int ftruncate64(int fd, off64_t size)
{
    return truncate_fd(fd, size);
}

static int allocate(int fd, int mode, int64_t at, int64_t n)
{
    struct disk_node *node;
    if (!disk_begin_fd(fd, &node))
        return (int)syscall(SYS_fallocate, fd, mode, at, n);
    int r = -1;
    if (disk_verdict_fd(DISK_TRUNCATE, node, true) != FAIL &&
        (r = (int)syscall(SYS_fallocate, fd, mode, at, n)) == 0 && (mode & FALLOC_FL_PUNCH_HOLE) != 0)
        disk_note_write(node, at, at + n);
    disk_end();
    return r;
}

int fallocate(int fd, int mode, off_t at, off_t n)
{
    return allocate(fd, mode, at, n);
}

int fallocate64(int fd, int mode, off64_t at, off64_t n)
{
    return allocate(fd, mode, at, n);
}

int posix_fallocate(int fd, off_t at, off_t n)
{
    return allocate(fd, 0, at, n) == 0 ? 0 : errno;
}

int posix_fallocate64(int fd, off64_t at, off64_t n)
{
    return allocate(fd, 0, at, n) == 0 ? 0 : errno;
}

/* ---- making it safe ------------------------------------------------------------------------------------ */

static int sync_fd(int fd, long number)
{
    struct disk_node *node;
    if (!disk_begin_fd(fd, &node))
        return (int)syscall(number, fd);
    int r = -1;
    if (disk_verdict_fd(DISK_SYNC, node, true) != FAIL) {
        disk_note_sync(node, fd);
        r = 0;
    } else if (errno != EINTR) {
        disk_note_sync_failed(node, fd);
    }
    disk_end();
    return r;
}

int fsync(int fd)
{
    return sync_fd(fd, SYS_fsync);
}

int fdatasync(int fd)
{
    return sync_fd(fd, SYS_fdatasync);
}

/* Promises nothing (sync_file_range(2)), and so saves nothing. */
int sync_file_range(int fd, off64_t at, off64_t n, unsigned flags)
{
    struct disk_node *node;
    if (!disk_begin_fd(fd, &node))
        return (int)syscall(SYS_sync_file_range, fd, at, n, flags);
    disk_end();
    return 0;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static ssize_t get(int fd, void *p, size_t n, int64_t at)
{
    struct disk_node *node;
    enum verdict v = PASS;
    if (disk_begin_fd(fd, &node)) {
        v = disk_verdict_fd(DISK_READ, node, false);
        disk_end();
    }
    if (v == FAIL)
        return -1;
    size_t want = v == SHORT && n > 1 ? n / 2 : n;
    return at < 0 ? syscall(SYS_read, fd, p, want) : syscall(SYS_pread64, fd, p, want, at);
}

ssize_t read(int fd, void *p, size_t n)
{
    return get(fd, p, n, -1);
}

ssize_t pread(int fd, void *p, size_t n, off_t at)
{
    return get(fd, p, n, at);
}

ssize_t pread64(int fd, void *p, size_t n, off64_t at)
{
    return get(fd, p, n, at);
}

/* ---- mappings, sockets ----------------------------------------------------------------------------------
 */

static void *map(void *at, size_t n, int prot, int flags, int fd, int64_t offset)
{
    if (fd >= 0 && disk_verdict_bare(DISK_MMAP) == FAIL)
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, n, prot, flags, fd, offset);
}

void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    return map(at, n, prot, flags, fd, offset);
}

void *mmap64(void *at, size_t n, int prot, int flags, int fd, off64_t offset)
{
    return map(at, n, prot, flags, fd, offset);
}

int memfd_create(const char *name, unsigned flags)
{
    return disk_verdict_bare(DISK_MMAP) == FAIL ? -1 : (int)syscall(SYS_memfd_create, name, flags);
}

int socket(int domain, int type, int protocol)
{
    return disk_verdict_bare(DISK_SOCKET) == FAIL ? -1 : (int)syscall(SYS_socket, domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int ret[2])
{
    return disk_verdict_bare(DISK_SOCKET) == FAIL ? -1
                                                  : (int)syscall(SYS_socketpair, domain, type, protocol, ret);
}

int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
    return disk_verdict_bare(DISK_SOCKET) == FAIL ? -1 : (int)syscall(SYS_accept4, fd, address, len, flags);
}

int accept(int fd, struct sockaddr *address, socklen_t *len)
{
    return accept4(fd, address, len, 0);
}

int connect(int fd, const struct sockaddr *address, socklen_t len)
{
    return disk_verdict_bare(DISK_SOCKET) == FAIL ? -1 : (int)syscall(SYS_connect, fd, address, len);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    return disk_verdict_bare(DISK_SOCKET) == FAIL ? -1 : syscall(SYS_sendmsg, fd, m, flags);
}

ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    return disk_verdict_bare(DISK_SOCKET) == FAIL ? -1 : syscall(SYS_recvmsg, fd, m, flags);
}

ssize_t send(int fd, const void *p, size_t n, int flags)
{
    return disk_verdict_bare(DISK_SOCKET) == FAIL ? -1 : syscall(SYS_sendto, fd, p, n, flags, NULL, 0);
}

ssize_t recv(int fd, void *p, size_t n, int flags)
{
    return disk_verdict_bare(DISK_SOCKET) == FAIL ? -1 : syscall(SYS_recvfrom, fd, p, n, flags, NULL, NULL);
}
