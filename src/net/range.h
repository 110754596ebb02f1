/* Conditions and ranges of a GET or HEAD (RFC 9110, 13 and 14) on a file that never changes under its name:
 * one strong entity tag, no Last-Modified. Header values in, decision out. Pure functions. */
#ifndef KALAMDB_NET_RANGE_H
#define KALAMDB_NET_RANGE_H

#include "base/str.h"

struct range_request { /* values of the headers; ptr NULL: absent */
    struct str if_match, if_none_match, if_range, range;
};
struct range_answer {
    int status;              /* 200, 206, 304, 412, 416 */
    uint64_t offset, length; /* of 200 and 206: what to send */
};
/* `etag` with its quotes. What is malformed is ignored, as 14.2 asks, and so are several ranges at once: the
 * whole is sent. */
struct range_answer range_decide(const struct range_request *r, struct str etag, uint64_t size);

#endif
