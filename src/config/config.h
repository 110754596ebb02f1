/* Every setting once: one table gives its YAML key, flag, environment variable, type, default, bounds and
 * help text. Flag before environment before file before default. Read at start, immutable after, any thread.
 */
#ifndef KALAMDB_CONFIG_CONFIG_H
#define KALAMDB_CONFIG_CONFIG_H

#include "base/buf.h"
#include "base/err.h"

/* X(kind, field, default, min, max, help)   kinds: STRING, SECRET, INT, BOOL, CHOICE("a|b" in help's
 * brackets), LIST, ENV (a secret from the environment only, which config_load takes out of it) */
#define CONFIG_LIST(X)                                                                                       \
    X(STRING, data, "./data", 0, 0, "data directory")                                                        \
    X(STRING, listen, "127.0.0.1:8080", 0, 0, "address and port to listen on; [::]:8080 for all, IPv6 too")  \
    X(STRING, tls_certificate_file, NULL, 0, 0,                                                              \
        "PEM certificate and chain: `listen` speaks TLS 1.3, or `tls_listen` where that is set")             \
    X(STRING, tls_key_file, NULL, 0, 0, "PEM key of the certificate, mode 0600 (root's: 0640)")              \
    X(STRING, tls_listen, NULL, 0, 0, "address for TLS, beside a plain `listen`")                            \
    X(CHOICE, tls_client_auth, "off", 0, 0, "are clients asked for a certificate [off|optional|required]")   \
    X(STRING, tls_client_ca_file, NULL, 0, 0, "PEM authorities whose client certificates are taken")         \
    X(INT, tls_handshake_timeout_ms, 10000, 100, 600000, "time for a TLS handshake")                         \
    X(INT, max_tls_handshakes, 1024, 1, 1000000, "TLS handshakes under way; for one more the oldest goes")   \
    X(INT, tls_check_ms, 10000, 0, 86400000, "how often the certificate's files are looked at; 0: never")    \
    X(INT, hsts_max_age_s, 31536000, 0, 2147483647,                                                          \
        "Strict-Transport-Security on answers under TLS; 0: none")                                           \
    X(INT, loops, 0, 0, 256, "event loops (threads); 0: one per core")                                       \
    X(SECRET, jwt_secret, NULL, 0, 0,                                                                        \
        "HS256 key, at least 32 bytes; made in the data directory when neither it nor a public key is set")  \
    X(STRING, jwt_public_key_file, NULL, 0, 0,                                                               \
        "public keys that tokens are checked with, as PEM (keys, certificates) or JWKS: RS256, ES256, "      \
        "EdDSA")                                                                                             \
    X(STRING, jwks_file, NULL, 0, 0, "a JSON Web Key Set beside it; both are read again when they change")   \
    X(STRING, jwt_issuer, NULL, 0, 0, "required iss claim")                                                  \
    X(STRING, jwt_audience, NULL, 0, 0, "required aud claim")                                                \
    X(INT, jwt_leeway_s, 30, 0, 3600, "clock leeway for exp and nbf, seconds")                               \
    X(CHOICE, durability, "sync", 0, 0, "when a write is acknowledged [sync|async]")                         \
    X(INT, async_window_ms, 50, 1, 10000, "async: at most this much is not yet fsynced")                     \
    X(INT, query_timeout_ms, 30000, 1, 3600000, "a statement is stopped after this")                         \
    X(INT, max_result_rows, 10000, 1, 10000000, "rows of one answer; more sets truncated")                   \
    X(INT, max_body_bytes, 10485760, 1024, 1073741824, "HTTP request body")                                  \
    X(INT, max_sql_bytes, 1048576, 1024, 104857600, "SQL text")                                              \
    X(INT, max_content_bytes, 1048576, 1, 104857600, "content of one message")                               \
    X(INT, large_content_bytes, 102400, 1024, 104857600,                                                     \
        "content of so many bytes or more becomes a file; rows keep its first 1,024 bytes")                  \
    X(INT, max_media_bytes, 52428800, 1, 1099511627776, "one uploaded file")                                 \
    X(INT, max_import_bytes, 10737418240, 1024, 109951162777600, "one imported archive")                     \
    X(LIST, media_types, NULL, 0, 0,                                                                         \
        "types of uploads that are accepted, by their bytes, comma-separated; image/* for a family; not "    \
        "set: any")                                                                                          \
    X(INT, max_user_media_bytes, 10737418240, 0, 1125899906842624,                                           \
        "all media that a user has uploaded and that is still there; 0: any")                                \
    X(INT, max_changed_rows, 1000000, 1, 100000000, "rows one UPDATE or DELETE may change")                  \
    X(INT, max_group_members, 1000, 2, 100000, "members of one group")                                       \
    X(INT, max_connections, 0, 0, 10000000,                                                                  \
        "open connections; 0: as the limit of open files allows, about nine tenths of it")                   \
    X(INT, max_connections_per_address, 0, 0, 10000000,                                                      \
        "open connections of one address, or IPv6 /64; 0: any")                                              \
    X(INT, max_connections_per_user, 0, 0, 10000000, "open sockets and event streams of one user; 0: any")   \
    X(INT, rate_limit_per_user, 0, 0, 1000000,                                                               \
        "requests and socket messages of one user per second; 0: any")                                       \
    X(INT, rate_limit_per_user_burst, 0, 0, 1000000, "so many at once; 0: twice the rate")                   \
    X(INT, rate_limit_per_address, 0, 0, 1000000,                                                            \
        "requests and socket messages of one address, or IPv6 /64, per second; 0: any")                      \
    X(INT, rate_limit_per_address_burst, 0, 0, 1000000, "so many at once; 0: twice the rate")                \
    X(INT, auth_failures_per_address, 0, 0, 1000000,                                                         \
        "bad tokens of one address per minute, then 429 instead of 401; 0: any")                             \
    X(INT, max_subscriptions, 100, 1, 1000000, "subscriptions of one connection")                            \
    X(INT, signals_per_second, 10, 0, 1000000,                                                               \
        "signals one connection may send, with bursts of twice as many")                                     \
    X(INT, max_frame_bytes, 1048576, 1024, 104857600, "WebSocket message from a client")                     \
    X(INT, max_socket_buffer_bytes, 262144, 4096, 1073741824, "bytes waiting for a slow reader")             \
    X(INT, slow_subscriber_timeout_ms, 30000, 100, 3600000,                                                  \
        "a socket that takes nothing for so long is closed")                                                 \
    X(INT, ping_interval_ms, 30000, 100, 3600000, "server pings")                                            \
    X(INT, idle_timeout_ms, 120000, 200, 86400000, "a connection without a sign of life is closed")          \
    X(INT, header_timeout_ms, 10000, 100, 600000, "time for a request to arrive whole")                      \
    X(CHOICE, audit_log, "on", 0, 0,                                                                         \
        "who did what to whom, in .kalamdb/audit of the data directory [on|off]")                            \
    X(INT, shutdown_timeout_ms, 25000, 100, 600000, "SIGTERM: time to finish what is in flight")             \
    X(LIST, allowed_origins, NULL, 0, 0, "Origins allowed on /ws and by CORS, comma-separated; * for any")   \
    X(SECRET, metrics_token, NULL, 0, 0, "bearer token asked for on health, probes and metrics")             \
    X(INT, consolidate_rows, 10000, 1, 100000000, "consolidate a user at so many fresh rows")                \
    X(INT, consolidate_interval_ms, 300000, 0, 2000000000,                                                   \
        "… or so long after the first of consolidate_min_rows; 0: never by itself")                          \
    X(INT, consolidate_min_rows, 500, 1, 100000000, "fresh rows below which a user stays hot")               \
    X(INT, hot_tail_rows, 64, 0, 100000, "newest rows of an active conversation kept hot")                   \
    X(CHOICE, erase_sent, "anonymize", 0, 0,                                                                 \
        "what an erased user sent to groups: sender replaced, content dropped too, left "                    \
        "[anonymize|redact|keep]")                                                                           \
    X(INT, tombstone_retention_s, 2592000, 1, 2000000000, "how long deletions can be replayed")              \
    X(CHOICE, encryption, "on", 0, 0, "encryption at rest; fixed when the data directory is made [on|off]")  \
    X(STRING, master_key_file, NULL, 0, 0,                                                                   \
        "master key: 32 raw bytes, 64 hex digits or base64; made as .kalamdb/master.key when neither this "  \
        "nor KALAMDB_MASTER_KEY is set")                                                                     \
    X(ENV, master_key, NULL, 0, 0, "the same in hex or base64, as KALAMDB_MASTER_KEY only")                  \
    X(INT, disk_reserve_bytes, 67108864, 0, 1099511627776, "free space below which writes stop")             \
    X(INT, workers, 4, 1, 64, "analytic worker processes busy at once")                                      \
    X(INT, worker_memory_bytes, 1073741824, 67108864, 1099511627776, "memory of one worker")                 \
    X(STRING, worker_path, NULL, 0, 0, "kalamdb-worker program; found beside this one when not set")         \
    X(CHOICE, worker_cage, "on", 0, 0,                                                                       \
        "worker processes without files, network and system calls they need not; off only where the kernel " \
        "cannot: docs/security.md [on|off]")                                                                 \
    X(INT, block_cache_bytes, 67108864, 1048576, 1099511627776, "RocksDB block cache")                       \
    X(INT, cold_cache_bytes, 268435456, 0, 1099511627776,                                                    \
        "Parquet files kept in memory, opened and checked, for the next statement; 0: none")                 \
    X(INT, write_buffer_bytes, 33554432, 1048576, 1099511627776, "RocksDB memtable")                         \
    X(CHOICE, log_level, "info", 0, 0, "least level logged [debug|info|warn|error]")

struct config {
#define CONFIG_FIELD_STRING(f) char *f;
#define CONFIG_FIELD_SECRET(f) char *f;
#define CONFIG_FIELD_ENV(f) char *f;
#define CONFIG_FIELD_CHOICE(f) char *f;
#define CONFIG_FIELD_LIST(f) char *f;
#define CONFIG_FIELD_INT(f) int64_t f;
#define CONFIG_FIELD_BOOL(f) bool f;
#define X(kind, field, def, min, max, help) CONFIG_FIELD_##kind(field)
    CONFIG_LIST(X)
#undef X
};

/* Reads file (path may be NULL: ./kalamdb.yaml is not read by itself), environment and flags. `argv` are the
 * words after the subcommand; those that are no settings are left, in order, in argv (*ret_argc of them;
 * NULL: refuse them). INVALID_REQUEST with key and line in ec->message. Unknown KALAMDB_… variables are
 * reported through `warn`. */
enum err config_load(struct config *c, int argc, char **argv, char **envp, int *ret_argc,
    void (*warn)(const char *name), struct errctx *ec) CHECKED;
void config_release(struct config *c);
/* YAML, secrets masked. */
void config_print(const struct config *c, struct buf *b);
/* Those that are not what they are by default, as a JSON object; secrets masked. */
void config_changed_json(const struct config *c, struct buf *b);
/* The settings as a Markdown table and as flag help. */
void config_help(struct buf *b);

#endif
