/* command.c: the command line of this process. See command.h. */
#include "base/command.h"

#include <fcntl.h>
#include <unistd.h>

size_t tp_command(char *to, size_t size)
{
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, to, size - 1) : 0;
    if (fd >= 0)
        close(fd);
    size_t len = n > 0 ? (size_t)n : 0;
    while (len > 0 && to[len - 1] == '\0')
        len--;
    for (char *p = to; p < to + len; p++)
        if ((unsigned char)*p < ' ' || *p == 127)
            *p = ' ';
    to[len] = '\0';
    return len;
}
