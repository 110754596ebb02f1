/* Head record: u8 format (1) | varint seq, total_messages, next_conv_no, cold_epoch, forgotten_seq,
 * fresh_rows, fresh_bytes | zigzag fresh_since_us | varint overlays, tombstones | zigzag active_us | lstr
 * feed, user id. */
#include "store/internal.h"

enum { HEAD_FORMAT = 1 };

void head_encode(struct buf *b, const struct head *h)
{
    buf_u8(b, HEAD_FORMAT);
    buf_varint(b, h->seq);
    buf_zigzag(b, h->total_messages);
    buf_varint(b, h->next_conv_no);
    buf_varint(b, h->cold_epoch);
    buf_varint(b, h->forgotten_seq);
    buf_varint(b, h->fresh_rows);
    buf_varint(b, h->fresh_bytes);
    buf_zigzag(b, h->fresh_since_us);
    buf_varint(b, h->overlays);
    buf_varint(b, h->tombstones);
    buf_zigzag(b, h->active_us);
    buf_lstr(b, head_feed(h));
    buf_lstr(b, head_user_id(h));
}

enum err head_decode(struct str bytes, struct head *ret)
{
    struct reader r = reader_of(bytes);
    struct head h = {0};
    if (read_u8(&r) != HEAD_FORMAT)
        return ERR_CORRUPT;
    h.seq = read_varint(&r);
    h.total_messages = read_zigzag(&r);
    uint64_t next_conv_no = read_varint(&r);
    h.cold_epoch = read_varint(&r);
    h.forgotten_seq = read_varint(&r);
    h.fresh_rows = read_varint(&r);
    h.fresh_bytes = read_varint(&r);
    h.fresh_since_us = read_zigzag(&r);
    h.overlays = read_varint(&r);
    h.tombstones = read_varint(&r);
    h.active_us = read_zigzag(&r);
    struct str feed = read_lstr(&r), user_id = read_lstr(&r);
    if (r.bad || reader_left(&r) != 0 || next_conv_no > UINT32_MAX || feed.len > sizeof h.feed ||
        user_id.len > USER_ID_BYTES_MAX)
        return ERR_CORRUPT;
    h.next_conv_no = (uint32_t)next_conv_no;
    h.feed_len = (uint8_t)feed.len;
    h.user_id_len = (uint8_t)user_id.len;
    memcpy(h.feed, feed.ptr, feed.len);
    h.user_id = user_id.ptr;
    *ret = h;
    return ERR_OK;
}

enum err conversation_record_get(struct str value, struct conversation_record *ret)
{
    if (value.len < CONVERSATION_RECORD_PREFIX)
        return ERR_CORRUPT;
    *ret = (struct conversation_record){get_be32(value.ptr), (int64_t)get_be64(value.ptr + 4),
        str_n(value.ptr + CONVERSATION_RECORD_PREFIX, value.len - CONVERSATION_RECORD_PREFIX)};
    return ERR_OK;
}
