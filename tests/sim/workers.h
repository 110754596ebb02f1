/* The zygote that serves all machines of one simulator process. */
#ifndef KALAMDB_SIM_POOL_H
#define KALAMDB_SIM_POOL_H

#include <stdbool.h>

/* Before any simulated machine is forked, without the scheduler. */
bool sim_workers_start(void);
void sim_workers_end(void);

#endif
