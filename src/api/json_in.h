/* JSON from clients (RFC 8259): a cursor over bytes that nobody vouches for, one pass, strings decoded only
 * where they hold escapes, nested values kept as the text they came as (a JSON parameter is stored with the
 * numbers as written). The input must be valid UTF-8 (the caller checks once). After an error `why` is set
 * and everything fails. */
#ifndef KALAMDB_API_JSON_IN_H
#define KALAMDB_API_JSON_IN_H

#include "base/arena.h"

#define JSON_IN_DEPTH_MAX 256

enum json_kind {
    JSON_IS_NULL,
    JSON_IS_BOOL,
    JSON_IS_INT,
    JSON_IS_DOUBLE,
    JSON_IS_STRING,
    JSON_IS_OBJECT,
    JSON_IS_ARRAY
};

struct json_item {
    enum json_kind kind;
    bool b;
    int64_t i;
    double d;
    struct str s; /* a string's value; an object's or array's text */
};

struct json_in {
    const char *p, *end;
    struct arena *arena; /* for decoded strings */
    const char *why;     /* NULL: no error yet; static text */
};

struct json_in json_in(struct str text, struct arena *arena);
/* The first character of what comes next, 0 at the end or after an error. */
char json_in_peek(struct json_in *in);
/* Any value; nested ones are checked and skipped. An integer beyond int64 comes as a double. */
bool json_in_value(struct json_in *in, struct json_item *ret);
/* `{`. Then json_in_member until it is false; check in->why after. */
bool json_in_object(struct json_in *in);
/* The next key; the value must be read before the next call. */
bool json_in_member(struct json_in *in, struct str *ret_key);
/* `[`. Then json_in_element, json_in_value, … */
bool json_in_array(struct json_in *in);
bool json_in_element(struct json_in *in);
/* Nothing but white space left? */
bool json_in_end(struct json_in *in);

#endif
