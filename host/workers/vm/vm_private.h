/* vm_private.h: what the files of this folder share: the Lua state of a worker.
 *
 * Work is run by one protected call (running.c). Columns go through a specialised loop, which is
 * made for each function in Lua (engine/specialise.lua) and compiled: it reads and writes the
 * blocks' memory, so that an item costs no call into C. All other items are decoded, called and
 * encoded one by one. An error ends the protected call; the item that raised it gets a failure
 * (outcome.c) and the rest runs in another protected call, so that only failures cost extra.
 *
 * functions.c loads functions, beside.c runs items that wait beside each other as coroutines,
 * memory.c sees to what they leave; vm.c opens and closes the state. */
#ifndef TP_WORKERS_VM_VM_PRIVATE_H
#define TP_WORKERS_VM_VM_PRIVATE_H

#include "codec/captured.h"
#include "codec/standard.h"
#include "workers/state.h"
#include "workers/vm.h"

#include <lauxlib.h>
#include <lua.h>

enum {
    CACHED_MAX = 64,
    TEXT_MIN = 4096,
    TEXT_OF_ITEM = 32,
    SMALL_HEAP_KIB = 4096
};

/* The results that a function is expected to have, judging by earlier ones: one number each, up to
 * so many scalars each, or anything. */
enum { SHAPE_NUMBER = 0, SHAPE_ANY = TP_COLUMNS_MAX + 1 };

enum { RUNS_NOTHING = UINT32_MAX };

_Static_assert(4 * CACHED_MAX <= TP_STATE_REFERENCES, "a loaded function has up to four");

/* A function that the state has loaded. */
typedef struct loaded {
    tp_image *image; /* held */
    /* reference in the registry; LUA_NOREF: it could not be loaded, and the reference `error` says
     * why */
    int fn;
    int error;
    /* reference: its specialised loops by signature, see tp_vm_push_specialised; LUA_NOREF: none
     * yet */
    int specialised;
    /* reference: what must be run before its first item; LUA_REFNIL: nothing, or it has been */
    int setups;
    /* reference: changes to standard libraries that apply while it runs (standard.h); LUA_REFNIL:
     * none */
    int changes;
    int captured;    /* reference: the captured tables of its image, a tp_captured */
    /* it may change standard libraries, so that they are checked after each of its items */
    bool may_change;
    unsigned shape;   /* SHAPE_*; from 1 on: the number of columns of scalars */
    unsigned text;    /* average bytes of strings per item in the last block of scalars */
    uint64_t used;    /* tick of the last use */
} loaded;

struct tp_vm {
    tp_worker *worker;
    lua_State *main; /* owned */
    lua_State *L;    /* where items run: main, or the coroutine that waits */
    int pause, resume, restore, run_items, on_error, add_traceback, box, encode_failure, describe,
        specialise, read_integer, broken_promise, store, run_batch, finish_kept, leave, begin_item,
        begin, keep, reset, turn, package, collect; /* registry references */
    loaded cache[CACHED_MAX];
    unsigned n_cached;
    uint64_t tick;
    tp_standard *standard; /* the record of changes to the state's standard libraries */
    /* points into a cdata that the state keeps alive; not 0 when worker.lua has something to undo
     * after the item */
    int32_t *marks;
    int take_back;     /* reference: worker.lua's function that does that */
    int set_hook;      /* reference: debug.sethook */
    int set_up;        /* reference: worker.lua's function that runs setups */
    bool is_running;   /* an item is running */
    const tp_work *beginning; /* the work whose item is being begun as a coroutine; NULL: none */
    bool wants_collection; /* memory ran out: collect before the next item */
    tp_limit limit;    /* `bytes` is 0 when there is no limit */
    int collected_kib; /* memory in use after the last forced collection, see restart_collector */
    /* while tracing: when the running coroutine item was resumed (uv_hrtime), and the thread's
     * processor time then; 0: none runs */
    uint64_t step_ns, step_processor_ns;
};

/* Work that is being run in the state. */
typedef struct run {
    tp_vm *vm;
    tp_work *work;
    uint32_t end; /* offset behind the last item, in the input block */
    /* of the function, kept alive by tp_vm_run_items on the stack; NULL: it captures no tables */
    tp_captured *captured;
    /* offset of the first of the items that are being run in one go, see
     * tp_vm_note_begin; RUNS_NOTHING: none */
    uint32_t begun;
    /* its item is a coroutine (`concurrent_inputs`), which engine/loop.lua resumes */
    bool is_beside;
    bool only_numbers, only_scalars; /* each result encoded so far was one number; was scalars */
} run;

/* Where a specialised loop stores results, see new_output. */
typedef struct outputs {
    uint32_t columns;
    const uint8_t *type; /* tp_type or TP_MIXED */
    bool is_kept, is_promised;
} outputs;

/* What the state was doing when it is to run something else. */
typedef struct scope {
    int outside, top;
    bool is_nested;
} scope;

/* ---- memory.c ---- */

/* (): collects all garbage */
int tp_vm_collect_now(lua_State *L);

/* Has memory run out since this was last asked? Then what the items have left is to be collected,
 * or it would count against the next ones. An item may have caught that error, or been told of it
 * by a coroutine as of any other. */
bool tp_vm_should_collect(tp_vm *vm);

/* ---- outcome.c ---- */

/* Stores the values first.. of L as the item's results. Raises out of memory. */
int tp_vm_keep_results(run *r, lua_State *L, int first, int n, tp_error *err);

/* () -> the traceback of the code that raised, without this function and the message handler */
int tp_vm_add_traceback(lua_State *L);

/* Message handler: (error value) -> the state's box { value, traceback }. The box exists
 * beforehand, and without memory the traceback is left out, so that the raised value is never lost
 * here. */
int tp_vm_on_error(lua_State *L);

/* Pushes the captured tables of an image that the state has loaded; NULL if it has none. */
tp_captured *tp_vm_push_captured(tp_vm *vm, lua_State *L, const tp_image *image);

/* (failing, is raised, value, traceback): describes the error and encodes it into the block. */
int tp_vm_encode_failure(lua_State *L);

/* Pops the error value at the top of L and makes it the failure of item work->at, which is over
 * then (tp_work_fail). */
void tp_vm_fail_item(run *r, lua_State *L, tp_failure_kind kind);

/* ---- functions.c ---- */

/* Lets go of a function: what the registry has of it, and its image. */
void tp_vm_forget(tp_vm *vm, loaded *f);

/* Undoes what items have changed in the state apart from their results: the hook, standard
 * libraries, and what worker.lua has noted. Raises out of memory; then it may be called again. */
void tp_vm_take_back(tp_vm *vm, lua_State *L);

/* Are the standard libraries as the state has recorded, and is nothing to be undone? */
bool tp_vm_is_as_expected(tp_vm *vm, lua_State *L);

/* Has every loader of package.loaders called through a function that keeps what modules change in
 * standard libraries while they load. */
void tp_vm_wrap_loaders(tp_vm *vm, lua_State *L);

/* Finds the function of the image in the cache, or loads it. Raises only out of memory. */
loaded *tp_vm_load(tp_vm *vm, lua_State *L, tp_image *image);

/* Runs what must be run before the first item of an image's function. Its changes to standard
 * libraries are kept. Raises what it raises. */
void tp_vm_set_up(tp_vm *vm, lua_State *L, tp_image *image);

/* What a specialised loop of f stores. */
outputs tp_vm_outputs_of(const tp_terms *terms, const loaded *f);

/* Pushes the specialised loop of f for inputs like those in `in` and these results. A function may
 * have several, by their signatures (block.h): for lists of doubles, for float arrays, ... Raises
 * out of memory. */
void tp_vm_push_specialised(tp_vm *vm, lua_State *L, loaded *f, const char *name,
                            const tp_block *in, const outputs *out);

/* ---- running.c ---- */

/* Notes that up to `count` items from that offset on are run in one go. */
void tp_vm_note_begin(run *r, uint32_t offset, uint32_t count);

/* Notes that the items before that offset are over, if any were begun. */
void tp_vm_note_end(run *r, uint32_t until);

/* Pushes the arguments of the item at that offset; gives how many. */
int tp_vm_push_arguments(run *r, lua_State *L, uint32_t at);

/* Item w->at has returned the n values at first.. of L. They are stored, or the reason why they
 * cannot be is its failure. Raises out of memory. */
void tp_vm_store_item(run *r, lua_State *L, int first, int n);

/* Makes the state ready for the function of the run's work: loads it, applies its changes to
 * standard libraries, runs what is to run before it. Raises when that cannot be done. */
loaded *tp_vm_prepare(run *r, lua_State *L);

/* (run): runs items until the work is over or one raises. */
int tp_vm_run_items(lua_State *L);

/* (vm): what their names say, for tp_vm_call_protected */
int tp_vm_take_back_protected(lua_State *L);
int tp_vm_pause_protected(lua_State *L);
int tp_vm_resume_protected(lua_State *L);

/* Calls a function with the vm and the n values on top. It leaves `results` values, or none when
 * memory ran out. Raises nothing. */
void tp_vm_call_protected(tp_vm *vm, lua_State *L, int fn, int n, int results);

/* Pops the error at the top of L, with which a protected call has ended, and makes it the failure
 * of the item that ran, or of the first one when none was begun. An error after the last item (no
 * memory to note what was learnt) is dropped: all items have their results. */
void tp_vm_end_in_error(run *r, lua_State *L, int status);

/* Raises nothing, nor does the next one. */
scope tp_vm_open_scope(tp_vm *vm, lua_State *L);

void tp_vm_close_scope(tp_vm *vm, lua_State *L, const scope *s);

/* The work, about to be run. */
run tp_vm_run_of(tp_vm *vm, tp_work *w);

/* ---- beside.c ---- */

/* (run): begins the item of the run's work as a coroutine. */
int tp_vm_begin_item(lua_State *L);

/* (run, ...): stores the results of its item */
int tp_vm_keep_values(lua_State *L);

/* (vm): the item that ran is over */
int tp_vm_reset_libraries(lua_State *L);

#endif
