// SPDX-License-Identifier: MIT
/*
 * listeners SECONDS [PROTO/PORT...]: the sockets that others can send to, from /proc/net, and the programs
 * that hold them. Waits until each port named has one that is not on the loopback, SECONDS at most.
 */
#include "probe.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_SOCKETS 512
#define LOOK_EVERY_US (100 * 1000)

struct socket_row {
    const char *proto;
    char address[INET6_ADDRSTRLEN];
    bool loopback;
    unsigned port;
    unsigned long inode;
    long pid;
    char program[64];
};

static struct socket_row rows[MOST_SOCKETS];
static size_t row_count;

static const struct table {
    const char *file;
    const char *proto;
    unsigned state; /* LISTEN of TCP; UDP and raw sockets without a peer are CLOSE */
} tables[] = {
    {"/proc/net/tcp", "tcp", 0x0a},      {"/proc/net/tcp6", "tcp", 0x0a},     {"/proc/net/udp", "udp", 0x07},
    {"/proc/net/udp6", "udp", 0x07},     {"/proc/net/udplite", "udp", 0x07},  {"/proc/net/udplite6", "udp", 0x07},
    {"/proc/net/raw", "raw", 0x07},      {"/proc/net/raw6", "raw", 0x07},
};

/* 32-bit words in hexadecimal, each as the host reads it */
static bool parse_address(const char *hex, struct socket_row *row)
{
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    uint32_t words[4] = {0};
    size_t digits = strspn(hex, "0123456789ABCDEFabcdef");
    if (digits != 8 && digits != 32)
        return false;
    for (size_t i = 0; i < digits / 8; i++)
        if (sscanf(hex + 8 * i, "%8x", &words[i]) != 1)
            return false;
    const unsigned char *bytes = (const unsigned char *)words;
    bool v4 = digits == 8;
    if (!v4 && !memcmp(bytes, mapped, sizeof mapped)) {
        bytes += sizeof mapped;
        v4 = true;
    }
    struct in6_addr six;
    if (!v4)
        memcpy(&six, bytes, sizeof six);
    row->loopback = v4 ? bytes[0] == 127 : IN6_IS_ADDR_LOOPBACK(&six);
    return inet_ntop(v4 ? AF_INET : AF_INET6, bytes, row->address, sizeof row->address) != NULL;
}

static void take_line(const struct table *table, const char *line)
{
    char local[64];
    unsigned port, state;
    unsigned long inode;
    if (row_count == MOST_SOCKETS)
        return;
    struct socket_row *row = &rows[row_count];
    *row = (struct socket_row){.proto = table->proto};
    if (sscanf(line, " %*[^:]: %63[0-9A-Fa-f]:%x %*s %x %*s %*s %*s %*s %*s %lu", local, &port, &state, &inode) != 4)
        return;
    if (state != table->state || !parse_address(local, row))
        return;
    row->port = port;
    row->inode = inode;
    row_count++;
}

/* 0 or the errno of a table that must be there */
static int take_tables(void)
{
    char line[512];
    row_count = 0;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        FILE *file = fopen(tables[i].file, "re");
        if (!file && i == 0)
            return errno; /* a kernel without IPv6 has no *6 */
        while (file && fgets(line, sizeof line, file))
            take_line(&tables[i], line);
        if (file)
            fclose(file);
    }
    return 0;
}

static bool is_there(const char *wanted)
{
    char name[32];
    for (size_t i = 0; i < row_count; i++) {
        snprintf(name, sizeof name, "%s/%u", rows[i].proto, rows[i].port);
        if (!rows[i].loopback && !strcmp(name, wanted))
            return true;
    }
    return false;
}

static bool all_there(const struct op *op)
{
    for (int i = 1; i < op->argc; i++)
        if (!is_there(op->argv[i]))
            return false;
    return true;
}

static void name_of(const char *pid, char *name, size_t size)
{
    char path[300];
    snprintf(path, sizeof path, "/proc/%s/comm", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    if (fgets(name, (int)size, file))
        name[strcspn(name, "\n")] = '\0';
    fclose(file);
}

static void match_descriptors(const char *pid)
{
    char path[600], target[64];
    unsigned long inode;
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *dir = opendir(path);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, entry->d_name);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length <= 0)
            continue;
        target[length] = '\0';
        if (sscanf(target, "socket:[%lu]", &inode) != 1)
            continue;
        for (size_t i = 0; i < row_count; i++) {
            /* PID 1 holds a unit's socket too: the one that answers is said */
            if (rows[i].inode != inode || rows[i].pid > 1)
                continue;
            rows[i].pid = atol(pid);
            name_of(pid, rows[i].program, sizeof rows[i].program);
        }
    }
    closedir(dir);
}

static void find_programs(void)
{
    DIR *proc = opendir("/proc");
    if (!proc)
        return;
    for (struct dirent *entry; (entry = readdir(proc));)
        if (isdigit((unsigned char)entry->d_name[0]))
            match_descriptors(entry->d_name);
    closedir(proc);
}

static void put_rows(struct json *j)
{
    json_key(j, "sockets");
    json_open(j, '[');
    for (size_t i = 0; i < row_count; i++) {
        json_open(j, '{');
        json_put_string(j, "proto", rows[i].proto);
        json_put_string(j, "address", rows[i].address);
        json_put_number(j, "port", rows[i].port);
        json_put_bool(j, "loopback", rows[i].loopback);
        json_put_number(j, "pid", rows[i].pid);
        json_key(j, "program");
        json_path(j, rows[i].program);
        json_close(j, '}');
    }
    json_close(j, ']');
}

void op_listeners(const struct op *op, struct json *j)
{
    uint64_t timeout_s;
    if (!time_of(op, &timeout_s, j))
        return;
    double began = now_s(), deadline = began + (double)timeout_s;
    int err = take_tables();
    while (!err && !all_there(op) && now_s() < deadline) {
        usleep(LOOK_EVERY_US);
        err = take_tables();
    }
    find_programs();
    json_put_errno(j, "errno", err);
    put_rows(j);
    json_put_bool(j, "truncated", row_count == MOST_SOCKETS);
    json_key(j, "seconds");
    json_seconds(j, now_s() - began);
}
