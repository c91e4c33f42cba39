/* A disk that fails: system calls on chosen files give an error, or do less than was asked for.
 *
 * FAULTY_PATH   part of the paths of the files that are meant
 * FAULTY_CALL   name of the call that fails
 * FAULTY_NTH    which of these calls; 0 for every one
 * FAULTY_ERRNO  and how, as a number
 * FAULTY_SHORT  if set, reads and writes take a third of what they are given
 * FAULTY_LOG    a file to which a letter is written for each call that was tampered with
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(call, fd, path) \
    do { if (fails(call, fd, path)) { errno = atoi(getenv("FAULTY_ERRNO")); return -1; } } while (0)

static int calls;

static void tampered(const char *letter)
{
    const char *log = getenv("FAULTY_LOG");
    int file = log ? open(log, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (file >= 0) {
        REAL(write)(file, letter, 1);
        close(file);
    }
}

static int meant(int fd, const char *path)
{
    const char *part = getenv("FAULTY_PATH");
    char link[64], found[PATH_MAX + 1];
    if (part && !path) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, found, PATH_MAX);
        found[length < 0 ? 0 : length] = 0;
        path = found;
    }
    return part && strstr(path, part) != NULL;
}

static int fails(const char *call, int fd, const char *path)
{
    const char *chosen = getenv("FAULTY_CALL");
    if (!chosen || strcmp(chosen, call) || !meant(fd, path))
        return 0;
    int nth = atoi(getenv("FAULTY_NTH")), now = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (nth && now != nth)
        return 0;
    tampered("e");
    return 1;
}

static size_t less(int fd, size_t count)
{
    if (count < 2 || !getenv("FAULTY_SHORT") || !meant(fd, NULL))
        return count;
    tampered("s");
    return count / 3 + 1;
}

ssize_t read(int fd, void *buffer, size_t count)
{
    FAIL("read", fd, NULL);
    return REAL(read)(fd, buffer, less(fd, count));
}

ssize_t write(int fd, const void *buffer, size_t count)
{
    FAIL("write", fd, NULL);
    return REAL(write)(fd, buffer, less(fd, count));
}

/* what Python calls for os.preadv, which mmfmt gives one buffer at a time */
ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
{
    FAIL("preadv", fd, NULL);
    struct iovec first = {parts[0].iov_base, less(fd, parts[0].iov_len)};
    int cut = first.iov_len < parts[0].iov_len;
    return REAL(preadv64v2)(fd, cut ? &first : parts, cut ? 1 : count, offset, flags);
}

ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    return preadv64v2(fd, parts, count, offset, 0);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t count)
{
    FAIL("sendfile", out, NULL);
    return REAL(sendfile64)(out, in, offset, less(out, count));
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags)
{
    FAIL("copy_file_range", out, NULL);
    return REAL(copy_file_range)(in, from, out, to, less(out, count), flags);
}

int fsync(int fd)
{
    FAIL("fsync", fd, NULL);
    return REAL(fsync)(fd);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    FAIL("ioctl", fd, NULL);
    return REAL(ioctl)(fd, request, argument);
}

int rename(const char *from, const char *to)
{
    FAIL("rename", -1, to);
    return REAL(rename)(from, to);
}
