/* floor_w5.c: what W5 and W5b are compared with: the same formulas over doubles by hand-written
 * threads.
 *
 *   floor_w5 [ELEMENTS [THREADS [ROUNDS]]]      default: 10000000 2 9
 *
 * Prints a line per formula and way, the medians of runs taken in turns: FORMULA WAY NS_PER_ELEMENT
 * CHECKSUM. Formulas: sincos is sin(x)*cos(x)+sqrt(x), square is x*x; x of element i (from 0) is (i
 * % 1000) * 0.001. Ways: pool is THREADS threads with a LuaJIT state each, which wait for a run,
 * claim slices of 16,384 elements and run a compiled Lua loop over them; openmp is the same loop in
 * C. Results go to one array, which is touched before the first run. The checksum is the sum of the
 * results of every 997th element. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SLICE = 16384, ROUNDS_MAX = 1000, FORMULAS = 2 };

static const char *const names[FORMULAS] = { "sincos", "square" };

/* (formula) -> function(xs, out, from, to) */
static const char chunk[] =
    "local ffi = require 'ffi'\n"
    "local sin, cos, sqrt = math.sin, math.cos, math.sqrt\n"
    "local formulas = {\n"
    "  function(x) return sin(x) * cos(x) + sqrt(x) end,\n"
    "  function(x) return x * x end,\n"
    "}\n"
    "local loops = {}\n"
    "for i = 1, 2 do\n"
    "  loops[i] = assert(loadstring [[\n"
    "    local f, cast = ...\n"
    "    return function(xs, out, from, to)\n"
    "      xs, out = cast('const double *', xs), cast('double *', out)\n"
    "      for i = from, to - 1 do out[i] = f(xs[i]) end\n"
    "    end]])(formulas[i], ffi.cast)\n"
    "end\n"
    "return loops[1], loops[2]\n";

typedef struct team {
    /* Set before the threads start. */
    double *xs, *out;
    long n;
    pthread_barrier_t begin, end;

    int formula;        /* of the run; -1: return. Written before `begin` */
    _Atomic long claim; /* the next element that nobody has taken */
} team;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void fail(const char *what)
{
    fprintf(stderr, "floor_w5: %s\n", what);
    exit(1);
}

static void *serve(void *arg)
{
    team *t = arg;
    lua_State *L = luaL_newstate();
    if (!L)
        fail("no memory");
    luaL_openlibs(L);
    if (luaL_loadstring(L, chunk) || lua_pcall(L, 0, FORMULAS, 0))
        fail(lua_tostring(L, -1));
    for (;;) {
        pthread_barrier_wait(&t->begin);
        if (t->formula < 0)
            break;
        long from;
        while ((from = atomic_fetch_add(&t->claim, SLICE)) < t->n) {
            lua_pushvalue(L, 1 + t->formula);
            lua_pushlightuserdata(L, t->xs);
            lua_pushlightuserdata(L, t->out);
            lua_pushnumber(L, (double)from);
            lua_pushnumber(L, (double)(from + SLICE < t->n ? from + SLICE : t->n));
            if (lua_pcall(L, 4, 0, 0))
                fail(lua_tostring(L, -1));
        }
        pthread_barrier_wait(&t->end);
    }
    lua_close(L);
    return NULL;
}

static void run_pool(team *t, int formula)
{
    t->formula = formula;
    atomic_store(&t->claim, 0);
    pthread_barrier_wait(&t->begin);
    if (formula >= 0)
        pthread_barrier_wait(&t->end);
}

static void run_openmp(const team *t, int formula)
{
    const double *xs = t->xs;
    double *out = t->out;
    if (formula == 0) {
#pragma omp parallel for schedule(dynamic, SLICE)
        for (long i = 0; i < t->n; i++)
            out[i] = sin(xs[i]) * cos(xs[i]) + sqrt(xs[i]);
    } else {
#pragma omp parallel for schedule(dynamic, SLICE)
        for (long i = 0; i < t->n; i++)
            out[i] = xs[i] * xs[i];
    }
}

static double sum(const team *t)
{
    double s = 0;
    for (long i = 0; i < t->n; i += 997)
        s += t->out[i];
    return s;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    long n = argc > 1 ? atol(argv[1]) : 10000000;
    int threads = argc > 2 ? atoi(argv[2]) : 2, rounds = argc > 3 ? atoi(argv[3]) : 9;
    if (n < 1 || threads < 1 || threads > 1024 || rounds < 1 || rounds > ROUNDS_MAX)
        fail("usage: floor_w5 [ELEMENTS [THREADS [ROUNDS]]]");
    team t = { .n = n,
               .xs = malloc((size_t)n * sizeof(double)),
               .out = calloc((size_t)n, sizeof(double)) };
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    if (!t.xs || !t.out || !ids)
        fail("no memory");
    for (long i = 0; i < n; i++) {
        t.xs[i] = (double)(i % 1000) * 0.001;
        t.out[i] = 1;
    }
    pthread_barrier_init(&t.begin, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&t.end, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, serve, &t))
            fail("cannot start a thread");
    omp_set_num_threads(threads);

    for (int f = 0; f < FORMULAS; f++) {
        double pool[ROUNDS_MAX], openmp[ROUNDS_MAX], pool_sum = 0, openmp_sum = 0;
        for (int r = -2; r < rounds; r++) { /* the first two warm up */
            double start = now();
            run_pool(&t, f);
            double end = now();
            if (r >= 0)
                pool[r] = (end - start) * 1e9 / (double)n;
            pool_sum = sum(&t);
            start = now();
            run_openmp(&t, f);
            end = now();
            if (r >= 0)
                openmp[r] = (end - start) * 1e9 / (double)n;
            openmp_sum = sum(&t);
        }
        qsort(pool, (size_t)rounds, sizeof *pool, compare);
        qsort(openmp, (size_t)rounds, sizeof *openmp, compare);
        printf("%s pool %.4f %.17g\n", names[f], pool[rounds / 2], pool_sum);
        printf("%s openmp %.4f %.17g\n", names[f], openmp[rounds / 2], openmp_sum);
    }

    run_pool(&t, -1);
    for (int i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    pthread_barrier_destroy(&t.begin);
    pthread_barrier_destroy(&t.end);
    free(ids);
    free(t.xs);
    free(t.out);
    return 0;
}
