/* match.c: see match.h. */
#include "opencl/match.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANK_CPU = 3, RANK_OTHER = 4 };

/* Makers whose name stands for their graphics cards: a processor of the same maker does not
 * match. */
static const char *const makers[][2] = { { "nvidia", "nvidia" },
                                         { "amd", "advanced micro devices" },
                                         { "intel", "intel" },
                                         { "apple", "apple" } };

tp_device_word tp_device_word_read(const char *text, unsigned len)
{
    tp_device_word w = { .wanted = 1 };
    const char *colon = memrchr(text, ':', len);
    unsigned digits = colon ? (unsigned)(text + len - colon - 1) : 0;
    if (digits > 0 && digits <= 2 && strspn(colon + 1, "0123456789") >= digits) {
        w.wanted = (unsigned)strtoul(colon + 1, NULL, 10);
        len = (unsigned)(colon - text);
    }
    snprintf(w.text, sizeof w.text, "%.*s", (int)len, text);
    for (char *p = w.text; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    return w;
}

int tp_device_rank(const char *type)
{
    return strcmp(type, "gpu") == 0 ? 1 : strcmp(type, "accelerator") == 0 ? 2
                                        : strcmp(type, "cpu") == 0          ? RANK_CPU
                                                                            : RANK_OTHER;
}

bool tp_device_is_before(const tp_seen_device *a, const tp_seen_device *b)
{
    int rank = tp_device_rank(a->type) - tp_device_rank(b->type);
    if (rank)
        return rank < 0;
    if (a->is_unified != b->is_unified)
        return b->is_unified;
    return a->units != b->units ? a->units > b->units : a->number < b->number;
}

static bool has_part(const char *text, const char *word)
{
    return strcasestr(text, word) != NULL;
}

/* Is the word in the text, with no letter or digit before or behind it? */
static bool has_whole(const char *text, const char *word)
{
    size_t len = strlen(word);
    if (len == 0 || !isalnum((unsigned char)word[0]) || !isalnum((unsigned char)word[len - 1]))
        return false;
    for (const char *at = text; (at = strcasestr(at, word)); at++)
        if ((at == text || !isalnum((unsigned char)at[-1])) && !isalnum((unsigned char)at[len]))
            return true;
    return false;
}

static const char *const *maker_of(const char *word)
{
    for (size_t i = 0; i < sizeof makers / sizeof *makers; i++)
        if (strcmp(word, makers[i][0]) == 0)
            return makers[i];
    return NULL;
}

/* Is the word a part of a name, and none of those with a meaning of their own? */
static bool is_name(const char *word)
{
    return strcmp(word, "any") != 0 && tp_device_rank(word) == RANK_OTHER && !maker_of(word);
}

static bool is_whole_of(const tp_seen_device *d, const char *word)
{
    return has_whole(d->name, word) || has_whole(d->platform, word);
}

static bool matches(const tp_seen_device *d, const char *word)
{
    const char *const *maker = maker_of(word);
    if (strcmp(word, "any") == 0)
        return true;
    if (tp_device_rank(word) != RANK_OTHER)
        return strcmp(d->type, word) == 0;
    if (maker)
        return tp_device_rank(d->type) != RANK_CPU &&
               (has_part(d->vendor, maker[0]) || has_part(d->vendor, maker[1]) ||
                has_part(d->name, maker[0]));
    return has_part(d->name, word) || has_part(d->platform, word);
}

bool tp_device_word_is_whole(const tp_device_word *word, const tp_seen_device *devices, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (is_name(word->text) && is_whole_of(&devices[i], word->text))
            return true;
    return false;
}

unsigned tp_device_match(const tp_device_word *word, bool is_whole, const tp_seen_device *devices,
                         unsigned n, unsigned *found)
{
    unsigned count = 0;
    for (unsigned i = 0; i < n && count < word->wanted; i++)
        if (matches(&devices[i], word->text) &&
            (!is_whole || is_whole_of(&devices[i], word->text)))
            found[count++] = i;
    return count;
}
