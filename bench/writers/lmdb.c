/*
 * The limit that bench-writers measures against: plain LMDB, read and written by separate
 * processes, one durable commit for every value.
 *
 *   lmdb create DIR                 makes the environment, with 20 pairs of 2 bytes
 *   lmdb write DIR NUMBER KEYS BYTES
 *                                   writes values of BYTES to KEYS keys of its own, for ever; every
 *                                   line on standard input is answered with the commits so far
 *   lmdb read DIR                   answers `closed SECONDS` and `open SECONDS READS_A_SECOND` with
 *                                   the latencies of reads, and `wakeups` with how late the sleeps
 *                                   of the last open loop ended
 *
 * Latencies are printed as the longest, then pairs of a bucket and its count; the buckets are those
 * of src/histogram.rs, and the loops those of src/bin/bench-writers/reading.rs.
 */
#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

enum { PAIRS = 20, SUB_BITS = 6, SUBS = 1 << SUB_BITS, BUCKETS = (40 - SUB_BITS + 1) * SUBS };
enum { POOL_BYTES = 1 << 20 };

struct histogram {
	uint64_t counts[BUCKETS], max;
};

static MDB_env *env;
static MDB_dbi data;

static void check(int code, const char *doing)
{
	if (code != MDB_SUCCESS) {
		fprintf(stderr, "lmdb: %s: %s\n", doing, mdb_strerror(code));
		exit(1);
	}
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void record(struct histogram *h, uint64_t ns)
{
	uint64_t bucket = ns;
	if (ns >= SUBS) {
		unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - SUB_BITS;
		bucket = (uint64_t)shift * SUBS + (ns >> shift);
	}
	h->counts[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
	if (ns > h->max)
		h->max = ns;
}

static void print(const struct histogram *h)
{
	printf("%llu", (unsigned long long)h->max);
	for (int i = 0; i < BUCKETS; i++)
		if (h->counts[i])
			printf(" %d %llu", i, (unsigned long long)h->counts[i]);
	printf("\n");
	fflush(stdout);
}

static void open_env(const char *dir, unsigned flags)
{
	MDB_txn *txn;
	check(mdb_env_create(&env), "creating");
	check(mdb_env_set_maxdbs(env, 4), "setting the number of buckets");
	check(mdb_env_set_mapsize(env, (size_t)16 << 30), "setting the size");
	check(mdb_env_open(env, dir, flags | MDB_NOTLS, 0640), "opening");
	check(mdb_txn_begin(env, NULL, flags & MDB_RDONLY, &txn), "beginning");
	check(mdb_dbi_open(txn, "data", flags & MDB_RDONLY ? 0 : MDB_CREATE, &data), "the bucket");
	check(mdb_txn_commit(txn), "committing");
}

/* ---- writing ---- */

static _Atomic uint64_t commits;

struct writing {
	int number, keys;
	size_t bytes;
};

static uint64_t random_number(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static void put(const char *key, size_t key_bytes, void *value, size_t bytes)
{
	MDB_txn *txn;
	MDB_val k = { key_bytes, (void *)key }, v = { bytes, value };
	check(mdb_txn_begin(env, NULL, 0, &txn), "beginning");
	check(mdb_put(txn, data, &k, &v, 0), "putting");
	check(mdb_txn_commit(txn), "committing");
}

static void *write_for_ever(void *argument)
{
	const struct writing *w = argument;
	/* Other values than the last run's. */
	uint64_t state = now_ns();
	unsigned char *pool = malloc(POOL_BYTES + w->bytes);
	if (!pool)
		exit(1);
	for (size_t i = 0; i < POOL_BYTES + w->bytes; i++)
		pool[i] = (unsigned char)random_number(&state);
	for (uint64_t n = 0;; n++) {
		char key[32];
		int length = snprintf(key, sizeof key, "w%d-%llu", w->number,
				      (unsigned long long)(n % (uint64_t)w->keys));
		put(key, (size_t)length, pool + random_number(&state) % POOL_BYTES, w->bytes);
		atomic_fetch_add(&commits, 1);
	}
	return NULL;
}

static void answer_with_commits(void)
{
	char line[64];
	while (fgets(line, sizeof line, stdin)) {
		printf("%llu\n", (unsigned long long)atomic_load(&commits));
		fflush(stdout);
	}
}

/* ---- reading ---- */

static struct histogram latencies, wakeups;
static MDB_txn *reading;
static volatile unsigned char seen;
static char names[PAIRS][3];

static void make_names(void)
{
	for (unsigned n = 0; n < PAIRS; n++)
		snprintf(names[n], sizeof names[n], "%02u", n);
}

static void read_one(unsigned n)
{
	MDB_val key = { 2, names[n] }, value;
	check(mdb_txn_renew(reading), "renewing");
	check(mdb_get(reading, data, &key, &value), "getting");
	seen = *(unsigned char *)value.mv_data;
	mdb_txn_reset(reading);
}

static void closed_loop(double seconds)
{
	uint64_t last = now_ns(), end = last + (uint64_t)(seconds * 1e9);
	while (last < end) {
		for (unsigned n = 0; n < PAIRS; n++) {
			read_one(n);
			uint64_t now = now_ns();
			record(&latencies, now - last);
			last = now;
		}
	}
}

static void open_loop(double seconds, double rate)
{
	uint64_t start = now_ns(), reads = (uint64_t)(seconds * rate);
	for (uint64_t n = 0; n < reads; n++) {
		uint64_t due = start + (uint64_t)((double)n * 1e9 / rate), now = now_ns();
		if (now < due) {
			struct timespec left = { 0, (long)(due - now) };
			nanosleep(&left, NULL);
			record(&wakeups, now_ns() - due);
		}
		read_one((unsigned)(n % PAIRS));
		record(&latencies, now_ns() - due);
	}
}

static void answer_with_latencies(void)
{
	char line[64];
	double seconds, rate;
	/* A sleep may end late by this much; by default 50 us. */
	prctl(PR_SET_TIMERSLACK, 1);
	check(mdb_txn_begin(env, NULL, MDB_RDONLY, &reading), "beginning");
	mdb_txn_reset(reading);
	while (fgets(line, sizeof line, stdin)) {
		if (line[0] == 'w') {
			print(&wakeups);
			continue;
		}
		memset(&latencies, 0, sizeof latencies);
		memset(&wakeups, 0, sizeof wakeups);
		if (sscanf(line, "open %lf %lf", &seconds, &rate) == 2)
			open_loop(seconds, rate);
		else if (sscanf(line, "closed %lf", &seconds) == 1)
			closed_loop(seconds);
		print(&latencies);
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "create") == 0) {
		open_env(argv[2], 0);
		for (unsigned n = 0; n < PAIRS; n++) {
			char key[3];
			snprintf(key, sizeof key, "%02u", n);
			put(key, 2, key, 2);
		}
	} else if (argc == 6 && strcmp(argv[1], "write") == 0) {
		struct writing w = { atoi(argv[3]), atoi(argv[4]), (size_t)atol(argv[5]) };
		pthread_t thread;
		open_env(argv[2], 0);
		if (pthread_create(&thread, NULL, write_for_ever, &w) != 0)
			return 1;
		answer_with_commits();
		/* Ends the process in the middle of a commit, as LMDB allows. */
		_Exit(0);
	} else if (argc == 3 && strcmp(argv[1], "read") == 0) {
		open_env(argv[2], MDB_RDONLY);
		make_names();
		answer_with_latencies();
	} else {
		fprintf(stderr, "usage: lmdb create|write|read DIR ...\n");
		return 2;
	}
	mdb_env_close(env);
	return 0;
}
