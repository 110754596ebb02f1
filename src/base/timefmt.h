/* Instants as microseconds since 1970-01-01T00:00:00Z, proleptic Gregorian, years 0001 to 9999. */
#ifndef KALAMDB_BASE_TIMEFMT_H
#define KALAMDB_BASE_TIMEFMT_H

#include "base/buf.h"

#define TIME_US_MIN INT64_C(-62135596800000000)
#define TIME_US_MAX INT64_C(253402300799999999)

/* 2025-10-13T12:00:00.000000Z */
void time_format(struct buf *b, int64_t us);
/* 20251013T120000Z, for file names. */
void time_format_compact(struct buf *b, int64_t us);
/* RFC 3339 (a fraction rounds to microseconds), also with a space for the T, without seconds' fraction,
 * without zone (taken as UTC), zone as ±hh, ±hhmm or ±hh:mm, and a bare date. False on anything else (callers
 * fall back to the analytic engine's parser). */
bool time_parse(struct str s, int64_t *ret_us);

#endif
