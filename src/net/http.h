/* HTTP/1.x requests out of bytes, sans-I/O, on llhttp in strict mode. What llhttp lets pass and a careful
 * server should not (RFC 9112: no Host, two Hosts, codings other than chunked, Transfer-Encoding in HTTP/1.0,
 * folded lines, coded bodies, endless chunk extensions and trailers) is refused here. One thread at a time.
 */
#ifndef KALAMDB_NET_HTTP_H
#define KALAMDB_NET_HTTP_H

#include "base/buf.h"
#include <llhttp.h>

#define HTTP_HEADERS_MAX 64
#define HTTP_HEAD_BYTES_MAX 16384 /* target and header names and values together */
#define HTTP_BLANK_LINES_MAX 16
#define HTTP_FRAMING_BYTES_MAX 4096 /* around one chunk's data: its size line, extensions, trailers */

enum http_failure {
    HTTP_OK = 0,
    HTTP_BAD_REQUEST = 400,
    HTTP_TIMED_OUT = 408,
    HTTP_BODY_TOO_LARGE = 413,
    HTTP_URI_TOO_LONG = 414,
    HTTP_UNSUPPORTED_MEDIA = 415,
    HTTP_EXPECTATION_FAILED = 417,
    HTTP_TOO_MANY = 429,
    HTTP_HEAD_TOO_LARGE = 431,
    HTTP_NOT_IMPLEMENTED = 501,
    HTTP_OVERLOADED = 503,
    HTTP_VERSION_UNSUPPORTED = 505
};

enum http_method {
    HTTP_M_GET,
    HTTP_M_HEAD,
    HTTP_M_POST,
    HTTP_M_PUT,
    HTTP_M_DELETE,
    HTTP_M_OPTIONS,
    HTTP_M_OTHER
};

struct http_header {
    uint16_t name, name_len, value, value_len; /* in head */
};

/* One request as it came. Reused: http_message_clear keeps the buffers. */
struct http_message {
    struct buf head; /* the target, then names and values */
    struct buf body;
    uint16_t target_len;
    uint16_t nheaders;
    uint8_t method;                                             /* enum http_method */
    uint8_t minor;                                              /* HTTP/1.minor */
    bool headers_done, keep_alive, expects_continue, websocket; /* websocket: GET with Upgrade: websocket */
    struct http_header headers[HTTP_HEADERS_MAX];
};

void http_message_init(struct http_message *m);
void http_message_clear(struct http_message *m);
void http_message_release(struct http_message *m);
struct str http_message_target(const struct http_message *m);
/* First header of that (lower-case) name; ptr NULL when absent. */
struct str http_message_header(const struct http_message *m, struct str name);

enum http_progress {
    HTTP_MORE,       /* all input taken */
    HTTP_HEAD_READ,  /* with `ask`: the head of a message with a body; feed the rest, even if that is nothing
                      */
    HTTP_BODY_PIECE, /* a piece of a body that is handed out: parser->piece; feed the rest, even if … */
    HTTP_MESSAGE,    /* a whole one: take parser->message away, set another, feed the rest */
    HTTP_FAILED      /* parser->failure and ->why; the parser takes no more */
};

struct http_parser {
    llhttp_t ll;
    struct http_message *message; /* where the current one goes; the owner sets it before bytes come */
    size_t max_body_bytes;
    bool ask; /* stop with HTTP_HEAD_READ where a body follows: http_parser_body says what to do with it */
    bool hand_out;    /* this body comes piece by piece (HTTP_BODY_PIECE) instead of into message->body */
    struct str piece; /* HTTP_BODY_PIECE: into the bytes fed */
    uint64_t body_max, body_bytes; /* of this message: allowed, come */
    enum http_progress stopped;    /* why the last callback paused */
    uint8_t span;                  /* what the current header bytes are: name or value */
    bool begun;                    /* bytes of a message have been seen */
    enum http_failure failure;
    const char *why; /* static text for a failure */
    /* where the look at the head's raw lines stands */
    uint32_t line_bytes, lines, blank_lines;
    char last_byte;
    bool head_seen;
    /* chunked: bytes since the last one of a body, up to `framed_to` of those fed */
    uint32_t framing_bytes;
    const char *framed_to;
};

void http_parser_init(struct http_parser *p, size_t max_body_bytes);
/* Between HTTP_HEAD_READ and the next feed: how much body there may be, and whether it is handed out or
 * collected. False: the head announces more (nothing has changed). */
bool http_parser_body(struct http_parser *p, uint64_t max_bytes, bool hand_out);
enum http_progress http_parser_feed(struct http_parser *p, const char *data, size_t n, size_t *ret_used);

/* ---- answers
 * -------------------------------------------------------------------------------------------------- */

const char *http_reason(int status);
/* IMF-fixdate (RFC 9110, 5.6.7) into ret[30]. */
void http_date(int64_t unix_s, char ret[30]);

#endif
