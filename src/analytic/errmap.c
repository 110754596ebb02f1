#include "analytic/errmap.h"
#include <stdio.h>

/* One text that is being explained: kind "Binder", line "Referenced column …" (first line, no kind). */
struct report {
    struct str kind, line;
};

static bool contains(struct str s, struct str needle)
{
    return needle.len == 0 || (s.ptr != NULL && memmem(s.ptr, s.len, needle.ptr, needle.len) != NULL);
}

/* What stands between the n-th pair of `q` in s (n from 0); ptr NULL when there is no such pair. */
static struct str quoted(struct str s, char q, int n)
{
    size_t at = 0;
    for (;; n--) {
        size_t open = at + str_find(str_n(s.ptr + at, s.len - at), q);
        if (open >= s.len)
            return STR_NULL;
        size_t close = open + 1 + str_find(str_n(s.ptr + open + 1, s.len - open - 1), q);
        if (close >= s.len)
            return STR_NULL;
        if (n == 0)
            return str_n(s.ptr + open + 1, close - open - 1);
        at = close + 1;
    }
}

/* The word after `before`, up to a blank, a quote's end or `!`. */
static struct str word_after(struct str s, struct str before)
{
    const char *at = memmem(s.ptr, s.len, before.ptr, before.len);
    if (at == NULL)
        return STR_NULL;
    struct str rest = str_n(at + before.len, s.len - (size_t)(at - s.ptr) - before.len);
    if (rest.len > 0 && rest.ptr[0] == '"')
        return quoted(rest, '"', 0);
    size_t n = 0;
    while (n < rest.len && strchr(" !\n", rest.ptr[n]) == NULL)
        n++;
    return str_n(rest.ptr, n);
}

/* Names that only we and DuckDB know. */
static bool is_internal_name(struct str name)
{
    return str_starts_with(name, STR("scan_")) || str_starts_with(name, STR("kalamdb_"));
}

static bool names_internals(struct str s)
{
    return contains(s, STR("scan_")) || contains(s, STR("kalamdb_")) || contains(s, STR("/proc/")) ||
           contains(s, STR("read_parquet"));
}

/* PostgreSQL's name for a type that DuckDB prints; the same bytes when it needs none. */
static struct str type_name(struct str t)
{
    static const struct {
        struct str duckdb, postgres;
    } names[] = {
        {{"INT8", 4}, {"smallint", 8}},
        {{"INT16", 5}, {"smallint", 8}},
        {{"INT32", 5}, {"integer", 7}},
        {{"INT64", 5}, {"bigint", 6}},
        {{"INT128", 6}, {"numeric", 7}},
        {{"UINT64", 6}, {"numeric", 7}},
        {{"UINT32", 6}, {"bigint", 6}},
        {{"DOUBLE", 6}, {"double precision", 16}},
        {{"FLOAT", 5}, {"real", 4}},
        {{"BOOL", 4}, {"boolean", 7}},
        {{"BOOLEAN", 7}, {"boolean", 7}},
        {{"VARCHAR", 7}, {"text", 4}},
        {{"STRING_LITERAL", 14}, {"unknown", 7}},
        {{"INTEGER_LITERAL", 15}, {"integer", 7}},
        {{"INTEGER", 7}, {"integer", 7}},
        {{"BIGINT", 6}, {"bigint", 6}},
        {{"HUGEINT", 7}, {"numeric", 7}},
        {{"TIMESTAMP WITH TIME ZONE", 24}, {"timestamp with time zone", 24}},
        {{"TIMESTAMP", 9}, {"timestamp without time zone", 27}},
        {{"BLOB", 4}, {"bytea", 5}},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (str_eq(t, names[i].duckdb))
            return names[i].postgres;
    return t;
}

/* "sum(VARCHAR, BIGINT)" with PostgreSQL's type names. */
static void print_signature(struct str call, char *ret, size_t size)
{
    size_t open = str_find(call, '('), used = 0;
    struct str name = str_n(call.ptr, open < call.len ? open : call.len);
    used = (size_t)snprintf(ret, size, "%.*s(", STR_FMT(name));
    struct str args = open < call.len ? str_n(call.ptr + open + 1, call.len - open - 1) : STR("");
    if (str_ends_with(args, STR(")")))
        args.len--;
    for (bool first = true; args.len > 0 && used < size; first = false) {
        const char *comma = memmem(args.ptr, args.len, ", ", 2);
        struct str arg = str_n(args.ptr, comma != NULL ? (size_t)(comma - args.ptr) : args.len);
        struct str t = type_name(arg);
        used += (size_t)snprintf(ret + used, size - used, "%s%.*s", first ? "" : ", ", STR_FMT(t));
        args = comma != NULL ? str_n(comma + 2, args.len - arg.len - 2) : STR_NULL;
    }
    if (used < size)
        snprintf(ret + used, size - used, ")");
}

/* A cut signature could end inside a character. */
static enum err no_such_function(struct str call, struct errctx *ec)
{
    char text[256];
    print_signature(call, text, sizeof text);
    text[utf8_cut(str_c(text), sizeof text - 1)] = '\0';
    bool is_operator = call.len > 0 && strchr("+-*/%<>=!~^|&@#", call.ptr[0]) != NULL;
    if (is_operator)
        err_set(ec, ERR_TYPE_MISMATCH, "operator does not exist: %s", text);
    else
        err_set(ec, ERR_UNDEFINED_FUNCTION, "function %s does not exist", text);
    err_hint(ec,
        "No %s matches the given name and argument types. You might need to add explicit type casts.",
        is_operator ? "operator" : "function");
    return ec->code;
}

static enum err explain_column(struct report r, struct errctx *ec)
{
    struct str first = quoted(r.line, '"', 0), second = quoted(r.line, '"', 1);
    if (contains(r.line, STR("does not have a column named"))) {
        if (first.ptr == NULL || second.ptr == NULL || is_internal_name(first))
            return err_set(ec, ERR_UNDEFINED_COLUMN, "column \"%.*s\" does not exist", STR_FMT(second));
        return err_set(
            ec, ERR_UNDEFINED_COLUMN, "column %.*s.%.*s does not exist", STR_FMT(first), STR_FMT(second));
    }
    if (str_starts_with(r.line, STR("Referenced column")))
        return err_set(ec, ERR_UNDEFINED_COLUMN, "column \"%.*s\" does not exist", STR_FMT(first));
    if (str_starts_with(r.line, STR("Referenced table")))
        return err_set(
            ec, ERR_UNDEFINED_TABLE, "missing FROM-clause entry for table \"%.*s\"", STR_FMT(first));
    if (str_starts_with(r.line, STR("Ambiguous reference to column name")))
        return err_set(ec, ERR_UNDEFINED_COLUMN, "column reference \"%.*s\" is ambiguous", STR_FMT(first));
    return ERR_OK;
}

static enum err explain_binder(struct report r, struct errctx *ec)
{
    enum err e = explain_column(r, ec);
    if (e != ERR_OK)
        return e;
    if (contains(r.line, STR("No function matches the given name and argument types")))
        return no_such_function(quoted(r.line, '\'', 0), ec);
    if (contains(r.line, STR("Could not choose a best candidate function")))
        return no_such_function(quoted(r.line, '"', 0), ec);
    if (contains(r.line, STR("must appear in the GROUP BY clause")))
        return err_set(ec, ERR_SYNTAX,
            "column \"%.*s\" must appear in the GROUP BY clause or be used in an aggregate function",
            STR_FMT(quoted(r.line, '"', 0)));
    if (contains(r.line, STR("type")) || contains(r.line, STR("cast")) ||
        contains(r.line, STR("Cannot compare")))
        return err_set(ec, ERR_TYPE_MISMATCH, "%.*s", STR_FMT(r.line));
    return err_set(ec, ERR_SYNTAX, "%.*s", STR_FMT(r.line));
}

static enum err explain_catalog(struct report r, struct errctx *ec)
{
    struct str name = word_after(r.line, STR("with name "));
    if (contains(r.line, STR("Function with name")) || contains(r.line, STR("Macro")))
        return err_set(ec, ERR_UNDEFINED_FUNCTION, "function %.*s does not exist", STR_FMT(name));
    if (str_starts_with(r.line, STR("Table with name")) || str_starts_with(r.line, STR("View with name")))
        return err_set(ec, ERR_UNDEFINED_TABLE, "relation \"%.*s\" does not exist", STR_FMT(name));
    if (str_starts_with(r.line, STR("Type with name")))
        return err_set(ec, ERR_TYPE_MISMATCH, "type \"%.*s\" does not exist", STR_FMT(name));
    if (str_starts_with(r.line, STR("Collation")))
        return err_set(ec, ERR_UNSUPPORTED, "this collation is not supported");
    return err_set(ec, ERR_UNSUPPORTED, "%.*s", STR_FMT(r.line));
}

static enum err explain_conversion(struct report r, struct errctx *ec)
{
    if (str_starts_with(r.line, STR("Could not convert string"))) {
        struct str given = quoted(r.line, '\'', 0);
        struct str type = type_name(word_after(r.line, STR("' to ")));
        if (given.ptr != NULL && type.len > 0)
            return err_set(ec, ERR_INVALID_VALUE, "invalid input syntax for type %.*s: \"%.*s\"",
                STR_FMT(type), STR_FMT(given));
    }
    if (str_starts_with(r.line, STR("Unimplemented type for cast")) ||
        contains(r.line, STR("Unimplemented type for cast")))
        return err_set(ec, ERR_TYPE_MISMATCH, "%.*s", STR_FMT(r.line));
    struct str kind = str_n(r.line.ptr, str_find(r.line, ' '));
    if (str_starts_with(r.line, STR("invalid "))) {
        kind = str_n(r.line.ptr + 8, r.line.len - 8);
        kind.len = str_find(kind, ' ');
    }
    bool temporal = str_eq(kind, STR("timestamp")) || str_eq(kind, STR("date")) || str_eq(kind, STR("time"));
    if (temporal && contains(r.line, STR("out of range")))
        return err_set(ec, ERR_INVALID_VALUE, "date/time field value out of range: \"%.*s\"",
            STR_FMT(quoted(r.line, '"', 0)));
    if (temporal && contains(r.line, STR("field format")))
        return err_set(ec, ERR_INVALID_VALUE, "invalid input syntax for type %.*s: \"%.*s\"", STR_FMT(kind),
            STR_FMT(quoted(r.line, '"', 0)));
    return err_set(ec, ERR_INVALID_VALUE, "%.*s", STR_FMT(r.line));
}

static enum err explain_range(struct report r, struct errctx *ec)
{
    struct str type = word_after(r.line, STR(" of "));
    if (str_starts_with(r.line, STR("Overflow in ")) && type.len > 0)
        return err_set(ec, ERR_INVALID_VALUE, "%.*s out of range", STR_FMT(type_name(type)));
    if (contains(r.line, STR("ivision by zero")))
        return err_set(ec, ERR_INVALID_VALUE, "division by zero");
    return err_set(ec, ERR_INVALID_VALUE, "%.*s", STR_FMT(r.line));
}

static enum err explain_input(struct report r, struct errctx *ec)
{
    if (str_starts_with(r.line, STR("More than one row returned by a subquery")))
        return err_set(
            ec, ERR_INVALID_VALUE, "more than one row returned by a subquery used as an expression");
    if (str_starts_with(r.line, STR("Malformed JSON"))) {
        err_set(ec, ERR_INVALID_VALUE, "invalid input syntax for type json");
        err_detail(ec, "%.*s", STR_FMT(r.line));
        return ec->code;
    }
    return err_set(ec, ERR_INVALID_VALUE, "%.*s", STR_FMT(r.line));
}

static enum err explain_memory(struct report r, struct errctx *ec)
{
    (void)r;
    err_set(ec, ERR_TOO_LARGE, "the query needs too much memory");
    err_hint(ec, "Select fewer rows or columns, or shorter values.");
    return ec->code;
}

static enum err explain_unsupported(struct report r, struct errctx *ec)
{
    return err_set(ec, ERR_UNSUPPORTED, "%.*s", STR_FMT(r.line));
}

/* The binder copies expressions that stand in two places, and cannot copy every kind. */
static enum err explain_serialization(struct report r, struct errctx *ec)
{
    if (str_starts_with(r.line, STR("Cannot copy ")))
        return err_set(
            ec, ERR_UNSUPPORTED, "a subquery is not supported at this place of a window or grouping");
    return ERR_OK; /* not explained */
}

static enum err explain_permission(struct report r, struct errctx *ec)
{
    (void)r;
    return err_set(ec, ERR_UNSUPPORTED, "this is not supported");
}

static enum err explain_syntax(struct report r, struct errctx *ec)
{
    return err_set(ec, ERR_SYNTAX, "%.*s", STR_FMT(r.line));
}

static enum err explain_type(struct report r, struct errctx *ec)
{
    return err_set(ec, ERR_TYPE_MISMATCH, "%.*s", STR_FMT(r.line));
}

static enum err explain_constraint(struct report r, struct errctx *ec)
{
    return err_set(ec, ERR_CONSTRAINT, "%.*s", STR_FMT(r.line));
}

static enum err explain_interrupt(struct report r, struct errctx *ec)
{
    (void)r;
    return err_set(ec, ERR_TIMEOUT, "canceling statement due to user request");
}

static const struct {
    struct str kind;
    enum err (*explain)(struct report r, struct errctx *ec);
} kinds[] = {
    {{"Binder", 6}, explain_binder},
    {{"Catalog", 7}, explain_catalog},
    {{"Conversion", 10}, explain_conversion},
    {{"Out of Range", 12}, explain_range},
    {{"Invalid Input", 13}, explain_input},
    {{"Invalid", 7}, explain_input},
    {{"Invalid type", 12}, explain_type},
    {{"Mismatch Type", 13}, explain_type},
    {{"Type", 4}, explain_type},
    {{"Decimal", 7}, explain_input},
    {{"Divide by Zero", 14}, explain_range},
    {{"Parser", 6}, explain_syntax},
    {{"Syntax", 6}, explain_syntax},
    {{"Parameter Not Resolved", 22}, explain_syntax},
    {{"Parameter Not Allowed", 21}, explain_syntax},
    {{"Expression", 10}, explain_syntax},
    {{"Not implemented", 15}, explain_unsupported},
    {{"Permission", 10}, explain_permission},
    {{"Serialization", 13}, explain_serialization},
    {{"Dependency", 10}, explain_unsupported},
    {{"Out of Memory", 13}, explain_memory},
    {{"Object Size", 11}, explain_memory},
    {{"Constraint", 10}, explain_constraint},
    {{"INTERRUPT", 9}, explain_interrupt},
    {{"Interrupt", 9}, explain_interrupt},
};

static struct report split(struct str text)
{
    const char *mark = memmem(text.ptr, text.len, " Error: ", 8);
    struct report r = {STR_NULL, text};
    size_t eol = str_find(text, '\n');
    if (mark != NULL && (size_t)(mark - text.ptr) < eol) {
        r.kind = str_n(text.ptr, (size_t)(mark - text.ptr));
        r.line = str_n(mark + 8, text.len - r.kind.len - 8);
    }
    r.line.len = str_find(r.line, '\n');
    r.line = str_trim(r.line);
    while (r.line.len > 0 && (r.line.ptr[r.line.len - 1] == '!' || r.line.ptr[r.line.len - 1] == '.'))
        r.line.len--;
    return r;
}

enum err errmap_duckdb(struct str text, struct errctx *ec)
{
    struct report r = split(text);
    enum err e = ERR_OK;
    /* A descriptor's path in it: a file of ours could not be read, whatever kind DuckDB calls it. */
    bool file = contains(r.line, STR("/proc/self/fd"));
    /* std::bad_alloc where DuckDB had no chance to say it in its own words. */
    if (contains(text, STR("bad_alloc")) || contains(r.line, STR("Failed to allocate")) ||
        contains(r.line, STR("could not allocate")))
        e = explain_memory(r, ec);
    for (size_t i = 0; e == ERR_OK && !file && i < sizeof kinds / sizeof *kinds; i++)
        if (str_eq(r.kind, kinds[i].kind))
            e = kinds[i].explain(r, ec);
    if (e == ERR_OK)
        return err_internal(ec, file ? ERR_CORRUPT : ERR_INTERNAL, "duckdb: %.*s error: %.*s",
            STR_FMT(r.kind), STR_FMT(r.line));
    if (names_internals(str_c(ec->message)))
        err_set(ec, e, "the statement is not valid here");
    return e;
}

bool errmap_retires(enum err e)
{
    return e == ERR_INTERNAL || e == ERR_CORRUPT || e == ERR_IO || e == ERR_TOO_LARGE || e == ERR_NO_MEMORY ||
           e == ERR_TIMEOUT;
}
