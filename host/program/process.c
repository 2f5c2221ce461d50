/* process.c: the one state of the process. */
#include "program/process.h"

#include "base/lua_modules.h"

#include <lua.h>

#include <stdlib.h>

tp_process_state tp_process;

bool tp_is_library(const lua_Debug *ar)
{
    return tp_lua_is_ours(ar->source);
}

bool tp_is_set(const char *variable)
{
    const char *value = getenv(variable);
    return value && *value;
}
