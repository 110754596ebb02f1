/* What the zygote and its workers take away from themselves, so that native code that has gone bad in one of
 * them (a bug in DuckDB, in a Parquet file, in us) reaches nothing but the rows that it was handed.
 *
 *   cage_prepare   compiles the two seccomp programs (malloc, libseccomp)        zygote, before
 *   cage_zygote    capabilities, Landlock, seccomp: opens no path any more       zygote, warm instance
 *   cage_prove     forks a worker that tries: does the cage hold on this kernel? zygote, once
 *   cage_worker    a Landlock domain of its own, seccomp without fork            each worker, after fork
 *
 * There is no half cage: what cannot be built is ERR_UNAVAILABLE, whose `internal` says what is missing in
 * words for an operator. Each step is for good; none can be undone by the process itself. Belongs to the one
 * thread of its process. */
#ifndef KALAMDB_ANALYTIC_CAGE_H
#define KALAMDB_ANALYTIC_CAGE_H

#include "base/err.h"
#include <linux/filter.h>

/* The one socket of a caged process: control for the zygote, requests for a worker. */
#define CAGE_SOCK 3

struct cage {
    int landlock_abi; /* 1 … : what this kernel's Landlock can take away; see docs/security.md */
    struct sock_fprog zygote, worker;
};

enum err cage_prepare(struct cage *ret, struct errctx *ec) CHECKED;
enum err cage_zygote(const struct cage *c, struct errctx *ec) CHECKED;
enum err cage_prove(const struct cage *c, struct errctx *ec) CHECKED;
/* Allocates nothing. */
enum err cage_worker(const struct cage *c, struct errctx *ec) CHECKED;
void cage_release(struct cage *c);

/* cage_filter.c: the list of system calls, as programs for seccomp(2). */
enum err cage_filter_compile(bool zygote, struct sock_fprog *ret, struct errctx *ec) CHECKED;

#endif
