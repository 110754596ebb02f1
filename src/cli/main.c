#include "base/log.h"
#include "cli/cli.h"
#include "kalamdb.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char usage[] =
    "kalamdb, the SQL database for conversations\n"
    "\n"
    "  kalamdb serve  [settings]                  run the server\n"
    "  kalamdb token  --user ID [--role user|service|admin] [--ttl 24h] [settings]\n"
    "                                             print a token signed with the server's key\n"
    "  kalamdb backup --to DIR [--keep N] [--keys DIR2] [settings]\n"
    "                                             back up everything, also while the server runs; the keys "
    "go to\n"
    "                                             DIR2, or DIR.keys\n"
    "  kalamdb backup --list DIR                  the backups in a directory\n"
    "  kalamdb restore --from DIR --data NEWDIR [--backup N] [--keys DIR2]\n"
    "                                             make a data directory out of a backup\n"
    "  kalamdb keys [settings]                    which master key is in force\n"
    "  kalamdb keys rotate [--new-master-key-file FILE] [settings]\n"
    "                                             another master key, also while the server runs\n"
    "  kalamdb export --user ID [-o FILE] [--url URL --token TOKEN [--ca FILE]] [settings]\n"
    "                                             one user's data as a tar, also while the server runs\n"
    "  kalamdb import --user ID FILE [--url URL --token TOKEN [--ca FILE]] [settings]\n"
    "                                             bring such a tar back, under the same id or another\n"
    "  kalamdb verify [--user ID] [settings]      check every checksum, index and counter of a directory "
    "that no\n"
    "                                             server has open; exit status 1 when something is damaged\n"
    "  kalamdb verify-receipt FILE [--data DIR | --key KEY]\n"
    "                                             check the receipt of an erasure\n"
    "  kalamdb audit verify [DIR] [--head HASH] [settings]\n"
    "                                             check the chain of the audit log\n"
    "  kalamdb config [settings]                  print the effective configuration, secrets masked\n"
    "  kalamdb settings                           list every setting with its default (Markdown)\n"
    "  kalamdb version\n"
    "\n"
    "Settings: --data DIR, --listen HOST:PORT, --query-timeout-ms 5000 …, or KALAMDB_QUERY_TIMEOUT_MS in "
    "the\n"
    "environment, or query_timeout_ms in the file given by --config FILE; a flag wins over the environment, "
    "the\n"
    "environment over the file.\n";

int cli_fail(const struct errctx *ec, int status)
{
    fprintf(stderr, "kalamdb: %s\n", ec->message);
    if (ec->internal[0] != '\0')
        fprintf(stderr, "  cause: %s\n", ec->internal);
    if (ec->detail[0] != '\0')
        fprintf(stderr, "  %s\n", ec->detail);
    if (ec->hint[0] != '\0')
        fprintf(stderr, "  hint: %s\n", ec->hint);
    return status;
}

static void warn_unknown(const char *name)
{
    log_event(LOG_WARN, "unknown_variable", "s:name", name, NULL);
}

bool cli_config(struct config *c, int argc, char **argv, char **envp, int *ret_argc)
{
    struct errctx ec = {0};
    if (config_load(c, argc, argv, envp, ret_argc, warn_unknown, &ec) == ERR_OK)
        return true;
    cli_fail(&ec, EXIT_USAGE);
    return false;
}

static void warn_key(void *arg, const char *text)
{
    (void)arg;
    log_event(LOG_WARN, "jwt_key_passed_over", "s:reason", text, NULL);
}

enum err cli_open_auth(const struct config *c, struct auth **ret, struct errctx *ec)
{
    char *dir = NULL, *path = NULL;
    enum err e = ERR_OK;
    if (asprintf(&dir, "%s/.kalamdb", c->data) < 0 || asprintf(&path, "%s/jwt_secret", dir) < 0)
        e = err_set(ec, ERR_NO_MEMORY, "out of memory");
    bool makes = c->jwt_secret == NULL && c->jwt_public_key_file == NULL && c->jwks_file == NULL;
    if (e == ERR_OK && makes && os_mkdirs(dir, ec) != ERR_OK)
        e = err_set(ec, ERR_IO, "cannot create %s", dir);
    struct auth_config cfg = {.secret = c->jwt_secret,
        .secret_len = c->jwt_secret != NULL ? strlen(c->jwt_secret) : 0,
        .secret_path = path,
        .create = true,
        .public_key_path = c->jwt_public_key_file,
        .jwks_path = c->jwks_file,
        .issuer = c->jwt_issuer,
        .audience = c->jwt_audience,
        .leeway_s = c->jwt_leeway_s,
        .os = os_posix(),
        .warn = warn_key};
    if (e == ERR_OK)
        e = auth_open(&cfg, ret, ec);
    free(path);
    free(dir);
    return e;
}

int cli_flag(int argc, char **argv, const char *name, struct str *ret)
{
    size_t n = strlen(name);
    if (strncmp(argv[0], name, n) != 0 || (argv[0][n] != '\0' && argv[0][n] != '='))
        return 0;
    if (argv[0][n] == '=') {
        *ret = str_c(argv[0] + n + 1);
        return 1;
    }
    if (argc < 2)
        return -1;
    *ret = str_c(argv[1]);
    return 2;
}

static int print_config(int argc, char **argv, char **envp)
{
    struct config c;
    if (!cli_config(&c, argc, argv, envp, NULL))
        return EXIT_USAGE;
    struct buf b = BUF_INIT(0);
    config_print(&c, &b);
    int r = os_write_all(STDOUT_FILENO, b.ptr, b.len);
    buf_release(&b);
    config_release(&c);
    return r == 0 ? EXIT_SUCCESS : EXIT_FAILED;
}

static int print_settings(void)
{
    struct buf b = BUF_INIT(0);
    config_help(&b);
    int r = os_write_all(STDOUT_FILENO, b.ptr, b.len);
    buf_release(&b);
    return r == 0 ? EXIT_SUCCESS : EXIT_FAILED;
}

int main(int argc, char **argv, char **envp)
{
    struct str verb = argc > 1 ? str_c(argv[1]) : STR("help");
    argc -= 2;
    argv += 2;
    if (str_eq(verb, STR("serve")))
        return cli_serve(argc, argv, envp);
    if (str_eq(verb, STR("token")))
        return cli_token(argc, argv, envp);
    if (str_eq(verb, STR("backup")))
        return cli_backup(argc, argv, envp);
    if (str_eq(verb, STR("keys")))
        return cli_keys(argc, argv, envp);
    if (str_eq(verb, STR("restore")))
        return cli_restore(argc, argv, envp);
    if (str_eq(verb, STR("export")))
        return cli_export(argc, argv, envp);
    if (str_eq(verb, STR("import")))
        return cli_import(argc, argv, envp);
    if (str_eq(verb, STR("verify")))
        return cli_verify(argc, argv, envp);
    if (str_eq(verb, STR("verify-receipt")))
        return cli_verify_receipt(argc, argv);
    if (str_eq(verb, STR("audit")))
        return cli_audit(argc, argv, envp);
    if (str_eq(verb, STR("config")))
        return print_config(argc, argv, envp);
    if (str_eq(verb, STR("settings")))
        return print_settings();
    if (str_eq(verb, STR("version")) || str_eq(verb, STR("--version"))) {
        puts("kalamdb " KALAMDB_VERSION);
        return EXIT_SUCCESS;
    }
    bool asked = str_eq(verb, STR("help")) || str_eq(verb, STR("--help")) || str_eq(verb, STR("-h"));
    if (!asked)
        fprintf(stderr, "kalamdb: unknown command \"%.*s\"\n\n", STR_FMT(verb));
    fputs(usage, asked ? stdout : stderr);
    return asked ? EXIT_SUCCESS : EXIT_USAGE;
}
