/* A disk that fails when it is told to: preloaded into a program, it stands between SQLite and the C library.
 *
 * FAULTS_FILE names the database whose file, -wal and -shm it is about; FAULTS_CONTROL a file that is mapped here and
 * in the test, which says what is to go wrong (see faults.py). Everything else passes untouched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DATABASE = 1, WAL = 2, SHM = 4 };
enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, READ = 8 };
enum { FAIL = 1, HALF_THEN_FAIL, SHORT, DIE_BEFORE, DIE_HALFWAY, DIE_AFTER };

struct control {
    int64_t armed, files, kinds, skip, times, error, action; /* written by the test, armed last */
    int64_t calls, hits;                                     /* written here: calls that it is about, and those hit */
};

static struct control *control;
static char path[PATH_MAX];

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("FAULTS_CONTROL"), *file = getenv("FAULTS_FILE");
    if (!name || !file)
        return;
    int fd = open(name, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        abort();
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED)
        abort();
    close(fd);
    snprintf(path, sizeof path, "%s", file);
}

static int file_of(int fd) {
    char link[64], name[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    size_t base = strlen(path);
    if (length < (ssize_t)base)
        return 0;
    name[length] = 0;
    if (strncmp(name, path, base))
        return 0;
    return !strcmp(name + base, "") ? DATABASE : !strcmp(name + base, "-wal") ? WAL : !strcmp(name + base, "-shm") ? SHM : 0;
}

/* What is to be done about this call; 0 for nothing. */
static int fate(int fd, int kind) {
    if (!control || !__atomic_load_n(&control->armed, __ATOMIC_ACQUIRE))
        return 0;
    int before = errno, concerned = (file_of(fd) & control->files) && (kind & control->kinds);
    errno = before;
    if (!concerned)
        return 0;
    int64_t number = __atomic_fetch_add(&control->calls, 1, __ATOMIC_ACQ_REL);
    if (number < control->skip || (control->times >= 0 && number >= control->skip + control->times))
        return 0;
    __atomic_fetch_add(&control->hits, 1, __ATOMIC_ACQ_REL);
    if (control->action == DIE_BEFORE)
        kill(getpid(), SIGKILL);
    return (int)control->action;
}

static int failed(void) {
    errno = (int)control->error;
    return -1;
}

static ssize_t after(int what, ssize_t result) {
    if (what == DIE_AFTER || what == DIE_HALFWAY)
        kill(getpid(), SIGKILL);
    return result;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static size_t part(int what, size_t size) {
    return (what == SHORT || what == DIE_HALFWAY || what == HALF_THEN_FAIL) && size > 1 ? size / 2 : size;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    int what = fate(fd, WRITE);
    if (what == FAIL)
        return failed();
    ssize_t written = REAL(pwrite64)(fd, data, part(what, size), offset);
    return what == HALF_THEN_FAIL ? failed() : after(what, written);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

ssize_t write(int fd, const void *data, size_t size) {
    int what = fate(fd, WRITE);
    if (what == FAIL)
        return failed();
    ssize_t written = REAL(write)(fd, data, part(what, size));
    return what == HALF_THEN_FAIL ? failed() : after(what, written);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t offset) {
    int what = fate(fd, READ);
    return what == FAIL ? failed() : after(what, REAL(pread64)(fd, data, size, offset));
}

ssize_t pread(int fd, void *data, size_t size, off_t offset) {
    return pread64(fd, data, size, offset);
}

int ftruncate64(int fd, off64_t length) {
    int what = fate(fd, TRUNCATE);
    return what == FAIL || what == HALF_THEN_FAIL ? failed() : (int)after(what, REAL(ftruncate64)(fd, length));
}

int ftruncate(int fd, off_t length) {
    return ftruncate64(fd, length);
}

int fsync(int fd) {
    int what = fate(fd, SYNC);
    return what == FAIL || what == HALF_THEN_FAIL ? failed() : (int)after(what, REAL(fsync)(fd));
}

int fdatasync(int fd) {
    int what = fate(fd, SYNC);
    return what == FAIL || what == HALF_THEN_FAIL ? failed() : (int)after(what, REAL(fdatasync)(fd));
}
