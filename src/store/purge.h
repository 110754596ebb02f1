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

struct grave;
struct pins {
    pthread_mutex_t mutex;
    struct pin ring;      /* oldest first */
    uint64_t clock;       /* +1 with each burial */
    struct grave *graves; /* oldest first */
    struct grave **last;
    const struct os *os;
    pthread_cond_t left; /* a pin left while somebody waits in pins_quiesce */
    int quiescing;
    int unlinking;  /* batches of graves that are off the list and not yet unlinked */
    int quiesce_ms; /* how long a purge waits for older snapshots */
};
#define QUIESCE_MS 2000

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
/* Waits until every snapshot opened before is closed and what that let go is unlinked, at most quiesce_ms;
 * false: one is still open, and what it sees outlasts a purge. */
bool pins_quiesce(struct pins *p);

/* Drives deleted and overwritten bytes out of RocksDB: flushes memtables (which ends the use of the WALs that
 * hold them), drops these WALs, and compacts everything to the bottommost level. A snapshot that is open
 * meanwhile keeps what it can see alive. Blocks for as long as the compaction takes; any thread. */
enum err purge_hot(struct store *s, struct errctx *ec) CHECKED;
/* The table files of the hot tier, to be asked after a purge whether those of before are gone: RocksDB
 * removes what it has replaced a little later, and later still while a backup or an iterator is open. Zeroed:
 * empty. */
struct purge_files {
    size_t n, cap;
    uint64_t *numbers; /* of table files; heap */
};
enum err purge_files_note(struct store *s, struct purge_files *ret, struct errctx *ec) CHECKED;
/* Waits until none of them is there but what is in use, at most wait_ms. */
enum err purge_files_gone(struct store *s, const struct purge_files *before, int wait_ms, bool *ret_gone,
    struct errctx *ec) CHECKED;

#endif
