// SPDX-License-Identifier: MIT
/*
 * In place of an init: this process becomes the init, a child of it goes on as the probe.
 *
 * The init must find itself as the kernel or the initrd would have started it, so nothing of the parent is
 * touched before execv. The child is outside of anything that the init watches over.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static bool may_enter(void)
{
#ifdef ROFS_PROBE_REHEARSAL
    if (!getenv("ROFS_REHEARSAL_STRICT"))
        return true;
#endif
    return getpid() == 1;
}

/* a panic follows, which does not wait for what a serial line still has to say */
static void complain(const char *what, const char *init, int err)
{
    fprintf(stderr, "rofs-probe: %s %s: %s\n", what, init, errno_name(err));
    tcdrain(STDERR_FILENO);
}

static _Noreturn void become(const char *init, char *const argv[], int failure)
{
    execv(init, argv);
    int err = errno;
    complain("cannot execute", init, err);
    (void)!write(failure, &err, sizeof err);
    _exit(127);
}

/* the parent's end of the pipe closes without a word as soon as the init is executed */
static bool wait_for_init(int failure)
{
    int err;
    ssize_t got;
    while ((got = read(failure, &err, sizeof err)) < 0 && errno == EINTR)
        ;
    close(failure);
    return got == 0;
}

/* the console is for words only, and may not be there at all */
static void arrange_descriptors(void)
{
    int null = open("/dev/null", O_RDWR);
    if (null < 0)
        return;
    dup2(null, STDIN_FILENO);
    for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            dup2(null, fd);
    if (null > STDERR_FILENO)
        close(null);
}

void on_ending_signals(void (*what)(int))
{
    static const int signals[] = {SIGHUP, SIGINT, SIGTERM};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], what);
}

bool enter_init(const char *init, char *const argv[])
{
    int ends[2];
    if (!may_enter()) {
        fputs("rofs-probe: --init is for PID 1\n", stderr);
        return false;
    }
    pid_t child = pipe2(ends, O_CLOEXEC) < 0 ? -1 : fork();
    if (child < 0) {
        complain("no probe beside", init, errno);
        return false;
    }
    if (child > 0)
        become(init, argv, ends[1]);
    close(ends[1]);
    setsid();
    on_ending_signals(SIG_IGN);
    if (!wait_for_init(ends[0]))
        return false;
    arrange_descriptors(); /* not before: the pipe may be one of the three */
    return true;
}
