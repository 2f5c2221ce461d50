/* lua_modules.h: the Lua half of the product, compiled into the binary and the library.
 *
 * build/lua_modules.c, which scripts/embed writes, defines the table: lua/tidepool/init.lua is the
 * module "tidepool", lua/tidepool/x/y.lua is "tidepool.x.y", and gpu/translate/y.lua is
 * "tidepool.translate.y". */
#ifndef TP_LUA_MODULES_H
#define TP_LUA_MODULES_H

#include <stddef.h>
#include <stdbool.h>
#include <string.h>

/* How the names of our chunks begin, behind the "=" that says that the rest is what to show:
 * "=[tidepool]/engine/loop.lua". In brackets, as "[C]" is, so that tracebacks tell our frames from
 * those of a user's file tidepool/loop.lua. scripts/embed reads it here, Lua has it in the ABI. */
#define TP_LUA_CHUNKS "[tidepool]/"

typedef struct tp_lua_module {
    const char *name;
    const char *bytes; /* bytecode with debug information, for lua_load; its chunk name is
                          "=[tidepool]/x.lua" */
    size_t len;
} tp_lua_module;

/* Is a chunk ours, by its name (lua_Debug.source)? */
static inline bool tp_lua_is_ours(const char *source)
{
    return strncmp(source, "=" TP_LUA_CHUNKS, sizeof TP_LUA_CHUNKS) == 0;
}

/* Sorted by name; ends with a name that is NULL. */
extern const tp_lua_module tp_lua_modules[];

#endif
