#include "auth/receipt.h"
#include "base/json.h"
#include "cli/cli.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define RECEIPT_BYTES_MAX 65536

/* By whose key: the one given, that of a data directory, or none. *ret_known: it is not the receipt's own. */
static enum err trusted_key(
    struct str key, struct str data, uint8_t ret[RECEIPT_KEY_BYTES], bool *ret_known, struct errctx *ec)
{
    *ret_known = key.ptr != NULL || data.ptr != NULL;
    if (key.ptr != NULL && !receipt_base64(key, ret, RECEIPT_KEY_BYTES)) {
        err_set(ec, ERR_INVALID_REQUEST, "--key: \"%.*s\" is no public key", STR_FMT(key));
        err_hint(ec, "the \"key\" of a receipt that you trust: 32 bytes in base64");
        return ec->code;
    }
    if (key.ptr != NULL || data.ptr == NULL)
        return ERR_OK;
    char *path = NULL;
    struct receipt_key *k = NULL;
    if (asprintf(&path, "%.*s/.kalamdb/receipt.key", STR_FMT(data)) < 0)
        return err_set(ec, ERR_NO_MEMORY, "out of memory");
    enum err e = receipt_key_open(os_posix(), path, false, &k, ec);
    if (e == ERR_OK)
        receipt_key_public(k, ret);
    receipt_key_close(k);
    free(path);
    return e;
}

static enum err read_receipt(struct str file, struct buf *b, struct errctx *ec)
{
    char *path = strndup(file.ptr, file.len);
    enum err e = path != NULL ? os_read_file(path, b, ec) : err_set(ec, ERR_NO_MEMORY, "out of memory");
    if (e != ERR_OK && path != NULL)
        e = err_set(ec, ERR_INVALID_REQUEST, "cannot read %s%s", path,
            e == ERR_NOT_FOUND ? ": there is no such file" : "");
    free(path);
    return e;
}

int cli_verify_receipt(int argc, char **argv)
{
    struct errctx ec = {0};
    struct str file = STR_NULL, key = STR_NULL, data = STR_NULL;
    uint8_t trusted[RECEIPT_KEY_BYTES], used[RECEIPT_KEY_BYTES];
    bool known = false;
    for (int i = 0; i < argc;) {
        int n = cli_flag(argc - i, argv + i, "--key", &key);
        if (n == 0)
            n = cli_flag(argc - i, argv + i, "--data", &data);
        if (n == 0 && argv[i][0] != '-' && file.ptr == NULL) {
            file = str_c(argv[i]);
            n = 1;
        }
        if (n <= 0) {
            err_set(&ec, ERR_INVALID_REQUEST, n < 0 ? "%s: needs a value" : "unknown argument: %s", argv[i]);
            return cli_fail(&ec, EXIT_USAGE);
        }
        i += n;
    }
    if (file.ptr == NULL) {
        err_set(&ec, ERR_INVALID_REQUEST, "which receipt?");
        err_hint(&ec, "kalamdb verify-receipt FILE [--data DIR | --key KEY]");
        return cli_fail(&ec, EXIT_USAGE);
    }
    struct buf json = BUF_INIT(RECEIPT_BYTES_MAX), text = BUF_INIT(0);
    enum err e = read_receipt(file, &json, &ec);
    if (e == ERR_OK)
        e = trusted_key(key, data, trusted, &known, &ec);
    if (e == ERR_OK)
        e = receipt_verify(buf_view(&json), known ? trusted : NULL, used, &text, &ec);
    int status =
        e == ERR_OK ? EXIT_SUCCESS : cli_fail(&ec, e == ERR_INVALID_REQUEST ? EXIT_USAGE : EXIT_FAILED);
    if (e == ERR_OK) {
        printf("%.*s", STR_FMT(buf_view(&text)));
        fputs(known
                  ? "kalamdb: the signature holds\n"
                  : "kalamdb: the signature holds by the key that the receipt names, which is its own word: "
                    "compare it with --data or --key\n",
            stderr);
    }
    buf_release(&json);
    buf_release(&text);
    return status;
}
