/* Rot in RocksDB's log of writes. At open RocksDB replays its log up to the first record that is not whole
 * and leaves out the rest without a word: right for what a power loss tore, and a silent loss of acknowledged
 * writes where a bit of an older record rotted. To tell the two apart, each batch of ours says up to which
 * sequence number the log was fsynced before it: what is not whole below a number that a later record attests
 * was damaged after it was safe.
 *
 * What cannot be told from a torn write: rot in the last group before a crash (after a clean close an empty
 * batch attests that one too). */
#ifndef KALAMDB_STORE_WAL_CHECK_H
#define KALAMDB_STORE_WAL_CHECK_H

#include "base/err.h"
#include <rocksdb/c.h>

/* Puts the attestation into an empty batch; it goes to the log and nowhere else. */
void wal_attest(rocksdb_writebatch_t *batch, uint64_t synced);
/* Before the database is opened: CORRUPT, naming the file and the byte, with a way out as the hint. A log
 * that cannot be read is left for RocksDB to judge. */
enum err wal_check(const char *hot_dir, struct errctx *ec) CHECKED;

#endif
