/* Frame layout (section 5.2):
 *
 *   byte 0   FIN RSV1 RSV2 RSV3 opcode(4)
 *   byte 1   MASK length(7)          126: two more length bytes, 127: eight
 *   4 bytes  masking key             always, from a client
 *   payload
 *
 * Every rule is checked as early as its bytes are there: a header that announces too much is refused before
 * its payload arrives, and text is validated as it comes in. */
#include "net/ws.h"
#include <openssl/evp.h>
#include <stdlib.h>

struct ws_partial {
    uint8_t header[14];
    uint8_t header_len;
    uint8_t control_len;
    char control[125];
    struct buf message; /* fragments of the open message, or a frame that came in pieces */
};

static const struct {
    uint8_t lead_lo, lead_hi, need, lo, hi;
} utf8_leads[] = {
    {0xC2, 0xDF, 1, 0x80, 0xBF},
    {0xE0, 0xE0, 2, 0xA0, 0xBF},
    {0xE1, 0xEC, 2, 0x80, 0xBF},
    {0xED, 0xED, 2, 0x80, 0x9F},
    {0xEE, 0xEF, 2, 0x80, 0xBF},
    {0xF0, 0xF0, 3, 0x90, 0xBF},
    {0xF1, 0xF3, 3, 0x80, 0xBF},
    {0xF4, 0xF4, 3, 0x80, 0x8F},
};

static bool utf8_lead(struct utf8_state *u, uint8_t c)
{
    for (size_t i = 0; i < sizeof utf8_leads / sizeof *utf8_leads; i++) {
        if (c >= utf8_leads[i].lead_lo && c <= utf8_leads[i].lead_hi) {
            u->need = utf8_leads[i].need;
            u->lo = utf8_leads[i].lo;
            u->hi = utf8_leads[i].hi;
            return true;
        }
    }
    return false;
}

bool utf8_feed(struct utf8_state *u, struct str bytes)
{
    const uint8_t *p = (const uint8_t *)bytes.ptr, *end = p + bytes.len;
    while (p < end) {
        if (u->need == 0) {
            uint64_t eight;
            while (end - p >= 8 && (memcpy(&eight, p, 8), (eight & 0x8080808080808080u) == 0))
                p += 8;
            if (p == end)
                break;
            if (*p >= 0x80 && !utf8_lead(u, *p))
                return false;
        } else {
            if (*p < u->lo || *p > u->hi)
                return false;
            u->need--;
            u->lo = 0x80;
            u->hi = 0xBF;
        }
        p++;
    }
    return true;
}

void ws_decoder_init(struct ws_decoder *d, uint32_t max_message_bytes)
{
    *d = (struct ws_decoder){.max_message_bytes = max_message_bytes};
}

void ws_decoder_release(struct ws_decoder *d)
{
    if (d->partial != NULL) {
        buf_release(&d->partial->message);
        free(d->partial);
        d->partial = NULL;
    }
}

static enum ws_event_kind broken(struct ws_decoder *d, struct ws_event *ret, int code, const char *why)
{
    d->broken = true;
    ws_decoder_release(d);
    *ret = (struct ws_event){.kind = WS_BROKEN, .code = code, .payload = str_c(why)};
    return WS_BROKEN;
}

static struct ws_partial *partial_of(struct ws_decoder *d)
{
    if (d->partial == NULL) {
        d->partial = calloc(1, sizeof *d->partial);
        if (d->partial != NULL)
            d->partial->message.max_bytes = d->max_message_bytes;
    }
    return d->partial;
}

bool ws_close_code_valid(unsigned code)
{
    if (code >= 3000)
        return code <= 4999;
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014);
}

/* Length of the header that begins with these two bytes. */
static size_t header_size(const uint8_t *h)
{
    unsigned len = h[1] & 0x7F;
    return 2 + (len == 126 ? 2u : len == 127 ? 8u : 0u) + ((h[1] & 0x80) != 0 ? 4u : 0u);
}

/* The checks that the first two bytes allow. NULL: fine. */
static const char *check_start(const struct ws_decoder *d, const uint8_t *h, int *ret_code)
{
    unsigned op = h[0] & 0x0F, len = h[1] & 0x7F;
    bool fin = (h[0] & 0x80) != 0;
    *ret_code = WS_PROTOCOL_ERROR;
    if ((h[0] & 0x70) != 0)
        return "reserved bits are set";
    if ((h[1] & 0x80) == 0)
        return "frame is not masked";
    if (op >= 8) {
        if (op > WS_OP_PONG)
            return "unknown opcode";
        if (!fin)
            return "fragmented control frame";
        if (len > 125)
            return "control frame is too long";
        return NULL;
    }
    if (op == WS_OP_CONT)
        return d->message_open ? NULL : "continuation without a message";
    if (op > WS_OP_BINARY)
        return "unknown opcode";
    if (d->message_open)
        return "message within a message";
    if (op == WS_OP_BINARY) {
        *ret_code = WS_UNSUPPORTED_DATA;
        return "text frames only";
    }
    return NULL;
}

/* A whole header at h: begin the frame. */
static enum ws_event_kind frame_begin(struct ws_decoder *d, const uint8_t *h, struct ws_event *ret)
{
    uint64_t len = h[1] & 0x7F;
    const uint8_t *mask = h + 2;
    if (len == 126) {
        len = get_be16(h + 2);
        mask += 2;
        if (len < 126)
            return broken(d, ret, WS_PROTOCOL_ERROR, "length is not minimal");
    } else if (len == 127) {
        len = get_be64(h + 2);
        mask += 8;
        if (len < 65536 || len >> 63 != 0)
            return broken(d, ret, WS_PROTOCOL_ERROR, "bad length");
    }
    uint8_t op = h[0] & 0x0F;
    size_t have = d->message_open && d->partial != NULL ? d->partial->message.len : 0;
    if (op < 8 && len + have > d->max_message_bytes)
        return broken(d, ret, WS_TOO_BIG, "message is too big");
    d->in_frame = true;
    d->frame_op = op;
    d->frame_fin = (h[0] & 0x80) != 0;
    d->payload_left = (uint32_t)len;
    d->mask_pos = 0;
    memcpy(d->mask, mask, 4);
    if (op == WS_OP_CONT && ++d->fragments > WS_FRAGMENTS_MAX)
        return broken(d, ret, WS_TOO_BIG, "message has too many fragments");
    if (op == WS_OP_TEXT) {
        d->fragments = 1;
        d->message_open = true;
        d->utf8 = (struct utf8_state){0};
    }
    if (op >= 8 && d->partial != NULL)
        d->partial->control_len = 0;
    return WS_MORE;
}

/* Takes header bytes; WS_MORE with d->in_frame once a frame began, without when input ran out. */
static enum ws_event_kind take_header(struct ws_decoder *d, char **p, char *end, struct ws_event *ret)
{
    const uint8_t *h = (const uint8_t *)*p;
    size_t n = (size_t)(end - *p);
    struct ws_partial *pa = d->partial;
    int code;
    if ((pa == NULL || pa->header_len == 0) && n >= 2) { /* fast: the header stands in the input */
        const char *why = check_start(d, h, &code);
        if (why != NULL)
            return broken(d, ret, code, why);
        size_t need = header_size(h);
        if (n >= need) {
            *p += need;
            return frame_begin(d, h, ret);
        }
    }
    pa = partial_of(d);
    if (pa == NULL)
        return broken(d, ret, WS_INTERNAL_ERROR, "out of memory");
    while (*p < end) {
        pa->header[pa->header_len++] = (uint8_t) * (*p)++;
        if (pa->header_len == 2) {
            const char *why = check_start(d, pa->header, &code);
            if (why != NULL)
                return broken(d, ret, code, why);
        }
        if (pa->header_len >= 2 && pa->header_len == header_size(pa->header)) {
            pa->header_len = 0;
            return frame_begin(d, pa->header, ret);
        }
    }
    return WS_MORE;
}

static void unmask(struct ws_decoder *d, char *p, size_t n)
{
    size_t i = 0;
    for (; i < n && d->mask_pos != 0; i++, d->mask_pos = (d->mask_pos + 1) & 3)
        p[i] = (char)(p[i] ^ d->mask[d->mask_pos]);
    uint64_t eight, mask8;
    memcpy(&mask8, d->mask, 4);
    memcpy((char *)&mask8 + 4, d->mask, 4);
    for (; i + 8 <= n; i += 8) {
        memcpy(&eight, p + i, 8);
        eight ^= mask8;
        memcpy(p + i, &eight, 8);
    }
    for (; i < n; i++, d->mask_pos = (d->mask_pos + 1) & 3)
        p[i] = (char)(p[i] ^ d->mask[d->mask_pos]);
}

static enum ws_event_kind control_end(struct ws_decoder *d, struct str payload, struct ws_event *ret)
{
    d->in_frame = false;
    *ret = (struct ws_event){.payload = payload};
    if (d->frame_op != WS_OP_CLOSE)
        return ret->kind = d->frame_op == WS_OP_PING ? WS_PING : WS_PONG;
    ret->kind = WS_CLOSED;
    ret->code = WS_NO_STATUS;
    if (payload.len == 0)
        return WS_CLOSED;
    if (payload.len == 1)
        return broken(d, ret, WS_PROTOCOL_ERROR, "bad close frame");
    ret->code = get_be16(payload.ptr);
    ret->payload = str_n(payload.ptr + 2, payload.len - 2);
    if (!ws_close_code_valid((unsigned)ret->code))
        return broken(d, ret, WS_PROTOCOL_ERROR, "bad close code");
    if (!utf8_valid(ret->payload))
        return broken(d, ret, WS_INVALID_DATA, "close reason is not UTF-8");
    return WS_CLOSED;
}

static enum ws_event_kind take_control(struct ws_decoder *d, char *p, size_t n, struct ws_event *ret)
{
    if (n == d->payload_left && (d->partial == NULL || d->partial->control_len == 0)) {
        d->payload_left = 0;
        return control_end(d, str_n(p, n), ret);
    }
    struct ws_partial *pa = partial_of(d);
    if (pa == NULL)
        return broken(d, ret, WS_INTERNAL_ERROR, "out of memory");
    if (n > 0)
        memcpy(pa->control + pa->control_len, p, n);
    pa->control_len = (uint8_t)(pa->control_len + n);
    d->payload_left -= (uint32_t)n;
    if (d->payload_left > 0)
        return WS_MORE;
    size_t len = pa->control_len;
    pa->control_len = 0;
    return control_end(d, str_n(pa->control, len), ret);
}

static enum ws_event_kind take_text(struct ws_decoder *d, char *p, size_t n, struct ws_event *ret)
{
    if (!utf8_feed(&d->utf8, str_n(p, n)))
        return broken(d, ret, WS_INVALID_DATA, "text is not UTF-8");
    d->payload_left -= (uint32_t)n;
    bool frame_done = d->payload_left == 0, message_done = frame_done && d->frame_fin;
    if (message_done && d->utf8.need != 0)
        return broken(d, ret, WS_INVALID_DATA, "text is not UTF-8");
    bool gathered = d->partial != NULL && d->partial->message.len > 0;
    struct str text = str_n(p, n);
    if (!message_done || gathered) {
        struct ws_partial *pa = partial_of(d);
        if (pa != NULL)
            buf_append(&pa->message, p, n);
        if (pa == NULL || pa->message.failed)
            return broken(d, ret, WS_INTERNAL_ERROR, "out of memory");
        text = buf_view(&pa->message);
    }
    if (frame_done)
        d->in_frame = false;
    if (!message_done)
        return WS_MORE;
    d->message_open = false;
    *ret = (struct ws_event){.kind = WS_TEXT, .payload = text};
    return WS_TEXT;
}

/* Frees what no open frame or message needs any more. */
static void settle(struct ws_decoder *d)
{
    struct ws_partial *pa = d->partial;
    if (pa == NULL || d->in_frame)
        return;
    if (!d->message_open)
        buf_clear(&pa->message);
    if (pa->header_len == 0 && !d->message_open)
        ws_decoder_release(d);
}

enum ws_event_kind ws_decode(struct ws_decoder *d, char **p, char *end, struct ws_event *ret)
{
    *ret = (struct ws_event){.kind = WS_MORE};
    settle(d);
    while (!d->broken && (*p < end || (d->in_frame && d->payload_left == 0))) {
        enum ws_event_kind kind;
        if (!d->in_frame) {
            kind = take_header(d, p, end, ret);
            if (kind != WS_MORE)
                return kind;
            if (!d->in_frame)
                break;
            continue;
        }
        size_t n = (size_t)(end - *p) < d->payload_left ? (size_t)(end - *p) : d->payload_left;
        char *bytes = *p;
        unmask(d, bytes, n);
        *p += n;
        kind = d->frame_op >= 8 ? take_control(d, bytes, n, ret) : take_text(d, bytes, n, ret);
        if (kind != WS_MORE)
            return kind;
    }
    settle(d);
    if (d->broken)
        *p = end;
    return WS_MORE;
}

size_t ws_encode_head(uint8_t out[WS_HEAD_BYTES_MAX], enum ws_op op, uint64_t payload_bytes)
{
    out[0] = (uint8_t)(0x80 | op);
    if (payload_bytes < 126) {
        out[1] = (uint8_t)payload_bytes;
        return 2;
    }
    if (payload_bytes < 65536) {
        out[1] = 126;
        put_be16(out + 2, (uint16_t)payload_bytes);
        return 4;
    }
    out[1] = 127;
    put_be64(out + 2, payload_bytes);
    return 10;
}

size_t ws_encode_close(uint8_t out[125], int code, struct str reason)
{
    if (code == WS_NO_STATUS)
        return 0;
    put_be16(out, (uint16_t)code);
    size_t n = utf8_cut(reason, 123);
    if (n > 0)
        memcpy(out + 2, reason.ptr, n);
    return 2 + n;
}

bool ws_key_valid(struct str key)
{
    if (key.len != 24 || key.ptr[22] != '=' || key.ptr[23] != '=')
        return false;
    for (size_t i = 0; i < 22; i++) {
        char c = key.ptr[i];
        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' ||
                c == '/'))
            return false;
    }
    return true;
}

void ws_accept_key(struct str key, char ret[29])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    unsigned char digest[EVP_MAX_MD_SIZE];
    char text[24 + sizeof guid];
    memcpy(text, key.ptr, 24);
    memcpy(text + 24, guid, sizeof guid);
    unsigned int n = 0;
    if (EVP_Digest(text, 24 + sizeof guid - 1, digest, &n, EVP_sha1(), NULL) != 1)
        memset(digest, 0, sizeof digest);
    EVP_EncodeBlock((unsigned char *)ret, digest, 20);
}
