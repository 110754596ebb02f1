/* `kalamdb verify`: reads the whole of a data directory that no server has, and prints what is damaged, a
 * line each: whose it is, the file or table, what is wrong. */
#include "cli/cli.h"
#include "kalamdb_admin.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Ids and paths may hold anything but control characters: one line stays one line. */
static void print_found(void *arg, struct kalamdb_str user_id, const char *text)
{
    (void)arg;
    if (user_id.ptr != NULL)
        printf("user %.*s: %s\n", (int)user_id.len, user_id.ptr, text);
    else
        printf("%s\n", text);
}

static bool parse(int argc, char **argv, struct str *ret_user, struct errctx *ec)
{
    for (int i = 0; i < argc;) {
        int n = cli_flag(argc - i, argv + i, "--user", ret_user);
        if (n <= 0) {
            err_set(ec, ERR_INVALID_REQUEST, n < 0 ? "%s: needs a value" : "unknown argument: %s", argv[i]);
            err_hint(ec, "kalamdb verify [--data DIR] [--user ID]");
            return false;
        }
        i += n;
    }
    return true;
}

/* A database that does not open is the first finding. */
static int does_not_open(const struct kalamdb_error *error)
{
    struct kalamdb_error told = *error;
    if (error->code == ERR_CONFLICT) {
        snprintf(told.hint, sizeof told.hint, "Stop the server first; or verify a restored backup.");
        return cli_fail_kalamdb(&told);
    }
    printf("database: %s\n", error->internal[0] != '\0' ? error->internal : error->message);
    return EXIT_FAILED;
}

static int verify(const struct config *c, struct str user)
{
    struct kalamdb_options options;
    struct kalamdb_error error = {0};
    struct kalamdb_verified v;
    struct kalamdb *db = NULL;
    struct stat st;
    struct errctx ec = {0};
    if (stat(c->data, &st) != 0) {
        err_set(&ec, ERR_NOT_FOUND, "there is no data directory %s", c->data);
        return cli_fail(&ec, EXIT_USAGE);
    }
    cli_engine_options(c, &options);
    options.consolidate_interval_ms = 0;
    options.inspect = true;
    if (kalamdb_open(&options, &db, &error) != KALAMDB_OK)
        return does_not_open(&error);
    kalamdb_code code =
        kalamdb_verify(db, (struct kalamdb_str){user.ptr, user.len}, print_found, NULL, &v, &error);
    kalamdb_close(db);
    if (code != KALAMDB_OK)
        return cli_fail_kalamdb(&error);
    fprintf(stderr,
        "%llu users, %llu groups, %llu messages, %llu Parquet files, %llu content files: %llu findings\n",
        (unsigned long long)v.users, (unsigned long long)v.groups, (unsigned long long)v.messages,
        (unsigned long long)v.files, (unsigned long long)v.contents, (unsigned long long)v.findings);
    return v.findings == 0 ? EXIT_SUCCESS : EXIT_FAILED;
}

int cli_verify(int argc, char **argv, char **envp)
{
    struct config c;
    struct errctx ec = {0};
    struct str user = STR_NULL;
    int left = 0;
    if (!cli_config(&c, argc, argv, envp, &left))
        return EXIT_USAGE;
    int status = parse(left, argv, &user, &ec) ? verify(&c, user) : cli_fail(&ec, EXIT_USAGE);
    config_release(&c);
    return status;
}
