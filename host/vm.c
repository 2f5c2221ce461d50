/* vm.c: the Lua state of an agent.
 *
 * A slice is run by one protected call. Columns go through a driver, a Lua loop that is made per function (worker.lua) and
 * compiled: it reads and writes the blocks' memory, so that an item costs no call into C at all. Everything else is decoded,
 * called and encoded here, item by item. An error ends the protected call; the item that raised it gets a failure, and
 * the rest of the slice goes on in another one: only failures pay. */
#include "vm.h"

#include "heap.h"
#include "lua_modules.h"
#include "scalar.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CACHED_MAX = 64, TEXT_MIN = 4096, TEXT_OF_ITEM = 32, REFERENCES = 4 * CACHED_MAX, SMALL_HEAP_KIB = 4096 };

/* What a function's results are expected to be, after those it had: one number each, up to so many scalars each, or anything. */
enum { SHAPE_NUMBER = 0, SHAPE_ANY = TP_COLUMNS_MAX + 1 };

/* A function that the state has loaded. */
typedef struct loaded {
    tp_image *image; /* held */
    int fn;          /* registry reference; LUA_NOREF: it cannot be loaded, `error` (a reference) says why */
    int error;
    int drivers;   /* reference: a table of drivers by their signature (push_driver); LUA_NOREF until there is one */
    unsigned shape;   /* SHAPE_*; from 1: so many columns of scalars */
    unsigned text;    /* bytes of strings that an item's results had in the last block of scalars */
    uint64_t used;    /* tick of the last use */
} loaded;

struct tp_vm {
    tp_host *host;
    tp_agent *agent;
    lua_State *main; /* owned */
    lua_State *L;    /* where items run: main, or the coroutine that waits */
    int run_items, on_error, encode_failure, describe, make_driver, read_integer, broken_promise, store, finish_kept, package; /* registry references */
    loaded cache[CACHED_MAX];
    unsigned n_cached;
    uint64_t tick;
    bool is_small;     /* its heap, when set_pause last looked */
    int collected_kib; /* memory in use after a collection that was forced, see restart_collector */
};

/* A slice on its way through the state. */
typedef struct run {
    tp_vm *vm;
    tp_slice *slice;
    uint32_t end;      /* offset of the end in the input block */
    tp_block *open;    /* the last of the results, while it is being filled: VALUES or DONE */
    bool only_numbers, only_scalars; /* each result that was encoded so far was one number; was scalars */
} run;

#ifdef TP_MALLOC_STATE
static void *allocate(void *ud, void *p, size_t old, size_t size)
{
    (void)ud, (void)old;
    if (size == 0) {
        free(p);
        return NULL;
    }
    return realloc(p, size);
}
#endif

/* Not LuaJIT's own allocator: strings of 128 KiB and more would be pages of their own there, mapped and unmapped each time, and their page faults cost
 * several times what copying them does (W4 of bench/: 211 ms with LuaJIT's, 58 ms with malloc). Sanitizer builds see each block. */
lua_State *tp_vm_new_state(void)
{
#ifdef TP_MALLOC_STATE
    return lua_newstate(allocate, NULL);
#else
    tp_heap *heap = tp_heap_new();
    lua_State *L = heap ? lua_newstate(tp_heap_allocate, heap) : NULL;
    if (L)
        tp_heap_seal(heap);
    else
        tp_heap_free(heap);
    return L;
#endif
}

void tp_vm_close_state(lua_State *L)
{
    void *user;
    bool has_heap = lua_getallocf(L, &user) == tp_heap_allocate;
    lua_close(L);
    if (has_heap)
        tp_heap_free(user);
}

/* LuaJIT loses integer keys of a table that runs out of memory as it grows (lj_tab_resize: its array part is larger then, and the keys are still in the old
 * hash part). In the registry they are our references. So it grows here, where that is the end of the state, and has room ever after. */
static void reserve_references(lua_State *L)
{
    int refs[REFERENCES];
    for (int i = 0; i < REFERENCES; i++) {
        lua_pushboolean(L, 1);
        refs[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    for (int i = REFERENCES - 1; i >= 0; i--)
        luaL_unref(L, LUA_REGISTRYINDEX, refs[i]);
}

void tp_vm_open_libraries(struct lua_State *L)
{
    void *user;
    tp_heap *heap = lua_getallocf(L, &user) == tp_heap_allocate ? user : NULL; /* NULL in sanitizer builds */
    /* LUA_PATH is the user's, not the embedder's; the host's paths come with each function. */
    lua_pushboolean(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    luaL_openlibs(L);
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    reserve_references(L);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "ffi");
    if (!tp_heap_prepare(heap))
        luaL_error(L, "not enough memory");
    lua_call(L, 1, 0);
    tp_heap_seal(heap);
}

/* ---- results ---- */

static void append(run *r, tp_block *b)
{
    tp_slice_append(r->slice, b, r->slice->at);
    r->open = NULL;
}

/* The values at first.. of L as the item's results. Raises out of memory. */
static int keep_results(run *r, lua_State *L, int first, int n, tp_error *err)
{
    if (tp_job_discards(r->slice->job)) {
        if (!r->open) {
            tp_block *b = tp_block_new_empty(TP_BLOCK_DONE, 0, 0);
            if (!b)
                return tp_error_oom(err, "results");
            append(r, b);
            r->open = b;
        }
        r->open->n++;
        return 0;
    }
    if (!r->open || r->open->bytes.len > TP_BLOCK_BYTES_MAX) {
        tp_block *b = tp_block_new_values(TP_BLOCK_VALUES);
        if (!b)
            return tp_error_oom(err, "results");
        append(r, b);
        r->open = b;
    }
    if (tp_block_reserve(r->open))
        return tp_error_oom(err, "results");
    r->only_numbers &= n == 1 && lua_type(L, first) == LUA_TNUMBER;
    r->only_scalars &= r->only_numbers || (n <= TP_COLUMNS_MAX && tp_scalar_measure(L, first, n) >= 0);
    static const char *const names[] = { "result 1", "result 2", "result 3", "result 4", "result 5", "result 6" };
    if (tp_encode(L, first, n, n <= 6 ? names : NULL, 0, &r->open->bytes, err))
        return -1;
    tp_block_add(r->open);
    return 0;
}

/* Takes the last block of the slice's results away again. */
static void drop_last(tp_slice *s, tp_block *b)
{
    tp_block **at = &s->results;
    while (*at != b)
        at = &(*at)->next;
    *at = NULL;
    s->results_end = at;
    tp_block_free(b);
}

/* What an encoder left behind that was interrupted by an error. */
static void drop_partial_result(run *r)
{
    tp_block *b = r->open;
    if (!b || b->kind != TP_BLOCK_VALUES)
        return;
    b->bytes.len = b->n ? b->ends[b->n - 1] : 0;
    if (b->n == 0) { /* it was new: empty blocks are not handed over */
        drop_last(r->slice, b);
        r->open = NULL;
    }
}

/* ---- failures ---- */

/* Message handler: (error value) -> { value, traceback }. */
static int on_error(lua_State *L)
{
    lua_settop(L, 1);
    lua_createtable(L, 2, 0);   // value box
    lua_pushvalue(L, 1);        // value box value
    lua_rawseti(L, -2, 1);      // value box
    luaL_traceback(L, L, NULL, 1);
    lua_rawseti(L, -2, 2);      // value box
    return 1;
}

/* An error on its way into a block. */
typedef struct failing {
    run *run;
    tp_block *block;
    const char *kind;
    bool is_second_try; /* it could not be described as it is */
} failing;

/* (failing, error value or box): describes the error and encodes it into the block. */
static int encode_failure(lua_State *L)
{
    failing *f = lua_touserdata(L, 1);
    tp_vm *vm = f->run->vm;
    tp_error err = { 0 };
    if (f->is_second_try)
        lua_gc(L, LUA_GCCOLLECT, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->describe); // f error describe
    lua_pushstring(L, f->kind);
    lua_pushvalue(L, 2);
    lua_pushinteger(L, (lua_Integer)f->run->slice->attempt);
    lua_pushinteger(L, vm->agent->index);
    lua_call(L, 4, LUA_MULTRET);                     // f error kind message value traceback attempt worker
    int n = lua_gettop(L) - 2;
    if (tp_encode(L, 3, n, NULL, TP_ENCODE_ERROR_VALUE, &f->block->bytes, &err)) {
        lua_pushnil(L);
        lua_replace(L, 5);                           // the value cannot travel: the message stays
        err = (tp_error){ 0 };
        if (tp_encode(L, 3, n, NULL, TP_ENCODE_ERROR_VALUE, &f->block->bytes, &err))
            return luaL_error(L, "%s", err.message);
    }
    tp_block_add(f->block);
    return 0;
}

/* A block with the error at the top of L as it is described in Lua; NULL when that fails (no memory, a stack that is full). Then the reason of that is at
 * the top. Neither raises nor allocates outside of a protected call. */
static tp_block *describe_failure(run *r, lua_State *L, const char *kind)
{
    int error = lua_gettop(L);
    failing f = { .run = r, .kind = kind };
    for (int i = 0; i < 2; i++) {
        f.block = tp_block_new_empty_failure();
        f.is_second_try = i > 0;
        if (!f.block)
            return NULL;
        lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->encode_failure);
        lua_pushlightuserdata(L, &f);
        lua_pushvalue(L, error);
        if (lua_pcall(L, 2, 0, 0) == 0)
            return f.block;
        tp_block_free(f.block);
        lua_replace(L, error);
    }
    return NULL;
}

/* Pops the error value at the top of L and makes it the failure of item r->slice->at, which is over then; where there is no memory for that, the job
 * fails as a whole, and the item stays as it is. */
static void fail_item(run *r, lua_State *L, const char *kind)
{
    drop_partial_result(r);
    tp_slice *s = r->slice;
    tp_block *b = describe_failure(r, L, kind);
    if (!b) {
        const char *message = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "error in error handling";
        bool is_memory = strcmp(kind, "memory") == 0 || strcmp(message, "not enough memory") == 0;
        b = tp_block_new_failure(is_memory ? "memory" : kind, message, s->attempt, r->vm->agent->index);
    }
    lua_pop(L, 1);
    if (!b) {
        tp_job_starve(s->job);
        return;
    }
    b->may_retry = strcmp(kind, "error") == 0 || strcmp(kind, "memory") == 0;
    append(r, b);
    s->at++;
}

tp_block *tp_vm_crash(void *user, tp_slice *slice)
{
    char message[80];
    (void)user;
    snprintf(message, sizeof message, "worker thread ended during input %.0f", (double)(slice->block->first + slice->at + 1));
    return tp_block_new_failure("crash", message, slice->attempt, slice->agent->index);
}

/* ---- functions ---- */

static void forget(tp_vm *vm, loaded *f)
{
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->fn);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->error);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->drivers);
    tp_ref_drop(f->image);
}

/* A free place in the cache: of the function that was not used for longest. */
static loaded *make_room(tp_vm *vm)
{
    if (vm->n_cached < CACHED_MAX)
        return &vm->cache[vm->n_cached++];
    loaded *oldest = &vm->cache[0];
    for (loaded *f = vm->cache; f < vm->cache + CACHED_MAX; f++)
        if (f->used < oldest->used)
            oldest = f;
    forget(vm, oldest);
    return oldest;
}

/* Pops package.cpath and package.path, which are the caller's, and sets them. */
static void set_paths(tp_vm *vm, lua_State *L)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->package); // path cpath package
    lua_insert(L, -3);                              // package path cpath
    lua_setfield(L, -3, "cpath");
    lua_setfield(L, -2, "path");
    lua_pop(L, 1);
}

/* Finds or loads the function of image. Raises only out of memory. */
static loaded *load(tp_vm *vm, lua_State *L, tp_image *image)
{
    for (unsigned i = 0; i < vm->n_cached; i++)
        if (vm->cache[i].image == image) {
            vm->cache[i].used = ++vm->tick;
            return &vm->cache[i];
        }
    loaded made = { .fn = LUA_NOREF, .error = LUA_NOREF, .drivers = LUA_NOREF, .used = ++vm->tick };
    tp_error err = { 0 };
    const tp_buf *m = &image->message;
    if (tp_decode(L, m->data, m->len, m->refs, m->nrefs, TP_DECODE_TRUSTED, NULL, &err) == 3) {
        set_paths(vm, L);
        made.fn = luaL_ref(L, LUA_REGISTRYINDEX);
    } else {
        lua_pushstring(L, err.message);
        made.error = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    made.image = tp_ref_hold(image);
    loaded *f = make_room(vm);
    *f = made;
    return f;
}

/* What a driver's results are stored to, see new_output. */
typedef struct outputs {
    uint32_t columns;
    const uint8_t *type; /* tp_type or TP_MIXED */
    bool is_kept, is_promised;
} outputs;

static outputs outputs_of(const tp_slice *s, const loaded *f)
{
    static const uint8_t one_double[] = { TP_DOUBLE };
    static const uint8_t scalars[TP_COLUMNS_MAX] = {
        TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED,
    };
    const tp_returns *returns = tp_job_returns(s->job);
    if (tp_job_discards(s->job))
        return (outputs){ .is_promised = returns->columns > 0 };
    if (returns->columns)
        return (outputs){ returns->columns, returns->type, .is_kept = true, .is_promised = true };
    if (f->shape == SHAPE_NUMBER)
        return (outputs){ 1, one_double, .is_kept = true };
    return (outputs){ f->shape, scalars, .is_kept = true };
}

/* Pushes the driver of f for inputs as in `in` and these results. Its signature is a character per
 * column (see worker.lua), so that one function may have several: for lists of doubles, float arrays, ... Raises out of memory. */
static void push_driver(tp_vm *vm, lua_State *L, loaded *f, const char *name, const tp_block *in, const outputs *out)
{
    char signature[2 * TP_COLUMNS_MAX + 2], *p = signature;
    bool is_foreign = in->capacity == 0; /* in arrays of the users' */
    for (uint32_t c = 0; c < in->columns; c++)
        *p++ = (char)((is_foreign ? 'a' : '0') + in->type[c]);
    *p++ = out->is_kept ? '>' : '-';
    for (uint32_t c = 0; c < out->columns; c++)
        *p++ = (char)('0' + out->type[c]);
    size_t len = (size_t)(p - signature);
    if (f->drivers == LUA_NOREF) {
        lua_newtable(L);
        f->drivers = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->drivers);                // drivers
    lua_pushlstring(L, signature, len);
    lua_rawget(L, -2);                                            // drivers driver
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->make_driver);
        lua_rawgeti(L, LUA_REGISTRYINDEX, f->fn);
        lua_pushstring(L, name);
        lua_pushlstring(L, signature, len);
        lua_call(L, 3, 1);                                        // drivers driver
        lua_pushlstring(L, signature, len);
        lua_pushvalue(L, -2);
        lua_rawset(L, -4);
    }
    lua_remove(L, -2);                                            // driver
}

/* ---- running ---- */

static void set_item(run *r)
{
    atomic_store_explicit(&r->slice->ctl[0], (int32_t)r->slice->at, memory_order_relaxed);
}

static bool is_asked_to_stop(const run *r)
{
    return atomic_load_explicit(&r->slice->ctl[1], memory_order_relaxed) != 0;
}

/* Pushes an element of a column. lua_pushnumber makes a NaN's bits canonical. */
static void push_element(tp_vm *vm, lua_State *L, const tp_block *b, uint32_t c, uint32_t at)
{
    const void *column = b->column[c];
    switch (b->type[c]) {
    case TP_MIXED: tp_scalar_push(L, b, &((const tp_scalar *)column)[at]); break;
    case TP_DOUBLE: lua_pushnumber(L, ((const double *)column)[at]); break;
    case TP_FLOAT: lua_pushnumber(L, ((const float *)column)[at]); break;
    case TP_INT8: lua_pushnumber(L, ((const int8_t *)column)[at]); break;
    case TP_UINT8: lua_pushnumber(L, ((const uint8_t *)column)[at]); break;
    case TP_INT16: lua_pushnumber(L, ((const int16_t *)column)[at]); break;
    case TP_UINT16: lua_pushnumber(L, ((const uint16_t *)column)[at]); break;
    case TP_INT32: lua_pushnumber(L, ((const int32_t *)column)[at]); break;
    case TP_UINT32: lua_pushnumber(L, ((const uint32_t *)column)[at]); break;
    default: /* 64-bit integers are cdata, which only Lua can make */
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->read_integer);
        lua_pushlightuserdata(L, (void *)column);
        lua_pushnumber(L, at);
        lua_pushboolean(L, b->type[c] == TP_INT64);
        lua_call(L, 3, 1);
    }
}

/* Pushes the arguments of item r->slice->at; gives how many. */
static int push_arguments(run *r, lua_State *L)
{
    const tp_block *b = r->slice->block;
    if (b->kind == TP_BLOCK_COLUMNS) {
        luaL_checkstack(L, (int)b->columns, "too many arguments");
        for (uint32_t c = 0; c < b->columns; c++)
            push_element(r->vm, L, b, c, r->slice->at);
        return (int)b->columns;
    }
    tp_error err;
    tp_error_clear(&err);
    size_t len;
    const uint8_t *message = tp_block_message(b, r->slice->at, &len);
    int n = tp_decode(L, message, len, b->bytes.refs, b->bytes.nrefs, TP_DECODE_TRUSTED, NULL, &err);
    if (n < 0)
        luaL_error(L, "%s", err.message);
    return n;
}

/* Where the results of the items from s->at on, up to `end`, are stored: the arrays that `returns` has made, or a block of their own; for a job without
 * results a block that counts. */
static tp_block *new_output(const run *r, const outputs *out, uint32_t end, uint32_t text)
{
    const tp_slice *s = r->slice;
    const tp_returns *returns = tp_job_returns(s->job);
    if (!out->is_kept)
        return tp_block_new_empty(TP_BLOCK_DONE, 0, 0);
    if (!out->is_promised || !returns->array[0])
        return tp_block_new_columns(end - s->at, out->columns, out->type, text);
    tp_block *b = tp_block_new_borrowed(0, 0, out->columns);
    uint64_t first = s->block->first + s->at;
    for (uint32_t c = 0; b && c < out->columns; c++) {
        b->type[c] = out->type[c];
        b->column[c] = (char *)returns->array[c]->data + first * tp_type_size((tp_type)out->type[c]);
    }
    return b;
}

/* The results of item s->at, of which the driver says that they are not what it could store, are the n values from `first` on: either what was
 * promised is not kept, or they are encoded, and so are those of the rest of the slice. */
static void keep_held(run *r, lua_State *L, int first, int n, bool is_promised)
{
    tp_slice *s = r->slice;
    tp_error err = { 0 };
    if (is_promised) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->broken_promise);
        lua_pushvalue(L, first - 1);
        lua_pushlightuserdata(L, (void *)tp_job_returns(s->job)->type);
        lua_pushinteger(L, (lua_Integer)tp_job_returns(s->job)->columns);
        lua_call(L, 3, 1);
        fail_item(r, L, "error");
    } else if (keep_results(r, L, first, n, &err)) {
        lua_pushstring(L, err.message);
        fail_item(r, L, err.code == TP_EMEMORY ? "memory" : "codec");
    } else {
        s->at++;
    }
}

/* The last block of scalars is full, or done: what its strings took tells what the next ones will; when all of one column are numbers, the function is one
 * of numbers. */
static void learn_shape(loaded *f, const tp_block *b)
{
    f->text = b->text.used / b->n;
    const tp_scalar *x = b->column[0];
    if (b->columns > 1 || x[b->n - 1].kind != TP_SCALAR_NUMBER)
        return;
    for (uint32_t i = 0; i < b->n; i++)
        if (x[i].kind != TP_SCALAR_NUMBER)
            return;
    f->shape = SHAPE_NUMBER;
}

/* A block for the results from item s->at on, the slice's `numbers` from now on. The item's own n results, from `first` on, are the first of it when
 * n is not negative. Raises out of memory. */
static void open_output(run *r, lua_State *L, const loaded *f, const outputs *out, int first, int n, uint32_t text)
{
    tp_slice *s = r->slice;
    uint32_t items = r->end - s->at;
    uint64_t most = (uint64_t)items * (f->text + f->text / 4 + TEXT_OF_ITEM) + TEXT_MIN + text;
    bool has_text = out->columns > 0 && out->type[0] == TP_MIXED;
    tp_block *b = new_output(r, out, r->end, !has_text ? 0 : most < TP_BLOCK_BYTES_MAX ? (uint32_t)most : TP_BLOCK_BYTES_MAX);
    if (!b)
        luaL_error(L, "not enough memory");
    for (int c = 0; n >= 0 && c < (int)out->columns; c++) {
        tp_scalar *to = b->column[c];
        to->kind = TP_SCALAR_ABSENT;
        if (c < n)
            tp_scalar_store(L, first + c, b, to);
    }
    set_item(r);
    s->numbers_at = s->at;
    s->numbers = b;
    r->open = NULL;
}

/* Runs items through drivers. Returns true when the slice is over, false when the rest should go the general way: an item's results were no
 * scalars, and have been kept. */
static bool run_columns(run *r, lua_State *L)
{
    tp_slice *s = r->slice;
    tp_block *in = s->block;
    int top = lua_gettop(L), held = -1; /* results that wait for a block: at top + 2.. */
    uint32_t text = 0;
    while (s->at < r->end && (held >= 0 || !is_asked_to_stop(r))) {
        loaded *f = load(r->vm, L, tp_job_image(s->job)); /* anew: nested items may have pushed it out of the cache */
        if (held >= 0 && f->shape < (unsigned)held)
            f->shape = (unsigned)held;
        if (held >= 0 && f->shape == SHAPE_NUMBER)
            f->shape = 1;
        outputs out = outputs_of(s, f);
        open_output(r, L, f, &out, top + 2, held, text);
        uint32_t from = s->at + (held >= 0);
        atomic_store_explicit(&s->ctl[0], (int32_t)from, memory_order_relaxed); /* what is held is done */
        lua_settop(L, top);
        push_driver(r->vm, L, f, tp_job_func(s->job)->name, in, &out);
        lua_pushlightuserdata(L, (void *)s->ctl);
        lua_pushlightuserdata(L, in->column);
        lua_pushlightuserdata(L, &in->text);
        lua_pushlightuserdata(L, s->numbers->column);
        lua_pushlightuserdata(L, &s->numbers->text);
        lua_pushnumber(L, s->at);
        lua_pushnumber(L, from);
        lua_pushnumber(L, r->end);
        lua_call(L, 8, 2); // next results
        tp_block *b = s->numbers;
        tp_slice_close_numbers(s, (uint32_t)lua_tonumber(L, -2));
        bool is_mixed = out.columns > 0 && out.type[0] == TP_MIXED && s->at > s->numbers_at;
        if (is_mixed || !lua_isnil(L, -1))
            f = load(r->vm, L, tp_job_image(s->job));
        if (is_mixed)
            learn_shape(f, b);
        if (lua_isnil(L, -1))
            return true;
        set_item(r);
        lua_replace(L, top + 1);                     // results
        lua_settop(L, top + 1);
        lua_getfield(L, -1, "n");
        int n = (int)lua_tointeger(L, -1);
        lua_pop(L, 1);
        luaL_checkstack(L, n + 10, "too many results");
        for (int i = 1; i <= n; i++)
            lua_rawgeti(L, top + 1, i);              // results v1 .. vn
        int64_t size = out.is_promised || n > TP_COLUMNS_MAX ? -1 : tp_scalar_measure(L, top + 2, n);
        held = -1;
        if (size >= 0) {
            held = n;
            text = (uint32_t)size;
            continue;
        }
        keep_held(r, L, top + 2, n, out.is_promised);
        if (!out.is_promised) {
            f = load(r->vm, L, tp_job_image(s->job));
            f->shape = SHAPE_ANY;
            return s->at >= r->end || is_asked_to_stop(r);
        }
        lua_settop(L, top);
    }
    return true;
}

/* The general way for a function that has promised what it returns: the n values at first.. become the numbers of a block of one item. -1 with the
 * error value pushed when they are not what was promised. Raises out of memory. */
static int store_results(run *r, lua_State *L, int first, int n)
{
    tp_slice *s = r->slice;
    const tp_returns *returns = tp_job_returns(s->job);
    outputs out = { returns->columns, returns->type, .is_kept = true, .is_promised = true };
    tp_block *b = new_output(r, &out, s->at + 1, 0);
    if (!b)
        luaL_error(L, "not enough memory");
    b->n = 1;
    append(r, b); /* the slice owns it */
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->store);
    lua_pushlightuserdata(L, b->column);
    lua_pushlightuserdata(L, (void *)returns->type);
    lua_pushinteger(L, (lua_Integer)returns->columns);
    for (int i = 0; i < n; i++)
        lua_pushvalue(L, first + i);
    lua_call(L, 3 + n, 1); // nil, or the error value
    if (lua_isnil(L, -1))
        return 0;
    drop_last(s, b);
    return -1;
}

/* An item may have stopped the collector; each item of the next slice may do so again, before it has done anything. Raises out of memory. */
static void restart_collector(tp_vm *vm, lua_State *L)
{
    if (lua_gc(L, LUA_GCISRUNNING, 0))
        return;
    lua_gc(L, LUA_GCRESTART, -1);
    if (lua_gc(L, LUA_GCCOUNT, 0) > 2 * vm->collected_kib + 4096) {
        lua_gc(L, LUA_GCCOLLECT, 0);
        vm->collected_kib = lua_gc(L, LUA_GCCOUNT, 0);
    }
}

/* Much of what collecting a small heap takes is the libraries' share in it: it may grow to four times what was left before the next time, a large one
 * to twice, as is LuaJIT's way. */
static void set_pause(tp_vm *vm, lua_State *L)
{
    bool is_small = lua_gc(L, LUA_GCCOUNT, 0) < SMALL_HEAP_KIB;
    if (is_small == vm->is_small)
        return;
    vm->is_small = is_small;
    lua_gc(L, LUA_GCSETPAUSE, is_small ? 400 : 200);
}

/* (run): runs items until the slice is over or one raises. */
static int run_items(lua_State *L)
{
    run *r = lua_touserdata(L, 1);
    tp_slice *s = r->slice;
    restart_collector(r->vm, L);
    set_pause(r->vm, L);
    loaded *f = load(r->vm, L, tp_job_image(s->job));
    if (f->fn < 0) {
        set_item(r);
        lua_rawgeti(L, LUA_REGISTRYINDEX, f->error);
        return lua_error(L);
    }
    bool is_promised = tp_job_returns(s->job)->columns > 0;
    if (s->block->kind == TP_BLOCK_COLUMNS && (is_promised || tp_job_discards(s->job) || f->shape != SHAPE_ANY) && run_columns(r, L))
        return 0;
    f = load(r->vm, L, tp_job_image(s->job));
    bool is_stored = is_promised && !tp_job_discards(s->job);
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->fn); /* stays on the stack: nested items may push f out of the cache */
    int fn = lua_gettop(L);
    while (r->slice->at < r->end) {
        set_item(r);
        lua_pushvalue(L, fn);
        lua_call(L, push_arguments(r, L), LUA_MULTRET);
        tp_error err;
        tp_error_clear(&err);
        if (is_stored ? store_results(r, L, fn + 1, lua_gettop(L) - fn)
                      : keep_results(r, L, fn + 1, lua_gettop(L) - fn, &err)) {
            if (!is_stored)
                lua_pushstring(L, err.message);
            fail_item(r, L, is_stored ? "error" : err.code == TP_EMEMORY ? "memory" : "codec");
        } else {
            s->at++;
        }
        tp_lines_end(r->vm->host, r->vm->agent);
        lua_settop(L, fn);
        if (is_asked_to_stop(r))
            break;
    }
    if (r->only_scalars && r->end - s->offset >= 16)
        load(r->vm, L, tp_job_image(s->job))->shape = r->only_numbers ? SHAPE_NUMBER : 1;
    return 0;
}

/* An input that failed before it could be sent: the failure is its result. */
static void pass_failure(run *r)
{
    tp_block *b = tp_block_copy_failure(r->slice->block);
    if (!b) {
        tp_job_starve(r->slice->job);
        return;
    }
    append(r, b);
    r->slice->at++;
}

/* Waits for what the slice's items have spawned and left. */
static void finish_kept(tp_vm *vm, lua_State *L, tp_slice *s)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->finish_kept);
    lua_pushlightuserdata(L, s);
    if (lua_pcall(L, 1, 0, 0))
        lua_pop(L, 1); /* no memory to wait: what was spawned is collected, and so cancelled */
}

void tp_vm_run(tp_vm *vm, tp_slice *s)
{
    lua_State *L = vm->L;
    run r = { .vm = vm, .slice = s, .end = s->offset + s->count, .only_numbers = true, .only_scalars = true };
    int top = lua_gettop(L);
    if (s->block->kind == TP_BLOCK_FAILURE)
        pass_failure(&r);
    while (s->at < r.end && !is_asked_to_stop(&r)) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->on_error);
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->run_items);
        lua_pushlightuserdata(L, &r);
        int status = lua_pcall(L, 1, 0, top + 1);
        if (status == 0)
            break;
        if (s->numbers)
            tp_slice_close_numbers(s, (uint32_t)atomic_load_explicit(&s->ctl[0], memory_order_relaxed));
        fail_item(&r, L, status == LUA_ERRMEM ? "memory" : "error");
        lua_settop(L, top);
    }
    lua_settop(L, top);
    if (s->has_kept)
        finish_kept(vm, L, s);
    tp_lines_end(vm->host, vm->agent);
    tp_job_finish(s);
}

lua_State *tp_vm_enter(tp_vm *vm, lua_State *L)
{
    lua_State *before = vm->L;
    vm->L = L;
    return before;
}

/* ---- opening ---- */

/* (vm): everything that a worker's state has before it runs users' code. */
static int open_state(lua_State *L)
{
    tp_vm *vm = lua_touserdata(L, 1);
    run on_stack;
    lua_gc(L, LUA_GCSTOP, 0); /* there is nothing to collect yet */
    tp_vm_open_libraries(L);
    lua_pushlightuserdata(L, &on_stack); /* LuaJIT takes memory for the first pointer of a region: tp_vm_run may not raise for one to its stack */
    lua_pop(L, 1);
    vm->host->open_state(L, vm->host, vm->agent);
    lua_getglobal(L, "package");
    vm->package = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tidepool.worker");
    lua_call(L, 1, 1);                        // worker
    tp_codec_open(L); /* after worker.lua has put its own functions in place of some standard ones */
    lua_getfield(L, -1, "describe");
    vm->describe = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, "make_driver");
    vm->make_driver = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, "read_integer");
    vm->read_integer = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, "broken_promise");
    vm->broken_promise = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, "store");
    vm->store = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, "finish_kept");
    vm->finish_kept = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, on_error);
    vm->on_error = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, encode_failure);
    vm->encode_failure = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, run_items);
    vm->run_items = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_gc(L, LUA_GCRESTART, -1);
    return 0;
}

int tp_vm_open(tp_vm **out, tp_host *host, tp_agent *agent, tp_error *err)
{
    tp_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return tp_error_oom(err, "worker state");
    vm->host = host;
    vm->agent = agent;
    vm->main = vm->L = tp_vm_new_state();
    if (!vm->main) {
        free(vm);
        return tp_error_oom(err, "worker state");
    }
    if (lua_cpcall(vm->main, open_state, vm)) {
        const char *why = lua_tostring(vm->main, -1);
        tp_error_set(err, TP_ESYS, "cannot open a worker's Lua state: %s", why ? why : "unknown error");
        tp_vm_close(vm);
        return -1;
    }
    agent->vm = vm;
    *out = vm;
    return 0;
}

void tp_vm_close(tp_vm *vm)
{
    if (!vm)
        return;
    vm->agent->vm = NULL;
    for (unsigned i = 0; i < vm->n_cached; i++)
        tp_ref_drop(vm->cache[i].image);
    tp_vm_close_state(vm->main);
    free(vm);
}
