/* What a power loss leaves. First the names: of the operations that are not safe yet, in their order, those
 * that survive are applied to the safe tree. Then each file in it gets its bytes: the safe ones, with some of
 * what was seen over them. The result is written in place of the visible tree, and watched anew. */
#undef _FILE_OFFSET_BITS
#include "sim/disk_int.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define M disk_model
enum { SECTOR = 512 };

/* splitmix64: https://prng.di.unimi.it/splitmix64.c describes it. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void drop(const char *what, const char *path)
{
    fprintf(stderr, "disk: %s %s: %s\n", what, path, strerror(errno));
    abort();
}

/* ---- names --------------------------------------------------------------------------------------------- */

/* How far a folder got, by a journal of its own. */
static bool in_prefix(const struct disk_node *dir, uint64_t seed, size_t nth, size_t of)
{
    uint64_t rng = seed ^ (dir->id * UINT64_C(0x9e3779b97f4a7c15));
    return nth < next_random(&rng) % (of + 1);
}

/* Operations of a folder before this one, and all of them. */
static size_t ops_of(const struct disk_node *dir, size_t before)
{
    size_t n = 0;
    for (size_t i = 0; i < before; i++)
        n += M.ops[i].dir == dir || M.ops[i].dir2 == dir;
    return n;
}

/* Mixed: half of the times the first so many, as one journal has it; else the first so many of each folder.
 * Nothing survives what it builds upon. */
static void settle_names(uint64_t *rng, enum disk_loss loss, struct disk_report *r)
{
    bool journal = next_random(rng) % 2 == 0;
    size_t first = M.nops == 0 ? 0 : (size_t)(next_random(rng) % (M.nops + 1));
    uint64_t seed = next_random(rng);
    for (size_t i = 0; i < M.nops; i++) {
        struct disk_op *op = &M.ops[i];
        bool stays = journal ? i < first
                             : in_prefix(op->dir, seed, ops_of(op->dir, i), ops_of(op->dir, M.nops)) &&
                                   (op->dir2 == NULL || in_prefix(op->dir2, seed, ops_of(op->dir2, i),
                                                            ops_of(op->dir2, M.nops)));
        op->marked = loss == LOSS_NONE || (loss == LOSS_MIXED && stays);
        for (size_t k = 0; k < i && op->marked; k++)
            op->marked = M.ops[k].marked || !disk_ops_meet(op, &M.ops[k]);
        if (op->marked)
            disk_op_apply(op);
        else
            r->names_lost++;
    }
}

/* ---- bytes --------------------------------------------------------------------------------------------- */

struct image {
    char *bytes;
    int64_t len;
    mode_t mode;
};

/* What is seen of a file now; false: nothing is. */
static bool see(const struct disk_node *n, struct image *ret)
{
    char path[PATH_MAX], whole[2 * PATH_MAX];
    struct stat st;
    *ret = (struct image){.mode = 0600};
    if (n->unseen)
        return false;
    disk_node_path(n, path, sizeof path);
    snprintf(whole, sizeof whole, "%s/%s", M.root, path);
    int fd = open(whole, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    if (fstat(fd, &st) != 0 || (ret->bytes = malloc((size_t)st.st_size + 1)) == NULL)
        drop("look at", whole);
    ret->mode = st.st_mode & 07777;
    for (ssize_t got; ret->len < st.st_size; ret->len += got)
        if ((got = pread(fd, ret->bytes + ret->len, (size_t)(st.st_size - ret->len), ret->len)) <= 0)
            drop("read", whole);
    close(fd);
    return true;
}

static bool waits(const struct disk_node *n, int64_t from, int64_t to)
{
    return to > n->clean_len || (from < n->dirty_hi && to > n->dirty_lo);
}

/* The safe bytes, with sectors of the seen ones that wait for an fsync, up to a length between the two. */
static void mix(const struct disk_node *n, const struct image *seen, uint64_t rng, struct image *out)
{
    int64_t lo = n->nbytes < seen->len ? n->nbytes : seen->len;
    int64_t hi = n->nbytes < seen->len ? seen->len : n->nbytes;
    bool size_waits = seen->len != n->nbytes && (n->clean_len != seen->len || n->dirty_hi > n->dirty_lo);
    out->len = n->nbytes;
    uint64_t how = next_random(&rng) % 4;
    if (size_waits)
        out->len = how == 0   ? n->nbytes
                   : how == 1 ? seen->len
                              : lo + (int64_t)(next_random(&rng) % (uint64_t)(hi - lo + 1));
    uint64_t keep = next_random(&rng) % 4; /* of four sectors how many are new: 0 to 3, or all */
    bool all = next_random(&rng) % 3 == 0;
    for (int64_t at = 0; at < out->len; at += SECTOR) {
        int64_t end = at + SECTOR < out->len ? at + SECTOR : out->len;
        bool fresh = waits(n, at, end) && (all || next_random(&rng) % 4 < keep);
        for (int64_t i = at; i < end; i++)
            out->bytes[i] = fresh && i < seen->len ? seen->bytes[i] : i < n->nbytes ? n->bytes[i] : 0;
    }
}

static struct image settle_bytes(
    const struct disk_node *n, uint64_t seed, enum disk_loss loss, struct disk_report *r)
{
    struct image seen, out;
    uint64_t rng = seed ^ (n->id * UINT64_C(0xd1342543de82ef95));
    bool visible = see(n, &seen);
    out = (struct image){.mode = seen.mode};
    int64_t room = seen.len > n->nbytes ? seen.len : n->nbytes;
    if ((out.bytes = calloc(1, (size_t)room + 1)) == NULL)
        abort();
    if (visible && (loss == LOSS_NONE || n->stdio)) {
        out.len = seen.len;
        memcpy(out.bytes, seen.bytes, (size_t)seen.len);
    } else if (visible && loss == LOSS_MIXED) {
        mix(n, &seen, rng, &out);
    } else {
        out.len = n->nbytes;
        if (n->nbytes > 0)
            memcpy(out.bytes, n->bytes, (size_t)n->nbytes);
    }
    bool as_seen = !visible || (out.len == seen.len && memcmp(out.bytes, seen.bytes, (size_t)out.len) == 0);
    bool as_safe =
        out.len == n->nbytes && (out.len == 0 || memcmp(out.bytes, n->bytes, (size_t)out.len) == 0);
    r->files++;
    r->files_lost += !as_seen;
    r->files_torn += !as_seen && !as_safe;
    r->bytes_lost += seen.len > out.len ? (uint64_t)(seen.len - out.len) : 0;
    free(seen.bytes);
    return out;
}

/* ---- in place of the tree ------------------------------------------------------------------------------ */

/* A file of the new state, until the old one is out of the way. */
struct made {
    struct made *next;
    char *path;
    bool is_dir;
    struct image image;
};

static struct made **build(const struct disk_node *dir, const char *path, uint64_t seed, enum disk_loss loss,
    struct disk_report *r, struct made **tail)
{
    for (size_t i = 0; i < dir->safe.n; i++) {
        const struct disk_entry *e = &dir->safe.items[i];
        struct made *m = calloc(1, sizeof *m);
        if (m == NULL || asprintf(&m->path, "%s/%s", path, e->name) < 0)
            abort();
        m->is_dir = e->node->is_dir;
        *tail = m;
        tail = &m->next;
        if (m->is_dir)
            tail = build(e->node, m->path, seed, loss, r, tail);
        else
            m->image = settle_bytes(e->node, seed, loss, r);
    }
    return tail;
}

static void empty(const char *path)
{
    DIR *d = opendir(path);
    if (d == NULL)
        drop("open", path);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char inner[2 * PATH_MAX];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
        if (unlink(inner) == 0)
            continue;
        empty(inner);
        if (rmdir(inner) != 0)
            drop("remove", inner);
    }
    closedir(d);
}

static void write_out(const struct made *m)
{
    if (m->is_dir) {
        if (mkdir(m->path, 0700) != 0)
            drop("make", m->path);
        return;
    }
    int fd = open(m->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        drop("make", m->path);
    for (int64_t at = 0; at < m->image.len;) {
        ssize_t w = write(fd, m->image.bytes + at, (size_t)(m->image.len - at));
        if (w <= 0)
            drop("write", m->path);
        at += w;
    }
    (void)fchmod(fd, m->image.mode);
    close(fd);
}

void disk_power_on(uint64_t seed, enum disk_loss loss, struct disk_report *ret)
{
    struct disk_report report = {0};
    struct made *first = NULL;
    disk_lock();
    uint64_t rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    uint64_t which = next_random(&rng) % 8;
    if (loss == LOSS_BY_SEED)
        loss = which == 0 ? LOSS_NONE : which <= 2 ? LOSS_ALL : LOSS_MIXED;
    settle_names(&rng, loss, &report);
    (void)build(M.top, M.root, next_random(&rng), loss, &report, &first);
    empty(M.root);
    while (first != NULL) {
        struct made *m = first;
        write_out(m);
        first = m->next;
        free(m->image.bytes);
        free(m->path);
        free(m);
    }
    disk_tree_free();
    disk_tree_scan();
    disk_power_back();
    disk_end();
    if (ret != NULL)
        *ret = report;
}

void disk_crash(uint64_t seed, enum disk_loss loss, struct disk_report *ret)
{
    disk_power_off();
    disk_power_on(seed, loss, ret);
}

/* ---- rot, and what is not safe --------------------------------------------------------------------------
 */

bool disk_rot(const char *path, uint64_t offset, unsigned bit)
{
    char relative[PATH_MAX], byte;
    if (!disk_begin_path(AT_FDCWD, path, relative))
        return false;
    struct disk_node *n = disk_find(relative);
    int fd = n == NULL || n->is_dir ? -1 : open(path, O_RDWR | O_CLOEXEC);
    bool done = fd >= 0 && pread(fd, &byte, 1, (off_t)offset) == 1;
    if (done) {
        byte = (char)(byte ^ (1 << (bit % 8)));
        done = pwrite(fd, &byte, 1, (off_t)offset) == 1;
        if (offset < (uint64_t)n->nbytes)
            n->bytes[offset] = (char)(n->bytes[offset] ^ (1 << (bit % 8)));
    }
    if (fd >= 0)
        close(fd);
    disk_end();
    return done;
}

bool disk_unsafe(char *ret_path, size_t size)
{
    char path[PATH_MAX] = "";
    bool found = false;
    disk_lock();
    if (M.nops > 0) {
        disk_node_path(M.ops[0].dir, path, sizeof path);
        found = true;
        if (ret_path != NULL)
            snprintf(ret_path, size, "%s: name %s", path, M.ops[0].name);
    }
    for (struct disk_node *n = M.all; n != NULL && !found; n = n->next) {
        struct image seen = {0};
        if (n->is_dir || n->unseen || n->stdio || !see(n, &seen))
            continue;
        found =
            seen.len != n->nbytes || (seen.len > 0 && memcmp(seen.bytes, n->bytes, (size_t)seen.len) != 0);
        disk_node_path(n, path, sizeof path);
        if (found && ret_path != NULL)
            snprintf(ret_path, size, "%s: bytes", path);
        free(seen.bytes);
    }
    disk_end();
    return found;
}
