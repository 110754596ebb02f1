/* Plain DuckDB as the yardstick of answers: reads one statement a line, prints its rows as one line of JSON,
 * an array of arrays of text (null for NULL), or {"error": …}. threads=1, as the workers have it. */
#include "base/json.h"
#include "duckdb.h"
#include <stdio.h>
#include <stdlib.h>

static void print_result(duckdb_result *r)
{
    struct buf b = BUF_INIT(0);
    buf_u8(&b, '[');
    for (idx_t row = 0; row < duckdb_row_count(r); row++) {
        buf_str(&b, row == 0 ? STR("[") : STR(",["));
        for (idx_t col = 0; col < duckdb_column_count(r); col++) {
            char *text = duckdb_value_varchar(r, col, row);
            if (col > 0)
                buf_u8(&b, ',');
            if (text == NULL)
                buf_str(&b, STR("null"));
            else
                json_str(&b, str_c(text));
            duckdb_free(text);
        }
        buf_u8(&b, ']');
    }
    buf_u8(&b, ']');
    printf("%.*s\n", (int)b.len, b.ptr);
    buf_release(&b);
}

int main(void)
{
    duckdb_database db;
    duckdb_connection con;
    char *line = NULL;
    size_t cap = 0;
    if (duckdb_open(NULL, &db) != DuckDBSuccess || duckdb_connect(db, &con) != DuckDBSuccess ||
        duckdb_query(con, "SET threads = 1; SET TimeZone = 'UTC'; SET integer_division = true", NULL) !=
            DuckDBSuccess)
        return 2;
    while (getline(&line, &cap, stdin) > 0) {
        duckdb_result r = {0};
        if (duckdb_query(con, line, &r) == DuckDBSuccess) {
            print_result(&r);
        } else {
            struct buf b = BUF_INIT(0);
            json_str(&b, str_c(duckdb_result_error(&r)));
            printf("{\"error\":%.*s}\n", (int)b.len, b.ptr);
            buf_release(&b);
        }
        duckdb_destroy_result(&r);
        fflush(stdout);
    }
    free(line);
    duckdb_disconnect(&con);
    duckdb_close(&db);
    return 0;
}
