/* memory.c: what the system says about the memory of processes. */
#include "trace/memory.h"

#include <stdio.h>
#include <unistd.h>

double tp_process_mib(unsigned process)
{
    char path[64];
    unsigned long long pages = 0;
    snprintf(path, sizeof path, "/proc/%u/statm", process);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%*u %llu", &pages) != 1)
        pages = 0;
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}
