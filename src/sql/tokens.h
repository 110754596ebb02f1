/* The token stream of a statement, as PostgreSQL's own scanner gives it (pg_query_scan), and what is decided
 * on it before any tree exists: identifiers over 63 bytes, parameters, a bound on the depth that the tree can
 * have, and bare `from`. Pure functions; tokens live in the arena given. */
#ifndef KALAMDB_SQL_TOKENS_H
#define KALAMDB_SQL_TOKENS_H

#include "base/arena.h"
#include "base/err.h"
#include <pg_query/pg_query.pb-c.h>

#define IDENTIFIER_BYTES_MAX 63
#define SQL_TOKENS_MAX 200000
#define SQL_DEPTH_MAX 400

struct token {
    int start, end; /* bytes of the text, end exclusive */
    int kind;       /* PG_QUERY__TOKEN__… */
    int keyword;    /* PG_QUERY__KEYWORD_KIND__… */
};
struct tokens {
    size_t n;
    struct token *v; /* without comments */
};

/* False when the text does not even scan (the parser then has the better message) or memory ran out
 * (arena_failed). */
bool tokens_scan(struct arena *arena, const char *sql, struct tokens *ret);

/* Upper bound on how deep the parser nests the tree of this statement. The parser itself is a loop with a
 * heap stack, but everything that walks its tree recurses. */
int tokens_depth(const struct tokens *t);

/* Bytes of the identifier that the token stands for, before the parser cuts it. */
size_t token_identifier_len(struct str sql, const struct token *t);
/* Token that starts at this byte, or NULL. */
const struct token *tokens_at(const struct tokens *t, int start);
/* The identifier itself: unquoted and folded to lower case as the parser does. False for U&"…" (not decoded
 * here). */
bool token_identifier(struct arena *arena, struct str sql, const struct token *t, struct str *ret);

/* `from` as a column: the text with each such token in double quotes, and how to come back from its
 * positions. */
struct from_map {
    size_t n;
    int *starts; /* of the quoted tokens, in the original text, ascending */
};
/* False when no `from` stands where a column can. */
bool bare_from_quote(struct arena *arena, struct str sql, const struct tokens *t, struct str *ret_text,
    struct from_map *ret_map);
/* Byte offset in the quoted text → byte offset in the original. */
int from_map_back(const struct from_map *m, int offset);
/* Does the offset fall on a token that bare_from_quote quoted? */
bool from_map_hit(const struct from_map *m, int offset);

#endif
