/* An LD_PRELOAD library that injects faults into file and socket calls: errors, short writes,
 * delays, skipped calls and kill -9. The test writes the rules to a file, which the library
 * maps into memory. fault_shim.rs also defines the layout of this file. */
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
    uint32_t calls;  /* set of calls that match; 0 disables the rule; written last */
    uint32_t action; /* one of the actions above */
    uint32_t amount; /* errno or milliseconds */
    uint32_t unused;
    uint64_t first; /* first hit on which the rule acts, counted from 1 */
    uint64_t count; /* number of hits on which the rule acts; 0 means unlimited */
    uint64_t hits;  /* number of matches so far */
    char path[88];  /* substring of the path; a final '$' anchors it at the end */
};

struct control {
    int64_t clock_seconds; /* offset added to the wall clock */
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
        fprintf(stderr, "shim: STEADFAST_SHIM is not a control file\n");
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

/* The faults to inject into a call. */
struct faults {
    int fail, short_write, halfway, after, skip;
};

static struct faults match_rules(uint32_t call, const char *path, int fd) {
    struct faults faults = {0, 0, 0, 0, 0};
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
        case KILL_AFTER: faults.after = 1; break;
        case KILL_HALFWAY: faults.halfway = 1; break;
        case FAIL: faults.fail = (int)rule->amount; break;
        case SHORT: faults.short_write = 1; break;
        case DELAY: usleep(rule->amount * 1000); break;
        case SKIP: faults.skip = 1; break;
        default: break;
        }
    }
    return faults;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Performs a call that has no partial effects. */
#define WHOLE_CALL(call, path, fd, done) \
    struct faults faults = match_rules(call, path, fd); \
    if (faults.fail) { \
        errno = faults.fail; \
        return -1; \
    } \
    if (faults.skip) \
        return 0; \
    __typeof__(done) result = done; \
    if (faults.after || faults.halfway) \
        die(); \
    return result

/* Performs a call that may write less than requested. */
#define SHORTENABLE_CALL(call, fd, size, done) \
    struct faults faults = match_rules(call, NULL, fd); \
    if (faults.fail) { \
        errno = faults.fail; \
        return -1; \
    } \
    if ((faults.short_write || faults.halfway) && size > 1) \
        size /= 2; \
    ssize_t result = done; \
    if (faults.after || faults.halfway) \
        die(); \
    return result

EXPORT ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(write);
    SHORTENABLE_CALL(WRITE, fd, size, real(fd, bytes, size));
}

EXPORT ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    REAL(pwrite);
    SHORTENABLE_CALL(WRITE, fd, size, real(fd, bytes, size, at));
}

EXPORT ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    REAL(pwrite64);
    SHORTENABLE_CALL(WRITE, fd, size, real(fd, bytes, size, at));
}

/* A short write writes half of the buffers. A single buffer is written entirely. */
EXPORT ssize_t writev(int fd, const struct iovec *parts, int size) {
    REAL(writev);
    SHORTENABLE_CALL(WRITE | SEND, fd, size, real(fd, parts, size));
}

EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int size, off_t at) {
    REAL(pwritev);
    SHORTENABLE_CALL(WRITE, fd, size, real(fd, parts, size, at));
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int size, off64_t at) {
    REAL(pwritev64);
    SHORTENABLE_CALL(WRITE, fd, size, real(fd, parts, size, at));
}

EXPORT ssize_t send(int fd, const void *bytes, size_t size, int flags) {
    REAL(send);
    SHORTENABLE_CALL(SEND, fd, size, real(fd, bytes, size, flags));
}

EXPORT int fsync(int fd) {
    REAL(fsync);
    WHOLE_CALL(SYNC, NULL, fd, real(fd));
}

EXPORT int fdatasync(int fd) {
    REAL(fdatasync);
    WHOLE_CALL(SYNC, NULL, fd, real(fd));
}

EXPORT int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    WHOLE_CALL(TRUNCATE, NULL, fd, real(fd, size));
}

EXPORT int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    WHOLE_CALL(TRUNCATE, NULL, fd, real(fd, size));
}

EXPORT int unlink(const char *path) {
    REAL(unlink);
    WHOLE_CALL(UNLINK, path, -1, real(path));
}

EXPORT int unlinkat(int dir, const char *path, int flags) {
    REAL(unlinkat);
    WHOLE_CALL(UNLINK, path, -1, real(dir, path, flags));
}

EXPORT int rename(const char *from, const char *to) {
    REAL(rename);
    WHOLE_CALL(RENAME, to, -1, real(from, to));
}

EXPORT int renameat(int dir, const char *from, int other, const char *to) {
    REAL(renameat);
    WHOLE_CALL(RENAME, to, -1, real(dir, from, other, to));
}

EXPORT int open64(const char *path, int flags, ...) {
    REAL(open64);
    __builtin_va_list rest;
    __builtin_va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? __builtin_va_arg(rest, mode_t) : 0;
    __builtin_va_end(rest);
    WHOLE_CALL(OPEN, path, -1, real(path, flags, mode));
}

EXPORT int clock_gettime(clockid_t clock, struct timespec *time) {
    REAL(clock_gettime);
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME && control)
        time->tv_sec += control->clock_seconds;
    return result;
}
