/* Walks a store and holds everything that can be checked against everything else that says the same:
 * checksums of the hot tier, of Parquet and content files; heads, counters and indexes against rows;
 * references against rows and records; members of groups against what their users have. Changes nothing.
 *
 * What cannot be seen: that a row which was deleted by right is missing, that a copy of a group's message
 * which its owner deleted is gone. */
#ifndef KALAMDB_STORE_VERIFY_H
#define KALAMDB_STORE_VERIFY_H

#include "base/err.h"

struct store;

struct verify_counts {
    uint64_t users, groups, rows, files, blobs; /* looked at */
    uint64_t findings;
};
/* `user_id`: ptr NULL where it is nobody's. `text` names the file or table, and says what is wrong. */
typedef void verify_found(void *arg, struct str user_id, const char *text);
/* One user, or all with the catalog (ptr NULL). What is damaged is told, and the walk goes on; an error is
 * that the walk itself could not: NOT_FOUND (no such user), UNAVAILABLE, NO_MEMORY. Blocks; any thread but
 * the committer. */
enum err store_verify(struct store *s, struct str user_id, verify_found *found, void *arg,
    struct verify_counts *ret, struct errctx *ec) CHECKED;

#endif
