/*
 * What a program does with plain LMDB where Quicksilver makes and restores snapshots.
 *
 *   peer out DIR             copies the environment to standard output, as mdb_copy does: one read
 *                            transaction, held until whoever reads has taken everything
 *   peer copy DIR TO         makes a compact copy of the environment in the directory TO, as
 *                            mdb_copy -c does, and syncs it
 *   peer load FILE DIR KEY_BYTES VALUE_BYTES
 *                            puts the pairs in FILE, which are sorted and back to back, into an
 *                            environment in DIR with MDB_APPEND, durably, and checks nothing
 *
 * The last two print how many nanoseconds that took.
 */
#include <fcntl.h>
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* As much as one commit of a restore has. */
enum { COMMIT_BYTES = 64 << 20, READ_BYTES = 4 << 20 };

static void check(int code, const char *doing)
{
	if (code != MDB_SUCCESS) {
		fprintf(stderr, "peer: %s: %s\n", doing, mdb_strerror(code));
		exit(1);
	}
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static MDB_env *open_env(const char *dir, unsigned flags)
{
	MDB_env *env;
	check(mdb_env_create(&env), "creating");
	check(mdb_env_set_maxdbs(env, 4), "setting the number of buckets");
	check(mdb_env_set_mapsize(env, (size_t)32 << 30), "setting the size");
	check(mdb_env_open(env, dir, flags, 0640), "opening");
	return env;
}

static void copy(const char *from, const char *to)
{
	char path[4096];
	MDB_env *env = open_env(from, MDB_RDONLY);
	check(mdb_env_copy2(env, to, MDB_CP_COMPACT), "copying");
	snprintf(path, sizeof path, "%s/data.mdb", to);
	int file = open(path, O_RDWR);
	if (file < 0 || fsync(file) != 0) {
		perror(path);
		exit(1);
	}
	close(file);
	mdb_env_close(env);
}

static void load(const char *file, const char *dir, size_t key_bytes, size_t value_bytes)
{
	MDB_env *env = open_env(dir, 0);
	MDB_txn *txn;
	MDB_dbi data;
	FILE *pairs = fopen(file, "rb");
	char *buffer = malloc(READ_BYTES), *pair = malloc(key_bytes + value_bytes);
	if (!pairs || !buffer || !pair) {
		perror(file);
		exit(1);
	}
	setvbuf(pairs, buffer, _IOFBF, READ_BYTES);
	check(mdb_txn_begin(env, NULL, 0, &txn), "beginning");
	check(mdb_dbi_open(txn, "data", MDB_CREATE, &data), "creating the bucket");
	size_t uncommitted = 0;
	while (fread(pair, key_bytes + value_bytes, 1, pairs) == 1) {
		MDB_val key = { key_bytes, pair }, value = { value_bytes, pair + key_bytes };
		check(mdb_put(txn, data, &key, &value, MDB_APPEND), "appending");
		uncommitted += key_bytes + value_bytes;
		if (uncommitted >= COMMIT_BYTES) {
			check(mdb_txn_commit(txn), "committing");
			check(mdb_txn_begin(env, NULL, 0, &txn), "beginning");
			uncommitted = 0;
		}
	}
	check(mdb_txn_commit(txn), "committing");
	fclose(pairs);
	mdb_env_close(env);
}

int main(int argc, char **argv)
{
	uint64_t start = now_ns();
	if (argc == 3 && strcmp(argv[1], "out") == 0) {
		MDB_env *env = open_env(argv[2], MDB_RDONLY);
		check(mdb_env_copyfd2(env, STDOUT_FILENO, 0), "copying");
		mdb_env_close(env);
		return 0;
	}
	if (argc == 4 && strcmp(argv[1], "copy") == 0) {
		copy(argv[2], argv[3]);
	} else if (argc == 6 && strcmp(argv[1], "load") == 0) {
		load(argv[2], argv[3], (size_t)atol(argv[4]), (size_t)atol(argv[5]));
	} else {
		fprintf(stderr, "usage: peer out|copy|load ...\n");
		return 2;
	}
	printf("%llu\n", (unsigned long long)(now_ns() - start));
	return 0;
}
