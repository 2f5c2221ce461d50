/* command.h: the command line of this process, as the system has it. */
#ifndef TP_COMMAND_H
#define TP_COMMAND_H

#include <stddef.h>

/* Writes the words of the process's command with a space between them, cut to `size` - 1 bytes and
 * ended by a zero; control characters, which a terminal would obey, become spaces. Returns the
 * length; 0: the system does not say. Any thread. */
size_t tp_command(char *to, size_t size);

#endif
