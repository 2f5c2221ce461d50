/* bundle.c: Lua modules as bytes. See bundle.h. */
#include "base/bundle.h"

#include <string.h>

typedef struct head {
    uint32_t name, path;
    uint64_t size;
} head;

int tp_bundle_open(tp_bundle *b)
{
    b->bytes = (tp_buf){ 0 };
    return uv_mutex_init(&b->lock) ? -1 : 0;
}

void tp_bundle_close(tp_bundle *b)
{
    uv_mutex_destroy(&b->lock);
    tp_buf_free(&b->bytes);
}

int tp_bundle_add(tp_bundle *b, const char *name, const char *path, const char *source,
                  size_t size)
{
    head h = { (uint32_t)strlen(name) + 1, (uint32_t)strlen(path) + 1, size };
    uv_mutex_lock(&b->lock);
    size_t before = b->bytes.len;
    int rc = tp_buf_add(&b->bytes, &h, sizeof h) || tp_buf_add(&b->bytes, name, h.name) ||
                     tp_buf_add(&b->bytes, path, h.path) ||
                     (size && tp_buf_add(&b->bytes, source, size))
                 ? -1
                 : 0;
    if (rc)
        b->bytes.len = before;
    uv_mutex_unlock(&b->lock);
    return rc;
}

int tp_bundle_copy(tp_bundle *b, size_t len, tp_buf *out)
{
    uv_mutex_lock(&b->lock);
    int rc = b->bytes.len > len ? 1 : 0;
    tp_buf_clear(out);
    if (rc && tp_buf_add(out, b->bytes.data, b->bytes.len))
        rc = -1;
    uv_mutex_unlock(&b->lock);
    return rc;
}

bool tp_bundle_find(const char *bytes, size_t len, const char *name, const char **path,
                    const char **source, size_t *size)
{
    const char *p = bytes, *end = bytes + len;
    while ((size_t)(end - p) >= sizeof(head)) {
        head h;
        memcpy(&h, p, sizeof h);
        p += sizeof h;
        size_t left = (size_t)(end - p);
        if (h.name == 0 || h.path == 0 || h.name > left || h.path > left - h.name ||
            h.size > left - h.name - h.path || p[h.name - 1] || p[h.name + h.path - 1])
            return false;
        if (strcmp(p, name) == 0) {
            *path = p + h.name;
            *source = p + h.name + h.path;
            *size = h.size;
            return true;
        }
        p += h.name + h.path + h.size;
    }
    return false;
}
