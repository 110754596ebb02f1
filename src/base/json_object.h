/* Objects that are valid JSON already (json_valid), cut into their members as text: enough to put one member
 * in or take one out without touching the others. The names keep clear of those of jansson, which the program
 * is linked with. Pure functions, any thread. */
#ifndef KALAMDB_BASE_JSON_OBJECT_H
#define KALAMDB_BASE_JSON_OBJECT_H

#include "base/buf.h"

/* Is this JSON text an object? */
bool json_text_is_object(struct str json);
/* Value of the last member called `key` (plain ASCII) as text; ptr NULL: there is none. */
struct str json_text_member(struct str object, struct str key);
/* Appends an object with the members of `a` that neither `b` nor `without` names, then those of `b`. Where a
 * name comes twice in one of them, it does so in the result. NULL strings stand for empty objects. Keys are
 * compared as written. True: it has members. */
bool json_text_merge(struct buf *ret, struct str a, struct str b, struct str without);

#endif
