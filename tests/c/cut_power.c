/* Takes the power from a mounted file system: from here on nothing of it reaches its disk, not even
 * what it has in its journal's buffers (FS_IOC_SHUTDOWN without flushing, for root).
 *
 *   cut_power DIRECTORY
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* From the kernel's fs/ext4 and fs/xfs; in no header everywhere. */
#define FS_IOC_SHUTDOWN _IOR('X', 125, uint32_t)
#define NO_LOG_FLUSH 2

int main(int argc, char **argv)
{
    uint32_t flags = NO_LOG_FLUSH;
    int fd = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1;
    if (fd < 0 || ioctl(fd, FS_IOC_SHUTDOWN, &flags) < 0) {
        perror("cut_power");
        return 1;
    }
    return 0;
}
