/* memory_test.c: an allocation that fails, whichever it is, and once or from then on, comes back as an error, or is made up for; nothing crashes, hangs or
 * leaks.
 *
 * The linker puts the functions below in the place of malloc and its like for the whole library, and in that of luaL_newstate, so that Lua's own
 * allocations fail too (see the Makefile). libuv keeps its own: it aborts where a loop cannot grow. */
#include "harness.h"
#include "heap.h"
#include "tidepool.h"

#include <lua.h>
#include <stdatomic.h>

static _Atomic long n_calls, fail_at; /* fail_at 0: none */
static _Atomic bool is_lasting;       /* all after it fail too */
static _Atomic bool uses_heap;        /* Lua states have the library's heap */
static _Thread_local bool is_spared, is_starved; /* nothing fails now; everything does */
static _Atomic long n_starved;

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
lua_State *__wrap_luaL_newstate(void);
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

/* Lua's allocator in the place of host/heap.c: each block may fail. */
static void *allocate(void *user, void *p, size_t old, size_t size)
{
    (void)user;
    if (size == 0) {
        free(p);
        return NULL;
    }
    if (size > old && is_to_fail())
        return NULL;
    return __real_realloc(p, size);
}

/* As a whole, as it is with LuaJIT's own allocator: an allocation that fails inside makes it crash. */
lua_State *__wrap_lua_newstate(lua_Alloc f, void *user)
{
    if (uses_heap)
        return __real_lua_newstate(f, user);
    if (is_to_fail())
        return NULL;
    is_spared = true;
    lua_State *L = __real_lua_newstate(allocate, user);
    is_spared = false;
    return L;
}

/* While FFI is opened nothing fails that is not the heap's own; and with the heap everything that it asks for. */
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
    __real_tp_heap_seal(heap);
}

/* What luaL_newstate does but for the allocator and the panic function: a panic ends the process, which is a red test. */
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
    if (tp_function_from_lua(&f, host, "double", "return function(x) return 2 * x end", &options, err) ||
        tp_map_doubles(&map, f, (const double *[]){ x }, 1, N, NULL, err) || tp_map_read_doubles(map, y, N, err))
        goto out;
    tp_map_close(map);
    for (int i = 0; i < N; i++)
        if (y[i] != 2 * i)
            wrong = "a double";
    if (tp_function_from_c(&f, host, "add", add, NULL, NULL, err) ||
        tp_map_doubles(&map, f, (const double *[]){ x, x }, 2, N, NULL, err) || tp_map_read_doubles(map, y, N, err))
        goto out;
    for (int i = 0; i < N; i++)
        if (y[i] != 2 * i)
            wrong = "a sum";
    if (tp_function_from_lua(&f, host, "keep", "return function(t) return { t, 'text', key = t[1] } end", NULL, err) ||
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

static void check_session(long n, bool lasts)
{
    tp_error err = { 0 };
    atomic_store(&n_calls, 0);
    atomic_store(&is_lasting, lasts);
    atomic_store(&fail_at, n);
    const char *wrong = run_session(&err);
    atomic_store(&fail_at, 0);
    CHECK_STR("", wrong);
    if (err.code != TP_OK && (err.code != TP_EMEMORY || !strstr(err.message, "memory"))) {
        printf("allocation %ld, code %d\n", n, err.code);
        CHECK_STR("... memory ...", err.message);
    }
}

/* Runs a session for each of its allocations, or for some hundred of them where it takes long. */
static void check_sessions(bool lasts, long at_most)
{
    tp_error err = { 0 };
    CHECK_STR("", run_session(&err)); /* once without: what is made once per process is there */
    CHECK_STR("", err.message);
    atomic_store(&n_calls, 0);
    CHECK_STR("", run_session(&err));
    long n = atomic_load(&n_calls);
    CHECK(n > (uses_heap ? 100 : 200));
    for (long i = 1; i <= n; i += n / at_most + 1)
        check_session(i, lasts);
    check_session(0, lasts);
}

TEST(each_allocation_of_a_session_may_fail)
{
    check_sessions(false, getenv("TIDEPOOL_SANITIZER") ? 500 : 1000000);
}

/* Where it waits for memory a session takes longer; every sixth allocation finds what every one does. */
TEST(memory_may_run_out_at_any_allocation_of_a_session)
{
    check_sessions(true, getenv("TIDEPOOL_SANITIZER") ? 300 : 1500);
}

TEST(the_same_with_the_heap_of_the_library)
{
    if (getenv("TIDEPOOL_SANITIZER"))
        return; /* there states take each block from malloc */
    uses_heap = true;
    check_sessions(false, 1000);
    check_sessions(true, 200);
    CHECK(n_starved > 0); /* FFI asked for memory that was not there, and was opened from what was set aside */
}
