/* Erasure of users: nothing of one is left in any file or log, and their tokens are void.
 *
 *   store_erase_begin   ONE commit: the id loses its number (whoever comes by that id later is somebody
 *         ↓             else: an empty partition, another feed), its tokens are void, the record says so
 *   store_erase_key     the user's data key is destroyed: their values and files are noise from here on
 *         ↓
 *      [engine]         what they sent to groups, in other users' tables
 *         ↓
 *   store_erase_rows    the partition's keys, in chunks; files and blobs
 *         ↓
 *   store_erase_finish  orphans, log files, table files; the record becomes the receipt
 *
 * Every step may be repeated: what a crash interrupted goes on with the step after store_erase_begin. An
 * erased partition keeps its head, with an empty user id, until its last chunk: it takes no writes (txn_entry
 * says NOT_FOUND), and consolidation passes it by.
 *
 * CATALOG_ERASED: u8 format (1) | u8 state (1: finished) | zigzag erased_at_us | varint user_no, messages,
 * files, bytes | u8 what becomes of what they sent.
 *
 * Threading: store_token_void and store_erasures any thread; the steps one thread at a time, not the
 * committer. */
#ifndef KALAMDB_STORE_ERASE_H
#define KALAMDB_STORE_ERASE_H

#include "store/group.h"

struct erasure {
    struct str user_id; /* the caller's bytes */
    uint64_t user_no;   /* of the partition that goes */
    int64_t erased_at_us;
    bool finished;
    bool begun;   /* by the very call that gave it */
    uint8_t sent; /* the caller's word for what becomes of sent messages; kept, not read */
    uint64_t messages, files, bytes;
};

/* Ends a present member's membership in a group, as when leaving. */
typedef enum err erase_leave_fn(struct txn *txn, struct group *g, struct member *m, struct errctx *ec);
/* Destroys the user's key, after which nothing of the partition can be read, in a file, a log, or a backup;
 * right after store_erase_begin, and again wherever the erasure is gone on with. */
enum err store_erase_key(struct store *s, const struct erasure *e, struct errctx *ec) CHECKED;
/* After a restore: begins the erasure of everybody whose key was destroyed since the backup was made. Before
 * anybody writes. */
enum err store_erase_lost(struct store *s, uint8_t sent, erase_leave_fn *leave, struct errctx *ec) CHECKED;
/* Begins, or finds the erasure that began before and after which the user did not come back (finished, or to
 * be gone on with): *ret either way. NOT_FOUND: never was a user. */
enum err store_erase_begin(struct store *s, struct str user_id, uint8_t sent, erase_leave_fn *leave,
    struct erasure *ret, struct errctx *ec) CHECKED;
/* Calls fn for each group that the user was ever in, with its conversation's id: read from the partition, so
 * before store_erase_rows. */
enum err store_erase_groups(struct store *s, const struct erasure *e,
    enum err (*fn)(void *arg, uint64_t group_no, struct str conversation_id, struct errctx *ec), void *arg,
    struct errctx *ec) CHECKED;
/* Who else is or was in a group, gone ones included; heap, with their ids behind. */
struct erase_holder {
    uint64_t user_no;
    bool copying; /* history is being copied to them */
    struct str user_id;
};
enum err store_erase_holders(
    struct store *s, uint64_t group_no, struct erase_holder **ret, size_t *ret_n, struct errctx *ec) CHECKED;
/* Forgets what the user's keys for idempotency in a group led to. */
enum err store_erase_client_ids(struct store *s, uint64_t group_no, struct str from, size_t n,
    const struct str *client_ids, struct errctx *ec) CHECKED;
/* Consolidates these users' tables, so that no file keeps what was changed in them. */
enum err store_erase_settle(struct store *s, const uint64_t *users, size_t nusers, struct errctx *ec) CHECKED;
/* Deletes the partition and its files. UNAVAILABLE when the server stops. */
enum err store_erase_rows(struct store *s, struct erasure *e, struct errctx *ec) CHECKED;
/* Waits until no snapshot shows the erased any more; drives their bytes out of RocksDB; records that it is
 * done. *e becomes what the receipt says. */
enum err store_erase_finish(struct store *s, struct erasure *e, struct errctx *ec) CHECKED;
/* Calls fn for each erasure that has begun and not finished, until it says no. */
enum err store_erase_unfinished(struct store *s,
    enum err (*fn)(void *arg, const struct erasure *e, struct errctx *ec), void *arg,
    struct errctx *ec) CHECKED;

/* Tests: where the work may stop as in a crash (return false). */
enum erase_step {
    ERASE_BEGUN,
    ERASE_KEYLESS,
    ERASE_SETTLED,
    ERASE_CHUNK,
    ERASE_FILES,
    ERASE_ROWS,
    ERASE_PURGED
};
struct erase_hook {
    bool (*step)(void *arg, enum erase_step step);
    void *arg;
};
void store_erase_set_hook(struct store *s, const struct erase_hook *hook);

/* ---- who is erased, in memory (erased.c) -------------------------------------------------------------- */

/* Is a token of this user, issued then (INT64_MIN: it does not say), void because the user was erased? */
bool store_token_void(struct store *s, struct str user_id, int64_t issued_s);
/* When the id was last erased; 0: never. Long work (an import, an upload) keeps what it was when it began:
 * where it is another at the end, the work was asked for before the erasure and must not bring the user back.
 */
int64_t store_erased_us(struct store *s, struct str user_id);
/* How often somebody was erased since open, plus one: a void token shows only after a change. */
uint64_t store_erasures(struct store *s);

#endif
