/* protocol.c: subjects that both sides name. */
#include "cluster/protocol.h"

#include <stdio.h>

void tp_protocol_name_work(char to[TP_SUBJECT_MAX], const char *build, const char *session,
                           uint64_t chunk, uint32_t sending)
{
    snprintf(to, TP_SUBJECT_MAX, TP_SUBJECT_W "%s.%s.%llu.%u", build, session,
             (unsigned long long)chunk, sending);
}

void tp_protocol_name_result(char to[TP_SUBJECT_MAX], const char *before, const char *session,
                             uint64_t chunk, uint32_t sending)
{
    snprintf(to, TP_SUBJECT_MAX, "%s" TP_SUBJECT_R "%s.%llu.%llu.%u", before, session,
             (unsigned long long)(chunk / TP_GROUP_CHUNKS), (unsigned long long)chunk, sending);
}
