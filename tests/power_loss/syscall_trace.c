/* An LD_PRELOAD library that traces the changes to the files in a directory tree. It records every
 * write, including the data, every other change and every fsync, in order. syscall_trace.rs reads
 * the records and also defines their layout. Each record is complete before `end` is advanced past
 * it, so a killed process leaves no partial record. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { WRITE = 1, SYNC_BEGINS, SYNC_ENDS, TRUNCATE, CREATE, UNLINK, RENAME, MKDIR };

struct header {
    uint64_t end;      /* size of all records in bytes */
    uint64_t capacity; /* space for records in bytes; set by the test */
    uint32_t lock;
    uint32_t full; /* set if a record did not fit, so the trace is incomplete */
};

struct record {
    uint32_t kind, thread;
    uint64_t time; /* microseconds since the Unix epoch */
    uint64_t at;   /* offset of a write; size of a truncation */
    uint64_t path, bytes;
}; /* followed by the path and the bytes; the next record begins at a multiple of 8 */

static struct header *header;
static const char *root;

__attribute__((constructor)) static void attach(void) {
    const char *name = getenv("STEADFAST_TRACE");
    root = getenv("STEADFAST_TRACE_ROOT");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    struct stat stat;
    void *map = MAP_FAILED;
    if (root && fd >= 0 && fstat(fd, &stat) == 0)
        map = mmap(NULL, stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        fprintf(stderr, "trace: STEADFAST_TRACE is not a trace file\n");
        _exit(99);
    }
    close(fd);
    header = map;
    header->lock = 0; /* a killed process may have held the lock */
}

static void append_record(uint32_t kind, const char *path, uint64_t at, const void *bytes,
                          uint64_t size) {
    size_t root_length = strlen(root), length = strlen(path);
    if (!header || strncmp(path, root, root_length) != 0)
        return;
    if (length > 4 && strcmp(path + length - 4, "-shm") == 0)
        return;
    while (__atomic_exchange_n(&header->lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
    uint64_t whole = (sizeof(struct record) + length + size + 7) & ~7ull;
    if (header->full || header->end + whole > header->capacity) {
        header->full = 1;
    } else {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        struct record *to = (struct record *)((char *)(header + 1) + header->end);
        to->kind = kind;
        to->thread = (uint32_t)syscall(SYS_gettid);
        to->time = (uint64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
        to->at = at;
        to->path = length;
        to->bytes = size;
        memcpy(to + 1, path, length);
        if (size)
            memcpy((char *)(to + 1) + length, bytes, size);
        __atomic_store_n(&header->end, header->end + whole, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&header->lock, 0, __ATOMIC_RELEASE);
}

/* Returns the path of a descriptor. A pipe or socket has no path below the root directory. */
static const char *fd_path(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, size - 1);
    path[n < 0 ? 0 : n] = 0;
    return path;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Records a write before the call, because any part of the data may reach the disk from then on,
 * even if the process is killed during the call. */
static void record_write(int fd, const void *bytes, size_t size, int64_t at) {
    char path[512];
    if (size && at >= 0)
        append_record(WRITE, fd_path(fd, path, sizeof path), (uint64_t)at, bytes, size);
}

EXPORT ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(write);
    record_write(fd, bytes, size, lseek(fd, 0, SEEK_CUR));
    return real(fd, bytes, size);
}

EXPORT ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    REAL(pwrite);
    record_write(fd, bytes, size, at);
    return real(fd, bytes, size, at);
}

EXPORT ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    REAL(pwrite64);
    record_write(fd, bytes, size, at);
    return real(fd, bytes, size, at);
}

static void record_parts(int fd, const struct iovec *parts, int size, int64_t at) {
    for (int i = 0; i < size && at >= 0; i++) {
        record_write(fd, parts[i].iov_base, parts[i].iov_len, at);
        at += (int64_t)parts[i].iov_len;
    }
}

EXPORT ssize_t writev(int fd, const struct iovec *parts, int size) {
    REAL(writev);
    record_parts(fd, parts, size, lseek(fd, 0, SEEK_CUR));
    return real(fd, parts, size);
}

EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int size, off_t at) {
    REAL(pwritev);
    record_parts(fd, parts, size, at);
    return real(fd, parts, size, at);
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int size, off64_t at) {
    REAL(pwritev64);
    record_parts(fd, parts, size, at);
    return real(fd, parts, size, at);
}

#define SYNCED(fd, done) \
    char path[512]; \
    fd_path(fd, path, sizeof path); \
    append_record(SYNC_BEGINS, path, 0, NULL, 0); \
    int result = done; \
    if (result == 0) \
        append_record(SYNC_ENDS, path, 0, NULL, 0); \
    return result

EXPORT int fsync(int fd) {
    REAL(fsync);
    SYNCED(fd, real(fd));
}

EXPORT int fdatasync(int fd) {
    REAL(fdatasync);
    SYNCED(fd, real(fd));
}

#define RESIZED(fd, size, done) \
    int result = done; \
    if (result == 0) { \
        char path[512]; \
        append_record(TRUNCATE, fd_path(fd, path, sizeof path), (uint64_t)size, NULL, 0); \
    } \
    return result

EXPORT int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    RESIZED(fd, size, real(fd, size));
}

EXPORT int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    RESIZED(fd, size, real(fd, size));
}

#define RECORDED(kind, path, bytes, size, done) \
    int result = done; \
    if (result == 0) \
        append_record(kind, path, 0, bytes, size); \
    return result

EXPORT int unlink(const char *path) {
    REAL(unlink);
    RECORDED(UNLINK, path, NULL, 0, real(path));
}

EXPORT int unlinkat(int dir, const char *path, int flags) {
    REAL(unlinkat);
    RECORDED(UNLINK, path, NULL, 0, real(dir, path, flags));
}

EXPORT int rename(const char *from, const char *to) {
    REAL(rename);
    RECORDED(RENAME, from, to, strlen(to), real(from, to));
}

/* Records a new name before creating it, so that no operation on the new file or directory precedes
 * this record in the trace. */
EXPORT int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (access(path, F_OK) != 0)
        append_record(MKDIR, path, 0, NULL, 0);
    return real(path, mode);
}

#define OPENED(path, flags, done) \
    if ((flags & O_CREAT) && access(path, F_OK) != 0) \
        append_record(CREATE, path, 0, NULL, 0); \
    int result = done; \
    if (result >= 0 && (flags & O_TRUNC)) \
        append_record(TRUNCATE, path, 0, NULL, 0); \
    return result

#define MODE \
    __builtin_va_list rest; \
    __builtin_va_start(rest, flags); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? __builtin_va_arg(rest, mode_t) : 0; \
    __builtin_va_end(rest)

EXPORT int open(const char *path, int flags, ...) {
    REAL(open);
    MODE;
    OPENED(path, flags, real(path, flags, mode));
}

EXPORT int open64(const char *path, int flags, ...) {
    REAL(open64);
    MODE;
    OPENED(path, flags, real(path, flags, mode));
}
