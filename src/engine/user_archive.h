/* The archive of one user's data (docs/your-data.md): a pax tar, and what may stand in it. libarchive is
 * known to user_archive.c alone.
 *
 * Threading: one thread at a time. The rules about names are pure functions. */
#ifndef KALAMDB_ENGINE_USER_ARCHIVE_H
#define KALAMDB_ENGINE_USER_ARCHIVE_H

#include "base/buf.h"
#include "base/err.h"

#define ARCHIVE_FORMAT "kalamdb-export"
#define ARCHIVE_VERSION 1
#define ARCHIVE_MANIFEST "manifest.json"
#define ARCHIVE_CONVERSATIONS "conversations.parquet"
#define ARCHIVE_MEMBERS "conversation_users.parquet"
#define ARCHIVE_PATH_MAX 512

/* ---- names ---- */

enum archive_kind {
    ARCHIVE_KIND_NONE, /* nothing an archive holds */
    ARCHIVE_KIND_MESSAGES,
    ARCHIVE_KIND_CONVERSATIONS,
    ARCHIVE_KIND_MEMBERS,
    ARCHIVE_KIND_CONTENT,
    ARCHIVE_KIND_MANIFEST
};
/* By the whole path, letter by letter: what is no name of ours is NONE, "..", "/x" and "a//b" included. */
enum archive_kind archive_kind_of(struct str path);
/* `<folder>/msg-<id>.bin`, `shared/conversations/<folder>/media-<id>.<ext>` …: the last part, which alone
 * survives an import, and its id. False: no content_ref. */
bool archive_ref_parse(struct str ref, struct str *ret_name, int64_t *ret_id);

/* ---- writing ---- */

struct archive_writer;
/* What is written comes out at the end of `out`, which the caller may empty between calls. */
enum err archive_writer_open(struct buf *out, struct archive_writer **ret, struct errctx *ec) CHECKED;
enum err archive_writer_begin(
    struct archive_writer *w, struct str path, uint64_t bytes, int64_t mtime_s, struct errctx *ec) CHECKED;
/* As many bytes in all as begin announced. */
enum err archive_writer_data(struct archive_writer *w, struct str bytes, struct errctx *ec) CHECKED;
enum err archive_writer_end(struct archive_writer *w, struct errctx *ec) CHECKED;
/* The end of the tar. */
enum err archive_writer_finish(struct archive_writer *w, struct errctx *ec) CHECKED;
void archive_writer_free(struct archive_writer *w); /* NULL allowed */

/* ---- reading ---- */

struct archive_member {
    char path[ARCHIVE_PATH_MAX + 1];
    enum archive_kind kind;
    uint64_t bytes, offset; /* of its bytes in the file */
    char sha256[65];        /* hex, of the bytes read */
};
/* Where an archive's bytes are: up to n of them from `at` on, fewer at the end only. */
struct archive_source {
    enum err (*read)(void *arg, void *p, size_t n, uint64_t at, size_t *ret_n, struct errctx *ec);
    void *arg;
};
struct archive_reader;
/* An uncompressed tar. The source lives as long as the reader. */
enum err archive_reader_open(
    const struct archive_source *source, struct archive_reader **ret, struct errctx *ec) CHECKED;
/* The next member, read to its end: NOT_FOUND behind the last, INVALID_REQUEST for whatever is no plain file
 * under a name of ours, or is cut off. The manifest's text goes to `manifest`, whose cap bounds it. `alive`
 * is asked now and then; what it answers but OK ends the reading. */
enum err archive_reader_next(struct archive_reader *r, struct archive_member *ret, struct buf *manifest,
    enum err (*alive)(void *arg, struct errctx *ec), void *arg, struct errctx *ec) CHECKED;
void archive_reader_free(struct archive_reader *r); /* NULL allowed */

/* Hands one member's bytes to `sink`, piece by piece, and checks them against its sha256 (CORRUPT). */
enum err archive_member_read(const struct archive_source *source, const struct archive_member *m,
    enum err (*sink)(void *arg, struct str bytes, struct errctx *ec), void *arg, struct errctx *ec) CHECKED;

#endif
