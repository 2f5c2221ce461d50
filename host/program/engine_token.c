/* engine_token.c: where tokens are found. Part of the program and of the module. */
#include "program/engine.h"

#include "program/pocl_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool tp_engine_folder(char *path, size_t size)
{
    char state[4000];
    const char *given = getenv("TIDEPOOL_ENGINE_DIR");
    int n = 0;
    if (given && *given)
        n = snprintf(path, size, "%s", given);
    else if (tp_caches_state(state, sizeof state))
        n = snprintf(path, size, "%s/engine", state);
    return n > 0 && (size_t)n < size;
}

const char *tp_engine_find_token(bool is_coordinator, char text[TP_TOKEN_TEXT])
{
    char folder[4096], path[4200];
    const char *given = getenv("TIDEPOOL_TOKEN");
    if (given && *given)
        return given;
    if (!tp_engine_folder(folder, sizeof folder))
        return NULL;
    snprintf(path, sizeof path, "%s/%s.token", folder, is_coordinator ? "coordinator" : "worker");
    FILE *file = fopen(path, "re");
    if (!file)
        return NULL;
    char *line = fgets(text, TP_TOKEN_TEXT, file);
    fclose(file);
    if (!line)
        return NULL;
    text[strcspn(text, "\n")] = '\0';
    return text;
}

void tp_engine_hide_token(void)
{
    char *given = getenv("TIDEPOOL_TOKEN");
    if (!given)
        return;
    memset(given, 'x', strlen(given));
    unsetenv("TIDEPOOL_TOKEN");
}
