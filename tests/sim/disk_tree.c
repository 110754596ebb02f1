/* The tree: names and bytes as they are seen beside what of them is safe. */
#undef _FILE_OFFSET_BITS
#include "sim/disk_int.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define M disk_model

static void *need(void *p)
{
    if (p == NULL)
        abort();
    return p;
}

/* ---- names --------------------------------------------------------------------------------------------- */

struct disk_node *disk_names_get(const struct disk_names *d, const char *name)
{
    for (size_t i = 0; i < d->n; i++)
        if (strcmp(d->items[i].name, name) == 0)
            return d->items[i].node;
    return NULL;
}

void disk_names_put(struct disk_names *d, const char *name, struct disk_node *n)
{
    for (size_t i = 0; i < d->n; i++)
        if (strcmp(d->items[i].name, name) == 0) {
            d->items[i].node = n;
            return;
        }
    if (d->n == d->cap) {
        d->cap = d->cap * 2 + 8;
        d->items = need(realloc(d->items, d->cap * sizeof *d->items));
    }
    d->items[d->n++] = (struct disk_entry){need(strdup(name)), n};
}

void disk_names_del(struct disk_names *d, const char *name)
{
    for (size_t i = 0; i < d->n; i++)
        if (strcmp(d->items[i].name, name) == 0) {
            free(d->items[i].name);
            d->items[i] = d->items[--d->n];
            return;
        }
}

static void names_free(struct disk_names *d)
{
    for (size_t i = 0; i < d->n; i++)
        free(d->items[i].name);
    free(d->items);
    *d = (struct disk_names){0};
}

/* ---- nodes --------------------------------------------------------------------------------------------- */

static void forget_ino(struct disk_node *n)
{
    struct disk_node **at = &M.inos[n->ino % 4096];
    while (*at != NULL && *at != n)
        at = &(*at)->next_ino;
    if (*at == n)
        *at = n->next_ino;
    n->next_ino = NULL;
    n->ino = 0;
}

static void set_ino(struct disk_node *n, ino_t ino)
{
    for (struct disk_node *o = M.inos[ino % 4096]; o != NULL; o = o->next_ino)
        if (o->ino == ino) { /* of a file that is gone: the kernel gave the number again */
            forget_ino(o);
            break;
        }
    n->ino = ino;
    n->next_ino = M.inos[ino % 4096];
    M.inos[ino % 4096] = n;
}

static struct disk_node *node_new(bool is_dir, struct disk_node *parent, const char *name, ino_t ino)
{
    struct disk_node *n = need(calloc(1, sizeof *n));
    n->id = M.next_id++;
    n->is_dir = is_dir;
    n->parent = parent;
    n->name = need(strdup(name));
    n->next = M.all;
    M.all = n;
    set_ino(n, ino);
    return n;
}

static void place(struct disk_node *n, struct disk_node *dir, const char *name)
{
    char *copy = need(strdup(name));
    free(n->name);
    n->name = copy;
    n->parent = dir;
    n->unseen = false;
    disk_names_put(&dir->now, name, n);
}

/* Other names of it are looked for where it has none left under the last one. */
static void unplace(struct disk_node *n)
{
    n->unseen = true;
    for (struct disk_node *d = M.all; d != NULL && n->linked; d = d->next)
        for (size_t i = 0; d->is_dir && i < d->now.n; i++)
            if (d->now.items[i].node == n) {
                place(n, d, d->now.items[i].name);
                return;
            }
}

void disk_node_path(const struct disk_node *n, char *ret, size_t size)
{
    size_t used = 0;
    ret[0] = '\0';
    if (n->parent == NULL)
        return;
    disk_node_path(n->parent, ret, size);
    used = strlen(ret);
    snprintf(ret + used, size - used, "%s%s", used > 0 ? "/" : "", n->name);
}

static void whole_path(const char *path, char ret[2 * PATH_MAX])
{
    snprintf(ret, 2 * PATH_MAX, "%s/%s", M.root, path);
}

/* The folder of a path, and the last part of it. NULL: not known. */
static struct disk_node *dir_of(const char *path, const char **ret_name)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    *ret_name = slash == NULL ? path : slash + 1;
    snprintf(dir, sizeof dir, "%.*s", slash == NULL ? 0 : (int)(slash - path), path);
    struct disk_node *n = disk_find(dir);
    return n != NULL && n->is_dir ? n : NULL;
}

static void settle_new(struct disk_node *n, const char *whole)
{
    int fd = open(whole, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    disk_node_settle(n, fd);
    close(fd);
}

/* What another process, or a test by other means, put there: it is safe. */
static struct disk_node *adopt(struct disk_node *dir, const char *name, const char *whole)
{
    struct stat st;
    if (lstat(whole, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
        return NULL;
    struct disk_node *n = node_new(S_ISDIR(st.st_mode), dir, name, st.st_ino);
    place(n, dir, name);
    disk_names_put(&dir->safe, name, n);
    if (!n->is_dir)
        settle_new(n, whole);
    return n;
}

struct disk_node *disk_find(const char *path)
{
    struct disk_node *n = M.top;
    char part[NAME_MAX + 1], so_far[PATH_MAX] = "", whole[2 * PATH_MAX];
    while (n != NULL && *path != '\0') {
        size_t len = strcspn(path, "/"), used = strlen(so_far);
        if (len > NAME_MAX || !n->is_dir)
            return NULL;
        snprintf(part, sizeof part, "%.*s", (int)len, path);
        snprintf(so_far + used, sizeof so_far - used, "%s%s", used > 0 ? "/" : "", part);
        struct disk_node *child = disk_names_get(&n->now, part);
        if (child == NULL) {
            whole_path(so_far, whole);
            child = adopt(n, part, whole);
        }
        n = child;
        path += len + (path[len] == '/');
    }
    return n;
}

static void scan(struct disk_node *dir, const char *whole)
{
    char path[2 * PATH_MAX + NAME_MAX];
    struct dirent **items;
    int count = scandir(whole, &items, NULL, alphasort); /* the order gives the ids */
    for (int i = 0; i < count; i++) {
        if (strcmp(items[i]->d_name, ".") != 0 && strcmp(items[i]->d_name, "..") != 0) {
            snprintf(path, sizeof path, "%s/%s", whole, items[i]->d_name);
            struct disk_node *n = adopt(dir, items[i]->d_name, path);
            if (n != NULL && n->is_dir)
                scan(n, path);
        }
        free(items[i]);
    }
    if (count >= 0)
        free(items);
}

void disk_tree_scan(void)
{
    struct stat st;
    M.next_id = 1;
    if (stat(M.root, &st) != 0)
        abort();
    M.top = node_new(true, NULL, "", st.st_ino);
    scan(M.top, M.root);
}

void disk_tree_free(void)
{
    while (M.all != NULL) {
        struct disk_node *n = M.all;
        M.all = n->next;
        names_free(&n->now);
        names_free(&n->safe);
        free(n->bytes);
        free(n->name);
        free(n);
    }
    for (size_t i = 0; i < M.nops; i++) {
        free(M.ops[i].name);
        free(M.ops[i].name2);
    }
    free(M.ops);
    M.ops = NULL;
    M.nops = M.ops_cap = 0;
    M.top = NULL;
    memset(M.inos, 0, sizeof M.inos);
}

/* ---- bytes --------------------------------------------------------------------------------------------- */

static void copy_range(struct disk_node *n, int fd, int64_t from, int64_t to)
{
    for (int64_t at = from; at < to;) {
        ssize_t r = pread(fd, n->bytes + at, (size_t)(to - at), at);
        if (r <= 0)
            break;
        at += r;
    }
}

static void clean(struct disk_node *n, int64_t size)
{
    n->clean_len = size;
    n->dirty_lo = n->dirty_hi = 0;
}

void disk_node_settle(struct disk_node *n, int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return;
    int64_t size = st.st_size, lo = n->dirty_lo, hi = n->dirty_hi < size ? n->dirty_hi : size;
    char *bytes = need(realloc(n->bytes, (size_t)size + 1));
    if (size > n->nbytes)
        memset(bytes + n->nbytes, 0, (size_t)(size - n->nbytes));
    n->bytes = bytes;
    n->nbytes = size;
    copy_range(n, fd, n->clean_len, size);
    if (lo < hi)
        copy_range(n, fd, lo, hi);
    clean(n, size);
}

void disk_note_write(struct disk_node *n, int64_t from, int64_t to)
{
    if (n->dirty_lo == n->dirty_hi) {
        n->dirty_lo = from;
        n->dirty_hi = to;
        return;
    }
    n->dirty_lo = from < n->dirty_lo ? from : n->dirty_lo;
    n->dirty_hi = to > n->dirty_hi ? to : n->dirty_hi;
}

void disk_note_truncate(struct disk_node *n, int64_t size)
{
    if (size < n->clean_len)
        n->clean_len = size;
}

/* ---- names change -------------------------------------------------------------------------------------- */

static void op_add(struct disk_op op, const char *name, const char *name2)
{
    if (M.nops == M.ops_cap) {
        M.ops_cap = M.ops_cap * 2 + 64;
        M.ops = need(realloc(M.ops, M.ops_cap * sizeof *M.ops));
    }
    op.name = need(strdup(name));
    op.name2 = name2 == NULL ? NULL : need(strdup(name2));
    M.ops[M.nops++] = op;
}

void disk_op_apply(const struct disk_op *op)
{
    if (op->kind == OP_MAKE) {
        disk_names_put(&op->dir->safe, op->name, op->node);
        return;
    }
    if (disk_names_get(&op->dir->safe, op->name) == op->node)
        disk_names_del(&op->dir->safe, op->name);
    if (op->kind == OP_RENAME)
        disk_names_put(&op->dir2->safe, op->name2, op->node);
}

static bool same_place(const struct disk_node *d1, const char *n1, const struct disk_node *d2, const char *n2)
{
    return d1 != NULL && d1 == d2 && n1 != NULL && n2 != NULL && strcmp(n1, n2) == 0;
}

/* Do they change one name, so that the later one cannot be without the earlier? */
bool disk_ops_meet(const struct disk_op *a, const struct disk_op *b)
{
    return same_place(a->dir, a->name, b->dir, b->name) || same_place(a->dir, a->name, b->dir2, b->name2) ||
           same_place(a->dir2, a->name2, b->dir, b->name) || same_place(a->dir2, a->name2, b->dir2, b->name2);
}

static void sync_dir(const struct disk_node *dir)
{
    size_t kept = 0;
    for (size_t i = M.nops; i-- > 0;) {
        struct disk_op *op = &M.ops[i];
        op->marked = op->dir == dir || op->dir2 == dir;
        for (size_t k = i + 1; k < M.nops && !op->marked; k++)
            op->marked = M.ops[k].marked && disk_ops_meet(op, &M.ops[k]);
    }
    for (size_t i = 0; i < M.nops; i++) {
        struct disk_op *op = &M.ops[i];
        if (op->marked) {
            disk_op_apply(op);
            free(op->name);
            free(op->name2);
        } else {
            M.ops[kept++] = *op;
        }
    }
    M.nops = kept;
}

void disk_note_sync(struct disk_node *n, int fd)
{
    char path[64];
    if (n->is_dir) {
        sync_dir(n);
        return;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd); /* fd may be one for writing only */
    settle_new(n, path);
}

void disk_note_sync_failed(struct disk_node *n, int fd)
{
    struct stat st;
    if (!n->is_dir && fstat(fd, &st) == 0)
        clean(n, st.st_size);
}

static struct disk_node *made(const char *path, bool is_dir)
{
    struct stat st;
    char whole[2 * PATH_MAX];
    const char *name;
    struct disk_node *dir = dir_of(path, &name);
    whole_path(path, whole);
    if (dir == NULL || stat(whole, &st) != 0)
        return NULL;
    struct disk_node *n = node_new(is_dir, dir, name, st.st_ino);
    place(n, dir, name);
    op_add((struct disk_op){.kind = OP_MAKE, .dir = dir, .node = n}, name, NULL);
    return n;
}

void disk_note_open(const char *path, int fd, bool created, bool truncated)
{
    struct disk_node *n = NULL;
    if (created)
        n = made(path, false);
    else
        n = disk_find(path);
    (void)fd;
    if (n != NULL && !n->is_dir && truncated && !created)
        disk_note_truncate(n, 0);
}

void disk_note_stdio(const char *path, bool created)
{
    struct disk_node *n = created ? made(path, false) : disk_find(path);
    if (n != NULL)
        n->stdio = true;
}

void disk_note_mkdir(const char *path)
{
    (void)made(path, true);
}

void disk_note_remove(const char *path)
{
    const char *name;
    struct disk_node *dir = dir_of(path, &name);
    struct disk_node *n = dir == NULL ? NULL : disk_names_get(&dir->now, name);
    if (n == NULL)
        return;
    disk_names_del(&dir->now, name);
    op_add((struct disk_op){.kind = OP_REMOVE, .dir = dir, .node = n}, name, NULL);
    unplace(n);
}

void disk_note_rename(const char *from, const char *to)
{
    const char *name, *name2;
    struct disk_node *dir = dir_of(from, &name), *dir2 = dir_of(to, &name2);
    struct disk_node *n = dir == NULL ? NULL : disk_names_get(&dir->now, name);
    if (n == NULL || dir2 == NULL)
        return;
    struct disk_node *over = disk_names_get(&dir2->now, name2);
    char *kept = need(strdup(name)), *kept2 = need(strdup(name2));
    disk_names_del(&dir->now, kept);
    place(n, dir2, kept2);
    op_add((struct disk_op){.kind = OP_RENAME, .dir = dir, .dir2 = dir2, .node = n}, kept, kept2);
    if (over != NULL && over != n)
        unplace(over);
    free(kept);
    free(kept2);
}

void disk_note_link(const char *from, const char *to)
{
    const char *name;
    struct disk_node *n = disk_find(from), *dir = dir_of(to, &name);
    if (n == NULL || dir == NULL)
        return;
    n->linked = true;
    disk_names_put(&dir->now, name, n);
    op_add((struct disk_op){.kind = OP_MAKE, .dir = dir, .node = n}, name, NULL);
}
