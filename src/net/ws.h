/* RFC 6455, the server's side, sans-I/O: bytes in, frames out; no sockets, no clock. Extensions are not
 * negotiated.
 *
 * Decoding is pull-style. ws_decode takes what it needs from [*p, end), unmasking in place, and says what
 * happened; call it again until WS_MORE. A decoder at rest (between frames, no fragmented message open) holds
 * no memory: what is incomplete lives in `partial`, made on demand. One thread at a time. */
#ifndef KALAMDB_NET_WS_H
#define KALAMDB_NET_WS_H

#include "base/buf.h"

enum ws_op {
    WS_OP_CONT = 0,
    WS_OP_TEXT = 1,
    WS_OP_BINARY = 2,
    WS_OP_CLOSE = 8,
    WS_OP_PING = 9,
    WS_OP_PONG = 10
};

enum ws_code {
    WS_NORMAL = 1000,
    WS_GOING_AWAY = 1001,
    WS_PROTOCOL_ERROR = 1002,
    WS_UNSUPPORTED_DATA = 1003,
    WS_NO_STATUS = 1005, /* never on the wire: a close frame without a code */
    WS_INVALID_DATA = 1007,
    WS_TOO_BIG = 1009,
    WS_INTERNAL_ERROR = 1011
};

enum ws_event_kind {
    WS_MORE, /* all input taken; nothing to report */
    WS_TEXT, /* a whole text message, valid UTF-8 */
    WS_PING, /* answer with a pong of the same payload */
    WS_PONG,
    WS_CLOSED, /* close frame: code (WS_NO_STATUS: none), reason in payload */
    WS_BROKEN  /* close with `code`; payload is a static reason; the decoder takes no more */
};

struct ws_event {
    enum ws_event_kind kind;
    int code;
    struct str payload; /* until the next ws_decode or the end of the input bytes */
};

/* Incremental check of UTF-8 (RFC 3629); zeroed = between characters. */
struct utf8_state {
    uint8_t need, lo, hi; /* continuation bytes still due; bounds of the next one */
};
bool utf8_feed(struct utf8_state *u, struct str bytes);

#define WS_FRAGMENTS_MAX 4096 /* frames of one message: many tiny ones carry nothing and cost much */

struct ws_partial;
struct ws_decoder {
    struct ws_partial *partial;
    uint32_t max_message_bytes;
    uint32_t payload_left; /* of the frame under way */
    uint32_t fragments;    /* of the open message, so far */
    uint8_t mask[4];
    uint8_t mask_pos;
    uint8_t frame_op; /* of the frame under way */
    bool in_frame, frame_fin, message_open, broken;
    struct utf8_state utf8;
};

void ws_decoder_init(struct ws_decoder *d, uint32_t max_message_bytes);
void ws_decoder_release(struct ws_decoder *d);
enum ws_event_kind ws_decode(struct ws_decoder *d, char **p, char *end, struct ws_event *ret);

#define WS_HEAD_BYTES_MAX 10
/* Header of an unmasked, unfragmented frame; bytes written. */
size_t ws_encode_head(uint8_t out[WS_HEAD_BYTES_MAX], enum ws_op op, uint64_t payload_bytes);
/* Payload of a close frame (reason cut to 123 bytes on a character); bytes written. Code WS_NO_STATUS: none.
 */
size_t ws_encode_close(uint8_t out[125], int code, struct str reason);
/* May a peer send this close code (section 7.4)? */
bool ws_close_code_valid(unsigned code);

/* Section 4.2: is `key` the base64 of 16 bytes? */
bool ws_key_valid(struct str key);
/* Sec-WebSocket-Accept for a valid key: 28 characters. */
void ws_accept_key(struct str key, char ret[29]);

#endif
