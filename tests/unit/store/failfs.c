/* A disk that fails on command: linked into a test, or preloaded into a server (LD_PRELOAD). While the file
 * named by FAILFS_CONTROL holds a line, calls on regular files below FAILFS_ROOT fail:
 *
 *   fsync EIO        fsync and fdatasync fail with EIO
 *   write ENOSPC     write and pwrite fail with ENOSPC
 *   tables ENOSPC    they do so on .sst files only
 *   after N EIO      the Nth fsync or fdatasync from now and all later ones fail with EIO
 *
 * The file is read anew at each call: the test changes it at will. */
#undef _FILE_OFFSET_BITS /* both pwrite and pwrite64 are defined here */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Atomic int synced;

static bool below_root(int fd, char path[512])
{
    const char *root = getenv("FAILFS_ROOT");
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 511);
    if (root == NULL || n <= 0)
        return false;
    path[n] = '\0';
    return strncmp(path, root, strlen(root)) == 0;
}

/* 0, or the errno that a call of this kind on fd gets. */
static int verdict(const char *kind, int fd)
{
    const char *control = getenv("FAILFS_CONTROL");
    char text[64] = "", word[16] = "", err[16] = "", path[512];
    int after = 0;
    if (control == NULL)
        return 0;
    int c = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
    if (c < 0)
        return 0;
    ssize_t n = syscall(SYS_read, c, text, sizeof text - 1);
    syscall(SYS_close, c);
    if (n <= 0 || !below_root(fd, path))
        return 0;
    bool fails = false;
    if (sscanf(text, "after %d %15s", &after, err) == 2)
        fails = strcmp(kind, "fsync") == 0 && atomic_fetch_add(&synced, 1) + 1 >= after;
    else if (sscanf(text, "%15s %15s", word, err) == 2)
        fails = strcmp(kind, word) == 0 ||
                (strcmp(word, "tables") == 0 && strcmp(kind, "write") == 0 && strstr(path, ".sst") != NULL);
    return !fails ? 0 : strcmp(err, "ENOSPC") == 0 ? ENOSPC : EIO;
}

static int failed(const char *kind, int fd)
{
    int was = errno, e = verdict(kind, fd);
    errno = e != 0 ? e : was;
    return e;
}

int fsync(int fd)
{
    return failed("fsync", fd) != 0 ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return failed("fsync", fd) != 0 ? -1 : (int)syscall(SYS_fdatasync, fd);
}

ssize_t write(int fd, const void *p, size_t n)
{
    return failed("write", fd) != 0 ? -1 : (ssize_t)syscall(SYS_write, fd, p, n);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    return failed("write", fd) != 0 ? -1 : (ssize_t)syscall(SYS_pwrite64, fd, p, n, at);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
    return failed("write", fd) != 0 ? -1 : (ssize_t)syscall(SYS_pwrite64, fd, p, n, at);
}
