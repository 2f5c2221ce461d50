/* memory.c: what the state may take of memory, and when what items have left is collected. */
#include "workers/vm/vm_private.h"

uint64_t tp_vm_used(const tp_vm *vm)
{
    return tp_state_used(vm->main);
}

void tp_vm_limit(tp_vm *vm, uint64_t bytes, uint64_t shown, _Atomic uint32_t *refused,
                 const _Atomic int32_t *item)
{
    vm->wants_collection |= vm->limit.has_refused;
    tp_limit_end(&vm->limit);
    if (bytes)
        tp_limit_begin(&vm->limit, vm->main, bytes, shown, refused, item);
}

int tp_vm_collect_now(lua_State *L)
{
    lua_gc(L, LUA_GCCOLLECT, 0);
    return 0;
}

void tp_vm_collect(tp_vm *vm)
{
    if (lua_cpcall(vm->main, tp_vm_collect_now, NULL))
        lua_pop(vm->main, 1);
}

bool tp_vm_should_collect(tp_vm *vm)
{
    bool should = vm->wants_collection || vm->limit.has_refused;
    vm->wants_collection = vm->limit.has_refused = false;
    return should;
}
