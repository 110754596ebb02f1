/* multipart/form-data (RFC 7578 on RFC 2046) out of bytes as they come, sans-I/O and without allocation: a
 * fixed struct, whatever is sent. Stricter than the RFCs where nobody needs the freedom: no folded header
 * lines, no NUL, CR or LF in them, no transfer encodings that change bytes; `filename*` is ignored, as RFC
 * 7578, 4.2 asks. One thread at a time.
 *
 * Decoding is pull-style: multipart_next takes what it needs from [*p, end) and says what came; call it again
 * until MULTIPART_MORE. The same events come whatever the bytes are cut into, but for where one run of data
 * is split:
 *
 *   (PART DATA* PART_END)* END        or BROKEN at any point, after which nothing more comes */
#ifndef KALAMDB_NET_MULTIPART_H
#define KALAMDB_NET_MULTIPART_H

#include "base/str.h"

#define MULTIPART_BOUNDARY_BYTES_MAX 70 /* RFC 2046, 5.1.1 */
#define MULTIPART_PARTS_MAX 64
#define MULTIPART_HEADERS_MAX 16 /* of one part */
#define MULTIPART_HEAD_BYTES_MAX 4096

enum multipart_kind {
    MULTIPART_MORE,     /* all input taken */
    MULTIPART_PART,     /* a part begins: name, filename, content_type of the multipart */
    MULTIPART_DATA,     /* a piece of it, not empty; lives as long as the input, or until the next call */
    MULTIPART_PART_END, /* it is whole */
    MULTIPART_END,      /* the closing boundary came; what follows is an epilogue that means nothing */
    MULTIPART_BROKEN    /* multipart->why, a static text */
};

struct multipart {
    /* of the part under way; into `head` */
    struct str name;         /* UTF-8, 1 to 255 bytes */
    struct str filename;     /* ptr NULL: it is no file; UTF-8 */
    struct str content_type; /* as it stands; ptr NULL: none */
    const char *why;
    /* the parser's own */
    char delimiter[4 + MULTIPART_BOUNDARY_BYTES_MAX]; /* CR LF "--" boundary */
    uint8_t delimiter_len;
    uint8_t matched; /* bytes of the delimiter that have come */
    uint8_t given;   /* … of which so many did not come as data: the line break before the first byte */
    uint8_t state;
    bool in_part, cr_seen;
    uint16_t parts, headers, head_len, line_start;
    char head[MULTIPART_HEAD_BYTES_MAX];
};

/* From the value of Content-Type. NULL, or what is wrong with it. */
const char *multipart_init(struct multipart *m, struct str content_type);
enum multipart_kind multipart_next(
    struct multipart *m, const char **p, const char *end, struct str *ret_data);
/* Has the closing boundary come? A body that ends before it is not whole. */
bool multipart_complete(const struct multipart *m);

#endif
