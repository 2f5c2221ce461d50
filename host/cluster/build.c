/* build.c: which build this is, as the two sides of a cluster compare it. See parcel.h. */
#include "cluster/happened.h"

#include "base/blake2b.h"
#include "base/lua_modules.h"

#include <luajit.h>

#include <stdio.h>

void tp_build_get(tp_build *build)
{
#if defined(__x86_64__)
    static const char machine[] = "x86_64";
#elif defined(__aarch64__)
    static const char machine[] = "aarch64";
#else
    static const char machine[] = "another machine";
#endif
    tp_blake2b hash;
    uint32_t layout[] = { TP_WIRE_LAYOUT, sizeof(tp_task), sizeof(tp_sealed), sizeof(tp_answer),
                          sizeof(tp_happened), sizeof(tp_event), TP_EVENTS, 0x01020304 };
    tp_blake2b_begin(&hash, TP_ID_BYTES, NULL, 0);
    tp_blake2b_add(&hash, TP_VERSION, sizeof TP_VERSION);
    tp_blake2b_add(&hash, LUAJIT_VERSION, sizeof LUAJIT_VERSION);
    tp_blake2b_add(&hash, machine, sizeof machine);
    tp_blake2b_add(&hash, layout, sizeof layout);
    for (const tp_lua_module *m = tp_lua_modules; m->name; m++)
        tp_blake2b_add(&hash, m->bytes, m->len);
    tp_blake2b_end(&hash, build->id);
    for (int i = 0; i < TP_ID_BYTES; i++)
        snprintf(build->hex + 2 * i, 3, "%02x", build->id[i]);
    snprintf(build->text, sizeof build->text, "Tidepool %s of %.8s, %s, %s", TP_VERSION,
             build->hex, LUAJIT_VERSION, machine);
}
