/* core_command.c: programs that run beside: tidepool.command.
 *
 * A program has no shell, and a process group of its own, which is killed with the handle; in a
 * worker process it stays in that one's group, which is killed with it by the supervisor. Its
 * pipes are read without blocking; command.lua decides how to wait, so that tasks go on, and a
 * worker notices that its item was cancelled. */
#include "lua/core_private.h"

#include "base/sigmask.h"
#include "codec/codec.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMMAND "tidepool.command"

enum { IN, OUT, ERR, READ_BYTES = 1 << 16 };

/* A program that was started. */
typedef struct command {
    pid_t pid;      /* 0: it could not be started, or has been waited for */
    bool has_group; /* of its own */
    int fd[3];      /* our ends: of its input, output and errors; -1 when closed */
    int status;     /* of waitpid */
    tp_buf text[3]; /* [IN] what is still to be written; the others: what was read */
    size_t written;
} command;

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Kills the program if it still runs, and waits for it. */
static void stop(command *c)
{
    for (int i = 0; i < 3; i++)
        close_end(&c->fd[i]);
    if (c->pid <= 0)
        return;
    /* of groups only the one that `spawn` made; the library sends signals to no other process */
    kill(c->has_group ? -c->pid : c->pid, SIGKILL);
    while (waitpid(c->pid, &c->status, 0) < 0 && errno == EINTR)
        ;
    c->pid = 0;
}

/* command:__gc, core.command.stop(command) */
static int l_command_stop(lua_State *L)
{
    command *c = luaL_checkudata(L, 1, COMMAND);
    stop(c);
    for (int i = 0; i < 3; i++)
        tp_buf_free(&c->text[i]);
    return 0;
}

/* Opens three pipes: theirs[i] is the program's end, ours go to c->fd. Without input the program
 * reads /dev/null. Returns an errno. */
static int open_pipes(command *c, int theirs[3])
{
    for (int i = 0; i < 3; i++) {
        int ends[2];
        if (i == IN && c->text[IN].len == 0) {
            theirs[IN] = open("/dev/null", O_RDONLY | O_CLOEXEC);
            if (theirs[IN] < 0)
                return errno;
            continue;
        }
        if (pipe2(ends, O_CLOEXEC))
            return errno;
        theirs[i] = ends[i != IN];
        c->fd[i] = ends[i == IN];
        fcntl(c->fd[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
}

static int spawn(command *c, const tp_host *host, char *const *words, const char *folder,
                 const int theirs[3])
{
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    int rc = posix_spawnattr_init(&attributes);
    if (rc)
        return rc;
    rc = posix_spawn_file_actions_init(&actions);
    if (rc) {
        posix_spawnattr_destroy(&attributes);
        return rc;
    }
    /* writing to a closed pipe ends the program (SIGPIPE), even when the host ignores that */
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setsigmask(&attributes, &host->sigmask);
    c->has_group = !host->is_child;
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, (c->has_group ? POSIX_SPAWN_SETPGROUP : 0) |
                                              POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    for (int i = 0; i < 3 && rc == 0; i++)
        rc = posix_spawn_file_actions_adddup2(&actions, theirs[i], i);
    if (rc == 0 && folder)
        rc = posix_spawn_file_actions_addchdir_np(&actions, folder);
    if (rc == 0)
        rc = posix_spawnp(&c->pid, words[0], &actions, &attributes, words, environ);
    if (rc)
        c->pid = 0;
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return rc;
}

/* core.command.start(list of words, folder or nil, input or nil) -> command, or nil and why it
 * cannot be started */
static int l_command_start(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    const char *folder = luaL_optstring(L, 2, NULL);
    size_t len;
    const char *input = luaL_optlstring(L, 3, "", &len);
    int n = (int)lua_objlen(L, 1), theirs[3] = { -1, -1, -1 };
    char **words = lua_newuserdata(L, ((size_t)n + 1) * sizeof *words);
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, 1, i + 1);
        words[i] = (char *)luaL_checkstring(L, -1); /* the string stays alive in the list */
        lua_pop(L, 1);
    }
    words[n] = NULL;
    command *c = lua_newuserdata(L, sizeof *c);
    *c = (command){ .fd = { -1, -1, -1 } };
    luaL_getmetatable(L, COMMAND);
    lua_setmetatable(L, -2);
    int rc = len > 0 && tp_buf_add(&c->text[IN], input, len) ? ENOMEM : open_pipes(c, theirs);
    if (rc == 0)
        rc = spawn(c, get_context(L)->host, words, folder, theirs);
    for (int i = 0; i < 3; i++)
        close_end(&theirs[i]);
    if (rc == 0)
        return 1;
    stop(c);
    lua_pushnil(L);
    lua_pushstring(L, strerror(rc));
    return 2;
}

/* Writes as much of the input as the pipe takes. */
static void feed(command *c)
{
    const tp_buf *b = &c->text[IN];
    while (c->fd[IN] >= 0) {
        sigset_t before;
        sigset_t pipe_signal;
        sigemptyset(&pipe_signal);
        sigaddset(&pipe_signal, SIGPIPE);
        tp_sigmask_set(&pipe_signal, &before);
        ssize_t n = write(c->fd[IN], b->data + c->written, b->len - c->written);
        int why = n < 0 ? errno : 0;
        if (why == EPIPE)
            sigtimedwait(&pipe_signal, NULL, &(struct timespec){ 0 });
        tp_sigmask_set(&before, NULL);
        if (n < 0 && (why == EAGAIN || why == EINTR))
            return;
        if (n > 0)
            c->written += (size_t)n;
        if (n < 0 || c->written == b->len)
            close_end(&c->fd[IN]);
    }
}

/* Reads all that there is in the pipe. -1 when out of memory. */
static int drain(command *c, int i)
{
    char bytes[READ_BYTES];
    while (c->fd[i] >= 0) {
        ssize_t n = read(c->fd[i], bytes, sizeof bytes);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (n <= 0)
            close_end(&c->fd[i]);
        else if (tp_buf_add(&c->text[i], bytes, (size_t)n))
            return -1;
    }
    return 0;
}

/* core.command.step(command, seconds) -> is it over? Waits at most so long for its pipes. */
static int l_command_step(lua_State *L)
{
    command *c = luaL_checkudata(L, 1, COMMAND);
    double seconds = luaL_optnumber(L, 2, 0);
    struct pollfd fds[3];
    nfds_t n = 0;
    for (int i = 0; i < 3; i++)
        if (c->fd[i] >= 0)
            fds[n++] = (struct pollfd){ .fd = c->fd[i], .events = i == IN ? POLLOUT : POLLIN };
    if (n > 0 && seconds > 0)
        poll(fds, n, (int)ceil(seconds * 1000));
    feed(c);
    if (drain(c, OUT) || drain(c, ERR))
        return tp_codec_raise_memory(L);
    if (c->pid > 0 && c->fd[OUT] < 0 && c->fd[ERR] < 0 &&
        waitpid(c->pid, &c->status, WNOHANG) == c->pid) {
        c->pid = 0;
        close_end(&c->fd[IN]);
    }
    lua_pushboolean(L, c->pid == 0);
    return 1;
}

/* core.command.result(command) -> exit status or nil, number of the signal that ended it or nil,
 * output, errors */
static int l_command_result(lua_State *L)
{
    const command *c = luaL_checkudata(L, 1, COMMAND);
    bool has_exited = WIFEXITED(c->status);
    if (has_exited)
        lua_pushinteger(L, WEXITSTATUS(c->status));
    else
        lua_pushnil(L);
    if (has_exited)
        lua_pushnil(L);
    else
        lua_pushinteger(L, WTERMSIG(c->status));
    for (int i = OUT; i <= ERR; i++)
        lua_pushlstring(L, c->text[i].data ? (const char *)c->text[i].data : "", c->text[i].len);
    return 4;
}

static const luaL_Reg command_functions[] = {
    { "start", l_command_start },
    { "step", l_command_step },
    { "result", l_command_result },
    { "stop", l_command_stop },
    { NULL, NULL },
};

void tp_core_register_command(lua_State *L)
{
    if (luaL_newmetatable(L, COMMAND)) {
        lua_pushcfunction(L, l_command_stop);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
    tp_core_register(L, "command", command_functions);
}
