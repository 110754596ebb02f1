/* What an erased user sent to groups, in the other members' tables. */
#ifndef KALAMDB_ENGINE_ERASE_SENT_H
#define KALAMDB_ENGINE_ERASE_SENT_H

#include "engine/engine.h"
#include "store/erase.h"

/* Changes every copy that somebody else holds, in either tier, as e->sent (enum kalamdb_erase_sent) says; may
 * be repeated. *ret_users (heap, the caller's, also after an error): whose tables changed. */
enum err erase_sent(struct kalamdb *db, const struct erasure *e, uint64_t **ret_users, size_t *ret_n,
    struct errctx *ec) CHECKED;

#endif
