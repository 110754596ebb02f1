/* A KalamDB in a temporary folder, statements in one call, answers as text. */
#ifndef KALAMDB_TESTS_ENGINE_FIXTURE_H
#define KALAMDB_TESTS_ENGINE_FIXTURE_H

#include "../test.h"
#include "engine/engine.h"

struct engine {
    char dir[64];
    struct kalamdb_options options;
    struct kalamdb *db;
};

/* Hot only: consolidation when asked for. */
void engine_open(struct engine *e);
void engine_reopen(struct engine *e);
void engine_close(struct engine *e);
/* Moves what is hot into files; of everybody when user is NULL. */
void engine_consolidate(struct engine *e, const char *user);

/* Runs one statement. The answer as the HTTP API's JSON without types and times, or "CODE: message". Valid
 * until the next call on this thread. `as` is a user id; "service:id" and "admin:id" have these roles. */
const char *run(struct engine *e, const char *as, const char *sql);
const char *run_params(
    struct engine *e, const char *as, const char *sql, int n, const struct kalamdb_value *params);
/* Fails the test unless the answer is `want`. */
#define expect(e, as, sql, want)                                                                             \
    do {                                                                                                     \
        const char *got_ = run(e, as, sql);                                                                  \
        if (strcmp(got_, want) != 0)                                                                         \
            fail_msg("%s\n  is   %s\n  want %s", sql, got_, want);                                           \
    } while (0)
/* Only the code counts: "FORBIDDEN", "OK". */
void expect_code(struct engine *e, const char *as, const char *sql, const char *code);
/* The one number in the one row. */
int64_t number(struct engine *e, const char *as, const char *sql);

struct kalamdb_value text_param(const char *s);
struct kalamdb_value int_param(int64_t i);

#endif
