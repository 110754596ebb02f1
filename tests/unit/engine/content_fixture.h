/* Helpers of tests about content in files, over one database. */
#ifndef KALAMDB_TESTS_CONTENT_FIXTURE_H
#define KALAMDB_TESTS_CONTENT_FIXTURE_H

#include "engine_fixture.h"
#include "store/internal.h"

#define LARGE 102400 /* large_content_bytes by default */

extern struct engine e;
extern char text_buf[1 << 20];

int content_setup(void **state);
int content_teardown(void **state);
/* Text of n bytes that differ by seed; valid until the next call. */
const char *text(size_t n, unsigned seed);
/* One text out of the one row; valid until the next call. */
const char *cell(const char *as, const char *sql);
/* One message; its id. */
int64_t insert(const char *as, const char *conversation, const char *content);
/* Content files, and others that are not Parquet, below a folder of the data directory. */
int files_in(const char *folder);
/* Files go when the commit that takes their last row is published, a moment after it is answered. */
void wait_for_files(const char *folder, int want);
kalamdb_code open_as(const char *as, enum kalamdb_role role, const char *ref, struct kalamdb_content *ret);
/* The file of a ref is these bytes. */
void expect_content(const char *as, const char *ref, const char *want);
const char *code(kalamdb_code c);
/* Rows of all users that name it, by its record. */
uint64_t refs_of(const char *ref);
/* Group 'room' of alice and these: "('room', 'bob')". */
void make_group(const char *members);

#endif
