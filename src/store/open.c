/* Opening and closing: the lock against a second process, RocksDB's options, and what is told
 * outside about the store's state.
 *
 * Options: one column family, prefixes of 12 bytes with a filter over prefixes only; no WAL recycling and no
 * second copy of deleted bytes anywhere, so that a purge is complete; two background jobs; no statistics
 * dumps. */
#include "store/backup.h"
#include "store/cold_input.h"
#include "store/committer.h"
#include "store/erase_int.h"
#include "store/orphans.h"
#include "store/wal_check.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#define CLIENT_ID_RETENTION_US (INT64_C(31) * 24 * 3600 * 1000000)

enum err store_rocks_err(struct errctx *ec, char *message, const char *what)
{
    if (message == NULL)
        return ERR_OK;
    enum err e = strncmp(message, "Corruption", 10) == 0 ? ERR_CORRUPT : ERR_IO;
    (void)err_internal(ec, e, "%s: %s", what, message);
    rocksdb_free(message);
    return e;
}

/* ---- options ------------------------------------------------------------------------------------------ */

static unsigned char expired(void *state, int level, const char *key, size_t key_len, const char *value,
    size_t value_len, char **new_value, size_t *new_len, unsigned char *changed)
{
    struct store *s = state;
    (void)level;
    (void)new_value;
    (void)new_len;
    *changed = 0;
    if (key_len < KEY_PREFIX_BYTES)
        return 0;
    if (get_be32(key + 8) == CATALOG_STREAMS)
        return stream_record_expired(
            str_n(value, value_len), atomic_load_explicit(&s->expiry_before_us, memory_order_relaxed));
    if (get_be32(key + 8) != SPACE_CLIENT_IDS || value_len != 16)
        return 0;
    int64_t now_us = atomic_load_explicit(&s->expiry_before_us, memory_order_relaxed);
    return (int64_t)get_be64(value + 8) < now_us - CLIENT_ID_RETENTION_US;
}

static const char *expired_name(void *state)
{
    (void)state;
    return "kalamdb.client_ids";
}

static void nothing(void *state)
{
    (void)state;
}

static rocksdb_block_based_table_options_t *table_options(struct store *s)
{
    rocksdb_block_based_table_options_t *t = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_cache(t, s->block_cache);
    rocksdb_block_based_options_set_block_size(t, 8 << 10);
    rocksdb_block_based_options_set_filter_policy(t, rocksdb_filterpolicy_create_ribbon_hybrid(10, 1));
    rocksdb_block_based_options_set_whole_key_filtering(t, 0);
    rocksdb_block_based_options_set_format_version(t, 5);
    return t;
}

static void make_options(struct store *s)
{
    const struct store_config *cfg = &s->cfg;
    s->block_cache =
        rocksdb_cache_create_lru(cfg->block_cache_bytes != 0 ? cfg->block_cache_bytes : (size_t)16 << 20);
    rocksdb_options_t *o = s->options = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(o, 1);
    rocksdb_options_set_write_buffer_size(
        o, cfg->write_buffer_bytes != 0 ? cfg->write_buffer_bytes : (size_t)16 << 20);
    rocksdb_options_set_max_write_buffer_number(o, 3);
    rocksdb_options_set_max_background_jobs(o, 2);
    rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
    rocksdb_options_set_compression(o, rocksdb_lz4_compression);
    rocksdb_options_set_bottommost_compression(o, rocksdb_zstd_compression);
    rocksdb_options_set_prefix_extractor(o, rocksdb_slicetransform_create_fixed_prefix(KEY_PREFIX_BYTES));
    rocksdb_options_set_memtable_prefix_bloom_size_ratio(o, 0.02);
    rocksdb_options_set_recycle_log_file_num(o, 0);
    rocksdb_options_set_manifest_preallocation_size(o, 64 << 10);
    /* A new list of files with each change of them, a flush or a compaction: a list keeps the keys of files
     * that are gone (purge_hot.c). */
    rocksdb_options_set_max_manifest_file_size(o, 1);
    /* Released rows leave deletion markers where scans pass; a file that is full of them is compacted early.
     */
    rocksdb_options_add_compact_on_deletion_collector_factory(o, 8192, 4096);
    rocksdb_options_set_bytes_per_sync(
        o, 1 << 20); /* a flush must not pile up dirty pages before a commit's fsync */
    rocksdb_options_set_allow_concurrent_memtable_write(o, 0);
    rocksdb_options_set_enable_write_thread_adaptive_yield(o, 0);
    rocksdb_options_set_info_log_level(o, LOG_LEVEL_NONE);
    rocksdb_options_set_keep_log_file_num(o, 1);
    rocksdb_options_set_stats_dump_period_sec(o, 0);
    rocksdb_options_set_stats_persist_period_sec(o, 0);
    s->expiry = rocksdb_compactionfilter_create(s, nothing, expired, expired_name);
    rocksdb_options_set_compaction_filter(o, s->expiry);
    rocksdb_block_based_table_options_t *t = table_options(s);
    rocksdb_options_set_block_based_table_factory(o, t);
    rocksdb_block_based_options_destroy(t);
    s->read_latest = rocksdb_readoptions_create();
}

/* ---- the database ------------------------------------------------------------------------------------- */

enum err store_open_db(struct store *s, struct errctx *ec)
{
    char *message = NULL;
    enum err rotten = wal_check(s->hot_dir, ec);
    if (rotten != ERR_OK)
        return rotten;
    rocksdb_t *db = rocksdb_open(s->options, s->hot_dir, &message);
    if (message != NULL) {
        enum err e = strncmp(message, "Corruption", 10) == 0 ? ERR_CORRUPT : ERR_IO;
        (void)err_set(ec, e, "cannot open the database in %s: %s", s->hot_dir, message);
        rocksdb_free(message);
        return e;
    }
    s->db = db;
    return ERR_OK;
}

void store_close_db(struct store *s)
{
    if (s->db == NULL)
        return;
    rocksdb_close(s->db);
    s->db = NULL;
}

/* ---- the lock file ------------------------------------------------------------------------------------ */

static enum err take_lock(const char *data_dir, int *ret_fd, struct errctx *ec)
{
    char *path;
    if (asprintf(&path, "%s/" PRIVATE_DIR "/lock", data_dir) < 0)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = ERR_OK;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        e = err_set(ec, ERR_IO, "cannot open %s: %s", path, strerror(errno));
    } else if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        char pid[24] = "";
        ssize_t n = errno == EWOULDBLOCK ? pread(fd, pid, sizeof pid - 1, 0) : 0;
        pid[n > 0 ? n : 0] = '\0';
        pid[strspn(pid, "0123456789")] = '\0';
        e = err_set(ec, ERR_CONFLICT, "%s is in use by another process%s%s%s", data_dir,
            pid[0] != '\0' ? " (pid " : "", pid, pid[0] != '\0' ? ")" : "");
        close(fd);
    } else {
        /* The number only helps the operator; the lock is the flock, which dies with the process. */
        char pid[24];
        int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
        if (ftruncate(fd, 0) != 0 || pwrite(fd, pid, (size_t)n, 0) != n)
            e = ERR_OK;
        *ret_fd = fd;
    }
    free(path);
    return e;
}

/* A restore that was cut short left a part of the data. */
static enum err check_whole(const char *data_dir, struct errctx *ec)
{
    char *mark;
    if (asprintf(&mark, "%s/" PRIVATE_DIR "/" RESTORING_MARK, data_dir) < 0)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    bool half = access(mark, F_OK) == 0;
    free(mark);
    if (!half)
        return ERR_OK;
    err_set(ec, ERR_INVALID_REQUEST, "a restore into %s did not finish", data_dir);
    err_hint(ec, "Remove the directory and run kalamdb restore again.");
    return ERR_INVALID_REQUEST;
}

/* The folders' own names must survive power loss, or all that RocksDB syncs in there hangs on nothing. Done
 * at each open: a start that made them may have ended before it came to this. */
static enum err save_folders(const char *data_dir, const struct os *os, struct errctx *ec)
{
    char *path;
    if (asprintf(&path, "%s/" PRIVATE_DIR, data_dir) < 0)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = os_fsync_dir(os, path, ec);
    if (e == ERR_OK)
        e = os_fsync_dir(os, data_dir, ec);
    if (e == ERR_OK) {
        /* The one above may be closed to us; then it is not we who made the data directory. */
        struct errctx ignored;
        (void)snprintf(path, strlen(data_dir) + 4, "%s/..", data_dir);
        if (os_fsync_dir(os, path, &ignored) != ERR_OK)
            errctx_clear(&ignored);
    }
    free(path);
    return e;
}

enum err store_lock(const char *data_dir, const struct os *os, int *ret_fd, struct errctx *ec)
{
    char *hot;
    if (asprintf(&hot, "%s/" PRIVATE_DIR "/hot", data_dir) < 0)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = os_mkdirs(hot, ec);
    free(hot);
    if (e != ERR_OK) {
        char why[sizeof ec->internal];
        memcpy(why, ec->internal, sizeof why);
        return err_set(ec, e, "cannot create the data directory: %s", why);
    }
    int fd = -1;
    e = save_folders(data_dir, os, ec);
    if (e == ERR_OK)
        e = take_lock(data_dir, &fd, ec);
    if (e == ERR_OK)
        e = check_whole(data_dir, ec);
    if (e == ERR_OK)
        *ret_fd = fd;
    else if (fd >= 0)
        close(fd);
    return e;
}

/* ---- open, close -------------------------------------------------------------------------------------- */

static void init_locks(struct store *s)
{
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    /* A reopen must not wait for a stream of readers to pause. */
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&s->db_lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    pthread_mutex_init(&s->snaps.lock, NULL);
    pthread_mutex_init(&s->manifests.lock, NULL);
    pthread_mutex_init(&s->notes.lock, NULL);
    pthread_mutex_init(&s->files.lock, NULL);
    pins_init(&s->pins, s->os);
    erased_init(&s->erased);
    revoked_init(&s->revoked);
}

/* Whatever open had reached. */
static void dismantle(struct store *s)
{
    if (s->committer != NULL)
        committer_stop(s);
    pins_release(&s->pins);
    cold_cache_free(s->cold_cache);
    manifest_cache_clear(s);
    if (s->db != NULL)
        snapshots_make_stale(s); /* one left open must not keep the database from closing */
    store_close_db(s);
    if (s->options != NULL) {
        rocksdb_readoptions_destroy(s->read_latest);
        rocksdb_options_destroy(s->options);
        rocksdb_compactionfilter_destroy(s->expiry);
        rocksdb_cache_destroy(s->block_cache);
    }
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    pthread_rwlock_destroy(&s->db_lock);
    pthread_mutex_destroy(&s->snaps.lock);
    pthread_mutex_destroy(&s->manifests.lock);
    pthread_mutex_destroy(&s->notes.lock);
    free(s->notes.items);
    pthread_mutex_destroy(&s->files.lock);
    erased_release(&s->erased);
    revoked_release(&s->revoked);
    free((char *)s->cfg.data_dir);
    free(s->hot_dir);
    free(s);
}

static enum err prepare(struct store *s, const struct store_config *cfg, struct errctx *ec)
{
    s->cfg.data_dir = strdup(cfg->data_dir);
    if (s->cfg.data_dir == NULL || asprintf(&s->hot_dir, "%s/" PRIVATE_DIR "/hot", cfg->data_dir) < 0) {
        s->hot_dir = NULL;
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    s->cold_cache = cold_cache_new(cfg->cold_cache_bytes);
    if (s->cold_cache == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    s->pins.cache = s->cold_cache;
    if (s->cfg.durability == DURABILITY_DEFAULT)
        s->cfg.durability = DURABILITY_SYNC;
    if (cfg->lock_fd == NULL)
        return store_lock(cfg->data_dir, s->os, &s->lock_fd, ec);
    s->lock_fd = *cfg->lock_fd;
    *cfg->lock_fd = -1;
    return ERR_OK;
}

enum err store_open(const struct store_config *cfg, struct store **ret, struct errctx *ec)
{
    struct store *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    s->cfg = *cfg;
    s->cfg.data_dir = NULL;
    s->os = cfg->os != NULL ? cfg->os : os_posix();
    s->vault = cfg->vault;
    s->cfg.encryption = cfg->encryption || cfg->vault != NULL;
    s->lock_fd = -1;
    s->generation = 1;
    s->cold_bytes_max = COLD_BYTES_MAX;
    init_locks(s);
    enum err e = prepare(s, cfg, ec);
    if (e == ERR_OK) {
        make_options(s);
        e = store_open_db(s, ec);
    }
    if (e == ERR_OK)
        e = store_check_format(s, ec);
    if (e == ERR_OK) {
        store_check_reserve(s);
        e = committer_start(s, ec);
    }
    if (e == ERR_OK)
        e = erased_load(s, ec);
    if (e == ERR_OK)
        e = revoked_load(s, ec);
    if (e == ERR_OK)
        atomic_store(&s->search_lost, erase_lost_pending(s));
    if (e == ERR_OK)
        e = orphans_open(s, ec);
    if (e == ERR_OK)
        e = consolidator_open(s, &s->consolidator, ec);
    if (e != ERR_OK) {
        dismantle(s);
        return e;
    }
    committer_notes(s, true);
    *ret = s;
    return ERR_OK;
}

void store_close(struct store *s)
{
    if (s == NULL)
        return;
    committer_notes(s, false);
    consolidator_close(s->consolidator);
    atomic_store(&s->closing, true);
    committer_stop(s);
    s->consolidator = NULL;
    dismantle(s);
}

/* ---- state -------------------------------------------------------------------------------------------- */

void store_check_reserve(struct store *s)
{
    int64_t now_us = os_monotonic_us(s->os);
    int64_t last_us = atomic_load_explicit(&s->reserve_checked_us, memory_order_relaxed);
    if (last_us != 0 && now_us - last_us < RESERVE_CHECK_US)
        return;
    if (!atomic_compare_exchange_strong(&s->reserve_checked_us, &last_us, now_us))
        return; /* another thread is at it */
    int64_t bytes = s->os->free_bytes(s->os->ctx, s->cfg.data_dir);
    if (bytes < 0)
        return; /* unknown: the commit itself will tell */
    atomic_store(&s->free_bytes, bytes);
    atomic_store(&s->below_reserve, (uint64_t)bytes < s->cfg.disk_reserve_bytes);
}

enum err store_writable(struct store *s, struct errctx *ec)
{
    if (atomic_load(&s->closing))
        return err_set(ec, ERR_UNAVAILABLE, "the server is shutting down");
    if (atomic_load(&s->failed))
        return err_set(
            ec, ERR_UNAVAILABLE, "writes are stopped: the disk failed, the storage is being recovered");
    store_check_reserve(s);
    if (atomic_load(&s->below_reserve))
        return err_set(ec, ERR_UNAVAILABLE, "writes are stopped: free disk space is below the reserve");
    return ERR_OK;
}

static uint64_t property(struct store *s, const char *name)
{
    uint64_t value = 0;
    return rocksdb_property_int(s->db, name, &value) == 0 ? value : 0;
}

void store_stats(struct store *s, struct store_stats *ret)
{
    struct errctx ec;
    struct consolidate_counts counts = {0};
    uint64_t bytes_hot = 0;
    pthread_rwlock_rdlock(&s->db_lock);
    if (s->db != NULL)
        bytes_hot =
            property(s, "rocksdb.estimate-live-data-size") + property(s, "rocksdb.cur-size-all-mem-tables");
    pthread_rwlock_unlock(&s->db_lock);
    consolidator_counts(s->consolidator, &counts);
    bool writable = store_writable(s, &ec) == ERR_OK;
    struct cold_cache_stats cache;
    cold_cache_stats(s->cold_cache, &cache);
    *ret = (struct store_stats){
        .commits = atomic_load(&s->commits),
        .batches = atomic_load(&s->batches),
        .rows_inserted = atomic_load(&s->rows_inserted),
        .rows_updated = atomic_load(&s->rows_updated),
        .rows_deleted = atomic_load(&s->rows_deleted),
        .bytes_hot = bytes_hot,
        .rows_hot = atomic_load(&s->rows_hot),
        .rows_cold = atomic_load(&s->rows_cold),
        .bytes_cold = atomic_load(&s->bytes_cold),
        .files_cold = atomic_load(&s->files_cold),
        .users = atomic_load(&s->users),
        .queue_depth = atomic_load(&s->committer->queued),
        .consolidations = counts.consolidations,
        .consolidate_failures = counts.failures,
        .reopens = atomic_load(&s->reopens),
        .free_bytes = atomic_load(&s->free_bytes),
        .writable = writable,
        .cold_cache_bytes = cache.bytes,
        .cold_cache_hits = cache.hits,
        .cold_cache_misses = cache.misses,
    };
}

const struct hist *store_commit_hist(struct store *s)
{
    return &s->commit_hist;
}

const struct hist *store_sync_hist(struct store *s)
{
    return &s->sync_hist;
}

void store_folder_name(struct buf *b, struct str id)
{
    enum { WHOLE_MAX = 200, CUT = 100, HASH_BYTES = 16 };
    size_t start = b->len;
    /* No more than it takes to know that it is too long: the buffers are made for what comes out. */
    for (size_t i = 0; i < id.len && b->len - start <= WHOLE_MAX; i++) {
        unsigned char c = (unsigned char)id.ptr[i];
        if ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
            c == '-')
            buf_u8(b, c);
        else
            buf_printf(b, "%%%02X", c);
    }
    if (b->failed || b->len - start <= WHOLE_MAX)
        return;
    uint8_t digest[32];
    sha256(id, digest);
    b->len = start + CUT;
    buf_u8(b, '~');
    for (int i = 0; i < HASH_BYTES; i++)
        buf_printf(b, "%02x", digest[i]);
}
