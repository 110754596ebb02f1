/* Streamed messages on the wire: the calls of a client (WebSocket message or line of a body) to the engine,
 * and its answers as JSON. */
#ifndef KALAMDB_API_STREAM_H
#define KALAMDB_API_STREAM_H

#include "api/client_message.h"

/* stream_begin, append, stream_end? */
bool stream_call_is(struct str type);
/* Calls the engine. NULL, or what is wrong with the message, which was not passed on then. */
const char *stream_call(struct kalamdb_producer *p, const struct kalamdb_caller *caller,
    const struct client_message *m, uint64_t tag);
/* The event as a JSON object; `id` (ptr NULL: none) is that of the message that it answers. */
void stream_event_json(struct buf *b, const struct kalamdb_stream_event *ev, struct str id);
/* An error that answers a message which was not passed on, or the part of one that could be read. */
void stream_refusal_json(struct buf *b, const char *code, const char *why, const struct client_message *m);
/* The code of an error message (contract, section 3). */
const char *stream_error_code(kalamdb_code code);

/* Ids of messages that are not answered yet, by tag. Zeroed: empty. */
struct stream_ids {
    struct stream_id *first;
    uint64_t next; /* tag; 0 is nobody's */
    size_t count;
};
#define STREAM_IDS_MAX 10000
/* The tag for a message with this id (ptr NULL: none); 0: too many wait, or out of memory. */
uint64_t stream_ids_add(struct stream_ids *ids, struct str id);
/* Takes it out, copied into the arena; ptr NULL: none. */
struct str stream_ids_take(struct stream_ids *ids, uint64_t tag, struct arena *arena);
void stream_ids_release(struct stream_ids *ids);

/* ---- of a session (session_stream.c) ---- */

void session_stream(struct session *s, const struct client_message *m);
/* The session ends: what it streams is interrupted. */
void session_stream_close(struct session *s);
/* Sends what the engine answered, as far as the socket takes it. */
void session_stream_pump(struct session *s);
/* One more signal now? */
bool session_may_signal(struct session *s);

#endif
