/* term.c: the terminal, shared by all threads of the program. See term.h. */
#include "program/term.h"

#include "base/system.h"
#include "program/process.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    TEXT_MAX = 1024,
    DEFAULT_WIDTH = 80,
    /* bytes that are held while a line is edited; more than that is written at once */
    HELD_MAX = 1 << 20,
    /* a bottom line that was not updated for so long is not shown again: its map may have been left
     * by the script */
    OLD_MS = 1000,
    /* how long others wait for the main thread to end a line that it has begun */
    PATIENCE_MS = 250
};

static const char eraser[] = "\r\033[K";

/* Guarded by its lock, except `is_shown`, which signal handlers read. */
static struct {
    pthread_mutex_t lock;
    char text[TEXT_MAX];
    size_t len;
    long long since_ms;
    /* whether the descriptor is a terminal. 0: not asked yet, 1: yes, -1: no */
    signed char is_terminal[3];
    signed char are_joined; /* the same for whether stdout and stderr are one file */
    bool is_amid; /* somebody has begun a line, and the cursor is in it */
    /* the main thread has begun a line, or is about to write: other threads wait, unless
     * is_impatient */
    bool main_is_amid;
    /* the main thread once left a line open for longer than PATIENCE_MS: nobody waits any more */
    bool is_impatient;
    pthread_t main;     /* valid while main_is_amid */
    pthread_cond_t line_ended; /* by the clock of now_ms */
    volatile sig_atomic_t is_shown;
    /* see tp_term_prompt */
    void (*leave)(void *arg); /* NULL: no line is edited */
    void *leave_arg;
    char *held;
    size_t held_len;
    int held_fd; /* a bell (base/system.h) */
} the = { .lock = PTHREAD_MUTEX_INITIALIZER, .held_fd = -1 };

void tp_term_open(void)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&the.line_ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void write_all(const char *bytes, size_t len)
{
    while (len > 0) {
        const ssize_t n = write(STDERR_FILENO, bytes, len);
        if (n < 0 && errno != EINTR)
            return; /* there is nowhere left to write to */
        if (n > 0)
            bytes += n, len -= (size_t)n;
    }
}

/* How many bytes the first `columns` characters of the UTF-8 text have. */
static size_t cut(const char *text, size_t len, int columns)
{
    size_t i = 0;
    for (; i < len; i++)
        if (((unsigned char)text[i] & 0xC0) != 0x80 && columns-- == 0)
            break;
    return i;
}

/* Locked, as are the functions below. */
static bool is_terminal(FILE *file)
{
    const int fd = fileno(file);
    if (fd < 0 || fd > 2)
        return false;
    if (the.is_terminal[fd] == 0)
        the.is_terminal[fd] = isatty(fd) ? 1 : -1;
    return the.is_terminal[fd] > 0;
}

static void draw(void)
{
    char out[TEXT_MAX + sizeof eraser];
    if (the.len == 0 || the.is_amid)
        return;
    const size_t len = cut(the.text, the.len, tp_term_width(STDERR_FILENO) - 1);
    memcpy(out, eraser, sizeof eraser - 1);
    memcpy(out + sizeof eraser - 1, the.text, len);
    the.is_shown = 1;
    write_all(out, len + sizeof eraser - 1);
}

static void erase(void)
{
    if (the.is_shown)
        write_all(eraser, sizeof eraser - 1);
    the.is_shown = 0;
}

void tp_term_show(const char *text, size_t len)
{
    pthread_mutex_lock(&the.lock);
    if (the.leave)
        len = 0;
    the.len = len > TEXT_MAX ? TEXT_MAX : len;
    memcpy(the.text, text, the.len);
    the.since_ms = now_ms();
    if (the.len)
        draw();
    else
        erase();
    pthread_mutex_unlock(&the.lock);
}

void tp_term_hide(void)
{
    if (the.leave) /* only the main thread, which runs here, changes `leave` */
        the.leave(the.leave_arg);
    pthread_mutex_lock(&the.lock);
    erase();
    the.main_is_amid = true;
    the.main = pthread_self();
    pthread_mutex_unlock(&the.lock);
}

void tp_term_resume(bool at_line_start)
{
    pthread_mutex_lock(&the.lock);
    the.is_amid = the.main_is_amid = !at_line_start;
    pthread_cond_broadcast(&the.line_ended);
    if (now_ms() - the.since_ms < OLD_MS)
        draw();
    pthread_mutex_unlock(&the.lock);
}

/* Holds the bytes back until tp_term_take; false when there is no room. */
static bool hold(const char *bytes, size_t len)
{
    char *held = the.held_len + len <= HELD_MAX ? realloc(the.held, the.held_len + len) : NULL;
    if (!held)
        return false;
    memcpy(held + the.held_len, bytes, len);
    the.held = held;
    the.held_len += len;
    return tp_bell_ring(the.held_fd);
}

/* stdio writes when its buffer is full, which may be in the middle of a line, and unbuffered stderr
 * output would come in between. So the buffer is flushed before a text for which it has no room,
 * and after one that is larger than it. */
void tp_term_lock(FILE *file, size_t len)
{
    flockfile(file);
    if (__fpending(file) > 0 && __fpending(file) + len > __fbufsize(file))
        fflush_unlocked(file);
}

void tp_term_unlock(FILE *file, size_t len)
{
    if (len > __fbufsize(file))
        fflush_unlocked(file);
    funlockfile(file);
}

/* A script writes a line in several calls: what other threads write comes behind it, unless it does
 * not end soon. */
static void await_main_line(void)
{
    if (!the.main_is_amid || the.is_impatient || pthread_equal(the.main, pthread_self()))
        return;
    const long long until = now_ms() + PATIENCE_MS;
    const struct timespec deadline = { until / 1000, until % 1000 * 1000000 };
    int status = 0;
    while (the.main_is_amid && !the.is_impatient && status == 0)
        status = pthread_cond_timedwait(&the.line_ended, &the.lock, &deadline);
    if (status != 0 && the.main_is_amid) {
        the.is_impatient = true;
        pthread_cond_broadcast(&the.line_ended);
    }
}

/* Are stdout and stderr the same pipe or file? Found out once. */
static bool are_joined(void)
{
    struct stat out, err;
    if (the.are_joined == 0)
        the.are_joined = fstat(STDOUT_FILENO, &out) == 0 && fstat(STDERR_FILENO, &err) == 0 &&
                                 out.st_dev == err.st_dev && out.st_ino == err.st_ino
                             ? 1
                             : -1;
    return the.are_joined > 0;
}

size_t tp_term_write(FILE *file, const char *bytes, size_t len)
{
    if (len == 0)
        return 0;
    pthread_mutex_lock(&the.lock);
    const bool to_terminal = is_terminal(file);
    if (to_terminal)
        await_main_line();
    const bool was_shown = the.is_shown;
    size_t n = len;
    if (!(to_terminal && the.leave && hold(bytes, len))) {
        erase();
        if (file == stderr && are_joined())
            fflush(stdout); /* what was printed before must come first */
        tp_term_lock(file, len);
        n = fwrite_unlocked(bytes, 1, len, file);
        tp_term_unlock(file, len);
        if (to_terminal) {
            the.is_amid = bytes[len - 1] != '\n';
            the.main_is_amid = false;
        }
        if (was_shown) {
            fflush(file);
            draw();
        }
    }
    pthread_mutex_unlock(&the.lock);
    return n;
}

void tp_term_prompt(void (*leave)(void *), void *arg)
{
    pthread_mutex_lock(&the.lock);
    if (the.held_fd < 0)
        the.held_fd = tp_bell_open();
    the.leave = the.held_fd >= 0 ? leave : NULL;
    the.leave_arg = arg;
    pthread_mutex_unlock(&the.lock);
}

int tp_term_held_fd(void)
{
    return the.held_fd;
}

char *tp_term_take(size_t *len)
{
    pthread_mutex_lock(&the.lock);
    char *held = the.held_len > 0 ? the.held : NULL;
    *len = the.held_len;
    if (held) {
        the.held = NULL;
        the.held_len = 0;
    }
    tp_bell_hush(the.held_fd); /* fails where nothing was held */
    pthread_mutex_unlock(&the.lock);
    return held;
}

void tp_term_end_line(void)
{
    pthread_mutex_lock(&the.lock);
    if (the.is_amid)
        fputc('\n', stdout);
    the.is_amid = false;
    pthread_mutex_unlock(&the.lock);
}

bool tp_term_is_capable(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) && term && *term && strcmp(term, "dumb") != 0;
}

bool tp_term_has_colours(int fd)
{
    if (tp_process.colours != TP_AUTO)
        return tp_process.colours == TP_ALWAYS;
    return tp_term_is_capable(fd) && !tp_is_set("NO_COLOR");
}

int tp_term_width(int fd)
{
    struct winsize size;
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return DEFAULT_WIDTH;
}

const char *tp_term_eraser(void)
{
    return the.is_shown ? eraser : "";
}
