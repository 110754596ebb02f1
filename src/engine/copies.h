/* Looking for other members' copies in their files (chat.h: struct chat_copies). */
#ifndef KALAMDB_ENGINE_COPIES_H
#define KALAMDB_ENGINE_COPIES_H

#include "engine/read.h"

/* Answers every open question, a few users to a statement; `conversation_id` is the one group's that all are
 * about, or "". Those that a consolidation overtakes are asked again
 * by the next commit: each round leaves fewer. On a job thread. */
enum err copies_answer(
    struct kalamdb_query *q, struct chat_copies *copies, struct str conversation_id) CHECKED;

#endif
