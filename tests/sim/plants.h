/* By name, for the command line; none in an ordinary build. */
#ifndef KALAMDB_SIM_PLANTS_H
#define KALAMDB_SIM_PLANTS_H

#include <stdbool.h>

extern const char *const plant_names[]; /* NULL ends it */
bool plant_choose(const char *name);

#endif
