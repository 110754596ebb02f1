/* The row envelope: one row as bytes, the same in RocksDB values, in the hand-over to workers and in live
 * events.
 *
 *   u8 format (1) | u8 flags | [sealed: varint n, n bytes AEAD header — reserved] | [open: varint home] |
 * varint seq | varint ins_seq | unless tombstone, or tombstone's key columns: per column of the schema, in
 * order: u8 value_type, then nothing for NULL; zigzag for BOOL, BIGINT, TIMESTAMPTZ; 8 bytes big-endian IEEE
 * for DOUBLE; lstr for the rest. Columns added to a schema later are absent from old rows and read as NULL.
 * COLUMN_SEQ and COLUMN_INS_SEQ columns are not stored; decode fills them from the envelope. Rows from a disk
 * or a pipe are not trusted: decode checks every byte. Pure functions, any thread. */
#ifndef KALAMDB_ROW_ROW_H
#define KALAMDB_ROW_ROW_H

#include "base/buf.h"
#include "base/err.h"
#include "row/schema.h"

enum row_flags {
    ROW_TOMBSTONE = 1, /* key columns kept (messages: msg_id, conversation_id), the others NULL */
    ROW_SEALED = 2,    /* payload is AEAD-sealed (later); decode refuses it until then */
    ROW_OPEN = 4 /* a streamed reply that still grows: its text is `content` followed by the chunks in the
                    partition `home` (store/stream.h). Rows that come out of a snapshot have both in
                    `content` already. */
};

struct row_meta {
    uint64_t seq;     /* number of the row's last change */
    uint64_t ins_seq; /* number at which it arrived */
    unsigned flags;
    uint64_t home; /* ROW_OPEN: the partition that holds the text; else 0 */
};

/* `values` has schema->ncolumns entries. */
void row_encode(struct buf *b, const struct schema *s, struct row_meta meta, const struct value *values);
/* The two parts of a live row's envelope: what differs between copies of one row, and what does not. */
void row_encode_head(struct buf *b, struct row_meta meta);
void row_encode_columns(struct buf *b, const struct schema *s, const struct value *values);
/* Values borrow from `bytes`. ERR_CORRUPT on anything malformed. */
enum err row_decode(
    struct str bytes, const struct schema *s, struct row_meta *ret_meta, struct value *ret_values) CHECKED;
/* Envelope only. */
enum err row_decode_meta(struct str bytes, struct row_meta *ret_meta) CHECKED;

#endif
