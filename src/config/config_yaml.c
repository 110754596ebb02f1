/* The file is one flat mapping of our names. libyaml parses; we walk its document and check every key against
 * the settings table, so that an unknown key, a key given twice, or a value of the wrong kind stops the start
 * with its line. */
#include "config/settings.h"
#include <errno.h>
#include <stdio.h>
#include <yaml.h>

struct walk {
    struct config *c;
    const char *path;
    const bool *seen;
    yaml_document_t *doc;
    struct errctx *ec;
};

static struct str scalar(const yaml_node_t *n)
{
    return str_n((const char *)n->data.scalar.value, n->data.scalar.length);
}

static enum err key_error(struct walk *w, const yaml_node_t *at, const char *what)
{
    return err_set(w->ec, ERR_INVALID_REQUEST, "%s:%zu: %s", w->path, at->start_mark.line + 1, what);
}

/* A sequence becomes the comma-separated text that flags and variables use. */
static enum err list_text(struct walk *w, const yaml_node_t *value, struct buf *ret)
{
    for (yaml_node_item_t *i = value->data.sequence.items.start; i < value->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(w->doc, *i);
        if (item == NULL || item->type != YAML_SCALAR_NODE)
            return key_error(w, value, "a list of plain values is expected");
        if (ret->len > 0)
            buf_u8(ret, ',');
        buf_str(ret, scalar(item));
    }
    return ret->failed ? key_error(w, value, "list too long") : ERR_OK;
}

static enum err set_value(
    struct walk *w, const struct setting *s, const yaml_node_t *key, const yaml_node_t *value)
{
    char where[512];
    snprintf(where, sizeof where, "%s:%zu: %s", w->path, key->start_mark.line + 1, s->name);
    struct buf list = BUF_INIT(65536);
    enum err e = ERR_OK;
    struct str text = STR_NULL;
    if (value->type == YAML_SEQUENCE_NODE && s->kind == SETTING_LIST) {
        e = list_text(w, value, &list);
        text = buf_view(&list);
    } else if (value->type != YAML_SCALAR_NODE) {
        e = err_set(w->ec, ERR_INVALID_REQUEST, "%s: a plain value is expected", where);
    } else {
        text = scalar(value);
    }
    if (e == ERR_OK && memchr(text.ptr != NULL ? text.ptr : "", '\0', text.len) != NULL)
        e = err_set(w->ec, ERR_INVALID_REQUEST, "%s: holds a NUL byte", where);
    if (e == ERR_OK) {
        /* A flag or variable outranks the file; the file's value must be right all the same. */
        struct config scratch = {0};
        bool outranked = w->seen[s - settings];
        e = setting_set(outranked ? &scratch : w->c, s, text, where, w->ec);
        config_release(&scratch);
    }
    buf_release(&list);
    return e;
}

static enum err walk_mapping(struct walk *w, const yaml_node_t *root)
{
    bool given[256] = {false};
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(w->doc, p->key);
        const yaml_node_t *value = yaml_document_get_node(w->doc, p->value);
        if (key == NULL || value == NULL || key->type != YAML_SCALAR_NODE)
            return key_error(w, root, "a mapping of settings is expected");
        const struct setting *s = setting_find(scalar(key));
        char what[160];
        if (s == NULL || memchr(key->data.scalar.value, '-', key->data.scalar.length) != NULL) {
            snprintf(what, sizeof what, "unknown setting \"%.*s\"", STR_FMT(scalar(key)));
            return key_error(w, key, what);
        }
        if (given[s - settings]) {
            snprintf(what, sizeof what, "%s: given twice", s->name);
            return key_error(w, key, what);
        }
        given[s - settings] = true;
        bool is_null = value->type == YAML_SCALAR_NODE &&
                       value->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
                       (value->data.scalar.length == 0 || str_eq(scalar(value), STR("null")) ||
                           str_eq(scalar(value), STR("~")));
        if (s->kind == SETTING_ENV && !is_null) {
            snprintf(what, sizeof what, "%s: only from the environment, or from a file of its own", s->name);
            return key_error(w, key, what);
        }
        enum err e = is_null ? ERR_OK : set_value(w, s, key, value);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

enum err config_read_yaml(struct config *c, const char *path, const bool *seen, struct errctx *ec)
{
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return err_set(ec, ERR_INVALID_REQUEST, "%s: %s", path, strerror(errno));
    yaml_parser_t parser;
    yaml_document_t doc;
    if (!yaml_parser_initialize(&parser)) {
        fclose(f);
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    }
    yaml_parser_set_input_file(&parser, f);
    enum err e;
    if (!yaml_parser_load(&parser, &doc)) {
        e = err_set(ec, ERR_INVALID_REQUEST, "%s:%zu: %s", path, parser.problem_mark.line + 1,
            parser.problem != NULL ? parser.problem : "not YAML");
    } else {
        struct walk w = {c, path, seen, &doc, ec};
        const yaml_node_t *root = yaml_document_get_root_node(&doc);
        e = root == NULL                      ? ERR_OK /* an empty file sets nothing */
            : root->type == YAML_MAPPING_NODE ? walk_mapping(&w, root)
                                              : key_error(&w, root, "a mapping of settings is expected");
        yaml_document_delete(&doc);
    }
    yaml_parser_delete(&parser);
    fclose(f);
    return e;
}
