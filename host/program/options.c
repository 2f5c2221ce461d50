/* options.c: parses the command line: luajit's words, with commands and options of our own. */
#include "program/options.h"

#include "executors.h"
#include "program/errors.h"
#include "runtime/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORKERS_MAX = 1024 };

static int usage(const char *format, const char *what)
{
    char *text = NULL;
    const int len = asprintf(&text, format, what);
    fputs("tidepool: ", stderr);
    tp_errors_print(len < 0 ? format : text, len < 0 ? strlen(format) : (size_t)len);
    fputs(" (try: tidepool --help)\n", stderr);
    free(len < 0 ? NULL : text);
    return TP_EXIT_USAGE;
}

/* How many letters must be added, dropped or changed to turn one word into the other; at most
 * `limit`. */
static int distance(const char *a, const char *b, int limit)
{
    if (*a == *b)
        return *a ? distance(a + 1, b + 1, limit) : 0;
    if (limit == 0)
        return 1;
    int least = limit;
    if (*a && *b && distance(a + 1, b + 1, limit - 1) < least)
        least = distance(a + 1, b + 1, limit - 1);
    if (*a && distance(a + 1, b, limit - 1) < least)
        least = distance(a + 1, b, limit - 1);
    if (*b && distance(a, b + 1, limit - 1) < least)
        least = distance(a, b + 1, limit - 1);
    return least + 1;
}

/* The word in the list (which ends with NULL) that is most like this one. NULL when none has more
 * than two letters in common with it. */
const char *tp_options_nearest(const char *word, const char *const *words)
{
    const size_t len = strcspn(word, "=");
    char begin[32];
    const char *best = NULL;
    int least = len < 5 ? (int)(len + 1) / 2 + 1 : 3;
    if (len >= sizeof begin)
        return NULL;
    memcpy(begin, word, len);
    begin[len] = '\0';
    for (; *words; words++) {
        char other[32];
        snprintf(other, sizeof other, "%.*s", (int)strcspn(*words, "="), *words);
        const int d = distance(begin, other, least);
        if (d < least)
            least = d, best = *words;
    }
    return best;
}

/* ---- options ---- */

static int unknown_option(const char *word)
{
    static const char *const known[] = { "--workers", "--executor", "--progress", "--no-progress",
                                         "--engine",  "--detach",
                                         "--trace",   "--profile",  "--report",
                                         "--dashboard",
                                         "--journal", "--explain",  "--log=tag",  "--color",
                                         "--quiet",   "--verbose",  "--watch",    "--help",
                                         "--version", NULL };
    const char *near = tp_options_nearest(word, known);
    if (!near)
        return usage("unknown option %s", word);
    fputs("tidepool: unknown option ", stderr);
    tp_errors_print(word, strlen(word));
    fprintf(stderr, " (did you mean %s?)\n", near);
    return TP_EXIT_USAGE;
}

/* --color, --color=WHEN. Returns 1; -1 after saying what is wrong. */
static int colour_option(tp_options *o, const char *when)
{
    static const char *const names[] = {
        [TP_AUTO] = "auto", [TP_ALWAYS] = "always", [TP_NEVER] = "never"
    };
    for (int i = TP_AUTO; i <= TP_NEVER; i++)
        if (strcmp(when, names[i]) == 0)
            return o->colours = (tp_colours)i, 1;
    usage("--color is always, never or auto, not %s", *when ? when : "nothing");
    return -1;
}

static bool is_progress_mode(const char *mode)
{
    static const char *const modes[] = { "line", "plain", "json", "off" };
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(mode, modes[i]) == 0)
            return true;
    return false;
}

/* The host's options that take a value, in the same word (--name=value) or in the next. */
enum {
    EXECUTOR_OPTION,
    JOURNAL_OPTION,
    TRACE_OPTION,
    PROFILE_OPTION,
    REPORT_OPTION,
    WORKERS_OPTION,
    ENGINE_OPTION
};
static const char *const valued[] = { "--executor", "--journal", "--trace", "--profile",
                                      "--report",   "--workers", "--engine", NULL };

/* Is argv[i] this option, alone or as "--name=value"? Then *value is its value, "nothing" when
 * there is none. Returns how many words it took; 0 when it is another option. */
static int value_option(const tp_options *o, int i, int which, const char **value)
{
    const char *name = valued[which];
    const size_t len = strlen(name);
    const char *rest = o->argv[i] + len; /* "", or "=N" */
    if (strncmp(o->argv[i], name, len) != 0 || (*rest && *rest != '='))
        return 0;
    *value = *rest ? rest + 1 : o->argv[i + 1];
    if (!*value || !**value)
        *value = "nothing";
    return *rest ? 1 : 2;
}

/* The same for an option whose value is a file. -1 after saying that there is none. */
static int file_option(const tp_options *o, int i, int which, const char **file)
{
    const char *value;
    char what[80];
    const int n = value_option(o, i, which, &value);
    if (n == 0)
        return 0;
    *file = value;
    if (strcmp(value, "nothing") != 0)
        return n;
    snprintf(what, sizeof what, "%s needs a file, not %%s", valued[which]);
    usage(what, value);
    return -1;
}

static bool is_number(const char *word)
{
    return word && *word && strspn(word, "0123456789") == strlen(word);
}

/* --dashboard, --dashboard=PORT, --dashboard PORT: the next word is a port if it is a number.
 * Otherwise as file_option. */
static int dashboard_option(tp_options *o, int i)
{
    static const char name[] = "--dashboard";
    enum { PORT_MAX = 65535, DIGITS_MAX = 5 };
    const char *rest = o->argv[i] + sizeof name - 1, *port = rest + 1;
    if (strncmp(o->argv[i], name, sizeof name - 1) != 0 || (*rest && *rest != '='))
        return 0;
    o->dashboard = true;
    if (!*rest)
        port = o->argv[i + 1];
    if (!*rest && !is_number(port))
        return 1;
    o->port = is_number(port) && strlen(port) <= DIGITS_MAX ? (unsigned)atoi(port) : PORT_MAX + 1;
    if (o->port <= PORT_MAX)
        return *rest ? 1 : 2;
    usage("--dashboard takes a port from 1 to 65535, or none for any that is free, not %s",
          *port ? port : "nothing");
    return -1;
}

/* Does an executor of that name run Lua functions? */
static bool is_executor(const char *name)
{
    for (const tp_executor_type *const *type = tp_executor_types; *type; type++)
        if ((*type)->capabilities & TP_RUNS_LUA && strcmp((*type)->name, name) == 0)
            return true;
    return false;
}

/* Says that there is no such executor, and which there are: "a, b or c". */
static void refuse_executor(const char *name)
{
    const char *names[TP_EXECUTORS_MAX];
    size_t n = 0;
    for (const tp_executor_type *const *type = tp_executor_types; *type; type++)
        if ((*type)->capabilities & TP_RUNS_LUA)
            names[n++] = (*type)->name;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return;
    for (size_t i = 0; i < n; i++)
        fprintf(out, "%s%s", i == 0 ? "" : i == n - 1 ? " or " : ", ", names[i]);
    fprintf(out, ", not %s", name);
    if (fclose(out) == 0)
        usage("--executor is %s", text);
    free(text);
}

int tp_options_read_workers(tp_options *o, const char *who, const char *value)
{
    char *end, what[100];
    const long workers = strtol(value, &end, 10);
    if (*value >= '0' && *value <= '9' && !*end && workers >= 1 && workers <= WORKERS_MAX)
        return o->workers = (int)workers, 0;
    snprintf(what, sizeof what, "%s needs a number from 1 to 1024, not %.40s", who, value);
    usage("%s", what);
    return TP_EXIT_USAGE;
}

int tp_options_read_engine(tp_options *o, const char *who, const char *value)
{
    static const char *const schemes[] = { "nats://", "tls://" };
    char what[200];
    for (int i = 0; i < 2; i++) {
        size_t len = strlen(schemes[i]);
        if (strncmp(value, schemes[i], len) == 0 && value[len] && !strpbrk(value, " @,")) {
            o->engine = value;
            return 0;
        }
    }
    snprintf(what, sizeof what,
             "%s is a URL as nats://127.0.0.1:4222, or tls://HOST:4222, not %.100s", who, value);
    usage("%s", what);
    return TP_EXIT_USAGE;
}

/* Recognises one of the host's own options at argv[i], which `run` and `map` accept anywhere.
 * Returns how many words it took; 0 when it is none of them; -1 after saying what is wrong. */
static int host_option(tp_options *o, int i)
{
    static const char progress[] = "--progress=", color[] = "--color=";
    const char *word = o->argv[i], *value;
    int n;
    if (strcmp(word, "--quiet") == 0)
        return o->quiet = true, 1;
    if (strcmp(word, "--detach") == 0)
        return o->detaches = true, 1;
    if (strcmp(word, "--explain") == 0)
        return o->explains = true, 1;
    if (strcmp(word, "--log=tag") == 0)
        return o->tagged = true, 1;
    if (strcmp(word, "--color") == 0 || strncmp(word, color, sizeof color - 1) == 0)
        return colour_option(o, word[sizeof color - 2] ? word + sizeof color - 1 : "always");
    if (strcmp(word, "--no-progress") == 0)
        return o->progress = "off", 1;
    if (strcmp(word, "--progress") == 0)
        return o->progress = isatty(STDERR_FILENO) ? "line" : "plain", 1;
    if (strncmp(word, progress, sizeof progress - 1) == 0) {
        o->progress = word + sizeof progress - 1;
        if (is_progress_mode(o->progress))
            return 1;
        usage("--progress is line, plain, json or off, not %s",
              *o->progress ? o->progress : "nothing");
        return -1;
    }
    n = value_option(o, i, EXECUTOR_OPTION, &value);
    if (n > 0) {
        o->executor = value;
        if (is_executor(value))
            return n;
        refuse_executor(value);
        return -1;
    }
    n = file_option(o, i, JOURNAL_OPTION, &o->journal);
    if (n != 0)
        return n;
    n = file_option(o, i, TRACE_OPTION, &o->trace);
    if (n != 0)
        return n;
    n = file_option(o, i, PROFILE_OPTION, &o->profile);
    if (n != 0)
        return n;
    n = file_option(o, i, REPORT_OPTION, &o->report);
    if (n != 0)
        return n;
    n = dashboard_option(o, i);
    if (n != 0)
        return n;
    n = value_option(o, i, ENGINE_OPTION, &value);
    if (n > 0) {
        if (tp_options_read_engine(o, "--engine", value))
            return -1;
        o->executor = o->executor ? o->executor : "cluster";
        return n;
    }
    n = value_option(o, i, WORKERS_OPTION, &value);
    if (n == 0 && strcmp(word, "-w") == 0) {
        value = o->argv[i + 1] && *o->argv[i + 1] ? o->argv[i + 1] : "nothing";
        n = 2;
    } else if (n == 0 && strncmp(word, "-w", 2) == 0) {
        value = word + 2;
        n = 1;
    }
    if (n > 0 && tp_options_read_workers(o, word[1] == '-' ? "--workers" : "-w", value))
        return -1;
    return n;
}

/* Removes the host's options from the words after `run`, up to a "--". */
static int take_host_options(tp_options *o, int i)
{
    while (i < o->argc && strcmp(o->argv[i], "--") != 0) {
        const int n = host_option(o, i);
        if (n < 0)
            return TP_EXIT_USAGE;
        memmove(o->argv + i, o->argv + i + n, (size_t)(o->argc - i - n + 1) * sizeof *o->argv);
        o->argc -= n;
        i += n == 0;
    }
    return 0;
}

/* Does this option take its argument from the next word, which is `next`? */
bool tp_options_takes_next(const char *word, const char *next)
{
    if (strcmp(word, "--dashboard") == 0)
        return is_number(next);
    for (const char *const *name = valued; *name; name++)
        if (strcmp(word, *name) == 0)
            return true;
    return strchr("eljpw", word[1]) && !word[2];
}

const char *const tp_options_commands[] = { "run",   "map", "devices", "journal", "replay",
                                            "cache", "new", "engine",  "worker",
                                            "jobs",  "attach", "cancel", "help",  NULL };

/* argv[i] is the first word that is no option. */
static int parse_command(tp_options *o, int i)
{
    o->script = i;
    if (i == o->argc)
        return 0;
    for (int command = RUN; command <= HELP; command++)
        if (strcmp(o->argv[i], tp_options_commands[command - RUN]) == 0)
            o->command = command;
    /* a script named "version" takes precedence */
    if (o->command == SCRIPT && strcmp(o->argv[i], "version") == 0 && access("version", F_OK) != 0)
        return o->command = VERSION, o->script = o->argc, 0;
    if (o->command == SCRIPT)
        return 0;
    o->script = i + 1;
    return o->command != HELP ? take_host_options(o, i + 1) : 0;
}

static int parse_own(tp_options *o, int i)
{
    const int n = host_option(o, i);
    if (n != 0)
        return n;
    if (strcmp(o->argv[i], "--help") == 0 || strcmp(o->argv[i], "-h") == 0)
        o->command = HELP;
    else if (strcmp(o->argv[i], "--verbose") == 0)
        /* only before the command: after `run` it belongs to the script, which often has such an
         * option */
        o->verbose = true;
    else if (strcmp(o->argv[i], "--watch") == 0)
        o->watches = true; /* the same */
    else if (strcmp(o->argv[i], "--version") == 0)
        o->command = VERSION;
    else
        return unknown_option(o->argv[i]), -1;
    return 1;
}

/* Reads the options; runs nothing. Returns 0, or the exit code after saying what is wrong. */
static int parse(tp_options *o)
{
    int i = o->end = 1;
    for (; i < o->argc && o->argv[i][0] == '-' && o->argv[i][1]; i++) {
        const char *word = o->argv[i];
        if (strcmp(word, "--") == 0)
            /* the next word is a script even if it has a command's name */
            return o->script = i + 1, 0;
        if (word[1] == '-' || word[1] == 'w' || strcmp(word, "-h") == 0) {
            const int n = parse_own(o, i);
            if (n < 0)
                return TP_EXIT_USAGE;
            if (o->command != SCRIPT)
                return o->script = o->argc, 0;
            i += n - 1;
            o->end = i + 1;
            continue;
        }
        if (!strchr("eljObivEp", word[1]) || (strchr("ivE", word[1]) && word[2]))
            return usage("unknown option %s", word);
        if (tp_options_takes_next(word, o->argv[i + 1]) && ++i >= o->argc)
            return usage("%s needs an argument", word);
        o->interactive |= word[1] == 'i';
        o->version |= word[1] == 'v';
        o->executes |= word[1] == 'e' || word[1] == 'p';
        o->loads |= word[1] == 'l';
        o->no_env |= word[1] == 'E';
        if (word[1] == 'b')
            return o->command = BYTECODE, o->script = i, 0;
        o->end = i + 1;
    }
    return parse_command(o, i);
}

int tp_options_parse(tp_options *o)
{
    const int wrong = parse(o);
    const bool has_file = (o->command == SCRIPT || o->command == RUN) && o->script < o->argc &&
                          o->argv[o->script][0] != '-';
    if (!wrong && o->watches && (!has_file || o->interactive))
        return usage(
            "--watch needs a script: tidepool --watch FILE, or tidepool --watch run FILE%s", "");
    if (!wrong && o->detaches && (!has_file || o->interactive || o->watches))
        return usage("--detach needs a script: tidepool --detach FILE, or tidepool run --detach "
                     "FILE%s",
                     "");
    return wrong;
}

/* Does the program end up in the interactive session? */
bool tp_options_have_session(const tp_options *o)
{
    return o->command == SCRIPT && (o->interactive || (o->script == o->argc && !o->executes &&
                                                       !o->version && isatty(STDIN_FILENO)));
}

/* Is the session the first thing to run, with no code of the user's before it? */
bool tp_options_begin_with_session(const tp_options *o)
{
    return tp_options_have_session(o) && o->script == o->argc && !o->executes && !o->loads &&
           (o->no_env || !getenv("LUA_INIT"));
}
