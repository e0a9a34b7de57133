// SPDX-License-Identifier: MIT
/* Plan file -> operations. A bad line becomes an operation with an `error`, never a failure of the rest. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* decodes in place; the result is never longer */
static const char *percent_decode(char *field)
{
    char *out = field;
    for (const char *in = field; *in; in++) {
        if (*in != '%') {
            *out++ = *in;
            continue;
        }
        int high = hex_digit(in[1]);
        int low = high < 0 ? -1 : hex_digit(in[2]);
        if (low < 0)
            return "bad percent encoding";
        if (high == 0 && low == 0)
            return "NUL in a field";
        *out++ = (char)(high << 4 | low);
        in += 2;
    }
    *out = '\0';
    return NULL;
}

bool parse_number(const char *text, uint64_t *value)
{
    *value = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || *value > (UINT64_MAX - 9) / 10)
            return false;
        *value = *value * 10 + (uint64_t)(*text - '0');
    }
    return true;
}

/* "NAME@SECONDS" -> timeout_s, and NAME alone is left */
static const char *split_timeout(struct op *op)
{
    uint64_t seconds;
    char *at = strchr(op->name, '@');
    if (!at)
        return NULL;
    *at = '\0';
    if (!parse_number(at + 1, &seconds) || seconds == 0 || seconds > 86400)
        return "bad time limit";
    op->timeout_s = (unsigned)seconds;
    return NULL;
}

static void parse_line(char *line, struct op *op)
{
    size_t fields = 1;
    for (const char *c = line; *c; c++)
        fields += *c == '\t';
    op->argv = calloc(fields + 1, sizeof *op->argv);
    if (!op->argv)
        abort();
    op->name = strsep(&line, "\t");
    op->error = split_timeout(op);
    for (char *field; (field = strsep(&line, "\t"));) {
        const char *error = percent_decode(field);
        if (error)
            op->error = error;
        op->argv[op->argc++] = field;
    }
}

static void parse_text(char *text, struct plan *plan)
{
    long number = 0;
    for (char *line; (line = strsep(&text, "\n"));) {
        number++;
        if (!*line || *line == '#')
            continue;
        struct op *grown = realloc(plan->ops, (plan->count + 1) * sizeof *grown);
        if (!grown)
            abort();
        plan->ops = grown;
        plan->ops[plan->count] = (struct op){.id = number};
        parse_line(line, &plan->ops[plan->count++]);
    }
}

int plan_open(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
    int err = errno;
    if (fd >= 0)
        close(fd);
    return high < 0 ? -err : high;
}

int plan_read(int fd, struct plan *plan)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return EINVAL;
    }
    plan->text = malloc((size_t)st.st_size + 1);
    if (!plan->text)
        abort();
    size_t have = 0;
    ssize_t got = 0;
    while (have < (size_t)st.st_size && (got = read(fd, plan->text + have, (size_t)st.st_size - have)) > 0)
        have += (size_t)got;
    close(fd);
    if (got < 0)
        return EIO;
    plan->text[have] = '\0';
    if (strlen(plan->text) != have)
        return EINVAL; /* a NUL would hide the lines behind it */
    parse_text(plan->text, plan);
    return 0;
}
