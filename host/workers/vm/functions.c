/* functions.c: functions that the state has loaded, from their images. */
#include "workers/vm/vm_private.h"

#include <string.h>

void tp_vm_forget(tp_vm *vm, loaded *f)
{
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->fn);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->error);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->specialised);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->changes);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->setups);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->captured);
    tp_ref_drop(f->image);
}

/* A free entry of the cache, if need be that of the function that was used longest ago. */
static loaded *make_room(tp_vm *vm)
{
    if (vm->n_cached < CACHED_MAX)
        return &vm->cache[vm->n_cached++];
    loaded *oldest = &vm->cache[0];
    for (loaded *f = vm->cache; f < vm->cache + CACHED_MAX; f++)
        if (f->used < oldest->used)
            oldest = f;
    tp_vm_forget(vm, oldest);
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

void tp_vm_take_back(tp_vm *vm, lua_State *L)
{
    if (lua_gethookmask(L)) {
        lua_sethook(L, NULL, 0, 0); /* first, so that the hook does not run in the code below */
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->set_hook);
        lua_call(L, 0, 0);
    }
    if (tp_standard_is_changed(vm->standard))
        tp_standard_restore(L, vm->standard);
    if (*vm->marks) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->take_back);
        lua_call(L, 0, 0);
    }
}

bool tp_vm_is_as_expected(tp_vm *vm, lua_State *L)
{
    return !lua_gethookmask(L) && !*vm->marks && !tp_standard_is_changed(vm->standard);
}

/* Every loader of a module is called through this function: what a module changes in standard
 * libraries while it loads is kept. Upvalues: vm, the loader. */
static int load_module(lua_State *L)
{
    tp_vm *vm = lua_touserdata(L, lua_upvalueindex(1));
    int n = lua_gettop(L);
    /* NULL: the state is being opened */
    bool is_watched = vm->standard && !tp_standard_is_changed(vm->standard);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    lua_call(L, n, LUA_MULTRET);
    if (is_watched)
        tp_standard_adopt(L, vm->standard);
    return lua_gettop(L);
}

/* Takes the place of a function in package.loaders: returns what that one returns, with the loader
 * wrapped by load_module. Upvalues: vm, the function. */
static int find_module(lua_State *L)
{
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    lua_call(L, 1, LUA_MULTRET);
    if (lua_isfunction(L, 1)) {
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushvalue(L, 1);
        lua_pushcclosure(L, load_module, 2);
        lua_replace(L, 1);
    }
    return lua_gettop(L);
}

void tp_vm_wrap_loaders(tp_vm *vm, lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaders");
    for (int i = 1, n = (int)lua_objlen(L, -1); i <= n; i++) {
        lua_pushlightuserdata(L, vm);
        lua_rawgeti(L, -2, i);
        lua_pushcclosure(L, find_module, 2);
        lua_rawseti(L, -2, i);
    }
    lua_pop(L, 2);
}

/* Decodes the function of an image. What modules that it needs change in standard libraries is
 * kept. */
static loaded decode_image(tp_vm *vm, lua_State *L, tp_image *image)
{
    loaded made = { .fn = LUA_NOREF,
                    .error = LUA_NOREF,
                    .specialised = LUA_NOREF,
                    .changes = LUA_REFNIL,
                    .setups = LUA_REFNIL,
                    .captured = LUA_NOREF,
                    .used = ++vm->tick };
    tp_error err = { 0 };
    const tp_buf *m = &image->message;
    tp_vm_take_back(vm, L);
    /* While modules are loaded, random numbers are the same in every state, and not those of the
     * item that happens to be the state's first. */
    tp_work *w = vm->worker->current;
    tp_draws before = w->draws;
    tp_draws_seed(&w->draws, tp_work_running(w), 0);
    tp_captured *captured = tp_captured_push(L);
    int at = lua_gettop(L);
    if (tp_decode_image(L, m->data, m->len, m->refs, m->nrefs, captured, &err) == TP_IMAGE_VALUES) {
        made.may_change = lua_toboolean(L, -1); // fn path cpath setups changes may_change
        lua_pop(L, 1);
        made.changes = luaL_ref(L, LUA_REGISTRYINDEX);
        made.setups = luaL_ref(L, LUA_REGISTRYINDEX);
        set_paths(vm, L);
        made.fn = luaL_ref(L, LUA_REGISTRYINDEX);
    } else if (err.code == TP_EMEMORY) {
        tp_codec_raise_memory(L);
    } else {
        lua_pushstring(L, err.message);
        made.error = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_settop(L, at);
    if (made.fn >= 0 && tp_captured_count(captured) > 0)
        made.captured = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_settop(L, at - 1);
    w->draws = before;
    if (tp_standard_is_changed(vm->standard))
        tp_standard_adopt(L, vm->standard);
    return made;
}

loaded *tp_vm_load(tp_vm *vm, lua_State *L, tp_image *image)
{
    for (unsigned i = 0; i < vm->n_cached; i++)
        if (vm->cache[i].image == image) {
            vm->cache[i].used = ++vm->tick;
            return &vm->cache[i];
        }
    loaded made = decode_image(vm, L, image);
    made.image = tp_ref_hold(image);
    loaded *f = make_room(vm);
    *f = made;
    return f;
}

bool tp_vm_push_function(const tp_vm *vm, lua_State *L, const tp_work *work)
{
    for (unsigned i = 0; i < vm->n_cached; i++)
        if (vm->cache[i].image == work->terms->image && vm->cache[i].fn != LUA_NOREF) {
            lua_rawgeti(L, LUA_REGISTRYINDEX, vm->cache[i].fn);
            return true;
        }
    return false;
}

void tp_vm_set_up(tp_vm *vm, lua_State *L, tp_image *image)
{
    int setups = tp_vm_load(vm, L, image)->setups;
    if (setups == LUA_REFNIL)
        return;
    tp_work *w = vm->worker->current;
    tp_draws before = w->draws; /* as in decode_image */
    tp_draws_seed(&w->draws, tp_work_running(w), 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->set_up);
    lua_rawgeti(L, LUA_REGISTRYINDEX, setups);
    lua_call(L, 1, 0);
    w->draws = before;
    tp_standard_adopt(L, vm->standard);
    /* again, since nested items may have pushed it out of the cache */
    loaded *f = tp_vm_load(vm, L, image);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->setups);
    f->setups = LUA_REFNIL;
}

outputs tp_vm_outputs_of(const tp_terms *terms, const loaded *f)
{
    static const uint8_t one_double[] = { TP_DOUBLE };
    static const uint8_t scalars[TP_COLUMNS_MAX] = {
        TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED,
    };
    const tp_returns *returns = &terms->returns;
    if (terms->discards)
        return (outputs){ .is_promised = returns->columns > 0 };
    if (returns->columns)
        return (outputs){ returns->columns, returns->type, .is_kept = true, .is_promised = true };
    if (f->shape == SHAPE_NUMBER)
        return (outputs){ 1, one_double, .is_kept = true };
    return (outputs){ f->shape, scalars, .is_kept = true };
}

void tp_vm_push_specialised(tp_vm *vm, lua_State *L, loaded *f, const char *name,
                            const tp_block *in, const outputs *out)
{
    char signature[2 * TP_COLUMNS_MAX + 2], *p = signature;
    bool is_foreign = in->capacity == 0; /* the inputs lie in typed arrays of users */
    for (uint32_t c = 0; c < in->columns; c++)
        *p++ = (char)((is_foreign ? TP_SIGN_FOREIGN : TP_SIGN_OWN) + in->type[c]);
    *p++ = out->is_kept ? TP_SIGN_KEPT : TP_SIGN_DROPPED;
    for (uint32_t c = 0; c < out->columns; c++)
        *p++ = (char)(TP_SIGN_OWN + out->type[c]);
    size_t len = (size_t)(p - signature);
    if (f->specialised == LUA_NOREF) {
        lua_newtable(L);
        f->specialised = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->specialised);            // loops
    lua_pushlstring(L, signature, len);
    lua_rawget(L, -2);                                            // loops loop
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->specialise);
        lua_rawgeti(L, LUA_REGISTRYINDEX, f->fn);
        lua_pushstring(L, name);
        lua_pushlstring(L, signature, len);
        lua_call(L, 3, 1);                                        // loops loop
        lua_pushlstring(L, signature, len);
        lua_pushvalue(L, -2);
        lua_rawset(L, -4);
    }
    lua_remove(L, -2);                                            // loop
}
