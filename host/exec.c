/* exec.c: the table of executors. A new one is a file and a line here. */
#include "exec.h"

#include <stddef.h>

const tp_executor_type *const tp_executor_types[] = {
    &tp_exec_threads,
    &tp_exec_inline,
    &tp_exec_opencl,
    NULL,
};
