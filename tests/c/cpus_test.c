/* cpus_test.c: how many processors control groups leave to a process. */
#include "harness.h"
#include "base/cpus.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char root[100];

/* Writes a file below the root, with its folders. */
static void file(const char *path, const char *text)
{
    char whole[300];
    snprintf(whole, sizeof whole, "%s/%s", root, path);
    for (char *slash = whole + strlen(root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        mkdir(whole, 0700);
    }
    FILE *f = fopen(whole, "w");
    CHECK(f);
    fputs(text, f);
    fclose(f);
}

static double quota(const char *groups)
{
    char path[200];
    file("groups", groups);
    snprintf(path, sizeof path, "%s/groups", root);
    return tp_cpus_quota(path, root);
}

static void open_root(void)
{
    strcpy(root, "/tmp/tidepool-cpus-XXXXXX");
    CHECK(mkdtemp(root));
}

static void close_root(void)
{
    char command[200];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    CHECK(system(command) == 0);
}

TEST(quotas_of_version_2)
{
    open_root();
    CHECK(quota("0::/\n") == 0);
    file("cpu.max", "max 100000\n");
    CHECK(quota("0::/\n") == 0);
    file("cpu.max", "150000 100000\n");
    CHECK(quota("0::/\n") == 1.5);
    CHECK(quota("0::/not/mounted/here\n") == 1.5); /* a container's own view */
    file("a/b/cpu.max", "400000 100000\n");
    CHECK(quota("0::/a/b\n") == 1.5); /* those above have a say */
    file("a/cpu.max", "50000 100000\n");
    CHECK(quota("0::/a/b\n") == 0.5);
    close_root();
}

TEST(quotas_of_version_1)
{
    open_root();
    const char *groups = "9:name=systemd:/\n4:cpu,cpuacct:/docker/1\n3:cpuset:/\n0::/\n";
    CHECK(quota(groups) == 0);
    file("cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    file("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    CHECK(quota(groups) == 0);
    file("cpu,cpuacct/docker/1/cpu.cfs_quota_us", "300000\n");
    file("cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n");
    CHECK(quota(groups) == 3);
    file("cpu/cpu.cfs_quota_us", "200000\n");
    file("cpu/cpu.cfs_period_us", "100000\n");
    CHECK(quota(groups) == 2);
    CHECK(quota("2:cpuacct:/docker/1\n") == 0);
    CHECK(quota("") == 0);
    close_root();
}

TEST(there_is_at_least_one)
{
    CHECK(tp_cpus() >= 1);
    CHECK(tp_cpus_quota("/not/there", "/nor/this") == 0);
}
