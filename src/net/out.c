#include "net/out.h"
#include <stdlib.h>

#define SEGMENT_BYTES_MIN 512
#define SEGMENT_BYTES_MAX 16384

static void segment_free(struct out_segment *s)
{
    if (s->release != NULL)
        s->release(s->owner);
    free(s);
}

static void pop(struct out *o)
{
    struct out_segment *s = o->head;
    o->head = s->next;
    if (o->head == NULL)
        o->tail = NULL;
    o->bytes -= s->len;
    segment_free(s);
}

void out_release(struct out *o)
{
    while (o->head != NULL)
        pop(o);
}

static struct out_segment *push(struct out *o, size_t cap)
{
    struct out_segment *s = malloc(sizeof *s + cap);
    if (s == NULL) {
        o->failed = true;
        return NULL;
    }
    *s = (struct out_segment){.cap = cap, .ptr = s->bytes};
    if (o->tail != NULL)
        o->tail->next = s;
    else
        o->head = s;
    o->tail = s;
    return s;
}

char *out_reserve(struct out *o, size_t n, bool continues)
{
    struct out_segment *t = o->tail;
    /* A segment that continues another one may not start further messages: dropping works by segments. */
    bool fits = t != NULL && t->release == NULL && t->cap > 0 && !(o->locked && t == o->head) &&
                (!t->continues || continues) && (size_t)(t->bytes + t->cap - (t->ptr + t->len)) >= n;
    /* After a borrowed segment the rest of its message needs its own segment, marked as its continuation. */
    if (!fits || (continues && t->release != NULL)) {
        size_t cap = t == NULL ? SEGMENT_BYTES_MIN : SEGMENT_BYTES_MAX;
        if (continues)
            cap = n;
        t = push(o, cap > n ? cap : n);
        if (t == NULL)
            return NULL;
        t->continues = continues;
    }
    char *p = t->bytes + (t->ptr - t->bytes) + t->len;
    t->len += n;
    o->bytes += n;
    return p;
}

void out_copy(struct out *o, struct str s, bool continues)
{
    if (s.len == 0)
        return;
    char *p = out_reserve(o, s.len, continues);
    if (p != NULL)
        memcpy(p, s.ptr, s.len);
}

void out_borrow(struct out *o, struct str s, bool continues, void (*release)(void *owner), void *owner)
{
    struct out_segment *t = push(o, 0);
    if (t == NULL) {
        release(owner);
        return;
    }
    t->ptr = s.ptr;
    t->len = s.len;
    t->release = release;
    t->owner = owner;
    t->continues = continues;
    o->bytes += s.len;
}

int out_vectors(const struct out *o, struct iovec *v, int n, bool one_message)
{
    int i = 0;
    for (const struct out_segment *s = o->head; s != NULL && i < n; s = s->next) {
        if (one_message && s != o->head && !s->continues)
            break;
        if (s->len > 0)
            v[i++] = (struct iovec){.iov_base = (void *)(uintptr_t)s->ptr, .iov_len = s->len};
    }
    return i;
}

void out_advance(struct out *o, size_t n)
{
    while (o->head != NULL && n >= o->head->len) {
        n -= o->head->len;
        pop(o);
        o->begun = o->head != NULL && o->head->continues;
        if (n == 0)
            break;
    }
    if (o->head != NULL && n > 0) {
        o->begun = true;
        o->head->ptr += n;
        o->head->len -= n;
        o->bytes -= n;
    }
}

void out_drop_unstarted(struct out *o)
{
    struct out_segment *last = NULL;
    if ((o->begun || o->locked) && o->head != NULL) {
        last = o->head;
        while (last->next != NULL && last->next->continues)
            last = last->next;
    }
    struct out_segment *s = last != NULL ? last->next : o->head;
    if (last != NULL)
        last->next = NULL;
    else
        o->head = NULL;
    o->tail = last;
    while (s != NULL) {
        struct out_segment *next = s->next;
        o->bytes -= s->len;
        segment_free(s);
        s = next;
    }
}
