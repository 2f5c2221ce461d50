/* Exceptions out of what a host calls.
 * prints: callback: from callback 0
 * prints: callback: from callback 1
 * prints: callback: from callback 2
 * prints: end: from the end
 * prints: other map: 3 results
 * prints: mapped: input 1: C++ exception
 * prints: inline: input 1: C++ exception
 * prints: print: C++ exception
 * prints: written
 * prints: closed */
#include <tidepool.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>

static int n_others, n_ended;
static bool throws = false;

static void thrower(void *, tp_map *, tp_next status, const tp_result *r)
{
    throw std::logic_error(status > 0 ? "from callback " + std::to_string(r->index)
                                      : "from the end");
}

static void count(void *, tp_map *, tp_next status, const tp_result *)
{
    n_others += status > 0;
    n_ended += status <= 0;
}

static int fail(void *, tp_call *, const tp_value *, size_t)
{
    throw std::runtime_error("from a C function");
}

static void print(void *, int, const char *bytes, size_t len)
{
    if (throws)
        throw std::runtime_error("from write");
    std::fwrite(bytes, 1, len, stdout);
}

int main()
{
    tp_error err = {};
    tp_config config = {};
    config.size = sizeof config;
    config.write = print;
    tp_host *host;
    tp_function *f, *g;
    tp_map *map, *other;
    tp_result r;
    double x[] = { 1, 2, 3 };
    const double *columns[] = { x };
    if (tp_host_open(&host, &config, &err) ||
        tp_function_from_lua(&f, host, "f", "return function(x) return x end", nullptr, &err) ||
        tp_map_doubles(&map, f, columns, 1, 3, nullptr, &err) ||
        tp_map_on_result(map, thrower, nullptr, &err) ||
        tp_map_doubles(&other, f, columns, 1, 3, nullptr, &err) ||
        tp_map_on_result(other, count, nullptr, &err))
        std::puts(err.message);
    for (int thrown = 0; thrown < 4 || n_ended == 0;) {
        try {
            if (tp_host_step(host, &err))
                std::puts(err.message);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        } catch (const std::exception &e) {
            std::printf("%s: %s\n", ++thrown < 4 ? "callback" : "end", e.what());
        }
    }
    std::printf("other map: %d results\n", n_others);
    for (const char *executor : { "threads", "inline" }) {
        tp_pair option = { tp_string("executor"), tp_string(executor) };
        tp_value options = tp_table(&option, 1);
        if (tp_function_from_c(&g, host, executor, fail, nullptr, &options, &err) ||
            tp_map_doubles(&map, g, columns, 1, 3, nullptr, &err))
            std::puts(err.message);
        tp_map_next(map, &r, &err);
        std::printf("%s: %s\n", std::strcmp(executor, "inline") ? "mapped" : executor, err.message);
        err = {};
    }
    throws = true;
    tp_host_run_string(host, "print 'thrown'", 14, "=thrown", &err);
    std::printf("print: %s\n", err.message);
    std::fflush(stdout);
    throws = false;
    err = {};
    if (tp_host_run_string(host, "print 'written'", 15, "=written", &err))
        std::puts(err.message);
    tp_host_close(host);
    std::puts("closed");
}
