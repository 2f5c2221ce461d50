/* memory_test.c: an allocation that fails, whichever it is, and once or from then on, comes back as
 * an error, or is made up for; nothing crashes, hangs or leaks.
 *
 * The linker puts the functions below in the place of malloc and its like for the whole library,
 * and in that of luaL_newstate, so that Lua's own allocations fail too (see the Makefile). libuv
 * keeps its own: it aborts where a loop cannot grow. */
#include "harness.h"
#include "base/heap.h"
#include "runtime/runtime.h"
#include "workers/state.h"

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static _Atomic long n_calls, fail_at; /* fail_at 0: none */
static _Atomic bool is_lasting;       /* all after it fail too */
static _Atomic bool uses_heap;        /* Lua states have the library's heap */
static bool spares_lua; /* what Lua states ask for does not fail, nor count: the host's own
                           allocations are few, and each can be swept */
static bool
    is_interpreted; /* the states of the next session compile nothing; set while none is open */
static _Thread_local bool is_spared, is_starved; /* nothing fails now; everything does */
static _Thread_local bool is_own; /* a state with LuaJIT's own allocator is being opened */
static _Atomic long n_starved, n_interpreted;

static bool is_to_fail(void)
{
    if (is_spared)
        return false;
    if (is_starved) {
        n_starved++;
        return true;
    }
    long at = atomic_load(&fail_at), n = atomic_fetch_add(&n_calls, 1) + 1;
    return n == at || (at && n > at && atomic_load(&is_lasting));
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
lua_State *__real_lua_newstate(lua_Alloc f, void *user);
lua_State *__wrap_lua_newstate(lua_Alloc f, void *user);
lua_State *__real_luaL_newstate(void);
lua_State *__wrap_luaL_newstate(void);
void __real_luaL_openlibs(lua_State *L);
void __wrap_luaL_openlibs(lua_State *L);
bool __real_tp_heap_prepare(tp_heap *heap);
bool __wrap_tp_heap_prepare(tp_heap *heap);
void __real_tp_heap_seal(tp_heap *heap);
void __wrap_tp_heap_seal(tp_heap *heap);

void *__wrap_malloc(size_t n)
{
    return is_to_fail() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return is_to_fail() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return is_to_fail() ? NULL : __real_realloc(p, n);
}

/* realloc, and free for no bytes, in LuaJIT's reach. Where malloc is not, the blocks of all states
 * come from a state's own allocator, that of one which does nothing else and stays open. */
static void *reallocate(void *p, size_t size)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static lua_Alloc own;
    static void *user;
    if (tp_heap_is_in_reach()) {
        if (size > 0)
            return __real_realloc(p, size);
        free(p);
        return NULL;
    }
    pthread_mutex_lock(&lock);
    if (!own) {
        is_own = true;
        own = lua_getallocf(__real_luaL_newstate(), &user);
        is_own = false;
    }
    p = own(user, p, 0, size);
    pthread_mutex_unlock(&lock);
    return p;
}

/* Lua's allocator in the place of host/base/heap.c: each block may fail. */
static void *allocate(void *user, void *p, size_t old, size_t size)
{
    (void)user;
    if (size > old && !spares_lua && is_to_fail())
        return NULL;
    return reallocate(p, size);
}

/* As a whole, as it is with LuaJIT's own allocator: an allocation that fails inside makes it
 * crash. */
lua_State *__wrap_lua_newstate(lua_Alloc f, void *user)
{
    if (uses_heap || is_own)
        return __real_lua_newstate(f, user);
    if (is_to_fail())
        return NULL;
    is_spared = true;
    lua_State *L = __real_lua_newstate(allocate, user);
    is_spared = false;
    return L;
}

/* LuaJIT crashes when a table made in compiled code gets no memory (lj_err_mem under lj_tab_new1 in
 * a trace; seen here at one of 17,000 allocations). The product's heap asks twice; what stays out
 * of memory can still meet it (tests/README.md). So that no sweep is red for it by chance, states
 * only interpret where the heap is not the product's or memory stays out. */
void __wrap_luaL_openlibs(lua_State *L)
{
    __real_luaL_openlibs(L);
    if (is_interpreted && luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF))
        n_interpreted++;
}

/* While FFI is opened nothing fails that is not the heap's own; and with the heap everything that
 * it asks for. */
bool __wrap_tp_heap_prepare(tp_heap *heap)
{
    if (is_to_fail() || !__real_tp_heap_prepare(heap))
        return false;
    is_spared = !uses_heap;
    is_starved = uses_heap && heap;
    return true;
}

void __wrap_tp_heap_seal(tp_heap *heap)
{
    is_spared = is_starved = false;
    if (uses_heap)
        __real_tp_heap_seal(heap);
    else
        tp_heap_free(heap); /* the state takes each block from `allocate` */
}

/* What luaL_newstate does but for the allocator and the panic function: a panic ends the process,
 * which is a red test. */
lua_State *__wrap_luaL_newstate(void)
{
    return __wrap_lua_newstate(NULL, NULL);
}

static int add(void *user, tp_call *call, const tp_value *in, size_t n)
{
    (void)user;
    tp_value sum = tp_number(in[0].as.number + in[n - 1].as.number);
    return tp_call_return(call, &sum, 1);
}

/* A small session. 0 when all went well; what is wrong with the results otherwise, or "". */
static const char *run_session(tp_error *err)
{
    enum { N = 100 };
    tp_host *host;
    tp_function *f;
    tp_map *map;
    tp_result r;
    tp_config config = { .size = sizeof config, .workers = 2 };
    const char *wrong = "";
    double x[N], y[N];
    tp_value values[N], seven = tp_number(7);
    tp_pair pair = { tp_string("concurrency_limit"), tp_number(2) };
    tp_value options = tp_table(&pair, 1);
    for (int i = 0; i < N; i++) {
        x[i] = i;
        values[i] = tp_list(&seven, 1);
    }
    if (tp_host_open(&host, &config, err))
        return "";
    if (tp_function_from_lua(&f, host, "double", "return function(x) return 2 * x end", &options,
                             err) ||
        tp_map_doubles(&map, f, (const double *[]){ x }, 1, N, NULL, err) ||
        tp_map_read_doubles(map, y, N, err))
        goto out;
    tp_map_close(map);
    for (int i = 0; i < N; i++)
        if (y[i] != 2 * i)
            wrong = "a double";
    if (tp_function_from_c(&f, host, "add", add, NULL, NULL, err) ||
        tp_map_doubles(&map, f, (const double *[]){ x, x }, 2, N, NULL, err) ||
        tp_map_read_doubles(map, y, N, err))
        goto out;
    for (int i = 0; i < N; i++)
        if (y[i] != 2 * i)
            wrong = "a sum";
    if (tp_function_from_lua(&f, host, "keep",
                             "return function(t) return { t, 'text', key = t[1] } end", NULL,
                             err) ||
        tp_map_values(&map, f, values, 1, N, NULL, err))
        goto out;
    int n = 0, status;
    while ((status = tp_map_next(map, &r, err)) > 0) {
        const tp_value *field = tp_value_field(&r.values[0], "key");
        if (!field || field->as.number != 7)
            wrong = "a field";
        n++;
    }
    if (status == 0 && n != N)
        wrong = "results are lost";
    if (status < 0 && !tp_map_failure(map))
        wrong = "no failure";
out:
    tp_host_close(host);
    return wrong;
}

/* A script: maps, starmaps, errors, what is retried, promised, nested and spawned, arrays there and
 * back. It returns 0; an error that it raises is for want of memory. */
static const char script[] =
    "local tidepool = require 'tidepool'\n"
    "local app = tidepool.App 's'\n"
    "local function check(is_right, what) if not is_right then error('wrong: ' .. what, 0) end "
    "end\n"
    "local function check_error(e, field, value)\n"
    "  if not tidepool.is_failure(e) or e.kind == 'memory' then error(e, 0) end\n"
    "  check(e.kind == 'error', 'the kind ' .. e.kind .. ': ' .. tostring(e.message))\n"
    "  check(e[field] == value, field .. ' of an error is ' .. tostring(e[field]) .. ', its "
    "message ' .. tostring(e.message))\n"
    "end\n"
    "local t = { 'text' }\n"
    "t.t = t\n"
    "local cyclic = app:func {} (function(x) return x + #t.t end)\n"
    "local done, e = pcall(function() return cyclic:map({ 1, 2 }):list() end)\n"
    "check(done or not tidepool.is_failure(e) or e.kind == 'memory', 'an error is ' .. "
    "tostring(e))\n"
    "if not done then error(e, 0) end\n"
    "local f = app:func {} (function(x) if x == 3 then error { code = x } end return x * 2, "
    "tostring(x) end)\n"
    "local n = 0\n"
    "for i, v, text in f:map { 1, 2, 4, 5 } do\n"
    "  check(text == tostring(v / 2), 'a text')\n"
    "  n = n + v\n"
    "end\n"
    "check(n == 24, 'a sum')\n"
    "done, e = pcall(function() return f:map({ 1, 3 }):list() end)\n"
    "check(not done, 'no error')\n"
    "check_error(e, 'code', 3)\n"
    "local pair = app:func {} (function(a, b) return { a, b } end)\n"
    "for i, v in pair:starmap { { 1, 2 }, { 3, 'x' } } do check(v[1] == i * 2 - 1, 'a field') end\n"
    "local one = app:func { returns = 'double' } (function(x) if x == 2 then return 'x' end return "
    "x end)\n"
    "local l = one:map({ 1, 2, 3 }, { return_exceptions = true }):list()\n"
    "check_error(l[2], 'message', 'script:27: it returned a string, but returns = \"double\"')\n"
    "check(tidepool.is_failure(l[3]) or l[3] == 3, 'a number')\n"
    "check(one:map({ { 1 }, 3 }, { return_exceptions = true }):list().n == 2, 'a count')\n"
    "local again = app:func { retries = { max = 2, initial_delay = 0 } } (function(x) error('no ' "
    ".. x, 0) end)\n"
    "local r = again:map({ 1 }, { return_exceptions = true }):list()\n"
    "check_error(r[1], 'message', 'no 1')\n"
    "local outer = app:func {} (function(x)\n"
    "  pair:spawn(x, 1)\n"
    "  return f:map({ x, x + 1 }):list()[2]\n"
    "end)\n"
    "check(outer:map({ 6, 7 }):list()[2] == 16, 'a nested result')\n"
    "local a = tidepool.array('double', { 1, 2, 3, 4 })\n"
    "local sum = app:func { name = 'sum' } (function(b, k) return b:slice(1, k), b[k], "
    "tidepool.array('int32', k) end)\n"
    "for i, part, x, made in sum:starmap { { a, 2 }, { a:copy(), 3 } } do\n"
    "  check(#part == i + 1 and x == i + 1 and #made == i + 1, 'an array')\n"
    "end\n"
    "local double = app:func { returns = 'double' } (function(x) return 2 * x end)\n"
    "check(double:map(a):array()[4] == 8, 'an element')\n"
    "return 0\n";

static int open_libraries(lua_State *L)
{
    tp_state_open_libraries(L);
    return 0;
}

/* (error value): its text */
static int describe(lua_State *L)
{
    lua_getglobal(L, "tostring");
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

/* Runs the script in a host of its own. 0 when all went well; what is wrong otherwise, or "". */
static const char *run_script(tp_error *err)
{
    tp_host *host;
    tp_config config = { .size = sizeof config, .workers = 2 };
    const char *wrong = "";
    if (tp_host_open(&host, &config, err))
        return wrong;
    lua_State *L = tp_state_new();
    if (!L) {
        tp_error_set(err, TP_EMEMORY, "no memory for a state");
        goto out;
    }
    if (lua_cpcall(L, open_libraries, NULL)) {
        tp_error_set(err, TP_EMEMORY, "%s", lua_tostring(L, -1));
        goto out;
    }
    if (tp_host_openlibs(host, L, err)) {
        err->code = TP_EMEMORY; /* what it says is checked */
        goto out;
    }
    if (luaL_loadbuffer(L, script, sizeof script - 1, "=script") || lua_pcall(L, 0, 1, 0)) {
        atomic_store(&fail_at, 0);
        lua_pushcfunction(L, describe);
        lua_insert(L, -2);
        if (lua_pcall(L, 1, 1, 0))
            wrong = "an error without a text";
        tp_error_set(err, TP_EMEMORY, "%.400s", lua_tostring(L, -1));
    }
out:
    atomic_store(&fail_at, 0);
    if (tp_host_stop(host, 20000))
        wrong = "workers do not come to rest"; /* closing the host waits for them: the harness shows
                                                  where they are */
    if (L)
        tp_state_close(L);
    if (tp_array_pool_live(host->arrays) > 0)
        wrong = "an array is left";
    tp_host_close(host);
    return wrong;
}

enum {
    SESSION_S = 120,   /* how long one may take: it is a matter of milliseconds */
    FAILED_MAX = 10000 /* and how often it asks for memory that is not there: some 1,600 times */
};

static void check_session(const char *(*run)(tp_error *err), long n, bool lasts)
{
    tp_error err = { 0 };
    char what[60];
    snprintf(what, sizeof what, "allocation %ld%s:", n, lasts ? " and all after it" : "");
    harness_watch(SESSION_S, what);
    atomic_store(&n_calls, 0);
    atomic_store(&is_lasting, lasts);
    atomic_store(&fail_at, n);
    const char *wrong = run(&err);
    atomic_store(&fail_at, 0);
    long n_failed = lasts && n > 0 ? atomic_load(&n_calls) - n : 0;
    if (*wrong || n_failed > FAILED_MAX)
        printf("allocation %ld\n", n);
    CHECK_STR("", wrong);
    CHECK(n_failed <= FAILED_MAX); /* more: an item is run again until there is memory */
    if (err.code != TP_OK && (err.code != TP_EMEMORY || !strstr(err.message, "memory") ||
                              strstr(err.message, "wrong: "))) {
        printf("allocation %ld, code %d\n", n, err.code);
        CHECK_STR("... memory ...", err.message);
    }
}

/* Runs a session for each of its allocations, or for some hundred of them where it takes long;
 * TIDEPOOL_TORTURE in the environment is that number then (make torture), and TIDEPOOL_TORTURE_FROM
 * the first. */
static void check_sessions(const char *(*run)(tp_error *err), bool lasts, long at_most)
{
    tp_error err = { 0 };
    is_interpreted = !uses_heap || lasts;
    CHECK_STR("", run(&err)); /* once without: what is made once per process is there */
    CHECK_STR("", err.message);
    atomic_store(&n_calls, 0);
    CHECK_STR("", run(&err));
    CHECK_STR("", err.message);
    const char *torture = getenv("TIDEPOOL_TORTURE"), *from = getenv("TIDEPOOL_TORTURE_FROM");
    long n = atomic_load(&n_calls), step = n / (torture ? atol(torture) : at_most) + 1;
    CHECK(n > (uses_heap ? 100 : 200));
    for (long i = from ? atol(from) : 1; i <= n; i += step)
        check_session(run, i, lasts);
    check_session(run, 0, lasts);
    CHECK(!is_interpreted || n_interpreted > 0);
}

TEST(each_allocation_of_a_session_may_fail)
{
    check_sessions(run_session, false, getenv("TIDEPOOL_SANITIZER") ? 500 : 1000000);
}

/* Where it waits for memory a session takes longer; every sixth allocation finds what every one
 * does. */
TEST(memory_may_run_out_at_any_allocation_of_a_session)
{
    check_sessions(run_session, true, getenv("TIDEPOOL_SANITIZER") ? 300 : 1500);
}

/* In sanitizers' builds states take each block from malloc. */
static bool has_heap(void)
{
    return !getenv("TIDEPOOL_SANITIZER") && tp_heap_is_in_reach();
}

TEST(the_same_with_the_heap_of_the_library)
{
    if (!has_heap())
        return;
    uses_heap = true;
    check_sessions(run_session, false, 1000);
    check_sessions(run_session, true, 200);
    CHECK(n_starved >
          0); /* FFI asked for memory that was not there, and was opened from what was set aside */
}

TEST(each_allocation_of_a_script_may_fail)
{
    check_sessions(run_script, false, 300);
}

TEST(each_allocation_of_the_host_for_a_script_may_fail)
{
    spares_lua = true;
    check_sessions(run_script, false, 1000);
}

TEST(memory_may_run_out_at_any_allocation_of_a_script)
{
    check_sessions(run_script, true, 100);
}

TEST(a_script_with_the_heap_of_the_library)
{
    uses_heap = has_heap();
    check_sessions(run_script, false, 300);
    check_sessions(run_script, true, 100);
}

/* (n): the n-th allocation from now on fails; none does for 0 */
static int l_fail(lua_State *L)
{
    long n = (long)lua_tonumber(L, 1);
    atomic_store(&is_lasting, false);
    atomic_store(&fail_at, n ? atomic_load(&n_calls) + n : 0);
    return 0;
}

/* What a call has given is not lost where there was no memory to take it: who asks again does not
 * wait for ever. */
static const char asking[] =
    "local tidepool = require 'tidepool'\n"
    "local fail = ...\n"
    "local f = tidepool.App 'a':func {} (function(x) return x * 2 end)\n"
    "local n_failed = 0\n"
    "for k = 1, 60 do\n"
    "  local call = f:spawn(k)\n"
    "  repeat until f:stats().done == k\n"
    "  fail(k)\n"
    "  local done, e = pcall(call.get, call)\n"
    "  fail(0)\n"
    "  if not done then\n"
    "    n_failed = n_failed + 1\n"
    "    done, e = pcall(call.get, call)\n"
    "  end\n"
    "  assert(done and e == 2 * k or not done and e.kind == 'memory', tostring(e))\n"
    "end\n"
    "assert(n_failed > 0)\n";

TEST(a_result_that_there_was_no_memory_to_take_can_be_asked_for_again)
{
    tp_host *host;
    tp_config config = { .size = sizeof config, .workers = 1 };
    tp_error err = { 0 };
    is_interpreted = true;
    alarm(300);
    CHECK(!tp_host_open(&host, &config, &err));
    lua_State *L = tp_state_new();
    CHECK(L && !lua_cpcall(L, open_libraries, NULL) && !tp_host_openlibs(host, L, &err));
    CHECK(!luaL_loadbuffer(L, asking, sizeof asking - 1, "=asking"));
    lua_pushcfunction(L, l_fail);
    if (lua_pcall(L, 1, 0, 0))
        CHECK_STR("", lua_tostring(L, -1));
    tp_state_close(L);
    tp_host_close(host);
}

TEST(memory_is_asked_for_twice_for_small_blocks_of_a_heap)
{
    tp_heap *heap = tp_heap_new();
    CHECK(heap);
    uses_heap = true;
    tp_heap_seal(heap);
    atomic_store(&n_calls, 0);
    for (int i = 0; i < 20000; i++) { /* more than a megabyte: some spans */
        atomic_store(&fail_at, atomic_load(&n_calls) + 1);
        CHECK(tp_heap_allocate(heap, NULL, 0, 96));
    }
    CHECK(atomic_load(&n_calls) >= 4);
    atomic_store(&fail_at, 0);
    tp_heap_free(heap);
}

TEST(a_large_block_of_a_heap_is_asked_for_twice)
{
    tp_heap *heap = tp_heap_new();
    CHECK(heap);
    uses_heap = true;
    tp_heap_seal(heap);
    atomic_store(&n_calls, 0);
    atomic_store(&fail_at, 1);
    void *p = tp_heap_allocate(heap, NULL, 0, 1000);
    CHECK(p);
    atomic_store(&fail_at, atomic_load(&n_calls) + 1);
    p = tp_heap_allocate(heap, p, 1000, 2000);
    CHECK(p);
    atomic_store(&is_lasting, true);
    atomic_store(&fail_at, 1);
    CHECK(!tp_heap_allocate(heap, p, 2000, 3000));
    atomic_store(&fail_at, 0);
    tp_heap_allocate(heap, p, 2000, 0);
    tp_heap_free(heap);
}
