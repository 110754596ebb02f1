/* Runs over one user's hot messages or tombstones, in key order, under a snapshot: the raw material of
 * hand-overs, consolidation and release. Works in chunks, so that neither the lock on the database nor an
 * iterator is held long.
 *
 * Threading: the snapshot's thread. Ownership: a row's bytes live until its callback returns. */
#ifndef KALAMDB_STORE_COLD_SCAN_H
#define KALAMDB_STORE_COLD_SCAN_H

#include "store/internal.h"

struct hot_row {
    uint32_t conv_no; /* 0 for a tombstone: its key does not say */
    int64_t msg_id;
    struct row_meta meta;
    struct str row; /* envelope */
};
/* Must not block nor take locks of the store: the lock on the database is read-held. An error ends the scan.
 */
typedef enum err cold_scan_fn(void *arg, const struct hot_row *row, struct errctx *ec);

/* Keys from <= key < end, both within SPACE_MESSAGES or SPACE_TOMBSTONES of the snapshot's user. Errors: the
 * callback's, UNAVAILABLE when the snapshot is stale, IO, CORRUPT. */
enum err cold_scan(struct snapshot *snap, const struct key *from, const struct key *end, cold_scan_fn *fn,
    void *arg, struct errctx *ec) CHECKED;
/* All of one space. */
enum err cold_scan_space(
    struct snapshot *snap, enum key_space space, cold_scan_fn *fn, void *arg, struct errctx *ec) CHECKED;

/* A row file in the making: a memfd that a worker reads, and the keys whose cold versions it replaces. */
struct row_sink {
    int fd;                    /* -1 until the first flush */
    uint64_t bytes, bytes_max; /* written to fd; more is TOO_LARGE */
    struct buf pending;
    size_t nexclude, exclude_cap;
    int64_t *exclude;
    struct sink_row *index; /* of the rows added with an id */
    size_t nindex, index_cap;
};
struct sink_row {
    int64_t msg_id;
    uint64_t offset; /* of the row's length in the file */
    uint32_t len;    /* with its length field */
};
#define ROW_SINK_BYTES_MAX (UINT64_C(1) << 30)

void row_sink_init(struct row_sink *k);
void row_sink_release(struct row_sink *k);
enum err row_sink_add(struct row_sink *k, struct str row, struct errctx *ec) CHECKED;
/* The same; the file's rows come by id in the end, whatever order they were added in. All rows of a sink or
 * none. */
enum err row_sink_add_message(struct row_sink *k, int64_t msg_id, struct str row, struct errctx *ec) CHECKED;
enum err row_sink_exclude(struct row_sink *k, int64_t msg_id, struct errctx *ec) CHECKED;
/* Writes what is pending, sorts rows and keys, drops duplicate keys. */
enum err row_sink_finish(struct row_sink *k, struct errctx *ec) CHECKED;

#endif
