/* Callers (contract, section 1): the roles that tokens carry and statements are judged by, and who can be a
 * user. Pure functions, any thread. */
#ifndef KALAMDB_BASE_ROLE_H
#define KALAMDB_BASE_ROLE_H

#include "base/str.h"

enum role { ROLE_USER, ROLE_SERVICE, ROLE_ADMIN };

/* 1–255 bytes of UTF-8 without control characters, and not one of the reserved names. */
bool user_id_valid(struct str id);

#endif
