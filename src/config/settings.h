/* The settings table as data, shared by the loader and the YAML reader. */
#ifndef KALAMDB_CONFIG_SETTINGS_H
#define KALAMDB_CONFIG_SETTINGS_H

#include "config/config.h"

enum setting_kind {
    SETTING_STRING,
    SETTING_SECRET,
    SETTING_ENV,
    SETTING_INT,
    SETTING_BOOL,
    SETTING_CHOICE,
    SETTING_LIST
};

struct setting {
    const char *name;
    enum setting_kind kind;
    size_t offset;            /* of the field in struct config */
    const char *default_text; /* strings */
    int64_t default_int, min, max;
    const char *help;
};

extern const struct setting settings[];
extern const size_t settings_count;

/* NULL when there is none of that name ('-' counts as '_'). */
const struct setting *setting_find(struct str name);
/* Parses and stores. `where` leads the message: "kalamdb.yaml:3: query_timeout_ms". */
enum err setting_set(
    struct config *c, const struct setting *s, struct str text, const char *where, struct errctx *ec) CHECKED;
/* One flat mapping of scalars, or lists of scalars for SETTING_LIST. Already-set names (seen[i]) are skipped
 * but still checked. */
enum err config_read_yaml(struct config *c, const char *path, const bool *seen, struct errctx *ec) CHECKED;

#endif
