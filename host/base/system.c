/* system.c: Linux's own calls, for what has no other room. See system.h. */
#include "base/system.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Reads the beginning of the file, up to `size` - 1 bytes, and ends it with a zero. Returns its
 * length; 0: it cannot be read. */
static size_t read_file(const char *path, char *to, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, to, size - 1) : 0;
    if (fd >= 0)
        close(fd);
    to[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

bool tp_system_promises_little(void)
{
    char mode[4];
    return !read_file("/proc/sys/vm/overcommit_memory", mode, sizeof mode) || *mode == '2';
}

void tp_system_end_with_parent(int signal)
{
    prctl(PR_SET_PDEATHSIG, signal);
}

void tp_system_name_process(const char *name)
{
    prctl(PR_SET_NAME, name);
}

void tp_system_prefer_as_victim(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = write(fd, "800", 3); /* may fail: nothing depends on it */
    (void)n;
    close(fd);
}

void tp_system_path_of(int fd, char *path, size_t size)
{
    snprintf(path, size, "/proc/%ld/fd/%d", (long)getpid(), fd);
}

size_t tp_system_command(long process, char *to, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/cmdline", process);
    return read_file(path, to, size);
}

tp_system_memory tp_system_memory_of(long process)
{
    char path[64], text[256];
    unsigned long resident = 0, data = 0;
    snprintf(path, sizeof path, "/proc/%ld/statm", process);
    if (!read_file(path, text, sizeof text) ||
        sscanf(text, "%*u %lu %*u %*u %*u %lu", &resident, &data) != 2)
        return (tp_system_memory){ 0 };
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (tp_system_memory){ .resident = resident * page, .data = data * page };
}

int tp_bell_open(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

bool tp_bell_ring(int bell)
{
    const uint64_t one = 1;
    return write(bell, &one, sizeof one) == (ssize_t)sizeof one;
}

bool tp_bell_hush(int bell)
{
    uint64_t count;
    return read(bell, &count, sizeof count) == (ssize_t)sizeof count;
}
