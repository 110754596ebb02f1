#include "row/delta.h"

void stream_delta_encode(struct buf *b, const struct stream_delta *d)
{
    buf_varint(b, (uint64_t)d->msg_id);
    buf_varint(b, d->offset);
    buf_lstr(b, d->conversation_id);
    buf_lstr(b, d->text);
}

enum err stream_delta_decode(struct str bytes, struct stream_delta *ret)
{
    struct reader r = reader_of(bytes);
    struct stream_delta d = {.msg_id = (int64_t)read_varint(&r)};
    d.offset = read_varint(&r);
    d.conversation_id = read_lstr(&r);
    d.text = read_lstr(&r);
    if (r.bad || reader_left(&r) != 0)
        return ERR_CORRUPT;
    *ret = d;
    return ERR_OK;
}
