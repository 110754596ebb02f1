/* What the files of this folder share about reading content files. */
#ifndef KALAMDB_STORE_BLOB_READ_H
#define KALAMDB_STORE_BLOB_READ_H

#include "media/media.h"
#include "store/blob.h"

/* What all content files are bound to. Whose one is, and under which name, is bound by where its key stands:
 * a file has no name yet while it is written, and may move before it is committed. */
#define BLOB_CONTEXT STR("kalamdb content")
#define BLOB_TEXT_TYPE ((struct media_type){"bin", "text/plain; charset=utf-8"})

/* Takes the descriptor over, also on failure. */
enum err blob_reader_new(int fd, const uint8_t *key, struct blob_reader **ret, struct errctx *ec) CHECKED;
/* As media_source.read; arg: the reader. */
int64_t blob_reader_source(void *arg, uint64_t offset, void *p, size_t n);

#endif
