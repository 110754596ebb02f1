/* An engine for the server's tests: answers by the words of the SQL, keeps a log that subscriptions follow.
 *
 *   sync TEXT      answers before kalamdb_exec_async returns      async TEXT     from another thread
 *   hang           until cancelled (then TIMEOUT)                 big N          N bytes
 *   fail           SYNTAX_ERROR with position, detail, hint       internal       INTERNAL
 *   unavailable    UNAVAILABLE                                    who            caller, role, durability
 *   params         kinds and values of the parameters */
#ifndef FAKE_ENGINE_H
#define FAKE_ENGINE_H

#include "kalamdb.h"
#include "kalamdb_admin.h"

struct kalamdb *fake_open(void);
void fake_close(struct kalamdb *db);
/* One more change in everybody's log; returns its seq. */
uint64_t fake_publish(struct kalamdb *db, const char *json);
void fake_publish_conversation(struct kalamdb *db, const char *json);
/* Every subscription's next event is CLOSED. */
void fake_end_subscriptions(struct kalamdb *db, kalamdb_code code);
int fake_subscriptions(struct kalamdb *db);
int fake_hanging(struct kalamdb *db);
int fake_cancelled(struct kalamdb *db);
int fake_live_changes(struct kalamdb *db); /* references the server holds, beyond the log's */
/* What hangs answers as if it had worked. */
void fake_release_hanging(struct kalamdb *db);
void fake_set_writable(struct kalamdb *db, bool writable);
int fake_uploads(void); /* begun, neither finished nor aborted */
/* Waits for hanging or subscription counts to become n. */
bool fake_wait(struct kalamdb *db, int (*count)(struct kalamdb *db), int n);

#endif
