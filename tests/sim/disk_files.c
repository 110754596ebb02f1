/* libc's calls on paths, defined here: each asks the plan, goes to the kernel, and tells the model. */
#undef _FILE_OFFSET_BITS
#include "sim/disk_int.h"
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- opening ------------------------------------------------------------------------------------------- */

static int open_at(int dirfd, const char *path, int flags, mode_t mode)
{
    char relative[PATH_MAX];
    if (!disk_begin_path(dirfd, path, relative))
        return (int)syscall(SYS_openat, dirfd, path, flags, mode);
    bool changes = (flags & (O_CREAT | O_TRUNC)) != 0 || (flags & O_ACCMODE) != O_RDONLY;
    int fd = -1;
    if (disk_verdict(DISK_OPEN, relative, changes) != FAIL) {
        bool there = disk_find(relative) != NULL;
        fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
        if (fd >= 0)
            disk_note_open(relative, fd, !there && (flags & O_CREAT) != 0, (flags & O_TRUNC) != 0);
    }
    disk_end();
    return fd;
}

static mode_t mode_of(int flags, va_list list)
{
    return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, mode_t) : 0;
}

#define WITH_MODE(call)                                                                                      \
    va_list list;                                                                                            \
    va_start(list, flags);                                                                                   \
    mode_t mode = mode_of(flags, list);                                                                      \
    va_end(list);                                                                                            \
    return call

int open(const char *path, int flags, ...)
{
    WITH_MODE(open_at(AT_FDCWD, path, flags, mode));
}

int open64(const char *path, int flags, ...)
{
    WITH_MODE(open_at(AT_FDCWD, path, flags, mode));
}

int openat(int dirfd, const char *path, int flags, ...)
{
    WITH_MODE(open_at(dirfd, path, flags, mode));
}

int openat64(int dirfd, const char *path, int flags, ...)
{
    WITH_MODE(open_at(dirfd, path, flags, mode));
}

int creat(const char *path, mode_t mode)
{
    return open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

static void *libc(const char *name)
{
    void *p = dlsym(RTLD_NEXT, name);
    if (p == NULL)
        abort();
    return p;
}

static FILE *open_stdio(const char *path, const char *mode, const char *name)
{
    char relative[PATH_MAX];
    FILE *(*next)(const char *, const char *) = (FILE * (*)(const char *, const char *)) libc(name);
    if (!disk_begin_path(AT_FDCWD, path, relative))
        return next(path, mode);
    bool changes = mode[0] != 'r';
    FILE *f = NULL;
    if (disk_verdict(DISK_OPEN, relative, changes) != FAIL) {
        bool there = disk_find(relative) != NULL;
        f = next(path, mode);
        if (f != NULL && changes)
            disk_note_stdio(relative, !there);
    }
    disk_end();
    return f;
}

FILE *fopen(const char *path, const char *mode)
{
    return open_stdio(path, mode, "fopen");
}

FILE *fopen64(const char *path, const char *mode)
{
    return open_stdio(path, mode, "fopen64");
}

DIR *opendir(const char *path)
{
    char relative[PATH_MAX];
    DIR *(*next)(const char *) = (DIR * (*)(const char *)) libc("opendir");
    if (!disk_begin_path(AT_FDCWD, path, relative))
        return next(path);
    DIR *d = disk_verdict(DISK_OPEN, relative, false) == FAIL ? NULL : next(path);
    disk_end();
    return d;
}

/* ---- names --------------------------------------------------------------------------------------------- */

static int remove_at(int dirfd, const char *path, int flags)
{
    char relative[PATH_MAX];
    if (!disk_begin_path(dirfd, path, relative))
        return (int)syscall(SYS_unlinkat, dirfd, path, flags);
    int r = -1;
    if (disk_verdict(DISK_UNLINK, relative, true) != FAIL) {
        (void)disk_find(relative);
        if ((r = (int)syscall(SYS_unlinkat, dirfd, path, flags)) == 0)
            disk_note_remove(relative);
    }
    disk_end();
    return r;
}

int unlink(const char *path)
{
    return remove_at(AT_FDCWD, path, 0);
}

int unlinkat(int dirfd, const char *path, int flags)
{
    return remove_at(dirfd, path, flags);
}

int rmdir(const char *path)
{
    return remove_at(AT_FDCWD, path, AT_REMOVEDIR);
}

int remove(const char *path)
{
    return unlink(path) == 0 ? 0 : errno == EISDIR ? rmdir(path) : -1;
}

static int rename_at(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    char relative[PATH_MAX], target[PATH_MAX];
    if (!disk_begin_path(from_dir, from, relative))
        return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    disk_end();
    if (!disk_begin_path(to_dir, to, target)) {
        fprintf(stderr, "disk: rename %s to %s leaves the root: not modelled\n", from, to);
        abort();
    }
    int r = -1;
    if (disk_verdict(DISK_RENAME, target, true) != FAIL) {
        (void)disk_find(relative);
        (void)disk_find(target);
        if ((r = (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags)) == 0)
            disk_note_rename(relative, target);
    }
    disk_end();
    return r;
}

int rename(const char *from, const char *to)
{
    return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    return rename_at(from_dir, from, to_dir, to, 0);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    return rename_at(from_dir, from, to_dir, to, flags);
}

static int link_at(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    char relative[PATH_MAX], target[PATH_MAX];
    bool known = disk_begin_path(from_dir, from, relative);
    if (known)
        disk_end();
    if (!disk_begin_path(to_dir, to, target))
        return (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
    int r = -1;
    if (disk_verdict(DISK_LINK, target, true) != FAIL &&
        (r = (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags)) == 0) {
        if (known)
            disk_note_link(relative, target);
        else
            (void)disk_find(target);
    }
    disk_end();
    return r;
}

int link(const char *from, const char *to)
{
    return link_at(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    return link_at(from_dir, from, to_dir, to, flags);
}

static int mkdir_at(int dirfd, const char *path, mode_t mode)
{
    char relative[PATH_MAX];
    if (!disk_begin_path(dirfd, path, relative))
        return (int)syscall(SYS_mkdirat, dirfd, path, mode);
    int r = -1;
    if (disk_verdict(DISK_MKDIR, relative, true) != FAIL) {
        (void)disk_find(relative);
        if ((r = (int)syscall(SYS_mkdirat, dirfd, path, mode)) == 0)
            disk_note_mkdir(relative);
    }
    disk_end();
    return r;
}

int mkdir(const char *path, mode_t mode)
{
    return mkdir_at(AT_FDCWD, path, mode);
}

int mkdirat(int dirfd, const char *path, mode_t mode)
{
    return mkdir_at(dirfd, path, mode);
}
