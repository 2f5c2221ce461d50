/* signals.c: SIGINT, SIGTERM, SIGHUP, SIGQUIT, and the last words of worker processes. Here and in
 * crash.c are the program's only signal handlers, but for that of profile.c.
 *
 * The first signal asks the program to end, or the session's line to stop. The second one ends the
 * program. */
#include "program/signals.h"

#include "lua/core.h"
#include "program/last_line.h"
#include "program/process.h"
#include "program/term.h"
#include "runtime/runtime.h"

#include <lauxlib.h>
#include <lua.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    /* a line that is still running so long after the interrupt must have caught the error */
    CAUGHT_MS = 100,
    STUCK_MS = 1000  /* after so long the user is told that the line does not end */
};

/* ---- signals: everything down to on_signal is async-signal-safe ---- */

static int alarm_signal(void)
{
    return SIGRTMIN;
}

void tp_signals_be_patient(unsigned ms)
{
    const struct itimerspec when = { .it_value = { ms / 1000, (long)(ms % 1000) * 1000000 } };
    if (tp_process.has_timer)
        timer_settime(tp_process.timer, 0, &when, NULL);
}

/* How many results the next run need not make again, if it has the journal of this one. */
static uint64_t results_done(void)
{
    return tp_process.has_journal && tp_process.kept > tp_process.delivered ? tp_process.kept
                                                                            : tp_process.delivered;
}

/* Builds "tidepool: interrupted (12 of 100 results delivered)", and how to go on. The part in
 * brackets only if there was a map just then. Where a slow input holds back results that came
 * later, which are kept: "(12 of 100 results delivered, 80 kept)". */
static void put_interrupted(tp_last_line *l)
{
    const bool has_map = tp_process.delivered || tp_process.total;
    const uint64_t done = results_done();
    tp_last_line_put_text(l, tp_term_eraser());
    tp_last_line_put_text(l, "tidepool: interrupted");
    if (!has_map && !(tp_process.has_journal && tp_process.has_recorded))
        return;
    if (has_map) {
        tp_last_line_put_text(l, " (");
        tp_last_line_put_number(l, tp_process.delivered);
        if (tp_process.total) {
            tp_last_line_put_text(l, " of ");
            tp_last_line_put_number(l, tp_process.total);
        }
        tp_last_line_put_text(l, " results delivered");
        if (done > tp_process.delivered) {
            tp_last_line_put_text(l, ", ");
            tp_last_line_put_number(l, done);
            tp_last_line_put_text(l, " kept");
        }
        tp_last_line_put_text(l, ")");
    }
    if (!tp_process.has_journal) {
        tp_last_line_put_text(l, "; --journal FILE keeps them for the next run");
    } else if (tp_process.total <= done) {
        tp_last_line_put_text(l, "; run the same command again to go on");
    } else {
        tp_last_line_put_text(l, "; run the same command again to finish the other ");
        tp_last_line_put_number(l, tp_process.total - done);
    }
}

/* The same as JSON, for --progress=json. */
static void put_interrupted_json(tp_last_line *l)
{
    tp_last_line_put_text(l, "{\"interrupted\":true,\"delivered\":");
    tp_last_line_put_number(l, tp_process.delivered);
    tp_last_line_put_text(l, ",\"total\":");
    if (tp_process.total)
        tp_last_line_put_number(l, tp_process.total);
    else
        tp_last_line_put_text(l, "null");
    if (!tp_process.has_journal) {
        tp_last_line_put_text(l, ",\"kept\":false}");
        return;
    }
    tp_last_line_put_text(l, ",\"kept\":true,\"kept_results\":");
    tp_last_line_put_number(l, results_done());
    tp_last_line_put_text(l, "}");
}

void tp_signals_say_interrupted(void)
{
    tp_last_line l = { .len = 0 };
    if (tp_process.line_said || (tp_process.quiet && !tp_process.speaks_json))
        return;
    tp_process.line_said = 1;
    if (tp_process.speaks_json)
        put_interrupted_json(&l);
    else
        put_interrupted(&l);
    tp_last_line_put_text(&l, "\n");
    if (write(STDERR_FILENO, l.text, l.len) < 0)
        return; /* there is nowhere left to say it */
}

/* Ends the process by sig's default action, so that the parent sees what happened. */
_Noreturn void tp_signals_die_by(int sig)
{
    sigset_t only;
    if (tp_process.has_terminal)
        tcsetattr(STDIN_FILENO, TCSANOW, &tp_process.terminal);
    signal(sig, SIG_DFL);
    sigemptyset(&only);
    sigaddset(&only, sig);
    pthread_sigmask(SIG_UNBLOCK, &only, NULL);
    raise(sig);
    _exit(128 + sig); /* raise does not end PID 1 of a container */
}

/* A debug hook: raises once, at the next instruction of interpreted code. Not if a wait has raised
 * already and that error is being handled. */
static void raise_interrupted(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    lua_sethook(L, NULL, 0, 0);
    if (!tp_process.host || tp_host_take_interrupt(tp_process.host))
        tp_lua_core_raise_interrupt(L);
}

/* A debug hook for lines that catch errors: raises at each instruction of the user's code until the
 * line has ended. The library's own code goes on, so that it can clean up. */
static void raise_again(lua_State *L, lua_Debug *ar)
{
    if (lua_getinfo(L, "S", ar) && *ar->what != 'C' && !tp_is_library(ar))
        tp_lua_core_raise_interrupt(L);
}

/* Asks Lua code and waiting maps to stop. Hooks reach only interpreted code; for the rest see
 * TP_PATIENCE_MS. */
static void interrupt_lua(lua_Hook hook)
{
    if (tp_process.host)
        tp_host_interrupt(tp_process.host);
    if (tp_process.L)
        lua_sethook(tp_process.L, hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

void tp_signals_note_records(void)
{
    tp_process.has_journal |= tp_engine_records(tp_process.host->engine);
    tp_process.has_recorded |= tp_engine_has_recorded(tp_process.host->engine);
}

static void begin_to_end(int sig)
{
    tp_process.signal = sig;
    if (tp_process.host) {
        tp_host_counts(tp_process.host, &tp_process.delivered, &tp_process.total);
        tp_process.kept = tp_engine_kept(tp_process.host->engine);
        tp_signals_note_records();
    }
    interrupt_lua(raise_interrupted);
    tp_signals_be_patient(TP_PATIENCE_MS);
}

/* Handles Ctrl-C while the session runs a line; `is_late`: time has passed since. The first Ctrl-C
 * raises "interrupted". If the line catches that, it is raised again and again until the line ends.
 * If it does not end even then, the user is told so, and only after that another Ctrl-C ends the
 * session, since people press it several times. */
static void press(bool is_late)
{
    static const char stuck[] =
        "\ntidepool: this line cannot be stopped; Ctrl-C again ends the session\n";
    enum { NOT_YET, ASKED, INSISTS, STUCK };
    if (is_late == (tp_process.interrupts == NOT_YET) && tp_process.interrupts != STUCK)
        return;
    switch (tp_process.interrupts) {
    case NOT_YET:
        tp_process.interrupts = ASKED;
        if (tp_process.host)
            tp_host_counts(tp_process.host, &tp_process.delivered, &tp_process.total);
        interrupt_lua(raise_interrupted);
        tp_signals_be_patient(CAUGHT_MS);
        break;
    case ASKED:
        tp_process.interrupts = INSISTS;
        interrupt_lua(raise_again);
        tp_signals_be_patient(STUCK_MS);
        break;
    case INSISTS:
        tp_process.interrupts = STUCK;
        if (write(STDERR_FILENO, stuck, sizeof stuck - 1) < 0)
            break; /* there is nowhere left to say it */
        break;
    default:
        tp_signals_die_by(SIGINT);
    }
}

/* SIGINT, SIGTERM, SIGHUP, and the timer's own signal at the end of patience. The first asks the
 * program to end, the second ends it. */
static void on_signal(int sig)
{
    const int saved = errno;
    if (getpid() != tp_process.pid) /* a forked child has nothing to clean up */
        tp_signals_die_by(sig == alarm_signal() ? SIGKILL : sig);
    if (!pthread_equal(pthread_self(), tp_process.thread)) {
        pthread_kill(tp_process.thread, sig);
    } else if (sig == SIGQUIT) { /* ends at once, but restores the terminal */
        tp_signals_die_by(sig);
    } else if (sig == alarm_signal() && !tp_process.signal && tp_process.session != TP_NO_SESSION) {
        if (tp_process.session == TP_SESSION_LINE)
            press(true);
    } else if (sig == alarm_signal() && !tp_process.signal) {
        _exit(tp_process.code);
    } else if (tp_process.signal) {
        tp_signals_say_interrupted();
        tp_signals_die_by(tp_process.signal);
    } else if (sig != SIGINT || tp_process.session == TP_NO_SESSION) {
        begin_to_end(sig);
    } else if (tp_process.session == TP_SESSION_PROMPT) {
        tp_process.interrupts = 1;
    } else {
        press(false);
    }
    errno = saved;
}

/* Without SA_RESTART: an interrupted read or sleep returns, so that the hook can run. Signals that
 * were ignored when we started (nohup) stay ignored. */
void tp_signals_catch(void)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
    struct sigaction action = { .sa_handler = on_signal }, old;
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = alarm_signal() };

    sigfillset(&action.sa_mask);
    tp_process.pipe_ignored = sigaction(SIGPIPE, NULL, &old) == 0 && old.sa_handler == SIG_IGN;
    tp_process.has_timer = timer_create(CLOCK_MONOTONIC, &event, &tp_process.timer) == 0;
    if (tp_process.has_timer)
        sigaction(alarm_signal(), &action, NULL);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
}

static void on_death(int sig)
{
    tp_process.before_death(tp_process.dying, errno);
    /* SA_RESETHAND: ends the process when the handler returns, unless the instruction that raised
     * the signal does so first */
    raise(sig);
}

int tp_signals_note_death(void (*note)(void *user, int error), void *user)
{
    static const int signals[] = { SIGSEGV, SIGBUS, SIGABRT };
    enum { STACK_BYTES = 64 << 10 };
    struct sigaction action = { .sa_handler = on_death,
                                .sa_flags = (int)(SA_ONSTACK | SA_RESETHAND) };
    stack_t stack = { .ss_sp = malloc(STACK_BYTES), .ss_size = STACK_BYTES };
    if (!stack.ss_sp || sigaltstack(&stack, NULL)) {
        free(stack.ss_sp);
        return -1;
    }
    tp_process.before_death = note;
    tp_process.dying = user;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
    return 0;
}

bool tp_signals_session(tp_session now)
{
    sigset_t all, before;
    sigfillset(&all);
    /* signals are blocked so that each counts either for the state before the change or for the one
     * after */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    const bool interrupted = tp_process.interrupts != 0;
    if (now == TP_SESSION_PROMPT && !tp_process.has_terminal)
        tp_process.has_terminal = tcgetattr(STDIN_FILENO, &tp_process.terminal) == 0;
    tp_process.session = (sig_atomic_t)now;
    /* the interrupt was meant for the line that has ended */
    if (interrupted && !tp_process.signal) {
        tp_signals_be_patient(0);
        if (tp_process.L) {
            lua_sethook(tp_process.L, NULL, 0, 0);
            tp_host_resume(tp_process.host);
        }
    }
    tp_process.interrupts = 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return interrupted;
}

void tp_signals_interrupt_prompt(void)
{
    tp_process.interrupts = 1;
}

int tp_signals_poll(struct pollfd *waits, unsigned n, int ms)
{
    const struct timespec time = { ms / 1000, (long)(ms % 1000) * 1000000 };
    sigset_t all, before;
    int ready = -1;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    do { /* other signals, such as the profiler's, must not end the wait */
        if (tp_process.interrupts || tp_process.signal)
            errno = EINTR;
        else
            /* signals come in only while it waits */
            ready = ppoll(waits, n, ms < 0 ? NULL : &time, &before);
    } while (ready < 0 && errno == EINTR && !tp_process.interrupts && !tp_process.signal);
    const int why = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = why;
    return ready;
}

bool tp_signals_ending(void)
{
    return tp_process.signal != 0;
}
