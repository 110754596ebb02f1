/* cmocka with its prerequisites, and comparisons for our strings. */
#ifndef KALAMDB_TESTS_TEST_H
#define KALAMDB_TESTS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the four above, which cmocka wants first */
#include <cmocka.h>

#include "base/str.h"

#define assert_str(got, want)                                                                                \
    do {                                                                                                     \
        struct str got_ = (got), want_ = str_c(want);                                                        \
        if (!str_eq(got_, want_))                                                                            \
            fail_msg("\"%.*s\" is not \"%s\"", STR_FMT(got_), want_.ptr);                                    \
    } while (0)

#endif
