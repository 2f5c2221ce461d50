/* failures.c: what failures say, kept for people who watch. Only the first ones between two looks
 * are kept, so that a map of which every item fails pays for a few. */
#include "engine/job_private.h"

#include "base/text.h"
#include "codec/message.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT_MAX = 16 };

/* The engine's lock. */
typedef struct tp_failures {
    unsigned n;
    tp_failure_view kept[KEPT_MAX];
} failures;

int tp_engine_watch_failures(tp_engine *e, bool is_watched, tp_error *err)
{
    failures *kept = is_watched ? calloc(1, sizeof *kept) : NULL;
    if (is_watched && !kept)
        return tp_error_oom(err, "failures");
    uv_mutex_lock(&e->lock);
    failures *old = e->failures;
    e->failures = kept;
    uv_mutex_unlock(&e->lock);
    free(old);
    return 0;
}

unsigned tp_engine_take_failures(tp_engine *e, tp_failure_view *to, unsigned max)
{
    unsigned n = 0;
    uv_mutex_lock(&e->lock);
    if (e->failures) {
        n = e->failures->n < max ? e->failures->n : max;
        memcpy(to, e->failures->kept, n * sizeof *to);
        e->failures->n = 0;
    }
    uv_mutex_unlock(&e->lock);
    return n;
}

/* Copies a field of a failure's message to `to`, cut to `size`; "" when it is no string. */
static void copy_text(const tp_block *b, tp_failure_field field, char *to, size_t size)
{
    const char *text;
    size_t len = 0;
    bool is_text = tp_message_text(b->bytes.data, b->bytes.len, field, &text, &len);
    size_t used = !is_text ? 0 : len < size ? len : size - 1;
    if (used > 0)
        memcpy(to, text, used);
    to[used] = '\0';
    for (size_t i = 0; i < used; i++)
        if (to[i] == '\0')
            to[i] = ' ';
    if (len < size || !is_text)
        return;
    memcpy(to + tp_text_cut(to, size - 4), "...", 4);
}

void tp_engine_keep_failure(tp_engine *e, const tp_slice *s, const tp_block *b, bool is_retried)
{
    failures *f = e->failures;
    TP_ASSERT(tp_engine_is_locked(e));
    if (!f || f->n == KEPT_MAX)
        return;
    tp_failure_view *to = &f->kept[f->n++];
    to->time_ns = uv_hrtime();
    to->job = s->job->terms.number;
    to->item = b->first;
    to->worker = s->agent->worker.id;
    to->attempt = s->work.attempt;
    to->is_retried = is_retried;
    snprintf(to->name, sizeof to->name, "%s", s->job->func->name);
    copy_text(b, TP_FAILURE_KIND, to->kind, sizeof to->kind);
    copy_text(b, TP_FAILURE_MESSAGE, to->message, sizeof to->message);
    copy_text(b, TP_FAILURE_TRACEBACK, to->traceback, sizeof to->traceback);
}
