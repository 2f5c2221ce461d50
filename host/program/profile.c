/* profile.c: samples of what Lua code runs, on all threads at once.
 *
 * LuaJIT has one profiler per process, whose timer's handler samples one state. But its mechanism
 * is in each state: a bit of the state's hook mask, which compiled code tests at each new line.
 * When it is set, the interpreter calls lj_profile_interpreter, and that calls the process's one
 * callback with the state. So here
 *
 *  1. luaJIT_profile_start is called once for a state that runs nothing, which gives LuaJIT our
 *     callback. Where the mask lies, and which bit it is, is found by looking at what LuaJIT's own
 *     handler changes in that state (find_mask); if more than one byte changes, profiling is
 *     refused.
 *  2. It is called for each state that is to be sampled: LuaJIT refuses, but from then on that
 *     state's compiled code tests the bit.
 *  3. Each thread has a timer of its own, of the CPU time that it uses, and gets its signal. The
 *     handler sets the bit in the states of its thread, and calls lua_sethook, which may be
 *     called in a handler, so that the interpreter notices.
 *  4. The callback, which is no handler any more, walks the stack and counts it.
 *
 * Nothing is written to a state by another thread than its own. The kernel looks at such timers at
 * each of its ticks (every 4 ms, say); the signal says how many milliseconds have passed
 * (si_overrun). */
#include "program/profile.h"

#include "base/error.h"
#include "base/lua_modules.h"
#include "engine/work.h"
#include "program/errors.h"
#include "program/process.h"
#include "program/stacks.h"
#include "runtime/runtime.h"

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <lualib.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#ifndef sigev_notify_thread_id /* glibc 2.36 has the field and not its name */
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum {
    SAMPLE_NS = 1000 * 1000, /* counts are milliseconds of CPU time */
    SEND_NS = 200 * 1000 * 1000,
    STATES = 8,    /* states of one thread that are sampled */
    FRAMES = 120,  /* the innermost frames of a stack that are shown */
    NAME = 200,    /* bytes of a file's name that are shown: its end */
    LOOKED_AT = 4096, /* bytes of a state in which the mask is looked for */
    HOOK_EVENTS = 15, /* lua_sethook's bits of the mask */
    HOOK_ACTIVE = 16  /* a hook of debug.sethook's runs */
};

/* A Lua state that is sampled. */
typedef struct sampled {
    lua_State *L;        /* its main thread; NULL: this place is free */
    const void *identity; /* the same for all coroutines of the state */
    volatile unsigned char *mask;
    const tp_worker *worker; /* NULL: it is the script's */
} sampled;

/* A thread with such states. Used by that thread and by the handler on it, whose signal is blocked
 * while states are added and removed. */
typedef struct sampled_thread {
    timer_t timer;
    bool has_timer;
    sampled state[STATES];
    _Atomic unsigned pending; /* milliseconds that are not counted yet */
} sampled_thread;

/* The profile; there is one, as there is one SIGPROF. */
static struct {
    bool is_open;
    lua_State *idle;    /* the state that LuaJIT believes to be profiled */
    size_t mask_at;     /* from the beginning of a state */
    unsigned char bit;
    const char *path;   /* as the user has written it; NULL in a worker process */
    FILE *file;
    void (*send)(void *user, const char *bytes, size_t len);
    void *user;
    uint64_t sent_ns;   /* the serving thread's, in a worker process */
    _Atomic unsigned unseen; /* threads that have no timer */
    tp_stacks stacks;
} profile = { .stacks.lock = PTHREAD_MUTEX_INITIALIZER };

static _Thread_local sampled_thread own;

/* ---- the handler: async-signal-safe ---- */

static void on_signal(int sig, siginfo_t *info, void *context)
{
    (void)sig, (void)context;
    if (info->si_code != SI_TIMER)
        return; /* not from our timer */
    atomic_fetch_add_explicit(&own.pending, 1 + (unsigned)info->si_overrun, memory_order_relaxed);
    for (int i = 0; i < STATES; i++) {
        const sampled *s = &own.state[i];
        /* not in finalizers and other callbacks of the virtual machine, as LuaJIT's own does */
        if (!s->L || (*s->mask & ~(HOOK_EVENTS | HOOK_ACTIVE)) != 0)
            continue;
        *s->mask |= profile.bit;
        lua_sethook(s->L, lua_gethook(s->L), lua_gethookmask(s->L), lua_gethookcount(s->L));
    }
}

/* ---- texts of stacks ---- */

/* The text of a stack, which is built from its outermost frame on. */
typedef struct text {
    char bytes[TP_STACK_TEXT];
    size_t len;
} text;

/* Appends characters that mean nothing in the text. */
static void put(text *t, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len && t->len < sizeof t->bytes; i++) {
        const unsigned char c = (unsigned char)bytes[i];
        t->bytes[t->len++] = (char)(c < ' ' || c == ';' || c == 127 ? '?' : c);
    }
}

/* Appends a text of ours as it is. */
static void put_text(text *t, const char *ours)
{
    while (*ours && t->len < sizeof t->bytes)
        t->bytes[t->len++] = *ours++;
}

/* Where the function is: the end of its file's name, with the line. */
static void put_place(text *t, const lua_Debug *ar)
{
    char line[16];
    const bool has_name = *ar->source == '@' || *ar->source == '=';
    const char *source = has_name ? ar->source + 1 : ar->short_src;
    size_t len = strlen(source);
    put(t, len > NAME ? source + len - NAME : source, len > NAME ? NAME : len);
    snprintf(line, sizeof line, ":%d", ar->linedefined);
    put_text(t, line);
}

/* The name of the function whose item the worker runs, below all that the item runs. */
static const char *name_of_item(const tp_worker *worker)
{
    const tp_work *w = worker ? worker->current : NULL;
    while (w && w->outer)
        w = w->outer;
    return w ? w->terms->name : NULL;
}

/* Appends a frame: ";", a name, "\1", and where the function is: nothing for the library's own, "C"
 * for one in C. program/flame.lua reads that. Below the first function that the library calls comes
 * the name of the item's function, with "F": that function itself may be gone by a tail call.
 * *item is NULL after that; *is_called: the library has called this frame. */
static void put_frame(text *t, lua_State *L, lua_Debug *ar, const char **item, bool *is_called)
{
    lua_getinfo(L, "Sn", ar);
    const bool is_c = *ar->what == 'C', is_library = tp_is_library(ar);
    const char *name = ar->name && !is_library ? ar->name : "";
    if (!is_library && !is_c) {
        if (*item && *is_called) {
            put_text(t, ";");
            put(t, *item, strlen(*item));
            put_text(t, "\1F");
        }
        *item = NULL;
    }
    *is_called = is_library || (is_c && *is_called);
    put_text(t, ";");
    put(t, name, strlen(name));
    put_text(t, is_c ? "\1C" : "\1");
    if (!is_library && !is_c)
        put_place(t, ar);
}

/* The calling thread's entry of the state that a coroutine belongs to. */
static sampled *find_state(lua_State *L)
{
    const void *identity = lua_topointer(L, LUA_REGISTRYINDEX);
    for (int i = 0; i < STATES; i++)
        if (own.state[i].L && own.state[i].identity == identity)
            return &own.state[i];
    return NULL;
}

/* LuaJIT's callback, between two instructions of the state's. */
static void on_sample(void *unused, lua_State *L, int samples, int vm_state)
{
    (void)unused, (void)samples, (void)vm_state;
    const sampled *s = find_state(L);
    const unsigned count =
        s ? atomic_exchange_explicit(&own.pending, 0, memory_order_relaxed) : 0;
    if (count == 0)
        return; /* the samples belong to another state of the thread */
    lua_Debug frame[FRAMES], deeper;
    int n = 0;
    while (n < FRAMES && lua_getstack(L, n, &frame[n]))
        n++;
    text t = { .len = 0 };
    const char *root = s->worker ? "workers" : "script", *item = name_of_item(s->worker);
    put_text(&t, root);
    bool is_called = false;
    if (n == FRAMES && lua_getstack(L, n, &deeper)) {
        put_text(&t, ";...\1C");
        item = NULL;
    }
    while (n-- > 0)
        put_frame(&t, L, &frame[n], &item, &is_called);
    tp_stacks_add(&profile.stacks, t.bytes, t.len, count);
    if (profile.send && uv_hrtime() - profile.sent_ns > SEND_NS)
        tp_profile_send();
}

/* ---- states ---- */

static void block(bool is_blocked)
{
    sigset_t only;
    sigemptyset(&only);
    sigaddset(&only, SIGPROF);
    pthread_sigmask(is_blocked ? SIG_BLOCK : SIG_UNBLOCK, &only, NULL);
}

/* A timer of the calling thread's CPU time, whose signal goes to it. */
static int start_timer(timer_t *timer)
{
    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF };
    const struct itimerspec every = { { 0, SAMPLE_NS }, { 0, SAMPLE_NS } };
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, timer))
        return -1;
    return timer_settime(*timer, 0, &every, NULL);
}

void tp_profile_enter(lua_State *L, const tp_worker *worker)
{
    if (!profile.is_open)
        return;
    block(true);
    if (!own.has_timer && start_timer(&own.timer) == 0)
        own.has_timer = true;
    int i = 0;
    while (i < STATES && own.state[i].L)
        i++;
    if (own.has_timer && i < STATES) {
        /* "l": compiled code tests the bit at each new line. The profile is another state's, so
         * nothing else comes of it. */
        luaJIT_profile_start(L, "l", on_sample, NULL);
        own.state[i] = (sampled){ L, lua_topointer(L, LUA_REGISTRYINDEX),
                                  (unsigned char *)L + profile.mask_at, worker };
    } else {
        atomic_fetch_add_explicit(&profile.unseen, 1, memory_order_relaxed);
    }
    block(false);
}

void tp_profile_leave(lua_State *L)
{
    if (!profile.is_open)
        return;
    block(true);
    int left = 0;
    sampled *s = find_state(L);
    if (s)
        s->L = NULL;
    for (int i = 0; i < STATES; i++)
        left += own.state[i].L != NULL;
    if (left == 0 && own.has_timer) {
        timer_delete(own.timer);
        own.has_timer = false;
    }
    block(false);
}

/* ---- the beginning ---- */

static void no_hook(lua_State *L, lua_Debug *ar)
{
    (void)L, (void)ar;
}

/* Finds the hook mask in the idle state, and the profiler's bit of it: LuaJIT's own handler, which
 * the signal calls here and now, sets that bit and no other of the byte, and lua_sethook sets its
 * own beside it. False unless there is exactly one such byte. */
static bool find_mask(lua_State *L)
{
    enum { BEFORE, HELD, ONE, THREE, TIMES };
    static unsigned char seen[TIMES][LOOKED_AT];
    const unsigned char *state = (const unsigned char *)L;
    int found = 0;
    memcpy(seen[BEFORE], state, LOOKED_AT);
    raise(SIGPROF);
    memcpy(seen[HELD], state, LOOKED_AT);
    lua_sethook(L, no_hook, LUA_MASKCOUNT, 1 << 20);
    memcpy(seen[ONE], state, LOOKED_AT);
    lua_sethook(L, no_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE, 0);
    memcpy(seen[THREE], state, LOOKED_AT);
    lua_sethook(L, NULL, 0, 0);
    for (size_t i = 0; i < LOOKED_AT; i++) {
        const unsigned char bit = seen[HELD][i];
        if (seen[BEFORE][i] == 0 && bit > HOOK_EVENTS && (bit & (bit - 1)) == 0 &&
            seen[ONE][i] == (bit | LUA_MASKCOUNT) &&
            seen[THREE][i] == (bit | LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE)) {
            profile.mask_at = i;
            profile.bit = bit;
            found++;
        }
    }
    return found == 1;
}

/* Gives LuaJIT our callback; LuaJIT's own process-wide timer is set so that it never fires. */
static int open_idle(tp_error *err)
{
    profile.idle = luaL_newstate();
    if (!profile.idle)
        return tp_error_oom(err, "profile");
    luaL_openlibs(profile.idle);
    luaJIT_profile_start(profile.idle, "i1000000000", on_sample, NULL);
    block(false);
    if (!find_mask(profile.idle))
        return tp_error_set(err, TP_ESYS, "this LuaJIT's profiler is not known to --profile");
    struct sigaction ours = { .sa_sigaction = on_signal, .sa_flags = SA_RESTART | SA_SIGINFO };
    sigfillset(&ours.sa_mask); /* blocked meanwhile: the handler of Ctrl-C sets a hook, too */
    if (sigaction(SIGPROF, &ours, NULL))
        return tp_error_set(err, TP_ESYS, "cannot take SIGPROF: %s", strerror(errno));
    return 0;
}

int tp_profile_open(const char *path, void (*send)(void *user, const char *bytes, size_t len),
                    void *user, tp_error *err)
{
    profile.path = path;
    profile.send = send;
    profile.user = user;
    if (path && !(profile.file = fopen(path, "we")))
        return tp_error_set(err, TP_ESYS, "cannot write the profile %s: %s", path, strerror(errno));
    if (open_idle(err))
        return -1;
    profile.is_open = true;
    return 0;
}

static void take(const char *samples, size_t len)
{
    tp_stacks_add_lines(&profile.stacks, samples, len);
}

void tp_profile_follow(tp_host *host)
{
    static const tp_sampler sampler = { tp_profile_enter, tp_profile_leave, take };
    if (profile.is_open)
        host->sampler = &sampler;
}

/* ---- the end ---- */

void tp_profile_send(void)
{
    size_t len;
    if (!profile.send)
        return;
    profile.sent_ns = uv_hrtime();
    char *lines = tp_stacks_take(&profile.stacks, &len);
    if (lines)
        profile.send(profile.user, lines, len);
    free(lines);
}

/* Replaces what is on the stack of the idle state, (path, lines, unseen), by the file's text. */
static bool render(lua_State *L)
{
    static const char module[] = "tidepool.program.flame";
    const tp_lua_module *m = tp_lua_modules;
    while (m->name && strcmp(m->name, module) != 0)
        m++;
    if (!m->name || luaL_loadbuffer(L, m->bytes, m->len, "=" TP_LUA_CHUNKS "program/flame.lua") ||
        lua_pcall(L, 0, 1, 0))
        return false;
    lua_getfield(L, -1, "render");
    lua_replace(L, -2);
    lua_insert(L, 1);
    return lua_pcall(L, 3, 1, 0) == 0;
}

static void complain(const char *why)
{
    fprintf(stderr, "tidepool: cannot write the profile %s: %s\n", profile.path, why);
}

void tp_profile_write(void)
{
    lua_State *L = profile.idle;
    FILE *file = profile.file;
    if (!file)
        return;
    profile.file = NULL;
    size_t len, text_len;
    char *lines = tp_stacks_take(&profile.stacks, &len);
    signal(SIGPROF, SIG_IGN); /* timers of other threads may still fire */
    lua_settop(L, 0);
    lua_pushstring(L, profile.path);
    lua_pushlstring(L, lines ? lines : "", len);
    lua_pushnumber(L, (lua_Number)profile.stacks.missed);
    free(lines);
    if (!render(L)) {
        complain(lua_isstring(L, -1) ? lua_tostring(L, -1) : "not enough memory");
        fclose(file);
        return;
    }
    const char *bytes = lua_tolstring(L, -1, &text_len);
    const bool is_whole = fwrite(bytes, 1, text_len, file) == text_len;
    const int why = errno;
    if (fclose(file) || !is_whole)
        complain(strerror(is_whole ? errno : why));
    const unsigned unseen = atomic_load_explicit(&profile.unseen, memory_order_relaxed);
    if (unseen)
        fprintf(stderr,
                "tidepool: %u Lua states are not in the profile %s: there are no more timers for "
                "their threads (ulimit -i)\n",
                unseen, profile.path);
}
