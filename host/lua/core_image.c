/* core_image.c: images and samplers of devices that scripts drive by hand. */
#include "lua/core_private.h"

#include "base/array.h"
#include "codec/codec.h"
#include "opencl/images.h"

/* The memory at `index`, in which `size` bytes begin at the offset behind it. */
static char *check_elements(lua_State *L, int index, size_t size)
{
    tp_array *a = tp_core_check_memory(L, index);
    lua_Number offset = luaL_checknumber(L, index + 1);
    luaL_argcheck(L, offset >= 0 && offset <= (double)a->size, index + 1, "an offset expected");
    luaL_argcheck(L, size <= a->size - (size_t)offset, index, "more bytes than the memory has");
    return (char *)a->data + (size_t)offset;
}

static tp_buffer *check_image(lua_State *L, int index)
{
    tp_buffer *b = tp_core_check_ref(L, index, &tp_buffer_type);
    luaL_argcheck(L, b->region[0], index, "an image expected");
    return b;
}

/* core.image.new(queue, columns, rows, planes, channels, type, is normalized, memory, offset) ->
 * buffer, or nil and a message. Rows and planes: 0 of those that it does not have. */
static int l_image_new(lua_State *L)
{
    tp_queue *q = tp_core_check_queue(L, 1);
    tp_image_shape shape = { .is_normalized = lua_toboolean(L, 7) };
    size_t size = 1;
    shape.channels = (unsigned)luaL_checkinteger(L, 5);
    luaL_argcheck(L, shape.channels == 1 || shape.channels == 2 || shape.channels == 4, 5,
                  "1, 2 or 4 expected");
    lua_Integer type = luaL_checkinteger(L, 6);
    luaL_argcheck(L, type >= 0 && type < TP_TYPES, 6, "an element type expected");
    shape.type = (tp_type)type;
    for (int i = 0; i < 3; i++) {
        lua_Number n = luaL_checknumber(L, 2 + i);
        luaL_argcheck(L, n >= (i ? 0 : 1) && n < 1e6, 2 + i, "a size expected");
        if (n > 0)
            shape.dimensions = (unsigned)i + 1;
        shape.size[i] = n > 0 ? (size_t)n : 1;
        size *= shape.size[i];
    }
    size *= tp_type_size(shape.type) * shape.channels;
    const char *elements = check_elements(L, 8, size);
    tp_error err = { 0 };
    tp_buffer *b;
    if (tp_buffer_open_image(&b, q, &shape, elements, &err))
        return tp_core_push_message(L, &err);
    tp_codec_push_ref(L, &b->ref);
    tp_ref_drop(b);
    return 1;
}

/* core.image.read(queue, image, memory, offset) -> true, or nil and a message */
static int l_image_read(lua_State *L)
{
    tp_buffer *b = check_image(L, 2);
    char *to = check_elements(L, 3, b->size);
    tp_error err = { 0 };
    int rc = tp_buffer_read_image(tp_core_check_queue(L, 1), b, to, &err);
    tp_array_touch(tp_core_check_memory(L, 3));
    return tp_core_push_true_or(L, rc, &err);
}

/* core.image.write(queue, image, memory, offset) -> true, or nil and a message */
static int l_image_write(lua_State *L)
{
    tp_buffer *b = check_image(L, 2);
    const char *from = check_elements(L, 3, b->size);
    tp_error err = { 0 };
    int rc = tp_buffer_write_image(tp_core_check_queue(L, 1), b, from, &err);
    return tp_core_push_true_or(L, rc, &err);
}

/* core.image.sampler(queue, is normalized, address, is linear) -> an argument for launches, or nil
 * and a message. address: 0 to 4, in OpenCL's order. */
static int l_image_sampler(lua_State *L)
{
    lua_Integer address = luaL_checkinteger(L, 3);
    luaL_argcheck(L, address >= 0 && address <= 4, 3, "a way to address expected");
    tp_sampling how = { lua_toboolean(L, 2), CL_ADDRESS_NONE + (cl_addressing_mode)address,
                        lua_toboolean(L, 4) ? CL_FILTER_LINEAR : CL_FILTER_NEAREST };
    cl_sampler sampler;
    tp_error err = { 0 };
    if (tp_queue_sampler(tp_core_check_queue(L, 1), &how, &sampler, &err))
        return tp_core_push_message(L, &err);
    lua_pushlstring(L, (const char *)&sampler, sizeof sampler);
    return 1;
}

static const luaL_Reg functions[] = {
    { "new", l_image_new },
    { "read", l_image_read },
    { "write", l_image_write },
    { "sampler", l_image_sampler },
    { NULL, NULL },
};

void tp_core_register_image(lua_State *L)
{
    tp_codec_ref_type(L, &tp_buffer_type);
    lua_pop(L, 1);
    tp_core_register(L, "image", functions);
}
