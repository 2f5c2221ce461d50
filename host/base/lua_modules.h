/* lua_modules.h: the Lua half of the product, compiled into the binary and the library.
 *
 * build/lua_modules.c, which scripts/embed writes, defines the table: lua/tidepool/init.lua is the
 * module "tidepool", lua/tidepool/x/y.lua is "tidepool.x.y", and gpu/translate/y.lua is
 * "tidepool.translate.y". */
#ifndef TP_LUA_MODULES_H
#define TP_LUA_MODULES_H

#include <stddef.h>

typedef struct tp_lua_module {
    const char *name;
    const char *bytes; /* bytecode with debug information, for lua_load; its chunk name is
                          "=tidepool/x.lua" */
    size_t len;
} tp_lua_module;

/* Sorted by name; ends with a name that is NULL. */
extern const tp_lua_module tp_lua_modules[];

#endif
