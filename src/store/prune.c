/* What a backup directory may lose. Lists go first, durably: a generation without its list does not exist, so
 * what follows may be cut short anywhere. */
#include "store/backup_int.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct names {
    char (*items)[65]; /* sorted */
    size_t n, cap;
};

static int by_name(const void *a, const void *b)
{
    return memcmp(a, b, 64);
}

static enum err note_files(struct names *names, const struct backup_list *l, struct errctx *ec)
{
    if (names->n + l->nfiles > names->cap) {
        size_t cap = (names->n + l->nfiles) * 2;
        char(*p)[65] = realloc(names->items, cap * sizeof *p);
        if (p == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
        names->items = p;
        names->cap = cap;
    }
    for (size_t i = 0; i < l->nfiles; i++)
        memcpy(names->items[names->n++], l->files[i].sha256, 65);
    return ERR_OK;
}

static enum err note_generation(const char *dir, uint32_t generation, struct names *names, struct errctx *ec)
{
    struct backup_list l;
    backup_list_init(&l);
    enum err err = backup_read(dir, generation, &l, ec);
    if (err == ERR_OK)
        err = note_files(names, &l, ec);
    backup_list_release(&l);
    return err;
}

static enum err remove_lists(
    const struct os *os, const char *dir, const uint32_t *generations, size_t n, struct errctx *ec)
{
    struct buf path = BUF_INIT(0);
    enum err err = ERR_OK;
    for (size_t i = 0; err == ERR_OK && i < n; i++) {
        char name[32];
        int len = snprintf(name, sizeof name, "generations/%08u", generations[i]);
        err = backup_join(&path, dir, str_n(name, (size_t)len), ec);
        int rc = err == ERR_OK ? os->unlink(os->ctx, path.ptr) : 0;
        if (rc < 0)
            err = backup_io(ec, "cannot remove", path.ptr, -rc);
    }
    if (err == ERR_OK && n > 0)
        err = backup_join(&path, dir, STR("generations"), ec);
    if (err == ERR_OK && n > 0)
        err = os_fsync_dir(os, path.ptr, ec);
    buf_release(&path);
    return err;
}

/* The engine counts from its newest; between ours there may be some of backups that were cut short. */
static enum err prune_hot(const char *dir, uint32_t oldest, struct errctx *ec)
{
    rocksdb_backup_engine_t *engine = backup_engine_open(dir, ec);
    if (engine == NULL)
        return ec->code;
    const rocksdb_backup_engine_info_t *info = rocksdb_backup_engine_get_backup_info(engine);
    uint32_t keep = 0;
    for (int i = 0; i < rocksdb_backup_engine_info_count(info); i++)
        keep += rocksdb_backup_engine_info_backup_id(info, i) >= oldest;
    rocksdb_backup_engine_info_destroy(info);
    char *message = NULL;
    rocksdb_backup_engine_purge_old_backups(engine, keep, &message);
    rocksdb_backup_engine_close(engine);
    return backup_rocks(ec, message, "cannot remove older backups");
}

static enum err prune_folder(
    const struct os *os, const char *folder, const struct names *names, struct errctx *ec)
{
    struct buf path = BUF_INIT(0);
    DIR *d = opendir(folder);
    enum err err = ERR_OK;
    for (struct dirent *e; d != NULL && err == ERR_OK && (e = readdir(d)) != NULL;) {
        struct str name = str_c(e->d_name);
        if (name.len != 64 || (names->n > 0 && bsearch(e->d_name, names->items, names->n,
                                                   sizeof *names->items, by_name) != NULL))
            continue;
        err = backup_join(&path, folder, name, ec);
        int rc = err == ERR_OK ? os->unlink(os->ctx, path.ptr) : 0;
        if (rc < 0)
            err = backup_io(ec, "cannot remove", path.ptr, -rc);
    }
    if (d != NULL)
        closedir(d);
    buf_release(&path);
    return err;
}

static enum err prune_files(const struct os *os, const char *dir, struct names *names, struct errctx *ec)
{
    struct buf path = BUF_INIT(0);
    enum err err = ERR_OK;
    if (names->n > 1)
        qsort(names->items, names->n, sizeof *names->items, by_name);
    for (int i = 0; err == ERR_OK && i < 256; i++) {
        char folder[16];
        int n = snprintf(folder, sizeof folder, "files/%02x", (unsigned)i);
        err = backup_join(&path, dir, str_n(folder, (size_t)n), ec);
        if (err == ERR_OK)
            err = prune_folder(os, path.ptr, names, ec);
    }
    buf_release(&path);
    return err;
}

enum err backup_prune(
    const struct os *os, const char *dir, size_t keep, uint32_t *ret_removed, struct errctx *ec)
{
    uint32_t *all = NULL;
    size_t n = 0;
    struct names names = {0};
    enum err err = backup_generations(dir, &all, &n, ec);
    size_t gone = err == ERR_OK && n > keep ? n - keep : 0;
    /* A list that cannot be read says nothing about its files: nothing is removed then. */
    for (size_t i = gone; err == ERR_OK && i < n; i++)
        err = note_generation(dir, all[i], &names, ec);
    if (err == ERR_OK)
        err = remove_lists(os, dir, all, gone, ec);
    if (err == ERR_OK && n > 0)
        err = prune_hot(dir, all[gone], ec);
    if (err == ERR_OK)
        err = prune_files(os, dir, &names, ec);
    if (err == ERR_OK)
        *ret_removed = (uint32_t)gone;
    free(names.items);
    free(all);
    return err;
}
