/* vm.h: the Lua state of an agent: keeps the functions that it has loaded, and runs slices, protected.
 *
 * A tp_vm belongs to one thread and is never entered by another. */
#ifndef TP_VM_H
#define TP_VM_H

#include "host.h"

typedef struct tp_vm tp_vm;

/* Opens a state for agent, on the thread that will use it. */
int tp_vm_open(tp_vm **out, tp_host *host, tp_agent *agent, tp_error *err);

/* Accepts NULL. Runs finalizers. */
void tp_vm_close(tp_vm *vm);

/* Runs the items of the slice and ends it with tp_job_finish. An item that raises has a failure as its result; nothing is
 * raised here. */
void tp_vm_run(tp_vm *vm, tp_slice *slice);

/* The failure of the item that slice was running when its thread ended: kind "crash". For tp_job_lose; user is not used. */
tp_block *tp_vm_crash(void *user, tp_slice *slice);

/* While L, a coroutine of vm, waits inside a C function, items run on L. Gives what was there before, to be set again. */
struct lua_State *tp_vm_enter(tp_vm *vm, struct lua_State *L);

/* Opens the standard libraries, and FFI, in a state of tp_vm_new_state. Raises out of memory. */
void tp_vm_open_libraries(struct lua_State *L);

/* A new Lua state as all of the host's are made; NULL when out of memory. */
struct lua_State *tp_vm_new_state(void);

/* Closes a state that tp_vm_new_state has made. */
void tp_vm_close_state(struct lua_State *L);

#endif
