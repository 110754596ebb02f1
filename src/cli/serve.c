#include "api/api.h"
#include "base/log.h"
#include "cli/client.h"
#include "kalamdb.h"
#include "kalamdb_admin.h"
#include "vault/vault.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

void cli_engine_options(const struct config *c, struct kalamdb_options *o)
{
    kalamdb_options_default(o);
    o->data_dir = c->data;
    o->worker_path = c->worker_path;
    o->worker_uncaged = strcmp(c->worker_cage, "off") == 0;
    o->durability = strcmp(c->durability, "async") == 0 ? KALAMDB_ASYNC : KALAMDB_SYNC;
    o->async_window_ms = (int)c->async_window_ms;
    o->query_timeout_ms = (int)c->query_timeout_ms;
    o->max_result_rows = (size_t)c->max_result_rows;
    o->max_sql_bytes = (size_t)c->max_sql_bytes;
    o->max_content_bytes = (size_t)c->max_content_bytes;
    o->large_content_bytes = (size_t)c->large_content_bytes;
    o->max_media_bytes = (uint64_t)c->max_media_bytes;
    o->max_import_bytes = (uint64_t)c->max_import_bytes;
    o->max_user_media_bytes = (uint64_t)c->max_user_media_bytes;
    o->media_types = c->media_types;
    o->max_changed_rows = (size_t)c->max_changed_rows;
    o->max_group_members = (uint32_t)c->max_group_members;
    o->consolidate_rows = (int)c->consolidate_rows;
    o->consolidate_interval_ms = c->consolidate_interval_ms;
    o->consolidate_min_rows = (int)c->consolidate_min_rows;
    o->hot_tail_rows = (int)c->hot_tail_rows;
    o->tombstone_retention_s = c->tombstone_retention_s;
    o->disk_reserve_bytes = (uint64_t)c->disk_reserve_bytes;
    o->workers = (int)c->workers;
    o->worker_memory_bytes = (size_t)c->worker_memory_bytes;
    o->block_cache_bytes = (size_t)c->block_cache_bytes;
    o->write_buffer_bytes = (size_t)c->write_buffer_bytes;
    o->cold_cache_bytes = (uint64_t)c->cold_cache_bytes;
    o->erase_sent = strcmp(c->erase_sent, "redact") == 0 ? KALAMDB_REDACT
                    : strcmp(c->erase_sent, "keep") == 0 ? KALAMDB_KEEP
                                                         : KALAMDB_ANONYMIZE;
    o->encryption = strcmp(c->encryption, "on") == 0;
    o->master_key_file = c->master_key_file;
    o->master_key = c->master_key;
}

static void set_log_level(const char *level)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(level, names[i]) == 0)
            log_set_level((enum log_level)i);
    }
}

int cli_fail_kalamdb(const struct kalamdb_error *error)
{
    struct errctx ec = {.code = (enum err)error->code};
    memcpy(ec.message, error->message, sizeof ec.message);
    memcpy(ec.detail, error->detail, sizeof ec.detail);
    memcpy(ec.hint, error->hint, sizeof ec.hint);
    memcpy(ec.internal, error->internal, sizeof ec.internal);
    return cli_fail(&ec, EXIT_FAILED);
}

struct published {
    const struct config *c;
    struct server *server;
};

/* Where, and under which certificate, the other commands find this server. */
static void publish(void *arg)
{
    const struct published *p = arg;
    struct errctx ec = {0};
    uint8_t pin[32];
    bool tls = server_tls_port(p->server) == server_port(p->server) && server_certificate_pin(p->server, pin);
    if (client_publish(p->c, server_port(p->server), tls ? pin : NULL, &ec) != ERR_OK)
        log_event(LOG_WARN, "address_not_written", "s:reason", ec.message, NULL);
}

/* PostgreSQL's rule for key files, 0600 or root's 0640, as advice only: what mounts secrets into containers
 * makes them 0644. */
static void warn_readable(const char *setting, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return;
    if ((st.st_mode & (st.st_uid == 0 ? (mode_t)027 : (mode_t)077)) != 0)
        log_event(LOG_WARN, "key_file_open_to_others", "s:file", setting, "s:path", path, "s:hint",
            "chmod 600, or 640 when it belongs to root", NULL);
}

static void warn_of_keys(const struct config *c)
{
    static const char *const made[] = {"jwt_secret", "master.key", "receipt.key"};
    char path[PATH_MAX];
    if (c->master_key_file != NULL)
        warn_readable("master_key_file", c->master_key_file);
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        int n = snprintf(path, sizeof path, "%s/.kalamdb/%s", c->data, made[i]);
        if (n > 0 && (size_t)n < sizeof path)
            warn_readable(made[i], path);
    }
}

static int serve(const struct config *c)
{
    struct errctx ec = {0};
    struct auth *auth = NULL;
    if (cli_open_auth(c, &auth, &ec) != ERR_OK)
        return cli_fail(&ec, ec.code == ERR_INVALID_REQUEST ? EXIT_USAGE : EXIT_FAILED);

    struct kalamdb_options options;
    struct kalamdb_error error = {0};
    struct kalamdb *db = NULL;
    cli_engine_options(c, &options);
    if (kalamdb_open(&options, &db, &error) != KALAMDB_OK) {
        auth_close(auth);
        return cli_fail_kalamdb(&error);
    }
    if (options.encryption && c->master_key_file == NULL && c->master_key == NULL)
        log_event(LOG_WARN, "master_key_beside_data", "s:reason",
            "a key in the data directory protects backups and files cut out of it, not the directory", NULL);
    warn_of_keys(c);
    if (!kalamdb_workers_caged(db))
        log_event(LOG_WARN, "workers_uncaged", "s:reason", "worker_cage is off", "s:meaning",
            "query workers have no system-call filter and no Landlock around them: native code that takes "
            "over "
            "a worker has the rights of this server's user, all users' data included",
            NULL);
    struct server *server = NULL;
    int status = EXIT_SUCCESS;
    if (server_open(c, db, auth, &server, &ec) != ERR_OK) {
        status = cli_fail(&ec, ec.code == ERR_INVALID_REQUEST ? EXIT_USAGE : EXIT_FAILED);
    } else {
        log_event(LOG_INFO, "started", "s:version", KALAMDB_VERSION, "s:listen", c->listen, "i:port",
            (long long)server_port(server), "i:tls_port", (long long)server_tls_port(server), "s:data",
            c->data, NULL);
        struct published p = {c, server};
        publish(&p);
        server_on_certificate(server, publish, &p);
        if (server_run(server, &ec) != ERR_OK)
            status = cli_fail(&ec, EXIT_FAILED);
        client_unpublish(c);
        server_close(server);
    }
    kalamdb_close(db);
    auth_close(auth);
    log_event(LOG_INFO, "stopped", "i:status", (long long)status, NULL);
    return status;
}

int cli_serve(int argc, char **argv, char **envp)
{
    struct config c;
    if (!cli_config(&c, argc, argv, envp, NULL))
        return EXIT_USAGE;
    set_log_level(c.log_level);
    vault_harden_process();
    int status = serve(&c);
    config_release(&c);
    return status;
}
