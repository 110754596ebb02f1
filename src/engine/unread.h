/* Counting unread messages for a read marker that moves to below the newest message. */
#ifndef KALAMDB_ENGINE_UNREAD_H
#define KALAMDB_ENGINE_UNREAD_H

#include "engine/modify_read.h"

/* For the rows of q->modify->update that set the owner's own read marker: fills `count` where the commit may
 * need it. Where that takes a worker, or more than visited_max rows, and `may_block` is false, *ret is not
 * FAST_DONE. */
enum err unread_count(
    struct kalamdb_query *q, size_t visited_max, bool may_block, enum fast_verdict *ret) CHECKED;

#endif
