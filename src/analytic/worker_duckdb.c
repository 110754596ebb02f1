/* The instance that the zygote opens once and every worker inherits: in memory, one thread (so that fork is
 * safe: no other thread holds a lock), nothing loaded or fetched at run time, no file but the request's
 * descriptors, settings locked. It is warmed with one statement of every kind that costs something the first
 * time. */
#include "analytic/errmap.h"
#include "analytic/worker.h"
#include "os/os.h"
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

/* From src/sql/macros.c: PostgreSQL's functions by their names. Weak, so that the worker also links without
 * them (the tests of this folder need none). */
extern const char *const sql_worker_macros __attribute__((weak));

static const char *const settings[][2] = {
    {"threads", "1"},
    {"autoload_known_extensions", "false"},
    {"autoinstall_known_extensions", "false"},
    {"allow_community_extensions", "false"},
    {"allow_persistent_secrets", "false"},
    /* Its entries are found by path and time, and our paths are descriptors that come to mean other files. */
    {"enable_external_file_cache", "false"},
    {"integer_division", "true"},
    {"default_null_order", "nulls_last_on_asc_first_on_desc"},
    {"temp_directory", ""},
};

enum err worker_duckdb_exec(struct worker *w, const char *sql, struct errctx *ec)
{
    duckdb_result r;
    memset(&r, 0, sizeof r);
    enum err e = ERR_OK;
    if (duckdb_query(w->con, sql, &r) != DuckDBSuccess) {
        const char *text = duckdb_result_error(&r);
        e = errmap_duckdb(str_c(text != NULL ? text : ""), ec);
    }
    duckdb_destroy_result(&r);
    return e;
}

static enum err open_instance(struct worker *w, struct errctx *ec)
{
    duckdb_config config;
    char limit[32];
    snprintf(limit, sizeof limit, "%zuB", w->memory_bytes_max);
    if (duckdb_create_config(&config) != DuckDBSuccess)
        return err_internal(ec, ERR_NO_MEMORY, "duckdb config");
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < sizeof settings / sizeof *settings; i++)
        if (duckdb_set_config(config, settings[i][0], settings[i][1]) != DuckDBSuccess)
            e = err_internal(ec, ERR_INTERNAL, "duckdb does not know %s", settings[i][0]);
    if (e == ERR_OK && duckdb_set_config(config, "memory_limit", limit) != DuckDBSuccess)
        e = err_internal(ec, ERR_INTERNAL, "duckdb refuses memory_limit %s", limit);
    char *text = NULL;
    if (e == ERR_OK && duckdb_open_ext(NULL, &w->db, config, &text) != DuckDBSuccess)
        e = err_internal(ec, ERR_INTERNAL, "open duckdb: %s", text != NULL ? text : "");
    duckdb_free(text);
    duckdb_destroy_config(&config);
    return e;
}

/* After this the instance can read and write the descriptors of a request and nothing else, for good. */
static enum err lock_settings(struct worker *w, struct errctx *ec)
{
    struct buf sql = BUF_INIT(1u << 20);
    buf_str(&sql, STR("SET GLOBAL allowed_paths = ["));
    for (int i = 0; i < WORKER_SLOTS; i++)
        buf_printf(&sql, "%s'" WORKER_FD_PATH "%d'", i > 0 ? "," : "", WORKER_FD_BASE + i);
    buf_str(&sql, STR("]; SET GLOBAL enable_external_access = false; SET GLOBAL lock_configuration = true"));
    buf_u8(&sql, '\0');
    enum err e =
        sql.failed ? err_internal(ec, ERR_NO_MEMORY, "settings") : worker_duckdb_exec(w, sql.ptr, ec);
    buf_release(&sql);
    return e;
}

/* A Parquet file written and read, JSON, ICU, sort, join, window: first use of each fills caches and resolves
 * symbols that the forks then share. */
static enum err warm_up(struct worker *w, struct errctx *ec)
{
    static const char *const statements[] = {
        "COPY (SELECT i AS msg_id, 'c' || (i % 9) AS conversation_id, '{\"a\":1}'::JSON AS metadata, "
        "now() AS \"timestamp\", 'text of ' || i AS content FROM range(5000) t(i)) TO '/proc/self/fd/100' "
        "(FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION v2, ROW_GROUP_SIZE 4096, USE_TMP_FILE false)",
        "SELECT conversation_id, count(*), max(length(content)) FROM read_parquet('/proc/self/fd/100') "
        "WHERE msg_id > 10 GROUP BY conversation_id ORDER BY 2 DESC, 1 LIMIT 3",
        "SELECT metadata->>'$.a', date_trunc('month', \"timestamp\"), strftime(\"timestamp\", '%Y'), "
        "row_number() OVER (PARTITION BY conversation_id ORDER BY msg_id) FROM "
        "read_parquet(['/proc/self/fd/100'], "
        "union_by_name = true) f ANTI JOIN (VALUES (1), (2)) x(k) ON f.msg_id = x.k WHERE content ILIKE '%of "
        "4%'",
        "SELECT timestamptz '2025-01-01 12:00:00+02' AT TIME ZONE 'Europe/Berlin', 'a' ~ 'b', "
        "1.5::DECIMAL(10, 2)",
    };
    int fd = os_memfd("warm-up");
    if (fd < 0)
        return err_internal(ec, ERR_INTERNAL, "memfd: %s", strerror(-fd));
    int at = dup2(fd, WORKER_FD_BASE);
    close(fd);
    if (at < 0)
        return err_internal(ec, ERR_INTERNAL, "dup2: %s", strerror(errno));
    enum err e = ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < sizeof statements / sizeof *statements; i++)
        e = worker_duckdb_exec(w, statements[i], ec);
    close(at);
    /* Number 0 has been this file's. */
    w->slots_used = 1;
    return e;
}

enum err worker_duckdb_open(struct worker *w, struct errctx *ec)
{
    enum err e = open_instance(w, ec);
    if (e != ERR_OK)
        return e;
    if (duckdb_connect(w->db, &w->con) != DuckDBSuccess)
        return err_internal(ec, ERR_INTERNAL, "connect to duckdb");
    e = worker_duckdb_exec(w, "SET GLOBAL TimeZone = 'UTC'", ec);
    /* Keeps footers, by path: worker_files.c sees to it that a path is one file. */
    if (e == ERR_OK)
        e = worker_duckdb_exec(w, "SET GLOBAL parquet_metadata_cache = true", ec);
    if (e == ERR_OK && &sql_worker_macros != NULL && sql_worker_macros != NULL)
        e = worker_duckdb_exec(w, sql_worker_macros, ec);
    if (e == ERR_OK)
        e = worker_scan_register(w, ec);
    if (e == ERR_OK)
        e = lock_settings(w, ec);
    if (e == ERR_OK)
        e = warm_up(w, ec);
    /* A mapped error keeps its words in message; at start-up all of it is for the log. */
    if (e != ERR_OK && ec->internal[0] == '\0')
        snprintf(ec->internal, sizeof ec->internal, "%s", ec->message);
    return e;
}

enum err worker_duckdb_reconnect(struct worker *w, struct errctx *ec)
{
    if (w->con != NULL)
        duckdb_disconnect(&w->con);
    w->con = NULL;
    /* A connection made after the fork also has its own seed for random() and uuid(). */
    if (duckdb_connect(w->db, &w->con) != DuckDBSuccess)
        return err_internal(ec, ERR_INTERNAL, "connect to duckdb");
    return ERR_OK;
}
