/* Writing one Parquet file of a user's messages: rows of a sink and of replaced files in, a durable file
 * under its final name and the statistics of its manifest entry out.
 *
 * Threading: any thread that may block. Ownership: a batch owns its buffers; the file on disk is the caller's
 * to commit or to discard. */
#ifndef KALAMDB_STORE_BATCH_H
#define KALAMDB_STORE_BATCH_H

#include "store/cold.h"
#include "store/cold_input.h"

struct batch {
    struct row_sink sink;
    struct cold_file file; /* statistics gathered; name and filter borrow from below */
    size_t nconversations, conversations_cap;
    uint32_t *conversations; /* with duplicates until batch_write */
    struct buf filter, name, path;
};

void batch_init(struct batch *b);
void batch_release(struct batch *b);
/* A hot row goes in. */
enum err batch_add(struct batch *b, const struct hot_row *row, struct errctx *ec) CHECKED;
/* A file whose rows go in, but for the sink's excludes: its ranges and filter are taken over. */
enum err batch_add_file(struct batch *b, const struct cold_file *f, struct errctx *ec) CHECKED;
/* Runs the worker, which writes into memory; writes that to disk, sealed where the store seals; syncs, names.
 * `fds` are the replaced files. On OK b->file is complete but for ins range and as-of; rows = 0: nothing was
 * left to write and there is no file. */
enum err batch_write(
    struct batch *b, struct snapshot *snap, int nfds, const int *fds, struct errctx *ec) CHECKED;
/* Unlinks the file: its commit failed. */
void batch_discard(struct batch *b, struct store *s);

#endif
