/* The keys that seal values, at hand: derived ones by partition, generation and run, and the expanded ones
 * (4 KiB each) of those used last. All of it in secret memory (secret.h).
 *
 *   expanded, one place for each hash ──miss 0.2 µs──► derived, in sets of four ──miss──► the ring
 *
 * An expanded key that is in use stays as it is: users are counted, and take no lock while they seal.
 * Threading: any thread, but for new and free. */
#ifndef KALAMDB_VAULT_CONTEXTS_H
#define KALAMDB_VAULT_CONTEXTS_H

#include "vault/crypt.h"
#include "vault/ring.h"

struct contexts;
struct contexts *contexts_new(struct ring *ring); /* borrowed; NULL: out of memory */
void contexts_free(struct contexts *c);           /* wipes; NULL allowed */
bool contexts_locked(const struct contexts *c);   /* its memory will not be swapped out */
uint64_t contexts_loads(struct contexts *c);      /* keys asked of the ring */

struct context_place;
/* One in use, for the time of one value: on the stack of whoever uses it, who takes no second one meanwhile.
 */
struct context {
    const struct aead *key;
    uint32_t generation;
    struct context_place *place; /* NULL: `own` is the key */
    struct aead own;
};
/* generation 0: the newest, to seal with. Errors as ring_key and ring_run_id. */
enum err context_take(struct contexts *c, uint64_t owner, uint32_t generation, uint32_t run,
    struct context *ret, struct errctx *ec) CHECKED;
void context_give(struct context *ctx);
/* The partition's keys are wiped, and asked of the ring again where they are wanted. Waits for values that
 * are being sealed or opened with them, not for longer. */
void contexts_forget(struct contexts *c, uint64_t owner);

#endif
