/* Plain DuckDB on the same Parquet files, for the ratio: median of N runs of one statement, threads=1.
 *   duck N SQL        SQL reads read_parquet('…') directly. Prints one JSON object. */
#include "duckdb.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    duckdb_database db;
    duckdb_connection con;
    int n = argc == 3 ? atoi(argv[1]) : 0;
    if (n < 1 || n > 1000 || duckdb_open(NULL, &db) != DuckDBSuccess ||
        duckdb_connect(db, &con) != DuckDBSuccess)
        return 2;
    if (duckdb_query(con, "SET threads = 1", NULL) != DuckDBSuccess)
        return 2;
    double ms[1000];
    uint64_t rows = 0;
    for (int i = 0; i < n; i++) {
        duckdb_result r = {0};
        double start = now_ms();
        if (duckdb_query(con, argv[2], &r) != DuckDBSuccess) {
            fprintf(stderr, "%s\n", duckdb_result_error(&r));
            return 1;
        }
        ms[i] = now_ms() - start;
        rows = duckdb_row_count(&r);
        duckdb_destroy_result(&r);
    }
    qsort(ms, (size_t)n, sizeof *ms, compare);
    printf("{\"what\":\"plain duckdb\",\"runs\":%d,\"rows\":%llu,\"p50_ms\":%.2f,\"min_ms\":%.2f}\n", n,
        (unsigned long long)rows, ms[n / 2], ms[0]);
    duckdb_disconnect(&con);
    duckdb_close(&db);
    return 0;
}
