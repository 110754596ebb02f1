#include "base/json.h"
#include "config/settings.h"
#include <stdio.h>
#include <stdlib.h>

#define TEXT_STRING(def) .default_text = def
#define TEXT_SECRET(def) .default_text = def
#define TEXT_ENV(def) .default_text = def
#define TEXT_CHOICE(def) .default_text = def
#define TEXT_LIST(def) .default_text = def
#define TEXT_INT(def) .default_int = def
#define TEXT_BOOL(def) .default_int = def

const struct setting settings[] = {
#define X(kind_, field, def, min_, max_, help_)                                                              \
    {.name = #field,                                                                                         \
        .kind = SETTING_##kind_,                                                                             \
        .offset = offsetof(struct config, field),                                                            \
        TEXT_##kind_(def),                                                                                   \
        .min = min_,                                                                                         \
        .max = max_,                                                                                         \
        .help = help_},
    CONFIG_LIST(X)
#undef X
};
const size_t settings_count = sizeof settings / sizeof *settings;

static bool same_name(struct str name, const char *setting)
{
    if (name.len != strlen(setting))
        return false;
    for (size_t i = 0; i < name.len; i++) {
        if ((name.ptr[i] == '-' ? '_' : name.ptr[i]) != setting[i])
            return false;
    }
    return true;
}

const struct setting *setting_find(struct str name)
{
    for (size_t i = 0; i < settings_count; i++) {
        if (same_name(name, settings[i].name))
            return &settings[i];
    }
    return NULL;
}

static bool is_secret(const struct setting *s)
{
    return s->kind == SETTING_SECRET || s->kind == SETTING_ENV;
}

static char **text_field(struct config *c, const struct setting *s)
{
    return (char **)(void *)((char *)c + s->offset);
}

static int64_t *int_field(struct config *c, const struct setting *s)
{
    return (int64_t *)(void *)((char *)c + s->offset);
}

static bool *bool_field(struct config *c, const struct setting *s)
{
    return (bool *)(void *)((char *)c + s->offset);
}

/* Is `text` one of the words in the "[a|b|c]" of the help text? */
static bool choice_valid(const char *help, struct str text)
{
    const char *open = strrchr(help, '[');
    struct str rest = str_n(open + 1, strlen(open + 1) - 1);
    for (;;) {
        size_t end = str_find(rest, '|');
        if (str_eq(str_n(rest.ptr, end), text))
            return true;
        if (end == rest.len)
            return false;
        rest = str_n(rest.ptr + end + 1, rest.len - end - 1);
    }
}

static enum err set_text(
    struct config *c, const struct setting *s, struct str text, const char *where, struct errctx *ec)
{
    if (s->kind == SETTING_CHOICE && !choice_valid(s->help, text))
        return err_set(ec, ERR_INVALID_REQUEST, "%s: \"%.*s\" is none of %s", where, STR_FMT(text),
            strrchr(s->help, '['));
    if (text.len == 0 && s->kind != SETTING_LIST)
        return err_set(ec, ERR_INVALID_REQUEST, "%s: must not be empty", where);
    char *copy = strndup(text.ptr != NULL ? text.ptr : "", text.len);
    if (copy == NULL)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    free(*text_field(c, s));
    *text_field(c, s) = copy;
    return ERR_OK;
}

enum err setting_set(
    struct config *c, const struct setting *s, struct str text, const char *where, struct errctx *ec)
{
    int64_t v;
    switch (s->kind) {
    case SETTING_INT:
        if (!str_to_i64(text, &v))
            return err_set(
                ec, ERR_INVALID_REQUEST, "%s: \"%.*s\" is not a whole number", where, STR_FMT(text));
        if (v < s->min || v > s->max)
            return err_set(ec, ERR_INVALID_REQUEST, "%s: %lld is out of range, %lld to %lld", where,
                (long long)v, (long long)s->min, (long long)s->max);
        *int_field(c, s) = v;
        return ERR_OK;
    case SETTING_BOOL:
        if (!str_eq(text, STR("true")) && !str_eq(text, STR("false")))
            return err_set(
                ec, ERR_INVALID_REQUEST, "%s: \"%.*s\" is neither true nor false", where, STR_FMT(text));
        *bool_field(c, s) = str_eq(text, STR("true"));
        return ERR_OK;
    case SETTING_STRING:
    case SETTING_SECRET:
    case SETTING_ENV:
    case SETTING_CHOICE:
    case SETTING_LIST:
        break;
    }
    return set_text(c, s, text, where, ec);
}

static enum err set_defaults(struct config *c, struct errctx *ec)
{
    for (size_t i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        if (s->kind == SETTING_INT)
            *int_field(c, s) = s->default_int;
        else if (s->kind == SETTING_BOOL)
            *bool_field(c, s) = s->default_int != 0;
        else if (s->default_text != NULL && (*text_field(c, s) = strdup(s->default_text)) == NULL)
            return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    return ERR_OK;
}

struct load {
    struct config *c;
    const char *file;
    bool *seen; /* per setting: a flag or variable gave it */
    int kept;
};

/* --name value, --name=value; for a BOOL also --name alone. Sets *ret_used words. */
static enum err read_flag(struct load *l, int argc, char **argv, int *ret_used, struct errctx *ec)
{
    struct str word = str_c(argv[0] + 2);
    size_t eq = str_find(word, '=');
    struct str name = str_n(word.ptr, eq);
    const struct setting *s = setting_find(name);
    bool is_file = str_eq(name, STR("config"));
    if (s == NULL && !is_file) {
        *ret_used = 0;
        return ERR_OK;
    }
    if (s != NULL && s->kind == SETTING_ENV)
        return err_set(ec, ERR_INVALID_REQUEST,
            "--%.*s: a flag is seen by every process; set it in the environment", STR_FMT(name));
    struct str text;
    *ret_used = 1;
    if (eq < word.len) {
        text = str_n(word.ptr + eq + 1, word.len - eq - 1);
    } else if (!is_file && s->kind == SETTING_BOOL) {
        text = STR("true");
    } else {
        if (argc < 2)
            return err_set(ec, ERR_INVALID_REQUEST, "--%.*s: needs a value", STR_FMT(name));
        text = str_c(argv[1]);
        *ret_used = 2;
    }
    if (is_file) {
        l->file = text.ptr;
        return ERR_OK;
    }
    l->seen[s - settings] = true;
    char where[80];
    snprintf(where, sizeof where, "--%.*s", STR_FMT(name));
    return setting_set(l->c, s, text, where, ec);
}

static enum err read_flags(struct load *l, int argc, char **argv, bool keep_others, struct errctx *ec)
{
    for (int i = 0; i < argc;) {
        int used = 0;
        if (strncmp(argv[i], "--", 2) == 0) {
            enum err e = read_flag(l, argc - i, argv + i, &used, ec);
            if (e != ERR_OK)
                return e;
        }
        if (used == 0) {
            if (!keep_others)
                return err_set(ec, ERR_INVALID_REQUEST, "unknown %s: %s",
                    argv[i][0] == '-' ? "flag" : "argument", argv[i]);
            argv[l->kept++] = argv[i];
            used = 1;
        }
        i += used;
    }
    return ERR_OK;
}

/* The entry under the hand is wiped where it stands, and no child inherits it. */
static void take_out(char ***at)
{
    explicit_bzero(**at, strlen(**at));
    for (char **p = *at; *p != NULL; p++)
        p[0] = p[1];
    --*at;
}

static enum err read_environment(
    struct load *l, char **envp, void (*warn)(const char *name), struct errctx *ec)
{
    static const char prefix[] = "KALAMDB_";
    for (; *envp != NULL; envp++) {
        if (strncmp(*envp, prefix, sizeof prefix - 1) != 0)
            continue;
        struct str entry = str_c(*envp);
        size_t eq = str_find(entry, '=');
        char name[80];
        snprintf(name, sizeof name, "%.*s", STR_FMT(str_n(entry.ptr, eq)));
        if (strcmp(name, "KALAMDB_CONFIG") == 0) {
            if (l->file == NULL)
                l->file = entry.ptr + eq + 1;
            continue;
        }
        if (strcmp(name, "KALAMDB_WORKER") == 0)
            continue; /* the library's own: where the worker program is */
        char lower[80];
        size_t n = 0;
        for (const char *p = name + sizeof prefix - 1; *p != '\0'; p++)
            lower[n++] = (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
        const struct setting *s = setting_find(str_n(lower, n));
        if (s == NULL) {
            if (warn != NULL)
                warn(name);
            continue;
        }
        if (l->seen[s - settings])
            continue;
        enum err e = setting_set(l->c, s, str_n(entry.ptr + eq + 1, entry.len - eq - 1), name, ec);
        if (e != ERR_OK)
            return e;
        l->seen[s - settings] = true;
        if (s->kind == SETTING_ENV)
            take_out(&envp);
    }
    return ERR_OK;
}

/* Settings that cannot work together. */
static enum err check(const struct config *c, struct errctx *ec)
{
    if (c->jwt_secret != NULL && strlen(c->jwt_secret) < 32)
        return err_set(
            ec, ERR_INVALID_REQUEST, "jwt_secret: %zu bytes; at least 32 are needed", strlen(c->jwt_secret));
    if ((c->tls_certificate_file == NULL) != (c->tls_key_file == NULL))
        return err_set(ec, ERR_INVALID_REQUEST, "%s is missing: TLS takes a certificate and its key",
            c->tls_key_file == NULL ? "tls_key_file" : "tls_certificate_file");
    if (c->tls_certificate_file == NULL && (c->tls_listen != NULL || strcmp(c->tls_client_auth, "off") != 0))
        return err_set(ec, ERR_INVALID_REQUEST, "%s: TLS takes tls_certificate_file and tls_key_file",
            c->tls_listen != NULL ? "tls_listen" : "tls_client_auth");
    if ((c->tls_client_ca_file == NULL) != (strcmp(c->tls_client_auth, "off") == 0))
        return err_set(ec, ERR_INVALID_REQUEST,
            c->tls_client_ca_file == NULL ? "tls_client_auth: tls_client_ca_file is missing"
                                          : "tls_client_ca_file: tls_client_auth is off");
    if (c->idle_timeout_ms <= c->ping_interval_ms)
        return err_set(ec, ERR_INVALID_REQUEST,
            "idle_timeout_ms: must be above ping_interval_ms, else answering "
            "clients are cut off");
    return ERR_OK;
}

enum err config_load(struct config *c, int argc, char **argv, char **envp, int *ret_argc,
    void (*warn)(const char *name), struct errctx *ec)
{
    *c = (struct config){0};
    bool seen[sizeof settings / sizeof *settings] = {false};
    struct load l = {.c = c, .seen = seen};
    enum err e = set_defaults(c, ec);
    if (e == ERR_OK)
        e = read_flags(&l, argc, argv, ret_argc != NULL, ec);
    if (e == ERR_OK)
        e = read_environment(&l, envp, warn, ec);
    if (e == ERR_OK && l.file != NULL)
        e = config_read_yaml(c, l.file, seen, ec);
    if (e == ERR_OK)
        e = check(c, ec);
    if (e != ERR_OK)
        config_release(c);
    else if (ret_argc != NULL)
        *ret_argc = l.kept;
    return e;
}

void config_release(struct config *c)
{
    for (size_t i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        if (s->kind != SETTING_INT && s->kind != SETTING_BOOL) {
            char *text = *text_field(c, s);
            if (text != NULL && is_secret(s))
                explicit_bzero(text, strlen(text));
            free(text);
            *text_field(c, s) = NULL;
        }
    }
}

/* A YAML double-quoted scalar. */
static void print_quoted(struct buf *b, const char *text)
{
    buf_u8(b, '"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            buf_u8(b, '\\');
        buf_u8(b, (uint8_t)*text);
    }
    buf_u8(b, '"');
}

void config_print(const struct config *c, struct buf *b)
{
    struct config *m =
        (struct config *)(uintptr_t)c; /* the field helpers serve the loader too; nothing is changed */
    for (size_t i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        buf_printf(b, "%s: ", s->name);
        if (s->kind == SETTING_INT) {
            buf_i64(b, *int_field(m, s));
        } else if (s->kind == SETTING_BOOL) {
            buf_str(b, *bool_field(m, s) ? STR("true") : STR("false"));
        } else if (*text_field(m, s) == NULL) {
            buf_str(b, STR("null"));
        } else if (is_secret(s)) {
            buf_str(b, STR("\"********\""));
        } else {
            print_quoted(b, *text_field(m, s));
        }
        buf_u8(b, '\n');
    }
}

void config_changed_json(const struct config *c, struct buf *b)
{
    struct config *m = (struct config *)(uintptr_t)c; /* as above */
    const char *comma = "";
    buf_u8(b, '{');
    for (size_t i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        bool number = s->kind == SETTING_INT, truth = s->kind == SETTING_BOOL;
        const char *text = number || truth ? NULL : *text_field(m, s);
        if (number  ? *int_field(m, s) == s->default_int
            : truth ? *bool_field(m, s) == (s->default_int != 0)
                    : text == NULL || (s->default_text != NULL && strcmp(text, s->default_text) == 0))
            continue;
        buf_printf(b, "%s\"%s\":", comma, s->name);
        comma = ",";
        if (number)
            json_i64(b, *int_field(m, s));
        else if (truth)
            buf_str(b, *bool_field(m, s) ? STR("true") : STR("false"));
        else
            json_str(b, is_secret(s) ? STR("********") : str_c(text));
    }
    buf_u8(b, '}');
}

void config_help(struct buf *b)
{
    buf_str(b, STR("| setting | default | |\n|---|---|---|\n"));
    for (size_t i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        buf_printf(b, "| `%s` | ", s->name);
        if (s->kind == SETTING_INT)
            buf_printf(b, "%lld", (long long)s->default_int);
        else if (s->kind == SETTING_BOOL)
            buf_str(b, s->default_int ? STR("true") : STR("false"));
        else
            buf_printf(b, "%s", s->default_text != NULL ? s->default_text : "");
        buf_str(b, STR(" | "));
        for (const char *p = s->help; *p != '\0'; p++) {
            if (*p == '|')
                buf_u8(b, '\\');
            buf_u8(b, (uint8_t)*p);
        }
        buf_str(b, STR(" |\n"));
    }
}
