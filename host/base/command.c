/* command.c: the command line of this process. See command.h. */
#include "base/command.h"

#include "base/system.h"

#include <unistd.h>

size_t tp_command(char *to, size_t size)
{
    size_t len = tp_system_command((long)getpid(), to, size);
    while (len > 0 && to[len - 1] == '\0')
        len--;
    for (char *p = to; p < to + len; p++)
        if ((unsigned char)*p < ' ' || *p == 127)
            *p = ' ';
    to[len] = '\0';
    return len;
}
