/* code.c: the functions, plans of kernels and modules of chunks. */
#include "program/cluster/code.h"

#include "base/blake2b.h"
#include "base/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void free_image(image *i)
{
    tp_ref_drop(i->of);
    tp_ref_drop(i->kernel);
    tp_parcel_refs_free(&i->refs);
    *i = (image){ 0 };
}

image *tp_code_find_image(node *n, session *s, const tp_task *task, const uint8_t *bytes,
                         tp_error *err)
{
    image *oldest = NULL;
    for (int k = 0; k < IMAGES; k++) {
        image *one = &s->images[k];
        if (one->of && memcmp(one->digest, task->image, TP_DIGEST_BYTES) == 0) {
            one->used = ++s->used;
            return one;
        }
        if (one->users == 0 && (!oldest || one->used < oldest->used))
            oldest = one;
    }
    uint8_t found[TP_DIGEST_BYTES];
    tp_buf blob = { 0 };
    size_t len = task->image_size;
    if (!oldest || len > TP_PAYLOAD_MAX) {
        tp_error_set(err, TP_ELIMIT, "too many functions at once");
        return NULL;
    }
    tp_blob b = tp_blob_of(task->image, len);
    int rc =
        bytes ? 0 : tp_blob_get(&n->nats, s->hex, &b, &blob, &(tp_between){ tp_node_stay, n }, err);
    tp_blob_free(&b);
    if (rc) {
        tp_buf_free(&blob);
        return NULL;
    }
    bytes = bytes ? bytes : blob.data;
    tp_blake2b_hash(found, sizeof found, bytes, len);
    free_image(oldest);
    if (memcmp(found, task->image, sizeof found) != 0)
        tp_error_set(err, TP_ECODEC, "damaged work");
    else if (tp_parcel_get_image(&oldest->of, &oldest->refs, &s->known, bytes, len, err) == 0) {
        memcpy(oldest->digest, task->image, sizeof oldest->digest);
        oldest->used = ++s->used;
    }
    tp_buf_free(&blob);
    if (!oldest->of) {
        free_image(oldest);
        return NULL;
    }
    return oldest;
}

/* Reads the modules of the task, in place of those that were used longest ago. NULL with err set:
 * they cannot be had. */
static kept_modules *fetch_modules(node *n, session *s, const tp_task *task, tp_error *err)
{
    kept_modules *m = &n->modules[0];
    tp_buf bytes = { 0 };
    for (int i = 1; i < MODULES; i++)
        if (n->modules[i].used < m->used)
            m = &n->modules[i];
    if (task->modules_size > TP_PAYLOAD_MAX) {
        tp_error_set(err, TP_ELIMIT, "too many modules");
        return NULL;
    }
    tp_blob b = tp_blob_of(task->modules, task->modules_size);
    int rc = tp_blob_get(&n->nats, s->hex, &b, &bytes, &(tp_between){ tp_node_stay, n }, err);
    tp_blob_free(&b);
    if (rc) {
        tp_buf_free(&bytes);
        return NULL;
    }
    int fd = tp_memory_file_open("tidepool modules");
    for (size_t at = 0; fd >= 0 && at < bytes.len;) {
        ssize_t done = write(fd, bytes.data + at, bytes.len - at);
        if (done < 0 && errno != EINTR) {
            close(fd);
            fd = -1;
        }
        at += done > 0 ? (size_t)done : 0;
    }
    tp_buf_free(&bytes);
    if (fd < 0) {
        tp_error_oom(err, "modules");
        return NULL;
    }
    if (m->size)
        close(m->fd);
    *m = (kept_modules){ .size = task->modules_size, .fd = fd };
    memcpy(m->digest, task->modules, sizeof m->digest);
    return m;
}

int tp_code_take_modules(node *n, session *s, const tp_task *task, tp_error *err)
{
    kept_modules *m = NULL;
    if (task->modules_size <= s->modules_size)
        return 0;
    for (int i = 0; i < MODULES && !m; i++)
        if (n->modules[i].size == task->modules_size &&
            memcmp(n->modules[i].digest, task->modules, TP_DIGEST_BYTES) == 0)
            m = &n->modules[i];
    m = m ? m : fetch_modules(n, s, task, err);
    if (!m)
        return -1;
    m->used = ++n->modules_used;
    if (dup3(m->fd, s->modules, O_CLOEXEC) < 0)
        return tp_error_set(err, TP_ESYS, "cannot take modules: %s", strerror(errno));
    s->modules_size = m->size;
    return 0;
}

void tp_code_free(session *s)
{
    for (int i = 0; i < IMAGES; i++)
        free_image(&s->images[i]);
}
