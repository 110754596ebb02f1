#include "base/plant.h"

#ifdef KALAMDB_PLANTS
enum plant plant_chosen;
#endif
