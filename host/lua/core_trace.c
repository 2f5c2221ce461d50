/* core_trace.c: traces: the file that is written, and what users' code adds to it. */
#include "lua/core_private.h"

#include "trace/tracer.h"

#include <string.h>

/* core.trace.start(path) -> true; or nil and a message */
static int l_trace_start(lua_State *L)
{
    tp_host *host = get_context(L)->host;
    size_t len;
    const char *path = luaL_checklstring(L, 1, &len);
    tp_error err = { 0 };
    if (strlen(path) != len)
        tp_error_set(&err, TP_EUSAGE, "the file's name has a zero byte in it");
    else if (!tp_core_is_usable(host, &err))
        return tp_core_push_message(L, &err);
    else if (tp_tracer_path(host->tracer))
        tp_error_set(&err, TP_EUSAGE, "%s is being written, and one at a time is possible",
                     tp_tracer_path(host->tracer));
    else if (tp_tracer_begin_trace(&host->tracer, host, path, &err) == 0)
        return lua_pushboolean(L, 1), 1;
    return tp_core_push_message(L, &err);
}

/* core.trace.stop() -> true, or nil and what is wrong with the file; nothing when none was being
 * written */
static int l_trace_stop(lua_State *L)
{
    tp_host *host = get_context(L)->host;
    tp_error err = { 0 };
    if (!tp_tracer_path(host->tracer) || !tp_host_is_usable(host))
        return 0;
    if (tp_tracer_end_trace(&host->tracer, &err))
        return tp_core_push_message(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

/* core.trace.flag() -> a pointer to a bool: does somebody listen? Code that does not need anything
 * but that can look at it by the FFI. */
static int l_trace_flag(lua_State *L)
{
    lua_pushlightuserdata(L, &tp_engine_trace(get_context(L)->host->engine)->is_on);
    return 1;
}

/* Notes an event of this state's thread. In an item that waits beside others `task` 0 stands for
 * it. */
static void note(lua_State *L, tp_event_kind kind, uint64_t task, uint64_t first, uint64_t count)
{
    const context *ctx = get_context(L);
    const tp_work *w = ctx->agent ? ctx->agent->worker.current : NULL;
    if (task == 0 && w && w->terms->concurrent)
        task = tp_trace_item(w->terms->number, w->block->first + w->at);
    tp_trace_note(tp_engine_trace(ctx->host->engine), kind, ctx->agent ? ctx->agent->worker.id : 0,
                  task, first, count);
    if (ctx->host->noted)
        ctx->host->noted(ctx->host->noting);
}

/* The string at the index as the name of an event. */
static uint32_t name_at(lua_State *L, int index)
{
    size_t len;
    const char *text = luaL_checklstring(L, index, &len);
    return tp_trace_name(tp_engine_trace(get_context(L)->host->engine), text, len);
}

/* The depth of the Lua stack: how many functions are active, this C function not counted. */
static uint64_t depth(lua_State *L)
{
    lua_Debug unused;
    int n = 1;
    while (lua_getstack(L, n, &unused))
        n *= 2;
    int least = n / 2, most = n; /* level `least` exists, `most` does not */
    while (most - least > 1) {
        int middle = (least + most) / 2;
        if (lua_getstack(L, middle, &unused))
            least = middle;
        else
            most = middle;
    }
    return (uint64_t)least;
}

/* core.trace.span(name, task): a span of the caller's begins, in the task of that number (0: in
 * none); core.trace.finish(task): it ends. The one that calls finish must be as deep in the stack
 * as the one that has called span. */
static int l_trace_span(lua_State *L)
{
    uint64_t task = (uint64_t)luaL_checknumber(L, 2);
    note(L, TP_EVENT_SPAN, task, depth(L), name_at(L, 1));
    return 0;
}

static int l_trace_finish(lua_State *L)
{
    note(L, TP_EVENT_SPAN_END, (uint64_t)luaL_checknumber(L, 1), depth(L), 0);
    return 0;
}

/* core.trace.mark(name, value, task): value is a number, a string or nil */
static int l_trace_mark(lua_State *L)
{
    uint64_t task = (uint64_t)luaL_checknumber(L, 3), first = 0;
    tp_event_kind kind = TP_EVENT_MARK;
    if (lua_type(L, 2) == LUA_TNUMBER) {
        double value = lua_tonumber(L, 2);
        kind = TP_EVENT_MARK_NUMBER;
        memcpy(&first, &value, sizeof first);
    } else if (lua_type(L, 2) == LUA_TSTRING) {
        kind = TP_EVENT_MARK_TEXT;
        first = name_at(L, 2);
    }
    note(L, kind, task, first, name_at(L, 1));
    return 0;
}

/* core.trace.task(number, name or nil): the task begins; nil: it ends */
static int l_trace_task(lua_State *L)
{
    uint64_t task = (uint64_t)luaL_checknumber(L, 1);
    bool begins = !lua_isnoneornil(L, 2);
    note(L, begins ? TP_EVENT_TASK : TP_EVENT_TASK_END, task, 0, begins ? name_at(L, 2) : 0);
    return 0;
}

static const luaL_Reg trace_functions[] = {
    { "start", l_trace_start },
    { "stop", l_trace_stop },
    { "flag", l_trace_flag },
    { "span", l_trace_span },
    { "finish", l_trace_finish },
    { "mark", l_trace_mark },
    { "task", l_trace_task },
    { NULL, NULL },
};

void tp_core_register_trace(lua_State *L)
{
    tp_core_register(L, "trace", trace_functions);
}
