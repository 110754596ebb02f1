/* WebSocket frames from outside: the first byte says in what pieces the rest arrives. Every cut must give the
 * same events; text is UTF-8 and within the limit; control frames are short. */
#include "net/ws.h"
#include <stdlib.h>

#define MESSAGE_MAX 1000

static uint64_t run(const uint8_t *data, size_t n, size_t piece)
{
    struct ws_decoder d;
    struct ws_event ev;
    uint64_t hash = 1;
    ws_decoder_init(&d, MESSAGE_MAX);
    for (size_t at = 0; at < n;) {
        size_t k = n - at < piece ? n - at : piece;
        char *copy = malloc(k), *p = copy;
        memcpy(copy, data + at, k);
        while (ws_decode(&d, &p, copy + k, &ev) != WS_MORE) {
            if (ev.kind == WS_TEXT && (ev.payload.len > MESSAGE_MAX || !utf8_valid(ev.payload)))
                abort();
            if ((ev.kind == WS_PING || ev.kind == WS_PONG) && ev.payload.len > 125)
                abort();
            if (ev.kind == WS_CLOSED && ev.code != WS_NO_STATUS && !ws_close_code_valid((unsigned)ev.code))
                abort();
            hash = hash * 31 + (uint64_t)ev.kind * 7 + (uint64_t)ev.code + ev.payload.len;
            for (size_t i = 0; ev.kind != WS_BROKEN && i < ev.payload.len; i++)
                hash = (hash ^ (uint8_t)ev.payload.ptr[i]) * 0x100000001b3u;
        }
        if (p != copy + k)
            abort();
        free(copy);
        at += k;
    }
    ws_decoder_release(&d);
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    uint64_t whole = run(data + 1, size - 1, SIZE_MAX / 2),
             pieces = run(data + 1, size - 1, data[0] % 16 + 1);
    if (whole != pieces)
        abort();
    return 0;
}
