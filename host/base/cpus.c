/* cpus.c: the affinity mask and the quotas of control groups.
 *
 * /proc/self/cgroup names a process's group as the host sees it or as the container does; inside a
 * container the group's files may lie at the mount's root instead of at that path. So the path is
 * tried from its full length up to the root: a file that is missing sets no limit, and the groups
 * above limit the process too. */
#include "base/cpus.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { PATH_BYTES = 4096 };

/* The first line of the file; false when there is none. */
static bool read_line(char *line, size_t size, const char *root, const char *controller,
                      const char *group, const char *file)
{
    char path[PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s%s%s/%s", root, controller, group, file);
    FILE *f = n < (int)sizeof path ? fopen(path, "r") : NULL;
    if (!f)
        return false;
    bool has_line = fgets(line, (int)size, f) != NULL;
    fclose(f);
    return has_line;
}

/* What one group allows, in processors; INFINITY when it says nothing. */
static double quota_of_group(const char *root, const char *controller, const char *group)
{
    char line[100], period_line[100];
    double quota = -1, period = 0;
    if (!*controller) { /* version 2: "max 100000" or "150000 100000" */
        if (!read_line(line, sizeof line, root, controller, group, "cpu.max") ||
            sscanf(line, "%lf %lf", &quota, &period) != 2)
            return INFINITY;
    } else {
        if (!read_line(line, sizeof line, root, controller, group, "cpu.cfs_quota_us") ||
            !read_line(period_line, sizeof period_line, root, controller, group,
                       "cpu.cfs_period_us"))
            return INFINITY;
        quota = strtod(line, NULL);
        period = strtod(period_line, NULL);
    }
    return quota > 0 && period > 0 ? quota / period : INFINITY;
}

/* The least quota of a group and of those above it. Shortens the text in `group` as it goes up. */
static double quota_of_path(const char *root, const char *controller, char *group)
{
    double least = INFINITY;
    for (;;) {
        least = fmin(least, quota_of_group(root, controller, group));
        char *slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

/* Is the name in this comma-separated list? */
static bool has_name(const char *list, const char *name)
{
    size_t len = strlen(name);
    for (const char *at = list; at; at = strchr(at, ','), at = at ? at + 1 : NULL)
        if (strncmp(at, name, len) == 0 && (at[len] == '\0' || at[len] == ','))
            return true;
    return false;
}

double tp_cpus_quota(const char *groups, const char *root)
{
    FILE *f = fopen(groups, "r");
    char line[PATH_BYTES], controller[PATH_BYTES];
    double least = INFINITY;
    while (f && fgets(line, sizeof line, f)) { /* "4:cpu,cpuacct:/path", "0::/path" */
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        names++;
        bool is_second = *names == '\0';
        if (!is_second && !has_name(names, "cpu"))
            continue;
        if (strcmp(group, "/") == 0)
            *group = '\0';
        snprintf(controller, sizeof controller, "%s%s", is_second ? "" : "/", names);
        char copy[PATH_BYTES];
        strcpy(copy, group);
        least = fmin(least, quota_of_path(root, controller, copy));
        if (!is_second) {
            strcpy(copy, group);
            least = fmin(least, quota_of_path(root, "/cpu", copy));
        }
    }
    if (f)
        fclose(f);
    return isinf(least) ? 0 : least;
}

unsigned tp_cpus(void)
{
    unsigned n = uv_available_parallelism();
    double quota = tp_cpus_quota("/proc/self/cgroup", "/sys/fs/cgroup");
    return quota > 0 && quota < n ? (unsigned)fmax(1, ceil(quota)) : n;
}
