// SPDX-License-Identifier: MIT
/* The end of the machine: the init is asked for it, else the kernel. A rehearsal only says so. */
#include "probe.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define CLEAN_POWEROFF_GRACE_S 90
#define REQUEST_LIMIT_S 30

/* program, then its arguments; the first that ends with 0 has passed the request on */
static char *const requests[][6] = {
    {"/bin/systemctl", "systemctl", "poweroff", "--no-block"},
    {"/usr/bin/systemctl", "systemctl", "poweroff", "--no-block"},
    {"/sbin/poweroff", "poweroff"},
    {"/usr/sbin/poweroff", "poweroff"},
    {"/sbin/shutdown", "shutdown", "-h", "-P", "now"}, /* sysvinit's; it heeds no signal of busybox */
    {"/usr/sbin/shutdown", "shutdown", "-h", "-P", "now"},
    {"/bin/busybox", "busybox", "poweroff"},
    {"/usr/bin/busybox", "busybox", "poweroff"},
};

/* where the programs are; a rehearsal has them in a directory of its own, or asks nobody */
static const char *root_of_requests(void)
{
#ifdef ROFS_PROBE_REHEARSAL
    return getenv("ROFS_REHEARSAL_ROOT");
#else
    return "";
#endif
}

static bool ask(const char *program, char *const argv[])
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        clean_environment();
        alarm(REQUEST_LIMIT_S); /* outlives execv, so that an init that never answers cannot hold us */
        execv(program, argv);
        _exit(127);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

/* asks the init to stop the system; true when something took the request */
static bool ask_init(void)
{
    char program[PATH_MAX];
    const char *root = root_of_requests();
    if (!root)
        return false;
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        snprintf(program, sizeof program, "%s%s", root, requests[i][0]);
        if (ask(program, requests[i] + 1))
            return true;
    }
    return false;
}

void power_off(enum ending ending, int output)
{
    bool clean = ending == ENDED_CLEAN_POWEROFF;
    tcdrain(output);
    fsync(output);
    on_ending_signals(SIG_DFL); /* the init need not wait for us */
    bool asked = clean && ask_init();
#ifdef ROFS_PROBE_REHEARSAL
    (void)asked;
    emit_event(output, "rehearsal", "poweroff", ending);
#else
    if (asked)
        sleep(CLEAN_POWEROFF_GRACE_S); /* the init ends us within this time, or has failed */
    if (clean)
        sync();
    reboot(RB_POWER_OFF);
    emit_event(output, "still-on", "errno", errno);
#endif
}
