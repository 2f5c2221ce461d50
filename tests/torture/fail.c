/* fail.c: a library to preload (LD_PRELOAD) in which one call fails: the TORTURE_AT-th of its kind,
 * and with TORTURE_LASTS all that follow it. The kinds, TORTURE_KIND:
 *
 *   memory   malloc, calloc and realloc, with ENOMEM
 *   maps     mmap, with ENOMEM
 *   threads  pthread_create, with EAGAIN
 *   calls    open, read, write, eventfd, epoll_create1, pipe2 and socketpair, with EIO or EMFILE
 *
 * Only calls of the program itself count, and threads and descriptors that libuv makes for it. What
 * OpenCL drivers do when they have no memory is not ours; libuv ends the process when a loop of its
 * own cannot grow, has no pipe for signals, or cannot use its eventfd, which no kernel does.
 * TORTURE_COUNT names a file that gets how many there were. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MEMORY, MAPS, THREADS, CALLS, KINDS };

typedef struct region {
    uintptr_t begin, end;
} region;

static region program, libuv;
static int kind = KINDS;
static long fail_at;
static bool lasts;
static atomic_long n_calls;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);

static int find_regions(struct dl_phdr_info *info, size_t size, void *is_first)
{
    region *to = *(bool *)is_first ? &program : strstr(info->dlpi_name, "libuv") ? &libuv : NULL;
    (void)size;
    *(bool *)is_first = false;
    for (int i = 0; to && i < info->dlpi_phnum; i++) {
        uintptr_t begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr,
                  end = begin + info->dlpi_phdr[i].p_memsz;
        if (info->dlpi_phdr[i].p_type != PT_LOAD)
            continue;
        if (!to->begin || begin < to->begin)
            to->begin = begin;
        if (end > to->end)
            to->end = end;
    }
    return 0;
}

__attribute__((constructor)) static void start(void)
{
    static const char *const names[KINDS] = { "memory", "maps", "threads", "calls" };
    const char *at = getenv("TORTURE_AT"), *name = getenv("TORTURE_KIND");
    bool is_first = true;
    dl_iterate_phdr(find_regions, &is_first);
    fail_at = at ? atol(at) : 0;
    lasts = getenv("TORTURE_LASTS") != NULL;
    for (int i = 0; name && i < KINDS; i++)
        if (strcmp(name, names[i]) == 0)
            kind = i;
}

__attribute__((destructor)) static void end(void)
{
    const char *path = getenv("TORTURE_COUNT");
    kind = KINDS;
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld\n", atomic_load(&n_calls));
        fclose(file);
    }
}

static bool is_to_fail(int what, bool counts_libuv, const void *caller)
{
    uintptr_t p = (uintptr_t)caller;
    bool is_ours = (p >= program.begin && p < program.end) ||
                   (counts_libuv && p >= libuv.begin && p < libuv.end);
    if (what != kind || !is_ours)
        return false;
    long n = atomic_fetch_add(&n_calls, 1) + 1;
    return fail_at && (lasts ? n >= fail_at : n == fail_at);
}

#define FAILS(what, error) \
    (is_to_fail(what, false, __builtin_return_address(0)) && (errno = (error), true))
#define FAILS_IN_LIBUV(what, error) \
    (is_to_fail(what, true, __builtin_return_address(0)) && (errno = (error), true))
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void *malloc(size_t size)
{
    return FAILS(MEMORY, ENOMEM) ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    return FAILS(MEMORY, ENOMEM) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    return FAILS(MEMORY, ENOMEM) ? NULL : __libc_realloc(p, size);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    return FAILS(MAPS, ENOMEM) ? MAP_FAILED
                               : REAL(mmap)(address, size, protection, flags, fd, offset);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *),
                   void *arg)
{
    return FAILS_IN_LIBUV(THREADS, EAGAIN) ? EAGAIN
                                           : REAL(pthread_create)(thread, attributes, body, arg);
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return FAILS_IN_LIBUV(CALLS, EMFILE) ? -1 : REAL(open)(path, flags, mode);
}

ssize_t read(int fd, void *to, size_t size)
{
    return FAILS(CALLS, EIO) ? -1 : REAL(read)(fd, to, size);
}

ssize_t write(int fd, const void *from, size_t size)
{
    return FAILS(CALLS, EIO) ? -1 : REAL(write)(fd, from, size);
}

int eventfd(unsigned value, int flags)
{
    return FAILS_IN_LIBUV(CALLS, EMFILE) ? -1 : REAL(eventfd)(value, flags);
}

int epoll_create1(int flags)
{
    return FAILS_IN_LIBUV(CALLS, EMFILE) ? -1 : REAL(epoll_create1)(flags);
}

int pipe2(int fds[2], int flags)
{
    return FAILS(CALLS, EMFILE) ? -1 : REAL(pipe2)(fds, flags);
}

int socketpair(int domain, int type, int protocol, int fds[2])
{
    return FAILS_IN_LIBUV(CALLS, EMFILE) ? -1 : REAL(socketpair)(domain, type, protocol, fds);
}
