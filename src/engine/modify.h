/* UPDATE and DELETE: read the rows under a snapshot, in C or in a worker, change them in one commit that
 * notices when one of them has changed since, and then read again. */
#ifndef KALAMDB_ENGINE_MODIFY_H
#define KALAMDB_ENGINE_MODIFY_H

#include "engine/query.h"

void modify_start(struct kalamdb_query *q);
void modify_release(struct kalamdb_query *q);

#endif
