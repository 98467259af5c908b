/*
 * The limit that bench-watch measures against: one process wakes another through a futex in shared
 * memory, and nothing else happens.
 *
 *   futex COUNT SHORTEST_PAUSE_US LONGEST_PAUSE_US
 *
 * Prints COUNT latencies in nanoseconds on one line: from just before the word is changed and its
 * sleeper woken, until the sleeper runs and has read the clock.
 */
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct shared {
	_Atomic uint32_t word;
	_Atomic uint64_t stamp;
};

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleeper(struct shared *shared, uint32_t count)
{
	for (uint32_t seen = 0; seen < count; seen++) {
		while (atomic_load(&shared->word) == seen)
			syscall(SYS_futex, &shared->word, FUTEX_WAIT, seen, NULL);
		uint64_t now = now_ns();
		printf("%llu ", (unsigned long long)(now - atomic_load(&shared->stamp)));
	}
	printf("\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: futex COUNT SHORTEST_PAUSE_US LONGEST_PAUSE_US\n");
		return 2;
	}
	uint32_t count = (uint32_t)atol(argv[1]);
	unsigned shortest = (unsigned)atoi(argv[2]), longest = (unsigned)atoi(argv[3]);
	struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	pid_t child = fork();
	if (child < 0) {
		perror("fork");
		return 1;
	}
	if (child == 0) {
		sleeper(shared, count);
		_exit(0);
	}
	for (uint32_t n = 0; n < count; n++) {
		usleep(shortest + (unsigned)rand() % (longest - shortest));
		atomic_store(&shared->stamp, now_ns());
		atomic_fetch_add(&shared->word, 1);
		syscall(SYS_futex, &shared->word, FUTEX_WAKE, 0x7fffffff);
	}
	waitpid(child, NULL, 0);
	return 0;
}
