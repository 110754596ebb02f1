/* POST /api/v1/messages/stream, beyond its route. The loop's thread. */
#ifndef KALAMDB_API_NDJSON_H
#define KALAMDB_API_NDJSON_H

#include "api/server.h"

/* Cuts the streams of producers whose token has ended. */
void ndjson_end_void(struct worker *w);

#endif
