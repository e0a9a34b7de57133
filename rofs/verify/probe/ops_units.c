// SPDX-License-Identifier: MIT
/* Operations that ask PID 1 of systemd: running, units, timers. */
#include "pid1.h"
#include "probe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_EVERY_US (100 * 1000)
#define PATH_SIZE 1200
#define MOST_JOBS 256
#define UNIT "org.freedesktop.systemd1.Unit"
#define SERVICE "org.freedesktop.systemd1.Service"
#define TIMER "org.freedesktop.systemd1.Timer"

static const char *const nothing[] = {NULL};

static bool ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), more = strlen(end);
    return length >= more && !strcmp(name + length - more, end);
}

/* a property of letters or of a number, as text in `out`; 0 or an errno */
static int get_text(int fd, const char *path, const char *interface, const char *property, char *out, size_t size)
{
    struct reply reply;
    int err = pid1_get(fd, path, interface, property, &reply);
    *out = '\0';
    if (!err) {
        char kind = reply_variant(&reply);
        if (kind == 's' || kind == 'o')
            snprintf(out, size, "%s", reply_string(&reply));
        else if (kind == 'u' || kind == 'i')
            snprintf(out, size, "%d", (int)reply_u32(&reply));
        else
            err = EPROTO;
        if (reply.bad)
            err = EPROTO;
    }
    reply_free(&reply);
    return err;
}

/* ---- running ---- */

static int put_jobs(int fd, struct json *j)
{
    struct reply reply;
    size_t end;
    int err = pid1_call(fd, MANAGER_PATH, MANAGER, "ListJobs", nothing, &reply);
    json_key(j, "jobs");
    json_open(j, '[');
    if (!err && reply_array(&reply, &end)) {
        while (reply_struct(&reply, end) && !reply.bad) {
            char words[600];
            (void)reply_u32(&reply);
            const char *unit = reply_string(&reply), *type = reply_string(&reply), *state = reply_string(&reply);
            snprintf(words, sizeof words, "%s %s %s", unit, type, state);
            (void)reply_string(&reply);
            (void)reply_string(&reply);
            json_string(j, words);
        }
    }
    json_close(j, ']');
    reply_free(&reply);
    return err;
}

void op_running(const struct op *op, struct json *j)
{
    uint64_t timeout_s;
    char state[64] = "";
    if (!time_of(op, &timeout_s, j))
        return;
    double began = now_s();
    int fd = pid1_connect(), err = fd < 0 ? -fd : 0;
    while (!err) {
        err = get_text(fd, MANAGER_PATH, MANAGER, "SystemState", state, sizeof state);
        if (err || (strcmp(state, "initializing") && strcmp(state, "starting")) || now_s() >= began + (double)timeout_s)
            break;
        usleep(LOOK_EVERY_US);
    }
    if (!err)
        err = put_jobs(fd, j);
    pid1_close(fd);
    json_put_errno(j, "errno", err);
    json_put_string(j, "state", state);
    json_key(j, "seconds");
    json_seconds(j, now_s() - began);
}

/* ---- units ---- */

static void put_property(int fd, const char *path, const char *interface, const char *property, struct json *j)
{
    char value[1200];
    if (get_text(fd, path, interface, property, value, sizeof value))
        return; /* what is not there is not said */
    json_key(j, property);
    json_path(j, value);
}

/* each is a question of its own, so only what can say something: a service that never ran has not come back */
static void put_details(int fd, const char *name, const char *active, struct json *j)
{
    char path[PATH_SIZE];
    unit_path(name, path, sizeof path);
    if (ends_with(name, ".mount"))
        put_property(fd, path, UNIT, "FragmentPath", j);
    if (!ends_with(name, ".service") || !strcmp(active, "inactive"))
        return;
    put_property(fd, path, SERVICE, "NRestarts", j);
    if (!strcmp(active, "active"))
        return;
    put_property(fd, path, SERVICE, "Result", j);
    put_property(fd, path, SERVICE, "ExecMainStatus", j);
}

/* devices are many, and nobody asks for them; what PID 1 only knows by name is none of the system's */
static bool is_wanted(const char *name, const char *load)
{
    return !ends_with(name, ".device") && strcmp(load, "not-found");
}

static void put_row(int fd, const char *const row[5], struct json *j)
{
    static const char *const keys[] = {"name", "description", "load", "active", "sub"};
    json_open(j, '{');
    for (size_t i = 0; i < 5; i++) {
        json_key(j, keys[i]);
        json_path(j, row[i]);
    }
    put_details(fd, row[0], row[3], j);
    json_close(j, '}');
}

static int put_units(int fd, struct json *j)
{
    struct reply reply;
    size_t end;
    int err = pid1_call(fd, MANAGER_PATH, MANAGER, "ListUnits", nothing, &reply);
    json_key(j, "units");
    json_open(j, '[');
    if (!err && reply_array(&reply, &end)) {
        while (reply_struct(&reply, end) && !reply.bad) {
            const char *row[7]; /* name, description, load, active, sub, followed, path */
            for (size_t i = 0; i < 7; i++)
                row[i] = reply_string(&reply);
            (void)reply_u32(&reply);
            (void)reply_string(&reply);
            (void)reply_string(&reply);
            if (!reply.bad && is_wanted(row[0], row[2]))
                put_row(fd, row, j);
        }
    }
    json_close(j, ']');
    if (!err && reply.bad)
        err = EPROTO;
    reply_free(&reply);
    return err;
}

/* other names of units, and of those that are not loaded */
static void put_names(int fd, const struct op *op, struct json *j)
{
    json_key(j, "names");
    json_open(j, '{');
    for (int i = 0; i < op->argc; i++) {
        char path[PATH_SIZE], id[1200], key[800];
        unit_path(op->argv[i], path, sizeof path);
        if (get_text(fd, path, UNIT, "Id", id, sizeof id))
            continue;
        percent_encode(op->argv[i], key, sizeof key);
        json_key(j, key);
        json_path(j, id);
    }
    json_close(j, '}');
}

void op_units(const struct op *op, struct json *j)
{
    int fd = pid1_connect(), err = fd < 0 ? -fd : 0;
    if (!err) {
        put_names(fd, op, j);
        err = put_units(fd, j);
    }
    pid1_close(fd);
    json_put_errno(j, "errno", err);
}

/* ---- timers ---- */

struct started {
    char unit[300];
    char job[128];
    char error[128];
};

static struct started started[MOST_JOBS];
static size_t started_count;

static void start_unit(int fd, const char *timer)
{
    char path[PATH_SIZE];
    struct reply reply;
    if (started_count == MOST_JOBS)
        return;
    struct started *s = &started[started_count++];
    *s = (struct started){0};
    unit_path(timer, path, sizeof path);
    int err = get_text(fd, path, TIMER, "Unit", s->unit, sizeof s->unit);
    if (err) {
        snprintf(s->unit, sizeof s->unit, "%.299s", timer);
        snprintf(s->error, sizeof s->error, "%s", errno_name(err));
        return;
    }
    err = pid1_call(fd, MANAGER_PATH, MANAGER, "StartUnit", (const char *const[]){s->unit, "replace", NULL}, &reply);
    if (err)
        snprintf(s->error, sizeof s->error, "%s", *reply.error ? reply.error : errno_name(err));
    else
        snprintf(s->job, sizeof s->job, "%s", reply_string(&reply));
    reply_free(&reply);
}

static int start_timers(int fd)
{
    struct reply reply;
    size_t end;
    int err = pid1_call(fd, MANAGER_PATH, MANAGER, "ListUnits", nothing, &reply);
    if (!err && reply_array(&reply, &end)) {
        while (reply_struct(&reply, end) && !reply.bad) {
            const char *name = reply_string(&reply);
            (void)reply_string(&reply);
            const char *load = reply_string(&reply);
            for (size_t i = 0; i < 4; i++)
                (void)reply_string(&reply);
            (void)reply_u32(&reply);
            (void)reply_string(&reply);
            (void)reply_string(&reply);
            if (!reply.bad && ends_with(name, ".timer") && !strcmp(load, "loaded"))
                start_unit(fd, name);
        }
    }
    if (!err && reply.bad)
        err = EPROTO;
    reply_free(&reply);
    return err;
}

/* forgets the jobs that are done; how many are not */
static int count_waiting(int fd, size_t *waiting)
{
    struct reply reply;
    size_t end;
    bool there[MOST_JOBS] = {false};
    int err = pid1_call(fd, MANAGER_PATH, MANAGER, "ListJobs", nothing, &reply);
    if (!err && reply_array(&reply, &end)) {
        while (reply_struct(&reply, end) && !reply.bad) {
            (void)reply_u32(&reply);
            for (size_t i = 0; i < 3; i++)
                (void)reply_string(&reply);
            const char *job = reply_string(&reply);
            (void)reply_string(&reply);
            for (size_t i = 0; i < started_count; i++)
                there[i] |= *job && !strcmp(job, started[i].job);
        }
    }
    if (!err && reply.bad)
        err = EPROTO;
    reply_free(&reply);
    *waiting = 0;
    for (size_t i = 0; i < started_count; i++)
        if (there[i])
            ++*waiting;
        else
            *started[i].job = '\0';
    return err;
}

/* what became of those that are done */
static int find_failed(int fd)
{
    int err = 0;
    for (size_t i = 0; !err && i < started_count; i++) {
        char path[PATH_SIZE], state[64];
        if (*started[i].error || *started[i].job)
            continue;
        unit_path(started[i].unit, path, sizeof path);
        err = get_text(fd, path, UNIT, "ActiveState", state, sizeof state);
        if (!err && !strcmp(state, "failed"))
            snprintf(started[i].error, sizeof started[i].error, "failed");
    }
    return err;
}

static void put_started(struct json *j)
{
    json_key(j, "started");
    json_open(j, '[');
    for (size_t i = 0; i < started_count; i++) {
        json_open(j, '{');
        json_key(j, "unit");
        json_path(j, started[i].unit);
        json_put_string(j, "error", started[i].error);
        json_put_bool(j, "waiting", *started[i].job != '\0');
        json_close(j, '}');
    }
    json_close(j, ']');
}

void op_timers(const struct op *op, struct json *j)
{
    uint64_t timeout_s;
    size_t waiting = 0;
    if (!time_of(op, &timeout_s, j))
        return;
    double began = now_s();
    int fd = pid1_connect(), err = fd < 0 ? -fd : 0;
    if (!err)
        err = start_timers(fd);
    while (!err) {
        err = count_waiting(fd, &waiting);
        if (err || !waiting || now_s() >= began + (double)timeout_s)
            break;
        usleep(LOOK_EVERY_US);
    }
    if (!err)
        err = find_failed(fd);
    pid1_close(fd);
    json_put_errno(j, "errno", err);
    put_started(j);
    json_key(j, "seconds");
    json_seconds(j, now_s() - began);
}
