/* Pins and removal: files that snapshots may still read stay; bytes that were deleted go.
 *
 * Every snapshot carries a struct pin from open to close. A file replaced by consolidation is buried with
 * pins_bury(), after the commit that took it out of the manifest; it is unlinked when the last snapshot
 * opened before its burial is gone. Snapshots opened later cannot name it.
 *
 * Threading: pins_* any thread, one mutex held for a few instructions. A few files are unlinked by whoever
 * ends their wait, outside of the mutex; many at once (a conversation's) by a thread of their own, so that
 * neither the committer nor an event loop waits for a file system. */
#ifndef KALAMDB_STORE_PURGE_H
#define KALAMDB_STORE_PURGE_H

#include "store/store.h"
#include <pthread.h>

struct pin {
    struct pin *prev, *next;
    uint64_t since; /* the burial clock when it was entered */
};

struct cold_cache;
struct grave;
struct pins {
    pthread_mutex_t mutex;
    struct pin ring;      /* oldest first */
    uint64_t clock;       /* +1 with each burial */
    struct grave *graves; /* oldest first */
    struct grave **last;
    const struct os *os;
    struct cold_cache *cache; /* lets go of what is unlinked; NULL: none */
    pthread_cond_t left;      /* a pin left while somebody waits in pins_quiesce */
    int quiescing;
    int unlinking;     /* batches of graves that are off the list and not yet unlinked */
    int purge_wait_ms; /* how long one purge waits for readers */
};
#define PURGE_WAIT_MS 45000 /* more than a statement and a slow subscriber may take (query_timeout_ms …) */

void pins_init(struct pins *p, const struct os *os);
/* No pin may be entered any more: unlinks all graves. */
void pins_release(struct pins *p);
/* Before the RocksDB snapshot is taken: a burial in between must find the pin. */
void pin_enter(struct pins *p, struct pin *pin);
/* May unlink files. */
void pin_leave(struct pins *p, struct pin *pin);
/* Unlinks the file now or when the last pin that may see it leaves. The path is copied; out of memory leaves
 * the file to the manifest's garbage list, which the next open clears. */
void pins_bury(struct pins *p, const char *path);
/* The same for many: NUL-terminated paths, the NULs counted, each behind its length (buf_lstr). */
void pins_bury_all(struct pins *p, struct str paths);
/* Unlinks a file, and the folder of a group's files with the last of them: its name is the conversation's.
 * Who is about to put a file there makes it again. */
void pins_unlink(const struct os *os, const char *path);
/* Does the file wait for its removal? Waits for removals under way: where the answer is no, and the file was
 * buried before, it is gone. */
bool pins_buried(struct pins *p, const char *path);
/* A moment, for pins_quiesce. */
uint64_t pins_mark(struct pins *p);
/* Waits until every snapshot opened before that moment is closed and what that let go is unlinked, at most
 * wait_ms; false: one is still open, and what it sees outlasts a purge. */
bool pins_quiesce(struct pins *p, uint64_t mark, int wait_ms);

/* Removes deleted and overwritten bytes of committed changes from the disk, RocksDB's logs included
 * (purge_hot.c): when it returns ERR_OK, every file that held some is unlinked. Waits for whoever reads what
 * was there before, at most pins.purge_wait_ms, besides the time that the compaction takes. Any thread but
 * the committer, without locks.
 * UNAVAILABLE: somebody still reads (to be tried again; the message is for people), the server stops, or
 * writes are stopped. */
enum err purge_run(struct store *s, struct errctx *ec) CHECKED;

/* Tests: called between compaction and the wait for files. */
struct purge_hook {
    void (*compacted)(void *arg);
    void *arg;
};

#endif
