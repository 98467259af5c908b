/* Records what a program does to the files below one directory, in order, for a test that asks what
 * a power cut would have left of it (tests/src/crash/trace.rs reads the records).
 *
 *   cc -shared -fPIC record.c -o record.so
 *   LD_PRELOAD=record.so QS_TRACE_FILE=trace QS_TRACE_DIR=/the/directory program
 *
 * With QS_TRACE_RECORDS=N the program is killed after that many; a later run adds to the same trace.
 *
 * A record is written after the call it is about has succeeded. What the program writes to its
 * standard output is a mark: from there on, somebody else knows it. What it stores through shared
 * maps is seen at the next mark, as one write of the whole map.
 *
 * Every call is made directly, without the C library's own function, whose place this one takes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    CREATE = 1,
    MAKE_DIRECTORY = 2,
    WRITE = 3,
    RESIZE = 4,
    SYNC = 5,
    SYNC_RANGE = 6,
    RENAME = 7,
    UNLINK = 8,
    REMOVE_DIRECTORY = 9,
    MARK = 10,
};

/* Followed by the names (two of a rename, with a NUL between them) and the data. */
struct record {
    uint32_t kind;
    uint32_t name_bytes;
    uint64_t data_bytes;
    uint64_t inode;
    uint64_t offset;
    uint64_t extent;
};

#define PATH_BYTES 4096
#define DESCRIPTORS 1024
#define MAPS 64

static struct {
    uint64_t inode; /* 0: of no interest */
    int synchronous;
} files[DESCRIPTORS];

static struct {
    const void *address; /* NULL: free */
    size_t bytes;
    uint64_t inode;
} maps[MAPS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_BYTES];
static size_t root_bytes;
static int trace = -1;
static unsigned long records_left; /* 0: any number */

static void give_up(const char *why)
{
    fprintf(stderr, "record: %s\n", why);
    abort();
}

static void put(struct record record, const char *name, const void *data)
{
    struct iovec parts[3] = {
        {&record, sizeof record},
        {(void *)(uintptr_t)name, record.name_bytes},
        {(void *)(uintptr_t)data, record.data_bytes},
    };
    size_t all = sizeof record + record.name_bytes + record.data_bytes;
    pthread_mutex_lock(&lock);
    if (syscall(SYS_writev, trace, parts, 3) != (long)all)
        give_up("the trace cannot be written");
    if (records_left && --records_left == 0)
        kill(getpid(), SIGKILL);
    pthread_mutex_unlock(&lock);
}

/* The name below the directory, or NULL when it is elsewhere. `buffer` has PATH_BYTES. */
static const char *below(int dirfd, const char *path, char *buffer)
{
    if (trace < 0)
        return NULL;
    if (path[0] != '/' && dirfd != AT_FDCWD) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t n = readlink(link, buffer, PATH_BYTES - 1);
        if (n < 0)
            return NULL;
        snprintf(buffer + n, (size_t)(PATH_BYTES - n), "/%s", path);
    } else {
        snprintf(buffer, PATH_BYTES, "%s", path);
    }
    if (strncmp(buffer, root, root_bytes) != 0)
        return NULL;
    if (buffer[root_bytes] == '\0')
        return buffer + root_bytes;
    return buffer[root_bytes] == '/' ? buffer + root_bytes + 1 : NULL;
}

static void put_name(enum kind kind, uint64_t inode, const char *name)
{
    struct record record = {.kind = kind, .name_bytes = (uint32_t)strlen(name), .inode = inode};
    put(record, name, NULL);
}

/* The first record is of the directory itself, which is there, and empty in a first run. */
__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("QS_TRACE_FILE"), *dir = getenv("QS_TRACE_DIR");
    const char *records = getenv("QS_TRACE_RECORDS");
    struct stat stat;
    if (!file || !dir)
        return;
    root_bytes = strlen(dir);
    if (root_bytes >= sizeof root || fstatat(AT_FDCWD, dir, &stat, 0) < 0)
        give_up("the directory is not there");
    memcpy(root, dir, root_bytes + 1);
    trace = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (trace < 0)
        give_up("the trace cannot be written");
    records_left = records ? strtoul(records, NULL, 10) : 0;
    put_name(MAKE_DIRECTORY, stat.st_ino, "");
}

static uint64_t inode_of(int fd)
{
    return fd >= 0 && fd < DESCRIPTORS ? files[fd].inode : 0;
}

static int open_at(int dirfd, const char *path, int flags, mode_t mode)
{
    char buffer[PATH_BYTES];
    const char *name = below(dirfd, path, buffer);
    struct stat stat;
    int existed = name && fstatat(dirfd, path, &stat, 0) == 0;
    int fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
    if (fd < 0 || !name)
        return fd;
    if (fd >= DESCRIPTORS || fstat(fd, &stat) < 0)
        give_up("a descriptor that cannot be followed");
    files[fd].inode = stat.st_ino;
    files[fd].synchronous = (flags & (O_DSYNC | O_SYNC)) != 0;
    if (!existed)
        put_name(CREATE, stat.st_ino, name);
    else if (flags & O_TRUNC)
        put((struct record){.kind = RESIZE, .inode = stat.st_ino}, NULL, NULL);
    return fd;
}

#define OPEN(function)                                   \
    int function(const char *path, int flags, ...)       \
    {                                                    \
        va_list rest;                                    \
        va_start(rest, flags);                           \
        mode_t mode = va_arg(rest, mode_t);              \
        va_end(rest);                                    \
        return open_at(AT_FDCWD, path, flags, mode);     \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(function)                                     \
    int function(int dirfd, const char *path, int flags, ...) \
    {                                                        \
        va_list rest;                                        \
        va_start(rest, flags);                               \
        mode_t mode = va_arg(rest, mode_t);                  \
        va_end(rest);                                        \
        return open_at(dirfd, path, flags, mode);            \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd)
{
    if (fd >= 0 && fd < DESCRIPTORS)
        files[fd].inode = 0;
    return (int)syscall(SYS_close, fd);
}

static ssize_t write_at(int fd, const void *data, size_t bytes, off_t offset)
{
    ssize_t n = syscall(SYS_pwrite64, fd, data, bytes, offset);
    uint64_t inode = inode_of(fd);
    if (n > 0 && inode) {
        struct record record = {
            .kind = WRITE, .inode = inode, .offset = (uint64_t)offset, .data_bytes = (uint64_t)n};
        put(record, NULL, data);
        record.kind = SYNC_RANGE;
        record.extent = record.data_bytes;
        record.data_bytes = 0;
        if (files[fd].synchronous)
            put(record, NULL, NULL);
    }
    return n;
}

static void mark(const void *data, size_t bytes)
{
    if (trace < 0)
        return;
    for (int n = 0; n < MAPS; n++)
        if (maps[n].address)
            put((struct record){.kind = WRITE, .inode = maps[n].inode, .data_bytes = maps[n].bytes},
                NULL, maps[n].address);
    put((struct record){.kind = MARK, .data_bytes = bytes}, NULL, data);
}

ssize_t write(int fd, const void *data, size_t bytes)
{
    if (!inode_of(fd)) {
        ssize_t n = syscall(SYS_write, fd, data, bytes);
        if (fd == STDOUT_FILENO && n > 0)
            mark(data, (size_t)n);
        return n;
    }
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t n = write_at(fd, data, bytes, offset);
    if (n > 0)
        lseek(fd, n, SEEK_CUR);
    return n;
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
    return write_at(fd, data, bytes, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset)
{
    return write_at(fd, data, bytes, offset);
}

/* The parts one after the other: what is torn by a power cut may be torn anywhere. */
static ssize_t write_parts(int fd, const struct iovec *parts, int count, off_t offset)
{
    ssize_t all = 0;
    for (int n = 0; n < count; n++) {
        ssize_t written = write_at(fd, parts[n].iov_base, parts[n].iov_len, offset + all);
        if (written < 0)
            return all ? all : written;
        all += written;
    }
    return all;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    return write_parts(fd, parts, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    return write_parts(fd, parts, count, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    if (!inode_of(fd))
        return syscall(SYS_writev, fd, parts, count);
    ssize_t n = write_parts(fd, parts, count, lseek(fd, 0, SEEK_CUR));
    if (n > 0)
        lseek(fd, n, SEEK_CUR);
    return n;
}

static int resize(int fd, off_t bytes)
{
    int failed = (int)syscall(SYS_ftruncate, fd, bytes);
    if (!failed && inode_of(fd))
        put((struct record){.kind = RESIZE, .inode = inode_of(fd), .extent = (uint64_t)bytes}, NULL,
            NULL);
    return failed;
}

int ftruncate(int fd, off_t bytes)
{
    return resize(fd, bytes);
}

int ftruncate64(int fd, off64_t bytes)
{
    return resize(fd, bytes);
}

/* Answers with an error number. What is allocated beyond the end is a larger file. */
static int allocate(int fd, off_t offset, off_t bytes)
{
    struct stat stat;
    if (fstat(fd, &stat) < 0 || syscall(SYS_fallocate, fd, 0, offset, bytes) < 0)
        return errno;
    if (inode_of(fd) && offset + bytes > stat.st_size)
        put((struct record){.kind = RESIZE,
                            .inode = inode_of(fd),
                            .extent = (uint64_t)(offset + bytes)},
            NULL, NULL);
    return 0;
}

int posix_fallocate(int fd, off_t offset, off_t bytes)
{
    return allocate(fd, offset, bytes);
}

int posix_fallocate64(int fd, off64_t offset, off64_t bytes)
{
    return allocate(fd, offset, bytes);
}

static int synced(int fd, int failed)
{
    if (!failed && inode_of(fd))
        put((struct record){.kind = SYNC, .inode = inode_of(fd)}, NULL, NULL);
    return failed;
}

int fsync(int fd)
{
    return synced(fd, (int)syscall(SYS_fsync, fd));
}

int fdatasync(int fd)
{
    return synced(fd, (int)syscall(SYS_fdatasync, fd));
}

int rename(const char *from, const char *to)
{
    char old[PATH_BYTES], new[PATH_BYTES], both[2 * PATH_BYTES];
    const char *old_name = below(AT_FDCWD, from, old), *new_name = below(AT_FDCWD, to, new);
    int failed = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (failed || (!old_name && !new_name))
        return failed;
    if (!old_name || !new_name)
        give_up("a file is moved into the directory, or out of it");
    size_t old_bytes = strlen(old_name) + 1, new_bytes = strlen(new_name);
    memcpy(both, old_name, old_bytes);
    memcpy(both + old_bytes, new_name, new_bytes);
    put((struct record){.kind = RENAME, .name_bytes = (uint32_t)(old_bytes + new_bytes)}, both, NULL);
    return 0;
}

static int make_directory(int dirfd, const char *path, mode_t mode)
{
    char buffer[PATH_BYTES];
    const char *name = below(dirfd, path, buffer);
    struct stat stat;
    int failed = (int)syscall(SYS_mkdirat, dirfd, path, mode);
    if (!failed && name && fstatat(dirfd, path, &stat, 0) == 0)
        put_name(MAKE_DIRECTORY, stat.st_ino, name);
    return failed;
}

int mkdir(const char *path, mode_t mode)
{
    return make_directory(AT_FDCWD, path, mode);
}

int mkdirat(int dirfd, const char *path, mode_t mode)
{
    return make_directory(dirfd, path, mode);
}

static int remove_at(int dirfd, const char *path, int flags)
{
    char buffer[PATH_BYTES];
    const char *name = below(dirfd, path, buffer);
    int failed = (int)syscall(SYS_unlinkat, dirfd, path, flags);
    if (!failed && name)
        put_name(flags & AT_REMOVEDIR ? REMOVE_DIRECTORY : UNLINK, 0, name);
    return failed;
}

int unlink(const char *path)
{
    return remove_at(AT_FDCWD, path, 0);
}

int unlinkat(int dirfd, const char *path, int flags)
{
    return remove_at(dirfd, path, flags);
}

int rmdir(const char *path)
{
    return remove_at(AT_FDCWD, path, AT_REMOVEDIR);
}

static void *map(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    void *got =
        (void *)(uintptr_t)syscall(SYS_mmap, address, bytes, protection, flags, fd, offset);
    if (got == MAP_FAILED || !(protection & PROT_WRITE) || !(flags & MAP_SHARED) || !inode_of(fd))
        return got;
    for (int n = 0; n < MAPS; n++) {
        if (!maps[n].address) {
            maps[n].address = got;
            maps[n].bytes = bytes;
            maps[n].inode = inode_of(fd);
            return got;
        }
    }
    give_up("too many maps");
    return got;
}

void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    return map(address, bytes, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t bytes, int protection, int flags, int fd, off64_t offset)
{
    return map(address, bytes, protection, flags, fd, offset);
}

int munmap(void *address, size_t bytes)
{
    for (int n = 0; n < MAPS; n++)
        if (maps[n].address == address)
            maps[n].address = NULL;
    return (int)syscall(SYS_munmap, address, bytes);
}
