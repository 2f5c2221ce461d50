/* region.c: memory that two processes share. See region.h. */
#include "wire/region.h"

#include "base/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char NO_MEMORY[] = "no memory to share with a worker process";

static size_t in_pages(size_t size)
{
    size_t page = tp_page_size();
    return (size + page - 1) & ~(page - 1);
}

/* Makes sure that the file has memory up to that size. */
static int allocate(int fd, size_t size, tp_error *err)
{
    int status;
    do {
        status = posix_fallocate(fd, 0, (off_t)size);
    } while (status == EINTR);
    return status ? tp_error_system(err, TP_EMEMORY, NO_MEMORY, status) : 0;
}

static int map(tp_region *a, size_t size, tp_error *err)
{
    void *data = a->data ? tp_map_move(a->data, a->size, size, NULL, a->fd, 0)
                         : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, a->fd, 0);
    if (data == MAP_FAILED)
        return tp_error_system(err, TP_EMEMORY, NO_MEMORY, errno);
    a->data = data;
    a->size = size;
    return 0;
}

int tp_region_open(tp_region *a, size_t size, tp_error *err)
{
    *a = (tp_region){ .fd = tp_memory_file_open("tidepool") };
    if (a->fd < 0)
        return tp_error_system(err, TP_ESYS, NO_MEMORY, errno);
    if (allocate(a->fd, in_pages(size), err) || map(a, in_pages(size), err)) {
        tp_region_close(a);
        return -1;
    }
    return 0;
}

int tp_region_adopt(tp_region *a, int fd, tp_error *err)
{
    struct stat s;
    *a = (tp_region){ .fd = fd };
    if (fstat(fd, &s) || (size_t)s.st_size < tp_page_size())
        return tp_error_set(err, TP_ESYS, "descriptor %d is no memory of a host", fd);
    return map(a, (size_t)s.st_size, err);
}

int tp_region_grow(tp_region *a, size_t size, tp_error *err)
{
    if (size <= a->size)
        return 0;
    if (size > SIZE_MAX / 4)
        return tp_error_oom(err, "shared memory");
    size_t wanted = in_pages(size > 2 * a->size ? size : 2 * a->size);
    return allocate(a->fd, wanted, err) || map(a, wanted, err) ? -1 : 0;
}

int tp_region_follow(tp_region *a, size_t size, tp_error *err)
{
    struct stat s;
    if (size <= a->size)
        return 0;
    if (fstat(a->fd, &s) || (size_t)s.st_size < size)
        return tp_error_set(err, TP_ESYS, "shared memory ends before what is said to be in it");
    return map(a, (size_t)s.st_size & ~(tp_page_size() - 1), err);
}

void tp_region_trim(tp_region *a, size_t keep)
{
    keep = in_pages(keep);
    if (a->size <= keep)
        return;
    tp_memory_file_clear(a->fd, keep, a->size - keep);
    munmap(a->data + keep, a->size - keep);
    a->size = keep; /* tp_region_grow backs the rest with memory again */
}

void tp_region_close(tp_region *a)
{
    if (a->data)
        munmap(a->data, a->size);
    if (a->data || a->fd > 0)
        close(a->fd);
    *a = (tp_region){ .fd = -1 };
}
