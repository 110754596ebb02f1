/* What DuckDB said of a statement, in PostgreSQL's words and with a place in the client's text. Only errors
 * that parsing could not foresee come here; the names that the printer made up (t0:alias, o3:column, c1:name)
 * lose their numbers, macros (kdb_) their mention. */
#include "sql/print_int.h"
#include "sql/sql.h"
#include <ctype.h>
#include <stdio.h>

static bool word_byte(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (c & 0x80) != 0;
}

/* t12: in front of a name that the printer wrote: bytes to drop at s. */
static size_t made_up(const char *s, bool at_start)
{
    if (!at_start || (*s != 't' && *s != 'o' && *s != 'c' && *s != 'u' && *s != 'v'))
        return 0;
    size_t n = strspn(s + 1, "0123456789");
    return n > 0 && s[n + 1] == ':' ? n + 2 : 0;
}

static void clean(char *text)
{
    char *to = text, *cut = strstr(text, " when casting from source column");
    if (cut != NULL)
        *cut = 0;
    for (const char *s = text; *s != 0;) {
        size_t drop = made_up(s, s == text || !word_byte(s[-1]));
        if (drop == 0 && strncmp(s, "kdb_", 4) == 0 && (s == text || !word_byte(s[-1])))
            drop = 4;
        s += drop;
        if (drop == 0)
            *to++ = *s++;
    }
    *to = 0;
}

static bool begins(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* Detail and position survive, code and text are replaced. */
static void say(struct errctx *ec, enum err code, const char *message)
{
    char text[sizeof ec->message];
    size_t n = strlen(message);
    n = n < sizeof text ? n : sizeof text - 1;
    memcpy(text, message, n);
    text[n] = 0;
    ec->code = code;
    memcpy(ec->message, text, n + 1);
}

/* The bytes between the first two `q` of the message. */
static struct str quoted(const char *s, char q)
{
    const char *from = strchr(s, q), *to = from == NULL ? NULL : strchr(from + 1, q);
    return to == NULL ? STR_NULL : str_n(from + 1, (size_t)(to - from - 1));
}

static void reword(struct errctx *ec)
{
    static const struct {
        const char *duckdb, *text;
        enum err code;
    } known[] = {{"Malformed JSON", "invalid input syntax for type json", ERR_INVALID_VALUE},
        {"PERCENTILEs can only take", "percentile value is not between 0 and 1", ERR_INVALID_VALUE},
        {"WHERE clause cannot contain window functions", "window functions are not allowed in WHERE",
            ERR_SYNTAX},
        {"WHERE clause cannot contain aggregates", "aggregate functions are not allowed in WHERE",
            ERR_SYNTAX},
        {"Could not cast value", "numeric field overflow", ERR_INVALID_VALUE},
        {"Casting value", "numeric field overflow", ERR_INVALID_VALUE},
        {"Invalid UTF8 Codepoint", "requested character not valid for encoding", ERR_INVALID_VALUE},
        {"missing )", "invalid regular expression: parentheses () not balanced", ERR_INVALID_VALUE},
        {"Max expression depth limit", "statement too complex", ERR_UNSUPPORTED}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (begins(ec->message, known[i].duckdb)) {
            say(ec, known[i].code, known[i].text);
            return;
        }
    struct str zone = quoted(ec->message, '\'');
    if (begins(ec->message, "Unknown TimeZone") && zone.ptr != NULL) {
        char text[200];
        snprintf(text, sizeof text, "time zone \"%.*s\" not recognized",
            (int)(zone.len < 100 ? zone.len : 100), zone.ptr);
        say(ec, ERR_INVALID_VALUE, text);
    }
}

/* The first place outside literals where the name stands as a word; 0: nowhere. */
static int position_of(struct str sql, struct str name)
{
    char quote = 0;
    for (size_t i = 0; i + name.len <= sql.len && name.len > 0; i++) {
        char c = sql.ptr[i];
        if (quote == '\'') {
            quote = c == '\'' ? 0 : quote;
            continue;
        }
        if (c == '\'') {
            quote = c;
            continue;
        }
        if (i > 0 && word_byte(sql.ptr[i - 1]))
            continue;
        if (str_ieq(str_n(sql.ptr + i, name.len), name) &&
            (i + name.len == sql.len || !word_byte(sql.ptr[i + name.len])))
            return (int)i + 1;
    }
    return 0;
}

void sql_explain_error(struct str sql, struct errctx *ec)
{
    if (ec->code == ERR_OK || err_status(ec->code) != 400)
        return;
    if (ec->code != ERR_INVALID_VALUE || strstr(ec->message, " when casting from source column") != NULL)
        clean(ec->message);
    clean(ec->detail);
    reword(ec);
    if (ec->position > 0)
        return;
    struct str name = STR_NULL;
    if (ec->code == ERR_UNDEFINED_FUNCTION && begins(ec->message, "function ")) {
        name = str_c(ec->message + 9);
        name.len = strcspn(name.ptr, "( ");
    } else if (ec->code == ERR_UNDEFINED_COLUMN || ec->code == ERR_SYNTAX)
        name = quoted(ec->message, '"');
    if (name.ptr != NULL)
        ec->position = position_of(sql, name);
}
