// SPDX-License-Identifier: MIT
/*
 * Operations -> events, each from a child of its own. The child builds its line in memory and hands it
 * over a pipe, so that a crash or a time-out can never leave half a line on the port.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REAP_LIMIT_S 5.0         /* how long a killed child may take: one stuck in the kernel never ends */
#define OWN_LIMIT_MARGIN_S 15    /* those that mind their own limit; the runner's is the backstop */
#define LINE_LIMIT (64u << 20)

struct handler {
    const char *name;
    int min_args;
    int max_args;
    unsigned timeout_s;
    void (*run)(const struct op *op, struct json *j);
};

static const struct handler handlers[] = {
    {"read", 1, 2, DEFAULT_TIMEOUT_S, op_read},
    {"list", 1, 1, DEFAULT_TIMEOUT_S, op_list},
    {"lstat", 1, 1, DEFAULT_TIMEOUT_S, op_lstat},
    {"statvfs", 1, 1, DEFAULT_TIMEOUT_S, op_statvfs},
    {"exists", 1, 1, DEFAULT_TIMEOUT_S, op_exists},
    {"canary", 2, 2, DEFAULT_TIMEOUT_S, op_canary},
    {"write", 1, 1, DEFAULT_TIMEOUT_S, op_write},
    {"fillinodes", 2, 2, 4 * DEFAULT_TIMEOUT_S, op_fillinodes},
    {"blkwrite", 1, 1, DEFAULT_TIMEOUT_S, op_blkwrite},
    {"attack", 1, 2, 2 * DEFAULT_TIMEOUT_S, op_attack},
    {"compare", 2, 3, 4 * DEFAULT_TIMEOUT_S, op_compare},
    {"sync", 0, 0, 2 * DEFAULT_TIMEOUT_S, op_sync},
    {"exec", 2, 2, 0, op_exec},
    {"run", 2, 1 << 20, 0, op_run},
    {"settle", 1, 2, 0, op_settle},
    {"running", 1, 1, 0, op_running},
    {"units", 0, 1 << 10, 2 * DEFAULT_TIMEOUT_S, op_units},
    {"timers", 1, 1, 0, op_timers},
    {"files", 2, 1 << 20, 4 * DEFAULT_TIMEOUT_S, op_files},
    {"sift", 4, 1 << 20, 0, op_sift},
    {"klog", 1, 64, DEFAULT_TIMEOUT_S, op_klog},
    {"listeners", 1, 64, 0, op_listeners},
    {"marked", 2, 1 << 20, 4 * DEFAULT_TIMEOUT_S, op_marked},
    {"brim", 2, 1 << 10, 4 * DEFAULT_TIMEOUT_S, op_brim},
};

double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int write_all(int fd, const void *data, size_t length)
{
    const char *rest = data;
    while (length) {
        ssize_t wrote = write(fd, rest, length);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0)
            return errno;
        rest += wrote;
        length -= (size_t)wrote;
    }
    return 0;
}

void emit(int output, struct json *line)
{
    json_end_line(line);
    (void)write_all(output, line->text, line->length);
    json_free(line);
}

void emit_event(int output, const char *event, const char *key, long long number)
{
    struct json j = {0};
    json_open(&j, '{');
    json_put_string(&j, "event", event);
    json_put_number(&j, key, number);
    json_close(&j, '}');
    emit(output, &j);
}

static void begin(const struct op *op, struct json *j)
{
    json_open(j, '{');
    json_put_number(j, "id", op->id);
    json_put_string(j, "op", op->name);
}

static void emit_error(int output, const struct op *op, const char *error)
{
    struct json j = {0};
    begin(op, &j);
    json_put_string(&j, "error", error);
    json_close(&j, '}');
    emit(output, &j);
}

static void emit_failure(int output, const struct op *op, const char *key, int number, double seconds)
{
    struct json j = {0};
    begin(op, &j);
    if (number)
        json_put_number(&j, key, number);
    else
        json_put_bool(&j, key, true);
    json_key(&j, "seconds");
    json_seconds(&j, seconds);
    json_close(&j, '}');
    emit(output, &j);
}

static void forget_oom_protection(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!write(fd, "0", 1);
    close(fd);
}

static _Noreturn void child(const struct handler *handler, const struct op *op, int pipe_in)
{
    struct json j = {0};
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    forget_oom_protection();
    begin(op, &j);
    handler->run(op, &j);
    json_close(&j, '}');
    json_end_line(&j);
    _exit(write_all(pipe_in, j.text, j.length) ? 1 : 0);
}

/* reads until the child closes the pipe; false when the time is over */
static bool collect(int pipe_out, double deadline, struct json *line)
{
    size_t capacity = 1 << 16;
    line->text = malloc(capacity);
    for (;;) {
        double left = deadline - now_s();
        if (left <= 0 || line->length > LINE_LIMIT || !line->text)
            return false;
        struct pollfd wait = {.fd = pipe_out, .events = POLLIN};
        if (poll(&wait, 1, left > 1000 ? 1000000 : (int)(left * 1000) + 1) <= 0)
            continue;
        if (line->length == capacity) {
            capacity *= 2;
            char *grown = realloc(line->text, capacity);
            if (!grown)
                return false;
            line->text = grown;
        }
        ssize_t got = read(pipe_out, line->text + line->length, capacity - line->length);
        if (got == 0)
            return true;
        if (got > 0)
            line->length += (size_t)got;
    }
}

/* waits a bounded time; false when the child is stuck in the kernel */
static bool reap(pid_t pid, int *status)
{
    double deadline = now_s() + REAP_LIMIT_S;
    struct timespec pause = {.tv_nsec = 200 * 1000};
    while (waitpid(pid, status, WNOHANG) != pid) {
        if (now_s() > deadline)
            return false;
        nanosleep(&pause, NULL);
        if (pause.tv_nsec < 20 * 1000 * 1000)
            pause.tv_nsec *= 2;
    }
    return true;
}

static void report(int output, const struct op *op, struct json *line, int status, double seconds)
{
    if (WIFSIGNALED(status))
        emit_failure(output, op, "signal", WTERMSIG(status), seconds);
    else if (WEXITSTATUS(status) || !line->length || line->text[line->length - 1] != '\n')
        emit_error(output, op, "the operation ended without an answer");
    else
        (void)write_all(output, line->text, line->length);
}

static unsigned time_limit(const struct handler *handler, const struct op *op)
{
    uint64_t own;
    if (op->timeout_s)
        return op->timeout_s;
    if (handler->timeout_s)
        return handler->timeout_s;
    return parse_number(op->argv[0], &own) && own < 86400 ? (unsigned)own + OWN_LIMIT_MARGIN_S : DEFAULT_TIMEOUT_S;
}

static void run_op(int output, const struct handler *handler, const struct op *op)
{
    int ends[2], status = 0;
    struct json line = {0};
    double started = now_s();
    if (pipe2(ends, O_CLOEXEC) < 0) {
        emit_error(output, op, "no pipe");
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        child(handler, op, ends[1]);
    }
    close(ends[1]);
    if (pid > 0)
        setpgid(pid, pid);
    bool in_time = pid > 0 && collect(ends[0], started + time_limit(handler, op), &line);
    close(ends[0]);
    if (pid > 0 && !in_time)
        kill(-pid, SIGKILL);
    if (pid < 0)
        emit_error(output, op, "no process");
    else if (!reap(pid, &status))
        emit_failure(output, op, in_time ? "stuck" : "timeout", 0, now_s() - started);
    else if (!in_time)
        emit_failure(output, op, "timeout", 0, now_s() - started);
    else
        report(output, op, &line, status, now_s() - started);
    json_free(&line);
}

static const struct handler *find_handler(const struct op *op, const char **error)
{
    *error = op->error;
    if (*error)
        return NULL;
    for (size_t i = 0; i < sizeof handlers / sizeof *handlers; i++) {
        const struct handler *handler = &handlers[i];
        if (strcmp(handler->name, op->name))
            continue;
        if (op->argc >= handler->min_args && op->argc <= handler->max_args)
            return handler;
        *error = "wrong number of arguments";
        return NULL;
    }
    *error = "unknown operation";
    return NULL;
}

static enum ending poweroff_mode(const struct op *op, const struct run_options *options, const char **error)
{
    *error = op->error;
    if (*error)
        return ENDED_PLAIN;
    if (!options->may_power_off)
        *error = "poweroff needs --poweroff-on-exit";
    else if (op->argc == 1 && !strcmp(op->argv[0], "clean"))
        return ENDED_CLEAN_POWEROFF;
    else if (op->argc == 1 && !strcmp(op->argv[0], "cut"))
        return ENDED_CUT;
    else
        *error = "poweroff is clean or cut";
    return ENDED_PLAIN;
}

static enum ending emit_poweroff(const struct op *op, const struct run_options *options)
{
    const char *error;
    enum ending ending = poweroff_mode(op, options, &error);
    struct json j = {0};
    begin(op, &j);
    if (error)
        json_put_string(&j, "error", error);
    else
        json_put_string(&j, "mode", op->argv[0]);
    json_close(&j, '}');
    emit(options->output, &j);
    return ending;
}

enum ending run_plan(const struct plan *plan, const struct run_options *options)
{
    enum ending ending = ENDED_PLAIN;
    size_t done = 0;
    for (; done < plan->count && ending == ENDED_PLAIN; done++) {
        const struct op *op = &plan->ops[done];
        const char *error;
        if (!strcmp(op->name, "poweroff")) {
            ending = emit_poweroff(op, options);
            continue;
        }
        const struct handler *handler = find_handler(op, &error);
        if (handler)
            run_op(options->output, handler, op);
        else
            emit_error(options->output, op, error);
    }
    emit_event(options->output, "end", "ops", (long long)done);
    return ending;
}
