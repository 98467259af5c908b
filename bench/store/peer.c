/*
 * The limit that bench-store measures against: the same keys and values put into plain LMDB, as many
 * in each durable commit, with no log, no checksum, no hash, no digest.
 *
 *   peer DIR KEYS
 *
 * makes an environment in DIR with the keys 0 to KEYS, in key order, and answers with their number.
 * Every line on standard input then is one round:
 *
 *   COMMITS PUTS SEED sorted|arriving
 *
 * COMMITS durable commits of PUTS overwrites each, in key order within a commit or as they come. The
 * answer is nanoseconds. Keys, values and random numbers are those of src/dataset.rs.
 */
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KEY_BYTES = 16, VALUE_BYTES = 100, PLACES = 1 << 20, POOL_SEED = 1, LOAD_AT_ONCE = 50000 };

struct pair {
	char key[KEY_BYTES];
	const unsigned char *value;
};

static MDB_env *env;
static MDB_dbi data;
static unsigned char *pool;

static void check(int code, const char *doing)
{
	if (code != MDB_SUCCESS) {
		fprintf(stderr, "peer: %s: %s\n", doing, mdb_strerror(code));
		exit(1);
	}
}

static void *allocate(size_t bytes)
{
	void *memory = malloc(bytes);
	if (!memory) {
		fprintf(stderr, "peer: out of memory\n");
		exit(1);
	}
	return memory;
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static uint64_t random_number(uint64_t *state)
{
	return mix(*state += 0x9e3779b97f4a7c15u);
}

static uint64_t below(uint64_t *state, uint64_t end)
{
	return ((random_number(state) >> 32) * end) >> 32;
}

static void make_key(char *key, uint64_t number)
{
	uint64_t scattered = mix(number + 1);
	for (int at = 0; at < KEY_BYTES; at++)
		key[at] = "0123456789abcdef"[(scattered >> (60 - 4 * at)) & 15];
}

static void make_pool(void)
{
	uint64_t state = POOL_SEED, words = (PLACES + VALUE_BYTES + 7) / 8;
	pool = allocate(words * 8);
	for (uint64_t n = 0; n < words; n++) {
		uint64_t word = random_number(&state);
		for (int at = 0; at < 8; at++)
			pool[8 * n + at] = (unsigned char)(word >> (8 * at));
	}
}

static int by_key(const void *a, const void *b)
{
	return memcmp(((const struct pair *)a)->key, ((const struct pair *)b)->key, KEY_BYTES);
}

static void commit(const struct pair *pairs, size_t puts, unsigned flags)
{
	MDB_txn *txn;
	check(mdb_txn_begin(env, NULL, 0, &txn), "beginning");
	for (size_t n = 0; n < puts; n++) {
		MDB_val key = { KEY_BYTES, (void *)pairs[n].key };
		MDB_val value = { VALUE_BYTES, (void *)pairs[n].value };
		check(mdb_put(txn, data, &key, &value, flags), "putting");
	}
	check(mdb_txn_commit(txn), "committing");
}

static void load(uint64_t keys)
{
	struct pair *pairs = allocate(keys * sizeof *pairs);
	for (uint64_t n = 0; n < keys; n++) {
		make_key(pairs[n].key, n);
		pairs[n].value = pool + n % PLACES;
	}
	qsort(pairs, keys, sizeof *pairs, by_key);
	for (uint64_t n = 0; n < keys; n += LOAD_AT_ONCE)
		commit(pairs + n, keys - n < LOAD_AT_ONCE ? keys - n : LOAD_AT_ONCE, MDB_APPEND);
	free(pairs);
}

static uint64_t overwrite(uint64_t keys, size_t commits, size_t puts, uint64_t seed, int sorted)
{
	struct pair *pairs = allocate(puts * sizeof *pairs);
	uint64_t total = 0;
	for (size_t n = 0; n < commits; n++) {
		for (size_t i = 0; i < puts; i++) {
			make_key(pairs[i].key, below(&seed, keys));
			pairs[i].value = pool + below(&seed, PLACES);
		}
		uint64_t start = now_ns();
		if (sorted)
			qsort(pairs, puts, sizeof *pairs, by_key);
		commit(pairs, puts, 0);
		total += now_ns() - start;
	}
	free(pairs);
	return total;
}

int main(int argc, char **argv)
{
	MDB_txn *txn;
	char line[100], order[16];
	unsigned long long commits, puts, seed;
	if (argc != 3) {
		fprintf(stderr, "usage: peer DIR KEYS\n");
		return 2;
	}
	uint64_t keys = strtoull(argv[2], NULL, 10);
	check(mdb_env_create(&env), "creating");
	check(mdb_env_set_maxdbs(env, 4), "setting the number of buckets");
	check(mdb_env_set_mapsize(env, (size_t)32 << 30), "setting the size");
	check(mdb_env_open(env, argv[1], 0, 0640), "opening");
	check(mdb_txn_begin(env, NULL, 0, &txn), "beginning");
	check(mdb_dbi_open(txn, "data", MDB_CREATE, &data), "creating the bucket");
	check(mdb_txn_commit(txn), "committing");
	make_pool();
	load(keys);
	printf("%llu\n", (unsigned long long)keys);
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "%llu %llu %llu %15s", &commits, &puts, &seed, order) != 4)
			return 2;
		int sorted = strcmp(order, "sorted") == 0;
		uint64_t ns = overwrite(keys, commits, puts, seed, sorted);
		printf("%llu\n", (unsigned long long)ns);
		fflush(stdout);
	}
	mdb_env_close(env);
	return 0;
}
