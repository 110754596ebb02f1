/* The manifest: what of one user's messages is in Parquet. One immutable record per user and version, written
 * by consolidation only, in the commit that makes its files part of the data.
 *
 *   arrivals (ins_seq)  1 ……………………………… W │ W+1 … head.seq
 *                       [file][ file ][file] │ fresh rows, hot only
 *
 * Each file covers a range of arrivals; the ranges are disjoint and ascending, and every row with ins_seq <=
 * W that was alive at the as-of number of the file that covers it stands in that file. A range without a file
 * (all its rows were deleted) has no cold rows. Whoever reads a hot row classifies it with
 * manifest_row_state().
 *
 * Threading: immutable after decode, any thread; references are atomic. Ownership: one block, freed by the
 * last manifest_unref(); names and filters live as long. */
#ifndef KALAMDB_STORE_MANIFEST_H
#define KALAMDB_STORE_MANIFEST_H

#include "base/buf.h"
#include "base/err.h"
#include "row/row.h"
#include "vault/sealed_file.h"

#define MANIFEST_FILES_MAX 4096        /* decode refuses more */
#define MANIFEST_FILTER_MAX 4096       /* conversations named per file; more: any */
#define MANIFEST_MARKS_MAX 64          /* see seq_mark */
#define MANIFEST_NAME_MAX 64           /* bytes of a file name */
#define MANIFEST_BYTES_MAX (16u << 20) /* of one record */

struct cold_file {
    struct str name;      /* in the user's folder: batch-20251013T120000Z-001.parquet, or ….parquet.enc */
    uint64_t rows, bytes; /* bytes on disk */
    char sha256[65];      /* hex; of what is on disk */
    bool sealed;          /* vault/sealed_file.h; the name says the same */
    uint8_t key[SEALED_KEY_BYTES]; /* its own, of this one writing; in the record, which is itself sealed */
    int64_t id_min, id_max;        /* msg_id */
    int64_t ts_min,
        ts_max; /* timestamp, µs; rows without one do not count (INT64_MAX, INT64_MIN: none has) */
    uint64_t seq_min, seq_max; /* _seq of the rows as they stand in the file */
    uint64_t ins_min, ins_max; /* arrivals covered, inclusive */
    uint64_t as_of;            /* the file shows its rows as they were at this _seq */
    bool any_conversation;     /* no filter: may hold every conversation */
    struct str conversations;  /* ascending conv_no: delta varints */
};

/* At that time the user's _seq was `seq`: tells how old a tombstone is at least. */
struct seq_mark {
    int64_t time_us;
    uint64_t seq;
};

struct manifest {
    _Atomic int refs;
    uint64_t epoch;        /* cold_epoch: +1 with each version */
    uint64_t watermark;    /* W */
    uint64_t cold_max_seq; /* highest seq_max of all files; 0: none */
    int64_t user_floor;    /* every row with msg_id >= this is hot; 0: all */
    bool release_pending;  /* hot copies of consolidated rows remain to be deleted */
    int64_t tail_since_us; /* age of the oldest hot copy kept, by its id; 0: none is kept */
    size_t nmarks;
    struct seq_mark *marks; /* ascending */
    size_t nfiles;
    struct cold_file *files; /* by ins_min */
    size_t ngarbage;
    struct str
        *garbage; /* names of files replaced, to be unlinked once unpinned, at the latest at the next open */
    size_t block_bytes; /* private: of the block, which holds keys and is wiped */
};

/* Appends the record. `m` may be a template on the stack whose names and filters are borrowed; refs is not
 * stored. */
void manifest_encode(struct buf *b, const struct manifest *m);
/* One reference. ERR_CORRUPT on anything malformed, ranges out of order included; ERR_NO_MEMORY. */
enum err manifest_decode(struct str bytes, struct manifest **ret, struct errctx *ec) CHECKED;
/* A copy to change and encode, which borrows everything from m; NULL: of a user without a cold tier. */
struct manifest manifest_template(const struct manifest *m);
struct manifest *manifest_ref(struct manifest *m); /* NULL gives NULL */
void manifest_unref(struct manifest *m);           /* NULL allowed */

/* The file that covers an arrival; NULL: none (fresh, or its rows are gone). m may be NULL below: no cold
 * tier. */
const struct cold_file *manifest_file_of(const struct manifest *m, uint64_t ins_seq);

enum row_state {
    ROW_FRESH,  /* hot only: no file knows it */
    ROW_TAIL,   /* the cold tier shows the same (for a tombstone: the cold row is gone) */
    ROW_OVERLAY /* supersedes the row in the file that covers it */
};
enum row_state manifest_row_state(const struct manifest *m, struct row_meta meta);

/* Does the id range of some file cover this msg_id? */
bool manifest_covers_id(const struct manifest *m, int64_t msg_id);
uint64_t manifest_rows(const struct manifest *m);
uint64_t manifest_bytes(const struct manifest *m);

/* `sorted` ascending without duplicates; more than MANIFEST_FILTER_MAX: the caller sets any_conversation
 * instead. */
void conversation_filter_encode(struct buf *b, const uint32_t *sorted, size_t n);
/* By its name: batch-….parquet.enc. */
bool cold_name_sealed(struct str name);
/* False only where the file certainly holds no row of the conversation. */
bool cold_file_may_hold(const struct cold_file *f, uint32_t conv_no);

#endif
