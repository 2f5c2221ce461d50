/* mapping.c: memory that processes share. See mapping.h. */
#include "base/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

int tp_memory_file_open(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) == 0)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

void tp_memory_file_clear(int fd, uint64_t at, uint64_t size)
{
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)size);
}

size_t tp_page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

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

volatile char *tp_fork_mark_new(void)
{
    void *page = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return NULL;
    madvise(page, 1, MADV_WIPEONFORK);
    *(volatile char *)page = 1;
    return page;
}

void tp_fork_mark_free(volatile char *mark)
{
    if (mark)
        munmap((void *)mark, 1);
}
