/* Counting what is alike within a minute. Under its owner's lock; pure but for memory. */
#ifndef KALAMDB_AUDIT_FOLD_H
#define KALAMDB_AUDIT_FOLD_H

#include "audit/audit.h"

struct fold_entry;
struct fold {
    struct fold_entry *buckets[1024];
    size_t n;
    uint64_t others;  /* that came when AUDIT_FOLD_MAX kinds were being counted */
    int64_t since_us; /* of the minute; 0: nothing is being counted */
};

/* Is this the first of its kind in the minute, to be recorded as it is? Else it is counted. */
bool fold_first(struct fold *f, const struct audit_record *r, int64_t now_us);
/* When the minute is over (or `now`): gives fn a record for each kind that was counted, and forgets them. */
void fold_end(struct fold *f, int64_t now_us, bool now,
    void (*fn)(void *arg, const struct audit_record *r, uint64_t count), void *arg);
void fold_release(struct fold *f);

#endif
