/* core_modules.c: modules of the script's own files for workers on other machines: collected here,
 * and loaded there from what has come with the work (base/bundle.h). */
#include "lua/core_private.h"

#include "base/bundle.h"
#include "base/mapping.h"
#include "codec/codec.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* core.modules.add(name, path, source): it travels with the work of this host from now on */
static int l_modules_add(lua_State *L)
{
    size_t size;
    const char *source = luaL_checklstring(L, 3, &size);
    if (tp_bundle_add(&get_context(L)->host->bundle, luaL_checkstring(L, 1),
                      luaL_checkstring(L, 2), source, size))
        return tp_codec_raise_memory(L);
    return 0;
}

static const luaL_Reg modules_functions[] = {
    { "add", l_modules_add },
    { NULL, NULL },
};

void tp_core_register_modules(lua_State *L)
{
    tp_core_register(L, "modules", modules_functions);
}

typedef struct search {
    const char *name, *bytes;
    size_t len;
} search;

/* (search, name) -> a chunk, or nothing */
static int load_found(lua_State *L)
{
    const search *s = lua_touserdata(L, 1);
    const char *path, *source;
    size_t size;
    if (!tp_bundle_find(s->bytes, s->len, s->name, &path, &source, &size))
        return 0;
    lua_pushfstring(L, "@%s", path);
    if (luaL_loadbuffer(L, source, size, lua_tostring(L, -1)))
        return luaL_error(L, "error loading module '%s' from file '%s':\n\t%s", s->name, path,
                          lua_tostring(L, -1));
    return 1;
}

/* A loader of package.loaders: finds modules in the file that this process's host has been given.
 * It comes before the one that looks for files here, which may be others. */
static int find_module(lua_State *L)
{
    const tp_host *host = get_context(L)->host;
    search s = { .name = luaL_checkstring(L, 1) };
    struct stat file;
    int fd = open(host->modules, O_RDONLY | O_CLOEXEC), rc = 0;
    if (fd >= 0 && fstat(fd, &file) == 0 && file.st_size > 0) {
        void *bytes = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes != MAP_FAILED) {
            s.bytes = bytes;
            s.len = (size_t)file.st_size;
            lua_pushcfunction(L, load_found);
            lua_pushlightuserdata(L, &s);
            rc = lua_pcall(L, 1, 1, 0);
            munmap(bytes, s.len);
        }
    }
    if (fd >= 0)
        close(fd);
    if (rc)
        return lua_error(L);
    if (lua_isfunction(L, -1))
        return 1;
    lua_pushfstring(L,
                    "\n\tno file of the script's own ('%s' is looked for %s, where modules must be "
                    "that are no Lua files of the script's)",
                    s.name, host->place);
    return 1;
}

void tp_core_open_modules(lua_State *L, const tp_host *host, int package)
{
    if (!*host->modules) {
        lua_pop(L, 1);
        return;
    }
    lua_pushstring(L, host->place);
    lua_setfield(L, LUA_REGISTRYINDEX, TP_CODEC_PLACE);
    lua_pushcclosure(L, find_module, 1);              // loader
    lua_getfield(L, package, "loaders");              // loader loaders
    for (int i = (int)lua_objlen(L, -1); i > 1; i--) {
        lua_rawgeti(L, -1, i);
        lua_rawseti(L, -2, i + 1);
    }
    lua_insert(L, -2);                                // loaders loader
    lua_rawseti(L, -2, 2);
    lua_pop(L, 1);
}
