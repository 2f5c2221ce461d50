/* images.h: images and samplers for a Lua function that drives a device by hand. (A tp_image is
 * another thing: the image of a job.)
 *
 * An image is a tp_buffer whose memory the device lays out as it likes. Kernels take it as they
 * take buffers; its elements are read and written all at once. */
#ifndef TP_IMAGES_H
#define TP_IMAGES_H

#include "opencl/device.h"

/* Its elements lie plane after plane, row after row, with all channels of one place beside each
 * other. */
typedef struct tp_image_shape {
    unsigned dimensions; /* 1 to 3 */
    size_t size[3];      /* columns, rows, planes; 1 of those that it does not have */
    unsigned channels;   /* 1, 2 or 4 */
    tp_type type;        /* of an element */
    bool is_normalized;  /* kernels see integers as numbers from 0, or -1, to 1 */
} tp_image_shape;

/* Makes an image with the elements at `data`. */
int tp_buffer_open_image(tp_buffer **out, tp_queue *q, const tp_image_shape *shape,
                         const void *data, tp_error *err);

/* Copy all elements to `to`, or from `from`, after the queue's commands have run. NaNs that are
 * read are made canonical. Both block. */
int tp_buffer_read_image(tp_queue *q, tp_buffer *b, void *to, tp_error *err);
int tp_buffer_write_image(tp_queue *q, tp_buffer *b, const void *from, tp_error *err);

/* How a kernel reads between and beyond the places of an image. */
typedef struct tp_sampling {
    bool is_normalized; /* places are numbers from 0 to 1 */
    cl_addressing_mode address;
    cl_filter_mode filter;
} tp_sampling;

/* A sampler, which the queue keeps as long as it is there. */
int tp_queue_sampler(tp_queue *q, const tp_sampling *how, cl_sampler *out, tp_error *err);

#endif
