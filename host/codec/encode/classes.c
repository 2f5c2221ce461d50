/* classes.c: writes classes, and the definitions of those that the other side may not have. A
 * definition is a message of its own, made once, and shared as long as the class stays as it is. */
#include "codec/encode/encoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_same_blob(const class_blob *a, const class_blob *b);

static bool is_same_ref(const tp_ref *a, const tp_ref *b)
{
    return a == b || (a->type == &tp_class_blob_type && b->type == &tp_class_blob_type &&
                      is_same_blob((const class_blob *)a, (const class_blob *)b));
}

static bool is_same_blob(const class_blob *a, const class_blob *b)
{
    const tp_buf *x = &a->message, *y = &b->message;
    if (strcmp(a->name, b->name) != 0 || x->len != y->len || x->nrefs != y->nrefs ||
        memcmp(x->data, y->data, x->len) != 0)
        return false;
    for (uint32_t i = 0; i < x->nrefs; i++) {
        if (!is_same_ref(x->refs[i], y->refs[i]))
            return false;
    }
    return true;
}

static int put_name(encoder *e, uint8_t tag, const char *name)
{
    return put_tag(e, tag) < 0 ? -1 : put_bytes(e, name, strlen(name));
}

int tp_encoder_put_ref(encoder *e, tp_ref *r)
{
    if (is_identity(e)) /* for an identity a host object is known by its kind alone */
        return put_tag(e, T_REF) < 0 ? -1
                                     : put_bytes(e, r->type->metatable, strlen(r->type->metatable));
    if (tp_buf_hold_ref(e->out, r) < 0)
        return tp_encoder_refuse_memory(e);
    return put_tag_u32(e, r->type == &tp_class_blob_type ? T_BLOB : T_REF, e->out->nrefs - 1);
}

/* Pushes a userdata that owns a new definition of the class, made of its metatable as it is now. On
 * failure e is refused, and nothing is pushed. */
static class_blob *push_definition(encoder *e, int index)
{
    lua_State *L = e->L;
    int top = lua_gettop(L);
    tp_ref **box = tp_codec_push_box(L, &tp_class_blob_type);
    const char *name = e->c->classes[index].name;
    class_blob *blob = calloc(1, sizeof *blob + strlen(name) + 1);
    if (!blob) {
        lua_settop(L, top);
        tp_encoder_refuse_memory(e);
        return NULL;
    }
    strcpy(blob->name, name);
    tp_ref_init(&blob->ref, &tp_class_blob_type);
    *box = &blob->ref;

    lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->mts);
    lua_rawgeti(L, -1, index + 1);             /* box mts mt */
    encoder in;
    tp_encoder_start(&in, e->top, L, &blob->message, e->flags & TP_ENCODE_IDENTITY);
    in.outer = e;
    in.defining = index;
    int rc = in.top->run(&in, lua_gettop(L), 1);
    lua_settop(L, rc < 0 ? top : top + 1);
    if (rc < 0) {
        tp_encoder_refuse(e, in.code, "%s", in.why);
        memcpy(e->path, in.path, in.npath);
        e->npath = in.npath;
        e->is_cut = in.is_cut;
        e->is_deep = in.is_deep;
        tp_encoder_at_name(e, "class", e->c->classes[index].name);
        return NULL;
    }
    blob->is_partial = in.is_partial;
    return blob;
}

/* Writes a class that travels with its definition. Inside the making of that definition the class
 * is only named: its table is there when the other side reads this. A definition that names classes
 * so can be used only inside theirs, and is not kept. */
static int put_defined(encoder *e, int index)
{
    struct codec *c = e->c;
    struct class *k = &c->classes[index];
    if (!is_identity(e) && k->blob && !k->blob->is_partial &&
        (k->origin == FOREIGN || k->epoch == c->epoch))
        return tp_encoder_put_ref(e, &k->blob->ref);
    encoder *out = e;
    while (out && out->defining != index)
        out = out->outer;
    if (out) {
        for (encoder *p = e; p != out; p = p->outer)
            p->is_partial = true;
        return put_name(e, T_DEFINED, k->name);
    }
    class_blob *blob = push_definition(e, index); /* box */
    if (!blob)
        return -1;
    k = &c->classes[index]; /* the array may have moved */
    if (is_identity(e)) {
        int written = put_name(e, T_BLOB, k->name) < 0
                          ? -1
                          : put_bytes(e, (const char *)blob->message.data, blob->message.len);
        lua_pop(e->L, 1);
        return written;
    }
    if (!blob->is_partial) {
        if (!k->blob || !is_same_blob(k->blob, blob)) {
            tp_ref_drop(k->blob);
            k->blob = tp_ref_hold(blob);
        }
        k->epoch = c->epoch;
        blob = k->blob;
    }
    int rc = tp_encoder_put_ref(e, &blob->ref);
    lua_pop(e->L, 1);
    return rc;
}

int tp_encoder_put_class(encoder *e, int index)
{
    const struct class *class = &e->c->classes[index];
    return class->origin == BY_NAME ? put_name(e, T_CLASS, class->name) : put_defined(e, index);
}

int tp_encoder_push_travels(lua_State *L, int mt)
{
    lua_pushvalue(L, mt);
    lua_pushliteral(L, "__travels");
    lua_rawget(L, -2);
    lua_remove(L, -2);
    return lua_type(L, -1);
}

int tp_encoder_refuse_class(encoder *e)
{
    lua_State *L = e->L;
    int top = lua_gettop(L);
    static const char *const fields[] = { "__name", "_NAME",       "_name",
                                          "name",   "__classname", "classname" };
    const char *name = NULL;
    for (size_t i = 0; !name && i < countof(fields); i++) {
        lua_pushstring(L, fields[i]);
        lua_rawget(L, top);
        name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    }
    char which[60] = "";
    if (name)
        snprintf(which, sizeof which, " of class %.48s", name);
    tp_encoder_refuse(
        e, TP_ECODEC,
        "a table with an unknown metatable%s cannot travel to a worker "
        "(make it known with tidepool.class, or let a module have the class in a field)",
        which);
    lua_settop(L, top);
    return -1;
}
