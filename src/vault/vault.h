/* The vault: a key for every partition (a user's or a group's number), and the sealing of values under it.
 *
 *   master key ──wraps──► data key of a partition, in the ring (ring.h)
 *                             │ HKDF with the run's id
 *                             ▼
 *                         AES-256-GCM key of this partition in this run ──seals──► values
 *
 * A sealed value: u8 1 | varint generation of the key | u32 run | u64 counter | ciphertext | 16 bytes of tag.
 *
 * No (key, nonce) pair is ever used twice, whatever is copied, restored or torn: each opening of a ring is a
 * run with 128 random bits of its own, the key that seals depends on them, and within a run the nonce is a
 * counter that all partitions share. Two copies of one directory that are opened both are two runs.
 *
 * `struct vault *` NULL is encryption switched off: sealing and unsealing copy, the rest does nothing.
 * Threading: any thread, but for open and close. */
#ifndef KALAMDB_VAULT_VAULT_H
#define KALAMDB_VAULT_VAULT_H

#include "base/buf.h"
#include "base/err.h"
#include "os/os.h"

#define VAULT_KEY_BYTES 32
#define VAULT_RING_ID_BYTES 16
#define VAULT_TAG_BYTES 16
#define VAULT_CHECK_BYTES 8
/* What sealing adds at most: format, generation, run, counter, tag. */
#define VAULT_OVERHEAD_MAX (1 + 5 + 4 + 8 + VAULT_TAG_BYTES)

struct vault;
struct vault_config {
    const char *dir;           /* the ring's folder: <data>/.kalamdb/keys */
    const uint8_t *master_key; /* 32 bytes, copied */
    const struct os *os;
    bool existing; /* refuse to make a ring where there is none: NOT_FOUND */
};

/* Makes the ring if the folder has none. INVALID_REQUEST: the master key is another one; CORRUPT; IO. */
enum err vault_open(const struct vault_config *cfg, struct vault **ret, struct errctx *ec) CHECKED;
void vault_close(struct vault *v); /* wipes all keys; NULL allowed */
/* Which ring this is: what is sealed with one is not opened with another. */
void vault_ring_id(const struct vault *v, uint8_t ret[VAULT_RING_ID_BYTES]);

/* A key for the partition, in memory until flushed; one that exists stays. CONFLICT: it was destroyed, and
 * numbers are not given twice. */
enum err vault_key_make(struct vault *v, uint64_t owner, struct errctx *ec) CHECKED;
/* All keys made are durable; no-op when there is nothing new. After an error it may be called again. */
enum err vault_flush(struct vault *v, struct errctx *ec) CHECKED;
/* Durable on return; idempotent. */
enum err vault_key_destroy(struct vault *v, uint64_t owner, struct errctx *ec) CHECKED;
bool vault_key_exists(struct vault *v, uint64_t owner);
/* Can values be sealed for the partition? Errors as vault_seal. */
enum err vault_ready(struct vault *v, uint64_t owner, struct errctx *ec) CHECKED;
/* Was there one, and was it destroyed? Not where the ring merely knows nothing of the partition. */
bool vault_key_destroyed(struct vault *v, uint64_t owner);
/* Can `dir`, made when absent with mode 0700, take a copy of this ring? INVALID_REQUEST, CONFLICT: something
 * else lies there; IO. */
enum err vault_backup_check(struct vault *v, const char *dir, struct errctx *ec) CHECKED;
/* The ring as it is now into `dir`, in place of what is there of it: destroyed keys are gone from it, too. Of
 * the master key a copy goes there if `master_file` names its file; NULL: none, and one that lies there goes.
 * Errors as above. */
enum err vault_backup(
    struct vault *v, const char *dir, const char *master_file, size_t *ret_files, struct errctx *ec) CHECKED;
/* A partition's key goes from the copy in `dir`; the rest of it stays as it is. Durable on return;
 * idempotent. NOT_FOUND: there is no copy of this ring; IO. */
enum err vault_copy_forget(struct vault *v, const char *dir, uint64_t owner, struct errctx *ec) CHECKED;
/* Which ring's copy it is. NOT_FOUND: nobody's. */
enum err vault_copy_id(const char *dir, uint8_t ret[VAULT_RING_ID_BYTES], struct errctx *ec) CHECKED;
/* Such a copy becomes the ring of a data directory, and what it has of the master key the file `master_file`.
 * INVALID_REQUEST: it is none; IO. */
enum err vault_ring_restore(const struct os *os, const char *from, const char *to, const char *master_file,
    struct errctx *ec) CHECKED;
#define VAULT_COPY_MASTER "master.key" /* in a copy */

/* All keys are wrapped anew under another master key while the vault is in use; on OK it is in force, and no
 * file holds a key under the old one. A process that is killed meanwhile leaves a ring that opens with the
 * old one or the new one, never with both. CONFLICT: a rotation or a copy is under way; INVALID_REQUEST: it
 * is the key in use; UNAVAILABLE: the disk failed at the switch itself, and only the next opening will tell
 * which key is in force (keys are neither made nor destroyed until then, values go on); IO. *ret is filled on
 * errors, too. */
struct vault_rotation {
    uint64_t keys, segments;
    uint64_t damaged; /* slots that did not open under the old master key; they are as they were */
    bool switched;    /* an error came after it: the new key is in force, old wraps go at the next opening */
};
enum err vault_rotate_master(struct vault *v, const uint8_t master[VAULT_KEY_BYTES],
    struct vault_rotation *ret, struct errctx *ec) CHECKED;
struct vault_ring_state {
    bool rotating;
    uint64_t segments, segments_done; /* of the rotation under way */
    uint32_t rotations;               /* since the ring was made */
    int64_t rotated_us;               /* the last one; 0: never */
    uint8_t check[VAULT_CHECK_BYTES]; /* of the master key in force; tells nothing of it */
};
void vault_ring_state(struct vault *v, struct vault_ring_state *ret);

/* Appends to `out`. The key must be there: NOT_FOUND where it was destroyed. */
enum err vault_seal(struct vault *v, uint64_t owner, struct str aad, struct str plain, struct buf *out,
    struct errctx *ec) CHECKED;
/* Appends to `out`. CORRUPT, naming the partition: these are not the bytes that were sealed for this owner
 * with this aad; NOT_FOUND: its key was destroyed. */
enum err vault_unseal(struct vault *v, uint64_t owner, struct str aad, struct str sealed, struct buf *out,
    struct errctx *ec) CHECKED;
/* The same into `ret`, which has room for sealed.len bytes. */
enum err vault_unseal_into(struct vault *v, uint64_t owner, struct str aad, struct str sealed, char *ret,
    size_t *ret_len, struct errctx *ec) CHECKED;

/* 32 bytes from the kernel's generator. */
void vault_random_key(uint8_t ret[VAULT_KEY_BYTES]);
/* Zeroes in a way that a compiler keeps. */
void vault_wipe(void *p, size_t n);
/* A master key as people write it: 64 hex digits or base64 of 32 bytes; white space at the end does not
 * count. INVALID_REQUEST. */
enum err vault_parse_master_key(struct str text, uint8_t ret[VAULT_KEY_BYTES], struct errctx *ec) CHECKED;
/* The one in a file, where it may also be 32 raw bytes; with `make`, where there is no file, a new one is
 * written, mode 0600. NOT_FOUND, INVALID_REQUEST, IO. */
enum err vault_master_key_file(const char *path, bool make, const struct os *os, uint8_t ret[VAULT_KEY_BYTES],
    struct errctx *ec) CHECKED;

/* Zeroed before it goes; absent is fine. */
enum err vault_remove_key_file(const struct os *os, const char *path, struct errctx *ec) CHECKED;
/* `from` takes the place of `to`, which is zeroed once it is durable. */
enum err vault_replace_key_file(
    const struct os *os, const char *from, const char *to, struct errctx *ec) CHECKED;

struct vault_stats {
    uint64_t keys_made, keys_destroyed; /* since open */
    uint64_t sealed, unsealed;          /* values */
    uint64_t unseal_failures;           /* CORRUPT */
    uint64_t loads;                     /* keys unwrapped, because no context was kept */
    bool memory_locked;                 /* key memory cannot be swapped out */
};
void vault_stats(struct vault *v, struct vault_stats *ret); /* NULL: zeroes */

/* For the process that holds keys, first thing in main: no core dumps, no ptrace by its own user. */
void vault_harden_process(void);

#endif
