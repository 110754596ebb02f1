/* One JSON object from a client: a WebSocket message, or a line of a streamed body. What it does not know it
 * passes over. Strings borrow from the text or live in the arena. */
#ifndef KALAMDB_API_CLIENT_MESSAGE_H
#define KALAMDB_API_CLIENT_MESSAGE_H

#include "api/session.h"

struct client_message {
    struct str type, token, id, sub_id;
    struct subscribe_request subscribe; /* conversationId and userId of streams and signals, too */
    struct str conversation_type, from, client_msg_id, text, kind;
    struct str metadata, data; /* JSON as written; ptr NULL: none */
    bool has_msg_id, has_offset;
    int64_t msg_id, offset;
};
/* NULL, or what is wrong; `id` is read wherever possible. The text must be valid UTF-8. */
const char *client_message_read(struct str text, struct arena *arena, struct client_message *m);

#endif
