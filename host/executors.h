/* executors.h: the table of executors. */
#ifndef TP_EXECUTORS_H
#define TP_EXECUTORS_H

#include "engine/exec.h"

/* All kinds, the default first; NULL-terminated. */
extern const tp_executor_type *const tp_executor_types[];

#endif
