/* memory.h: what processes use. */
#ifndef TP_TRACE_MEMORY_H
#define TP_TRACE_MEMORY_H

/* The memory of the process of that number in MiB; 0: not known. */
double tp_process_mib(unsigned process);

#endif
