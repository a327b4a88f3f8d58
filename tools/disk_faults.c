/* For LD_PRELOAD: lets the n-th change below a folder fail, as the system calls see it.

   What a program written in C does to a disk, such as SQLite, goes by the calls of the C library
   and not by ours. `disk_faults` says which call is to fail; `disk_calls` tells how many there
   were. See tools/endure.py. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[4096];
static long fail_at, calls;
static int error_code, stays;

void disk_faults(const char *below, long at, int code, int for_good) {
    snprintf(folder, sizeof folder, "%s", below);
    fail_at = at;
    error_code = code;
    stays = for_good;
    calls = 0;
}

long disk_calls(void) { return calls; }

static int fails(const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder)) != 0) return 0;
    long now = __sync_add_and_fetch(&calls, 1);
    if (fail_at == 0 || now < fail_at || (now > fail_at && !stays)) return 0;
    errno = error_code;
    return 1;
}

static int handle_fails(int handle) {
    char link[64], path[4096];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(path);
}

/* Stands in for a call, and asks first whether it fails. */
#define CALL(result, name, parameters, arguments, question)                          \
    result name parameters {                                                         \
        static result (*real) parameters;                                            \
        if (!real) real = (result(*) parameters)dlsym(RTLD_NEXT, #name);             \
        return question ? -1 : real arguments;                                       \
    }

CALL(ssize_t, write, (int f, const void *b, size_t n), (f, b, n), handle_fails(f))
CALL(ssize_t, pwrite, (int f, const void *b, size_t n, off_t o), (f, b, n, o), handle_fails(f))
CALL(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o), handle_fails(f))
CALL(int, ftruncate, (int f, off_t n), (f, n), handle_fails(f))
CALL(int, ftruncate64, (int f, off64_t n), (f, n), handle_fails(f))
CALL(int, fsync, (int f), (f), handle_fails(f))
CALL(int, fdatasync, (int f), (f), handle_fails(f))
CALL(int, rename, (const char *a, const char *b), (a, b), fails(b))
CALL(int, unlink, (const char *a), (a), fails(a))
CALL(int, mkdir, (const char *a, mode_t m), (a, m), fails(a))

#define OPEN(name)                                                                   \
    int name(const char *path, int flags, ...) {                                     \
        static int (*real)(const char *, int, ...);                                  \
        if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);  \
        va_list rest;                                                                \
        va_start(rest, flags);                                                       \
        mode_t mode = va_arg(rest, mode_t);                                          \
        va_end(rest);                                                                \
        return (flags & O_CREAT) && fails(path) ? -1 : real(path, flags, mode);      \
    }

OPEN(open)
OPEN(open64)
