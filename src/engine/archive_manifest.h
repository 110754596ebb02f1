/* manifest.json of an archive: what stands in it, and of what the rest is checked against
 * (docs/export-manifest.schema.json). Pure functions, any thread. */
#ifndef KALAMDB_ENGINE_ARCHIVE_MANIFEST_H
#define KALAMDB_ENGINE_ARCHIVE_MANIFEST_H

#include "base/arena.h"
#include "engine/user_archive.h"

#define ARCHIVE_MANIFEST_BYTES_MAX ((size_t)64 << 20)
#define ARCHIVE_FILES_MAX 200000

struct archive_file {
    struct str path;
    enum archive_kind kind;
    bool has_rows; /* Parquet files have, others have not */
    uint64_t rows, bytes;
    char sha256[65];
};

struct archive_manifest {
    struct str user, feed, exported_at;
    uint64_t seq, messages, conversations;
    size_t nfiles;
    struct archive_file *files; /* in the order of the text */
};

/* One line of "files". */
void archive_manifest_file(struct buf *b, const struct archive_file *f);
/* The whole text; `files` are lines by archive_manifest_file, joined by commas. */
void archive_manifest_write(struct buf *b, const struct archive_manifest *m, struct str files);
/* INVALID_REQUEST naming the field: wrong type, missing, out of range, a path twice, a sum that does not add
 * up. Fields that nobody knows are left alone. Texts live in the arena. */
enum err archive_manifest_parse(
    struct str text, struct arena *arena, struct archive_manifest *ret, struct errctx *ec) CHECKED;

#endif
