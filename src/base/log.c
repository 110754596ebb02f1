#include "base/log.h"
#include "base/json.h"
#include "base/timefmt.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

static _Atomic int level_min = LOG_INFO;

void log_set_level(enum log_level min)
{
    atomic_store(&level_min, (int)min);
}

static void put_field(struct buf *b, const char *name, va_list *ap)
{
    buf_u8(b, ',');
    json_key(b, str_c(name + 2));
    switch (name[0]) {
    case 's': {
        const char *s = va_arg(*ap, const char *);
        json_str(b, str_c(s != NULL ? s : ""));
        break;
    }
    case 'S':
        json_str(b, *va_arg(*ap, const struct str *));
        break;
    case 'i':
        buf_i64(b, va_arg(*ap, long long));
        break;
    case 'f':
        json_f64(b, va_arg(*ap, double));
        break;
    default:
        buf_str(b, va_arg(*ap, int) ? STR("true") : STR("false"));
        break;
    }
}

void log_event(enum log_level level, const char *event, ...)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    if ((int)level < atomic_load_explicit(&level_min, memory_order_relaxed))
        return;
    struct buf b = BUF_INIT(64 * 1024);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    buf_str(&b, STR("{\"ts\":\""));
    time_format(&b, (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    buf_printf(&b, "\",\"level\":\"%s\",\"event\":", names[level]);
    json_str(&b, str_c(event));
    va_list ap;
    va_start(ap, event);
    for (const char *name = va_arg(ap, const char *); name != NULL; name = va_arg(ap, const char *))
        put_field(&b, name, &ap);
    va_end(ap);
    buf_str(&b, STR("}\n"));
    /* One write per line keeps lines of several threads whole. A log that cannot be written has nowhere to
     * go. */
    if (!b.failed && write(STDERR_FILENO, b.ptr, b.len) < 0)
        b.failed = true;
    buf_release(&b);
}
