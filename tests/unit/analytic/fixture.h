/* Inputs for the tests of this folder: row files, Parquet files, one-line runs against a real worker. */
#ifndef KALAMDB_TESTS_ANALYTIC_FIXTURE_H
#define KALAMDB_TESTS_ANALYTIC_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "analytic/analytic.h"
#include "row/row.h"

struct fixture {
    struct analytic *a;
};
/* cmocka's set-up and tear-down: `workers_max` 4, 256 MiB, 8 MiB of result. */
int fixture_open(void **state);
int fixture_close(void **state);
struct analytic *fixture_start(const struct analytic_config *cfg);

/* A memfd of n messages with msg_id first, first+1 …: conversation c<id % 3>, content "text <id>", _seq =
 * msg_id. */
struct row_file {
    int fd;
    struct buf bytes;
};
void row_file_open(struct row_file *f);
void row_file_message(struct row_file *f, int64_t msg_id, const char *content, unsigned flags);
void row_file_messages(struct row_file *f, int64_t first, int n);
struct analytic_input row_file_input(struct row_file *f);
void row_file_close(struct row_file *f);

/* Runs and returns the error; on success the caller releases rs. */
enum err run_sql(struct analytic *a, const char *user, const char *sql, const struct analytic_input *inputs,
    int ninputs, struct rowset *rs, struct errctx *ec);
/* The first column of the first row as text, "NULL" for NULL; fails the test on an error. */
const char *one(struct analytic *a, const char *sql, const struct analytic_input *inputs, int ninputs);
/* Writes the query's result as Parquet into a new memfd. */
int make_parquet(struct analytic *a, const char *sql, const struct analytic_input *inputs, int ninputs);

#endif
