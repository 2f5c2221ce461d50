/* mapping.h: moving a mapping of shared memory. */
#ifndef TP_MAPPING_H
#define TP_MAPPING_H

#include <stddef.h>
#include <stdint.h>

/* Moves the mapping of `size` bytes at `data`, which shows the file `fd` from the offset `at` on,
 * to `where` (NULL: wherever there is room), and makes it show `wanted` bytes. Gives the new
 * address; MAP_FAILED: nothing is moved, but what was at `where` may be gone. */
void *tp_map_move(void *data, size_t size, size_t wanted, void *where, int fd, int64_t at);

#endif
