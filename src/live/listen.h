/* The thread behind live_listen. Siblings only. */
#ifndef KALAMDB_LIVE_LISTEN_H
#define KALAMDB_LIVE_LISTEN_H

#include "live/live.h"

struct listener;

/* Asks the thread to end and waits for it; on_event is not called any more. */
void listener_stop(struct listener *li);
void listener_free(struct listener *li);
/* live_close_all: waits until every thread has told its CLOSED. */
void listeners_join(struct live *l);

#endif
