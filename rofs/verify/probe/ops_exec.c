// SPDX-License-Identifier: MIT
/* exec, run and sift: a program with a clean environment, its output kept at both ends, its time limited. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEEP_HEAD (128u << 10)
#define KEEP_TAIL (128u << 10)
#define STUCK_LIMIT_S 5.0
#define SIFT_LINE 8192

/* the first KEEP_HEAD bytes, then a ring of the last KEEP_TAIL */
struct capture {
    char head[KEEP_HEAD];
    char tail[KEEP_TAIL];
    size_t head_length;
    uint64_t tail_total;
};

static struct capture capture;

/* of `sift`: only the lines with one of the words are kept, their beginnings if they are long */
static struct {
    char *const *words;
    int count;
    uint64_t lines;
    size_t length;
    char line[SIFT_LINE];
} sieve;

static void keep_bytes(const char *data, size_t length)
{
    size_t to_head = KEEP_HEAD - capture.head_length;
    if (to_head > length)
        to_head = length;
    memcpy(capture.head + capture.head_length, data, to_head);
    capture.head_length += to_head;
    for (size_t i = to_head; i < length; i++)
        capture.tail[capture.tail_total++ % KEEP_TAIL] = data[i];
}

static void end_line(void)
{
    sieve.line[sieve.length] = '\0';
    if (has_word(sieve.line, sieve.words, sieve.count)) {
        keep_bytes(sieve.line, sieve.length);
        keep_bytes("\n", 1);
    }
    sieve.lines++;
    sieve.length = 0;
}

static void keep(const char *data, size_t length)
{
    if (!sieve.count) {
        keep_bytes(data, length);
        return;
    }
    for (size_t i = 0; i < length; i++) {
        if (data[i] == '\n')
            end_line();
        else if (sieve.length < sizeof sieve.line - 1)
            sieve.line[sieve.length++] = data[i] ? data[i] : ' ';
    }
}

static void put_capture(struct json *j)
{
    static char all[KEEP_TAIL];
    size_t kept = capture.tail_total < KEEP_TAIL ? (size_t)capture.tail_total : KEEP_TAIL;
    uint64_t first = capture.tail_total - kept;
    for (size_t i = 0; i < kept; i++)
        all[i] = capture.tail[(first + i) % KEEP_TAIL];
    json_key(j, "data");
    json_base64(j, capture.head, capture.head_length);
    json_key(j, "tail");
    json_base64(j, all, kept);
    json_put_number(j, "dropped", (long long)first);
}

int clean_environment(void)
{
    static const char *const variables[][2] = {
        {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        {"HOME", "/root"},
        {"LANG", "C.UTF-8"},
    };
    clearenv();
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        if (setenv(variables[i][0], variables[i][1], 1) < 0)
            return errno;
    return 0;
}

static _Noreturn void program(char *const argv[], int output)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_DFL);
    on_ending_signals(SIG_DFL);
    umask(022);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    else
        close(STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    if (chdir("/") < 0 || clean_environment())
        _exit(126);
    execvp(argv[0], argv);
    const char *name = errno_name(errno);
    (void)!write(STDERR_FILENO, "rofs-probe: cannot execute: ", 28);
    (void)!write(STDERR_FILENO, name, strlen(name));
    (void)!write(STDERR_FILENO, "\n", 1);
    _exit(127);
}

/* takes what is there, but comes back from a program that never pauses; true at the end of the output */
static bool drain(int output)
{
    char block[4096];
    for (int blocks = 0; blocks < 64; blocks++) {
        ssize_t got = read(output, block, sizeof block);
        if (got == 0)
            return true;
        if (got < 0)
            return errno != EAGAIN && errno != EINTR;
        keep(block, (size_t)got);
    }
    return false;
}

/*
 * Follows the program until it ends, not until its output does: a daemon that it leaves behind keeps
 * the pipe open. False when the time is over.
 */
static bool follow(pid_t pid, int output, double deadline, int *status)
{
    bool at_end = false;
    for (;;) {
        if (waitpid(pid, status, WNOHANG) == pid) {
            double last_words = now_s() + 1;
            while (!at_end && now_s() < last_words && poll(&(struct pollfd){.fd = output, .events = POLLIN}, 1, 0) > 0)
                at_end = drain(output);
            return true;
        }
        if (now_s() >= deadline)
            return false;
        struct pollfd wait = {.fd = at_end ? -1 : output, .events = POLLIN};
        if (poll(&wait, 1, 20) > 0)
            at_end = drain(output);
    }
}

static void put_status(int status, struct json *j)
{
    if (WIFSIGNALED(status))
        json_put_number(j, "exit_signal", WTERMSIG(status));
    else
        json_put_number(j, "status", WEXITSTATUS(status));
}

static void end_group(pid_t pid, int output)
{
    int status;
    double deadline = now_s() + STUCK_LIMIT_S;
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    (void)follow(pid, output, deadline, &status);
}

static void start_and_follow(char *const argv[], uint64_t timeout_s, struct json *j)
{
    int ends[2], status = 0;
    double started = now_s();
    if (pipe2(ends, O_CLOEXEC) < 0) {
        json_put_errno(j, "errno", errno);
        return;
    }
    pid_t pid = fork();
    if (pid == 0)
        program(argv, ends[1]);
    int err = pid < 0 ? errno : 0;
    close(ends[1]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    json_put_errno(j, "errno", err);
    if (err)
        return;
    if (follow(pid, ends[0], started + (double)timeout_s, &status)) {
        put_status(status, j);
    } else {
        end_group(pid, ends[0]);
        json_put_bool(j, "timeout", true);
    }
    json_key(j, "seconds");
    json_seconds(j, now_s() - started);
    if (sieve.length)
        end_line();
    put_capture(j);
}

bool time_of(const struct op *op, uint64_t *timeout_s, struct json *j)
{
    if (parse_number(op->argv[0], timeout_s) && *timeout_s > 0 && *timeout_s < 86400)
        return true;
    json_put_string(j, "error", "bad time limit");
    return false;
}

void op_exec(const struct op *op, struct json *j)
{
    uint64_t timeout_s;
    char *argv[] = {"/bin/sh", "-c", op->argv[1], NULL};
    if (time_of(op, &timeout_s, j))
        start_and_follow(argv, timeout_s, j);
}

void op_run(const struct op *op, struct json *j)
{
    uint64_t timeout_s;
    if (time_of(op, &timeout_s, j))
        start_and_follow(op->argv + 1, timeout_s, j);
}

/* SECONDS COUNT WORD... PROGRAM ARG... */
void op_sift(const struct op *op, struct json *j)
{
    uint64_t timeout_s, count;
    if (!time_of(op, &timeout_s, j))
        return;
    if (!parse_number(op->argv[1], &count) || !count || count + 3 > (uint64_t)op->argc) {
        json_put_string(j, "error", "bad number of words");
        return;
    }
    sieve.words = op->argv + 2;
    sieve.count = (int)count;
    start_and_follow(op->argv + 2 + count, timeout_s, j);
    json_put_number(j, "lines", (long long)sieve.lines);
}
