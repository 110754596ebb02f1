#include "cli/cli.h"
#include "kalamdb_admin.h"
#include <stdio.h>
#include <stdlib.h>

static bool parse(
    int argc, char **argv, struct str *ret_from, struct str *ret_keys, int64_t *ret_backup, struct errctx *ec)
{
    struct str backup = STR_NULL;
    for (int i = 0; i < argc;) {
        int n = cli_flag(argc - i, argv + i, "--from", ret_from);
        if (n == 0)
            n = cli_flag(argc - i, argv + i, "--backup", &backup);
        if (n == 0)
            n = cli_flag(argc - i, argv + i, "--keys", ret_keys);
        if (n <= 0) {
            err_set(ec, ERR_INVALID_REQUEST, n < 0 ? "%s: needs a value" : "unknown argument: %s", argv[i]);
            return false;
        }
        i += n;
    }
    if (backup.ptr != NULL &&
        (!str_to_i64(backup, ret_backup) || *ret_backup < 1 || *ret_backup > UINT32_MAX)) {
        err_set(ec, ERR_INVALID_REQUEST, "--backup: the number of a backup, not \"%.*s\"", STR_FMT(backup));
        return false;
    }
    if (ret_from->len == 0) {
        err_set(ec, ERR_INVALID_REQUEST, "--from is missing: the directory with the backups");
        err_hint(ec, "kalamdb restore --from DIR --data NEWDIR [--backup N] [--keys DIR]");
        return false;
    }
    return true;
}

int cli_restore(int argc, char **argv, char **envp)
{
    struct config c;
    struct errctx ec = {0};
    struct kalamdb_error error = {0};
    struct kalamdb_backup done;
    struct str from = STR_NULL, keys = STR_NULL;
    int64_t backup = 0;
    int left = 0, result;
    if (!cli_config(&c, argc, argv, envp, &left))
        return EXIT_USAGE;
    if (!parse(left, argv, &from, &keys, &backup, &ec)) {
        config_release(&c);
        return cli_fail(&ec, EXIT_USAGE);
    }
    char *dir = strndup(from.ptr, from.len), *ring = keys.len > 0 ? strndup(keys.ptr, keys.len) : NULL;
    if (dir == NULL || (keys.len > 0 && ring == NULL))
        result = cli_fail((err_set(&ec, ERR_NO_MEMORY, "out of memory"), &ec), EXIT_FAILED);
    else if (kalamdb_restore(dir, (uint32_t)backup, c.data, ring, &done, &error) != KALAMDB_OK) {
        result = cli_fail_kalamdb(&error);
    } else {
        printf("backup %u is restored in %s: %llu files, %llu bytes\n", done.generation, c.data,
            (unsigned long long)done.files, (unsigned long long)done.bytes);
        result = EXIT_SUCCESS;
    }
    free(ring);
    free(dir);
    config_release(&c);
    return result;
}
