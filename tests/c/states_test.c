/* states_test.c: several Lua states of the program's on one host do not notice each other. */
#include "api_support.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <unistd.h>

static lua_State *open_state(tp_host *host)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    OK(tp_host_openlibs(host, L, e));
    return L;
}

/* Runs code; gives what it returns as a number, 0 for anything else. */
static double run(lua_State *L, const char *code)
{
    if (luaL_dostring(L, code))
        CHECK_STR("", lua_tostring(L, -1));
    double n = lua_gettop(L) ? lua_tonumber(L, 1) : 0;
    lua_settop(L, 0);
    return n;
}

static const char ticks[] = "require 'tidepool' local uv = require 'luv' n = 0 T = uv.new_timer() "
                            "T:start(1, 1, function() n = n + 1 end)";

TEST(a_state_closes_its_own_luv_handles_only)
{
    for (int with_files = 0; with_files < 2; with_files++) {
        tp_host *host = open_host();
        lua_State *L = open_state(host), *M = open_state(host);
        run(L, ticks);
        run(M,
            "tidepool = require 'tidepool' uv = require 'luv'"
            " local t = uv.new_timer() t:start(1, 0, function() t:close() end) tidepool.sleep(0.02)"
            " idle = uv.new_timer() idle:start(3600000, 0, function() end) pipe = uv.new_pipe()");
        CHECK_INT(2, run(M, "local k = 0 uv.walk(function() k = k + 1 end) return k"));
        CHECK_INT(1, run(L, "local k = 0 require 'luv'.walk(function() k = k + 1 end) return k"));
        if (with_files) /* under way when the state is closed */
            run(M, "for i = 1, 50 do uv.fs_stat('/proc/self/status', function() error 'a closed "
                   "state' end) end");
        lua_close(M);
        double before = run(L, "assert(T:is_active() and not T:is_closing()) return n");
        CHECK(run(L, "local n0 = n repeat require 'tidepool'.sleep(0.001) until n > n0 return n") >
              before);
        lua_close(L);
        tp_host_close(host);
    }
}

TEST(the_hosts_own_state_keeps_its_luv_handles)
{
    tp_host *host = open_host();
    tp_values v;
    OK(tp_host_run_string(host, ticks, sizeof ticks - 1, "=ticks", e));
    lua_State *M = open_state(host);
    run(M, "require 'tidepool' require 'luv'.new_timer()");
    lua_close(M);
    static const char more[] = "function more() local n0 = n repeat require "
                               "'tidepool'.sleep(0.001) until n > n0 return T:is_active() end";
    OK(tp_host_run_string(host, more, sizeof more - 1, "=more", e));
    OK(tp_host_call(&v, host, "more", NULL, 0, e));
    CHECK_INT(1, v.items[0].as.boolean);
    tp_host_close(host);
}

TEST(uv_run_waits_for_the_handles_of_its_own_state)
{
    tp_host *host = open_host();
    lua_State *L = open_state(host), *M = open_state(host);
    run(L, ticks);
    CHECK_INT(7,
              run(M, "require 'tidepool' local uv = require 'luv' local t, fired = uv.new_timer()"
                     " t:start(5, 0, function() fired = 7 t:close() end) uv.run() assert(not "
                     "uv.loop_alive()) return fired"));
    CHECK(run(L, "return require 'luv'.loop_alive() and 1 or 0") == 1);
    lua_close(L); /* in the order in which they were opened, too */
    lua_close(M);
    tp_host_close(host);
}

static void note(void *user, int fd, const char *bytes, size_t len)
{
    (void)fd;
    strncat(user, bytes, len);
}

/* Steps as a program with a loop of its own does, until code gives true. */
static void step_until(tp_host *host, lua_State *L, const char *code)
{
    for (int i = 0; i < 60000 && run(L, code) == 0; i++) {
        wait_for_host(host, 1000);
        OK(tp_host_step(host, e));
    }
    CHECK(run(L, code) != 0);
}

TEST(a_step_drives_the_tasks_of_all_states)
{
    static const char tasks[] =
        "local tp = require 'tidepool' local f = tp.App 'a':func { name = 'f' } (function(x) "
        "return x end)"
        " n = 0"
        " tp.async(function() tp.sleep(0.002) local one = f:remote(1) n = n + one end)"
        " f:spawn(2):on_done(function(call) local two = call:get() n = n + two end)"
        " tp.async(function() tp.sleep(0) error 'nobody reads this' end)";
    char said[4096] = "";
    tp_host *host;
    tp_config config = { .size = sizeof config, .workers = 2, .write = note, .user = said };
    OK(tp_host_open(&host, &config, e));
    lua_State *L = open_state(host), *M = open_state(host);
    run(L, tasks);
    run(M, tasks);
    CHECK(tp_host_timeout(host) >= 0);
    step_until(host, L, "return n == 3 and 1 or 0");
    step_until(host, M, "return n == 3 and 1 or 0");
    CHECK(strstr(said, "nobody reads this") != NULL);
    lua_close(L);
    lua_close(M);
    CHECK_INT(-1, tp_host_timeout(host));
    OK(tp_host_step(host, e));
    tp_host_close(host);
}

TEST(what_a_state_waits_for_reaches_it_whoever_turned_the_loop)
{
    tp_host *host = open_host();
    lua_State *L = open_state(host), *M = open_state(host);
    static const char define[] = "tp = require 'tidepool' f = tp.App 'a':func { name = 'f' } "
                                 "(function(x) require 'tidepool'.sleep(x) return x end)";
    run(L, define);
    run(M, define);
    for (int i = 0; i < 20; i++) {
        run(L, "task = tp.async(function() return f:remote(0.001) end)");
        run(M, "tp.async(function() f:remote(0.004) end) tp.sleep(0.006)"); /* takes turns in which
                                                                               L's result comes */
        CHECK(run(L, "return task:get(60)") == 0.001);
    }
    lua_close(M);
    lua_close(L);
    tp_host_close(host);
}

/* Strings that are too long to be copied are pinned, and read where they lie: in a state that may
 * end before its host. */
static const char long_strings[] =
    "ffi = require 'ffi' ffi.cdef 'int usleep(unsigned)' tp = require 'tidepool' app = tp.App 'a'"
    " strings = {} for i = 1, 64 do strings[i] = ('x'):rep(2^20 + i) end";

TEST(a_state_may_be_closed_while_workers_read_its_strings)
{
    tp_host *host = open_host();
    for (int i = 0; i < 10; i++) {
        lua_State *M = open_state(host);
        run(M, long_strings);
        run(M, "r = app:func(function(s) return #s end):map(strings) r:next()");
        lua_close(M);
    }
    tp_host_close(host);
}

TEST(an_item_may_fail_after_the_state_that_its_input_lies_in_was_closed)
{
    tp_host *host = open_host();
    lua_State *M = open_state(host);
    run(M, long_strings);
    run(M, "begun = tp.array('int32', 1)"
           " r = app:func(function(s) begun[1] = 1 for _ = 1, 15 do ffi.C.usleep(100000) end error "
           "'no' end):map(strings)"
           " repeat ffi.C.usleep(1000) until begun[1] == 1");
    lua_close(M); /* does not wait for all of what the items take */
    CHECK_INT(0, tp_host_stop(host, 60000));
    tp_host_close(host);
}
