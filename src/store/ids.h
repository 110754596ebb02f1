/* Message ids: 53 bits, so that a double holds them; 41 of milliseconds since 2025-01-01T00:00:00Z, 12 of
 * sequence.
 *
 * Strictly increasing whatever the clock does: an id is the clock's, or the last one plus one where the clock
 * stands still, steps back, or is outrun by a burst (which borrows from milliseconds to come). The last id is
 * persisted with every commit group that gave one, so a restart goes on above it. Committer only. */
#ifndef KALAMDB_STORE_IDS_H
#define KALAMDB_STORE_IDS_H

#include <stdint.h>

#define IDS_EPOCH_MS INT64_C(1735689600000)
#define IDS_SEQUENCE_BITS 12
#define IDS_MAX ((INT64_C(1) << 53) - 1)

struct ids {
    int64_t last; /* highest given; 0: none yet */
};

/* The next id at this wall clock, µs since 1970. At IDS_MAX (year 2094) it stays there. */
int64_t ids_next(struct ids *ids, int64_t now_us);
/* At open: past all ids that asynchronous writes of the last moments may have been told and a power cut took
 * back, also where the clock went backwards. */
void ids_leap(struct ids *ids, int64_t window_ms);
/* The current position: ids given from now on are above it, so a supplied one below it never collides with
 * them. */
int64_t ids_current(struct ids *ids, int64_t now_us);

#endif
