/* The other members' copies of messages that change in a group: found first, all of them, then changed in the
 * same commit. Within chat; on the committer. */
#ifndef KALAMDB_CHAT_COPIES_H
#define KALAMDB_CHAT_COPIES_H

#include "chat/rules.h"

/* A conversation during one apply. */
struct changing {
    struct conversation c;
    struct value read[CONV_NCOLUMNS]; /* its row before this statement */
    bool loaded;
    bool bounds_lost; /* its first or last message went */
};

struct copies;
/* Rights of ch->caller to change ch->rows, whose conversations are loaded, and where the other members'
 * copies are. FORBIDDEN; TOO_LARGE: over ch->copies_max; RETRY with ch->need_copies: files must be asked.
 * *ret is the txn's; NULL: no row is of a group. */
enum err copies_find(struct chat_change *ch, struct txn *txn, uint64_t user_no, const struct changing *all,
    struct copies **ret, struct errctx *ec) CHECKED;
/* The others' copies become what ch->rows say. NULL allowed, as below. */
enum err copies_update(struct copies *cs, struct errctx *ec) CHECKED;
/* The others' copies go. RETRY with ch->need_copies, too: bounds of conversations must be asked. */
enum err copies_delete(struct copies *cs, struct errctx *ec) CHECKED;

#endif
