/* watch.c: --watch.
 *
 * The watching process has no Lua state and no threads: it looks at the files five times a second,
 * which needs nothing that may be exhausted and sees editors that replace a file as well as those
 * that write to it. All signals that matter are blocked, and taken where it waits. */
#include "program/watch.h"

#include "program/errors.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* PATIENCE_LOOKS: how many looks a child may take to end after SIGTERM */
enum { LOOK_MS = 200, PATIENCE_LOOKS = 25 };

typedef struct file {
    char *path;
    struct seen {
        unsigned long long inode; /* 0: the file was missing */
        long long size, sec, nsec;
    } seen;
} file;

typedef struct watch {
    const tp_options *o;
    file *files; /* the first is the script */
    size_t n;
    sigset_t signals, before;
    pid_t child; /* 0: it has ended */
    int status;
    int fd; /* what the child requires */
    char line[8192];
    size_t len;
} watch;

static struct seen look(const char *path)
{
    struct stat s;
    if (stat(path, &s))
        return (struct seen){ 0 };
    return (struct seen){ s.st_ino, s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec };
}

static bool is_same(const struct seen *a, const struct seen *b)
{
    return a->inode == b->inode && a->size == b->size && a->sec == b->sec && a->nsec == b->nsec;
}

/* The child reports the file's identity and times as they are before it reads the file: it may have
 * changed by the time the watching process looks. */
void tp_watch_report(int fd, const char *path)
{
    const struct seen s = look(path);
    dprintf(fd, "%llu %lld %lld %lld %s\n", s.inode, s.size, s.sec, s.nsec, path);
}

/* Without memory the file is not watched. */
static void add_file(watch *w, const char *path, const struct seen *seen)
{
    for (size_t i = 0; i < w->n; i++)
        if (strcmp(w->files[i].path, path) == 0)
            return;
    file *files = realloc(w->files, (w->n + 1) * sizeof *files);
    if (!files)
        return;
    w->files = files;
    files[w->n] = (file){ strdup(path), *seen };
    w->n += files[w->n].path != NULL;
}

/* A line of tp_watch_report's. */
static void add_line(watch *w, const char *line)
{
    struct seen seen;
    int at = 0;
    if (sscanf(line, "%llu %lld %lld %lld %n", &seen.inode, &seen.size, &seen.sec, &seen.nsec,
               &at) == 4 &&
        at > 0)
        add_file(w, line + at, &seen);
}

/* Reads what the child has written. */
static void read_lines(watch *w)
{
    ssize_t n;
    while ((n = read(w->fd, w->line + w->len, sizeof w->line - w->len)) > 0) {
        w->len += (size_t)n;
        char *end;
        while ((end = memchr(w->line, '\n', w->len)) != NULL) {
            *end = '\0';
            add_line(w, w->line);
            w->len -= (size_t)(end + 1 - w->line);
            memmove(w->line, end + 1, w->len);
        }
        if (w->len == sizeof w->line) /* a line that fills the buffer is no path: drop it */
            w->len = 0;
    }
}

/* The file that has changed; NULL when none has. A file that is missing is being replaced by an
 * editor: it counts as changed when it is back. */
static const char *find_changed(watch *w)
{
    const char *found = NULL;
    for (size_t i = 0; i < w->n; i++) {
        const struct seen now = look(w->files[i].path);
        if (now.inode && !is_same(&now, &w->files[i].seen)) {
            w->files[i].seen = now;
            found = w->files[i].path;
        }
    }
    return found;
}

static void say(const watch *w, const char *format, const char *first, const char *second)
{
    char *text = NULL;
    if (w->o->quiet)
        return;
    const int len = asprintf(&text, format, first, second);
    if (len < 0)
        return;
    fputs("tidepool: ", stderr);
    tp_errors_print(text, (size_t)len);
    fputc('\n', stderr);
    free(text);
}

static void tell_end(const watch *w)
{
    char more[40] = "";
    if (w->n > 1)
        snprintf(more, sizeof more, " and %zu module%s", w->n - 1, w->n == 2 ? "" : "s");
    say(w, "watching %s%s: it runs again when that changes (Ctrl-C ends)", w->files[0].path, more);
}

/* Waits for a signal, or LOOK_MS; 0: none has come. */
static int wait_a_little(watch *w, siginfo_t *info)
{
    const struct timespec pause = { .tv_nsec = LOOK_MS * 1000000L };
    const int sig = sigtimedwait(&w->signals, info, &pause);
    return sig < 0 ? 0 : sig;
}

/* Has the child ended? */
static bool reap(watch *w, int flags)
{
    pid_t pid;
    do {
        pid = w->child ? waitpid(w->child, &w->status, flags) : -1;
    } while (pid < 0 && errno == EINTR && w->child);
    if (pid == 0)
        return false;
    w->child = 0;
    return true;
}

/* Ends as the child has, or by the signal that is to end both. */
static _Noreturn void end(watch *w, const siginfo_t *info)
{
    int sig = info->si_signo;
    if (w->child) {
        if (info->si_code != SI_KERNEL) /* a signal from the terminal reaches the child by itself */
            kill(w->child, sig);
        reap(w, 0);
        if (WIFEXITED(w->status))
            _exit(WEXITSTATUS(w->status));
        sig = WTERMSIG(w->status);
    }
    signal(sig, SIG_DFL);
    sigprocmask(SIG_SETMASK, &w->before, NULL);
    raise(sig);
    _exit(128 + sig);
}

/* Asks the child to end, then makes it. */
static void stop_child(watch *w)
{
    siginfo_t info;
    if (w->child)
        kill(w->child, SIGTERM);
    for (int i = 0; w->child && i < PATIENCE_LOOKS && !reap(w, WNOHANG); i++) {
        const int sig = wait_a_little(w, &info);
        if (sig && sig != SIGCHLD)
            end(w, &info);
    }
    if (w->child)
        kill(w->child, SIGKILL);
    reap(w, 0);
}

/* Waits until a file changes, and stops the child then; ends with the child's status when a signal
 * comes. */
static void watch_child(watch *w)
{
    for (;;) {
        siginfo_t info;
        const int sig = wait_a_little(w, &info);
        if (sig && sig != SIGCHLD)
            end(w, &info);
        read_lines(w);
        if (w->child && reap(w, WNOHANG))
            tell_end(w);
        const char *changed = find_changed(w);
        if (!changed)
            continue;
        stop_child(w);
        say(w, "%s has changed: running %s again", changed, w->files[0].path);
        return;
    }
}

static int cannot(const char *what)
{
    fprintf(stderr, "tidepool: --watch: cannot %s: %s\n", what, strerror(errno));
    return -1;
}

int tp_watch_start(tp_options *o)
{
    watch w = { .o = o };
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD };
    sigemptyset(&w.signals);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaddset(&w.signals, signals[i]);
    sigprocmask(SIG_BLOCK, &w.signals, &w.before);
    const char *name = o->command == RUN ? strstr(o->argv[o->script], "::") : NULL;
    char *path = name ? strndup(o->argv[o->script], (size_t)(name - o->argv[o->script]))
                      : strdup(o->argv[o->script]);
    while (path) {
        int ends[2];
        while (w.n > 0)
            free(w.files[--w.n].path);
        const struct seen seen = look(path);
        add_file(&w, path, &seen);
        if (w.n == 0 || pipe2(ends, O_CLOEXEC))
            return cannot("open a pipe");
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        w.child = fork();
        if (w.child < 0)
            return cannot("start a process");
        if (w.child == 0) {
            sigprocmask(SIG_SETMASK, &w.before, NULL);
            close(ends[0]);
            free(w.files[0].path);
            free(w.files);
            free(path);
            o->watch_fd = ends[1];
            return 0;
        }
        close(ends[1]);
        w.fd = ends[0];
        w.len = 0;
        watch_child(&w);
        close(w.fd);
    }
    return cannot("start");
}
