/* codec_test.c: what travels, what is refused and how, and what bad bytes and failing allocations
 * do.
 *
 * Two Lua states play the host and the worker. Most tests are Lua: a chunk that returns values in
 * one state, and a chunk that receives them as `...` in the other and asserts. */
#include "base/heap.h"
#include "codec/codec.h"
#include "codec/scalar.h"
#include "harness.h"

#include <lauxlib.h>
#include <lualib.h>

#include <stdarg.h>
#include <stdatomic.h>

#define countof(a) (sizeof(a) / sizeof *(a))

/* A test with both states open, which must be closable after it. */
#define CODEC_TEST(name)           \
    static void name##_open(void); \
    TEST(name)                     \
    {                              \
        alarm(600);                \
        open_states();             \
        name##_open();             \
        close_states();            \
    }                              \
    static void name##_open(void)

__attribute__((noreturn, format(printf, 1, 2)))
static void fail(const char *format, ...)
{
    char why[2000];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    harness_fail(__FILE__, __LINE__, "", why);
}

/* ---- states ---- */

/* An allocator over malloc, so that AddressSanitizer sees the Lua heap; over LuaJIT's where that
 * does not reach what malloc gives. It can fail the n-th allocation. */
struct heap {
    long fail_at; /* counts down to the allocation that fails; negative: none */
    size_t used, peak;
    lua_Alloc below; /* NULL: malloc */
    void *user;
};

static void *resize(struct heap *h, void *p, size_t old, size_t size)
{
    if (h->below)
        return h->below(h->user, p, old, size);
    if (size)
        return realloc(p, size);
    free(p);
    return NULL;
}

static void *allocate(void *ud, void *p, size_t old, size_t size)
{
    struct heap *h = ud;
    if (size == 0) {
        resize(h, p, old, 0);
        h->used -= p ? old : 0;
        return NULL;
    }
    if (size > (p ? old : 0) && h->fail_at >= 0 && h->fail_at-- == 0)
        return NULL;
    void *q = resize(h, p, old, size);
    if (q) {
        h->used += size - (p ? old : 0);
        h->peak = h->used > h->peak ? h->used : h->peak;
    }
    return q;
}

static lua_State *new_plain_state(struct heap *h)
{
    *h = (struct heap){ .fail_at = -1 };
    bool is_in_reach = tp_heap_is_in_reach();
    lua_State *L = is_in_reach ? lua_newstate(allocate, h) : luaL_newstate();
    CHECK(L);
    if (!is_in_reach) {
        h->below = lua_getallocf(L, &h->user);
        h->used =
            (size_t)lua_gc(L, LUA_GCCOUNT, 0) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB, 0);
        lua_setallocf(L, allocate, h);
    }
    luaL_openlibs(L);
    return L;
}

static lua_State *new_state(struct heap *h)
{
    lua_State *L = new_plain_state(h);
    tp_codec_open(L);
    return L;
}

static struct heap heaps[2];
static lua_State *A, *B; /* host and worker */
static tp_buf buf;

/* tidepool.class(name, mt, by_value) for the chunks. */
static int l_class(lua_State *L)
{
    tp_codec_add_class(L, luaL_checkstring(L, 1), 2, lua_toboolean(L, 3));
    return 0;
}

/* A host object. */
struct thing {
    tp_ref ref;
    int *freed;
};

static void free_thing(tp_ref *r)
{
    ++*((struct thing *)r)->freed;
    free(r);
}

static const tp_ref_type thing_type = { "test.thing", free_thing };
static const tp_ref_type other_type = { "test.other", free_thing };
static int things_freed;

static int l_thing(lua_State *L)
{
    struct thing *t = malloc(sizeof *t);
    tp_ref_init(&t->ref, &thing_type);
    t->freed = &things_freed;
    tp_codec_push_ref(L, &t->ref);
    tp_ref_drop(t);
    return 1;
}

static void open_states(void)
{
    A = new_state(&heaps[0]);
    B = new_state(&heaps[1]);
    for (int i = 0; i < 2; i++) {
        lua_State *L = i ? B : A;
        lua_register(L, "class", l_class);
        lua_register(L, "thing", l_thing);
        lua_pushboolean(L, i);
        lua_setglobal(L, "in_worker");
    }
}

static void close_states(void)
{
    lua_close(A);
    lua_close(B);
    tp_buf_free(&buf);
}

/* Runs a chunk with the n values on top as `...`; leaves its results. */
static void run_with(lua_State *L, const char *code, int n)
{
    if (luaL_loadbuffer(L, code, strlen(code), "=test"))
        fail("%s", lua_tostring(L, -1));
    lua_insert(L, -1 - n);
    if (lua_pcall(L, n, LUA_MULTRET, 0))
        fail("%s", lua_tostring(L, -1));
}

static int encode_top(lua_State *L, int n, unsigned flags, tp_error *err)
{
    static const char *const names[] = { "argument 1", "argument 2", "argument 3", NULL };
    int top = lua_gettop(L);
    int rc = tp_encode(L, top - n + 1, n, n <= 3 ? names : NULL, flags, &buf, err);
    CHECK(lua_gettop(L) == top);
    return rc;
}

/* What `make` returns in one state, given to `check` in the other. */
static void move(lua_State *from, lua_State *to, const char *make, const char *check,
                 unsigned flags)
{
    tp_error err = { 0 };
    lua_settop(from, 0);
    lua_settop(to, 0);
    tp_buf_clear(&buf);
    run_with(from, make, 0);
    int n = lua_gettop(from);
    if (encode_top(from, n, flags, &err) < 0)
        fail("encode: %s", err.message);
    lua_settop(from, 0);
    size_t used = 0;
    int got = tp_decode(to, buf.data, buf.len, buf.refs, buf.nrefs, TP_DECODE_TRUSTED, &used, &err);
    if (got < 0)
        fail("decode: %s", err.message);
    CHECK(used == buf.len && got == n && lua_gettop(to) == n);
    run_with(to, check, n);
    lua_settop(to, 0);
}

static void send(const char *make, const char *check)
{
    move(A, B, make, check, 0);
}

/* What `make` returns is refused with that text. */
static void refuse(const char *make, const char *text)
{
    tp_error err = { 0 };
    lua_settop(A, 0);
    tp_buf_clear(&buf);
    run_with(A, make, 0);
    if (encode_top(A, lua_gettop(A), 0, &err) == 0)
        fail("was not refused: %s", make);
    CHECK(buf.len == 0 && buf.nrefs == 0);
    const char *rest = strncmp(err.message, text, strlen(text)) == 0
                           ? err.message + strlen(text)
                           : "?"; /* what to do instead, in brackets */
    if ((*rest && strncmp(rest, " (", 2) != 0) || err.code != TP_ECODEC)
        fail("got  %s\n    want %s", err.message, text);
    lua_settop(A, 0);
}

/* ---- plain values ---- */

CODEC_TEST(plain_values)
{
    send("return nil, true, false, 0, 1, -1, 127, 128, -128, -129, 2^31, -2^31, 2^53+1, 1.5, 'x', "
         "nil",
         "local t = {...} assert(select('#', ...) == 16)\n"
         "assert(t[1] == nil and t[2] == true and t[3] == false)\n"
         "local want = {0, 1, -1, 127, 128, -128, -129, 2^31, -2^31, 2^53+1, 1.5, 'x'}\n"
         "for i, v in ipairs(want) do assert(t[i + 3] == v, i) end");
    send("return", "assert(select('#', ...) == 0)");
    send("local t = {} for i = 1, 300 do t[i] = i end return unpack(t)",
         "assert(select('#', ...) == 300) for i = 1, 300 do assert(select(i, ...) == i) end");
}

CODEC_TEST(numbers_bit_for_bit)
{
    /* -1/(1/0) is -0 with every LuaJIT: where it has integers (arm64), the literal -0 is 0 */
    send("return -1/(1/0), 0/0, 1/0, -1/0, 1e308, 5e-324, 0x1p-1022, 2^31-1, 2^31, -2^31-1",
         "local z, nan, inf, ninf, a, b, c, d, e, f = ...\n"
         "assert(1/z == -1/0) assert(nan ~= nan) assert(inf == 1/0) assert(ninf == -1/0)\n"
         "assert(a == 1e308 and b == 5e-324 and c == 0x1p-1022 and d == 2147483647 and e == "
         "2147483648 and f == -2147483649)");
    const char *make =
        "math.randomseed(42) local t = {}\n"
        "for i = 1, 100000 do t[i] = (math.random() - .5) * 2 ^ math.random(-1000, 1000) end\n"
        "t[7] = -1/(1/0) ";
    char code[512];
    snprintf(code, sizeof code, "%s return t", make);
    char check[512];
    snprintf(check, sizeof check,
             "local r = ... %s for i = 1, 100000 do assert(r[i] == t[i], i) end assert(1/r[7] < 0)",
             make);
    send(code, check);
}

CODEC_TEST(nan_of_other_bits_is_made_canonical)
{
    uint8_t message[] = { 1, 0xa5, 1, 2, 3, 4, 5, 6, 0xf9, 0xff };
    tp_error err = { 0 };
    CHECK(tp_decode(A, message, sizeof message, NULL, 0, 0, NULL, &err) == 1);
    CHECK(lua_type(A, -1) == LUA_TNUMBER && lua_tonumber(A, -1) != lua_tonumber(A, -1));
}

CODEC_TEST(strings)
{
    const char *make = "local all = {} for i = 0, 255 do all[i + 1] = string.char(i) end\n"
                       "local t = {'', '\\0', table.concat(all), '\\255\\254', ('y'):rep(31), "
                       "('z'):rep(32), ('ab'):rep(2^19)}\n";
    char code[512], check[600];
    snprintf(code, sizeof code, "%s return t", make);
    snprintf(check, sizeof check, "local r = ... %s for i = 1, 7 do assert(r[i] == t[i], i) end",
             make);
    send(code, check);
    send("return '\\27LJ\\2 looks like bytecode'",
         "assert(... == '\\27LJ\\2 looks like bytecode')");
}

CODEC_TEST(long_string_is_sent_once)
{
    send("local s = ('x'):rep(2^20) local t = {} for i = 1, 100 do t[i] = s end t[s] = s return t, "
         "s",
         "local t, s = ... for i = 1, 100 do assert(t[i] == s) end assert(t[s] == s and #s == "
         "2^20)");
    CHECK(buf.len < (1 << 20) + 2000);
}

CODEC_TEST(too_long_string_is_refused)
{
    lua_settop(A, 0);
    if (luaL_dostring(A, "return ('x'):rep(2^30 + 1)"))
        return; /* not enough memory for this one here */
    lua_settop(A, 0);
    refuse("return {{s = ('x'):rep(2^30 + 1)}}",
           "argument 1[1].s: a string of 1073741825 bytes is over the limit of 1073741824");
}

CODEC_TEST(tables)
{
    send("return {1, nil, 3, n = 5}, {[true] = 1, [1.5] = 2, [-1] = 3, [2^40] = 4, [''] = 5, "
         "['\\0'] = 6, [0] = 7}, {}",
         "local a, b, c = ... assert(a[1] == 1 and a[2] == nil and a[3] == 3 and a.n == 5)\n"
         "assert(b[true] == 1 and b[1.5] == 2 and b[-1] == 3 and b[2^40] == 4 and b[''] == 5 and "
         "b['\\0'] == 6 and b[0] == 7)\n"
         "assert(next(c) == nil)");
    send("local k = {} return {[k] = k, [{}] = 1, [print] = 2}, k",
         "local t, k = ... assert(t[k] == k and t[print] == 2)");
}

/* All ways in which a table may keep its integer keys: array part, hash part, both, with holes,
 * with [0]. */
CODEC_TEST(tables_of_all_shapes)
{
    const char *make = "math.randomseed(7) local list = {}\n"
                       "for i = 1, 3000 do\n"
                       "  local t, kind = {}, i % 6\n"
                       "  if kind == 0 then t = {1, 2, 3, x = 1, y = 2, z = 3} elseif kind == 1 "
                       "then t = {nil, 2, nil, 4}\n"
                       "  elseif kind == 2 then t = {[0] = 0, 1, 2} elseif kind == 3 then t = {1, "
                       "2, 3, 4, 5, 6, 7, 8, a = 1} end\n"
                       "  for j = 1, math.random(0, 40) do\n"
                       "    local k = math.random(4) == 1 and ('k' .. math.random(9)) or "
                       "math.random(-1, i % 30 + 1)\n"
                       "    t[k] = math.random(3) > 1 and math.random(1000) or (math.random(2) == "
                       "1 and 's' or nil)\n"
                       "  end\n"
                       "  if kind == 5 then for j = 1, 20 do t[j] = j + .5 end for j = 1, "
                       "math.random(0, 20) do t[j] = nil end end\n"
                       "  list[i] = t\n"
                       "end\n"
                       "local function same(a, b)\n"
                       "  for k, v in pairs(a) do if b[k] ~= v then return false end end\n"
                       "  for k, v in pairs(b) do if a[k] ~= v then return false end end\n"
                       "  return true\n"
                       "end\n";
    char code[2048];
    snprintf(code, sizeof code, "%s return list", make);
    char check[2048];
    snprintf(check, sizeof check,
             "local r = ... %s for i = 1, 3000 do assert(same(r[i], list[i]), i) end", make);
    send(code, check);
}

CODEC_TEST(cycles_and_shared_references)
{
    send("local t = {} t.self = t return t", "local t = ... assert(t.self == t)");
    send("local s = {} return s, s, {s, s}",
         "local a, b, c = ... assert(a == b and c[1] == a and c[2] == a)");
    send("local a, b = {}, {} a.b, b.a = b, a a[a] = b return {a, b, {a}}",
         "local t = ... local a, b = t[1], t[2] assert(a.b == b and b.a == a and a[a] == b and "
         "t[3][1] == a)");
    send("local t = {} for i = 1, 1000 do t[i] = {i} end for i = 1, 1000 do t[i].next = t[i % 1000 "
         "+ 1] end return t",
         "local t = ... for i = 1, 1000 do assert(t[i][1] == i and t[i].next == t[i % 1000 + 1]) "
         "end");
}

CODEC_TEST(cdata_numbers)
{
    send("local ffi = require 'ffi' local s = ffi.new('struct { int64_t i; }', {77})\n"
         "return -9223372036854775807LL-1, 18446744073709551615ULL, ffi.new('complex', 1, 2), "
         "ffi.new('int64_t', 5), s.i",
         "local ffi = require 'ffi' local a, b, c, d, e = ...\n"
         "assert(ffi.istype('int64_t', a) and a == -9223372036854775807LL-1)\n"
         "assert(ffi.istype('uint64_t', b) and b == 18446744073709551615ULL)\n"
         "assert(ffi.istype('complex', c) and c.re == 1 and c.im == 2)\n"
         "assert(ffi.istype('int64_t', d) and d == 5LL and e == 77LL)");
    refuse("return {{x = require('ffi').new('int[4]')}}",
           "argument 1[1].x: a cdata<int [4]> cannot travel to a worker");
    refuse("return require('ffi').cast('void *', 1)",
           "argument 1: a cdata<void *> cannot travel to a worker");
    send("local ffi = require 'ffi' return ffi.typeof('int'), ffi.typeof('int64_t'), "
         "ffi.typeof('complex'), ffi.new('int', 5)",
         "local ffi = require 'ffi' local a, b, c, d = ...\n"
         "assert(a == ffi.typeof('int') and b == ffi.typeof('int64_t') and c == "
         "ffi.typeof('complex'))\n"
         "assert(ffi.istype('int', d) and d == 5)");
}

/* ---- depth ---- */

CODEC_TEST(deep_nesting)
{
    const char *nest = "local function nest(n, make) local t = make() local x = t for i = 2, n do "
                       "local u = make() u.x = t t = u end "
                       "return t end ";
    char code[1024];
    snprintf(code, sizeof code, "%s return nest(10000, function() return {} end)", nest);
    send(code, "local t = ... local n = 1 while t.x do t = t.x n = n + 1 end assert(n == 10000)");
    snprintf(code, sizeof code, "%s return nest(9999, function() local s = {} return {s, s} end)",
             nest);
    send(code, "local t = ... local n = 1 while t.x do assert(t[1] == t[2]) t = t.x n = n + 1 end "
               "assert(n == 9999)");
    snprintf(code, sizeof code, "%s return nest(10001, function() return {} end)", nest);
    refuse(code,
           "argument 1: nested deeper than 10000 at .x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x...");
    snprintf(code, sizeof code, "%s return nest(100000, function() return {} end)", nest);
    refuse(code,
           "argument 1: nested deeper than 10000 at .x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x...");
}

CODEC_TEST(deep_functions_and_keys)
{
    send("local f = function() return 0 end for i = 1, 5000 do local g = f f = function() return g "
         "end end return f",
         "local f, n = ..., 0 while true do f = f() if f == 0 then break end n = n + 1 end "
         "assert(n == 5000)");
    send("local k = {} for i = 1, 9999 do k = {[k] = true} end return k",
         "local k, n = ..., 1 while next(k) do k = next(k) n = n + 1 end assert(n == 10000)");
}

CODEC_TEST(refusals_shorten_long_paths)
{
    refuse("local t = {bad = io.tmpfile()} for i = 1, 500 do t = {step = t} end return t",
           "argument 1"
           ".step.step.step.step.step.step.step.step.step.step.step.step.step.step.step.step"
           ".step.step.step.step.step.step.step.step.step.step.step.step.step.step.step.step"
           "...: a userdata cannot travel to a worker");
}

/* ---- refusals ---- */

CODEC_TEST(refusals_name_the_path)
{
    refuse("return 1, {user = {socket = io.tmpfile()}}",
           "argument 2.user.socket: a userdata cannot travel to a worker");
    refuse("return io.tmpfile()", "argument 1: a userdata cannot travel to a worker");
    refuse("return {coroutine.create(print)}",
           "argument 1[1]: a coroutine cannot travel to a worker");
    refuse("return {[1.5] = newproxy()}", "argument 1[1.5]: a userdata cannot travel to a worker");
    refuse("return {['odd \"key\"\\n'] = newproxy()}",
           "argument 1[\"odd \\\"key\\\"\\010\"]: a userdata cannot travel to a worker");
    refuse("return {[true] = newproxy()}",
           "argument 1[true]: a userdata cannot travel to a worker");
    refuse("return {x = {[io.tmpfile()] = 1}}",
           "argument 1.x[userdata] (key): a userdata cannot travel to a worker");
    refuse("local conn = io.tmpfile() return function() return conn end",
           "argument 1: upvalue \"conn\": a userdata cannot travel to a worker");
    refuse("local conn = {sock = io.tmpfile()} return {f = function() return conn end}",
           "argument 1.f: upvalue \"conn\".sock: a userdata cannot travel to a worker");
    refuse("db = {h = io.tmpfile()} return function() return db end",
           "argument 1: global \"db\".h: a userdata cannot travel to a worker");
    refuse("return {string.gmatch('a', 'a')}",
           "argument 1[1]: a C function that no loaded module has cannot travel to a worker");
    refuse("return {setmetatable({1}, {__index = {x = 1}})}",
           "argument 1[1]: a table with an unknown metatable cannot travel to a worker");
    refuse("return 1, 2, 3, io.tmpfile()", "value 4: a userdata cannot travel to a worker");
    lua_settop(A, 0);
    lua_pushlightuserdata(A, &buf);
    lua_setglobal(A, "light");
    refuse("return {a = light}", "argument 1.a: a light userdata cannot travel to a worker");
    lua_pushlightuserdata(A, NULL); /* but for the one that points nowhere, which is cjson.null */
    lua_setglobal(A, "null");
    lua_pushlightuserdata(B, NULL);
    lua_setglobal(B, "null");
    send("return {a = null, null}",
         "local t = ... assert(t.a == null and t[1] == null and t.a ~= nil)");
    send("return 'still works'", "assert(... == 'still works')");
}

CODEC_TEST(no_user_code_runs_while_encoding)
{
    refuse("local function bad() error('user code ran') end\n"
           "return setmetatable({x = 1}, {__index = bad, __pairs = bad, __len = bad, __newindex = "
           "bad, __gc = bad})",
           "argument 1: a table with an unknown metatable cannot travel to a worker");
    send("local function bad() error('user code ran') end\n"
         "local mt = {__index = bad, __len = bad, __newindex = bad, __metatable = 1, __eq = bad, "
         "__tostring = bad}\n"
         "class('Bad', mt, true) return {setmetatable({x = 1, 5, 6}, mt)}",
         "local t = ... assert(rawget(t[1], 'x') == 1 and rawget(t[1], 2) == 6)");
}

CODEC_TEST(error_values_lose_unknown_metatables)
{
    move(B, A,
         "local t = setmetatable({code = 5, why = {'a'}}, {__tostring = function() return 'pretty' "
         "end}) t.self = t return t",
         "local t = ... assert(t.code == 5 and t.why[1] == 'a' and t.self == t and getmetatable(t) "
         "== nil)",
         TP_ENCODE_ERROR_VALUE);
}

/* ---- functions ---- */

CODEC_TEST(functions)
{
    send("return function(a, b) return a + b end, function(...) return select('#', ...) end",
         "local f, g = ... assert(f(1, 2) == 3 and g(nil, nil, nil) == 3)");
    send("local n, s, t = 5, 'x', {1, 2} return function(x) return n + x, s, t[2] end",
         "local a, b, c = (...)(1) assert(a == 6 and b == 'x' and c == 2)");
    send("local function fact(n) return n < 2 and 1 or n * fact(n - 1) end return fact",
         "assert((...)(10) == 3628800)");
    send("local n = 0 local function inc() n = n + 1 end local function get() return n end return "
         "{inc = inc, get = get}, get",
         "local t, get = ... t.inc() t.inc() assert(t.get() == 2 and get == t.get)");
    send("local even, odd function even(n) return n == 0 or odd(n - 1) end function odd(n) return "
         "n ~= 0 and even(n - 1) end\n"
         "return even, odd",
         "local even, odd = ... assert(even(10) and odd(7) and not even(3))");
    send("return function() return function() return debug.getinfo(1, 'S').short_src, "
         "debug.getinfo(1, 'l').currentline end end",
         "local src, line = (...)()() assert(src == 'test' and line == 1, src)");
    send("local f = function(x) local s = 0 for i = 1, x do s = s + i end return s end for i = 1, "
         "300 do f(i) end return f",
         "assert((...)(1000) == 500500)"); /* compiled by the JIT before it is sent */
    send("local a, b = 1, 2 local function f() return a end local function g() return b end\n"
         "local function setter(x) a = x end return {f, f}, g, setter",
         "local t, g, set = ... assert(t[1] == t[2]) set(9) assert(t[1]() == 9 and g() == 2)");
}

CODEC_TEST(upvalue_shared_with_its_own_value)
{
    send("local t = {} local v local function f() return v end local function g(x) v = x end v = "
         "{f, g} t.f, t.g = f, g return t",
         "local t = ... assert(t.f()[1] == t.f and t.f()[2] == t.g) t.g(3) assert(t.f() == 3)");
}

CODEC_TEST(closures_of_one_prototype)
{
    send("local t = {} for i = 1, 100 do t[i] = function() return i end end return t",
         "for i, f in ipairs(...) do assert(f() == i) end");
    CHECK(buf.len < 100 * 40); /* their bytecode is there once */
}

CODEC_TEST(all_constants_in_bytecode)
{
    send("one = {'carried'} return function()\n"
         "  local t = {1, 2.5, 'str', nil, true, x = 1, y = 'two', [3.5] = false, z = {1}}\n"
         "  local a, b, c, d = 12345678901LL, 5ULL, 3i, 1e300\n"
         "  local function inner() return function() return one end end\n"
         "  return inner()()[1], t[2], t.y, a, b, c.im, d\nend",
         "local a, b, c, d, e, f, g = (...)()\n"
         "assert(a == 'carried' and b == 2.5 and c == 'two' and d == 12345678901LL and e == 5ULL "
         "and f == 3 and g == 1e300)");
}

/* ---- globals ---- */

CODEC_TEST(globals_by_name)
{
    send("function helper(x) return other(x) + 1 end function other(x) return x * scale end scale "
         "= 10\n"
         "return function(x) return helper(x) end",
         "assert((...)(2) == 21 and helper == nil and scale == nil)");
    send("function fib(n) return n < 2 and n or fib(n - 1) + fib(n - 2) end return fib",
         "assert((...)(15) == 610 and fib == nil)");
    send("return function() return math.floor(2.5), string.rep('a', 3), type(print), _G ~= nil end",
         "local a, b, c, d = (...)() assert(a == 2 and b == 'aaa' and c == 'function' and d)");
    send("return function() return missing end", "assert((...)() == nil)");
    send("shadowed = print return function() return shadowed end", "assert((...)() == print)");
    send("print = function() return 'mine' end return function() return print() end",
         "assert((...)() == 'mine')");
}

CODEC_TEST(assignments_to_globals_stay_with_the_image)
{
    send(
        "counter = 5 return function() counter = counter + 1 return counter end, function() return "
        "counter end",
        "local inc, get = ... assert(inc() == 6 and inc() == 7 and get() == 7 and counter == nil)");
    send("return function() fresh = 1 return fresh end", "assert((...)() == 1 and fresh == nil)");
    send("return function() return in_worker end", "assert((...)() == false)");
}

CODEC_TEST(sandbox_environments)
{
    send("local env = setmetatable({x = 5}, {__index = _G}) local f = function() return x, "
         "tostring(x) end setfenv(f, env)\n"
         "local g = setfenv(function() x = x + 1 end, env) return f, g",
         "local f, g = ... g() local a, b = f() assert(a == 6 and b == '6')");
    send("local env = setmetatable({}, {__index = function(_, k) return k == 'y' and {k} or nil "
         "end})\n"
         "return setfenv(function() return y[1] end, env)",
         "assert((...)() == 'y')");
    send("local env = setmetatable({}, {__index = function(_, k) error('undeclared ' .. k) end})\n"
         "return setfenv(function() return nothing end, env)", "assert((...)() == nil)");
    send("local f = setfenv(function() return a end, {a = 1}) local g = setfenv(function() return "
         "a end, {a = 2}) return f, g",
         "local f, g = ... assert(f() == 1 and g() == 2)");
}

/* A function that has travelled can travel on. */
CODEC_TEST(functions_travel_on)
{
    lua_settop(A, 0);
    send("base = 40 function add(x) return x + base end return function(x) return add(x) end",
         "kept = ...");
    move(B, A, "return kept", "base, add = nil, nil assert((...)(2) == 42)", 0);
}

CODEC_TEST(bytecode_needs_trust)
{
    tp_error err = { 0 };
    run_with(A, "return {function() end}", 0);
    CHECK(encode_top(A, 1, 0, &err) == 0);
    lua_settop(B, 0);
    CHECK(tp_decode(B, buf.data, buf.len, NULL, 0, 0, NULL, &err) == -1 && err.code == TP_ECODEC);
    CHECK(strstr(err.message, "a function") && lua_gettop(B) == 0);
}

/* ---- builtins and modules ---- */

CODEC_TEST(builtins_travel_by_name)
{
    send("return print, string.rep, math, _G, require('bit').band, require('ffi'), "
         "require('ffi').new, require('jit.util'), {io.write}",
         "local a, b, c, d, e, f, g, h, i = ... assert(a == print and b == string.rep and c == "
         "math and d == _G)\n"
         "assert(e == bit.band and f == require 'ffi' and g == f.new and h == require 'jit.util' "
         "and i[1] == io.write)");
    lua_settop(A, 0);
    run_with(A, "host = {f = function() end, t = {}, n = 1}", 0);
    lua_getglobal(A, "host");
    tp_codec_add_builtins(A, "tidepool.host", -1);
    run_with(B, "host = {f = function() return 'worker' end, t = {}, n = 2}", 0);
    lua_getglobal(B, "host");
    tp_codec_add_builtins(B, "tidepool.host", -1);
    send("return host, host.f, host.t",
         "local h, f, t = ... assert(h == host and f == host.f and t == host.t)");
}

static const char preload[] =
    "package.preload['vec'] = function(...)\n"
    "  local vec = {} vec.mt = {__index = vec} vec.__index = vec\n"
    "  function vec.new(x) return setmetatable({x = x}, vec.mt) end\n"
    "  function vec.plain(x) return setmetatable({x = x}, vec) end\n"
    "  function vec:get() return self.x end vec.where = in_worker\n"
    "  return vec\nend\n"
    "package.preload['util.data'] = function() return {1, 2, answer = 42} end\n";

CODEC_TEST(modules_travel_by_name)
{
    run_with(A, preload, 0);
    run_with(B, preload, 0);
    send("local vec = require 'vec' return function(x) return vec.new(x):get(), vec.where, vec end",
         "local x, where, vec = (...)(3) assert(x == 3 and where == true and vec == "
         "package.loaded.vec)");
    send("local vec = require 'vec' return vec.new(5), vec.plain(6), vec",
         "local a, b, vec = ... assert(a:get() == 5 and b:get() == 6 and getmetatable(a) == vec.mt "
         "and getmetatable(b) == vec)");
    send("local d = require 'util.data' return function() return d end",
         "assert((...)() == require 'util.data')");
    tp_codec_new_epoch(A);
    send("local vec = require 'vec' local get = vec.get return {vec, get}",
         "assert(({...})[1][1] == package.loaded.vec)");
}

CODEC_TEST(c_functions_of_modules)
{
    lua_settop(A, 0);
    for (int i = 0; i < 2; i++) {
        lua_State *L = i ? B : A;
        run_with(L, "local m = {} m.pick = string.gmatch('a', 'a') package.loaded['c.mod'] = m", 0);
    }
    send("return {require('c.mod').pick}", "assert((...)[1] == require('c.mod').pick)");
}

CODEC_TEST(a_c_module)
{
    run_with(A, "ok = pcall(require, 'cjson')", 0);
    lua_getglobal(A, "ok");
    if (lua_toboolean(A, -1))
        send("local json, encode = require 'cjson', require 'cjson'.encode return function(t) "
             "return json.decode(encode(t)) end, encode",
             "local f, encode = ... assert(f({5})[1] == 5 and encode == require 'cjson'.encode)");
}

CODEC_TEST(module_that_does_not_load)
{
    tp_error err = { 0 };
    run_with(A,
             "package.loaded.db = {f = 1}  local db = require 'db' return function() return db end",
             0);
    CHECK(encode_top(A, 1, 0, &err) == 0);
    run_with(B, "package.preload.db = function() error('no server', 0) end", 0);
    lua_settop(B, 0);
    CHECK(tp_decode(B, buf.data, buf.len, NULL, 0, TP_DECODE_TRUSTED, NULL, &err) == -1);
    if (strcmp(err.message, "cannot load module \"db\" in a worker: no server") != 0)
        fail("%s", err.message);
    CHECK(lua_gettop(B) == 0);
    err = (tp_error){ 0 };
    CHECK(tp_decode(B, buf.data, buf.len, NULL, 0, 0, NULL, &err) ==
          -1); /* without trust nothing is loaded */
}

/* Decodes what is in buf in B, after some code has run there. False when it cannot be, with an
 * error that begins so. */
static bool decodes(const char *module, const char *expected)
{
    tp_error err = { 0 };
    lua_settop(B, 0);
    run_with(B, module, 0);
    lua_settop(B, 0);
    int n = tp_decode(B, buf.data, buf.len, NULL, 0, TP_DECODE_TRUSTED, NULL, &err);
    if (n < 0 && strncmp(err.message, expected, strlen(expected)) != 0)
        fail("%s", err.message);
    return n >= 0;
}

static int l_decode(lua_State *L)
{
    tp_error err = { 0 };
    CHECK(tp_decode(L, buf.data, buf.len, NULL, 0, TP_DECODE_TRUSTED, NULL, &err) < 0);
    return 0;
}

/* LuaJIT's require would say "loop or previous error loading module" from then on. */
CODEC_TEST(module_that_has_not_loaded_is_tried_again)
{
    tp_error err = { 0 };
    run_with(A,
             "package.loaded.db = {f = 1}  local db = require 'db' return function() return db end",
             0);
    CHECK(encode_top(A, 1, 0, &err) == 0);
    const char *text = "cannot load module \"db\" in a worker: no server";
    for (int i = 0; i < 2; i++)
        CHECK(!decodes("package.preload.db = function() require 'net' end  package.preload.net = "
                       "function() error('no server', 0) end",
                       text));
    CHECK(decodes("package.preload.net = function() return {} end", text));
    /* What is being loaded further out stays marked: a module that needs itself is still
     * refused. */
    lua_pushcfunction(B, l_decode);
    lua_setglobal(B, "decode");
    run_with(B,
             "package.loaded.db, package.loaded.net = nil  package.preload.net = function() "
             "error('no server', 0) end\n"
             "package.preload.outer = function() decode() return {select(2, pcall(require, "
             "'outer'))} end\n"
             "local why = require 'outer'[1]  assert(why:find 'loop', why)",
             0);
}

CODEC_TEST(why_the_module_of_a_name_does_not_load)
{
    tp_error err = { 0 };
    run_with(A,
             "package.loaded.geo = {area = string.gmatch('a', 'a')} return function() return 1 "
             "end, require('geo').area",
             0);
    CHECK(encode_top(A, 1, 0, &err) == 0);
    CHECK(!decodes("package.preload.geo = function() error('no maps', 0) end",
                   "cannot load module \"geo\" in a worker: no maps"));
    run_with(A, "S = {} class('geo.S', S, false)", 0);
    tp_buf_clear(&buf);
    run_with(A, "return setmetatable({}, S)", 0);
    CHECK(encode_top(A, 1, 0, &err) == 0);
    CHECK(!decodes("", "class \"geo.S\" is not known in a worker: cannot load module \"geo\" in a "
                       "worker: no maps"));
    CHECK(!decodes("package.preload.geo = function() require 'geodesy' end",
                   "class \"geo.S\" is not known in a worker: cannot load module \"geo\" in a "
                   "worker: test:1: module 'geodesy' not found"));
}

CODEC_TEST(package_path_comes_along)
{
    run_with(A, "package.loaded.onpath = {} package.path = '/nowhere/?.lua;' .. package.path", 0);
    run_with(B, "package.preload.onpath = function() seen = package.path return {} end", 0);
    tp_codec_new_epoch(A);
    send("local m = require 'onpath' return m, m",
         "local a, b = ... assert(a == b and seen:match('^/nowhere/') and a == "
         "package.loaded.onpath)");
}

/* A module that was unloaded is a plain table again, and its address may be another object's. */
CODEC_TEST(unloaded_modules_are_forgotten)
{
    run_with(A, "m = {x = 1} package.loaded.gone = m", 0);
    run_with(B, "package.loaded.gone = {} package.loaded.back = {}", 0);
    send("return m, function() end", "assert((...) == package.loaded.gone)");
    send("package.loaded.gone = nil return m, function() end",
         "assert((...).x == 1 and (...) ~= package.loaded.gone)");
    send("package.loaded.back = m package.loaded.gone = {} return {function() end, m}",
         "assert((...)[2] == package.loaded.back)");
}

/* ---- classes ---- */

CODEC_TEST(classes_by_name)
{
    const char *define =
        "P = {} P.__index = P function P:get() return self.x end class('app.P', P, false)";
    run_with(A, define, 0);
    run_with(B, define, 0);
    send("local p = setmetatable({x = 4}, P) return p, {p, setmetatable({x = 5}, P)}, P",
         "local p, t, class = ... assert(p:get() == 4 and t[1] == p and t[2]:get() == 5 and "
         "getmetatable(p) == P and class == P)");
    run_with(A, "Q = {} class('Q', Q, false)", 0);
    tp_error err = { 0 };
    tp_buf_clear(&buf);
    run_with(A, "return setmetatable({}, Q)", 0);
    CHECK(encode_top(A, 1, 0, &err) == 0);
    CHECK(tp_decode(B, buf.data, buf.len, NULL, 0, TP_DECODE_TRUSTED, NULL, &err) == -1);
    CHECK(strcmp(err.message, "class \"Q\" is not known in a worker") == 0);
    lua_settop(B, 0);
    run_with(A, "R = {} class('mod.R', R, false)", 0);
    run_with(B, "package.preload.mod = function() local m = {R = {}} return m end", 0);
    send("return setmetatable({}, R)", "assert(getmetatable(...) == require('mod').R)");
}

/* How the message of one userdata with fields, of the class of that name (one letter) and with this
 * as its fields, ends when it comes from outside. */
static int read_object(char class, const char *fields, size_t len)
{
    char bytes[32] = "\x01\xd6\xc0\x01\0\0\0";
    tp_error err = { 0 };
    bytes[7] = class;
    memcpy(bytes + 8, fields, len);
    lua_settop(B, 0);
    return tp_decode(B, (const uint8_t *)bytes, 8 + len, NULL, 0, 0, NULL, &err);
}

/* A userdata of a class that says so travels with its environment, as the table of its fields. */
CODEC_TEST(classes_of_userdata_with_fields)
{
    static const char *const make =
        "local first = newproxy(true) F = getmetatable(first) F.__fields = true\n"
        "F.__index = function(self, key) return debug.getfenv(self)[key] end\n"
        "F.__len = function(self) return debug.getfenv(self).length end\n"
        "function object(own) return debug.setfenv(newproxy(first), own) end class('F', F, false)";
    run_with(A, make, 0);
    run_with(B, make, 0);
    send("local o = object { length = 3 } debug.getfenv(o).list = { o } return o, { o, 7, o }",
         "local o, t = ... assert(type(o) == 'userdata' and getmetatable(o) == F and #o == 3)\n"
         "assert(rawequal(o, t[1]) and rawequal(o, t[3]) and rawequal(o, o.list[1]))");
    send("return object {}, object {}",
         "local a, b = ... assert(not rawequal(a, b) and a.x == nil)");
    refuse("return object { x = { coroutine.create(print) } }",
           "argument 1.x[1]: a coroutine cannot travel to a worker");
    run_with(A, "F.__fields = nil", 0);
    refuse("return object {}", "argument 1: a userdata cannot travel to a worker");
    /* bytes from outside give no userdata the metatable of another class */
    run_with(B, "P = {} class('P', P, false)", 0);
    CHECK(read_object('F', "\xb2\0\0\0\0\0\0\0\0", 9) == 1);
    CHECK(read_object('P', "\xb2\0\0\0\0\0\0\0\0", 9) < 0);
    CHECK(read_object('F', "\x07", 1) < 0);
    CHECK(read_object('F', "", 0) < 0);
}

CODEC_TEST(classes_by_value)
{
    run_with(A,
             "V = {} V.__index = V function V.new(x) return setmetatable({x = x}, V) end\n"
             "function V:get() return self.x * factor end V.__add = function(a, b) return "
             "V.new(a.x + b.x) end factor = 10\n"
             "class('V', V, true)",
             0);
    tp_codec_new_epoch(A);
    send("return V.new(1), {V.new(2), V.new(3)}",
         "local a, t = ... assert(a:get() == 10 and (t[1] + t[2]):get() == 50 and getmetatable(a) "
         "== getmetatable(t[1]))\n"
         "kept, kept_mt = a, getmetatable(a)");
    size_t first = buf.len;
    CHECK(first < 80 && buf.nrefs == 1); /* the definition is beside the bytes, once */
    send("return function(x) return V.new(x) end, V",
         "local f, V = ... assert(getmetatable(f(1)) == kept_mt and V == kept_mt)");
    move(B, A, "return kept, kept + kept",
         "local a, b = ... assert(getmetatable(a) == V and b:get() == 20 and a:get() == 10)", 0);
    /* The class changes: carried by the next epoch's messages, into the same metatable. */
    run_with(A, "function V:twice() return self.x * 2 end V.get = nil", 0);
    send("return V.new(4)", "assert((...).twice == nil)");
    tp_codec_new_epoch(A);
    send("return V.new(4)", "local v = ... assert(v:twice() == 8 and v.get == nil and "
                            "getmetatable(v) == kept_mt and kept:twice() == 2)");
    tp_ref *same = buf.refs[0];
    tp_ref_hold(same);
    tp_codec_new_epoch(A);
    send("return V.new(4)", "assert((...):twice() == 8)");
    CHECK(buf.refs[0] == same); /* not changed: not made again */
    tp_ref_drop(same);
}

CODEC_TEST(classes_that_inherit)
{
    run_with(A,
             "Base = {} Base.__index = Base function Base:hello() return 'base ' .. self.name end\n"
             "Derived = setmetatable({}, {__index = Base}) Derived.__index = Derived function "
             "Derived:own() return 'own' end\n"
             "class('Derived', Derived, true)",
             0);
    send("return setmetatable({name = 'n'}, Derived)",
         "local d = ... assert(d:hello() == 'base n' and d:own() == 'own')");
}

CODEC_TEST(classes_that_refer_to_each_other)
{
    run_with(
        A,
        "X = {} X.__index = X Y = {} Y.__index = Y function X:y() return setmetatable({}, Y) end\n"
        "function Y:x() return setmetatable({}, X) end class('X', X, true) class('Y', Y, true)",
        0);
    for (int i = 0; i < 3; i++) {
        tp_codec_new_epoch(A);
        send("return setmetatable({}, X)",
             "local x = ... X_ = X_ or getmetatable(x) assert(getmetatable(x) == X_ and "
             "getmetatable(x:y():x()) == X_)");
        send("return setmetatable({}, Y)",
             "local y = ... Y_ = Y_ or getmetatable(y) assert(getmetatable(y) == Y_ and "
             "getmetatable(y:x()) == X_\n"
             "and getmetatable(y:x():y()) == Y_)");
    }
}

/* A worker passes on to another one what it knows, also where a class came inside of another one's
 * definition. */
CODEC_TEST(classes_travel_on)
{
    run_with(
        A,
        "X = {} X.__index = X Y = {} Y.__index = Y function X:y() return setmetatable({}, Y) end\n"
        "function Y:x() return setmetatable({}, X) end class('X', X, true) class('Y', Y, true)",
        0);
    send("return setmetatable({}, X)", "x = ... y = x:y()");
    struct heap heap;
    lua_State *other = new_state(&heap);
    move(B, other, "return y", "assert(getmetatable((...):x():y()) == getmetatable(...))", 0);
    move(B, other, "return x, y", "local x, y = ... assert(getmetatable(x) == getmetatable(y:x()))",
         0);
    lua_close(other);
    send("return setmetatable({}, Y)", "assert(getmetatable(...) == getmetatable(y))");
    move(B, A, "return y, x",
         "local y, x = ... assert(getmetatable(y) == Y and getmetatable(x) == X)", 0);
}

CODEC_TEST(classes_with_instances_of_themselves)
{
    run_with(A,
             "Z = {} Z.__index = Z Z.zero = setmetatable({n = 0}, Z) function Z:get() return "
             "self.n, Z.zero end class('Z', Z, true)",
             0);
    send("return setmetatable({n = 1}, Z)",
         "local n, zero = (...):get() assert(n == 1 and zero:get() == 0 and getmetatable(zero) == "
         "getmetatable(...))");
}

CODEC_TEST(classes_that_cannot_travel)
{
    refuse(
        "local log = io.tmpfile() local C = {} C.__index = C function C.write() log:write() end "
        "class('C', C, true)\n"
        "return {setmetatable({}, C)}",
        "argument 1[1]: class \"C\".write: upvalue \"log\": a userdata cannot travel to a worker");
    send("return 1", "assert(... == 1)");
}

CODEC_TEST(class_name_taken_by_another_metatable)
{
    run_with(A, "N1 = {v = 1} N2 = {v = 2} class('N', N1, true) class('N', N2, true)", 0);
    send("return setmetatable({}, N2)", "assert(getmetatable(...).v == 2)");
    refuse("return setmetatable({}, N1)",
           "argument 1: a table with an unknown metatable cannot travel to a worker");
}

/* ---- host references ---- */

CODEC_TEST(host_references)
{
    send("local t = thing() assert(t == t) return t, {t}, thing()",
         "local a, b, c = ... assert(a == b[1] and rawequal(a, b[1]) and a ~= c) kept = a");
    CHECK(buf.nrefs == 2);
    send("return 1", "assert(type(kept) == 'userdata') kept_again = kept");
    lua_getglobal(B, "kept");
    CHECK(tp_codec_to_ref(B, -1, &thing_type));
    CHECK(!tp_codec_to_ref(B, -1, &other_type));
    move(B, A, "return kept", "assert(type(...) == 'userdata')", 0);
    lua_newtable(B);
    CHECK(!tp_codec_to_ref(B, -1, &thing_type));
    refuse("local p = newproxy(true) getmetatable(p).__gc = getmetatable(thing()).__gc return p",
           "argument 1: a userdata cannot travel to a worker");
    close_states();
    CHECK(things_freed == 3);
    open_states();
}

CODEC_TEST(references_from_outside_are_checked)
{
    tp_error err = { 0 };
    struct thing t = { .freed = &things_freed };
    tp_ref_init(&t.ref, &thing_type);
    tp_ref *refs[] = { &t.ref };
    uint8_t past[] = { 1, 0xc6, 1, 0, 0, 0 }, blob[] = { 1, 0xc2, 0, 0, 0, 0 };
    CHECK(tp_decode(B, past, sizeof past, refs, 1, 0, NULL, &err) == -1);
    CHECK(tp_decode(B, blob, sizeof blob, refs, 1, 0, NULL, &err) == -1);
    CHECK(lua_gettop(B) == 0 && atomic_load(&t.ref.owners) == 1);
}

/* ---- several messages in one buffer ---- */

CODEC_TEST(messages_one_after_the_other)
{
    tp_error err = { 0 };
    for (int i = 0; i < 10; i++) {
        run_with(A, "local t = {} return {t, t, thing()}", 0);
        CHECK(tp_encode(A, lua_gettop(A), 1, NULL, 0, &buf, &err) == 0);
    }
    run_with(A, "return {thing(), io.tmpfile()}", 0);
    size_t len = buf.len;
    CHECK(tp_encode(A, lua_gettop(A), 1, NULL, 0, &buf, &err) == -1 && buf.len == len &&
          buf.nrefs == 10);
    size_t at = 0, used;
    err = (tp_error){ 0 };
    for (int i = 0; i < 10; i++) {
        CHECK(tp_decode(B, buf.data + at, buf.len - at, buf.refs, buf.nrefs, TP_DECODE_TRUSTED,
                        &used, &err) == 1);
        run_with(B, "local t = ... assert(t[1] == t[2] and type(t[3]) == 'userdata')", 1);
        at += used;
    }
    CHECK(at == buf.len);
}

CODEC_TEST(opening_again_does_nothing)
{
    tp_codec_open(A);
    tp_codec_open(A);
    send("return 1, print", "assert(select(2, ...) == print)");
}

/* ---- nested use ---- */

static int l_roundtrip(lua_State *L)
{
    tp_error err = { 0 };
    tp_buf b = { 0 };
    int n = lua_gettop(L);
    if (tp_encode(L, 1, n, NULL, 0, &b, &err) < 0 ||
        tp_decode(L, b.data, b.len, b.refs, b.nrefs, TP_DECODE_TRUSTED, NULL, &err) < 0) {
        tp_buf_free(&b);
        return luaL_error(L, "%s", err.message);
    }
    tp_buf_free(&b);
    return lua_gettop(L) - n;
}

CODEC_TEST(modules_may_use_the_codec_while_they_load)
{
    lua_register(A, "roundtrip", l_roundtrip);
    lua_register(B, "roundtrip", l_roundtrip);
    run_with(A, "package.loaded.nested = {}", 0);
    run_with(B,
             "package.preload.nested = function()\n"
             "  for i = 1, 5 do local s = {} local t = roundtrip({s, s, s}) assert(t[1] == t[3]) "
             "end return {}\nend",
             0);
    send("local s = {} local m = package.loaded.nested return {s, s, {s, m, s}, m, function() "
         "return m, s end}",
         "local t = ... assert(t[1] == t[2] and t[3][1] == t[1] and t[3][3] == t[1] and t[4] == "
         "t[3][2])\n"
         "local m, s = t[5]() assert(m == t[4] and s == t[1])");
    send("local env = setmetatable({}, {__index = function(_, k) local s = {} return roundtrip({s, "
         "s}) end})\n"
         "local f = setfenv(function() return a, b end, env) local s = {} return {s, f, s}",
         "local t = ... assert(t[1] == t[3]) local a, b = t[2]() assert(a ~= b and a[1] == a[2] "
         "and b[1] == b[2])");
}

/* ---- full frames and big values ---- */

static int l_roundtrip_in_a_full_frame(lua_State *L)
{
    lua_settop(L, 1);
    while (lua_gettop(L) < 7900)
        lua_pushnil(L);
    lua_pushvalue(L, 1);
    tp_error err = { 0 };
    tp_buf b = { 0 };
    if (tp_encode(L, -1, 1, NULL, 0, &b, &err) < 0 ||
        tp_decode(L, b.data, b.len, NULL, 0, TP_DECODE_TRUSTED, NULL, &err) < 0)
        fail("%s", err.message);
    tp_buf_free(&b);
    return 1;
}

CODEC_TEST(a_full_frame_goes_on_in_another)
{
    lua_register(A, "roundtrip", l_roundtrip_in_a_full_frame);
    run_with(A,
             "local co = coroutine.wrap(function()\n"
             "  local leaf = {} local t = {leaf = leaf} for i = 1, 9000 do t = {t, leaf, i, "
             "function() return leaf end} end\n"
             "  local r = roundtrip(t) local leaf = r[2]\n"
             "  for i = 9000, 1, -1 do assert(r[3] == i and r[2] == leaf and r[4]() == leaf) r = "
             "r[1] end\n"
             "  assert(r.leaf == leaf)\n"
             "end) co()",
             0);
}

CODEC_TEST(big_values)
{
    send("local t = {} for i = 1, 1e6 do t[i] = i end return t",
         "local t = ... assert(#t == 1e6) for i = 1, 1e6 do assert(t[i] == i) end");
    send("return ('0123456789'):rep(1e7)",
         "local s = ... assert(#s == 1e8 and s == ('0123456789'):rep(1e7))");
    send("local t = {} for i = 1, 1e5 do t['key' .. i] = {i} end return t",
         "local t = ... for i = 1, 1e5 do assert(t['key' .. i][1] == i) end");
}

/* ---- bad bytes ---- */

static const char rich[] = "local s = {1, 2} local long = ('long'):rep(20)\n"
                           "return {id = 7, name = 'abc', v = {1, 2, 3}, runs = {1.5, 2, 3, 4, 5, "
                           "6, 7, 8, 9.25, 'x'}, s, s, neg = -5, big = 1e9,\n"
                           "  [long] = long, i = 5LL, u = 6ULL, c = 3i, p = print, m = math, o = "
                           "thing(), nan = 0/0, t = true, f = false}, s, nil, long";

static void decode_bad(const uint8_t *bytes, size_t len)
{
    /* An allocation of its own, so that AddressSanitizer sees a read past its end. */
    uint8_t *copy = malloc(len ? len : 1);
    memcpy(copy, bytes, len);
    tp_error err = { 0 };
    int top = lua_gettop(B);
    size_t before = heaps[1].used;
    heaps[1].peak = before;
    int n = tp_decode(B, copy, len, buf.refs, buf.nrefs, 0, NULL, &err);
    if (heaps[1].peak - before > 64 * 1024 + 16 * len)
        fail("%zu bytes allocated for a message of %zu", heaps[1].peak - before, len);
    CHECK(n >= 0 ? lua_gettop(B) == top + n : lua_gettop(B) == top && err.code == TP_ECODEC);
    lua_settop(B, top);
    free(copy);
}

CODEC_TEST(every_prefix_and_every_bit)
{
    tp_error err = { 0 };
    run_with(A, rich, 0);
    CHECK(encode_top(A, lua_gettop(A), 0, &err) == 0);
    lua_gc(B, LUA_GCSTOP, 0);
    for (size_t len = 0; len < buf.len; len++)
        decode_bad(buf.data, len);
    for (size_t bit = 0; bit < buf.len * 8; bit++) {
        buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        decode_bad(buf.data, buf.len);
        buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (bit % 64 == 0)
            lua_gc(B, LUA_GCCOLLECT, 0);
    }
    CHECK(tp_decode(B, buf.data, buf.len, buf.refs, buf.nrefs, 0, NULL, &err) == 4);
}

CODEC_TEST(announced_sizes_allocate_nothing)
{
    static const uint8_t messages[][10] = {
        { 1, 0xb2, 0, 0, 0, 0x80, 0, 0, 0, 0 },
        { 1, 0xb2, 0, 0, 0, 0, 0, 0, 0, 0x80 },
        { 1, 0xb0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0 },
        { 255, 0, 0, 0, 0x80, 0, 0, 0, 0, 0 },
        { 1, 0xb6, 0xb0, 0, 0, 0, 0x80, 0, 0, 0 },
        { 1, 0xb2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
    };
    for (size_t i = 0; i < countof(messages); i++) {
        tp_error err = { 0 };
        size_t before = heaps[1].used;
        heaps[1].peak = before;
        CHECK(tp_decode(B, messages[i], 10, NULL, 0, TP_DECODE_TRUSTED, NULL, &err) == -1 &&
              err.code == TP_ECODEC);
        CHECK(heaps[1].peak - before < 1024);
    }
    /* Tables in tables that each announce all the bytes that are left. */
    size_t len = 9 * 9000 + 1;
    uint8_t *bytes = calloc(len, 1);
    bytes[0] = 1;
    for (size_t i = 1; i + 9 <= len; i += 9) {
        uint32_t n = (uint32_t)(len - i - 9);
        bytes[i] = 0xb2;
        memcpy(bytes + i + 1, &n, 4);
    }
    decode_bad(bytes, len);
    free(bytes);
}

CODEC_TEST(copies_of_arrays_are_as_long_as_they_say)
{
    static const struct {
        uint8_t type;
        uint64_t elements, columns;
        size_t bytes;
    } wrong[] = { { 255, 0, 0, 0 },         { 0, 2, 0, 15 },
                  { 0, UINT64_MAX, 0, 16 }, { 0, UINT64_MAX / 8 + 1, 0, 16 },
                  { 2, 3, 2, 3 },           { 2, 4, UINT64_MAX, 4 } };
    for (size_t i = 0; i < countof(wrong); i++) {
        uint8_t message[64] = { 1, 0xd4, wrong[i].type };
        tp_error err = { 0 };
        memcpy(message + 3, &wrong[i].elements, 8);
        memcpy(message + 11, &wrong[i].columns, 8);
        CHECK(tp_decode(B, message, 19 + wrong[i].bytes, NULL, 0, 0, NULL, &err) == -1 &&
              err.code == TP_ECODEC);
    }
}

CODEC_TEST(bad_keys_are_refused)
{
    static const uint8_t nil_key[] = { 1, 0xb2, 0, 0, 0, 0, 1, 0, 0, 0, 0xa0, 1 };
    static const uint8_t nan_key[] = { 1,    0xb2, 0, 0, 0, 0, 1, 0,    0,    0,
                                       0xa5, 0,    0, 0, 0, 0, 0, 0xf8, 0xff, 1 };
    static const uint8_t metatable[] = { 1,    0xb4, 0, 0, 0, 0, 0, 0, 0, 0,
                                         0xb2, 0,    0, 0, 0, 0, 0, 0, 0 };
    tp_error err = { 0 };
    CHECK(tp_decode(B, nil_key, sizeof nil_key, NULL, 0, 0, NULL, &err) == -1);
    CHECK(tp_decode(B, nan_key, sizeof nan_key, NULL, 0, 0, NULL, &err) == -1);
    CHECK(tp_decode(B, metatable, sizeof metatable, NULL, 0, 0, NULL, &err) == -1);
    CHECK(lua_gettop(B) == 0);
}

/* ---- failing allocations ---- */

struct passage {
    tp_buf *buf;
    bool done;
};

static int encode_protected(lua_State *L)
{
    struct passage *p = lua_touserdata(L, 1);
    tp_error err = { 0 };
    p->done = tp_encode(L, 2, lua_gettop(L) - 1, NULL, 0, p->buf, &err) == 0;
    return 0;
}

static int decode_protected(lua_State *L)
{
    struct passage *p = lua_touserdata(L, 1);
    tp_error err = { 0 };
    p->done = tp_decode(L, p->buf->data, p->buf->len, p->buf->refs, p->buf->nrefs,
                        TP_DECODE_TRUSTED, NULL, &err) >= 0;
    return 0;
}

static const char rich_with_code[] =
    "local s = {1, 2} local n = 0 K = {} K.__index = K function K:f() return s end class('K', K, "
    "true) gl = {}\n"
    "local m = {} package.loaded.am = m return {s, s, setmetatable({}, K), function() n = n + 1 "
    "return gl, m, print end, thing(),\n"
    "  ('x'):rep(100), 5LL, {{{}}}, function() return n end}";

/* Fails each allocation in turn. What failed may be done again, and succeeds in the end. */
CODEC_TEST(allocations_fail_one_by_one)
{
    run_with(B, "package.loaded.am = {}", 0);
    for (int side = 0; side < 2; side++) {
        bool done = false;
        for (long n = 0; !done; n++) {
            CHECK(n < 5000);
            close_states();
            open_states();
            run_with(B, "package.loaded.am = {}", 0);
            lua_settop(A, 0);
            run_with(A, rich_with_code, 0);
            lua_State *L = side ? B : A;
            struct passage p = { &buf, false };
            if (side) {
                tp_error err = { 0 };
                CHECK(encode_top(A, lua_gettop(A), 0, &err) == 0);
                lua_pushcfunction(B, decode_protected);
                lua_pushlightuserdata(B, &p);
            } else {
                lua_pushcfunction(A, encode_protected);
                lua_insert(A, 1);
                lua_pushlightuserdata(A, &p);
                lua_insert(A, 2);
            }
            heaps[side].fail_at = n;
            int rc = lua_pcall(L, lua_gettop(L) - 1, 0, 0);
            done = heaps[side].fail_at >= 0; /* never got there */
            heaps[side].fail_at = -1;
            if (rc && strcmp(lua_tostring(L, -1), "not enough memory") != 0)
                fail("allocation %ld: %s", n, lua_tostring(L, -1));
            CHECK(!done || (rc == 0 && p.done));
            lua_settop(A, 0);
            send("local s = {} return {s, s}", "local t = ... assert(t[1] == t[2])");
            move(B, A, "local s = {} return {s, s}", "local t = ... assert(t[1] == t[2])", 0);
        }
    }
}

static int open_protected(lua_State *L)
{
    tp_codec_open(L);
    return 0;
}

static void open_without_memory(const char *before)
{
    bool done = false;
    for (long n = 0; !done; n++) {
        struct heap h;
        lua_State *L = new_plain_state(&h);
        tp_codec_reserve_references(L, 64);
        run_with(L, before, 0);
        lua_pushcfunction(L, open_protected);
        h.fail_at = n;
        int rc = lua_pcall(L, 0, 0, 0);
        done = h.fail_at >= 0;
        h.fail_at = -1;
        if (rc && strcmp(lua_tostring(L, -1), "not enough memory") != 0)
            fail("allocation %ld: %s", n, lua_tostring(L, -1));
        tp_codec_open(L);
        lua_settop(L, 0);
        run_with(L, "return 5LL, require 'jit.util'.funcinfo",
                 0); /* libraries that the codec has loaded */
        tp_error err = { 0 };
        tp_buf bytes = { 0 };
        if (tp_encode(L, 1, 2, NULL, 0, &bytes, &err))
            fail("allocation %ld: %s", n, err.message);
        tp_buf_free(&bytes);
        lua_close(L);
    }
}

CODEC_TEST(opening_without_memory)
{
    open_without_memory("require 'ffi'");
    if (!getenv("TIDEPOOL_SANITIZER"))
        open_without_memory(
            ""); /* LuaJIT leaks its state of C types when that fails and is done again */
}

/* ---- memory that others write to ---- */

/* A string is made of bytes that another process changes meanwhile. Equal strings must still be
 * the same one. */
CODEC_TEST(a_string_of_memory_that_changes_is_the_string_of_its_bytes)
{
    enum { LENGTH = 40000, TIMES = 2000 };
    volatile char *memory =
        mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    pid_t parent = getpid(), other = fork();
    CHECK(other >= 0);
    if (other == 0) {
        for (unsigned i = 0; i % 1000000 || getppid() == parent; i++)
            memory[0] = (char)i;
        _exit(0);
    }
    const tp_scalar x = { .kind = TP_SCALAR_SHARED,
                          .as.pinned = (const char *)(uintptr_t)memory,
                          .pinned_length = LENGTH };
    int different = 0;
    for (int i = 0; i < TIMES; i++) {
        tp_scalar_push(A, NULL, &x);
        lua_pushlstring(A, lua_tostring(A, -1), LENGTH);
        different += !lua_rawequal(A, -1, -2);
        lua_settop(A, 0);
    }
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    CHECK_INT(0, different);
}
