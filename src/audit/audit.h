/* The audit log: who did what to whom, when, and how it ended. Append-only files of one JSON object a line in
 * <data>/.kalamdb/audit/, each line hashed together with the one before, so that a line that is changed,
 * removed, moved or put in shows.
 *
 *   {"n":7,"ts":"2026-11-22T22:40:00.123456Z","event":"erase","sub":"operator","role":"admin",
 *    "jti":"…","address":"10.0.0.7","on":{"user":"alice"},"outcome":"200","hash":"<64 hex digits>"}
 *
 * `n` counts from 1 without a gap. `hash` is the last member: SHA-256 over the 32 bytes of the hash before
 * (32 zero bytes before the first line) and the line's bytes up to `,"hash"`. The first line of a file says
 * in "prev" what hash it goes on from, and is the event "file". Files are audit-<n of the first line, 12
 * digits>.jsonl, mode 0600; a new one is begun when the day (UTC) or FILE_BYTES_MAX is over. What a crash cut
 * in the middle of a line, at the end of the newest file, is taken off at open and noted by the event
 * "repaired". Cutting whole lines off the end cannot be seen from the files: compare with a head that was
 * noted elsewhere (audit_head, /api/v1/health).
 *
 * Never in a record: content, SQL, tokens, keys. User ids, conversation ids, refs, jtis and addresses are.
 *
 * Threading: any, but open and close. Records wait in memory (QUEUE_BYTES_MAX; beyond, they are counted and
 * the count is recorded) for a thread that writes and fsyncs them within FLUSH_MS. */
#ifndef KALAMDB_AUDIT_AUDIT_H
#define KALAMDB_AUDIT_AUDIT_H

#include "base/buf.h"
#include "base/err.h"
#include "os/os.h"

#define AUDIT_FLUSH_MS 100
#define AUDIT_FILE_BYTES_MAX ((uint64_t)64 << 20)
#define AUDIT_QUEUE_BYTES_MAX ((size_t)4 << 20)
#define AUDIT_FOLD_S 60
#define AUDIT_FOLD_MAX 4096
#define AUDIT_LINE_BYTES_MAX 65536

struct audit;

/* Empty texts (len 0) are left out. Borrowed for the call. */
struct audit_record {
    const char *event;
    struct str sub, role, jti, address;
    struct str user, conversation, token, target; /* whom or what it was done to: members of "on" */
    struct str outcome;                           /* an HTTP status, or a word */
    struct str detail;                            /* a JSON value; ptr NULL: none */
};

struct audit_config {
    const char *dir; /* made, mode 0700 */
    const struct os *os;
    uint64_t file_bytes_max; /* 0: AUDIT_FILE_BYTES_MAX */
};

/* IO; CORRUPT: the newest file does not end in a chain that can be gone on with (its last whole line is not
 * what its hash says). */
enum err audit_open(const struct audit_config *cfg, struct audit **ret, struct errctx *ec) CHECKED;
/* Ends the minute of what is being counted, and writes what waits. NULL allowed. */
void audit_close(struct audit *a);

/* Each takes NULL: no log is kept. */
void audit_add(struct audit *a, const struct audit_record *r);
/* The same, for what may come often: the first of its kind (all members but detail alike) is recorded as it
 * comes; those that follow within the minute are counted, and one record with "count" follows at its end. */
void audit_add_folded(struct audit *a, const struct audit_record *r);
/* Ends the minute of what is being counted now: its summaries come before what is added next. */
void audit_fold_now(struct audit *a);
/* Calls fn once when everything added before is on disk (ok), or could not be written; from the log's thread.
 * At once, with ok, when there is no log. */
void audit_when_durable(struct audit *a, void (*fn)(void *arg, bool ok), void *arg);
/* False while the last write failed: what is to be recorded had better not happen. */
bool audit_writable(const struct audit *a);

struct audit_head {
    uint64_t n;    /* of the last line on disk; 0: none */
    char hash[65]; /* its hash, hex */
    uint64_t lost; /* records that had no room since open */
};
void audit_head(struct audit *a, struct audit_head *ret);

/* Appends, as a JSON array's elements, up to `max` lines with n > after (as they stand on disk, in order). */
enum err audit_read(
    struct audit *a, uint64_t after, int max, struct buf *ret, int *ret_n, struct errctx *ec) CHECKED;

/* ---- checking (verify.c) ------------------------------------------------------------------------------ */

struct audit_verified {
    uint64_t files, first, last; /* n of the first and last line */
    char hash[65];               /* of the last */
    bool cut;                    /* the last line is half: a crash, or the server is writing */
    bool head_seen;              /* the head that was asked for is one of the lines */
};
/* Walks all files of a folder. CORRUPT, with file and line in the message: changed, missing, moved or put in
 * lines. `head` (a hash; ptr NULL: none) is looked for among the lines. NOT_FOUND: no log there. */
enum err audit_verify(
    const char *dir, struct str head, struct audit_verified *ret, struct errctx *ec) CHECKED;

#endif
