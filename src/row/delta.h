/* A piece of a growing text as bytes, as live events carry it (CHANGE_APPEND): varint msg_id | varint offset
 * | lstr conversation_id | lstr text. Decode checks every byte. Pure functions, any thread. */
#ifndef KALAMDB_ROW_DELTA_H
#define KALAMDB_ROW_DELTA_H

#include "base/buf.h"
#include "base/err.h"

struct stream_delta {
    int64_t msg_id;
    uint64_t offset; /* bytes of the text before this piece */
    struct str conversation_id, text;
};
void stream_delta_encode(struct buf *b, const struct stream_delta *d);
/* Borrows from `bytes`. CORRUPT. */
enum err stream_delta_decode(struct str bytes, struct stream_delta *ret) CHECKED;

#endif
