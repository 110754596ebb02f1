/* Allocations of our own objects: the linker's --wrap sends what they call here (tests/sim/meson.build), and
 * leaves shared libraries alone. */
#include "sim/disk_int.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
int __real_vasprintf(char **ret, const char *format, va_list list);
int __wrap_vasprintf(char **ret, const char *format, va_list list);
int __wrap_asprintf(char **ret, const char *format, ...);

static bool runs_out(void)
{
    return disk_inside == 0 && disk_verdict_bare(DISK_ALLOC) == FAIL;
}

void *__wrap_malloc(size_t n)
{
    return runs_out() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return runs_out() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return runs_out() ? NULL : __real_realloc(p, n);
}

char *__wrap_strndup(const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *copy = __wrap_malloc(len + 1);
    if (copy != NULL) {
        memcpy(copy, s, len);
        copy[len] = '\0';
    }
    return copy;
}

char *__wrap_strdup(const char *s)
{
    return __wrap_strndup(s, SIZE_MAX);
}

int __wrap_vasprintf(char **ret, const char *format, va_list list)
{
    if (runs_out()) {
        *ret = NULL;
        return -1;
    }
    return __real_vasprintf(ret, format, list);
}

int __wrap_asprintf(char **ret, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int n = __wrap_vasprintf(ret, format, list);
    va_end(list);
    return n;
}
