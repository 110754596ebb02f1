/* Changes on their way to subscribers. A batch is what one commit event or one read of storage gave; its
 * changes are handed out one by one, each reference keeps the whole batch.
 *
 * Threading: a batch is immutable once shared, but for its reference count and the JSON text of its changes,
 * which any thread may fill in. Ownership: changes_of_event and changes_new give one reference. */
#ifndef KALAMDB_LIVE_CHANGE_H
#define KALAMDB_LIVE_CHANGE_H

#include "live/live.h"

struct batch;
struct json_text;

struct live_change {
    struct batch *batch;
    enum change_op op;
    uint64_t seq;               /* 0: without a number; a signal's own number */
    int64_t msg_id;             /* batches read from storage only */
    struct str conversation_id; /* batches of commit events only */
    struct str row;
    struct json_text *_Atomic json;
};

struct batch {
    _Atomic int refs;
    bool has_conversations;
    uint32_t n, cap;
    uint64_t first_seq, last_seq; /* of the numbered changes; 0: there are none */
    size_t bytes;                 /* memory, with the JSON that is to come */
    struct commit_event *event;   /* or NULL */
    char *storage;                /* or NULL: rows copied out of storage */
    struct live_change changes[];
};

/* NULL: out of memory. Takes a reference to the event. */
struct batch *changes_of_event(struct commit_event *ev);

/* One signal; bytes are copied. NULL: out of memory. */
struct batch *changes_of_signal(uint64_t number, struct str conversation_id, struct str json);

/* A batch built from storage: new, add up to `cap` rows whose bytes go to `rows`, seal. */
struct batch *changes_new(uint32_t cap);
void changes_add(
    struct batch *b, struct buf *rows, enum change_op op, uint64_t seq, int64_t msg_id, struct str row);
/* Takes the bytes over. False, with nothing taken, when they failed to grow. */
bool changes_seal(struct batch *b, struct buf *rows);

static inline bool change_numbered(enum change_op op)
{
    return op <= CHANGE_DELETE;
}
static inline enum live_event_kind live_kind_of(enum change_op op)
{
    return op == CHANGE_CONVERSATION ? LIVE_CONVERSATION
           : op == CHANGE_APPEND     ? LIVE_APPEND
           : op == CHANGE_SIGNAL     ? LIVE_SIGNAL
                                     : LIVE_CHANGE;
}
static inline void changes_ref(struct batch *b)
{
    b->refs++;
}
void changes_unref(struct batch *b);
/* Does any change concern this conversation (ptr NULL: any)? Batches of commit events only. */
bool changes_match(const struct batch *b, struct str conversation_id);

#endif
