/* images.c: images and samplers by hand. lua/tidepool/device/images.lua checks what is asked
 * for. */
#include "opencl/images.h"

#include <stdlib.h>

static const size_t nowhere[3]; /* the first place of an image */

/* The type of channels that have such elements; 0: there is none. */
static cl_channel_type channel_type(tp_type type, bool is_normalized)
{
    switch (type) {
    case TP_FLOAT:
        return CL_FLOAT;
    case TP_INT8:
        return is_normalized ? CL_SNORM_INT8 : CL_SIGNED_INT8;
    case TP_UINT8:
        return is_normalized ? CL_UNORM_INT8 : CL_UNSIGNED_INT8;
    case TP_INT16:
        return is_normalized ? CL_SNORM_INT16 : CL_SIGNED_INT16;
    case TP_UINT16:
        return is_normalized ? CL_UNORM_INT16 : CL_UNSIGNED_INT16;
    case TP_INT32:
        return CL_SIGNED_INT32;
    case TP_UINT32:
        return CL_UNSIGNED_INT32;
    default:
        return 0;
    }
}

static bool has_images(const tp_queue *q)
{
    cl_bool it_has = CL_FALSE;
    return q->open.cl->GetDeviceInfo(q->open.device->id, CL_DEVICE_IMAGE_SUPPORT, sizeof it_has,
                                     &it_has, NULL) == CL_SUCCESS &&
           it_has;
}

static cl_image_format format_of(const tp_image_shape *s)
{
    static const cl_channel_order orders[] = { 0, CL_R, CL_RG, 0, CL_RGBA };
    return (cl_image_format){ orders[s->channels], channel_type(s->type, s->is_normalized) };
}

static cl_mem_object_type type_of(const tp_image_shape *s)
{
    static const cl_mem_object_type types[] = { 0, CL_MEM_OBJECT_IMAGE1D, CL_MEM_OBJECT_IMAGE2D,
                                                CL_MEM_OBJECT_IMAGE3D };
    return types[s->dimensions];
}

/* Does the driver say that it has no images with such channels? PoCL calls that an operation which
 * is not valid, as it does an image that is too large. */
static bool lacks_format(const tp_queue *q, const tp_image_shape *s)
{
    enum { FORMATS_MAX = 512 };
    cl_image_format list[FORMATS_MAX], wanted = format_of(s);
    cl_uint n = 0;
    if (q->open.cl->GetSupportedImageFormats(q->open.context, CL_MEM_READ_WRITE, type_of(s),
                                             FORMATS_MAX, list, &n) != CL_SUCCESS)
        return false;
    for (cl_uint i = 0; i < n && i < FORMATS_MAX; i++) {
        if (list[i].image_channel_order == wanted.image_channel_order &&
            list[i].image_channel_data_type == wanted.image_channel_data_type)
            return false;
    }
    return n <= FORMATS_MAX;
}

/* Sets err: why the driver makes no such image. Returns -1. */
static int say_refused(tp_queue *q, const tp_image_shape *s, size_t bytes, cl_int rc,
                       tp_error *err)
{
    const char *name = q->open.device->name;
    if (rc == CL_IMAGE_FORMAT_NOT_SUPPORTED || rc == CL_INVALID_IMAGE_FORMAT_DESCRIPTOR ||
        (rc == CL_INVALID_OPERATION && has_images(q) && lacks_format(q, s)))
        return tp_error_set(err, TP_ESYS,
                            "%s has no images with %u channel%s of that type; four channels are "
                            "what all devices have",
                            name, s->channels, s->channels == 1 ? "" : "s");
    bool is_size = rc == CL_INVALID_IMAGE_SIZE || rc == CL_INVALID_IMAGE_DESCRIPTOR;
    if (!has_images(q) && (is_size || rc == CL_INVALID_OPERATION))
        return tp_error_set(err, TP_ESYS, "%s has no images", name);
    if (is_size || rc == CL_INVALID_OPERATION) /* as PoCL calls it */
        return tp_error_set(err, TP_ESYS, "%s has no images of %zu x %zu x %zu: that is too large",
                            name, s->size[0], s->size[1], s->size[2]);
    return tp_queue_say_short(q, "an image", bytes, "making an image", rc, err);
}

/* What an image is made of. */
typedef struct contents {
    const tp_image_shape *shape;
    const void *data;
} contents;

static cl_mem make_image(tp_queue *q, const void *how, cl_int *rc)
{
    const tp_cl *cl = q->open.cl;
    const contents *c = how;
    const tp_image_shape *s = c->shape;
    cl_image_format format = format_of(s);
    cl_image_desc desc = { .image_type = type_of(s), .image_width = s->size[0],
                           .image_height = s->size[1], .image_depth = s->size[2] };
    cl_mem mem = cl->CreateImage(q->open.context, CL_MEM_READ_WRITE, &format, &desc, NULL, rc);
    if (*rc != CL_SUCCESS)
        return NULL;
    *rc = cl->EnqueueWriteImage(q->queue, mem, CL_TRUE, nowhere, s->size, 0, 0, c->data, 0, NULL,
                                NULL);
    return mem;
}

int tp_buffer_open_image(tp_buffer **out, tp_queue *q, const tp_image_shape *shape,
                         const void *data, tp_error *err)
{
    const tp_open_device *o = &q->open;
    const contents c = { shape, data };
    cl_int rc;
    if (tp_queue_finish(q, err))
        return -1;
    tp_buffer *b = calloc(1, sizeof *b);
    if (!b)
        return tp_error_oom(err, "a device's image");
    tp_ref_init(&b->ref, &tp_buffer_type);
    b->open = *o;
    tp_ref_hold(o->life);
    b->type = shape->type;
    b->size = tp_type_size(shape->type) * shape->channels;
    for (int i = 0; i < 3; i++) {
        b->region[i] = shape->size[i];
        b->size *= shape->size[i];
    }
    b->mem = tp_queue_allocate(q, b->size, make_image, &c, &rc);
    if (rc != CL_SUCCESS) {
        size_t size = b->size;
        tp_ref_drop(b);
        return say_refused(q, shape, size, rc, err);
    }
    *out = b;
    return 0;
}

int tp_buffer_read_image(tp_queue *q, tp_buffer *b, void *to, tp_error *err)
{
    if (tp_buffer_check_life(b, err) || tp_queue_finish(q, err))
        return -1;
    cl_int rc = q->open.cl->EnqueueReadImage(q->queue, b->mem, CL_TRUE, nowhere, b->region, 0, 0,
                                             to, 0, NULL, NULL);
    if (rc != CL_SUCCESS)
        return tp_queue_fail(q, "reading an image", rc, err);
    tp_make_canonical(b->type, to, b->size / tp_type_size(b->type));
    return 0;
}

int tp_buffer_write_image(tp_queue *q, tp_buffer *b, const void *from, tp_error *err)
{
    if (tp_buffer_check_life(b, err) || tp_queue_finish(q, err))
        return -1;
    cl_int rc = q->open.cl->EnqueueWriteImage(q->queue, b->mem, CL_TRUE, nowhere, b->region, 0, 0,
                                              from, 0, NULL, NULL);
    return rc == CL_SUCCESS ? 0 : tp_queue_fail(q, "writing an image", rc, err);
}

int tp_queue_sampler(tp_queue *q, const tp_sampling *how, cl_sampler *out, tp_error *err)
{
    _Static_assert(CL_ADDRESS_MIRRORED_REPEAT == CL_ADDRESS_NONE + 4, "five ways to address");
    unsigned i = (how->address - CL_ADDRESS_NONE) * 4 + (how->filter == CL_FILTER_LINEAR) * 2 +
                 how->is_normalized;
    cl_int rc = CL_SUCCESS;
    if (!q->samplers[i]) {
        cl_sampler made = q->open.cl->CreateSampler(q->open.context, how->is_normalized,
                                                    how->address, how->filter, &rc);
        if (rc == CL_INVALID_OPERATION)
            return tp_error_set(err, TP_ESYS, "%s has no images", q->open.device->name);
        if (rc != CL_SUCCESS)
            return tp_queue_fail(q, "making a sampler", rc, err);
        q->samplers[i] = made;
    }
    *out = q->samplers[i];
    return 0;
}
