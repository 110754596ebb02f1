/* libFuzzer target of the SQL gate: any bytes as a statement, of a user and of a service, with two
 * parameters. What it asserts beyond "does not crash": an error has a code of the contract, a message, and a
 * position inside the text; a user's statement reads and writes no table but the user's own. */
#include "sql/sql.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
    if (!ok)
        abort();
}

static void check_statement(const struct stmt *s, const struct caller *caller)
{
    for (int i = 0; i < s->ntables; i++) {
        require(s->tables[i].schema != NULL);
        require(caller->role != ROLE_USER || str_eq(s->tables[i].owner, caller->user_id));
    }
    if (s->kind == STMT_SELECT) {
        require(s->read_sql.len > 0);
    } else {
        require(s->target != NULL);
        require(caller->role != ROLE_USER || str_eq(s->target_owner, caller->user_id));
    }
    for (int i = 0; s->kind == STMT_INSERT && i < s->ncolumns; i++)
        require(s->columns[i] >= 0 && s->columns[i] < s->target->ncolumns);
    for (int i = 0; s->fast != NULL && i < s->fast->npreds; i++)
        require(s->fast->preds[i].column >= 0);
}

static void parse_as(struct str sql, enum role role, int nparams)
{
    const struct value params[] = {value_text(STR("c1")), value_i64(5)};
    const struct caller caller = {STR("alice"), role};
    const struct sql_limits limits = {1 << 16, INT64_C(1760356800000000)};
    struct arena arena;
    struct stmt *s = NULL;
    struct errctx ec;
    arena_init(&arena, 16 << 20);
    enum err e = sql_parse(&arena, sql, params, nparams, &caller, &limits, &s, &ec);
    if (e == ERR_OK) {
        check_statement(s, &caller);
    } else {
        require(e == ec.code && err_status(e) != 500 && ec.message[0] != '\0');
        require(ec.position >= 0 && (size_t)ec.position <= sql.len + 1);
    }
    arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str sql = str_n((const char *)data, size);
    parse_as(sql, ROLE_USER, 0);
    parse_as(sql, ROLE_SERVICE, 2);
    return 0;
}
