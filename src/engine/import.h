/* One import on its way: what has come of the archive, what is known of it, and its two halves. First all of
 * it is verified (import_verify.c), then written in chunks (import_write.c); nothing of the second begins
 * before the first is through.
 *
 * Threading: the host's thread until kalamdb_import_finish, then a thread of its own. */
#ifndef KALAMDB_ENGINE_IMPORT_H
#define KALAMDB_ENGINE_IMPORT_H

#include "chat/import.h"
#include "engine/archive_manifest.h"
#include "engine/spool.h"
#include "engine/transfer.h"
#include "engine/user_archive.h"

/* What a worker reads at once: a message takes descriptors for all files of messages. */
#define IMPORT_MESSAGE_FILES_MAX 240
#define IMPORT_FILE_ROWS_MAX 2000000
/* Of all Parquet files of an archive, in memory while it is imported. */
#define IMPORT_PARQUET_BYTES_MAX (UINT64_C(2) << 30)

/* A file of the archive: the manifest's word and the tar's agree on it. */
struct import_file {
    struct str path;
    enum archive_kind kind;
    uint64_t rows, bytes, offset;
    char sha256[65];
};

struct kalamdb_import {
    struct transfer transfer;
    uint64_t owner_no; /* of who gets it, when it began; 0: there was nobody */
    struct spool *archive;
    struct archive_source source; /* of it */
    uint64_t bytes, bytes_max;
    bool failed;       /* a write failed: ec says why */
    int64_t issued_s;  /* of the caller's token */
    int64_t erased_us; /* store_erased_us of the user when it began */
    struct str caller; /* in the arena */

    struct arena arena;
    struct archive_manifest manifest;
    size_t nfiles;
    struct import_file *files; /* by path */
    uint64_t ncontents;
    int nmessage_fds;
    int message_fds[IMPORT_MESSAGE_FILES_MAX]; /* Parquet files, taken out of the tar */
    int64_t ids_below;
    struct rowset conversations;              /* sorted by id */
    size_t nmembers;                          /* of the exporting user's own rows */
    struct value (*members)[MEMBER_NCOLUMNS]; /* by conversation; in the arena */
    struct rowset member_rows;
    bool has_conversations, has_members;

    void (*done)(void *arg, const struct kalamdb_import_counts *counts, const struct kalamdb_error *error);
    void *arg;
    struct errctx ec;
};

/* INVALID_REQUEST naming file and fault for whatever is wrong with the archive. */
enum err import_verify(struct kalamdb_import *im, struct errctx *ec) CHECKED;
enum err import_write(struct kalamdb_import *im, struct errctx *ec) CHECKED;

/* Pages of rows in the order of one BIGINT column. */
struct import_page {
    const char *order; /* "msg_id" or "_seq" */
    bool keys_only;    /* that column alone */
    int64_t after;     /* rows above this */
    size_t rows;       /* of the next page; shrinks where rows are large */
};
/* The next page, empty at the end; the caller releases it. Columns as transfer_columns() has them. */
enum err import_next_page(
    struct kalamdb_import *im, struct import_page *p, struct rowset *ret, struct errctx *ec) CHECKED;
/* Runs a query over Parquet files of the archive as input scan_0. */
enum err import_query(struct kalamdb_import *im, const struct schema *schema, int nfiles, const int *fds,
    struct str sql, size_t rows_max, struct rowset *ret, struct errctx *ec) CHECKED;
/* A row of a page by column of its schema, JSON as JSON; columns that an archive does not have are NULL. */
void import_row(const struct schema *schema, const struct value *row, struct value *ret);
/* The file of that path; NULL. */
const struct import_file *import_find(const struct kalamdb_import *im, struct str path);
/* `content/<ref>`. */
const struct import_file *import_content(const struct kalamdb_import *im, struct str ref);
/* The row of conversations of that id; NULL. */
const struct value *import_conversation(const struct kalamdb_import *im, struct str id);
struct archive_member import_member(const struct import_file *f);

#endif
