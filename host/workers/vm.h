/* vm.h: the Lua state of a worker: keeps the functions that it has loaded, and runs work, protected.
 *
 * A tp_vm belongs to one thread and is never entered by another. It knows its worker and the work, and
 * neither a host nor a job: those are behind tp_worker_type and tp_sink. */
#ifndef TP_VM_H
#define TP_VM_H

#include "engine/work.h"

typedef struct tp_vm tp_vm;

/* Opens a state for the worker (worker->vm), on the thread that will use it. */
int tp_vm_open(tp_worker *worker, tp_error *err);

/* Has the state do what it must before it is closed: instances of classes leave. On its thread, between items. Raises nothing. */
void tp_vm_leave(tp_vm *vm);

/* Accepts NULL. Runs finalizers. */
void tp_vm_close(tp_vm *vm);

/* Runs the items of the work, the worker's `current`: all of them, unless it is asked to stop. An item
 * that raises has a failure as its result; nothing is raised here. The caller ends the work then. */
void tp_vm_run(tp_vm *vm, tp_work *work);

/* The state may have so many bytes from here on, of which it has tp_vm_used(); 0: as many as there are. What it asks for beyond that is an error, "not
 * enough memory", which is of the item that runs: *refused is 1 + what *item is then (both relaxed; they outlive the limit). `shown` is what messages say
 * that the limit is. */
void tp_vm_limit(tp_vm *vm, uint64_t bytes, uint64_t shown, _Atomic uint32_t *refused, const _Atomic int32_t *item);

/* Bytes that the state has, garbage included. */
uint64_t tp_vm_used(const tp_vm *vm);

/* Collects all garbage. What finalizers raise is dropped. */
void tp_vm_collect(tp_vm *vm);

/* While L, a coroutine of vm, waits inside a C function, items run on L. Gives what was there before, to be set again. */
struct lua_State *tp_vm_enter(tp_vm *vm, struct lua_State *L);

/* Opens the standard libraries, and FFI, in a state of tp_vm_new_state. Raises out of memory. */
void tp_vm_open_libraries(struct lua_State *L);

/* A new Lua state as all of the host's are made; NULL when out of memory. */
struct lua_State *tp_vm_new_state(void);

/* Closes a state that tp_vm_new_state has made. */
void tp_vm_close_state(struct lua_State *L);

#endif
