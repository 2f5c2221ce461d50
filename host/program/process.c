/* process.c: the one state of the process. */
#include "program/process.h"

#include <lua.h>

#include <stdlib.h>
#include <string.h>

tp_process_state tp_process;

static const char library_source[] = "=tidepool/";

bool tp_is_library(const lua_Debug *ar)
{
    return strncmp(ar->source, library_source, sizeof library_source - 1) == 0;
}

bool tp_is_set(const char *variable)
{
    const char *value = getenv(variable);
    return value && *value;
}
