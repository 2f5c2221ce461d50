/* vm.h: the Lua state of a worker: keeps loaded functions, and runs work in protected calls.
 *
 * A tp_vm belongs to one thread and is never entered by another. It knows its worker and the work,
 * but neither a host nor a job: those are behind tp_worker_type and tp_sink. */
#ifndef TP_VM_H
#define TP_VM_H

#include "engine/work.h"

typedef struct tp_vm tp_vm;

/* Opens a state for the worker (worker->vm), on the thread that will use it. */
int tp_vm_open(tp_worker *worker, tp_error *err);

/* Does what must be done before the state is closed: instances of classes leave. On its thread,
 * between items. Raises nothing. */
void tp_vm_leave(tp_vm *vm);

/* Accepts NULL. Runs finalizers. */
void tp_vm_close(tp_vm *vm);

/* Runs the items of the work, which is the worker's `current`: all of them, unless it is asked to
 * stop. An item that raises gets a failure as its result; nothing is raised here. The caller then
 * closes the work. */
void tp_vm_run(tp_vm *vm, tp_work *work);

/* Begins the only item of the work, which is the worker's `current`, as a coroutine, and runs it up
 * to its first wait. From then on it is not current, tp_vm_turn goes on with it, and the worker's
 * type is told of its end, which may be now. False when it has not begun: then it has failed, or is
 * asked to stop, and the caller closes the work. Raises nothing. */
bool tp_vm_begin(tp_vm *vm, tp_work *work);

/* Goes on with such items (worker->n_waiting) where something has happened, and waits for that
 * until deadline_ns (uv_hrtime; UINT64_MAX: for ever) or until there is other work. Raises
 * nothing. */
void tp_vm_turn(tp_vm *vm, uint64_t deadline_ns);

/* For engine/loop.lua, which resumes such items. enter: the work becomes the worker's current one.
 * leave: the worker goes back to what it ran before; the item's changes to standard libraries are
 * set aside, as 2 values for tp_standard_resume or none, which are pushed. keep: stores the results
 * of an item that is over. At the index `fine` of L is whether it has succeeded, above it what it
 * has returned, or its error; at `captured` are the captured tables of its function. end: the work
 * is over. Only `leave` raises, out of memory. */
void tp_vm_enter_item(tp_vm *vm, tp_work *work);
int tp_vm_leave_item(tp_vm *vm, struct lua_State *L, tp_work *work);
void tp_vm_keep_item(tp_vm *vm, struct lua_State *L, tp_work *work, int captured, int fine);
void tp_vm_end_item(tp_vm *vm, tp_work *work);

/* Limits the state's memory to `bytes`, of which it uses tp_vm_used() already; 0: no limit. Asking
 * for more raises "not enough memory" in the running item, and sets *refused to 1 + *item (both
 * relaxed; both must outlive the limit). `shown` is the limit that messages name. */
void tp_vm_limit(tp_vm *vm, uint64_t bytes, uint64_t shown, _Atomic uint32_t *refused,
                 const _Atomic int32_t *item);

/* Bytes that the state uses, garbage included. */
uint64_t tp_vm_used(const tp_vm *vm);

/* Collects all garbage. What finalizers raise is dropped. */
void tp_vm_collect(tp_vm *vm);

/* While the coroutine L of the vm waits inside a C function, items run on L. Returns the state that
 * they ran on before, to be set again with this function. */
struct lua_State *tp_vm_enter(tp_vm *vm, struct lua_State *L);

/* The main thread of its state. */
struct lua_State *tp_vm_state(const tp_vm *vm);

/* Pushes the function that the work calls; false, with nothing pushed, when the state has not
 * loaded it. Raises nothing. */
bool tp_vm_push_function(const tp_vm *vm, struct lua_State *L, const tp_work *work);

/* Is L the thread on which the state runs items, and not a coroutine of an item's? */
bool tp_vm_runs_on(const tp_vm *vm, const struct lua_State *L);

#endif
