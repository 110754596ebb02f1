/* The key ring: a folder outside the database, with a fixed place for the key of every partition.
 *
 *   ring            what the ring is: its random id, a proof that a master key is its own, the number of the
 *                   wrapping that is in force
 *   runs            32 bytes for each opening: u32 number | 16 random bytes | 4 zero | 8 bytes of checksum
 *   000012.ring     4,096 slots of 128 bytes, for the partitions from 12 × 4,096 on; under the third master
 *                   key (wrapping 2) it is called 000012-2.ring
 *
 *   slot            u32 generation | u8 state | 3 zero | 16 bytes of salt | wrapped key 48 | 48 zero |
 *                   8 bytes of checksum
 *
 * A slot never crosses a sector of 512 bytes. All zero: no key. The wrapping key of a slot is derived from
 * the master key, ring, partition, generation and salt, so it wraps one key only. A checksum covers ring and
 * partition: a slot copied to another place is damaged. One that is torn belongs to a partition that nobody
 * wrote to, because keys are durable before anything that needs them; making the key again mends it.
 *
 * A key is destroyed by writing its segment anew without it; the old file is overwritten there before its
 * last descriptor is closed. How all are wrapped under another master key: ring_rotate.c.
 * Threading: any thread. */
#ifndef KALAMDB_VAULT_RING_H
#define KALAMDB_VAULT_RING_H

#include "vault/vault.h"

#define RING_SEGMENT_SLOTS 4096
#define RING_SLOT_BYTES 128
#define RING_RUN_BYTES 16

struct ring;
/* Opens or makes it, and begins a run: its number and id are durable. Errors as vault_open. */
enum err ring_open(const struct vault_config *cfg, struct ring **ret, struct errctx *ec) CHECKED;
void ring_close(struct ring *r);
const uint8_t *ring_id(const struct ring *r);
/* When the master key was changed last, and a number of the one before. */
struct ring_history {
    int64_t rotated_us; /* 0: never */
    uint8_t before[VAULT_CHECK_BYTES];
};
bool ring_memory_locked(const struct ring *r);
/* The run of this opening, from 1. */
uint32_t ring_run(const struct ring *r);
/* The id of a run. CORRUPT: there is no such run, or its record is damaged. */
enum err ring_run_id(
    const struct ring *r, uint32_t run, uint8_t ret[RING_RUN_BYTES], struct errctx *ec) CHECKED;

/* A partition's key, of the generation (0: the newest). NOT_FOUND: destroyed. CORRUPT: there is none, it is
 * damaged, or of another generation. */
enum err ring_key(struct ring *r, uint64_t owner, uint32_t generation, uint32_t *ret_generation,
    uint8_t ret[VAULT_KEY_BYTES], struct errctx *ec) CHECKED;
bool ring_has(struct ring *r, uint64_t owner);
bool ring_is_destroyed(struct ring *r, uint64_t owner);
/* As vault_key_make, vault_flush, vault_key_destroy. *ret_new: it did not exist. */
enum err ring_make(struct ring *r, uint64_t owner, bool *ret_new, struct errctx *ec) CHECKED;
enum err ring_flush(struct ring *r, struct errctx *ec) CHECKED;
enum err ring_destroy(struct ring *r, uint64_t owner, bool *ret_existed, struct errctx *ec) CHECKED;

/* As vault_rotate_master and vault_ring_state. */
enum err ring_rotate(struct ring *r, const uint8_t master[VAULT_KEY_BYTES], struct vault_rotation *ret,
    struct errctx *ec) CHECKED;
void ring_state(struct ring *r, struct vault_ring_state *ret);

#endif
