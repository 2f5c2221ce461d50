/* term.h: the terminal, shared by all threads of the program: whole lines, and a bottom line that
 * comes and goes (the progress line). Part of the binary only.
 *
 * The bottom line is on standard error. Everything that is written through these functions goes
 * above it. */
#ifndef TP_TERM_H
#define TP_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Before everything else here, and before there are other threads. */
void tp_term_open(void);

/* Sets the text of the bottom line, cut to the terminal's width; none when len is 0. Main
 * thread. */
void tp_term_show(const char *text, size_t len);

/* Removes the bottom line while others write to the terminal. tp_term_resume brings it back, unless
 * it is outdated or what was written has not ended its line. Main thread. */
void tp_term_hide(void);
void tp_term_resume(bool at_line_start);

/* Called around the writing of one text of len bytes, in pieces, to stdout or stderr: no other text
 * gets into it, even when both are the same pipe. Any thread. */
void tp_term_lock(FILE *file, size_t len);
void tp_term_unlock(FILE *file, size_t len);

/* As fwrite, but above the bottom line, which is not shown while the last text written has not
 * ended its line. On a terminal it waits a little for the end of a line that the main thread has
 * begun. Any thread. */
size_t tp_term_write(FILE *file, const char *bytes, size_t len);

/* Between tp_term_prompt(leave, arg) and tp_term_prompt(NULL, NULL) a line is edited at a prompt,
 * and there is no bottom line. What other threads write to the terminal is held until tp_term_take;
 * before the main thread itself writes there, leave(arg) removes the edited line. Main thread. */
void tp_term_prompt(void (*leave)(void *arg), void *arg);

/* A descriptor that is readable while something is held; -1 when there is none. Main thread. */
int tp_term_held_fd(void);

/* Takes the text that is held; NULL when there is none. The caller frees it. Main thread. */
char *tp_term_take(size_t *len);

/* Ends the line that somebody has begun on standard output, if that is a terminal. Main thread. */
void tp_term_end_line(void);

/* Is the descriptor a terminal that can move its cursor and change colours? */
bool tp_term_is_capable(int fd);

typedef enum tp_colours { TP_AUTO, TP_ALWAYS, TP_NEVER } tp_colours;

/* Should output to it be coloured? As --color says; by default on such a terminal, unless NO_COLOR
 * is set. */
bool tp_term_has_colours(int fd);

/* The width, in columns, of the terminal on that descriptor; 80 when it is not known. Any
 * thread. */
int tp_term_width(int fd);

/* The text that removes the bottom line from the terminal; "" when none is shown. For signal
 * handlers. */
const char *tp_term_eraser(void);

#endif
