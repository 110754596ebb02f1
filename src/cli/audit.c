/* kalamdb audit verify [DIR]: is the audit log the one that was written? */
#include "audit/audit.h"
#include "cli/cli.h"
#include <stdio.h>
#include <stdlib.h>

static int verify(const char *dir, struct str head)
{
    struct errctx ec = {0};
    struct audit_verified v;
    if (audit_verify(dir, head, &v, &ec) != ERR_OK)
        return cli_fail(&ec, EXIT_FAILED);
    printf("records:   %llu to %llu, in %llu files\n", (unsigned long long)v.first,
        (unsigned long long)v.last, (unsigned long long)v.files);
    printf("head:      %s\n", v.hash);
    if (v.first > 1)
        printf("note:      files before record %llu are not here\n", (unsigned long long)v.first);
    if (v.cut)
        puts("note:      the last line is half: a crash cut it, or the server is writing");
    if (head.ptr != NULL && !v.head_seen) {
        err_set(&ec, ERR_CORRUPT,
            "no record has the hash that was asked for: records were cut off the end, or "
            "this is another log");
        return cli_fail(&ec, EXIT_FAILED);
    }
    puts(head.ptr != NULL
             ? "chain:     whole, and the head that was noted is in it"
             : "chain:     whole (that nothing was cut off its end, a head noted elsewhere tells: --head)");
    return EXIT_SUCCESS;
}

int cli_audit(int argc, char **argv, char **envp)
{
    struct config c;
    struct errctx ec = {0};
    struct str head = STR_NULL;
    const char *dir = NULL;
    int left = 0;
    if (!cli_config(&c, argc, argv, envp, &left))
        return EXIT_USAGE;
    bool asked = left > 0 && strcmp(argv[0], "verify") == 0;
    for (int i = 1; asked && i < left;) {
        int used = cli_flag(left - i, argv + i, "--head", &head);
        if (used < 0 || (used == 0 && (argv[i][0] == '-' || dir != NULL)))
            asked = false;
        else if (used == 0)
            dir = argv[i];
        i += used > 0 ? used : 1;
    }
    int status = EXIT_USAGE;
    char *own = NULL;
    if (!asked) {
        err_set(&ec, ERR_INVALID_REQUEST, "what to do with the audit log?");
        err_hint(&ec, "kalamdb audit verify [DIR] [--head HASH] [--data DIR]");
        cli_fail(&ec, EXIT_USAGE);
    } else if (dir == NULL && asprintf(&own, "%s/.kalamdb/audit", c.data) < 0) {
        own = NULL;
        status = EXIT_FAILED;
    } else {
        status = verify(dir != NULL ? dir : own, head);
    }
    free(own);
    config_release(&c);
    return status;
}
