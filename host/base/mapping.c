/* mapping.c: moving a mapping of shared memory. See mapping.h. */
#include "base/mapping.h"

#include <sys/mman.h>
#include <sys/types.h>

void *tp_map_move(void *data, size_t size, size_t wanted, void *where, int fd, int64_t at)
{
#ifdef __SANITIZE_THREAD__
    /* ThreadSanitizer does not see mremap, and would take what was at the new address for it. */
    void *moved = mmap(where, wanted, PROT_READ | PROT_WRITE, MAP_SHARED | (where ? MAP_FIXED : 0),
                       fd, (off_t)at);
    if (moved != MAP_FAILED)
        munmap(data, size);
    return moved;
#else
    (void)fd;
    (void)at;
    return where ? mremap(data, size, wanted, MREMAP_MAYMOVE | MREMAP_FIXED, where)
                 : mremap(data, size, wanted, MREMAP_MAYMOVE);
#endif
}
