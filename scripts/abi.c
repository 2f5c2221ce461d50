/* abi.c: writes the Lua module tidepool.base.abi: the numbers and layouts that C and Lua share, as
 * the C headers below define them. The Makefile runs it while it builds; nothing of it is in what
 * is built.
 *
 * Only what is listed here has a name in Lua; any other name is an error there. Modules should read
 * strings and numbers into locals when they are loaded: LuaJIT then compiles them as constants. */
#include "base/array.h"
#include "base/atomic.h"
#include "base/failure.h"
#include "base/lua_modules.h"
#include "codec/block.h"
#include "codec/message.h"
#include "embed/api.h"
#include "engine/work.h"
#include "engine/random.h"
#include "opencl/launch.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>

#define countof(a) (sizeof(a) / sizeof *(a))

/* ---- layouts ---- */

/* A member of a struct as FFI declares it: `name` may have the size of an array behind it. */
typedef struct field {
    const char *type, *name;
    size_t offset, size;
} field;

/* FFI's name for the type of a member. Where a C type is not here, the generator does not
 * compile. */
#define TYPE_NAME(x) \
    _Generic((x), double: "double", int32_t: "int32_t", uint32_t: "uint32_t", \
             uint64_t: "uint64_t", char *: "char *", const char *: "const char *")

#define MEMBER(s, member) (((s *)NULL)->member)
#define FIELD(s, member, name) \
    { TYPE_NAME(MEMBER(s, member)), name, offsetof(s, member), sizeof MEMBER(s, member) }
#define FIELD_AS(s, member, type, name)                           \
    {                                                             \
        type, name, offsetof(s, member), sizeof MEMBER(s, member) \
    }

/* Members that overlap (C's unions) stand together, the widest first. */
static const field scalar_fields[] = {
    FIELD(tp_scalar, as.number, "number"),
    FIELD(tp_scalar, as.pinned, "pinned"),
    FIELD(tp_scalar, as.string.at, "at"),
    FIELD(tp_scalar, as.string.length, "length"),
    FIELD(tp_scalar, kind, "kind"),
    FIELD(tp_scalar, pinned_length, "pinned_length"),
};

static const field text_fields[] = {
    FIELD(tp_text, bytes, "bytes"),
    FIELD(tp_text, used, "used"),
    FIELD(tp_text, capacity, "capacity"),
};

/* Declared signed, unlike in C: LuaJIT converts a signed integer to a double in one instruction. */
static const field draws_fields[] = {
    FIELD_AS(tp_draws, map, "int64_t", "map[2]"),
    FIELD(tp_draws, first, "first"),
    FIELD_AS(tp_draws, state, "int64_t", "state[2]"),
    FIELD_AS(tp_draws, luajit, "int64_t", "luajit[4]"),
    FIELD(tp_draws, at, "at"),
    FIELD(tp_draws, seeded_at, "seeded_at"),
};
_Static_assert(sizeof MEMBER(tp_draws, map) == 2 * sizeof(int64_t), "a key is two halves");
_Static_assert(sizeof MEMBER(tp_draws, luajit) == 4 * sizeof(int64_t), "LuaJIT's state is four");

/* "$" stands for the element type, which lua/tidepool/array.lua puts in. */
static const field view_fields[] = {
    FIELD_AS(tp_array_view, data, "$ *", "elements"),
    FIELD(tp_array_view, length, "length"),
    FIELD(tp_array_view, columns, "columns"),
    FIELD(tp_array_view, planes, "planes"),
    FIELD_AS(tp_array_view, memory, "uint8_t *", "memory"),
};

/* Lua adds offsets to a tp_work pointer: the draws are its beginning, and its ctl[0], an int32_t,
 * is the running item's offset. */
_Static_assert(offsetof(tp_work, draws) == 0, "a pointer to work is one to its draws");
_Static_assert(sizeof(_Atomic int32_t) == sizeof(int32_t), "an atomic integer is an integer");

static void print_padding(const char *name, size_t bytes)
{
    if (bytes > 0)
        printf("char %s[%zu]; ", name, bytes);
}

/* The members of a struct in the order of their offsets; those that overlap become a union. Its
 * size is the struct's. */
static void print_struct(const char *name, size_t size, const field *fields, size_t n)
{
    printf("abi.%s = [[struct { ", name);
    size_t end = 0;
    for (size_t i = 0, next; i < n; i = next) {
        size_t begin = fields[i].offset, until = begin + fields[i].size;
        char padding[24];
        snprintf(padding, sizeof padding, "before_%zu", begin);
        print_padding(padding, begin - end);
        for (next = i + 1; next < n && fields[next].offset < until; next++)
            ;
        if (next > i + 1)
            printf("union { ");
        for (size_t k = i; k < next; k++) {
            bool is_inside = fields[k].offset > begin;
            if (is_inside)
                printf("struct { char before_%s[%zu]; ", fields[k].name, fields[k].offset - begin);
            printf("%s %s; ", fields[k].type, fields[k].name);
            if (is_inside)
                printf("}; ");
        }
        if (next > i + 1)
            printf("}; ");
        end = until;
    }
    print_padding("rest", size - end);
    printf("}]]\nabi.%s_size = %zu\n\n", name, size);
}

/* ---- numbers ---- */

typedef struct number {
    const char *name;
    long value;
} number;

static const number limits[] = {
    { "COLUMNS_MAX", TP_COLUMNS_MAX },
    { "TEXT_STRING_MAX", TP_TEXT_STRING_MAX },
    { "STRING_MAX", TP_STRING_MAX },
    { "GROUP", TP_GROUP },
    { "LANES", TP_LANES },
    { "WORK_GROUP_MAX", TP_WORK_GROUP_MAX },
    { "KERNEL_COLUMNS_MAX", TP_KERNEL_COLUMNS_MAX },
    { "KERNEL_ARGUMENTS_MAX", TP_ARGUMENTS_MAX },
    { "KERNEL_FAILURES_MAX", TP_FAILURES_MAX },
    { "KERNEL_DETAILS_MAX", TP_DETAILS_MAX },
    /* offsets of the flags in tp_array, which Lua sets when elements change */
    { "ARRAY_TOUCHED", offsetof(tp_array, is_touched) },
    { "ARRAY_EXPOSED", offsetof(tp_array, is_exposed) },
};

static const number types[] = {
#define NUMBER(name, in_lua, in_c) { #name, TP_##name },
    TP_ELEMENT_TYPES(NUMBER)
#undef NUMBER
    { "MIXED", TP_MIXED },
};

static const number blocks[] = {
    { "COLUMNS", TP_BLOCK_COLUMNS },
    { "VALUES", TP_BLOCK_VALUES },
    { "FAILURE", TP_BLOCK_FAILURE },
    { "RETRY", TP_BLOCK_RETRY },
    { "DONE", TP_BLOCK_DONE },
    { "PART", TP_BLOCK_PART },
    { "PARTIALS", TP_BLOCK_PARTIALS },
};

static const number scalars[] = {
    { "ABSENT", TP_SCALAR_ABSENT },
    { "NIL", TP_SCALAR_NIL },
    { "FALSE", TP_SCALAR_FALSE },
    { "TRUE", TP_SCALAR_TRUE },
    { "NUMBER", TP_SCALAR_NUMBER },
    { "STRING", TP_SCALAR_STRING },
    { "PINNED", TP_SCALAR_PINNED },
    { "SHARED", TP_SCALAR_SHARED },
};

/* Kinds of kernel arguments, by their names in gpu/translate/translate.lua; both `number` and
 * `length` are passed as TP_ARG_VALUE. */
static const number arguments[] = {
    { "first", TP_ARG_FIRST },
    { "count", TP_ARG_COUNT },
    { "input", TP_ARG_INPUT },
    { "output", TP_ARG_OUTPUT },
    { "failed", TP_ARG_FAILED },
    { "number", TP_ARG_VALUE },
    { "length", TP_ARG_VALUE },
    { "array", TP_ARG_ARRAY },
    { "key", TP_ARG_KEY },
    { "index", TP_ARG_INDEX },
    { "details", TP_ARG_DETAILS },
};

static const number steps[] = {
    { "END", TP_STEP_END },
    { "RESULT", TP_STEP_RESULT },
    { "FAILURE", TP_STEP_FAILURE },
    { "LATER", TP_STEP_LATER },
};

static const number atomics[] = {
    { "ADD", TP_ATOMIC_ADD },
    { "MAX", TP_ATOMIC_MAX },
    { "MIN", TP_ATOMIC_MIN },
    { "SWAP", TP_ATOMIC_SWAP },
};

static void print_numbers(const char *name, const number *numbers, size_t n)
{
    printf("abi.%s = strict {\n", name);
    for (size_t i = 0; i < n; i++)
        printf("  %s = %ld,\n", numbers[i].name, numbers[i].value);
    printf("}\n\n");
}

/* ---- characters ---- */

typedef struct character {
    const char *name;
    char value;
} character;

static const character signs[] = {
    { "OWN", TP_SIGN_OWN },
    { "FOREIGN", TP_SIGN_FOREIGN },
    { "KEPT", TP_SIGN_KEPT },
    { "DROPPED", TP_SIGN_DROPPED },
};

static const character columns[] = {
    { "DOUBLES", TP_COLUMN_DOUBLES },
    { "SCALARS", TP_COLUMN_SCALARS },
};

static void print_characters(const char *name, const character *characters, size_t n)
{
    printf("abi.%s = strict {\n", name);
    for (size_t i = 0; i < n; i++)
        printf("  %s = \"%c\",\n", characters[i].name, characters[i].value);
    printf("}\n\n");
}

int main(void)
{
    printf(
        "--- The numbers and layouts that C and Lua share. Made by scripts/abi.c; do not edit.\n\n"
        "local meta = { __index = function(_, name) error((\"the ABI has no "
        "%%s\"):format(tostring(name)), 2) end }\n"
        "local function strict(t) return setmetatable(t, meta) end\n\n"
        "local abi = strict {}\n\n");
    printf("-- Element types by their numbers, from 1: as users write them, and as C "
           "does.\nabi.types = { ");
#define IN_LUA(name, in_lua, in_c) "\"" #in_lua "\", "
#define IN_C(name, in_lua, in_c) "\"" #in_c "\", "
    printf("%s}\nabi.c_types = { %s}\n\n", TP_ELEMENT_TYPES(IN_LUA), TP_ELEMENT_TYPES(IN_C));
    printf("-- What core.job.item gives of a failure, in this order: fields of a "
           "tidepool.Failure.\nabi.failure = { ");
#define FIELD_NAME(name, in_lua) "\"" #in_lua "\", "
    printf("%s}\n\n", TP_FAILURE_FIELDS(FIELD_NAME));
    printf("-- Kinds of failures.\nabi.kind = strict {\n");
#define KIND(kind, name, may_retry) printf("  %s = \"%s\",\n", #kind, name);
    TP_FAILURE_KINDS(KIND)
    printf("}\n\n-- What is raised where there is no memory, by LuaJIT too.\nabi.NO_MEMORY = "
           "\"%s\"\n\n",
           TP_NO_MEMORY);
    printf("-- How the names of our chunks begin, behind the \"=\".\nabi.CHUNKS = \"%s\"\n\n",
           TP_LUA_CHUNKS);
    print_numbers("type", types, countof(types));
    print_numbers("block", blocks, countof(blocks));
    print_numbers("scalar", scalars, countof(scalars));
    print_numbers("argument", arguments, countof(arguments));
    print_numbers("step", steps, countof(steps));
    print_numbers("atomic", atomics, countof(atomics));
    print_characters("sign", signs, countof(signs));
    print_characters("column", columns, countof(columns));
    print_struct("scalar_struct", sizeof(tp_scalar), scalar_fields, countof(scalar_fields));
    print_struct("text_struct", sizeof(tp_text), text_fields, countof(text_fields));
    print_struct("draws_struct", sizeof(tp_draws), draws_fields, countof(draws_fields));
    print_struct("view_struct", sizeof(tp_array_view), view_fields, countof(view_fields));
    for (size_t i = 0; i < countof(limits); i++)
        printf("abi.%s = %ld\n", limits[i].name, limits[i].value);
    printf("\nreturn abi\n");
    return ferror(stdout) || fclose(stdout) ? 1 : 0;
}
