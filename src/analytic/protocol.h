/* What server and worker say to each other, as bytes. Sans-I/O; channel.c moves the frames and the
 * descriptors.
 *
 * A frame is u32 big-endian length of the body | u8 type | body. One REQUEST goes down with its descriptors
 * attached to its first byte; up come either ERROR, or COLUMNS, any number of ROWS, DONE. Then the next
 * REQUEST may follow. Neither side trusts the other: a worker runs users' SQL in a large C++ library and may
 * be anything after a bug, so every field is checked, and the decoders return ERR_CORRUPT instead of
 * asserting. Pure functions, any thread. */
#ifndef KALAMDB_ANALYTIC_PROTOCOL_H
#define KALAMDB_ANALYTIC_PROTOCOL_H

#include "analytic/analytic.h"

#define PROTO_VERSION 1
#define PROTO_HEADER_BYTES 5
#define PROTO_REQUEST_MAX (64u << 20)
#define PROTO_FRAME_MAX (256u << 20)
/* Linux passes 253 descriptors a message. */
#define PROTO_FDS_MAX 250
#define PROTO_INPUTS_MAX 64
#define PROTO_COLUMNS_MAX 4096

enum frame_type {
    FRAME_REQUEST = 1,
    FRAME_COLUMNS = 2,
    FRAME_ROWS = 3,
    FRAME_DONE = 4,
    FRAME_ERROR = 5,
};

struct frame_header {
    uint32_t body_bytes;
    enum frame_type type;
};
/* ERR_CORRUPT: no such type, or a body over the limit of its direction. */
enum err proto_header(const uint8_t bytes[PROTO_HEADER_BYTES], struct frame_header *ret) CHECKED;
/* A frame is written as begin, body, end; `at` is what begin returned. */
size_t proto_begin(struct buf *b, enum frame_type type);
void proto_end(struct buf *b, size_t at);

/* The request's descriptors in the order in which the decoder hands them out: per input rows_fd (unless -1)
 * and its files, then output_fd (ANALYTIC_PARQUET). Returns their number, or -1 when there are more than
 * PROTO_FDS_MAX. */
int proto_request_fds(const struct analytic_request *rq, int fds[PROTO_FDS_MAX]);
/* Appends the whole frame. */
void proto_put_request(struct buf *b, const struct analytic_request *rq);
/* Body of a REQUEST that came with nfds descriptors. Everything in ret lies in the arena or borrows from
 * body; file numbers in it are the descriptors' positions in the message, to be mapped by the caller. */
enum err proto_get_request(
    struct arena *arena, struct str body, int nfds, struct analytic_request *ret) CHECKED;

void proto_put_columns(struct buf *b, int n, const struct str *names, const enum value_type *types);
/* Into an empty rowset. */
enum err proto_get_columns(struct str body, struct rowset *ret) CHECKED;

/* A ROWS body is a run of values, row by row. */
void proto_put_value(struct buf *b, struct value v);
/* The values borrow from body, which must live as long as the rowset. A value whose type is not its column's
 * is ERR_CORRUPT; so is an incomplete row. */
enum err proto_get_rows(struct str body, struct rowset *rs) CHECKED;

struct proto_done {
    uint64_t rows; /* sent in all: a lost frame must not pass for a short result */
    bool truncated;
    bool retire; /* as in ERROR */
};
void proto_put_done(struct buf *b, struct proto_done done);
enum err proto_get_done(struct str body, struct proto_done *ret) CHECKED;

/* `retire`: the worker will not serve again (out of memory, a broken instance). */
void proto_put_error(struct buf *b, const struct errctx *ec, bool retire);
enum err proto_get_error(struct str body, struct errctx *ret, bool *ret_retire) CHECKED;

/* Between server and zygote: one fixed-size datagram (SOCK_SEQPACKET) each, FORK with the new worker's socket
 * attached, FORKED with its pidfd. FAILED carries text after
 * it; EXPELLED says that a worker made a system call that its cage has not. */
enum control_type {
    CONTROL_READY = 1,
    CONTROL_FAILED = 2,
    CONTROL_FORK = 3,
    CONTROL_FORKED = 4,
    CONTROL_FORK_FAILED = 5,
    CONTROL_EXPELLED = 6
};
#define CONTROL_BYTES 10
struct control {
    enum control_type type;
    uint32_t id; /* the worker's number, chosen by the server */
    uint32_t
        value; /* READY: version of Landlock around it, 0 without a cage; FORKED: pid; FORK_FAILED: errno */
};
void control_put(uint8_t bytes[CONTROL_BYTES], struct control c);
enum err control_get(struct str bytes, struct control *ret) CHECKED;

#endif
