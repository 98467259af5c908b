/*
 * The limit that bench-import measures against: the same pairs put into plain LMDB, so many in each
 * durable commit, with no log, no checksum, no hash, no server.
 *
 *   peer DIR FILE BATCH sorted|arriving
 *
 * FILE holds lines of KEY<TAB>VALUE. With `sorted` the pairs of a commit are put in key order, with
 * `arriving` as they stand in the file. Prints seconds, processor seconds, and bytes written to disk.
 */
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

struct pair {
	MDB_val key, value;
};

static void check(int code, const char *doing)
{
	if (code != MDB_SUCCESS) {
		fprintf(stderr, "peer: %s: %s\n", doing, mdb_strerror(code));
		exit(1);
	}
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int by_key(const void *a, const void *b)
{
	const MDB_val *x = &((const struct pair *)a)->key, *y = &((const struct pair *)b)->key;
	size_t shorter = x->mv_size < y->mv_size ? x->mv_size : y->mv_size;
	int order = memcmp(x->mv_data, y->mv_data, shorter);
	return order ? order : (x->mv_size > y->mv_size) - (x->mv_size < y->mv_size);
}

static char *read_file(const char *path, size_t *bytes)
{
	FILE *file = fopen(path, "rb");
	if (!file || fseek(file, 0, SEEK_END) != 0) {
		perror(path);
		exit(1);
	}
	*bytes = (size_t)ftell(file);
	rewind(file);
	char *content = malloc(*bytes + 1);
	if (!content || fread(content, 1, *bytes, file) != *bytes) {
		perror(path);
		exit(1);
	}
	fclose(file);
	return content;
}

/* Cuts the next batch out of the text; returns how many pairs it has. */
static size_t cut(char **at, char *end, struct pair *pairs, size_t most)
{
	size_t n = 0;
	while (n < most && *at < end) {
		char *tab = memchr(*at, '\t', (size_t)(end - *at));
		char *newline = tab ? memchr(tab, '\n', (size_t)(end - tab)) : NULL;
		if (!newline)
			break;
		pairs[n++] = (struct pair){
			{ (size_t)(tab - *at), *at },
			{ (size_t)(newline - tab - 1), tab + 1 },
		};
		*at = newline + 1;
	}
	return n;
}

static unsigned long long written_bytes(void)
{
	char line[80];
	unsigned long long bytes = 0;
	FILE *io = fopen("/proc/self/io", "r");
	while (io && fgets(line, sizeof line, io))
		sscanf(line, "write_bytes: %llu", &bytes);
	if (io)
		fclose(io);
	return bytes;
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "usage: peer DIR FILE BATCH sorted|arriving\n");
		return 2;
	}
	size_t bytes, most = (size_t)atol(argv[3]), n;
	char *at = read_file(argv[2], &bytes), *end = at + bytes;
	struct pair *pairs = malloc(most * sizeof *pairs);
	if (!pairs)
		return 1;

	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi data;
	check(mdb_env_create(&env), "creating");
	check(mdb_env_set_maxdbs(env, 4), "setting the number of buckets");
	check(mdb_env_set_mapsize(env, (size_t)16 << 30), "setting the size");
	check(mdb_env_open(env, argv[1], 0, 0640), "opening");
	check(mdb_txn_begin(env, NULL, 0, &txn), "beginning");
	check(mdb_dbi_open(txn, "data", MDB_CREATE, &data), "creating the bucket");
	check(mdb_txn_commit(txn), "committing");

	double start = now();
	while ((n = cut(&at, end, pairs, most)) > 0) {
		if (strcmp(argv[4], "sorted") == 0)
			qsort(pairs, n, sizeof *pairs, by_key);
		check(mdb_txn_begin(env, NULL, 0, &txn), "beginning");
		for (size_t i = 0; i < n; i++)
			check(mdb_put(txn, data, &pairs[i].key, &pairs[i].value, 0), "putting");
		check(mdb_txn_commit(txn), "committing");
	}
	double seconds = now() - start;
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
		     (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
	printf("%f %f %llu\n", seconds, cpu, written_bytes());
	mdb_env_close(env);
	return 0;
}
