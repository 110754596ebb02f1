/* What a transfer keeps on disk for a while: written once, then read anywhere. The file has no name and is
 * sealed under a key that is in memory only, encrypted directory or not: of an archive that came in, or of a
 * table on its way out, no byte can be read from the disk, nor when the process has died.
 *
 *   spool_new ─► spool_write … ─► spool_end ─► spool_read …
 *
 * Threading: one thread at a time. */
#ifndef KALAMDB_ENGINE_SPOOL_H
#define KALAMDB_ENGINE_SPOOL_H

#include "os/os.h"

struct spool;
/* In the folder `dir` of the data directory. IO, NO_MEMORY. */
enum err spool_new(const struct os *os, const char *data_dir, const char *dir, struct spool **ret,
    struct errctx *ec) CHECKED;
/* UNAVAILABLE: the disk is full. */
enum err spool_write(struct spool *s, struct str bytes, struct errctx *ec) CHECKED;
enum err spool_end(struct spool *s, struct errctx *ec) CHECKED;
/* Of content; 0 before spool_end. */
uint64_t spool_size(const struct spool *s);
/* Up to n bytes from `at`, less only at the end. CORRUPT: the disk gave back something else. An `arg` so that
 * it can be an archive_source. */
enum err spool_read(void *spool, void *p, size_t n, uint64_t at, size_t *ret_n, struct errctx *ec) CHECKED;
void spool_free(struct spool *s); /* NULL allowed */

#endif
