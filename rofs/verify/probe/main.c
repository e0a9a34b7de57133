// SPDX-License-Identifier: MIT
/*
 * rofs-probe PLAN [--output FILE|-] [--poweroff-on-exit]
 * rofs-probe --init INIT PLAN [--output FILE|-] [--poweroff-on-exit] [-- ARG...]
 *
 * A supervisor opens the port once, starts the runner and waits for it. Whatever becomes of the runner,
 * the supervisor says so and, only with --poweroff-on-exit, ends the machine. With --init it is started as
 * PID 1 and becomes INIT; all this is then a child's. Compiled with ROFS_PROBE_REHEARSAL, as the unit tests
 * do, it reports the power-off in place of doing it, and need not be PID 1.
 */
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PORT_NAME "rofs.probe"

static const char usage[] = "usage: rofs-probe PLAN [--output FILE|-] [--poweroff-on-exit]\n"
                            "       rofs-probe --init INIT PLAN [--output FILE|-] [--poweroff-on-exit] [-- ARG...]\n";

struct arguments {
    const char *plan;
    const char *output;
    bool power_off;
    char *init;       /* NULL, or what is executed in our place */
    char **init_argv; /* ends with NULL, its first is `init` */
    char *alone[2];   /* `init_argv` of an init without arguments */
};

/* "--" in `argv` becomes the init's own first argument */
static bool parse_arguments(int argc, char **argv, struct arguments *arguments)
{
    arguments->init_argv = arguments->alone;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--poweroff-on-exit")) {
            arguments->power_off = true;
        } else if (!strcmp(argv[i], "--output") && i + 1 < argc) {
            arguments->output = argv[++i];
        } else if (!strcmp(argv[i], "--init") && i + 1 < argc) {
            arguments->init = arguments->alone[0] = argv[++i];
        } else if (!strcmp(argv[i], "--") && arguments->init) {
            argv[i] = arguments->init;
            arguments->init_argv = argv + i;
            break;
        } else if (argv[i][0] != '-' && !arguments->plan) {
            arguments->plan = argv[i];
        } else {
            return false;
        }
    }
    return arguments->plan != NULL;
}

static bool port_is_ours(const char *port)
{
    char path[512], name[64] = "";
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", port);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, name, sizeof name - 1);
    close(fd);
    if (length <= 0)
        return false;
    name[strcspn(name, "\n")] = '\0';
    return !strcmp(name, PORT_NAME);
}

/* the virtio-serial port that carries our name, or -1 */
static int open_port(void)
{
    int fd = -1;
    DIR *ports = opendir("/sys/class/virtio-ports");
    if (!ports)
        return -1;
    for (struct dirent *entry; fd < 0 && (entry = readdir(ports));) {
        char device[512];
        if (entry->d_name[0] == '.' || !port_is_ours(entry->d_name))
            continue;
        snprintf(device, sizeof device, "/dev/%s", entry->d_name);
        fd = open(device, O_WRONLY | O_CLOEXEC);
    }
    closedir(ports);
    return fd;
}

/* udev and the driver may be a moment behind a very early start */
static int wait_for_port(void)
{
    int fd = open_port();
    for (int tries = 0; fd < 0 && tries < 100; tries++) {
        usleep(100 * 1000);
        fd = open_port();
    }
    return fd;
}

static int open_output(const char *output)
{
    if (!output)
        return wait_for_port();
    if (!strcmp(output, "-"))
        return fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    return open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void emit_start(int output)
{
    struct utsname name;
    struct json j = {0};
    uname(&name);
    json_open(&j, '{');
    json_put_string(&j, "event", "start");
    json_put_number(&j, "wire", WIRE_VERSION);
    json_put_string(&j, "sysname", name.sysname);
    json_put_string(&j, "nodename", name.nodename);
    json_put_string(&j, "release", name.release);
    json_put_string(&j, "version", name.version);
    json_put_string(&j, "machine", name.machine);
    json_put_number(&j, "pid", getpid());
    json_put_number(&j, "uid", (long long)geteuid());
    json_close(&j, '}');
    emit(output, &j);
}

static void emit_plan_error(int output, int err)
{
    struct json j = {0};
    json_open(&j, '{');
    json_put_string(&j, "event", "error");
    json_put_string(&j, "error", "the plan cannot be read");
    json_put_errno(&j, "errno", err);
    json_close(&j, '}');
    emit(output, &j);
    emit_event(output, "end", "ops", 0);
}

static enum ending run(const struct arguments *arguments, int plan_fd, int output)
{
    struct plan plan = {0};
    emit_start(output);
    int err = plan_fd < 0 ? -plan_fd : plan_read(plan_fd, &plan);
    if (err) {
        emit_plan_error(output, err);
        return ENDED_PLAIN;
    }
    return run_plan(&plan, &(struct run_options){.output = output, .may_power_off = arguments->power_off});
}

/* a file system that is being filled must not cost us the supervisor */
static void protect_from_oom(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!write(fd, "-900", 4);
    close(fd);
}

static enum ending supervise(const struct arguments *arguments, int plan, int output)
{
    int status = 0;
    pid_t runner = fork();
    if (runner == 0)
        _exit(run(arguments, plan, output));
    close(plan);
    if (runner < 0) {
        emit_event(output, "crash", "errno", errno);
        return ENDED_PLAIN;
    }
    while (waitpid(runner, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status))
        return (enum ending)WEXITSTATUS(status);
    emit_event(output, "crash", "signal", WTERMSIG(status));
    return ENDED_PLAIN;
}

int main(int argc, char **argv)
{
    struct arguments arguments = {0};
    bool understood = parse_arguments(argc, argv, &arguments);
    if (!understood && (!arguments.power_off || arguments.init)) {
        fputs(usage, stderr);
        tcdrain(STDERR_FILENO); /* of PID 1 it is the last word before a panic */
        return 2;
    }
    /* now, because an init may mount something over it */
    int plan = understood ? plan_open(arguments.plan) : -1;
    if (arguments.init && !enter_init(arguments.init, arguments.init_argv))
        return 2;
    signal(SIGPIPE, SIG_IGN);
    if (arguments.power_off)
        protect_from_oom();
    int output = open_output(arguments.output);
    if (output < 0)
        fputs("rofs-probe: no port named " PORT_NAME "\n", stderr);
    enum ending ending = ENDED_PLAIN;
    if (output >= 0 && understood)
        ending = supervise(&arguments, plan, output);
    if (arguments.power_off)
        power_off(ending, output);
    return output < 0;
}
