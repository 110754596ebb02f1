/* Deleted bytes leave RocksDB's files in steps, and only then the disk:
 *
 *   readers   who opened a snapshot before is waited for: a compaction keeps what a snapshot sees
 *      ↓
 *   note      table files and logs that are there now; any may hold such bytes
 *      ↓
 *   mark      a commit that changes nothing. A flush that finds the memtable empty leaves log and memtable as
 *             they are (DBImpl::FlushMemTable of RocksDB 7.8), and a log of before could stay for good
 *      ↓
 *   flush     writing moves to a new log; those noted are not needed once their memtables are table files
 *      ↓
 *   compact   rewrites every table file noted, of the last level too
 *      ↓
 *   list      RocksDB's list of table files (MANIFEST) has their first and last keys, of gone ones as well. A
 *             new one is written with each change (make_options), but begins with what was before that: so
 *             mark and flush once more
 *      ↓
 *   wait      until all that were noted are unlinked. RocksDB does that behind the scenes, some time after
 *             flush and compaction returned; not while a backup copies; and a table file only when the last
 *             iterator that was opened over it is closed, whatever that sees.
 *
 * RocksDB's own log (LOG) is switched off, but for a heading with the options. */
#include "store/cold.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

enum {
    FORCE_BOTTOMMOST = 3, /* rewrite files of the last level too, but not those this compaction made */
    COMPACTIONS_MAX = 3,
    SLICE_MS = 100, /* of waiting, between looks at whether the server stops */
    POLL_MS = 5,
    POLLS_PER_NUDGE = 40
};

static enum err still_read(struct errctx *ec)
{
    err_set(
        ec, ERR_UNAVAILABLE, "what was deleted is still being read, by an export, a backup or a statement");
    err_hint(ec, "Ask again when it is done: deleted bytes leave the disk then.");
    return ERR_UNAVAILABLE;
}

/* ---- files of the hot tier ---- */

struct hot_files {
    size_t n, cap;
    uint64_t *numbers; /* RocksDB numbers all its files together; heap */
};

#define LIST_PREFIX STR("MANIFEST-")

/* 000123.sst, 000124.log, MANIFEST-000125 */
static bool file_number(struct str name, uint64_t *ret)
{
    int64_t n;
    if (str_starts_with(name, LIST_PREFIX))
        name = str_n(name.ptr + LIST_PREFIX.len, name.len - LIST_PREFIX.len);
    else if (str_ends_with(name, STR(".sst")) || str_ends_with(name, STR(".log")))
        name.len -= 4;
    else
        return false;
    if (!str_to_i64(name, &n) || n < 0)
        return false;
    *ret = (uint64_t)n;
    return true;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static bool holds(const struct hot_files *f, uint64_t number)
{
    return f->n > 0 && bsearch(&number, f->numbers, f->n, sizeof number, by_number) != NULL;
}

static enum err add(struct hot_files *f, uint64_t number, struct errctx *ec)
{
    if (f->n == f->cap) {
        size_t cap = f->cap == 0 ? 64 : f->cap * 2;
        uint64_t *p = realloc(f->numbers, cap * sizeof *p);
        if (p == NULL)
            return err_internal(ec, ERR_NO_MEMORY, "purge: out of memory");
        f->numbers = p;
        f->cap = cap;
    }
    f->numbers[f->n++] = number;
    return ERR_OK;
}

/* Adds what is there, or the lists only. */
static enum err note_files(struct store *s, bool lists, struct hot_files *f, struct errctx *ec)
{
    DIR *d = opendir(s->hot_dir);
    enum err err = ERR_OK;
    if (d == NULL)
        return err_internal(ec, ERR_IO, "%s: %s", s->hot_dir, strerror(errno));
    for (struct dirent *e; err == ERR_OK && (errno = 0, e = readdir(d)) != NULL;) {
        uint64_t number;
        struct str name = str_c(e->d_name);
        if (file_number(name, &number) && (!lists || str_starts_with(name, LIST_PREFIX)))
            err = add(f, number, ec);
    }
    if (err == ERR_OK && errno != 0)
        err = err_internal(ec, ERR_IO, "%s: %s", s->hot_dir, strerror(errno));
    closedir(d);
    if (f->n > 1)
        qsort(f->numbers, f->n, sizeof *f->numbers, by_number);
    return err;
}

/* Keeps of `noted` what is still on disk. */
static enum err still_there(struct store *s, struct hot_files *noted, struct errctx *ec)
{
    struct hot_files now = {0};
    size_t n = 0;
    enum err err = note_files(s, false, &now, ec);
    for (size_t i = 0; err == ERR_OK && i < noted->n; i++)
        if (holds(&now, noted->numbers[i]))
            noted->numbers[n++] = noted->numbers[i];
    if (err == ERR_OK)
        noted->n = n;
    free(now.numbers);
    return err;
}

/* ---- RocksDB ---- */

static enum err unavailable(struct store *s, struct errctx *ec)
{
    pthread_rwlock_unlock(&s->db_lock);
    return err_set(ec, ERR_UNAVAILABLE, "the storage is being recovered");
}

/* The format's number again. */
static enum err apply_mark(struct commit_op *op, struct txn *txn, struct errctx *ec)
{
    char value[4];
    struct key k = key_prefix(CATALOG_USER_NO, CATALOG_FORMAT);
    (void)op, (void)ec;
    put_be32(value, STORE_FORMAT_VERSION);
    txn_put(txn, &k, str_n(value, sizeof value));
    return ERR_OK;
}

/* With a mark, so that there is something to flush. */
static enum err flush(struct store *s, struct errctx *ec)
{
    struct commit_op mark = {.apply = apply_mark, .durability = DURABILITY_SYNC};
    char *message = NULL;
    enum err err = store_commit_wait(s, &mark, ec);
    if (err != ERR_OK)
        return err;
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db == NULL)
        return unavailable(s, ec);
    rocksdb_flushoptions_t *options = rocksdb_flushoptions_create();
    rocksdb_flushoptions_set_wait(options, 1);
    rocksdb_flush(s->db, options, &message);
    rocksdb_flushoptions_destroy(options);
    pthread_rwlock_unlock(&s->db_lock);
    return store_rocks_err(ec, message, "purge: flush");
}

static enum err compact(struct store *s, struct errctx *ec)
{
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db == NULL)
        return unavailable(s, ec);
    rocksdb_compactoptions_t *options = rocksdb_compactoptions_create();
    rocksdb_compactoptions_set_bottommost_level_compaction(options, FORCE_BOTTOMMOST);
    rocksdb_compactoptions_set_exclusive_manual_compaction(options, 0);
    rocksdb_compact_range_opt(s->db, options, NULL, 0, NULL, 0);
    rocksdb_compactoptions_destroy(options);
    pthread_rwlock_unlock(&s->db_lock);
    return cold_stopping(s, ec); /* one that was cut short says nothing */
}

/* Does one of these files belong to the current state, so that only another compaction lets go of it? */
static enum err any_live(struct store *s, const struct hot_files *files, bool *ret, struct errctx *ec)
{
    uint64_t number;
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db == NULL)
        return unavailable(s, ec);
    const rocksdb_livefiles_t *live = rocksdb_livefiles(s->db);
    pthread_rwlock_unlock(&s->db_lock);
    *ret = false;
    for (int i = 0; !*ret && i < rocksdb_livefiles_count(live); i++) {
        struct str name = str_c(rocksdb_livefiles_name(live, i));
        while (name.len > 0 && name.ptr[0] == '/')
            name = str_n(name.ptr + 1, name.len - 1);
        *ret = file_number(name, &number) && holds(files, number);
    }
    rocksdb_livefiles_destroy(live);
    return ERR_OK;
}

/* Closing and opening the gate for deletions makes RocksDB look for files that it has not removed. */
static enum err nudge(struct store *s, struct errctx *ec)
{
    char *message = NULL;
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db == NULL)
        return unavailable(s, ec);
    rocksdb_disable_file_deletions(s->db, &message);
    enum err err = store_rocks_err(ec, message, "purge: files");
    message = NULL;
    if (err == ERR_OK) {
        rocksdb_enable_file_deletions(s->db, 0, &message);
        err = store_rocks_err(ec, message, "purge: files");
    }
    pthread_rwlock_unlock(&s->db_lock);
    return err;
}

/* ---- the purge ---- */

static enum err wait_for_readers(struct store *s, int *left_ms, struct errctx *ec)
{
    uint64_t mark = pins_mark(&s->pins);
    for (;; *left_ms -= SLICE_MS) {
        int slice = *left_ms < SLICE_MS ? *left_ms : SLICE_MS;
        enum err err = cold_stopping(s, ec);
        if (err != ERR_OK || pins_quiesce(&s->pins, mark, slice > 0 ? slice : 0))
            return err;
        if (*left_ms <= SLICE_MS)
            return still_read(ec);
    }
}

/* UNAVAILABLE: the time is over; ERR_RETRY: it takes another compaction. */
static enum err wait_for_files(struct store *s, struct hot_files *noted, int *left_ms, struct errctx *ec)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
    bool live;
    for (int polls = 1;; polls++, *left_ms -= POLL_MS) {
        enum err err = still_there(s, noted, ec);
        if (err == ERR_OK)
            err = cold_stopping(s, ec);
        if (err != ERR_OK || noted->n == 0)
            return err;
        if (polls % POLLS_PER_NUDGE == 0) {
            err = any_live(s, noted, &live, ec);
            if (err == ERR_OK && live)
                return ERR_RETRY;
            if (err == ERR_OK)
                err = nudge(s, ec);
            if (err != ERR_OK)
                return err;
        }
        if (*left_ms <= 0)
            return still_read(ec);
        nanosleep(&pause, NULL);
    }
}

static enum err purge_files(struct store *s, struct hot_files *noted, int *left_ms, struct errctx *ec)
{
    enum err err = note_files(s, false, noted, ec);
    for (int n = 0; err == ERR_OK && n < COMPACTIONS_MAX; n++) {
        err = flush(s, ec);
        if (err == ERR_OK)
            err = compact(s, ec);
        if (err == ERR_OK)
            err = note_files(s, true, noted, ec);
        if (err == ERR_OK)
            err = flush(s, ec);
        if (err == ERR_OK && s->purge_hook.compacted != NULL)
            s->purge_hook.compacted(s->purge_hook.arg);
        if (err == ERR_OK)
            err = wait_for_files(s, noted, left_ms, ec);
        if (err != ERR_RETRY)
            return err;
        err = ERR_OK;
    }
    return err == ERR_OK ? err_internal(ec, ERR_INTERNAL, "purge: compactions leave table files behind")
                         : err;
}

enum err purge_run(struct store *s, struct errctx *ec)
{
    struct hot_files noted = {0};
    int left_ms = s->pins.purge_wait_ms;
    enum err err = wait_for_readers(s, &left_ms, ec);
    if (err == ERR_OK)
        err = purge_files(s, &noted, &left_ms, ec);
    free(noted.numbers);
    return err;
}
