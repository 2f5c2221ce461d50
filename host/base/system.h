/* system.h: what a process asks of its system, where only Linux has it in this way. docs/porting.md
 * says what takes its place elsewhere. Any thread. */
#ifndef TP_SYSTEM_H
#define TP_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- this process ---- */

/* The path of the program that runs, also when its file has been replaced or removed. */
#define TP_SYSTEM_PROGRAM "/proc/self/exe"

/* Does the system refuse to promise more memory than it has? Then touching memory of a file for
 * which there is none left would end the process (SIGBUS). */
bool tp_system_promises_little(void);

/* The process gets this signal when the thread that has started it ends. That may have ended
 * already: compare getppid() afterwards. */
void tp_system_end_with_parent(int signal);

/* How `ps` and `top` name the process. */
void tp_system_name_process(const char *name);

/* When memory runs out, the system ends this process rather than others. */
void tp_system_prefer_as_victim(void);

/* Writes a path by which other processes of the same user can open the file behind the descriptor,
 * as long as this process has it, whatever the descriptor means by then. */
void tp_system_path_of(int fd, char *path, size_t size);

/* ---- any process ---- */

/* Writes the words of the process's command, each ended by a zero, cut to `size` - 1 bytes, and one
 * more zero. Returns the length without that; 0: there is no such process, or it is not said. */
size_t tp_system_command(long process, char *to, size_t size);

typedef struct tp_system_memory {
    uint64_t resident; /* bytes that are in memory */
    uint64_t data;     /* bytes of private writable memory, as RLIMIT_DATA counts them */
} tp_system_memory;

/* What the process uses; zeros: not known. */
tp_system_memory tp_system_memory_of(long process);

/* ---- bells ---- */

/* A bell is a descriptor that poll finds readable from tp_bell_ring until tp_bell_hush; neither
 * blocks. Opening one gives -1 with errno when there is none; the others say whether it worked. */
int tp_bell_open(void);
bool tp_bell_ring(int bell);
bool tp_bell_hush(int bell);

#endif
