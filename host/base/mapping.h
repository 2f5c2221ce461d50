/* mapping.h: memory that is a file without a name, so that processes can share it, and moving what
 * is mapped of it. */
#ifndef TP_MAPPING_H
#define TP_MAPPING_H

#include <stddef.h>
#include <stdint.h>

/* A file in memory, of length 0, that is gone when its last descriptor and mapping are. `name` is
 * seen in /proc only. Sealed against shrinking and against further seals, so that no process that
 * has the file can take away memory that another one has mapped. Not inherited by programs that
 * this one starts. -1 with errno: there is none. */
int tp_memory_file_open(const char *name);

/* Gives the memory of a part of the file back to the system; it reads as zeros from then on. */
void tp_memory_file_clear(int fd, uint64_t at, uint64_t size);

/* Bytes of a page of the processor: mappings begin, and files are mapped, at multiples of it. 4 KiB
 * on x86; arm64's kernels have pages of 4, 16 or 64 KiB. */
size_t tp_page_size(void);

/* Moves the mapping of `size` bytes at `data`, which shows the file `fd` from the offset `at` on,
 * to `where` (NULL: wherever there is room), and makes it show `wanted` bytes. Gives the new
 * address; MAP_FAILED: nothing is moved, but what was at `where` may be gone. */
void *tp_map_move(void *data, size_t size, size_t wanted, void *where, int fd, int64_t at);

/* A byte that is 1 in this process and, since Linux 4.14, 0 in its forks; NULL: no memory. For a
 * handler of pthread_atfork there would have to be a static, and getpid costs a system call per
 * question. Free accepts NULL. */
volatile char *tp_fork_mark_new(void);
void tp_fork_mark_free(volatile char *mark);

#endif
