// SPDX-License-Identifier: MIT
/* klog WORD...: the lines of the kernel's log that hold one of the words, in any case of letters. */
#include "probe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>

#define READ_ALL 3
#define SIZE_BUFFER 10
#define MOST_LINES 200

bool has_word(const char *line, char *const words[], int count)
{
    for (int i = 0; i < count; i++)
        if (strcasestr(line, words[i]))
            return true;
    return false;
}

void op_klog(const struct op *op, struct json *j)
{
    int size = klogctl(SIZE_BUFFER, NULL, 0), lines = 0, found = 0;
    char *text = size < 0 ? NULL : malloc((size_t)size + 1);
    int length = text ? klogctl(READ_ALL, text, size) : -1;
    json_put_errno(j, "errno", length < 0 ? errno : 0);
    if (length < 0)
        return;
    text[length] = '\0';
    json_key(j, "found");
    json_open(j, '[');
    for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
        lines += *line != '\0';
        if (has_word(line, op->argv, op->argc) && found++ < MOST_LINES)
            json_string(j, line);
    }
    json_close(j, ']');
    json_put_number(j, "lines", lines);
    json_put_bool(j, "truncated", found > MOST_LINES);
}
