/*
 * The limit that bench-open measures against: a fresh process opens the same environment with plain
 * LMDB and gets one key.
 *
 *   peer ENVIRONMENT_DIR KEY
 *
 * Prints when main began (CLOCK_MONOTONIC), how long opening took, and how long the first get, in
 * nanoseconds.
 */
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void check(int code, const char *doing)
{
	if (code != MDB_SUCCESS) {
		fprintf(stderr, "peer: %s: %s\n", doing, mdb_strerror(code));
		exit(1);
	}
}

int main(int argc, char **argv)
{
	uint64_t began = now_ns();
	if (argc != 3) {
		fprintf(stderr, "usage: peer ENVIRONMENT_DIR KEY\n");
		return 2;
	}
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi data;
	check(mdb_env_create(&env), "creating");
	check(mdb_env_set_maxdbs(env, 16), "setting the number of buckets");
	check(mdb_env_open(env, argv[1], MDB_RDONLY | MDB_NOTLS, 0640), "opening");
	check(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), "beginning");
	check(mdb_dbi_open(txn, "data", 0, &data), "opening the bucket");
	uint64_t opened = now_ns();
	MDB_val key = { strlen(argv[2]), argv[2] }, value;
	check(mdb_get(txn, data, &key, &value), "getting");
	volatile unsigned char first = *(unsigned char *)value.mv_data;
	(void)first;
	printf("%llu %llu %llu\n", (unsigned long long)began, (unsigned long long)(opened - began),
	       (unsigned long long)(now_ns() - opened));
	mdb_txn_abort(txn);
	mdb_env_close(env);
	return 0;
}
