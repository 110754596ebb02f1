/* Between the model (disk.c: plan and tree, disk_crash.c: what survives) and the calls that feed it
 * (disk_calls.c, disk_files.c, disk_alloc.c). */
#ifndef KALAMDB_TESTS_SIM_DISK_INT_H
#define KALAMDB_TESTS_SIM_DISK_INT_H

#include "sim/disk.h"
#include <sys/types.h>

struct disk_entry {
    char *name;
    struct disk_node *node;
};
struct disk_names {
    struct disk_entry *items;
    size_t n, cap;
};

/* A file or a folder. */
struct disk_node {
    uint64_t id; /* in the order of their making */
    bool is_dir, stdio;
    bool unseen; /* has no visible name */
    bool linked; /* may have several */
    ino_t ino;
    struct disk_node *next_ino, *next; /* of its bucket; of all */
    struct disk_node *parent;          /* its visible place; NULL: the root */
    char *name;
    struct disk_names now, safe; /* of a folder */
    /* of a file */
    char *bytes; /* safe */
    int64_t nbytes;
    int64_t clean_len;          /* all from here on waits for an fsync … */
    int64_t dirty_lo, dirty_hi; /* … and this */
};

/* A change of names that is not safe yet. `dir2`, `name2`: where a rename goes; MAKE and REMOVE have none. */
enum disk_op_kind { OP_MAKE, OP_REMOVE, OP_RENAME };
struct disk_op {
    enum disk_op_kind kind;
    struct disk_node *dir, *dir2, *node;
    char *name, *name2;
    bool marked;
};

struct disk_model {
    char root[4096];
    dev_t dev;
    struct disk_node *top, *all;
    struct disk_node *inos[4096];
    uint64_t next_id;
    struct disk_op *ops;
    size_t nops, ops_cap;
};
extern struct disk_model disk_model;
extern __thread int disk_inside; /* > 0: the model's own calls, which go straight to the kernel */

/* Of the tree; under the lock, inside. */
struct disk_node *disk_find(const char *path);
struct disk_node *disk_names_get(const struct disk_names *d, const char *name);
void disk_names_put(struct disk_names *d, const char *name, struct disk_node *n);
void disk_names_del(struct disk_names *d, const char *name);
void disk_op_apply(const struct disk_op *op);
bool disk_ops_meet(const struct disk_op *a, const struct disk_op *b);
void disk_node_path(const struct disk_node *n, char *ret, size_t size); /* relative */
void disk_tree_scan(void);                                              /* all that stands there is safe */
void disk_tree_free(void);
/* The safe bytes take over what the file holds in what waits. */
void disk_node_settle(struct disk_node *n, int fd);

/* Begins one call: the lock is taken when true is returned, and disk_end() follows in every case then. False:
 * not below the root, or nothing is watched; go straight to the kernel. */
bool disk_begin_fd(int fd, struct disk_node **ret);
/* `path` becomes relative to the root, normalised, in `ret` (PATH_MAX bytes). */
bool disk_begin_path(int dirfd, const char *path, char *ret);
void disk_end(void);
void disk_lock(void);
void disk_power_back(void);

enum verdict { PASS, FAIL, SHORT };
/* What the plan says; under the lock. FAIL sets errno. `changes`: it would change the tree. */
enum verdict disk_verdict(enum disk_call call, const char *path, bool changes);
enum verdict disk_verdict_fd(enum disk_call call, const struct disk_node *n, bool changes);
/* Calls without a path: takes the lock itself. */
enum verdict disk_verdict_bare(enum disk_call call);

/* What happened, told after the kernel did it; under the lock. */
void disk_note_open(const char *path, int fd, bool created, bool truncated);
void disk_note_stdio(const char *path, bool created);
void disk_note_write(struct disk_node *n, int64_t from, int64_t to);
void disk_note_truncate(struct disk_node *n, int64_t size);
void disk_note_sync(struct disk_node *n, int fd);
void disk_note_sync_failed(struct disk_node *n, int fd);
void disk_note_mkdir(const char *path);
void disk_note_remove(const char *path);
void disk_note_rename(const char *from, const char *to);
void disk_note_link(const char *from, const char *to);

#endif
