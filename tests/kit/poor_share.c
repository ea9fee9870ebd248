/* A share as WSL 2, 9p or virtiofs have it, made by LD_PRELOAD on Linux: below a folder "share"
   memory cannot be mapped (NOSHM=errno) and files cannot be locked (NOLOCK=errno: by fcntl,
   NOFLOCK=errno: by flock). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static int is_shared(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strstr(path, "/share/") != NULL;
}
static int fails(const char *what) {
    const char *told = getenv(what);
    return told == NULL ? 0 : atoi(told);
}
#define MMAP(name, off) \
void *name(void *at, size_t n, int prot, int flags, int fd, off place) { \
    static void *(*real)(void *, size_t, int, int, int, off); \
    if (!real) real = dlsym(RTLD_NEXT, #name); \
    if (fd >= 0 && (flags & MAP_SHARED) && fails("NOSHM") && is_shared(fd)) { errno = fails("NOSHM"); return MAP_FAILED; } \
    return real(at, n, prot, flags, fd, place); }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)
#define FCNTL(name) \
int name(int fd, int cmd, ...) { \
    static int (*real)(int, int, ...); va_list l; va_start(l, cmd); void *arg = va_arg(l, void *); va_end(l); \
    if (!real) real = dlsym(RTLD_NEXT, #name); \
    if ((cmd == F_SETLK || cmd == F_SETLKW || cmd == F_GETLK) && fails("NOLOCK") && is_shared(fd)) { errno = fails("NOLOCK"); return -1; } \
    return real(fd, cmd, arg); }
FCNTL(fcntl)
FCNTL(fcntl64)
int flock(int fd, int how) {
    static int (*real)(int, int);
    if (!real) real = dlsym(RTLD_NEXT, "flock");
    if (fails("NOFLOCK") && is_shared(fd)) { errno = fails("NOFLOCK"); return -1; }
    return real(fd, how);
}
