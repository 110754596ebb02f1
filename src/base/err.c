#include "base/err.h"
#include <stdio.h>

static const struct {
    const char *wire;
    int status;
} errors[] = {
#define X(sym, wire, status) [sym] = {wire, status},
    ERR_LIST(X)
#undef X
};

const char *err_wire(enum err e)
{
    return errors[e].wire;
}

int err_status(enum err e)
{
    return errors[e].status;
}

/* Formats into a fixed field; what does not fit is cut on a character. */
__attribute__((format(printf, 3, 0))) static void format_field(
    char *field, size_t size, const char *fmt, va_list ap)
{
    int n = vsnprintf(field, size, fmt, ap);
    if (n < 0)
        field[0] = '\0';
    else if ((size_t)n >= size) {
        size_t end = size - 1;
        while (end > 0 && ((unsigned char)field[end - 1] & 0xc0) == 0x80)
            end--;
        /* field[end - 1] now starts the last character; keep it only when it is whole. */
        if (end > 0 && !utf8_valid(str_n(field + end - 1, size - end)))
            end--;
        else
            end = size - 1;
        field[end] = '\0';
    }
}

void errctx_clear(struct errctx *ec)
{
    ec->code = ERR_OK;
    ec->position = 0;
    ec->message[0] = ec->detail[0] = ec->hint[0] = ec->internal[0] = '\0';
}

enum err err_set(struct errctx *ec, enum err code, const char *fmt, ...)
{
    errctx_clear(ec);
    ec->code = code;
    va_list ap;
    va_start(ap, fmt);
    format_field(ec->message, sizeof ec->message, fmt, ap);
    va_end(ap);
    return code;
}

void err_detail(struct errctx *ec, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    format_field(ec->detail, sizeof ec->detail, fmt, ap);
    va_end(ap);
}

void err_hint(struct errctx *ec, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    format_field(ec->hint, sizeof ec->hint, fmt, ap);
    va_end(ap);
}

enum err err_internal(struct errctx *ec, enum err code, const char *fmt, ...)
{
    errctx_clear(ec);
    ec->code = code;
    snprintf(ec->message, sizeof ec->message, "internal error");
    va_list ap;
    va_start(ap, fmt);
    format_field(ec->internal, sizeof ec->internal, fmt, ap);
    va_end(ap);
    return code;
}

void err_path(struct errctx *ec, const char *fmt, ...)
{
    char was[sizeof ec->internal];
    memcpy(was, ec->internal, sizeof was);
    va_list ap;
    va_start(ap, fmt);
    format_field(ec->internal, sizeof ec->internal, fmt, ap);
    va_end(ap);
    size_t n = strlen(ec->internal);
    snprintf(ec->internal + n, sizeof ec->internal - n, ": %s", was);
}
