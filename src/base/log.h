/* One JSON object a line on stderr: ts, level, event, then the caller's fields. Only the edges log (style
 * 22). Thread-safe. Never pass content, tokens or keys. */
#ifndef KALAMDB_BASE_LOG_H
#define KALAMDB_BASE_LOG_H

#include "base/str.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

void log_set_level(enum log_level min);
/* Fields are name/value pairs ended by NULL; a value is preceded by its kind in the name: "s:user" const char
 * *, "S:user" struct str *, "i:rows" long long, "f:ms" double, "b:ok" int.  log_event(LOG_INFO, "started",
 * "s:address", addr, "i:port", (long long)port, NULL). */
void log_event(enum log_level level, const char *event, ...) __attribute__((sentinel));

#endif
