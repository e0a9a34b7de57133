// SPDX-License-Identifier: MIT
/*
 * settle: waits until the boot has come to rest, for inits that cannot say so themselves. At rest no process is
 * created, and nothing runs or waits for a disk but this one.
 */
#include "probe.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_EVERY_US (100 * 1000)
#define QUIET_DEFAULT_MS 2000
#define QUIET_LIMIT_MS 86400000
#define BUSY_LIMIT 16

/* of /proc/stat */
struct look {
    unsigned long long processes; /* created since boot */
    unsigned long long running;   /* this one is one of them */
    unsigned long long blocked;
};

static int take_look(struct look *look)
{
    char *line = NULL;
    size_t size = 0;
    int found = 0;
    FILE *file = fopen("/proc/stat", "re");
    if (!file)
        return errno;
    while (getline(&line, &size, file) >= 0)
        found += sscanf(line, "processes %llu", &look->processes) == 1 ||
                 sscanf(line, "procs_running %llu", &look->running) == 1 ||
                 sscanf(line, "procs_blocked %llu", &look->blocked) == 1;
    free(line);
    fclose(file);
    return found == 3 ? 0 : EINVAL;
}

static int wait_for_rest(double deadline, double quiet_s, struct look *look, bool *settled)
{
    int err = take_look(look);
    struct look before = *look;
    double calm_since = now_s();
    while (!err) {
        double now = now_s();
        if (look->running > 1 || look->blocked || look->processes != before.processes)
            calm_since = now;
        *settled = now - calm_since >= quiet_s;
        if (*settled || now >= deadline)
            break;
        usleep(LOOK_EVERY_US);
        before = *look;
        err = take_look(look);
    }
    return err;
}

static double uptime_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* a file below /proc, "" when there is none any more; how many bytes */
static size_t read_proc(const char *pid, const char *name, char *text, size_t size)
{
    char path[64];
    size_t have = 0;
    snprintf(path, sizeof path, "/proc/%.20s/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)read_up_to(fd, text, size - 1, &have);
        close(fd);
    }
    text[have] = '\0';
    return have;
}

/* runs, is blocked, or was born after `since_s`; `stat` is proc(5)'s, and keeps only the name */
static bool is_busy(char *stat, double since_s)
{
    char state;
    int session;
    unsigned long long start;
    char *name = strchr(stat, '('), *rest = strrchr(stat, ')');
    static const char fields[] = " %c %*d %*d %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu";
    if (!name || !rest || sscanf(rest + 1, fields, &state, &session, &start) != 3)
        return false;
    *rest = '\0';
    memmove(stat, name + 1, (size_t)(rest - name));
    if (session == getsid(0))
        return false; /* the probe itself */
    return state == 'R' || state == 'D' || (double)start / (double)sysconf(_SC_CLK_TCK) >= since_s;
}

static void put_busy(double since_s, struct json *j)
{
    char stat[1024];
    int count = 0;
    DIR *proc = opendir("/proc");
    json_key(j, "busy");
    json_open(j, '[');
    for (struct dirent *entry; proc && count < BUSY_LIMIT && (entry = readdir(proc));) {
        if (!isdigit((unsigned char)entry->d_name[0]) || !read_proc(entry->d_name, "stat", stat, sizeof stat))
            continue;
        if (is_busy(stat, since_s)) {
            json_path(j, stat);
            count++;
        }
    }
    json_close(j, ']');
    if (proc)
        closedir(proc);
}

/* sysvinit writes its run level over its arguments and leaves NULs behind it */
static void put_pid1(struct json *j)
{
    char exe[PATH_MAX], args[4096];
    ssize_t length = readlink("/proc/1/exe", exe, sizeof exe - 1);
    exe[length < 0 ? 0 : length] = '\0';
    json_key(j, "pid1");
    json_path(j, exe);
    size_t have = read_proc("1", "cmdline", args, sizeof args);
    while (have && !args[have - 1])
        have--;
    json_key(j, "pid1_args");
    json_open(j, '[');
    for (size_t at = 0; at < have; at += strlen(args + at) + 1)
        json_path(j, args + at);
    json_close(j, ']');
}

void op_settle(const struct op *op, struct json *j)
{
    uint64_t timeout_s, quiet_ms = QUIET_DEFAULT_MS;
    double started = now_s();
    struct look look = {0};
    bool settled = false;
    if (!time_of(op, &timeout_s, j))
        return;
    if (op->argc > 1 && (!parse_number(op->argv[1], &quiet_ms) || !quiet_ms || quiet_ms > QUIET_LIMIT_MS)) {
        json_put_string(j, "error", "bad quiet time");
        return;
    }
    double quiet_s = (double)quiet_ms / 1000;
    json_put_errno(j, "errno", wait_for_rest(started + (double)timeout_s, quiet_s, &look, &settled));
    json_put_bool(j, "settled", settled);
    json_put_number(j, "waited_ms", (long long)((now_s() - started) * 1000));
    json_put_number(j, "processes", (long long)look.processes);
    put_pid1(j);
    json_put_number(j, "uptime_ms", (long long)(uptime_s() * 1000));
    if (!settled)
        put_busy(uptime_s() - quiet_s, j);
}
