/* Statements and what the gate makes of them, from a file of cases:
 *
 *   # comment
 *   role|parameters|statement          role: u, s or a; parameters as in gate_params.h
 *       what gate_describe.h says about it, or CODE@position message
 *
 * usage: gate_cases_test FILE MINIMUM [refused]   (refused: no case of the file may be accepted)
 *        gate_cases_test FILE print               (the file as the gate answers now, to compare by eye) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "gate_describe.h"
#include "gate_params.h"

static const char *path, *mode;
static int minimum;

struct one_case {
    char *line; /* as in the file */
    char *params, *sql;
    enum role role;
};

static bool read_line(FILE *f, char **line, size_t *cap)
{
    ssize_t n = getline(line, cap, f);
    if (n < 0)
        return false;
    while (n > 0 && (*line)[n - 1] == '\n')
        (*line)[--n] = '\0';
    return true;
}

static void split(char *line, struct one_case *c)
{
    char *bar = strchr(line, '|');
    assert_non_null(bar);
    char *second = strchr(bar + 1, '|');
    assert_non_null(second);
    *second = '\0';
    c->params = bar + 1;
    c->sql = second + 1;
    c->role = line[0] == 'u' ? ROLE_USER : line[0] == 's' ? ROLE_SERVICE : ROLE_ADMIN;
}

static struct buf outcome_of(const struct one_case *c)
{
    struct value params[8];
    struct buf out = BUF_INIT(0);
    describe_parse(&out, str_c(c->sql), params, parse_params(c->params, params), c->role);
    return out;
}

static bool check(const struct one_case *c, struct str expected)
{
    struct buf out = outcome_of(c);
    struct str got = buf_view(&out);
    bool same = str_eq(got, expected);
    if (!same)
        fprintf(stderr, "%s\n  expected %.*s\n  got      %.*s\n", c->sql, STR_FMT(expected), STR_FMT(got));
    if (same && strcmp(mode, "refused") == 0 && str_find(got, '@') == got.len) {
        fprintf(stderr, "%s\n  accepted\n", c->sql);
        same = false;
    }
    buf_release(&out);
    return same;
}

static void test_file(void **state)
{
    (void)state;
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    char *line = NULL, *expected = NULL;
    size_t cap = 0, expected_cap = 0;
    int n = 0, failed = 0;
    while (read_line(f, &line, &cap)) {
        if (line[0] == '#' || line[0] == '\0')
            continue;
        struct one_case c = {.line = line};
        split(line, &c);
        assert_true(read_line(f, &expected, &expected_cap));
        assert_memory_equal(expected, "    ", 4);
        failed += !check(&c, str_c(expected + 4));
        n++;
    }
    free(line);
    free(expected);
    (void)fclose(f);
    assert_int_equal(failed, 0);
    assert_true(n >= minimum);
}

static int print_file(void)
{
    FILE *f = fopen(path, "r");
    char *line = NULL;
    size_t cap = 0;
    if (f == NULL)
        return 1;
    while (read_line(f, &line, &cap)) {
        if (strncmp(line, "    ", 4) == 0)
            continue;
        printf("%s\n", line);
        if (line[0] == '#' || line[0] == '\0')
            continue;
        struct one_case c;
        split(line, &c);
        struct buf out = outcome_of(&c);
        printf("    %.*s\n", STR_FMT(buf_view(&out)));
        buf_release(&out);
    }
    free(line);
    return fclose(f);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    path = argv[1];
    mode = argc > 3 ? argv[3] : "";
    minimum = atoi(argv[2]);
    if (strcmp(argv[2], "print") == 0)
        return print_file();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_file)};
    return cmocka_run_group_tests_name(path, tests, NULL, NULL);
}
