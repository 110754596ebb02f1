/* Roles of callers (contract, section 1): what tokens carry and what statements are judged by. */
#ifndef KALAMDB_BASE_ROLE_H
#define KALAMDB_BASE_ROLE_H

enum role { ROLE_USER, ROLE_SERVICE, ROLE_ADMIN };

#endif
