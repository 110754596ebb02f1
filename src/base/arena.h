/* Region allocator: many small allocations that die together. One thread at a time. At its cap, or out of
 * memory, arena_alloc returns NULL and arena_failed() stays true until clear: callers may check once at the
 * end of a build-up if every intermediate tolerates NULL, and must check before they write through a pointer.
 */
#ifndef KALAMDB_BASE_ARENA_H
#define KALAMDB_BASE_ARENA_H

#include "base/str.h"

struct arena_block;
struct arena {
    struct arena_block *head;
    size_t used_bytes; /* handed out since init or clear */
    size_t max_bytes;  /* cap */
    bool failed;
};

void arena_init(struct arena *a, size_t max_bytes);
/* Frees all but the first block. */
void arena_clear(struct arena *a);
void arena_release(struct arena *a);
/* 16-byte aligned, zeroed. `n` may be 0. */
void *arena_alloc(struct arena *a, size_t n);
/* n*size with overflow check. */
void *arena_array(struct arena *a, size_t n, size_t size);
/* Copies; the copy is also NUL-terminated. ptr NULL on failure. */
struct str arena_str(struct arena *a, struct str s);
struct str arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline bool arena_failed(const struct arena *a)
{
    return a->failed;
}

#endif
