// SPDX-License-Identifier: MIT
/*
 * PID 1 of systemd on its private socket, in just enough of the D-Bus protocol to ask it (specification 0.41).
 * systemctl asks for all properties of a unit where one is wanted, which costs a hundred times as much.
 */
#ifndef ROFS_PID1_H
#define ROFS_PID1_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MANAGER_PATH "/org/freedesktop/systemd1"
#define MANAGER "org.freedesktop.systemd1.Manager"

/* the body of an answer, read from its beginning; past its end everything is empty and `bad` is set */
struct reply {
    char *body;
    size_t size, at;
    bool bad;
    char error[128]; /* the name of the error that came instead, or "" */
};

int pid1_connect(void);                        /* a descriptor, or a negative errno */
void pid1_close(int fd);
/* calls a method whose arguments are strings; 0 or an errno. `reply` is freed by reply_free. */
int pid1_call(int fd, const char *path, const char *interface, const char *method, const char *const *strings,
              struct reply *reply);
/* a property; the body is then a variant that begins with its signature */
int pid1_get(int fd, const char *path, const char *interface, const char *property, struct reply *reply);
void unit_path(const char *name, char *out, size_t size);

uint32_t reply_u32(struct reply *reply);
const char *reply_string(struct reply *reply); /* also of an object path */
char reply_variant(struct reply *reply);       /* the first letter of its type; the value comes next */
bool reply_array(struct reply *reply, size_t *end); /* of structs */
bool reply_struct(struct reply *reply, size_t end); /* false at the end of the array */
void reply_free(struct reply *reply);

#endif
