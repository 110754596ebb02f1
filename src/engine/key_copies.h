/* Which copies of the key ring there are: `.kalamdb/key_copies`, a line with the folder of each that a backup
 * of this directory wrote, or that it was restored with. An erasure destroys the user's key in all of them,
 * and its receipt says that backups are covered only if it could. */
#ifndef KALAMDB_ENGINE_KEY_COPIES_H
#define KALAMDB_ENGINE_KEY_COPIES_H

#include "os/os.h"

#define KEY_COPIES_MAX 64 /* folders; more are an INVALID_REQUEST, with a text */

struct kalamdb;
/* Durable on return; before the copy is made. One thread at a time. `data`: the data directory. */
enum err key_copies_add(const struct os *os, const char *data, const char *dir, struct errctx *ec) CHECKED;
/* The partition's key goes from every copy. False, and in the log which and why: from some it did not. */
bool key_copies_forget(struct kalamdb *db, uint64_t user_no);

#endif
