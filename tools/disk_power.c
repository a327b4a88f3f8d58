/* For LD_PRELOAD: keeps what a disk would still hold below a folder if the power went now.

   That is the content of a file at its last fsync, under the names that its folder had at the
   folder's own last fsync, and nothing else. `tree` holds it; `files` the contents by inode, for
   a file may be written before its name is. See tools/endure.py. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH 8192

static char folder[PATH / 4], kept[PATH / 4];
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

void disk_power(const char *below, const char *into) {
    snprintf(kept, sizeof kept, "%s", into);
    snprintf(folder, sizeof folder, "%s", below);
}

static const char *inside(const char *path) {
    size_t length = strlen(folder);
    return length && strncmp(path, folder, length) == 0 ? path + length : NULL;
}

/* Copies all at once or not at all; an empty file where there is nothing to copy. */
static void copy(const char *from, const char *to) {
    char part[PATH], bytes[65536];
    ssize_t count;
    snprintf(part, sizeof part, "%s/part", kept);
    int in = open(from, O_RDONLY), out = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while (in >= 0 && (count = read(in, bytes, sizeof bytes)) > 0)
        if (write(out, bytes, count) != count) _exit(70);
    if (in >= 0) close(in);
    close(out);
    if (rename(part, to)) _exit(71);
}

static void content(ino_t inode, char *path) {
    snprintf(path, PATH, "%s/files/%lu", kept, (unsigned long)inode);
}

static void names(const char *path, const char *within) {
    char there[PATH], found[2 * PATH], held[2 * PATH];
    struct dirent *entry;
    struct stat known;
    snprintf(there, sizeof there, "%s/tree%s", kept, within);
    DIR *open_now = opendir(path), *before = opendir(there);
    if (!open_now || !before) _exit(72); /* the folder's own name is not on the disk yet */
    while ((entry = readdir(before))) {
        snprintf(found, sizeof found, "%s/%s", path, entry->d_name);
        snprintf(held, sizeof held, "%s/%s", there, entry->d_name);
        if (lstat(found, &known)) unlink(held);
    }
    while ((entry = readdir(open_now))) {
        snprintf(found, sizeof found, "%s/%s", path, entry->d_name);
        snprintf(held, sizeof held, "%s/%s", there, entry->d_name);
        if (lstat(found, &known)) continue;
        if (S_ISDIR(known.st_mode)) {
            mkdir(held, 0700);
        } else if (S_ISREG(known.st_mode)) {
            char from[PATH];
            content(known.st_ino, from);
            copy(from, held);
        }
    }
    closedir(open_now);
    closedir(before);
}

static int synced(int handle, int result) {
    char link[64], path[PATH], to[PATH];
    struct stat known;
    if (result || !folder[0]) return result;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return result;
    path[length] = 0;
    const char *within = inside(path);
    if (!within || lstat(path, &known)) return result;
    pthread_mutex_lock(&turn);
    if (S_ISDIR(known.st_mode)) {
        names(path, within);
    } else {
        content(known.st_ino, to);
        copy(path, to);
        snprintf(to, sizeof to, "%s/tree%s", kept, within);
        if (!access(to, F_OK)) copy(path, to);
    }
    pthread_mutex_unlock(&turn);
    return result;
}

/* The inode of a file that is about to lose its last name may be another file's next. */
static void forget(const char *path) {
    char from[PATH];
    struct stat known;
    if (!inside(path) || lstat(path, &known) || known.st_nlink > 1) return;
    content(known.st_ino, from);
    unlink(from);
}

#define REAL(result, name, parameters)                                               \
    static result(*real) parameters;                                                 \
    if (!real) real = (result(*) parameters)dlsym(RTLD_NEXT, #name);

int fsync(int f) {
    REAL(int, fsync, (int))
    return synced(f, real(f));
}

int fdatasync(int f) {
    REAL(int, fdatasync, (int))
    return synced(f, real(f));
}

int unlink(const char *path) {
    REAL(int, unlink, (const char *))
    forget(path);
    return real(path);
}

int rename(const char *from, const char *to) {
    REAL(int, rename, (const char *, const char *))
    forget(to);
    return real(from, to);
}
