/* node.c: what the rest of a cluster's worker stands on: signs of life, events, the list of
 * chunks. */
#include "program/cluster/node.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tp_node_say(const char *format, ...)
{
    char text[800];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "tidepool worker: %s\n", text);
}

chunk *tp_node_find_chunk(const node *n, const session *s, uint64_t number)
{
    chunk *k = n->chunks;
    while (k && (k->session != s || k->number != number || k->state == OVER))
        k = k->next;
    return k;
}

void tp_node_stop(chunk *k)
{
    if (k->job)
        tp_job_close(k->job);
    k->job = NULL;
    if (k->image)
        k->image->users--;
    k->image = NULL;
    tp_groups_close(&k->groups);
    tp_parcel_refs_free(&k->refs);
}

static void free_chunk(chunk *k)
{
    tp_node_stop(k);
    tp_buf_free(&k->message);
    tp_buf_free(&k->payload);
    tp_buf_free(&k->records);
    tp_buf_free(&k->values);
    tp_buf_free(&k->ticket);
    tp_buf_free(&k->happened);
    free(k);
}

void tp_node_forget(node *n, chunk *k)
{
    chunk **at = &n->chunks;
    while (*at != k)
        at = &(*at)->next;
    *at = k->next;
    free_chunk(k);
}

void tp_node_acknowledge_at(node *n, const char *ack, const char *how)
{
    if (*ack)
        tp_nats_publish(&n->nats, ack, NULL, how, strlen(how));
}

void tp_node_acknowledge(node *n, const chunk *k, const char *how)
{
    tp_node_acknowledge_at(n, k->ack, how);
}

static void show_self(node *n, uint64_t now)
{
    char subject[TP_SUBJECT_MAX], text[400];
    tp_buf all = { 0 };
    if (now < n->heartbeat_ms)
        return;
    n->heartbeat_ms = now + n->beat_ms;
    snprintf(subject, sizeof subject, TP_SUBJECT_HB "%s", n->id);
    int len = snprintf(text, sizeof text, "%s %u %s %s %u %s", n->build.hex,
                       n->is_leaving ? 0u : n->slots, n->host_name, n->inbox,
                       (unsigned)n->beat_ms, n->build.text);
    if (tp_buf_add(&all, text, (size_t)len) == 0 &&
        (!n->devices || tp_own_devices_tell(n->devices, &all) == 0))
        tp_nats_publish(&n->nats, subject, NULL, all.data, all.len);
    tp_buf_free(&all);
}

void tp_node_add_name(const node *n, const chunk *k, tp_buf *text)
{
    char line[TP_SUBJECT_MAX + 400];
    tp_job_state now = { 0 };
    bool is_running = k->state == RUNNING && k->job;
    if (is_running)
        tp_job_get_state(k->job, &now);
    uint64_t item = is_running ? tp_job_terms(k->job)->base + now.oldest : 0,
             ms = now.since_ns ? 1 + (uv_hrtime() - now.since_ns) / 1000000 : 0;
    const int waits = k == n->compiles ? 2 : is_running && tp_job_is_stuck(k->job);
    for (char *c = now.inside; *c; c++)
        *c = (unsigned char)*c < ' ' ? '?' : *c;
    int len = snprintf(line, sizeof line, "%llu %u %d %s %llu %llu %u %llu %llu %s\n%s%s%s",
                       (unsigned long long)k->number, k->sending,
                       waits, n->id, (unsigned long long)item,
                       (unsigned long long)ms, now.maps, (unsigned long long)now.inside_done,
                       (unsigned long long)now.inside_total, *k->ack ? k->ack : "-",
                       now.maps ? "in " : "", now.maps ? now.inside : "", now.maps ? "\n" : "");
    tp_buf_add(text, line, (size_t)len); /* without memory for the line it is named the next time */
}

void tp_node_send_names(node *n, const session *s, tp_buf *text)
{
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.held", s->hex);
    if (text->len)
        tp_nats_publish(&n->nats, subject, NULL, text->data, text->len);
    tp_buf_free(text);
}

/* Tells the coordinators which of their chunks are here, so that they notice when this process is
 * dead. */
static void name_chunks(node *n, uint64_t now)
{
    if (now < n->held_ms)
        return;
    n->held_ms = now + n->beat_ms;
    for (session *s = n->sessions; s; s = s->next) {
        tp_buf text = { 0 };
        for (chunk *k = n->chunks; k; k = k->next)
            if (k->session == s && (k->state == RUNNING || k->state == ANSWERED))
                tp_node_add_name(n, k, &text);
        tp_node_send_names(n, s, &text);
    }
}

void tp_node_stay(void *user)
{
    node *n = user;
    uint64_t now = tp_node_now_ms();
    show_self(n, now);
    name_chunks(n, now);
    if (n->devices && n->chunks && now >= n->told_ms + LOOK_MS) {
        tp_device_process_tell_busy();
        n->told_ms = now;
    }
    for (chunk *k = n->chunks; k; k = k->next)
        if (now >= k->progress_ms && k->state != OVER) {
            tp_node_acknowledge(n, k, "+WPI");
            k->progress_ms = now + PROGRESS_MS;
        }
}

void tp_node_hear(void *user)
{
    node *n = user;
    tp_node_stay(n);
    for (tp_nats_event *e; (e = tp_nats_take(&n->nats, 0));)
        tp_nats_events_add(&n->later, e);
}

tp_nats_event *tp_node_next_event(node *n, uint64_t deadline_ns)
{
    tp_nats_event *e = tp_nats_events_next(&n->later);
    return e ? e : tp_nats_take(&n->nats, deadline_ns);
}
