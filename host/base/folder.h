/* folder.h: folders of the user's in which something is kept: nobody else can have put anything there. */
#ifndef TP_FOLDER_H
#define TP_FOLDER_H

#include "base/error.h"

#include <stdbool.h>
#include <sys/stat.h>

/* Is it ours, and does its mode forbid others what `forbidden` has? Else err says what is wrong with the path. */
bool tp_file_is_ours(const struct stat *s, mode_t forbidden, const char *path, tp_error *err);

/* Makes a folder with those above it, for this user alone. -1 with errno set. */
int tp_folder_make(const char *path);

/* The descriptor of a folder that is ours, that nobody else may write and that is no link; with `is_made` it is made, with those above it, when it is not
 * there. 0 with *fd = -1 when it is not there; -1 with err set. */
int tp_folder_open(int *fd, const char *path, bool is_made, tp_error *err);

#endif
