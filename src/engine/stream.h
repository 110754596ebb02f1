/* Streamed messages while they are written: who writes which, what is durable of it, and the flush.
 *
 *   append ─→ text in memory ─→ dirty ─┐ one commit at a time takes all that is dirty: one chunk per stream
 *                                      ├─→ [flush] ─→ durable ─→ ACK to the producer; published by the store
 *   append ─→ …                     ───┘
 *
 *   phase      (unknown) ─append,end─→ LOADING ─→ RUNNING ─end, producer gone─→ CLOSING ─→ (unknown)
 *              begin ─────────────────────────────↗
 *
 * LOADING reads the record and, where the message is interrupted, opens it again; CLOSING commits its end or
 * its interruption. Requests that come meanwhile wait in the stream's queue.
 *
 * A flush that failed leaves its text in memory as not durable; the producer is told, and its next append has
 * it written again, at the same key: whatever the disk holds of the first attempt is overwritten.
 *
 * Threading: everything below under `lock`, which may be taken on the committer; taken before the store's
 * locks, never inside a callback of theirs. A producer's `wake` is called under it. */
#ifndef KALAMDB_ENGINE_STREAM_H
#define KALAMDB_ENGINE_STREAM_H

#include "chat/stream.h"
#include "engine/engine.h"

#define STREAMS_BUCKETS 4096
/* Open texts in memory, all together; an append that would pass it is refused. */
#define STREAMS_BYTES_MAX ((size_t)512 << 20)
/* Text that one flush takes; the rest waits for the next. */
#define STREAM_FLUSH_BYTES ((size_t)4 << 20)
/* Requests that wait for one stream. */
#define STREAM_REQUESTS_MAX 1024

#define STREAM_DELETED "the message was deleted"
#define STREAM_LEFT "the stream was interrupted when its user left the group"

enum stream_phase { PHASE_LOADING, PHASE_RUNNING, PHASE_CLOSING };

/* An append (text) or an end, waiting. One block. */
struct stream_request {
    struct stream_request *next;
    struct kalamdb_producer *producer; /* NULL: closed meanwhile */
    uint64_t tag, offset;
    enum role role;
    bool end;
    struct str caller, text; /* of an end: metadata, ptr NULL: none */
};

/* An answer on its way to the producer. */
struct producer_event {
    struct producer_event *next;
    struct stream *stream; /* of an ACK, while the stream is there: it may grow */
    struct kalamdb_stream_event event;
};

struct stream {
    struct stream *hash_next;
    int64_t msg_id;
    enum stream_phase phase;
    bool group, dirty, in_flush, interrupting;
    uint64_t home, lost_seen;
    struct str owner, author, conversation_id; /* author: the user id of whoever began it; one block */
    struct kalamdb_producer *producer;         /* NULL: nobody's */
    struct stream *own_next, **own_pprev;      /* of the producer */
    struct stream *dirty_next, *flush_next;
    struct buf text;
    size_t durable, flushing; /* flushing: what is durable when the flush under way succeeds */
    const char *gone;         /* in a flush: why it cannot be written any more; NULL: it can */
    struct producer_event *ack;
    struct stream_request *first, **last;
    size_t nrequests;
};

struct kalamdb_producer {
    struct kalamdb *db;
    void (*wake)(void *arg);
    void *arg;
    struct stream *streams;
    struct producer_event *first, **last;
    bool armed, closed;
    size_t refs;    /* the caller's, and one per begin or end under way */
    size_t waiting; /* requests of its in queues of streams */
};

struct streams {
    struct kalamdb *db;
    pthread_mutex_t lock;
    pthread_cond_t idle; /* `operations` became 0 */
    size_t operations;   /* commits and look-ups under way */
    bool closing;
    struct stream *buckets[STREAMS_BUCKETS];
    size_t count, bytes; /* of all texts */
    struct stream *dirty_first, **dirty_last;
    struct stream *flush_first; /* taken by the flush under way, by flush_next */
    bool flushing;
    struct commit_op flush;
};

/* Interrupts what a crash left open. */
enum err streams_open(struct kalamdb *db, struct errctx *ec) CHECKED;
/* Waits for what is under way; nothing new begins. Producers that are still open stay valid until closed. */
void streams_stop(struct kalamdb *db);
void streams_close(struct kalamdb *db);

/* Erasure: ends what the user writes, or has written in their conversations, and forgets whose it was.
 * Blocks; any thread but the committer. */
struct erasure;
enum err streams_erase(struct kalamdb *db, const struct erasure *e, struct errctx *ec) CHECKED;

/* ---- with the lock held ---- */

/* stream.c */
struct stream *stream_find(struct streams *ss, int64_t msg_id);
/* In phase LOADING, without a producer; NULL: out of memory. */
struct stream *stream_add(struct streams *ss, int64_t msg_id);
/* What the record says; false: out of memory. */
bool stream_describe(struct stream *st, const struct stream_record *r);
void stream_attach(struct stream *st, struct kalamdb_producer *p);
void stream_detach(struct stream *st);
/* What the request asks of a message whose stream ended with so many bytes. */
void stream_answer_ended(const struct stream *st, const struct stream_request *rq, uint64_t bytes);
/* The first, which waits no more. */
struct stream_request *stream_pop(struct stream *st);
/* To the end of the queue, which owns it from now on. */
void stream_push(struct stream *st, struct stream_request *rq);
enum err stream_allowed(
    const struct stream *st, enum role role, struct str caller, struct errctx *ec) CHECKED;
/* Requests that wait get `ec`. Not while it is in a flush. */
void stream_remove(struct streams *ss, struct stream *st, const struct errctx *ec);
/* RUNNING: answers what waited. A stream that nobody wants any more is interrupted, unless that has just
 * failed. */
void stream_run(struct streams *ss, struct stream *st, bool keep);
void producer_unref(struct kalamdb_producer *p);
void producer_tell(struct kalamdb_producer *p, const struct kalamdb_stream_event *event);
void producer_fail(struct kalamdb_producer *p, uint64_t tag, int64_t msg_id, const struct errctx *ec);
void stream_ack(struct stream *st);
void streams_begin_operation(struct streams *ss);
void streams_end_operation(struct streams *ss);

/* stream_flush.c */
void stream_make_dirty(struct streams *ss, struct stream *st);
void stream_make_clean(struct streams *ss, struct stream *st);

/* stream_ops.c */
/* LOADING: finds out what the message is. */
void stream_load(struct streams *ss, struct stream *st);
/* RUNNING → CLOSING. `metadata` (ptr NULL: none) is copied; `to` (NULL: nobody) is told. */
void stream_close(struct streams *ss, struct stream *st, bool interrupt, struct kalamdb_producer *to,
    uint64_t tag, struct str metadata);

#endif
