/* func.c: function identities and images. */
#include "engine/func.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void free_func(tp_ref *r)
{
    tp_func *f = (tp_func *)r;
    free(f->name);
    free(f);
}

tp_func *tp_func_new(const char *name, unsigned limit)
{
    tp_func *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    tp_ref_init(&f->ref, &tp_func_type);
    f->name = strdup(name);
    f->limit = limit;
    if (!f->name) {
        free(f);
        return NULL;
    }
    return f;
}

void tp_func_count(tp_func *f, uint32_t n, double ns)
{
    tp_durations *d = &f->durations;
    uint64_t whole = ns < 0x1p52 ? (uint64_t)ns : (uint64_t)1 << 52;
    unsigned at = (unsigned)whole;
    if (whole >= TP_DURATION_PARTS) {
        unsigned exponent = 63 - (unsigned)__builtin_clzll(whole);
        at = (exponent - 2) * TP_DURATION_PARTS +
             (unsigned)(whole >> (exponent - 3) & (TP_DURATION_PARTS - 1));
    }
    d->n[at < TP_DURATIONS ? at : TP_DURATIONS - 1] += n;
    d->count += n;
    d->total_ns += ns * n;
    if (ns > d->max_ns)
        d->max_ns = ns;
}

double tp_durations_quantile(const tp_durations *d, double share)
{
    uint64_t wanted = (uint64_t)ceil(share * (double)d->count), seen = 0;
    unsigned at = 0;
    if (d->count == 0)
        return 0;
    while (at < TP_DURATIONS - 1 && seen + d->n[at] < wanted)
        seen += d->n[at++];
    double least = at, width = 1;
    if (at >= TP_DURATION_PARTS) {
        width = ldexp(1, (int)(at / TP_DURATION_PARTS) - 1);
        least = (TP_DURATION_PARTS + at % TP_DURATION_PARTS) * width;
    }
    return fmin(least + width / 2, d->max_ns);
}

static void free_image(tp_ref *r)
{
    tp_image *image = (tp_image *)r;
    tp_buf_free(&image->message);
    free(image);
}

int tp_image_encode(struct lua_State *L, int index, const char *name, int tables, unsigned flags,
                    tp_buf *message, tp_error *err)
{
    const char *const names[] = { name, "package.path", "package.cpath", "setup" };
    tp_buf_clear(message);
    return tp_encode_image(L, index, 4, names, tables, flags, message, err);
}

bool tp_image_outline(struct lua_State *L, int index, int tables, unsigned flags, tp_buf *outline)
{
    tp_buf_clear(outline);
    return tp_encode_outline(L, index, 4, tables, flags, outline);
}

bool tp_image_is(const tp_image *image, const tp_buf *message)
{
    const tp_buf *m = &image->message;
    return m->len == message->len && m->nrefs == message->nrefs &&
           memcmp(m->data, message->data, m->len) == 0 &&
           (m->nrefs == 0 || memcmp(m->refs, message->refs, m->nrefs * sizeof *m->refs) == 0);
}

tp_image *tp_image_new(tp_buf *message)
{
    tp_image *image = calloc(1, sizeof *image);
    if (!image)
        return NULL;
    tp_ref_init(&image->ref, &tp_image_type);
    image->message = *message;
    *message = (tp_buf){ 0 };
    return image;
}

const tp_ref_type tp_func_type = { "tidepool.func", free_func };
const tp_ref_type tp_image_type = { "tidepool.image", free_image };
