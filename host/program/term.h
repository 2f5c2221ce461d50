/* term.h: the terminal as all threads of the program share it: whole lines, and the one line at its bottom that comes and goes. Part of
 * the binary only.
 *
 * The bottom line is on standard error. Whatever is written through here goes above it. */
#ifndef TP_TERM_H
#define TP_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* The bottom line is this text from now on; none when len is 0. Cut to the terminal's width. Main thread. */
void tp_term_show(const char *text, size_t len);

/* Takes the bottom line away for as long as others write to the terminal, until tp_term_resume, which brings it back unless it is old or
 * what was written has not ended its line. Main thread. */
void tp_term_hide(void);
void tp_term_resume(bool at_line_start);

/* Around the writing of one text of len bytes, in pieces, to stdout or stderr: others' come before or after it, also where both are the same pipe. Any
 * thread. */
void tp_term_lock(FILE *file, size_t len);
void tp_term_unlock(FILE *file, size_t len);

/* Writes above the bottom line, which stays away while what was written last has not ended its line; as fwrite. Any thread. */
size_t tp_term_write(FILE *file, const char *bytes, size_t len);

/* While a line is edited at a prompt (from tp_term_prompt(leave, arg) to tp_term_prompt(NULL, NULL)) there is no bottom line; what others write to the
 * terminal is held until tp_term_take, and before the main thread itself writes there, leave(arg) takes the edited line away. Main thread. */
void tp_term_prompt(void (*leave)(void *arg), void *arg);

/* A descriptor that is readable while something is held; -1 when there is none. Main thread. */
int tp_term_held_fd(void);

/* What is held; NULL when nothing is. The caller frees. Main thread. */
char *tp_term_take(size_t *len);

/* Ends the line that somebody has begun on the terminal with standard output, if one is. Main thread. */
void tp_term_end_line(void);

/* Is the descriptor a terminal that can move its cursor and change colours? */
bool tp_term_is_capable(int fd);

typedef enum tp_colours { TP_AUTO, TP_ALWAYS, TP_NEVER } tp_colours;

/* Are there to be colours on it? As --color says; else where it is such a terminal and NO_COLOR is not set. */
bool tp_term_has_colours(int fd);

/* Columns of the terminal on that descriptor; 80 where it does not say. Any thread. */
int tp_term_width(int fd);

/* What takes the bottom line away now, "" when none is shown. For signal handlers, which write it themselves. */
const char *tp_term_eraser(void);

#endif
