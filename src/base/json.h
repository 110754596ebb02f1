/* JSON writer (RFC 8259) straight into a buffer, and the contract's mapping of SQL values to JSON. Parsing is
 * jansson's, at the edges. */
#ifndef KALAMDB_BASE_JSON_H
#define KALAMDB_BASE_JSON_H

#include "base/buf.h"
#include "base/value.h"

/* Quoted and escaped; the bytes must be UTF-8. */
void json_str(struct buf *b, struct str s);
/* `"key":` */
void json_key(struct buf *b, struct str key);
/* Integers outside ±(2^53−1) become strings. */
void json_i64(struct buf *b, int64_t v);
/* Shortest text that reads back; NaN and infinities as strings. */
void json_f64(struct buf *b, double v);
/* Contract section 2: BIGINT by json_i64, HUGEINT and DECIMAL strings, timestamps RFC 3339 with microseconds
 * and Z, JSON embedded, BLOB base64. */
void json_value(struct buf *b, struct value v);
/* Is `s` one valid JSON text (any depth up to 512, no trailing bytes)? Our own scanner: keeps numbers as
 * written. */
bool json_valid(struct str s);

/* The object with `key` set to the JSON text `raw`, or without it (ptr NULL); other members stay as written.
 * False: `object` is no valid JSON object, and nothing was appended. */
bool json_object_put(struct buf *b, struct str object, struct str key, struct str raw);

void base64_encode(struct buf *b, struct str bytes);
/* Alphabet of RFC 4648 section 5, no padding (JWT). False on anything else. */
bool base64url_decode(struct buf *b, struct str text);
void base64url_encode(struct buf *b, struct str bytes);

#endif
