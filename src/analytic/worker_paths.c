/* The libc functions by which DuckDB would reach a file system, answered from the worker's own descriptors.
 *
 * libduckdb.so looks these names up at run time and finds the program's before libc's, so a path never
 * reaches the kernel: `/proc/self/fd/N`, for N among the numbers of worker_files.c, opens as a duplicate of
 * descriptor N, everything else does not exist. That is not what keeps a hostile worker in (it would ask the
 * kernel itself: cage.c does); it is what lets the cage refuse every call that takes a path, instead of
 * having to tell good paths from bad ones, and lets files on disk be handed over under a Landlock that allows
 * none.
 *
 * A duplicate shares its offset with the server's descriptor and has its access mode. DuckDB reads at
 * positions of its own; what it writes begins at the start, see place_output. */
#include "analytic/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Named as what they stand for, with and without large files, as they were before glibc 2.33 and since. */
#define AS(symbol) __asm__(#symbol)
int path_open(const char *path, int flags, ...) AS(open);
int path_open64(const char *path, int flags, ...) AS(open64);
int path_access(const char *path, int mode) AS(access);
int path_stat(const char *path, struct stat *st) AS(stat);
int path_stat64(const char *path, struct stat *st) AS(stat64);
int path_lstat(const char *path, struct stat *st) AS(lstat);
int path_lstat64(const char *path, struct stat *st) AS(lstat64);
int path_fstat(int fd, struct stat *st) AS(fstat);
int path_fstat64(int fd, struct stat *st) AS(fstat64);
int path_xstat(int version, const char *path, struct stat *st) AS(__xstat);
int path_xstat64(int version, const char *path, struct stat *st) AS(__xstat64);
int path_lxstat(int version, const char *path, struct stat *st) AS(__lxstat);
int path_lxstat64(int version, const char *path, struct stat *st) AS(__lxstat64);
int path_fxstat(int version, int fd, struct stat *st) AS(__fxstat);
int path_fxstat64(int version, int fd, struct stat *st) AS(__fxstat64);
void *path_opendir(const char *path) AS(opendir);
ssize_t path_readlink(const char *path, char *to, size_t size) AS(readlink);
int path_mkdir(const char *path, mode_t mode) AS(mkdir);
int path_rmdir(const char *path) AS(rmdir);
int path_unlink(const char *path) AS(unlink);
int path_remove(const char *path) AS(remove);
int path_rename(const char *from, const char *to) AS(rename);
int path_statvfs(const char *path, struct statvfs *st) AS(statvfs);

/* The descriptor that a path means, or -1 with errno set. */
static int descriptor(const char *path)
{
    const size_t prefix = sizeof WORKER_FD_PATH - 1;
    int n = 0;
    errno = ENOENT;
    if (strncmp(path, WORKER_FD_PATH, prefix) != 0 || path[prefix] == '0')
        return -1;
    for (const char *p = path + prefix; *p != '\0'; p++) {
        if (*p < '0' || *p > '9' || n >= WORKER_FD_BASE + WORKER_SLOTS)
            return -1;
        n = n * 10 + (*p - '0');
    }
    return n >= WORKER_FD_BASE && n < WORKER_FD_BASE + WORKER_SLOTS ? n : -1;
}

static int refuse(int error)
{
    errno = error;
    return -1;
}

int path_open(const char *path, int flags, ...)
{
    int at = descriptor(path);
    if (at < 0)
        return -1;
    int mode = fcntl(at, F_GETFL);
    if (mode < 0)
        return refuse(ENOENT);
    bool writes = (flags & O_ACCMODE) != O_RDONLY;
    if (writes && (mode & O_ACCMODE) == O_RDONLY)
        return refuse(EACCES);
    /* Above the slots: DuckDB's own must never sit where the next request's file goes. */
    int fd = fcntl(at, F_DUPFD_CLOEXEC, WORKER_FD_BASE + WORKER_SLOTS);
    if (fd >= 0 && writes && (flags & O_TRUNC) != 0 && ftruncate(fd, 0) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* By number alone: libc's fstat goes through a call that can also take a path, which the cage refuses. */
int path_fstat(int fd, struct stat *st)
{
    return (int)syscall(SYS_fstat, fd, st);
}

int path_stat(const char *path, struct stat *st)
{
    int at = descriptor(path);
    if (at < 0)
        return -1;
    return path_fstat(at, st) == 0 ? 0 : refuse(ENOENT);
}

int path_access(const char *path, int mode)
{
    struct stat st;
    (void)mode;
    return path_stat(path, &st);
}

int path_open64(const char *path, int flags, ...)
{
    return path_open(path, flags);
}

int path_stat64(const char *path, struct stat *st)
{
    return path_stat(path, st);
}

int path_lstat(const char *path, struct stat *st)
{
    return path_stat(path, st);
}

int path_lstat64(const char *path, struct stat *st)
{
    return path_stat(path, st);
}

int path_fstat64(int fd, struct stat *st)
{
    return path_fstat(fd, st);
}

int path_xstat(int version, const char *path, struct stat *st)
{
    (void)version;
    return path_stat(path, st);
}

int path_xstat64(int version, const char *path, struct stat *st)
{
    return path_xstat(version, path, st);
}

int path_lxstat(int version, const char *path, struct stat *st)
{
    return path_xstat(version, path, st);
}

int path_lxstat64(int version, const char *path, struct stat *st)
{
    return path_xstat(version, path, st);
}

int path_fxstat(int version, int fd, struct stat *st)
{
    (void)version;
    return path_fstat(fd, st);
}

int path_fxstat64(int version, int fd, struct stat *st)
{
    return path_fxstat(version, fd, st);
}

void *path_opendir(const char *path)
{
    (void)path;
    errno = ENOENT;
    return NULL;
}

ssize_t path_readlink(const char *path, char *to, size_t size)
{
    (void)path, (void)to, (void)size;
    return refuse(EINVAL);
}

int path_mkdir(const char *path, mode_t mode)
{
    (void)path, (void)mode;
    return refuse(EACCES);
}

int path_rmdir(const char *path)
{
    (void)path;
    return refuse(EACCES);
}

int path_unlink(const char *path)
{
    (void)path;
    return refuse(EACCES);
}

int path_remove(const char *path)
{
    (void)path;
    return refuse(EACCES);
}

int path_rename(const char *from, const char *to)
{
    (void)from, (void)to;
    return refuse(EACCES);
}

int path_statvfs(const char *path, struct statvfs *st)
{
    (void)path, (void)st;
    return refuse(EACCES);
}
