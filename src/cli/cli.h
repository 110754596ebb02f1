/* Subcommands of `kalamdb`. Each gets the words after its name and returns the process's exit status: 0 done,
 * 1 it failed while running, 2 the call or the configuration is wrong. They print for people: one line on
 * stderr that says what is wrong, and a hint. */
#ifndef KALAMDB_CLI_CLI_H
#define KALAMDB_CLI_CLI_H

#include "auth/auth.h"
#include "config/config.h"
#include "kalamdb.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

int cli_serve(int argc, char **argv, char **envp);
int cli_token(int argc, char **argv, char **envp);
int cli_audit(int argc, char **argv, char **envp);
int cli_verify_receipt(int argc, char **argv);
int cli_keys(int argc, char **argv, char **envp);
int cli_backup(int argc, char **argv, char **envp);
int cli_restore(int argc, char **argv, char **envp);
int cli_export(int argc, char **argv, char **envp);
int cli_import(int argc, char **argv, char **envp);
int cli_verify(int argc, char **argv, char **envp);

/* Prints "kalamdb: message", detail and hint; returns `status`. */
int cli_fail(const struct errctx *ec, int status);
int cli_fail_kalamdb(const struct kalamdb_error *error);
/* What the configuration means to the engine; borrows its strings. */
void cli_engine_options(const struct config *c, struct kalamdb_options *o);
/* config_load with the warning about unknown variables; false after having printed why not. */
bool cli_config(struct config *c, int argc, char **argv, char **envp, int *ret_argc);
/* Takes `--name value` or `--name=value` at argv[0]; words used, 0 when it is another flag, -1 when the value
 * lacks. */
int cli_flag(int argc, char **argv, const char *name, struct str *ret);
/* The key for tokens, as configured, made in <data>/.kalamdb when there is none. */
enum err cli_open_auth(const struct config *c, struct auth **ret, struct errctx *ec) CHECKED;

#endif
