/* plan.c: see plan.h. */
#include "opencl/plan.h"

#include <stdlib.h>
#include <string.h>

/* The kernel's own fields, before its arguments, types, failures and texts. */
typedef struct head {
    uint32_t n_arguments, n_inputs, n_outputs, n_failures, group;
    int32_t detail;
    uint32_t details;
    uint8_t is_writer, has_rows, is_foreign, needs_double, has_where;
} head;

/* ---- writing ---- */

static int put(tp_buf *out, const void *bytes, size_t n, tp_error *err)
{
    return n && tp_buf_add(out, bytes, n) ? tp_error_oom(err, "a kernel") : 0;
}

/* A text, with its NUL. */
static int put_text(tp_buf *out, const char *text, tp_error *err)
{
    text = text ? text : "";
    return put(out, text, strlen(text) + 1, err);
}

static int put_argument(tp_buf *out, const tp_argument *a, tp_error *err)
{
    tp_argument plain = *a;
    plain.array = NULL;
    plain.data = NULL;
    int rc = put(out, &plain, sizeof plain, err);
    return rc || a->kind != TP_ARG_ARRAY ? rc : put(out, a->data, a->size, err);
}

static int put_failure(tp_buf *out, const tp_device_failure *f, tp_error *err)
{
    tp_device_failure plain = *f;
    const uint8_t has_inside = f->inside != NULL;
    plain.format = plain.inside = NULL;
    return put(out, &plain, sizeof plain, err) || put(out, &has_inside, 1, err) ||
                   put_text(out, f->format, err) || put_text(out, f->inside, err)
               ? -1
               : 0;
}

int tp_plan_put(const tp_plan *plan, tp_buf *out, tp_error *err)
{
    const tp_kernel *k = plan->kernel;
    head h;
    memset(&h, 0, sizeof h); /* equal plans have equal bytes */
    h.n_arguments = k->n_arguments;
    h.n_inputs = k->n_inputs;
    h.n_outputs = k->n_outputs;
    h.n_failures = k->n_failures;
    h.group = k->group;
    h.detail = k->detail;
    h.details = k->details;
    h.is_writer = k->is_writer;
    h.has_rows = k->has_rows;
    h.is_foreign = k->is_foreign;
    h.needs_double = plan->needs_double;
    h.has_where = k->where != NULL;
    int rc = put(out, &h, sizeof h, err);
    rc = rc ? rc : put(out, k->input_type, k->n_inputs * sizeof *k->input_type, err);
    rc = rc ? rc : put(out, k->output_type, k->n_outputs * sizeof *k->output_type, err);
    rc = rc ? rc : put(out, k->takes_boolean, k->n_inputs * sizeof *k->takes_boolean, err);
    rc = rc ? rc : put(out, k->is_boolean, k->n_outputs * sizeof *k->is_boolean, err);
    for (unsigned i = 0; rc == 0 && i < k->n_arguments; i++)
        rc = put_argument(out, &k->arguments[i], err);
    for (unsigned i = 0; rc == 0 && i < k->n_failures; i++)
        rc = put_failure(out, &k->failures[i], err);
    const char *const texts[] = { k->where,     plan->devices, plan->name,
                                  plan->source, plan->options, plan->entry };
    for (size_t i = 0; rc == 0 && i < sizeof texts / sizeof *texts; i++)
        rc = put_text(out, texts[i], err);
    return rc;
}

/* ---- reading ---- */

typedef struct cursor {
    const uint8_t *p, *end;
    tp_error *err;
} cursor;

static int damaged(cursor *c)
{
    return tp_error_set(c->err, TP_ECODEC, "a damaged kernel");
}

static int get(cursor *c, void *to, size_t n)
{
    if (n > (size_t)(c->end - c->p))
        return damaged(c);
    memcpy(to, c->p, n);
    c->p += n;
    return 0;
}

/* NULL with err set: there is no whole text. */
static const char *get_text(cursor *c)
{
    const char *text = (const char *)c->p;
    const uint8_t *nul = c->p < c->end ? memchr(c->p, '\0', (size_t)(c->end - c->p)) : NULL;
    if (!nul) {
        damaged(c);
        return NULL;
    }
    c->p = nul + 1;
    return text;
}

static int copy_text(cursor *c, char **to)
{
    const char *text = get_text(c);
    if (text && !(*to = strdup(text)))
        return tp_error_oom(c->err, "a kernel");
    return text ? 0 : -1;
}

static int get_argument(cursor *c, tp_kernel *k, tp_array_pool *pool)
{
    tp_argument *a = &k->arguments[k->n_arguments];
    tp_argument plain;
    if (get(c, &plain, sizeof plain))
        return -1;
    const unsigned columns = plain.kind == TP_ARG_INPUT ? k->n_inputs
                             : plain.kind == TP_ARG_OUTPUT ? k->n_outputs
                             : plain.kind == TP_ARG_KEY    ? 2
                                                           : UINT32_MAX;
    if (plain.kind > TP_ARG_DETAILS || (columns < UINT32_MAX && plain.index >= columns) ||
        (plain.kind == TP_ARG_VALUE && plain.size > sizeof plain.value) ||
        (plain.kind == TP_ARG_DETAILS && plain.index - 1 >= TP_DETAILS_MAX))
        return damaged(c);
    *a = plain;
    a->array = NULL;
    a->data = NULL;
    k->n_arguments++;
    if (a->kind == TP_ARG_DETAILS) {
        k->details = a->type;
        k->n_details = a->index;
    }
    if (a->kind != TP_ARG_ARRAY)
        return 0;
    if (a->size > (size_t)(c->end - c->p))
        return damaged(c);
    if (!(a->array = tp_array_new(pool, a->size, false)))
        return tp_error_oom(c->err, "a captured array");
    a->data = a->array->data;
    return get(c, a->data, a->size);
}

static int get_failure(cursor *c, tp_kernel *k)
{
    tp_device_failure *f = &k->failures[k->n_failures];
    uint8_t has_inside = 0;
    if (get(c, f, sizeof *f) || get(c, &has_inside, 1))
        return -1;
    f->format = f->inside = NULL;
    k->n_failures++;
    if (copy_text(c, &f->format) || copy_text(c, &f->inside))
        return -1;
    if (!has_inside) {
        free(f->inside);
        f->inside = NULL;
    }
    return 0;
}

static int get_kernel(cursor *c, tp_plan *plan, tp_array_pool *pool)
{
    tp_kernel *k = plan->kernel;
    head h;
    if (get(c, &h, sizeof h))
        return -1;
    if (h.n_arguments > TP_ARGUMENTS_MAX || h.n_inputs > TP_KERNEL_COLUMNS_MAX ||
        h.n_outputs > TP_KERNEL_COLUMNS_MAX || h.n_failures > TP_FAILURES_MAX ||
        h.detail >= (int32_t)h.n_outputs)
        return damaged(c);
    k->n_inputs = h.n_inputs;
    k->n_outputs = h.n_outputs;
    k->group = h.group;
    k->detail = h.detail;
    k->details = (tp_type)h.details;
    k->is_writer = h.is_writer;
    k->has_rows = h.has_rows;
    k->is_foreign = h.is_foreign;
    plan->needs_double = h.needs_double;
    int rc = get(c, k->input_type, k->n_inputs * sizeof *k->input_type);
    rc = rc ? rc : get(c, k->output_type, k->n_outputs * sizeof *k->output_type);
    rc = rc ? rc : get(c, k->takes_boolean, k->n_inputs * sizeof *k->takes_boolean);
    rc = rc ? rc : get(c, k->is_boolean, k->n_outputs * sizeof *k->is_boolean);
    for (uint32_t i = 0; rc == 0 && i < h.n_arguments; i++)
        rc = get_argument(c, k, pool);
    for (uint32_t i = 0; rc == 0 && i < h.n_failures; i++)
        rc = get_failure(c, k);
    rc = rc ? rc : copy_text(c, &k->where);
    if (rc == 0 && !h.has_where) {
        free(k->where);
        k->where = NULL;
    }
    return rc;
}

int tp_plan_get(tp_plan *plan, tp_array_pool *pool, const uint8_t *bytes, size_t len, tp_error *err)
{
    cursor c = { bytes, bytes + len, err };
    *plan = (tp_plan){ .kernel = tp_kernel_new() };
    if (!plan->kernel)
        return tp_error_oom(err, "a kernel");
    const char **const texts[] = { &plan->devices, &plan->name, &plan->source, &plan->options,
                                   &plan->entry };
    int rc = get_kernel(&c, plan, pool);
    for (size_t i = 0; rc == 0 && i < sizeof texts / sizeof *texts; i++)
        rc = (*texts[i] = get_text(&c)) ? 0 : -1;
    if (rc) {
        tp_ref_drop(plan->kernel);
        plan->kernel = NULL;
    }
    return rc;
}
