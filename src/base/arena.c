#include "base/arena.h"
#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define ARENA_BLOCK_BYTES 4096

struct arena_block {
    struct arena_block *next;
    size_t cap, used;
    alignas(16) char bytes[];
};

void arena_init(struct arena *a, size_t max_bytes)
{
    *a = (struct arena){.max_bytes = max_bytes};
}

void arena_clear(struct arena *a)
{
    if (a->head != NULL) {
        struct arena_block *b = a->head->next;
        while (b != NULL) {
            struct arena_block *next = b->next;
            free(b);
            b = next;
        }
        a->head->next = NULL;
        a->head->used = 0;
    }
    a->used_bytes = 0;
    a->failed = false;
}

void arena_release(struct arena *a)
{
    arena_clear(a);
    free(a->head);
    a->head = NULL;
}

void *arena_alloc(struct arena *a, size_t n)
{
    if (n > a->max_bytes || a->used_bytes > a->max_bytes - n) {
        a->failed = true;
        return NULL;
    }
    size_t need = (n + 15) & ~(size_t)15;
    struct arena_block *b = a->head;
    if (b == NULL || b->cap - b->used < need) {
        /* Doubling keeps the number of blocks logarithmic; a large piece gets a block of its own size. */
        size_t cap = b == NULL ? ARENA_BLOCK_BYTES : b->cap * 2 > (1u << 20) ? (1u << 20) : b->cap * 2;
        if (cap < need)
            cap = need;
        b = malloc(sizeof *b + cap);
        if (b == NULL) {
            a->failed = true;
            return NULL;
        }
        b->next = a->head;
        b->cap = cap;
        b->used = 0;
        a->head = b;
    }
    void *p = b->bytes + b->used;
    b->used += need;
    a->used_bytes += n;
    memset(p, 0, n);
    return p;
}

void *arena_array(struct arena *a, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        a->failed = true;
        return NULL;
    }
    return arena_alloc(a, bytes);
}

struct str arena_str(struct arena *a, struct str s)
{
    char *p = s.len == SIZE_MAX ? NULL : arena_alloc(a, s.len + 1);
    if (p == NULL)
        return STR_NULL;
    if (s.len > 0)
        memcpy(p, s.ptr, s.len);
    return str_n(p, s.len);
}

struct str arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
    if (p != NULL)
        vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p == NULL ? STR_NULL : str_n(p, (size_t)n);
}
