/* func.c: function identities and images. */
#include "engine/func.h"

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
