/*
 * What a host does to its disk, written down; and what its disk and its clock may do to it.
 *
 * Loaded before libc (LD_PRELOAD) into one host. Files below FAULTS_ROOT are looked after, others are left alone.
 * - FAULTS_TRACE: each write, truncation, sync, creation, rename and removal is appended there in order, as `trace.rs` reads it.
 * - FAULTS_CONTROL: a page that the test changes at any time: which calls fail, and how far the wall clock is off.
 *
 * A processed call and its line in the trace are one step (a lock), so their order is the disk's. A sync is written down when it
 * ends, with how long the trace was when it began: only what stands before that is safe by it.
 * SQLite's `-shm` is no part of it: it is memory, and made anew. For glibc on Linux.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CREATE = 1, OPEN, WRITE, TRUNCATE, SYNC, SYNC_FOLDER, RENAME, UNLINK, MKDIR, RMDIR };
enum { STORE = 1, LOG = 2, OTHER = 4, IGNORED = 8 };
enum { NO_FAULT, SYNC_FAILS, WRITE_FAILS, WRITE_IS_SHORT, NO_ROOM };

struct control {
    volatile int64_t clock_offset_ns;
    volatile uint32_t fault, targets, every, seed;
    volatile uint64_t injected, calls;
};

struct head {
    uint32_t op, path_len;
    uint64_t file, at, len;
};

static char root[PATH_MAX];
static size_t root_len;
static int trace = -1;
static uint64_t position;
static struct control none, *control = &none;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static dev_t device;

/* Which files are looked after, by inode. As with Linux, a sync that fails is told once to everybody who has the file open:
 * nobody hears that the bytes are safe which another's sync has lost. */
enum { MOST_FILES = 1 << 16 };
static struct { uint64_t file; uint32_t class, failures; } files[MOST_FILES];
static uint32_t told_of[MOST_FILES];

__attribute__((constructor)) static void begin(void) {
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *folder = getenv("FAULTS_ROOT"), *path = getenv("FAULTS_TRACE"), *page = getenv("FAULTS_CONTROL");
    struct stat known;
    if (!folder || strlen(folder) >= sizeof root || syscall(SYS_newfstatat, AT_FDCWD, folder, &known, 0)) return;
    strcpy(root, folder);
    root_len = strlen(root);
    device = known.st_dev;
    if (page) {
        int fd = syscall(SYS_openat, AT_FDCWD, page, O_RDWR | O_CLOEXEC);
        void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (mapped != MAP_FAILED) control = mapped;
        if (fd >= 0) syscall(SYS_close, fd);
    }
    if (path) {
        trace = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (trace >= 0) position = syscall(SYS_lseek, trace, 0, SEEK_END);
    }
}

static void append(const void *bytes, size_t len) {
    const char *at = bytes;
    while (len) {
        long done = syscall(SYS_write, trace, at, len);
        if (done <= 0) { fprintf(stderr, "the trace can't be written\n"); _exit(99); }
        at += done, len -= done, position += done;
    }
}

/* Called with the lock held. */
static void note(uint32_t op, const char *path, uint64_t file, uint64_t at, const void *data, uint64_t len) {
    if (trace < 0) return;
    struct head head = { op, path ? strlen(path) : 0, file, at, len };
    append(&head, sizeof head);
    if (path) append(path, head.path_len);
    if (data) append(data, len);
}

/* The whole path, if it lies below the root. */
static int below(int folder, const char *path, char *whole) {
    if (!root_len || !path) return 0;
    if (path[0] == '/') {
        if (strlen(path) >= PATH_MAX) return 0;
        strcpy(whole, path);
    } else {
        char link[64];
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        long len = syscall(SYS_readlinkat, AT_FDCWD, link, whole, PATH_MAX - 1);
        if (len < 0 || len + strlen(path) + 2 > PATH_MAX) return 0;
        whole[len] = '/';
        strcpy(whole + len + 1, path);
    }
    return !strncmp(whole, root, root_len) && whole[root_len] == '/';
}

static int ends(const char *path, const char *end) {
    size_t len = strlen(path), own = strlen(end);
    return len >= own && !strcmp(path + len - own, end);
}

static uint32_t class_of(const char *path) {
    if (ends(path, ".sqlite-shm")) return IGNORED;
    return ends(path, ".sqlite") ? STORE : ends(path, ".sqlite-wal") ? LOG : OTHER;
}

static size_t slot_of(uint64_t file) {
    size_t slot = file * 0x9E3779B97F4A7C15u >> 48;
    while (files[slot].file && files[slot].file != file) slot = (slot + 1) % MOST_FILES;
    return slot;
}

/* 0: not looked after. */
static uint32_t looked_after(int fd, struct stat *known) {
    if (!root_len || syscall(SYS_fstat, fd, known) || !S_ISREG(known->st_mode) || known->st_dev != device) return 0;
    uint32_t class = files[slot_of(known->st_ino)].class;
    return class == IGNORED ? 0 : class;
}

/* Whether this call is to fail: a pure function of the seed and of how many there were. */
static int fails(uint32_t class) {
    if (!(control->targets & class) || !control->every) return 0;
    uint64_t x = control->seed * 0x9E3779B97F4A7C15u + __atomic_add_fetch(&control->calls, 1, __ATOMIC_RELAXED);
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    if ((x ^ x >> 31) % control->every) return 0;
    __atomic_add_fetch(&control->injected, 1, __ATOMIC_RELAXED);
    return 1;
}

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    if (!below(folder, path, whole) || (flags & O_DIRECTORY)) return syscall(SYS_openat, folder, path, flags, mode);
    uint32_t class = class_of(whole), fault = control->fault;
    if ((flags & O_CREAT) && (fault == NO_ROOM || fault == WRITE_FAILS) && class == OTHER && fails(class)) {
        errno = fault == NO_ROOM ? ENOSPC : EIO;
        return -1;
    }
    pthread_mutex_lock(&lock);
    struct stat known;
    int saved = errno, was = !syscall(SYS_newfstatat, folder, path, &known, 0);
    errno = saved;
    int fd = syscall(SYS_openat, folder, path, flags, mode);
    if (fd >= 0 && !syscall(SYS_fstat, fd, &known) && S_ISREG(known.st_mode)) {
        size_t slot = slot_of(known.st_ino);
        files[slot].file = known.st_ino;
        files[slot].class = class;
        if (fd < MOST_FILES) told_of[fd] = files[slot].failures;
        if (class != IGNORED) {
            note(was ? OPEN : CREATE, whole, known.st_ino, 0, NULL, 0);
            if (was && (flags & O_TRUNC)) note(TRUNCATE, NULL, known.st_ino, 0, NULL, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE va_list more; va_start(more, flags); mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; va_end(more)
int open(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE; return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE; return opened(folder, path, flags, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* `at` < 0: where the file stands. */
static ssize_t written(int fd, const void *data, size_t len, off_t at) {
    struct stat known;
    uint32_t class = looked_after(fd, &known), fault = control->fault;
    int at_place = at >= 0;
    if (!class) return at_place ? syscall(SYS_pwrite64, fd, data, len, at) : syscall(SYS_write, fd, data, len);
    if (fault >= WRITE_FAILS && fails(class)) {
        if (fault != WRITE_IS_SHORT || len < 2) {
            errno = fault == NO_ROOM ? ENOSPC : EIO;
            return -1;
        }
        len /= 2;
    }
    pthread_mutex_lock(&lock);
    ssize_t done = at_place ? syscall(SYS_pwrite64, fd, data, len, at) : syscall(SYS_write, fd, data, len);
    if (done > 0) {
        off_t from = at_place ? at : syscall(SYS_lseek, fd, 0, SEEK_CUR) - done;
        note(WRITE, NULL, known.st_ino, from, data, done);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *data, size_t len) { return written(fd, data, len, -1); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return written(fd, data, len, at); }
ssize_t pwrite64(int fd, const void *data, size_t len, off_t at) { return written(fd, data, len, at); }

/* Part by part: fewer bytes than wanted are a good answer. */
static ssize_t gathered(int fd, const struct iovec *parts, int count, off_t at) {
    ssize_t all = 0;
    for (int n = 0; n < count; n++) {
        if (!parts[n].iov_len) continue;
        ssize_t done = written(fd, parts[n].iov_base, parts[n].iov_len, at < 0 ? at : at + all);
        if (done < 0) return all ? all : done;
        all += done;
        if ((size_t)done < parts[n].iov_len) break;
    }
    return all;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct stat known;
    return looked_after(fd, &known) ? gathered(fd, parts, count, -1) : syscall(SYS_writev, fd, parts, count);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return gathered(fd, parts, count, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) { return gathered(fd, parts, count, at); }

/* Copies within the system are not seen: whoever asks copies by hand. */
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t len, unsigned flags) {
    struct stat known;
    if (looked_after(to, &known)) { errno = ENOSYS; return -1; }
    return syscall(SYS_copy_file_range, from, from_at, to, to_at, len, flags);
}
ssize_t sendfile(int to, int from, off_t *at, size_t len) {
    struct stat known;
    if (looked_after(to, &known)) { errno = EINVAL; return -1; }
    return syscall(SYS_sendfile, to, from, at, len);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t len) { return sendfile(to, from, at, len); }
int posix_fallocate(int fd, off_t at, off_t len) { (void)fd, (void)at, (void)len; return EOPNOTSUPP; }
int posix_fallocate64(int fd, off64_t at, off64_t len) { return posix_fallocate(fd, at, len); }
int fallocate(int fd, int mode, off_t at, off_t len) { (void)fd, (void)mode, (void)at, (void)len; errno = EOPNOTSUPP; return -1; }
int fallocate64(int fd, int mode, off64_t at, off64_t len) { return fallocate(fd, mode, at, len); }

int ftruncate(int fd, off_t len) {
    struct stat known;
    if (!looked_after(fd, &known)) return syscall(SYS_ftruncate, fd, len);
    pthread_mutex_lock(&lock);
    int failed = syscall(SYS_ftruncate, fd, len);
    if (!failed) note(TRUNCATE, NULL, known.st_ino, len, NULL, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}
int ftruncate64(int fd, off64_t len) { return ftruncate(fd, len); }

static int synced(int fd, long call) {
    struct stat known;
    if (!root_len || syscall(SYS_fstat, fd, &known) || known.st_dev != device) return syscall(call, fd);
    char path[PATH_MAX] = "", link[64];
    uint32_t class = S_ISREG(known.st_mode) ? looked_after(fd, &known) : 0;
    if (S_ISDIR(known.st_mode)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        long len = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
        path[len > 0 ? len : 0] = 0;
        class = strncmp(path, root, root_len) ? 0 : OTHER;
    }
    if (!class) return syscall(call, fd);
    pthread_mutex_lock(&lock);
    uint64_t begun = position;
    pthread_mutex_unlock(&lock);
    int injected = control->fault == SYNC_FAILS && fails(class);
    int failed = injected ? (errno = EIO, -1) : (int)syscall(call, fd), why = errno;
    pthread_mutex_lock(&lock);
    if (!*path && fd < MOST_FILES) {
        size_t slot = slot_of(known.st_ino);
        files[slot].failures += injected;
        if (told_of[fd] != files[slot].failures) failed = -1, why = EIO;
        told_of[fd] = files[slot].failures;
    }
    if (*path && !failed) note(SYNC_FOLDER, path, 0, begun, NULL, 0);
    /* One that failed is written down as well: what it was for may be lost, whatever a later one says. */
    if (!*path && (injected || !failed)) note(SYNC, injected ? "failed" : NULL, known.st_ino, begun, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = why;
    return failed;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

static int renamed(int from, const char *path, int to, const char *other, unsigned flags) {
    char whole[PATH_MAX], target[PATH_MAX];
    int inside = below(to, other, target) && below(from, path, whole);
    if (!inside) return syscall(SYS_renameat2, from, path, to, other, flags);
    if (control->fault == NO_ROOM && fails(OTHER)) { errno = ENOSPC; return -1; }
    pthread_mutex_lock(&lock);
    int failed = syscall(SYS_renameat2, from, path, to, other, flags);
    if (!failed) note(RENAME, whole, 0, 0, target, strlen(target));
    pthread_mutex_unlock(&lock);
    return failed;
}
int rename(const char *path, const char *other) { return renamed(AT_FDCWD, path, AT_FDCWD, other, 0); }
int renameat(int from, const char *path, int to, const char *other) { return renamed(from, path, to, other, 0); }
int renameat2(int from, const char *path, int to, const char *other, unsigned flags) { return renamed(from, path, to, other, flags); }

static int named(uint32_t op, int folder, const char *path, long (*act)(int, const char *, mode_t), mode_t mode) {
    char whole[PATH_MAX];
    if (!below(folder, path, whole)) return act(folder, path, mode);
    pthread_mutex_lock(&lock);
    int failed = act(folder, path, mode);
    if (!failed) note(op, whole, 0, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}
static long do_unlink(int folder, const char *path, mode_t mode) { (void)mode; return syscall(SYS_unlinkat, folder, path, 0); }
static long do_rmdir(int folder, const char *path, mode_t mode) { (void)mode; return syscall(SYS_unlinkat, folder, path, AT_REMOVEDIR); }
static long do_mkdir(int folder, const char *path, mode_t mode) { return syscall(SYS_mkdirat, folder, path, mode); }
int unlink(const char *path) { return named(UNLINK, AT_FDCWD, path, do_unlink, 0); }
int rmdir(const char *path) { return named(RMDIR, AT_FDCWD, path, do_rmdir, 0); }
int unlinkat(int folder, const char *path, int flags) {
    return flags & AT_REMOVEDIR ? named(RMDIR, folder, path, do_rmdir, 0) : named(UNLINK, folder, path, do_unlink, 0);
}
int mkdir(const char *path, mode_t mode) { return named(MKDIR, AT_FDCWD, path, do_mkdir, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return named(MKDIR, folder, path, do_mkdir, mode); }

/* Only the wall clock: what is measured from one moment to another goes on. */
int clock_gettime(clockid_t which, struct timespec *now) {
    int failed = real_clock_gettime ? real_clock_gettime(which, now) : (int)syscall(SYS_clock_gettime, which, now);
    if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE) && control->clock_offset_ns) {
        int64_t all = now->tv_sec * 1000000000ll + now->tv_nsec + control->clock_offset_ns;
        int64_t part = (all % 1000000000ll + 1000000000ll) % 1000000000ll;
        now->tv_sec = (all - part) / 1000000000ll, now->tv_nsec = part;
    }
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec, now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept) *kept = now.tv_sec;
    return now.tv_sec;
}
