/* What waits to be written to one connection: a list of segments, each holding whole messages (HTTP
 * responses, WebSocket frames), so that the unstarted ones can be dropped without breaking the stream. Small
 * messages are copied together; large shared bytes are referenced and let go when they were sent. Sans-I/O,
 * one thread. */
#ifndef KALAMDB_NET_OUT_H
#define KALAMDB_NET_OUT_H

#include "base/str.h"
#include <sys/uio.h>

struct out_segment {
    struct out_segment *next;
    const char *ptr; /* unsent bytes: into `bytes`, or borrowed */
    size_t len;
    size_t cap; /* of bytes */
    void (*release)(void *owner);
    void *owner;
    bool continues; /* belongs to the message of the segment before */
    char bytes[];
};

struct out {
    struct out_segment *head, *tail;
    size_t bytes; /* unsent */
    bool begun;   /* the head's message is partly sent */
    bool locked;  /* the head (and what continues it) is being written by the kernel's side: do not touch */
    bool failed;  /* out of memory: the stream has a hole, close it */
};

void out_release(struct out *o);
/* Room for a message of exactly n bytes that starts here (or continues the one before): write it at once.
 * NULL: out of memory. */
char *out_reserve(struct out *o, size_t n, bool continues);
void out_copy(struct out *o, struct str s, bool continues);
/* Appends without copying; `release(owner)` is called when sent or dropped, also on failure. */
void out_borrow(struct out *o, struct str s, bool continues, void (*release)(void *owner), void *owner);
/* Fills up to n vectors from the head on; with one_message only the head's message. */
int out_vectors(const struct out *o, struct iovec *v, int n, bool one_message);
/* n bytes have been sent. */
void out_advance(struct out *o, size_t n);
/* Drops every segment that has not begun to be sent. */
void out_drop_unstarted(struct out *o);

#endif
