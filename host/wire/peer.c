/* peer.c: starting, watching and ending worker processes. See peer.h. */
#include "wire/peer.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* descriptors that are passed on are first moved here, away from the numbers that they get */
enum { ABOVE = 16 };

extern char **environ;

/* ---- starting ---- */

/* Duplicates a descriptor to a number from ABOVE on. -1: none is free. */
static int copy_fd(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, ABOVE);
    if (copy < 0 && errno == EINVAL) /* ABOVE is beyond the process's limit */
        errno = EMFILE;
    return copy;
}

/* Moves a descriptor to a number from ABOVE on. */
static int raise_fd(int fd)
{
    int raised = copy_fd(fd);
    int why = errno;
    close(fd);
    errno = why;
    return raised;
}

/* Opens a socket or a pipe: ends[0] stays here and does not block, ends[1] is the worker's. */
static int open_pair(int ends[2], bool is_socket)
{
    if (is_socket ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)
                  : pipe2(ends, O_CLOEXEC)) {
        ends[0] = ends[1] = -1;
        return -1;
    }
    ends[1] = raise_fd(ends[1]);
    return ends[1] < 0 || fcntl(ends[0], F_SETFL, O_NONBLOCK) ? -1 : 0;
}

/* Opens the pipe by which the process notices the host's end (tp_peer.life): ends[0], its writing
 * end, stays here. */
static int open_life(int ends[2])
{
    int ours;
    if (pipe2(ends, O_CLOEXEC)) {
        ends[0] = ends[1] = -1;
        return -1;
    }
    ours = ends[1];
    ends[1] = raise_fd(ends[0]);
    ends[0] = ours;
    return ends[1] < 0 ? -1 : 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Descriptor from[fd] becomes fd in the process; -1: it has no such descriptor. */
static int add_actions(posix_spawn_file_actions_t *actions, const int from[TP_PEER_FDS])
{
    int rc = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);
    for (int fd = 1; fd < TP_PEER_FDS && rc == 0; fd++)
        rc = from[fd] >= 0 ? posix_spawn_file_actions_adddup2(actions, from[fd], fd)
                           : posix_spawn_file_actions_addclose(actions, fd);
    return rc ? rc : tp_peer_close_from(actions, TP_PEER_FDS);
}

int tp_peer_close_from(posix_spawn_file_actions_t *actions, int first)
{
#ifdef __GLIBC__
    return posix_spawn_file_actions_addclosefrom_np(actions, first);
#else
    (void)actions, (void)first;
    return 0;
#endif
}

int tp_peer_set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int rc = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                                      POSIX_SPAWN_SETSIGDEF);
    rc = rc ? rc : posix_spawnattr_setpgroup(attributes, 0);
    rc = rc ? rc : posix_spawnattr_setsigmask(attributes, &none);
    return rc ? rc : posix_spawnattr_setsigdefault(attributes, &all);
}

/* Starts the program. Returns 0 or an errno. */
static int spawn(tp_peer *p, const char *path, const int from[TP_PEER_FDS])
{
    char *const words[] = { "tidepool", "--worker", NULL };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int rc = posix_spawn_file_actions_init(&actions);
    if (rc)
        return rc;
    rc = posix_spawnattr_init(&attributes);
    if (rc == 0) {
        rc = add_actions(&actions, from);
        rc = rc ? rc : tp_peer_set_attributes(&attributes);
        rc = rc ? rc : posix_spawn(&p->pid, path, &actions, &attributes, words, environ);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    if (rc)
        p->pid = 0;
    return rc;
}

int tp_peer_start(tp_peer *p, const char *path, const int shared[TP_PEER_SHARED], tp_error *err)
{
    int socket[2] = { -1, -1 }, standard[2][2] = { { -1, -1 }, { -1, -1 } }, life[2] = { -1, -1 },
        copy[TP_PEER_SHARED] = { -1, -1, -1, -1 };
    *p = (tp_peer){ .pidfd = -1, .socket = -1, .output = { -1, -1 }, .life = -1, .status = -1 };
    int rc = -1;
    bool is_connected = open_pair(socket, true) == 0 && open_pair(standard[0], false) == 0 &&
                        open_pair(standard[1], false) == 0 && open_life(life) == 0;
    for (int i = 0; i < TP_PEER_SHARED && is_connected; i++)
        is_connected = shared[i] < 0 || (copy[i] = copy_fd(shared[i])) >= 0;
    if (!is_connected) {
        tp_error_system(err, TP_ESYS, "cannot connect a worker process", errno);
        goto out;
    }
    int why = spawn(p, path,
                    (int[TP_PEER_FDS]){ -1, standard[0][1], standard[1][1], socket[1], copy[0],
                                        copy[1], copy[2], copy[3], life[1] });
    if (why) {
        tp_error_set(err, TP_ESYS, "cannot start a worker process, %s: %s", path, strerror(why));
        goto out;
    }
    p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0);
    if (p->pidfd >= 0)
        fcntl(p->pidfd, F_SETFD, FD_CLOEXEC);
    p->socket = socket[0];
    p->output[0] = standard[0][0];
    p->output[1] = standard[1][0];
    p->life = life[0];
    socket[0] = standard[0][0] = standard[1][0] = life[0] = -1;
    rc = 0;
out:
    for (int i = 0; i < 2; i++) {
        close_fd(&socket[i]);
        close_fd(&life[i]);
        close_fd(&standard[0][i]);
        close_fd(&standard[1][i]);
    }
    for (int i = 0; i < TP_PEER_SHARED; i++)
        close_fd(&copy[i]);
    return rc;
}

bool tp_peer_find(char *path, size_t size)
{
    static const char *const places[] = { "",           "../",           "../bin/",
                                          "../../bin/", "../../../bin/", "../../../../bin/" };
    /* its address lies in the file (program, library or module) that this code is part of */
    static const char here;
    Dl_info info;
    if (!dladdr(&here, &info) || !info.dli_fname)
        return false;
    const char *slash = strrchr(info.dli_fname, '/');
    int folder = slash ? (int)(slash + 1 - info.dli_fname) : 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int n = snprintf(path, size, "%.*s%stidepool", folder, info.dli_fname, places[i]);
        struct stat s;
        if (n > 0 && (size_t)n < size && stat(path, &s) == 0 && S_ISREG(s.st_mode) &&
            access(path, X_OK) == 0)
            return true;
    }
    return false;
}

/* ---- the end of a process ---- */

/* Waits for the process, which has ended or was killed, and sets has_ended and status. */
static void reap(tp_peer *p)
{
    int status;
    pid_t pid;
    do {
        pid = waitpid(p->pid, &status, 0);
    } while (pid < 0 && errno == EINTR);
    p->has_ended = true;
    /* ECHILD: the surrounding program waits for all of its children, or ignores them */
    p->status = pid > 0 ? status : -1;
}

bool tp_peer_has_ended(tp_peer *p)
{
    siginfo_t info = { .si_pid = 0 };
    if (p->has_ended || p->pid == 0)
        return true;
    /* WNOWAIT: the process is not reaped yet, so that its number, which is its group's too, is not
     * reused before tp_peer_kill ends the group. */
    if (waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) && errno == ECHILD)
        reap(p);
    return p->has_ended || info.si_pid != 0;
}

bool tp_peer_is_stopped(const tp_peer *p)
{
    siginfo_t info = { .si_pid = 0 };
    return waitid(P_PID, (id_t)p->pid, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid != 0;
}

void tp_peer_kill(tp_peer *p)
{
    if (p->pid == 0 || p->has_ended)
        return;
    /* its group; the process is not reaped yet, so no other has the number */
    kill(-p->pid, SIGKILL);
    kill(p->pid, SIGKILL);  /* if it has left its group */
    reap(p);
}

void tp_peer_close(tp_peer *p)
{
    if (p->pid == 0)
        return;
    close_fd(&p->pidfd);
    close_fd(&p->socket);
    close_fd(&p->output[0]);
    close_fd(&p->output[1]);
    close_fd(&p->life);
    p->pid = 0;
}

void tp_peer_keep_tail(tp_peer *p, const char *bytes, size_t len)
{
    if (len > TP_PEER_TAIL) {
        bytes += len - TP_PEER_TAIL;
        len = TP_PEER_TAIL;
    }
    size_t over = p->tail_len + len > TP_PEER_TAIL ? p->tail_len + len - TP_PEER_TAIL : 0;
    memmove(p->tail, p->tail + over, p->tail_len - over);
    memcpy(p->tail + p->tail_len - over, bytes, len);
    p->tail_len += len - over;
}

/* Reads the beginning of a file, as text. */
static void read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    for (ssize_t n = fd < 0 ? 0 : 1; n > 0 && len < size - 1; len += (size_t)n) {
        n = read(fd, text + len, size - 1 - len);
        if (n < 0)
            n = 0;
    }
    if (fd >= 0)
        close(fd);
    text[len] = '\0';
}

/* The number of kills in such a file. False when it has none. */
static bool read_kills(const char *path, uint64_t *kills)
{
    static const char field[] = "\noom_kill ";
    char text[16 << 10];
    read_text(path, text, sizeof text);
    const char *at = strstr(text, field);
    *kills = at ? strtoull(at + sizeof field - 1, NULL, 10) : 0;
    return at != NULL;
}

uint64_t tp_peer_oom_kills(void)
{
    char groups[4096], path[4096 + 64], *rest = NULL;
    uint64_t kills = 0;
    read_text("/proc/self/cgroup", groups, sizeof groups);
    /* NUMBER:CONTROLLERS:PATH, where cgroups of version 2 have no controllers there */
    for (char *line = strtok_r(groups, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        const char *controllers = strchr(line, ':');
        const char *name = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!name)
            continue;
        if (name == controllers + 1)
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.events.local", name + 1);
        else
            snprintf(path, sizeof path, "/sys/fs/cgroup/memory%s/memory.oom_control", name + 1);
        bool is_memory = name == controllers + 1 || strncmp(controllers, ":memory:", 8) == 0;
        if (is_memory && read_kills(path, &kills))
            return kills;
    }
    read_kills("/proc/vmstat", &kills);
    return kills;
}

const char *tp_peer_signal_name(int signal)
{
    static const struct {
        int signal;
        const char *name;
    } names[] = {
        { SIGSEGV, "SIGSEGV" }, { SIGABRT, "SIGABRT" },     { SIGBUS, "SIGBUS" },
        { SIGILL, "SIGILL" },   { SIGFPE, "SIGFPE" },       { SIGTRAP, "SIGTRAP" },
        { SIGSYS, "SIGSYS" },   { SIGKILL, "SIGKILL" },     { SIGTERM, "SIGTERM" },
        { SIGINT, "SIGINT" },   { SIGQUIT, "SIGQUIT" },     { SIGHUP, "SIGHUP" },
        { SIGPIPE, "SIGPIPE" }, { SIGALRM, "SIGALRM" },     { SIGUSR1, "SIGUSR1" },
        { SIGUSR2, "SIGUSR2" }, { SIGXCPU, "SIGXCPU" },     { SIGXFSZ, "SIGXFSZ" },
        { SIGPROF, "SIGPROF" }, { SIGVTALRM, "SIGVTALRM" }, { SIGIO, "SIGIO" },
        { SIGPWR, "SIGPWR" },   { SIGSTKFLT, "SIGSTKFLT" },
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].signal == signal)
            return names[i].name;
    return NULL;
}

void tp_peer_describe(const tp_peer *p, char *text, size_t size, const char **signal, int *code)
{
    *signal = NULL;
    *code = -1;
    if (p->status == -1) {
        snprintf(text, size, "ended");
    } else if (WIFSIGNALED(p->status)) {
        *signal = tp_peer_signal_name(WTERMSIG(p->status));
        if (*signal)
            snprintf(text, size, "was killed by %s", *signal);
        else
            snprintf(text, size, "was killed by signal %d", WTERMSIG(p->status));
    } else {
        *code = WEXITSTATUS(p->status);
        snprintf(text, size, "exited with code %d", *code);
    }
}
