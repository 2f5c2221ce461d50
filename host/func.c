/* func.c: function identities and images. */
#include "func.h"

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

static void free_image(tp_ref *r)
{
    tp_image *image = (tp_image *)r;
    tp_buf_free(&image->message);
    free(image);
}

static bool is_same(const tp_buf *a, const tp_buf *b)
{
    return a->len == b->len && a->nrefs == b->nrefs && memcmp(a->data, b->data, a->len) == 0 &&
           (a->nrefs == 0 || memcmp(a->refs, b->refs, a->nrefs * sizeof *a->refs) == 0);
}

tp_image *tp_image_new(struct lua_State *L, int index, const char *name, tp_image *last, tp_buf *scratch,
                       tp_error *err)
{
    const char *const names[] = { name, "package.path", "package.cpath" };
    tp_buf_clear(scratch);
    if (tp_encode(L, index, 3, names, 0, scratch, err) < 0)
        return NULL;
    if (last && is_same(&last->message, scratch))
        return tp_ref_hold(last);
    tp_image *image = calloc(1, sizeof *image);
    if (!image) {
        tp_error_oom(err, "function image");
        return NULL;
    }
    tp_ref_init(&image->ref, &tp_image_type);
    image->message = *scratch; /* the image owns it now */
    *scratch = (tp_buf){ 0 };
    return image;
}

const tp_ref_type tp_func_type = { "tidepool.func", free_func };
const tp_ref_type tp_image_type = { "tidepool.image", free_image };
