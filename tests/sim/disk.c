/* The plan of faults, the lock, and which calls are ours to look at. */
#undef _FILE_OFFSET_BITS
#include "sim/disk_int.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { FAULTS_MAX = 64 };

struct plan {
    struct disk_fault what;
    char path[128];
    pthread_t thread;
    uint64_t seen, hits;
};

struct disk_model disk_model;
__thread int disk_inside;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool watching, power_is_off;
static struct plan plans[FAULTS_MAX];
static int nplans;
static _Atomic int alloc_plans;
static _Atomic uint64_t calls[DISK_NCALLS];
static int (*hook)(void *arg, enum disk_call call, const char *path);
static void *hook_arg;

void disk_lock(void)
{
    pthread_mutex_lock(&lock);
    disk_inside++;
}

void disk_end(void)
{
    int was = errno;
    disk_inside--;
    pthread_mutex_unlock(&lock);
    errno = was;
}

/* ---- is it ours? -------------------------------------------------------------------------------------- */

bool disk_begin_fd(int fd, struct disk_node **ret)
{
    struct stat st;
    if (disk_inside > 0 || !atomic_load_explicit(&watching, memory_order_acquire) || fd < 0)
        return false;
    int was = errno;
    disk_inside++;
    bool known = fstat(fd, &st) == 0 && st.st_dev == disk_model.dev;
    disk_inside--;
    errno = was;
    if (!known)
        return false;
    disk_lock();
    for (struct disk_node *n = disk_model.inos[st.st_ino % 4096]; n != NULL; n = n->next_ino)
        if (n->ino == st.st_ino) {
            *ret = n;
            return true;
        }
    disk_end();
    return false;
}

/* Lexical: the trees that are watched have no symbolic links. */
static bool normalise(const char *path, char *ret)
{
    size_t n = 0;
    for (const char *p = path; *p != '\0';) {
        while (*p == '/')
            p++;
        size_t len = strcspn(p, "/");
        if (len == 2 && p[0] == '.' && p[1] == '.') {
            while (n > 0 && ret[--n] != '/')
                ;
        } else if (len > 0 && !(len == 1 && p[0] == '.')) {
            if (n + len + 2 >= PATH_MAX)
                return false;
            ret[n++] = '/';
            memcpy(ret + n, p, len);
            n += len;
        }
        p += len;
    }
    ret[n] = '\0';
    return true;
}

/* `ret` becomes the path below the root. */
static bool below_root(int dirfd, const char *path, char *ret)
{
    char whole[2 * PATH_MAX], base[PATH_MAX] = "", link[64];
    if (path[0] != '/') {
        if (dirfd == AT_FDCWD) {
            if (getcwd(base, sizeof base) == NULL)
                return false;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
            ssize_t n = readlink(link, base, sizeof base - 1);
            if (n <= 0)
                return false;
            base[n] = '\0';
        }
    }
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    size_t root = strlen(disk_model.root);
    if (!normalise(whole, ret) || strncmp(ret, disk_model.root, root) != 0 ||
        (ret[root] != '/' && ret[root] != '\0'))
        return false;
    size_t skip = root + (ret[root] == '/');
    memmove(ret, ret + skip, strlen(ret + skip) + 1);
    return true;
}

bool disk_begin_path(int dirfd, const char *path, char *ret)
{
    if (disk_inside > 0 || !atomic_load_explicit(&watching, memory_order_acquire) || path == NULL)
        return false;
    int was = errno;
    disk_lock();
    bool ours = below_root(dirfd, path, ret);
    errno = was;
    if (!ours)
        disk_end();
    return ours;
}

/* ---- the plan ------------------------------------------------------------------------------------------ */

static bool matches(const struct plan *p, enum disk_call call, const char *path)
{
    return p->what.call == call && (p->path[0] == '\0' || strstr(path, p->path) != NULL) &&
           (!p->what.this_thread || pthread_equal(p->thread, pthread_self()));
}

static void sleep_unlocked(unsigned us)
{
    struct timespec t = {us / 1000000, (long)(us % 1000000) * 1000};
    disk_end();
    nanosleep(&t, NULL);
    disk_lock();
}

static enum verdict by_plan(enum disk_call call, const char *path, bool *ret_decided)
{
    unsigned delay = 0;
    enum verdict v = PASS;
    for (int i = 0; i < nplans && !*ret_decided; i++) {
        struct plan *p = &plans[i];
        if (!matches(p, call, path))
            continue;
        uint64_t seen = ++p->seen;
        if (seen < p->what.nth || (p->what.times != 0 && seen >= p->what.nth + p->what.times))
            continue;
        p->hits++;
        delay += p->what.delay_us;
        *ret_decided = p->what.short_bytes || p->what.error != 0;
        v = p->what.short_bytes ? SHORT : p->what.error != 0 ? FAIL : PASS;
        if (v == FAIL)
            errno = p->what.error;
    }
    int error = errno;
    if (delay > 0)
        sleep_unlocked(delay);
    errno = error;
    return v;
}

enum verdict disk_verdict(enum disk_call call, const char *path, bool changes)
{
    bool decided = false;
    atomic_fetch_add_explicit(&calls[call], 1, memory_order_relaxed);
    if (changes && atomic_load(&power_is_off)) {
        errno = EIO;
        return FAIL;
    }
    enum verdict v = by_plan(call, path, &decided);
    if (!decided && hook != NULL && call != DISK_ALLOC) {
        int error = hook(hook_arg, call, path);
        if (error != 0) {
            errno = error;
            v = FAIL;
        }
    }
    return v;
}

enum verdict disk_verdict_fd(enum disk_call call, const struct disk_node *n, bool changes)
{
    char path[PATH_MAX];
    disk_node_path(n, path, sizeof path);
    return disk_verdict(call, path, changes);
}

enum verdict disk_verdict_bare(enum disk_call call)
{
    if (disk_inside > 0)
        return PASS;
    if (call == DISK_ALLOC && atomic_load_explicit(&alloc_plans, memory_order_acquire) == 0) {
        atomic_fetch_add_explicit(&calls[call], 1, memory_order_relaxed);
        return PASS;
    }
    int was = errno;
    disk_lock();
    enum verdict v = disk_verdict(call, "", false);
    if (v != FAIL)
        errno = was;
    disk_end();
    return v;
}

int disk_fault_add(const struct disk_fault *f)
{
    disk_lock();
    if (nplans == FAULTS_MAX)
        abort();
    struct plan *p = &plans[nplans];
    *p = (struct plan){.what = *f, .thread = pthread_self()};
    if (f->path != NULL)
        snprintf(p->path, sizeof p->path, "%s", f->path);
    atomic_fetch_add(&alloc_plans, f->call == DISK_ALLOC);
    int number = nplans++;
    disk_end();
    return number;
}

uint64_t disk_fault_seen(int fault)
{
    disk_lock();
    uint64_t n = plans[fault].seen;
    disk_end();
    return n;
}

uint64_t disk_fault_hits(int fault)
{
    disk_lock();
    uint64_t n = plans[fault].hits;
    disk_end();
    return n;
}

void disk_faults_clear(void)
{
    disk_lock();
    nplans = 0;
    atomic_store(&alloc_plans, 0);
    disk_end();
}

void disk_set_hook(int (*fn)(void *arg, enum disk_call call, const char *path), void *arg)
{
    disk_lock();
    hook = fn;
    hook_arg = arg;
    disk_end();
}

uint64_t disk_calls(enum disk_call call)
{
    return atomic_load(&calls[call]);
}

/* ---- attaching ----------------------------------------------------------------------------------------- */

void disk_attach(const char *root)
{
    struct stat st;
    disk_lock();
    if (atomic_load(&watching) || realpath(root, disk_model.root) == NULL || stat(root, &st) != 0) {
        fprintf(stderr, "disk_attach %s: cannot watch it\n", root);
        abort();
    }
    disk_model.dev = st.st_dev;
    for (int i = 0; i < DISK_NCALLS; i++)
        atomic_store(&calls[i], 0);
    disk_tree_scan();
    atomic_store(&power_is_off, false);
    atomic_store(&watching, true);
    disk_end();
}

void disk_detach(void)
{
    disk_faults_clear();
    disk_set_hook(NULL, NULL);
    disk_lock();
    atomic_store(&watching, false);
    atomic_store(&power_is_off, false);
    disk_tree_free();
    disk_end();
}

void disk_power_off(void)
{
    disk_lock();
    atomic_store(&power_is_off, true);
    disk_end();
}

void disk_power_back(void)
{
    atomic_store(&power_is_off, false);
}
