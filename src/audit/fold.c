#include "audit/fold.h"
#include <stdlib.h>

#define TEXTS 9

struct fold_entry {
    struct fold_entry *next;
    const char *event; /* a literal */
    uint64_t count;    /* beyond the first */
    uint32_t lens[TEXTS];
    char bytes[];
};

static void texts_of(const struct audit_record *r, struct str ret[TEXTS])
{
    const struct str all[TEXTS] = {
        r->sub, r->role, r->jti, r->address, r->user, r->conversation, r->token, r->target, r->outcome};
    memcpy(ret, all, sizeof all);
}

static bool same(const struct fold_entry *e, const struct audit_record *r, const struct str texts[TEXTS])
{
    const char *p = e->bytes;
    if (strcmp(e->event, r->event) != 0)
        return false;
    for (int i = 0; i < TEXTS; i++) {
        if (!str_eq(str_n(p, e->lens[i]), texts[i]))
            return false;
        p += e->lens[i];
    }
    return true;
}

bool fold_first(struct fold *f, const struct audit_record *r, int64_t now_us)
{
    struct str texts[TEXTS];
    size_t size = 0;
    uint64_t hash = str_hash(str_c(r->event));
    texts_of(r, texts);
    for (int i = 0; i < TEXTS; i++) {
        hash = hash * 31 + (texts[i].len > 0 ? str_hash(texts[i]) : 0);
        size += texts[i].len;
    }
    struct fold_entry **bucket = &f->buckets[hash % (sizeof f->buckets / sizeof *f->buckets)];
    for (struct fold_entry *e = *bucket; e != NULL; e = e->next) {
        if (same(e, r, texts)) {
            e->count++;
            return false;
        }
    }
    if (f->since_us == 0)
        f->since_us = now_us;
    struct fold_entry *e = f->n < AUDIT_FOLD_MAX ? malloc(sizeof *e + size) : NULL;
    if (e == NULL) { /* so many kinds in one minute: somebody makes them up */
        f->others++;
        return false;
    }
    *e = (struct fold_entry){.next = *bucket, .event = r->event};
    char *p = e->bytes;
    for (int i = 0; i < TEXTS; i++) {
        e->lens[i] = (uint32_t)texts[i].len;
        if (texts[i].len > 0)
            memcpy(p, texts[i].ptr, texts[i].len);
        p += texts[i].len;
    }
    *bucket = e;
    f->n++;
    return true;
}

static void give(const struct fold_entry *e,
    void (*fn)(void *arg, const struct audit_record *r, uint64_t count), void *arg)
{
    struct str t[TEXTS];
    const char *p = e->bytes;
    for (int i = 0; i < TEXTS; i++) {
        t[i] = str_n(p, e->lens[i]);
        p += e->lens[i];
    }
    fn(arg,
        &(struct audit_record){.event = e->event,
            .sub = t[0],
            .role = t[1],
            .jti = t[2],
            .address = t[3],
            .user = t[4],
            .conversation = t[5],
            .token = t[6],
            .target = t[7],
            .outcome = t[8]},
        e->count);
}

void fold_end(struct fold *f, int64_t now_us, bool now,
    void (*fn)(void *arg, const struct audit_record *r, uint64_t count), void *arg)
{
    if (f->since_us == 0 || (!now && now_us - f->since_us < AUDIT_FOLD_S * INT64_C(1000000)))
        return;
    for (size_t i = 0; i < sizeof f->buckets / sizeof *f->buckets; i++) {
        for (struct fold_entry *e = f->buckets[i], *next; e != NULL; e = next) {
            next = e->next;
            if (e->count > 0)
                give(e, fn, arg);
            free(e);
        }
        f->buckets[i] = NULL;
    }
    if (f->others > 0)
        fn(arg, &(struct audit_record){.event = "others"}, f->others);
    f->n = 0;
    f->others = 0;
    f->since_us = 0;
}

void fold_release(struct fold *f)
{
    for (size_t i = 0; i < sizeof f->buckets / sizeof *f->buckets; i++) {
        for (struct fold_entry *e = f->buckets[i], *next; e != NULL; e = next) {
            next = e->next;
            free(e);
        }
        f->buckets[i] = NULL;
    }
}
