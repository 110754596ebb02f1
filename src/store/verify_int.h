/* Between verify.c (the walk, groups, files, references) and verify_rows.c (one user's rows). */
#ifndef KALAMDB_STORE_VERIFY_INT_H
#define KALAMDB_STORE_VERIFY_INT_H

#include "store/cold.h"
#include "store/cold_input.h"
#include "store/verify.h"

struct verifier {
    struct store *s;
    struct store_view *view;
    verify_found *found;
    void *arg;
    struct verify_counts counts;
    struct str user_id;      /* of the walk's moment; ptr NULL: the catalog */
    struct verify_ref *refs; /* summed up over users; sorted once all are there */
    size_t nrefs, refs_cap;
};

/* A file that a user's rows name. */
struct verify_ref {
    char hash[16]; /* as in the key */
    uint64_t rows;
};

void verify_tell(struct verifier *v, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Damage becomes a finding about `what`, and OK; other errors stay. */
enum err verify_error(struct verifier *v, enum err e, const char *what, struct errctx *ec) CHECKED;
/* verify_rows.c: rows, indexes, counters, and what refers to files. */
enum err verify_rows(struct verifier *v, struct snapshot *snap, struct errctx *ec) CHECKED;

#endif
