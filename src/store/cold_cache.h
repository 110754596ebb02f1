/* Parquet files as workers get them: memfds. A worker opens no file on disk; it is handed the bytes, checked
 * (every block's tag of a sealed file, else the SHA-256 that the manifest knows) and closed against writing.
 * The cache keeps those used last, so that a second statement copies nothing, and the worker, which tells
 * files by their inode, keeps the footers that it has read.
 *
 *   path ──► entry: SHA-256, the file's stat, memfd         least recently used goes first
 *
 * An entry is the file's only as long as the file on disk is the one that was read (inode, size, times), and
 * it goes with the file: pins call cold_cache_drop when they unlink it, so what is deleted is not kept in
 * memory.
 *
 * Threading: any thread; one mutex, leaf, not held while a file is read: two threads may read one file at the
 * same time, and one of the copies stays. Ownership: descriptors given out are the caller's, duplicates, so
 * what is dropped lives on until the last who reads it closes. */
#ifndef KALAMDB_STORE_COLD_CACHE_H
#define KALAMDB_STORE_COLD_CACHE_H

#include "store/manifest.h"
#include <sys/stat.h>

#define COLD_CACHE_FILES_MAX 512 /* descriptors */

struct cold_cache;
/* Holds at most bytes_max bytes; a file larger than that is never kept. NULL: out of memory. */
struct cold_cache *cold_cache_new(uint64_t bytes_max);
void cold_cache_free(struct cold_cache *c); /* NULL allowed */

/* A duplicate of the memfd with the file's content, which fd (with its stat) is open on; `sealed_context` is
 * that of its sealing (cold_context). ERR_CORRUPT: the bytes are not those that were written. */
enum err cold_cache_open(struct cold_cache *c, const char *path, int fd, const struct stat *st,
    const struct cold_file *f, struct str sealed_context, int *ret_fd, struct errctx *ec) CHECKED;
/* Lets go of the file at that path. NULL allowed. */
void cold_cache_drop(struct cold_cache *c, const char *path);

struct cold_cache_stats {
    uint64_t hits, misses, bytes, files;
};
void cold_cache_stats(struct cold_cache *c, struct cold_cache_stats *ret);

#endif
