/* Stands between the server and libc (LD_PRELOAD) and makes the calls that touch the disk fail,
 * stop half way, take long, or kill the process, by rules in a file that is shared with the test.
 * tests/torture/shim.rs writes the rules; the layout below is the one it knows. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { WRITE = 1, SYNC = 2, UNLINK = 4, RENAME = 8, TRUNCATE = 16, OPEN = 32, SEND = 64 };
enum { COUNT, KILL_BEFORE, KILL_AFTER, KILL_HALFWAY, FAIL, SHORT, DELAY, SKIP };
enum { RULES = 8 };

struct rule {
    uint32_t calls;  /* which calls; 0 for none: written last by the test */
    uint32_t action; /* what happens to them */
    uint32_t amount; /* errno, or milliseconds */
    uint32_t unused;
    uint64_t first; /* the first hit that is acted on, from 1 */
    uint64_t count; /* so many hits are acted on; 0 for all that follow */
    uint64_t hits;  /* counted here */
    char path[88];  /* part of the path; its end where it ends with '$' */
};

struct control {
    int64_t clock_seconds; /* added to the wall clock */
    uint64_t unused[15];
    struct rule rules[RULES];
};

static struct control *control;

__attribute__((constructor)) static void attach(void) {
    const char *name = getenv("STEADFAST_SHIM");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    void *map = MAP_FAILED;
    if (fd >= 0)
        map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        fprintf(stderr, "shim: STEADFAST_SHIM names no control file\n");
        _exit(99);
    }
    close(fd);
    control = map;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static int matches(const char *path, const char *wanted) {
    size_t want = strlen(wanted), have = strlen(path);
    if (want > 0 && wanted[want - 1] == '$')
        return have + 1 >= want && memcmp(path + have + 1 - want, wanted, want - 1) == 0;
    return strstr(path, wanted) != NULL;
}

/* What happens to one call. */
struct fate {
    int fail, shorter, halfway, after, skip;
};

static struct fate decide(uint32_t call, const char *path, int fd) {
    struct fate fate = {0, 0, 0, 0, 0};
    char own[512], link[64];
    for (int i = 0; control && i < RULES; i++) {
        struct rule *rule = &control->rules[i];
        if (!(__atomic_load_n(&rule->calls, __ATOMIC_ACQUIRE) & call))
            continue;
        if (!path) {
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            ssize_t n = readlink(link, own, sizeof own - 1);
            own[n < 0 ? 0 : n] = 0;
            path = own;
        }
        if (!matches(path, rule->path))
            continue;
        uint64_t hit = __atomic_add_fetch(&rule->hits, 1, __ATOMIC_SEQ_CST);
        if (hit < rule->first || (rule->count && hit >= rule->first + rule->count))
            continue;
        switch (rule->action) {
        case KILL_BEFORE: die(); break;
        case KILL_AFTER: fate.after = 1; break;
        case KILL_HALFWAY: fate.halfway = 1; break;
        case FAIL: fate.fail = (int)rule->amount; break;
        case SHORT: fate.shorter = 1; break;
        case DELAY: usleep(rule->amount * 1000); break;
        case SKIP: fate.skip = 1; break;
        default: break;
        }
    }
    return fate;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* A call that is done whole or not at all. */
#define WHOLE(call, path, fd, done) \
    struct fate fate = decide(call, path, fd); \
    if (fate.fail) { \
        errno = fate.fail; \
        return -1; \
    } \
    if (fate.skip) \
        return 0; \
    __typeof__(done) result = done; \
    if (fate.after || fate.halfway) \
        die(); \
    return result

/* A call that may write less than it was asked to. */
#define PART(call, fd, size, done) \
    struct fate fate = decide(call, NULL, fd); \
    if (fate.fail) { \
        errno = fate.fail; \
        return -1; \
    } \
    if ((fate.shorter || fate.halfway) && size > 1) \
        size /= 2; \
    ssize_t result = done; \
    if (fate.after || fate.halfway) \
        die(); \
    return result

EXPORT ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(write);
    PART(WRITE, fd, size, real(fd, bytes, size));
}

EXPORT ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    REAL(pwrite);
    PART(WRITE, fd, size, real(fd, bytes, size, at));
}

EXPORT ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    REAL(pwrite64);
    PART(WRITE, fd, size, real(fd, bytes, size, at));
}

/* Of several parts the first half is written, of one part all. */
EXPORT ssize_t writev(int fd, const struct iovec *parts, int size) {
    REAL(writev);
    PART(WRITE | SEND, fd, size, real(fd, parts, size));
}

EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int size, off_t at) {
    REAL(pwritev);
    PART(WRITE, fd, size, real(fd, parts, size, at));
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int size, off64_t at) {
    REAL(pwritev64);
    PART(WRITE, fd, size, real(fd, parts, size, at));
}

EXPORT ssize_t send(int fd, const void *bytes, size_t size, int flags) {
    REAL(send);
    PART(SEND, fd, size, real(fd, bytes, size, flags));
}

EXPORT int fsync(int fd) {
    REAL(fsync);
    WHOLE(SYNC, NULL, fd, real(fd));
}

EXPORT int fdatasync(int fd) {
    REAL(fdatasync);
    WHOLE(SYNC, NULL, fd, real(fd));
}

EXPORT int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    WHOLE(TRUNCATE, NULL, fd, real(fd, size));
}

EXPORT int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    WHOLE(TRUNCATE, NULL, fd, real(fd, size));
}

EXPORT int unlink(const char *path) {
    REAL(unlink);
    WHOLE(UNLINK, path, -1, real(path));
}

EXPORT int unlinkat(int dir, const char *path, int flags) {
    REAL(unlinkat);
    WHOLE(UNLINK, path, -1, real(dir, path, flags));
}

EXPORT int rename(const char *from, const char *to) {
    REAL(rename);
    WHOLE(RENAME, to, -1, real(from, to));
}

EXPORT int renameat(int dir, const char *from, int other, const char *to) {
    REAL(renameat);
    WHOLE(RENAME, to, -1, real(dir, from, other, to));
}

EXPORT int open64(const char *path, int flags, ...) {
    REAL(open64);
    __builtin_va_list rest;
    __builtin_va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? __builtin_va_arg(rest, mode_t) : 0;
    __builtin_va_end(rest);
    WHOLE(OPEN, path, -1, real(path, flags, mode));
}

EXPORT int clock_gettime(clockid_t clock, struct timespec *time) {
    REAL(clock_gettime);
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME && control)
        time->tv_sec += control->clock_seconds;
    return result;
}
