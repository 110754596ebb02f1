/* The hand-over of both tiers to a worker: which files a statement may need, and which hot rows go with them.
 *
 * Pruning only ever leaves out what the bounds rule out, and never an exclude: a row whose new version fails
 * the bounds still hides its old version in a file. msg_id, conversation and timestamp of a row never change,
 * so bounds on these prune both versions alike; _seq does change, and only ever grows. */
#ifndef KALAMDB_STORE_COLD_INPUT_H
#define KALAMDB_STORE_COLD_INPUT_H

#include "store/cold_scan.h"

/* Of files that one statement reads: they are in memory while it runs. */
#define COLD_BYTES_MAX (UINT64_C(4) << 30)

/* May the file hold rows within the bounds? `conv_no` is that of bounds->conversation_id, when it is set. */
bool cold_file_wanted(const struct cold_file *f, const struct scan_bounds *bounds, uint32_t conv_no);
/* `files` tells by index of the manifest which files are read together with the row: must its key be excluded
 * from them? Only overlays hide something. A fresh row cannot: an id is not given again while a file may hold
 * it. */
bool cold_row_excludes(
    const struct manifest *m, const bool *files, const struct hot_row *row, bool tombstone);
/* <data>/<folder of the user>[/<name>], NUL-terminated. */
void cold_path(struct buf *b, const struct store *s, struct str user_id, struct str name);
/* What a sealed file is bound to besides its key (vault/sealed_file.h): table, user and name. */
void cold_context(struct buf *b, uint64_t user_no, struct str name);
/* The content of a file of the snapshot's manifest, checked, in a memfd: see cold_cache.h. IO, CORRUPT, which
 * name user and file. */
enum err cold_file_open(
    struct snapshot *snap, const struct cold_file *f, int *ret_fd, struct errctx *ec) CHECKED;

#endif
