/* stacks.c: a hash table from the text of a stack to how often that was seen. */
#include "program/stacks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLACES_MIN = 256, DIGITS_MAX = 12 /* of a count in a line */ };

/* FNV-1a. */
static uint64_t hash_of(const char *text, size_t len)
{
    uint64_t h = 0xcbf29ce484222325;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001b3;
    return h;
}

/* The place of that text, or the empty one where it belongs. There is always an empty place. */
static tp_stack_count *find(tp_stack_count *place, size_t places, const char *text, size_t len,
                            uint64_t hash)
{
    size_t i = hash & (places - 1);
    while (place[i].text && (place[i].hash != hash || place[i].len != len ||
                             memcmp(place[i].text, text, len) != 0))
        i = (i + 1) & (places - 1);
    return &place[i];
}

/* Makes the table twice as large. -1 when out of memory. The lock is held. */
static int grow(tp_stacks *s)
{
    const size_t places = s->places ? 2 * s->places : PLACES_MIN;
    tp_stack_count *place = calloc(places, sizeof *place);
    if (!place)
        return -1;
    for (size_t i = 0; i < s->places; i++) {
        const tp_stack_count *old = &s->place[i];
        if (old->text)
            *find(place, places, old->text, old->len, old->hash) = *old;
    }
    free(s->place);
    s->place = place;
    s->places = places;
    return 0;
}

/* Locked. Adds to the count of the stack; -1 when out of memory or too many stacks. */
static int add(tp_stacks *s, const char *text, size_t len, uint64_t count)
{
    if (len == 0 || len > TP_STACK_TEXT || memchr(text, '\n', len))
        return -1;
    if (2 * s->used >= s->places && grow(s))
        return -1;
    const uint64_t hash = hash_of(text, len);
    tp_stack_count *c = find(s->place, s->places, text, len, hash);
    if (!c->text) {
        char *copy = s->used < TP_STACKS_MAX ? malloc(len) : NULL;
        if (!copy)
            return -1;
        memcpy(copy, text, len);
        *c = (tp_stack_count){ .text = copy, .len = len, .hash = hash };
        s->used++;
    }
    c->count += count;
    return 0;
}

void tp_stacks_add(tp_stacks *s, const char *text, size_t len, uint64_t count)
{
    pthread_mutex_lock(&s->lock);
    if (add(s, text, len, count))
        s->missed += count;
    pthread_mutex_unlock(&s->lock);
}

/* Reads the count behind the last space of a line. 0: there is none. */
static uint64_t read_count(const char *line, size_t len, size_t *text)
{
    uint64_t count = 0;
    size_t at = len;
    while (at > 0 && line[at - 1] >= '0' && line[at - 1] <= '9')
        at--;
    if (at < 2 || line[at - 1] != ' ' || len - at > DIGITS_MAX)
        return 0;
    *text = at - 1;
    for (; at < len; at++)
        count = 10 * count + (uint64_t)(line[at] - '0');
    return count;
}

void tp_stacks_add_lines(tp_stacks *s, const char *lines, size_t len)
{
    pthread_mutex_lock(&s->lock);
    for (const char *newline; (newline = memchr(lines, '\n', len)) != NULL;) {
        const size_t n = (size_t)(newline - lines);
        size_t text = 0;
        const uint64_t count = read_count(lines, n, &text);
        if (count && add(s, lines, text, count))
            s->missed += count;
        lines += n + 1;
        len -= n + 1;
    }
    pthread_mutex_unlock(&s->lock);
}

char *tp_stacks_take(tp_stacks *s, size_t *len)
{
    char *lines = NULL;
    *len = 0;
    pthread_mutex_lock(&s->lock);
    FILE *out = s->used ? open_memstream(&lines, len) : NULL;
    if (out) {
        for (size_t i = 0; i < s->places; i++) {
            const tp_stack_count *c = &s->place[i];
            if (c->text)
                fprintf(out, "%.*s %llu\n", (int)c->len, c->text, (unsigned long long)c->count);
        }
        if (fclose(out)) {
            free(lines);
            lines = NULL;
        }
        for (size_t i = 0; i < s->places; i++)
            free(s->place[i].text);
        free(s->place);
        s->place = NULL;
        s->places = s->used = 0;
    }
    pthread_mutex_unlock(&s->lock);
    return lines;
}
