/* cluster_worker.c: `tidepool worker`: takes chunks of work from the engine of a cluster and runs
 * them in worker processes of this machine. cluster/protocol.h has the names on the server,
 * cluster/exec_cluster.c the other side.
 *
 * One thread does everything here but run items. Each session (a coordinator's process) has a host
 * of its own, so that nothing of one is left for another. A chunk is a job of that host: what
 * worker processes do for a script on this machine they do for it here.
 *
 * What comes in is looked at only after its signature and the digest of its payload were verified,
 * and only of a session whose coordinator has shown that it lives, by signing a number that this
 * process has made up for it: what was recorded earlier is not run again.
 *
 * The process that drives this machine's devices (cluster_devices.h) is such a worker, too. It gets
 * kernels, directly; its jobs are those of its devices' threads. */
#include "program/cluster_worker.h"

#include "base/cpus.h"
#include "program/cluster/chunks.h"
#include "program/cluster/intake.h"
#include "program/cluster/replies.h"
#include "program/cluster/sessions.h"
#include "program/cluster/telling.h"
#include "program/engine.h"
#include "program/hosts.h"
#include "program/pocl_cache.h"
#include "program/process.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    /* how many questions (ALIVE_AGAIN_MS apart) may stay unanswered before a session is taken for
     * dead, */
    ALIVE_TRIES = 5,
    KEPT_TRIES = 20, /* and how many when its results will be read even then (journals) */
    /* default of --grace: how long running chunks may take when the worker is asked to leave */
    GRACE_S = 30,
    KERNELS = 4, /* chunks that a device has at once, so that copies and kernels overlap */
    STUCK_MS = 10 * 1000, /* a device that runs for so long what nobody wants is given up */
    DEVICES_AGAIN_MS = 250, DEVICES_AGAIN_MAX = 5 /* see look_at_devices */
};

/* Set by a signal. */
static volatile sig_atomic_t asked_to_leave;

static void look_at_chunks(node *n, uint64_t now)
{
    for (session *s = n->sessions; s; s = s->next)
        tp_telling_sort(n, s, NULL);
    for (chunk *k = n->chunks, *next; k; k = next) {
        next = k->next;
        if (k->state == RUNNING)
            tp_chunk_collect(n, k);
        if (k->state == RUNNING)
            tp_chunk_send_early(n, k);
        if (k->state == RUNNING)
            tp_telling_send(n, k, false);
        /* what was said may be lost, and so may the answer */
        if (k->state == RUNNING && k->streams && now >= k->told_ms + AGAIN_MS && !n->is_lost)
            tp_chunk_send_values(n, k);
        if (k->state == ANSWERED && now >= k->again_ms && !n->is_lost &&
            tp_reply_may_send_again(n, now))
            tp_reply_send_again(n, k);
        if (k->state == OVER)
            tp_node_forget(n, k);
    }
}

static void look_at_sessions(node *n, uint64_t now)
{
    for (session *s = n->sessions, *next; s && !n->is_lost; s = next) {
        next = s->next;
        if (now < s->ask_ms)
            continue;
        if (s->tries >= (s->is_kept ? KEPT_TRIES : ALIVE_TRIES))
            tp_session_close(n, s);
        else
            tp_session_ask(n, s);
    }
}

/* Tells coordinators that the process which drove the devices is dead, before they miss it. */
static void mourn(node *n)
{
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, TP_SUBJECT_HB "%s", n->device_process.id);
    tp_nats_publish(&n->nats, subject, NULL, "gone", 4);
}

/* Starts the process that drives the devices when it is wanted, and anew when it has died: soon,
 * but later and later when it dies young again and again. */
static void look_at_devices(node *n, uint64_t now)
{
    tp_device_process *p = &n->device_process;
    tp_error err = { 0 };
    uint8_t id[TP_ID_BYTES];
    char hex[TP_ID_TEXT];
    switch (tp_device_process_look(p)) {
    case TP_DEVICES_QUIET:
        break;
    case TP_DEVICES_BUSY:
        n->busy_ms = now;
        break;
    case TP_DEVICES_NONE:
        n->reborn_ms = UINT64_MAX;
        break;
    case TP_DEVICES_DEAD:
        mourn(n); /* who needs devices asks again */
        n->wants_devices = false;
        n->deaths = now >= n->born_ms + STUCK_MS      ? 0
                    : n->deaths < DEVICES_AGAIN_MAX ? n->deaths + 1
                                                    : n->deaths;
        n->reborn_ms = now + ((uint64_t)DEVICES_AGAIN_MS << n->deaths);
        if (WIFSIGNALED(p->status) && !n->is_leaving)
            tp_node_say(
                "the process that drives its devices died (%s); another one takes its place",
                strsignal(WTERMSIG(p->status)));
    }
    if (!n->wants_devices || n->devices || p->pid || n->is_leaving || now < n->reborn_ms)
        return;
    tp_signer_random(&n->signer, id, sizeof id);
    tp_to_hex(hex, id, sizeof id);
    n->born_ms = now;
    if (tp_device_process_start(p, n->options, n->token, hex, n->grace_s, &err)) {
        n->reborn_ms = UINT64_MAX;
        tp_node_say("%s", err.message);
    }
}

/* Gives up devices that run for long what nobody wants. */
static void look_whether_stuck(node *n, uint64_t now)
{
    for (session *s = n->sessions; s && n->devices; s = s->next) {
        if (!s->host || !tp_own_devices_are_stuck(n->devices, s->host))
            s->stuck_ms = 0;
        else if (s->stuck_ms == 0)
            s->stuck_ms = now;
        else if (now > s->stuck_ms + STUCK_MS)
            tp_session_give_devices_up(n);
    }
}

/* Is there nothing left to wait for? After the grace time what runs goes back. */
static bool has_left(node *n, uint64_t now)
{
    if (!n->is_leaving) {
        n->is_leaving = true;
        n->leave_ms = now + n->grace_ms;
        n->heartbeat_ms = 0;
        tp_device_process_kill(&n->device_process, SIGTERM);
        if (!n->devices)
            tp_node_say("leaves when what runs is over (at most %d s)", (int)(n->grace_ms / 1000));
        for (chunk *k = n->chunks; k; k = k->next)
            if (k->state < RUNNING)
                tp_reply_give_back(n, k);
    }
    bool is_late = now >= n->leave_ms || asked_to_leave > 1;
    for (chunk *k = n->chunks; k && is_late; k = k->next)
        if (k->state < ANSWERED)
            tp_reply_give_back(n, k);
    return (!n->chunks && !n->device_process.pid) ||
           (is_late && (n->is_lost || now >= n->leave_ms + AGAIN_MS));
}

static void serve(node *n)
{
    while (!n->is_refused) {
        uint64_t now = tp_node_now_ms();
        if (asked_to_leave && has_left(n, now))
            return;
        if (n->chunks || n->is_lost)
            n->busy_ms = now;
        if (n->idle_ms && now >= n->busy_ms + n->idle_ms && !asked_to_leave) {
            tp_node_say("had nothing to do for %d s", (int)(n->idle_ms / 1000));
            asked_to_leave = 1;
        }
        if (now > n->beat_until_ms)
            n->beat_ms = TP_BEAT_MS;
        tp_node_stay(n);
        look_at_devices(n, now);
        look_whether_stuck(n, now);
        look_at_chunks(n, now);
        tp_chunks_begin(n, now);
        look_at_sessions(n, now);
        for (session *s = n->sessions; s && !n->is_lost; s = s->next)
            tp_far_stores_send(n, s, now);
        tp_chunks_pull(n, now, NULL);
        tp_nats_event *e = tp_node_next_event(
            n, uv_hrtime() + (n->chunks ? EARLY_MS : LOOK_MS) * 1000000ull);
        for (int i = 0; e && i < 64; i++) {
            tp_intake_take(n, e);
            tp_nats_free(&n->nats, e);
            e = i < 63 ? tp_node_next_event(n, 0) : NULL;
        }
    }
}

static void on_signal(int sig)
{
    (void)sig;
    asked_to_leave = asked_to_leave < 2 ? asked_to_leave + 1 : 2;
}

/* Checks that the options name an engine, which a worker needs on any machine. */
static int check_engine(const tp_options *o, tp_error *err)
{
    if (!o->engine)
        return tp_error_set(err, TP_EUSAGE,
                            "says for which engine: --engine nats://HOST:4222, or TIDEPOOL_ENGINE");
    if (!o->token)
        return tp_error_set(err, TP_EUSAGE,
                            "there is no token: TIDEPOOL_TOKEN is to be what `tidepool engine "
                            "token` shows on the engine's machine");
    return 0;
}

/* `id`: its name; "": one by chance */
static int open_node(node *n, const tp_options *o, const char *id, tp_error *err)
{
    if (tp_signer_open(&n->signer, o->token, false, err))
        return -1;
    tp_build_get(&n->build);
    if (*id)
        tp_from_hex(n->id_bytes, id, sizeof n->id_bytes);
    else
        tp_signer_random(&n->signer, n->id_bytes, sizeof n->id_bytes);
    tp_to_hex(n->id, n->id_bytes, sizeof n->id_bytes);
    snprintf(n->inbox, sizeof n->inbox, "%s.%s", n->signer.inbox, n->id);
    if (gethostname(n->host_name, sizeof n->host_name - 1) || !*n->host_name)
        snprintf(n->host_name, sizeof n->host_name, "worker");
    n->slots = n->devices   ? KERNELS * n->devices->n
               : o->workers ? (unsigned)o->workers
                            : tp_cpus();
    n->token = strdup(o->token);
    if (!n->token)
        return tp_error_oom(err, "token");
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, "%s.>", n->inbox);
    return tp_nats_open(&n->nats, err) ||
                   tp_nats_connect(&n->nats, o->engine, n->host_name, &n->signer, err) ||
                   tp_nats_subscribe(&n->nats, subject, err) ||
                   tp_nats_subscribe(&n->nats, TP_SUBJECT_CTL "*", err)
               ? -1
               : 0;
}

/* What the words of `tidepool worker` say that are not options of the host. */
typedef struct words {
    const char *hosts;
    long grace_s, idle_s; /* idle_s 0: it never leaves by itself */
    /* not for users: this is the process of a worker, `parent`, that drives devices, and is called
     * `id`; "": it is not */
    char id[TP_ID_TEXT];
    long parent;
} words;

static int usage(const char *format, const char *what)
{
    fprintf(stderr, "tidepool worker: ");
    fprintf(stderr, format, what);
    fputs("\nusage: tidepool worker --engine URL [-w N] [--hosts A,B,...] [--idle-exit SECONDS] "
          "[--grace SECONDS]   (see tidepool help worker)\n",
          stderr);
    return TP_EXIT_USAGE;
}

/* Is `word` the option `name`, with its value in the same word or in the next? */
static const char *value_of(const char *name, const char *word, const char *next, int *taken)
{
    size_t len = strlen(name);
    if (strncmp(word, name, len) != 0 || (word[len] && word[len] != '='))
        return NULL;
    *taken = word[len] ? 1 : 2;
    return word[len] ? word + len + 1 : next ? next : "nothing";
}

/* 0, or the exit code after saying what is wrong; -1: help was asked for, and given. */
static int read_words(const tp_options *o, words *w)
{
    enum { SECONDS_MAX = 1000000 };
    for (int i = o->script, taken = 1; i < o->argc; i += taken) {
        const char *word = o->argv[i], *next = o->argv[i + 1], *value;
        long *seconds = &w->grace_s;
        if (strcmp(word, "--help") == 0) {
            puts("usage: tidepool worker --engine URL [-w N] [--hosts A,B,...] "
                 "[--idle-exit SECONDS] [--grace SECONDS]   (see tidepool help worker)");
            return -1;
        }
        if ((value = value_of("--hosts", word, next, &taken))) {
            w->hosts = value;
            continue;
        }
        if ((value = value_of("--devices", word, next, &taken))) {
            if (sscanf(value, "%32[0-9a-f].%ld", w->id, &w->parent) != 2 ||
                strlen(w->id) != TP_ID_TEXT - 1)
                return usage("it does not know %.100s", word);
            continue;
        }
        if ((value = value_of("--idle-exit", word, next, &taken)))
            seconds = &w->idle_s;
        else if (!(value = value_of("--grace", word, next, &taken)))
            return usage("it does not know %.100s", word);
        char *end;
        *seconds = *value >= '0' && *value <= '9' ? strtol(value, &end, 10) : -1;
        if (*seconds < 0 || *end || *seconds > SECONDS_MAX)
            return usage(seconds == &w->idle_s ? "--idle-exit is a number of seconds, not %.100s"
                                               : "--grace is a number of seconds, not %.100s",
                         value);
    }
    return 0;
}

int tp_cluster_worker_main(const tp_options *o)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction action = { .sa_handler = on_signal };
    words w = { .grace_s = GRACE_S };
    tp_error err = { 0 };
    int rc = read_words(o, &w);
    if (rc)
        return rc < 0 ? EXIT_SUCCESS : rc;
    signal(SIGPIPE, SIG_IGN);
    rc = check_engine(o, &err);
    if (rc == 0 && w.hosts)
        return tp_hosts_main(o, w.hosts, w.grace_s == GRACE_S ? -1 : w.grace_s, w.idle_s);
    tp_own_devices devices = { 0 };
    if (rc == 0 && *w.id) {
        tp_caches_prepare();
        if (tp_device_process_is_orphan(w.parent) || tp_own_devices_open(&devices, &err))
            return TP_DEVICES_EXIT_NONE;
    }
    node *n = rc ? NULL : calloc(1, sizeof *n);
    if (n && *w.id)
        n->devices = &devices;
    if (!n || open_node(n, o, w.id, &err)) {
        fprintf(stderr, "tidepool worker: %s\n",
                err.code ? err.message : "not enough memory");
        if (n)
            free(n->token);
        free(n);
        return err.code == TP_EUSAGE ? TP_EXIT_USAGE : EXIT_FAILURE;
    }
    n->options = o;
    n->device_process.says = -1;
    n->grace_s = w.grace_s;
    n->grace_ms = (uint64_t)w.grace_s * 1000;
    n->idle_ms = (uint64_t)w.idle_s * 1000;
    n->busy_ms = tp_node_now_ms();
    n->beat_ms = TP_BEAT_MS;
    tp_engine_hide_token(); /* items and their commands must not see it */
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
    if (n->devices)
        tp_node_say("%u device%s for kernels, the first is %s", devices.n,
                    devices.n == 1 ? "" : "s", devices.seen[0].name);
    else
        tp_node_say("ready for work of %s (%u at once)", o->engine, n->slots);
    serve(n);
    tp_device_process_kill(&n->device_process, SIGKILL);
    while (n->sessions)
        tp_session_close(n, n->sessions);
    tp_nats_flush(&n->nats, 1000);
    while (n->later.first)
        tp_nats_free(&n->nats, tp_node_next_event(n, 0));
    tp_nats_close(&n->nats);
    if (n->is_refused)
        tp_node_say("the engine at %s does not let this worker in any more", o->engine);
    const int code = n->is_refused ? EXIT_FAILURE : EXIT_SUCCESS;
    free(n->token);
    free(n);
    tp_cl_close(devices.cl);
    return code;
}
