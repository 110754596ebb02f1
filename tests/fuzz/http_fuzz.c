/* HTTP requests from outside: the first byte says in what pieces the rest arrives. Whatever the pieces, and
 * whether bodies are collected or handed out, the same messages and the same outcome must come out; targets
 * and query strings go through the router's decoding. */
#include "api/server.h"
#include "net/http.h"
#include <stdlib.h>

struct outcome {
    int messages;
    enum http_failure failure;
    uint64_t hash;
};

static void mix(struct outcome *o, struct str s)
{
    o->hash = o->hash * 1000003 + s.len;
    for (size_t i = 0; i < s.len; i++)
        o->hash = (o->hash ^ (uint8_t)s.ptr[i]) * 0x100000001b3u;
}

static void take(struct outcome *o, const struct http_message *m)
{
    struct arena a;
    struct str path, query, value;
    o->messages++;
    mix(o, http_message_target(m));
    mix(o, str_n(m->body.ptr, m->body.len));
    for (int i = 0; i < m->nheaders; i++) {
        mix(o, str_n(m->head.ptr + m->headers[i].name, m->headers[i].name_len));
        mix(o, str_n(m->head.ptr + m->headers[i].value, m->headers[i].value_len));
    }
    arena_init(&a, 1 << 20);
    if (target_split(&a, http_message_target(m), &path, &query)) {
        (void)route_of(path);
        if (!utf8_valid(path) ||
            (query_param(&a, query, STR("token"), &value) && value.ptr != NULL && !utf8_valid(value)))
            abort();
    }
    arena_release(&a);
}

static struct outcome run(const uint8_t *data, size_t n, size_t piece, bool hand_out)
{
    struct outcome o = {.hash = 1469598103934665603u};
    struct http_parser p;
    struct http_message m;
    enum http_progress progress = HTTP_MORE;
    http_parser_init(&p, 4096);
    p.ask = hand_out;
    http_message_init(&m);
    for (size_t at = 0;
         (at < n || progress == HTTP_HEAD_READ || progress == HTTP_BODY_PIECE) && progress != HTTP_FAILED;) {
        size_t k = n - at < piece ? n - at : piece, used = 0;
        char *copy = malloc(k);
        memcpy(copy, data + at, k);
        p.message = &m;
        progress = http_parser_feed(&p, copy, k, &used);
        if (progress == HTTP_BODY_PIECE)
            buf_str(&m.body, p.piece);
        free(copy);
        if (used > k)
            abort();
        at += used;
        if (progress == HTTP_HEAD_READ && !http_parser_body(&p, 4096, true)) {
            o.failure = HTTP_BODY_TOO_LARGE;
            break;
        }
        if (progress != HTTP_MESSAGE)
            continue;
        if (m.body.len > 4096)
            abort();
        bool last = m.websocket || !m.keep_alive;
        take(&o, &m);
        http_message_clear(&m);
        if (last)
            break;
    }
    if (progress == HTTP_FAILED)
        o.failure = p.failure;
    http_message_release(&m);
    return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct outcome whole = run(data + 1, size - 1, SIZE_MAX / 2, data[0] >= 128),
                   pieces = run(data + 1, size - 1, data[0] % 16 + 1, (data[0] & 16) != 0);
    /* A failure may be seen before or after the message that precedes it was complete, never another set of
     * them. */
    if (whole.messages != pieces.messages || whole.hash != pieces.hash ||
        (whole.failure == HTTP_OK) != (pieces.failure == HTTP_OK))
        abort();
    return 0;
}
