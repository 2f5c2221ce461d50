/* slices.c: slices of jobs on a device: makes launches of their items, and results of what the
 * launches give.
 *
 * A launch takes and gives columns of numbers, with a byte per element that says whether it failed.
 * Columns of a job that already have the kernel's form are used where they lie, even in users'
 * arrays; others are converted in the runner's own columns. No Lua runs here. */
#include "opencl/slices.h"

#include "codec/message.h"
#include "engine/exec.h"
#include "runtime/runtime.h"

#include <ctype.h>
#include <fenv.h>
#include <math.h>
#include <sched.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PART_MAX = 1 << 24, /* items per launch */
    PART_MIN = 1 << 12,
    /* How long a map waits for its caller to call sum() or the like on it, which happens at once or
     * not at all. */
    DECIDE_NS = 100 * 1000,
    STUCK_NS = 1000 * 1000 * 1000 /* how long a device is waited for that runs what was given up */
};

/* ---- kernels ---- */

static void free_kernels(tp_ref *ref)
{
    tp_kernels *k = (tp_kernels *)ref;
    tp_kernels_end(k);
    tp_ref_drop(k->func);
    tp_ref_drop(k->kernel);
    tp_ref_drop(atomic_load_explicit(&k->reducer, memory_order_relaxed));
    free(k);
}

const tp_ref_type tp_kernels_type = { "tidepool.kernels", free_kernels };

tp_kernels *tp_kernels_new(tp_host *host, tp_func *func, tp_kernel *kernel,
                           tp_asks_stuck *is_stuck)
{
    tp_kernels *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    tp_ref_init(&k->ref, &tp_kernels_type);
    k->host = host;
    k->is_stuck = is_stuck;
    k->func = tp_ref_hold(func);
    k->kernel = tp_ref_hold(kernel);
    return k;
}

void tp_kernels_set_reducer(tp_kernels *k, tp_kernel *reducer)
{
    if (!atomic_load_explicit(&k->reducer, memory_order_relaxed))
        atomic_store_explicit(&k->reducer, tp_ref_hold(reducer), memory_order_release);
}

static void set_told(tp_kernels *k)
{
    atomic_store_explicit(&k->has_told, true, memory_order_relaxed);
}

/* -1 with err set when a device cannot give it: it is no longer missed then. */
static int bring_home(const tp_kernels *k, tp_error *err)
{
    if (!k->kernel->is_writer || tp_launch_bring_home(NULL, k->kernel, err) == 0)
        return 0;
    tp_launch_forget_lost(k->kernel);
    return -1;
}

bool tp_kernels_have_told(const tp_kernels *k)
{
    return atomic_load_explicit(&k->has_told, memory_order_relaxed);
}

int tp_kernels_bring_home(tp_kernels *k, tp_error *err)
{
    int rc = bring_home(k, err);
    if (rc)
        set_told(k);
    return rc;
}

/* -1 with err set when what is ahead cannot come home. */
static int fetch_written(tp_kernels *k, tp_error *err)
{
    tp_executor *ex = tp_host_executor_that(k->host, TP_RUNS_KERNELS);
    const uint64_t ahead = tp_launch_ahead(k->kernel);
    for (unsigned d = 0; d < TP_DEVICES_MAX; d++)
        if (ahead >> d & 1 && k->is_stuck(ex, d, STUCK_NS)) /* its queue would not end */
            return tp_error_set(err, TP_ESYS,
                                "what it has written to arrays stays on a device that still runs a "
                                "map or a kernel that was given up");
    return bring_home(k, err);
}

void tp_kernels_end(tp_kernels *k)
{
    tp_error err = { 0 };
    char line[600];
    /* in a child after fork no device works */
    if (!k->kernel->is_writer || !tp_host_is_usable(k->host) || fetch_written(k, &err) == 0 ||
        atomic_exchange_explicit(&k->has_told, true, memory_order_relaxed))
        return;
    snprintf(line, sizeof line, "tidepool: %.100s: %.480s\n", k->func->name, err.message);
    tp_host_print(k->host, 2, line, strlen(line));
}

int tp_kernels_want_results(tp_kernels *k, const tp_returns *returns, const tp_mover *mover,
                            tp_error *err)
{
    if (atomic_load_explicit(&k->stays, memory_order_relaxed))
        atomic_store_explicit(&k->stays, false, memory_order_relaxed);
    for (uint32_t c = 0; c < returns->columns; c++)
        if (returns->array[c] && tp_copies_bring_array_home(returns->array[c], mover, err))
            return -1;
    return 0;
}

/* ---- columns ---- */

/* Makes room for `size` bytes, page-aligned. -1 when out of memory. */
static int reserve(tp_staging *s, size_t size)
{
    s->wanted = s->wanted > size ? s->wanted : size;
    if (size <= s->capacity)
        return 0;
    size_t capacity = (size + size / 2 + 4095) / 4096 * 4096;
    void *data = aligned_alloc(4096, capacity);
    if (!data)
        return -1;
    free(s->data);
    s->data = data;
    s->capacity = capacity;
    return 0;
}

static void *element(tp_type type, const void *column, size_t at)
{
    return (char *)column + at * tp_type_size(type);
}

/* Stores a number as LuaJIT does on x86: fractions are cut off; what does not fit into an int32
 * becomes -2^31, and narrower types get the low bits of that; a uint32 is the low half of an
 * int64. */
static void store(tp_type type, void *column, size_t at, double x)
{
    const double end = 9223372036854775808.0; /* 2^63 */
    if (type == TP_UINT64 && !(x > -1 && x < end))
        x -= 2 * end;
    int64_t i = x >= -end && x < end ? (int64_t)x : INT64_MIN;
    if (type <= TP_INT32 && (i < INT32_MIN || i > INT32_MAX))
        i = INT32_MIN;
    switch (type) {
    case TP_DOUBLE: ((double *)column)[at] = x; break;
    case TP_FLOAT: ((float *)column)[at] = (float)x; break;
    case TP_INT8: case TP_UINT8: ((uint8_t *)column)[at] = (uint8_t)i; break;
    case TP_INT16: case TP_UINT16: ((uint16_t *)column)[at] = (uint16_t)i; break;
    case TP_INT32: case TP_UINT32: ((uint32_t *)column)[at] = (uint32_t)i; break;
    case TP_INT64: ((int64_t *)column)[at] = i; break;
    default: ((uint64_t *)column)[at] = (uint64_t)i;
    }
}

/* Double to float is the common case, and has a loop of its own. */
static void convert(tp_type to_type, void *to, tp_type from_type, const void *from, size_t n)
{
    if (to_type == TP_FLOAT && from_type == TP_DOUBLE) {
        for (size_t i = 0; i < n; i++)
            ((float *)to)[i] = (float)((const double *)from)[i];
        return;
    }
    for (size_t i = 0; i < n; i++)
        store(to_type, to, i, tp_element_load(from_type, from, i));
}

/* ---- arrays ---- */

/* The array that column c of the block lies in; NULL: it lies elsewhere. */
static tp_array *array_of(const tp_block *b, unsigned c)
{
    const char *column = b->column[c];
    for (size_t i = 0; i < b->bytes.nrefs; i++) {
        tp_array *a = (tp_array *)(void *)b->bytes.refs[i];
        const char *start = a->ref.type == &tp_array_type ? a->data : NULL;
        if (start && column >= start && column < start + a->size)
            return a;
    }
    return NULL;
}

/* Brings n items' inputs from w->at on to where the host sees them. */
static int bring_inputs_home(const tp_work *w, uint32_t n, tp_error *err)
{
    const tp_block *b = w->block;
    for (uint32_t c = 0; b->kind == TP_BLOCK_COLUMNS && c < b->columns; c++)
        if (array_of(b, c) && tp_copies_bring_part_home(array_of(b, c),
                                                        element(b->type[c], b->column[c], w->at),
                                                        n * tp_type_size(b->type[c]), NULL, err))
            return -1;
    return 0;
}

/* ---- failures ---- */

/* Makes this failure the result of the next item (tp_work_fail); `has_input`: what the host sees of
 * the item's input is what that is. */
static void fail_item(tp_work *w, tp_failure_kind kind, const char *message, bool has_input)
{
    tp_block *b = tp_block_new_failure(kind, message, w->attempt, w->worker->index);
    if (b) {
        b->may_retry = kind == TP_KIND_ERROR;
        b->hides_input = !has_input;
    }
    tp_work_fail(w, b);
}

/* The same for n items. Failures have their inputs; those that a device cannot give are not
 * known. */
static void fail_items(tp_work *w, uint32_t n, tp_failure_kind kind, const char *message)
{
    tp_error ignored = { 0 };
    bool has_inputs = bring_inputs_home(w, n, &ignored) == 0;
    for (uint32_t i = 0; i < n; i++)
        fail_item(w, kind, message, has_inputs);
}

/* ---- results ---- */

/* What a launch writes to, and which results are made of it. */
typedef struct output {
    const tp_returns *returns; /* NULL: nothing is promised */
    bool is_discarded;
    tp_block *numbers; /* a block for the results, when they are numbers and no array takes them */
    void *column[TP_KERNEL_COLUMNS_MAX];
    tp_array *array[TP_KERNEL_COLUMNS_MAX]; /* that it lies in, or NULL */
    uint32_t n;
    const void *details; /* see tp_kernel */
} output;

/* For loops that retry an allocation: sleeps a little when b is NULL, since a worker must wait for
 * memory to report a result. Returns b. */
static tp_block *wait_for(tp_block *b)
{
    if (!b)
        uv_sleep(1);
    return b;
}

static int open_output(tp_slice_runner *r, output *o, tp_work *w, const tp_kernel *k, uint32_t n)
{
    const tp_returns *returns = &w->terms->returns;
    *o = (output){ .n = n,
                   .is_discarded = w->terms->discards,
                   .returns = returns->columns ? returns : NULL };
    bool is_array = o->returns && returns->array[0] && !o->is_discarded;
    bool is_number = k->n_outputs == 1 && k->output_type[0] == TP_DOUBLE &&
                     w->block->kind == TP_BLOCK_COLUMNS;
    if (!o->is_discarded && !is_array && (o->returns || is_number)) {
        while (!(o->numbers = wait_for(tp_block_new_columns(n, k->n_outputs, NULL, 0))))
            ;
        o->numbers->n = n;
    }
    for (unsigned c = 0; c < k->n_outputs; c++) {
        tp_type type = k->output_type[c];
        if (is_array) {
            size_t first = (size_t)(w->block->first + w->at);
            o->array[c] = returns->array[c];
            o->column[c] = element(type, returns->array[c]->data, first);
        } else if (o->numbers) {
            o->numbers->type[c] = (uint8_t)type;
            o->column[c] = o->numbers->column[c];
        } else {
            if (reserve(&r->output[c], n * tp_type_size(type)))
                return -1;
            o->column[c] = r->output[c].data;
        }
    }
    return 0;
}

/* Makes a block of the n results from element `at` of the output on. */
static tp_block *new_results(const output *o, const tp_kernel *k, uint32_t at, uint32_t n)
{
    tp_block *b;
    if (o->is_discarded) {
        while (!(b = wait_for(tp_block_new_empty(TP_BLOCK_DONE, 0, n))))
            ;
    } else if (o->numbers) {
        while (!(b = wait_for(tp_block_new_columns(n, k->n_outputs, NULL, 0))))
            ;
        b->n = n;
        for (unsigned c = 0; c < k->n_outputs; c++) {
            b->type[c] = o->numbers->type[c];
            memcpy(b->column[c], element(k->output_type[c], o->column[c], at),
                   n * tp_type_size(k->output_type[c]));
        }
    } else if (o->returns) {
        while (!(b = wait_for(tp_block_new_borrowed(0, n, k->n_outputs))))
            ;
        for (unsigned c = 0; c < k->n_outputs; c++) {
            b->type[c] = (uint8_t)k->output_type[c];
            b->column[c] = element(k->output_type[c], o->column[c], at);
        }
    } else {
        while (!(b = wait_for(tp_block_new_values(TP_BLOCK_VALUES))))
            ;
        for (uint32_t i = at; i < at + n; i++) {
            while (tp_block_reserve(b) || tp_encode_elements(&b->bytes, o->column, k->output_type,
                                                             k->is_boolean, k->n_outputs, i))
                uv_sleep(1);
            tp_block_add(b);
        }
    }
    return b;
}

/* ---- messages of failures ---- */

/* Number d, from 0, of the message of element `at`. */
static double load_detail(const tp_kernel *k, const output *o, uint32_t at, unsigned d)
{
    if (k->detail >= 0 && d == 0)
        return tp_element_load(k->output_type[k->detail], o->column[k->detail], at);
    size_t column = k->detail >= 0 ? d - 1 : d;
    return column < k->n_details ? tp_element_load(k->details, o->details, column * o->n + at) : 0;
}

/* A conversion of Lua's string.format, as a tp_device_failure has it. */
typedef struct conversion {
    char flags[6];
    int width, precision; /* precision below 0: none */
    char kind;
} conversion;

static int read_digits(const char **p)
{
    int n = 0;
    while (**p >= '0' && **p <= '9' && n < 100) /* Lua takes two digits */
        n = n * 10 + *(*p)++ - '0';
    return n;
}

/* Reads the conversion behind a '%'; returns where the text goes on. */
static const char *read_conversion(const char *p, conversion *c)
{
    *c = (conversion){ .precision = -1 };
    for (size_t n = 0; *p && strchr("-+ #0", *p); p++)
        if (n < sizeof c->flags - 1 && !strchr(c->flags, *p))
            c->flags[n++] = *p;
    c->width = read_digits(&p);
    if (*p == '.') {
        p++;
        c->precision = read_digits(&p);
    }
    c->kind = *p;
    return *p ? p + 1 : p;
}

/* As LuaJIT converts: what is beyond an integer is the least one. */
static int64_t to_integer(double x)
{
    const double end = 9223372036854775808.0; /* 2^63 */
    return x >= -end && x < end ? (int64_t)x : INT64_MIN;
}

enum { SHOWN_MAX = 512 }; /* the longest is %.99f of 1.8e308 */

/* Does x lie in the middle between the two texts of this kind (e, f, g) that are nearest? */
static bool is_tie(double x, char kind, int precision)
{
    char digits[820]; /* of which a double has 767 at most */
    if (!isfinite(x) || (kind != 'e' && kind != 'f' && kind != 'g'))
        return false;
    snprintf(digits, sizeof digits, "%.800e", fabs(x));
    char *p = digits + 1, *end = strchr(digits, 'e');
    p[0] = digits[0]; /* in the place of the point */
    int kept = precision < 0 ? 6 : precision;
    if (kind == 'g')
        kept = kept > 0 ? kept : 1;
    else
        kept += kind == 'e' ? 1 : 1 + atoi(end + 1);
    if (kept < 0 || kept >= end - p || p[kept] != '5')
        return false;
    for (p += kept + 1; p < end; p++)
        if (*p != '0')
            return false;
    return true;
}

/* Writes a number of a failure's message as Lua's string.format does. */
static void show_number(char *to, const conversion *c, double x)
{
    char format[24] = "%", text[40];
    const bool is_text = c->kind == 's' || c->kind == 'q' || c->kind == 'b';
    const bool is_signed = c->kind == 'd' || c->kind == 'i';
    const bool is_unsigned = c->kind && strchr("uoxX", c->kind);
    size_t n = 1;
    for (const char *f = c->flags; *f; f++) /* of these texts, and NaN, take fewer than in C */
        if (is_text ? *f == '-' : !isnan(x) || *f != '+')
            format[n++] = *f;
    snprintf(format + n, sizeof format - n, "*.*%s%c", is_signed || is_unsigned ? "ll" : "",
             is_text ? 's' : c->kind);
    x = isnan(x) ? fabs(x) : x; /* which has no sign there */
    /* LuaJIT rounds what is in the middle away from 0, and printf as the processor is set to. */
    const int rounding = fegetround();
    if (is_tie(x, is_text ? 'g' : (char)tolower(c->kind), is_text ? 14 : c->precision))
        fesetround(x > 0 ? FE_UPWARD : FE_DOWNWARD);
    snprintf(text, sizeof text, c->kind == 'q' ? "\"%.14g\"" : "%.14g", x);
    if (c->kind == 'b')
        snprintf(text, sizeof text, "%s", x != 0 ? "true" : "false");
    if (c->kind == 'q')
        snprintf(to, SHOWN_MAX, "%s", text);
    else if (is_text)
        snprintf(to, SHOWN_MAX, format, c->width, c->precision, text);
    else if (is_signed)
        snprintf(to, SHOWN_MAX, format, c->width, c->precision, (long long)to_integer(x));
    else if (is_unsigned)
        snprintf(to, SHOWN_MAX, format, c->width, c->precision,
                 (unsigned long long)to_integer(x >= 0x1p63 ? x - 0x1p64 : x));
    else
        snprintf(to, SHOWN_MAX, format, c->width, c->precision, x);
    fesetround(rounding);
}

/* Appends the message of element `at`: see tp_device_failure. */
static int put_message(tp_buf *to, const tp_kernel *k, const output *o, uint32_t at,
                       const tp_device_failure *f)
{
    const char *p = f->format;
    unsigned d = 0;
    if (f->inside) {
        double first = load_detail(k, o, at, 0);
        p = first >= 1 && first <= f->n ? f->inside : p;
    }
    int rc = 0;
    while (*p && rc == 0) {
        size_t plain = strcspn(p, "%");
        rc = plain ? tp_buf_add(to, p, plain) : 0;
        p += plain;
        if (p[0] == '%' && p[1] == '%') {
            rc = rc ? rc : tp_buf_add(to, "%", 1);
            p += 2;
        } else if (*p) {
            conversion c;
            char shown[SHOWN_MAX];
            p = read_conversion(p + 1, &c);
            show_number(shown, &c, load_detail(k, o, at, d++));
            rc = rc ? rc : tp_buf_add(to, shown, strlen(shown));
        }
    }
    return rc ? rc : tp_buf_add(to, "", 1);
}

/* Makes the failure of element `at` from the number that the kernel gave it in `failed`; has_input:
 * see fail_item. */
static void fail_element(tp_work *w, const tp_kernel *k, const output *o, uint32_t at,
                         unsigned number, bool has_input)
{
    const char *message = "failed for an unknown reason";
    tp_buf text = { 0 };
    if (number >= 1 && number <= k->n_failures)
        message = put_message(&text, k, o, at, &k->failures[number - 1])
                      ? "failed, and there is no memory for its message"
                      : (const char *)text.data;
    fail_item(w, TP_KIND_ERROR, message, has_input);
    tp_buf_free(&text);
}

/* The first of n elements that has failed; n: none. */
static uint32_t find_failed(const uint8_t *failed, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && !failed[i])
        i++;
    return i;
}

/* Gives the sink the results of n elements, from item w->at on: blocks of good ones, and failures
 * in between; `leaves_failures`: only those before the first failure. */
static void hand_over(tp_work *w, const tp_kernel *k, output *o, const uint8_t *failed, uint32_t n,
                      bool leaves_failures)
{
    uint32_t at = 0;
    tp_error ignored = { 0 };
    bool has_inputs = !failed || find_failed(failed, n) == n ||
                      bring_inputs_home(w, n, &ignored) == 0;
    while (at < n && !(leaves_failures && failed && failed[at])) {
        uint32_t end = failed ? at + find_failed(failed + at, n - at) : n;
        if (end > at) {
            bool is_all = at == 0 && end == n;
            tp_block *b = is_all && o->numbers ? o->numbers : new_results(o, k, at, end - at);
            if (b == o->numbers)
                o->numbers = NULL;
            tp_work_append(w, b, w->at);
            w->at += end - at;
            at = end;
        }
        if (at < n && !leaves_failures) {
            fail_element(w, k, o, at, failed[at], has_inputs);
            at++;
        }
    }
    tp_block_free(o->numbers);
    o->numbers = NULL;
}

/* ---- inputs ---- */

static const char A_BOOLEAN[] = "a boolean"; /* as tp_decode_numbers says it */

/* Says in `why` that input c, which is a `what`, is not what the kernel takes. */
static void refuse_argument(const tp_kernel *k, unsigned c, const char *what, char *why,
                            size_t size)
{
    const char *rest = "; a function on a device takes numbers and booleans";
    if (strcmp(what, "a 64-bit integer") == 0)
        rest = ": on a device such inputs lie in typed arrays, tidepool.array(\"int64\", list)";
    else if (k->takes_boolean[c])
        rest = ", and that of the first input is a boolean: on a device an argument has one type";
    else if (strcmp(what, A_BOOLEAN) == 0)
        rest = ", and a number is expected: where the inputs are lists the first one says what";
    snprintf(why, size, "argument %u is %s%s", c + 1, what, rest);
}

/* Decodes items from w->at on into the runner's columns, up to the first that is not what the
 * kernel takes; `why` says what is wrong with it. Gives how many it decoded. */
static uint32_t decode_items(tp_slice_runner *r, const tp_work *w, const tp_kernel *k, uint32_t n,
                             char *why, size_t size)
{
    for (uint32_t i = 0; i < n; i++) {
        size_t len;
        const uint8_t *message = tp_block_message(w->block, w->at + i, &len);
        double values[TP_KERNEL_COLUMNS_MAX];
        const char *bad = NULL;
        unsigned got = tp_decode_numbers(message, len, values, k->takes_boolean, k->n_inputs, &bad);
        if (got < k->n_inputs) {
            if (bad)
                refuse_argument(k, got, bad, why, size);
            else
                snprintf(why, size, "it takes %u number%s, got %u", k->n_inputs,
                         k->n_inputs == 1 ? "" : "s", got);
            return i;
        }
        for (unsigned c = 0; c < k->n_inputs; c++)
            store(k->input_type[c], r->input[c].data, i, values[c]);
    }
    return n;
}

/* Converts the scalars of input c to what the kernel takes, up to the first that is something else.
 * Gives how many. */
static uint32_t convert_scalars(const tp_kernel *k, unsigned c, void *to, const tp_scalar *from,
                                uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t kind = from[i].kind;
        if (k->takes_boolean[c] && (kind == TP_SCALAR_TRUE || kind == TP_SCALAR_FALSE))
            ((uint8_t *)to)[i] = kind == TP_SCALAR_TRUE;
        else if (!k->takes_boolean[c] && kind == TP_SCALAR_NUMBER)
            store(k->input_type[c], to, i, from[i].as.number);
        else
            return i;
    }
    return n;
}

static const char *name_scalar(uint32_t kind)
{
    if (kind == TP_SCALAR_STRING || kind == TP_SCALAR_PINNED)
        return "a string";
    return kind == TP_SCALAR_NIL ? "nil" : kind == TP_SCALAR_NUMBER ? "a number" : A_BOOLEAN;
}

/* Makes the inputs of n items from w->at on into columns of the kernel's types; those that are used
 * where they lie may lie in arrays. Gives how many items it made: fewer when one is wrong, and
 * `why` says how. -1 with err set when it cannot. */
static int64_t open_inputs(tp_slice_runner *r, const tp_work *w, const tp_kernel *k, uint32_t n,
                           void **columns, tp_array **arrays, char *why, size_t size, tp_error *err)
{
    const tp_block *b = w->block;
    bool is_numbers = b->kind == TP_BLOCK_COLUMNS;
    if (is_numbers && b->columns < k->n_inputs) {
        snprintf(why, size, "it takes %u numbers, got %u", k->n_inputs, b->columns);
        return 0;
    }
    for (unsigned c = 0; c < k->n_inputs; c++) {
        if (is_numbers && b->type[c] == k->input_type[c] && !k->takes_boolean[c]) {
            columns[c] = element(b->type[c], b->column[c], w->at);
            arrays[c] = array_of(b, c);
            continue;
        }
        if (is_numbers && b->type[c] != TP_MIXED && bring_inputs_home(w, n, err))
            return -1;
        if (reserve(&r->input[c], n * tp_type_size(k->input_type[c])))
            return tp_error_oom(err, "the inputs of a launch");
        columns[c] = r->input[c].data;
        if (is_numbers && b->type[c] == TP_MIXED) {
            const tp_scalar *from = (const tp_scalar *)b->column[c] + w->at;
            uint32_t count = convert_scalars(k, c, columns[c], from, n);
            if (count < n)
                refuse_argument(k, c, name_scalar(from[count].kind), why, size);
            n = count;
        } else if (is_numbers && k->takes_boolean[c]) {
            refuse_argument(k, c, "a number", why, size);
            n = 0;
        } else if (is_numbers) {
            tp_type type = (tp_type)b->type[c];
            convert(k->input_type[c], columns[c], type, element(type, b->column[c], w->at), n);
        }
    }
    return is_numbers ? n : decode_items(r, w, k, n, why, size);
}

/* ---- running ---- */

/* If the job's last items have run now, brings home what its launches have written to arrays. */
static int settle(tp_slice_runner *r, tp_slice *s, const tp_kernel *k, tp_error *err)
{
    if (!k->is_writer || !tp_job_settle(s))
        return 0;
    return tp_launch_bring_home(&r->queue, k, err);
}

/* Runs up to n items of the slice from w->at on. Below 0 with err set when the device could not, as
 * tp_launch_run has it: then none of them has a result. 1: the next item is one for the workers
 * that the job has. */
static int run_part(tp_slice_runner *r, tp_slice *s, tp_kernel *k, uint32_t n, tp_error *err)
{
    tp_work *w = &s->work;
    void *inputs[TP_KERNEL_COLUMNS_MAX];
    tp_array *arrays[TP_KERNEL_COLUMNS_MAX] = { 0 };
    tp_kernels *kernels = (tp_kernels *)tp_job_executor_data(s->job);
    output out = { 0 };
    char why[200] = "";
    int64_t ready = open_inputs(r, w, k, n, inputs, arrays, why, sizeof why, err);
    if (ready < 0)
        return -1;
    if (ready > 0) {
        uint32_t count = (uint32_t)ready;
        size_t details = k->n_details * count * tp_type_size(k->details);
        if (reserve(&r->failed, count) || reserve(&r->details, details) ||
            open_output(r, &out, w, k, count)) {
            tp_block_free(out.numbers);
            return tp_error_oom(err, "the results of a launch");
        }
        tp_launch_items items = {
            .work = w,
            .n = count,
            .inputs = inputs,
            .outputs = out.column,
            .failed = r->failed.data,
            .details = r->details.data,
            .input_arrays = arrays,
            .output_arrays = out.array,
            .stays = atomic_load_explicit(&kernels->stays, memory_order_relaxed),
        };
        int rc = tp_launch_run(&r->queue, k, &items, err);
        if (rc) {
            tp_block_free(out.numbers);
            return rc;
        }
        /* bring home before the sink gets the results */
        if (w->at + count == tp_work_end(w) && settle(r, s, k, err)) {
            tp_block_free(out.numbers);
            fail_items(w, count, TP_KIND_DEVICE, err->message);
            tp_launch_forget_lost(k);
            return 0;
        }
        for (unsigned c = 0; k->is_foreign && !items.stays && c < k->n_outputs; c++)
            tp_make_canonical(k->output_type[c], out.column[c], count);
        out.details = r->details.data;
        uint32_t end = w->at + count;
        hand_over(w, k, &out, k->n_failures ? r->failed.data : NULL, count,
                  tp_job_has_workers(s->job));
        tp_work_begin_item(w);
        if (w->at < end)
            return 1;
    }
    if (ready < n && tp_job_has_workers(s->job))
        return 1;
    if (ready < n) {
        char message[600];
        snprintf(message, sizeof message, "%s%s", k->where ? k->where : "", why);
        fail_items(w, 1, TP_KIND_ERROR, message);
    }
    return 0;
}

/* Makes a block of what a reducer has made of whole groups of items from w->at on, which lies in
 * r->sums from `at` on. */
static void hand_over_sums(tp_slice_runner *r, tp_work *w, const tp_kernel *reducer, uint32_t at,
                           uint32_t groups)
{
    tp_block *b;
    while (!(b = wait_for(tp_block_new_columns(groups, 1, NULL, 0))))
        ;
    b->kind = TP_BLOCK_PARTIALS;
    b->n = groups * TP_GROUP;
    for (uint32_t i = 0; i < groups; i++)
        ((double *)b->column[0])[i] =
            tp_element_load(reducer->output_type[0], r->sums.data, at + i);
    tp_work_append(w, b, w->at);
    w->at += b->n;
}

/* As run_part, for n items in whole groups, where only the reducer's numbers are wanted. A group in
 * which an element fails is run again by k, which finds the element. */
static int run_groups(tp_slice_runner *r, tp_slice *s, tp_kernel *k, tp_kernel *reducer, uint32_t n,
                      tp_error *err)
{
    tp_work *w = &s->work;
    void *inputs[TP_KERNEL_COLUMNS_MAX], *sums;
    tp_array *arrays[TP_KERNEL_COLUMNS_MAX] = { 0 }, *no_array = NULL;
    char why[200] = "";
    int64_t ready = open_inputs(r, w, reducer, n, inputs, arrays, why, sizeof why, err);
    if (ready < 0)
        return -1;
    uint32_t groups = (uint32_t)ready / TP_GROUP;
    if (groups == 0)
        return run_part(r, s, k, TP_GROUP, err);
    if (reserve(&r->sums, groups * sizeof(double)) || reserve(&r->sums_failed, groups))
        return tp_error_oom(err, "the results of a launch");
    sums = r->sums.data;
    memset(r->sums_failed.data, 0, groups);
    tp_launch_items items = { .work = w,
                              .n = groups * TP_GROUP,
                              .inputs = inputs,
                              .outputs = &sums,
                              .failed = r->sums_failed.data,
                              .details = r->details.data,
                              .input_arrays = arrays,
                              .output_arrays = &no_array };
    if (tp_launch_run(&r->queue, reducer, &items, err))
        return -1;
    tp_make_canonical(reducer->output_type[0], r->sums.data, groups);
    const uint8_t *failed = r->sums_failed.data;
    for (uint32_t at = 0, end; at < groups; at = end) {
        for (end = at; end < groups && !failed[end]; end++)
            ;
        if (end > at)
            hand_over_sums(r, w, reducer, at, end - at);
        else if (run_part(r, s, k, TP_GROUP, err))
            return -1;
        else
            end = at + 1;
    }
    return 0;
}

static tp_kernel *reducer_of(const tp_kernels *k)
{
    return atomic_load_explicit(&k->reducer, memory_order_acquire);
}

/* What launches have left on devices must be there for those who take the rest of the job, who may
 * be threads: they write results to the arrays and say nothing of it. */
static int prepare_to_leave(tp_slice_runner *r, tp_slice *s, tp_error *err)
{
    tp_kernels *kernels = (tp_kernels *)tp_job_executor_data(s->job);
    const tp_returns *returns = &s->work.terms->returns;
    if (kernels->kernel->is_writer && tp_launch_bring_home(&r->queue, kernels->kernel, err))
        return -1;
    if (tp_kernels_want_results(kernels, returns, NULL, err))
        return -1;
    for (uint32_t c = 0; c < returns->columns; c++)
        if (returns->array[c])
            tp_array_touch(returns->array[c]);
    return 0;
}

void tp_slices_run(tp_slice_runner *r, tp_slice *s)
{
    tp_work *w = &s->work;
    tp_kernels *kernels = (tp_kernels *)tp_job_executor_data(s->job);
    tp_kernel *k = kernels->kernel;
    bool may_reduce = true;
    uint64_t made = r->queue.made;
    r->queue.work = w; /* here, since a slice that is cancelled runs no launch, but is settled */
    r->queue.compiled_ns = 0;
    while (w->count >= TP_GROUP && !tp_job_has_workers(s->job) &&
           tp_job_is_undecided(s->job, DECIDE_NS)) {
        tp_relax();
        sched_yield();
    }
    if (tp_job_is_held_back(s->job))
        return; /* nothing was begun: the whole slice goes back */
    atomic_store_explicit(&kernels->has_begun, true, memory_order_relaxed);
    if (!tp_launch_queue_has(&r->queue, k))
        tp_slice_be_patient(s);
    uint32_t end = tp_work_end(w), most = r->part_max ? r->part_max : PART_MAX;
    if (w->block->kind == TP_BLOCK_FAILURE)
        tp_work_pass_failure(w);
    while (w->at < end && !tp_work_is_asked_to_stop(w)) {
        tp_error err = { 0 };
        uint32_t n = end - w->at < most ? end - w->at : most;
        uint32_t before = (uint32_t)((w->block->first + w->at) % TP_GROUP);
        tp_kernel *reducer = may_reduce ? reducer_of(kernels) : NULL;
        if (reducer && before == 0 && n >= TP_GROUP) {
            may_reduce = run_groups(r, s, k, reducer, n / TP_GROUP * TP_GROUP, &err) == 0;
            continue; /* what the reducer could not run is run one by one */
        }
        if (reducer && n > TP_GROUP - before)
            n = TP_GROUP - before;
        int rc = run_part(r, s, k, n, &err);
        if (rc == 0)
            continue;
        if (rc == -1 && n > PART_MIN && !tp_launch_is_over(&r->queue, k)) {
            /* try again with half as many items */
            most = n / 2;
            if (r->queue.shortage != CL_SUCCESS)
                r->part_max = most;
            continue;
        }
        if (rc != TP_LAUNCH_WROTE && prepare_to_leave(r, s, &err) == 0 &&
            tp_job_leave_site(s->job, s->agent->site))
            break;
        fail_items(w, end - w->at < n ? end - w->at : n, TP_KIND_DEVICE, err.message);
        tp_launch_forget_lost(k);
        set_told(kernels);
    }
    s->is_cold = r->queue.made != made;
    s->compiled_ns = r->queue.compiled_ns;
    if (s->compiled_ns) {
        const tp_open_device *open = &r->queue.open;
        tp_job_build b = { .ns = s->compiled_ns,
                           .how = TP_BUILD_LAUNCHED,
                           .site = open->index + 1 };
        snprintf(b.name, sizeof b.name, "%.*s", (int)sizeof b.name - 1, open->device->name);
        tp_slice_note_launch(s, &b);
    }
    /* all items have their results, so a failure has no place: the job's owner finds it again */
    tp_error ignored = { 0 };
    settle(r, s, k, &ignored);
}

static void trim(tp_staging *s)
{
    if (tp_is_too_much(s->capacity, s->wanted)) {
        free(s->data);
        *s = (tp_staging){ 0 };
    }
    s->wanted = 0;
}

void tp_slices_trim(tp_slice_runner *r)
{
    tp_staging *const rest[] = { &r->failed, &r->details, &r->sums, &r->sums_failed };
    for (int i = 0; i < TP_KERNEL_COLUMNS_MAX; i++) {
        trim(&r->input[i]);
        trim(&r->output[i]);
    }
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        trim(rest[i]);
    r->part_max = 0;
    tp_launch_queue_trim(&r->queue);
}

void tp_slices_close(tp_slice_runner *r)
{
    for (int i = 0; i < TP_KERNEL_COLUMNS_MAX; i++) {
        free(r->input[i].data);
        free(r->output[i].data);
    }
    free(r->failed.data);
    free(r->details.data);
    free(r->sums.data);
    free(r->sums_failed.data);
}
