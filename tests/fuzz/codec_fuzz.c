/* codec_fuzz.c: hostile bytes into the decoder (libFuzzer).
 *
 * Decodes without trust. What comes out must encode again (or be refused), and decode again to the
 * same: equal bytes, or where the order of pairs differs, an equal value. `make fuzz` builds and
 * runs it. */
#include "codec/codec_state.h"

#include <lauxlib.h>
#include <lualib.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char seeds[] =
    "local s = {1, 2} local long = ('long'):rep(20)\n"
    "return { 7, 'abc', {1, 2, 3}, {1.5, 2, 3, 4, 5, 6, 7, 8, 9.25, 'x'}, {s, s, {s}}, {[long] = "
    "long, n = -5, 1e9},\n"
    "  5LL, 6ULL, 3i, print, math, 0/0, true, false, {{{{}}}}, setmetatable({1}, Class), Class, "
    "{Class, Class}, thing, {thing, thing},\n"
    "  setmetatable({x = 1}, Value), package.loaded.mod, {a = {b = {c = s, d = s}}, s},\n"
    "  debug.setfenv(newproxy(first), {x = {1}}) }";

/* What stands in an image for a value that cannot travel; as a value of the user's it is not
 * encoded. */
static const char refused_seed[] = "\x01\xc8\x08\0\0\0not here";

static const char same[] =
    "local ffi = require 'ffi'\n"
    "local function number(a, b) return a == b and (a ~= 0 or 1 / a == 1 / b) or a ~= a and b ~= b "
    "end\n"
    "local function same(a, b, seen)\n"
    "  if type(a) ~= type(b) then return false end\n"
    "  if type(a) == 'number' then return number(a, b) end\n"
    "  if type(a) == 'cdata' then\n"
    "    if ffi.istype('complex', a) then return number(a.re, b.re) and number(a.im, b.im) end\n"
    "    return tostring(a) == tostring(b)\n"
    "  end\n"
    "  if type(a) == 'userdata' and debug.getmetatable(a) == debug.getmetatable(refused) then\n"
    "    return debug.getmetatable(a) == debug.getmetatable(b)\n"
    "  end\n"
    "  if type(a) == 'userdata' and debug.getmetatable(a) == Fields then\n"
    "    if debug.getmetatable(b) ~= Fields then return false end\n"
    "    a, b = debug.getfenv(a), debug.getfenv(b)\n"
    "  end\n"
    "  if type(a) ~= 'table' then return a == b end\n"
    "  if seen[a] then return seen[a] == b end\n"
    "  seen[a] = b\n"
    "  if debug.getmetatable(a) ~= debug.getmetatable(b) then return false end\n"
    "  local count = 0\n"
    "  for k, v in next, a do\n"
    "    count = count + 1\n"
    "    if type(k) ~= 'table' and type(k) ~= 'cdata' and type(k) ~= 'userdata' and not same(v, "
    "rawget(b, k), seen) then\n"
    "      return false\n"
    "    end\n"
    "  end\n"
    "  for _ in next, b do count = count - 1 end\n"
    "  return count == 0\n"
    "end\n"
    "return function(n, ...)\n"
    "  for i = 1, n do\n"
    "    if not same((select(i, ...)), (select(i + n, ...)), {}) then return false end\n"
    "  end\n"
    "  return true\n"
    "end\n";

struct thing {
    tp_ref ref;
};

static void free_thing(tp_ref *r)
{
    free(r);
}

static const tp_ref_type thing_type = { "fuzz.thing", free_thing };
static tp_ref *refs[2];

static void must(int claim, const char *what)
{
    if (!claim) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

/* LeakSanitizer and AddressSanitizer see what malloc gave, not LuaJIT's own heap. */
static void *allocate(void *ud, void *p, size_t old, size_t size)
{
    (void)ud;
    (void)old;
    if (size > 0)
        return realloc(p, size);
    free(p);
    return NULL;
}

/* A state with a class by name, one by value, one of userdata with fields, a module and a function
 * `same`. */
static lua_State *open_state(void)
{
    lua_State *L = lua_newstate(allocate, NULL);
    luaL_openlibs(L);
    tp_codec_open(L);
    must(luaL_dostring(L, "jit.off()") == 0,
         "jit.off"); /* the JIT hides a pointer of its own from LeakSanitizer */
    must(luaL_dostring(L, "Class = {} Value = {} package.loaded.mod = {1, 2} package.loaded.module "
                          "= package.loaded.mod first = newproxy(true) Fields = "
                          "getmetatable(first) Fields.__fields = true") == 0,
         "prelude");
    lua_getglobal(L, "Class");
    tp_codec_add_class(L, "fuzz.Class", -1, false);
    lua_getglobal(L, "Value");
    tp_codec_add_class(L, "fuzz.Value", -1, true);
    lua_getglobal(L, "Fields");
    tp_codec_add_class(L, "fuzz.Fields", -1, false);
    if (!refs[0]) {
        struct thing *t = malloc(sizeof *t);
        tp_ref_init(&t->ref, &thing_type);
        refs[0] = &t->ref;
    }
    tp_codec_push_ref(L, refs[0]);
    lua_setglobal(L, "thing");
    tp_codec_push_refused(L, "not here", 8);
    lua_setglobal(L, "refused");
    must(luaL_dostring(L, same) == 0, "same");
    lua_setglobal(L, "same");
    lua_settop(L, 0);
    return L;
}

static void write_seed(const char *folder, int number, const void *bytes, size_t len)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/seed-%02d", folder ? folder : ".", number);
    FILE *f = folder ? fopen(path, "wb") : NULL;
    if (f) {
        fwrite(bytes, 1, len, f);
        fclose(f);
    }
}

/* Writes a corpus to start from: one message per seed value. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *folder = *argc > 1 && (*argv)[*argc - 1][0] != '-' ? (*argv)[*argc - 1] : NULL;
    lua_State *L = open_state();
    must(luaL_dostring(L, seeds) == 0, "seeds");
    int n = (int)lua_objlen(L, 1);
    for (int i = 1; i <= n; i++) {
        tp_buf b = { 0 };
        tp_error err = { 0 };
        lua_rawgeti(L, 1, i);
        must(tp_encode(L, -1, 1, NULL, 0, &b, &err) == 0, err.message);
        if (b.nrefs > 0 && !refs[1] && b.refs[0] != refs[0])
            refs[1] = tp_ref_hold(b.refs[0]); /* the class's definition */
        write_seed(folder, i, b.data, b.len);
        tp_buf_free(&b);
        lua_settop(L, 1);
    }
    write_seed(folder, n + 1, refused_seed, sizeof refused_seed - 1);
    lua_close(L);
    return 0;
}

struct input {
    const uint8_t *bytes;
    size_t len;
    tp_buf first, second;
};

static int decode_and_encode(lua_State *L)
{
    struct input *in = lua_touserdata(L, 1);
    tp_error err = { 0 };
    size_t used = 0;
    int top = lua_gettop(L);
    int n = tp_decode(L, in->bytes, in->len, refs, 2, 0, &used, &err);
    must(n >= 0 ? used <= in->len && lua_gettop(L) == top + n
                : err.code != TP_OK && lua_gettop(L) == top,
         "decode");
    if (n < 0 || tp_encode(L, top + 1, n, NULL, 0, &in->first, &err) < 0)
        return 0;
    /* What the encoder made is decoded with trust, and is the same. */
    tp_buf *b = &in->first;
    int again = tp_decode(L, b->data, b->len, b->refs, b->nrefs, TP_DECODE_TRUSTED, &used, &err);
    must(again == n && used == b->len, "what was encoded decodes");
    must(tp_encode(L, top + n + 1, n, NULL, 0, &in->second, &err) == 0, "what was decoded encodes");
    if (b->len == in->second.len && memcmp(b->data, in->second.data, b->len) == 0)
        return 0;
    lua_getglobal(L, "same");
    lua_insert(L, top + 1);
    lua_pushinteger(L, n);
    lua_insert(L, top + 2);
    lua_call(L, 2 * n + 1, 1);
    must(lua_toboolean(L, -1), "what was decoded again is the same");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static lua_State *L;
    static unsigned uses;
    if (++uses % 10000 == 0 && L) {
        lua_close(L);
        L = NULL;
    }
    if (!L)
        L = open_state();
    struct input in = { .bytes = bytes, .len = len };
    lua_pushcfunction(L, decode_and_encode);
    lua_pushlightuserdata(L, &in);
    if (lua_pcall(L, 1, 0, 0)) {
        const char *why = lua_tostring(L, -1);
        must(why && (strstr(why, "not enough memory") || strstr(why, "stack overflow")),
             why ? why : "an error");
    }
    lua_settop(L, 0);
    tp_buf_free(&in.first);
    tp_buf_free(&in.second);
    return 0;
}
