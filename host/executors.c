/* executors.c: the table of executors. To add one, write a file that defines tp_exec_NAME, and add
 * NAME here. */
#include "executors.h"

#include <stddef.h>

/* The default first. */
#define EXECUTORS(X) X(threads) X(processes) X(inline) X(cluster) X(opencl)

#define DECLARE(name) extern const tp_executor_type tp_exec_##name;
EXECUTORS(DECLARE)

#define ADDRESS(name) &tp_exec_##name,
const tp_executor_type *const tp_executor_types[] = { EXECUTORS(ADDRESS) NULL };
