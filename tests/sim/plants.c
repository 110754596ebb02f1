#include "plants.h"
#include "base/plant.h"
#include <stddef.h>
#include <string.h>

#ifdef KALAMDB_PLANTS
const char *const plant_names[] = {
#define X(id, name) name,
    PLANTS(X)
#undef X
        NULL};

bool plant_choose(const char *name)
{
    for (int i = 0; plant_names[i] != NULL; i++)
        if (strcmp(plant_names[i], name) == 0) {
            plant_chosen = (enum plant)(i + 1);
            return true;
        }
    return false;
}
#else
const char *const plant_names[] = {NULL};

bool plant_choose(const char *name)
{
    (void)name;
    return false;
}
#endif
