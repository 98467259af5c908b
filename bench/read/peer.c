/*
 * The limit that bench-read measures against: plain mdb_get on the same environment, the same key
 * sequence, with a renew and a reset around every get, as a careful service would write it.
 *
 *   peer ENVIRONMENT_DIR KEYS_FILE KEY_BYTES
 *
 * KEYS_FILE holds keys of KEY_BYTES each, back to back, in the order in which they are asked for.
 * Every line on standard input is one round over the whole file and names how it is read:
 *
 *   renew   mdb_txn_renew, mdb_get, mdb_txn_reset for every key
 *   sum     the same, and every byte of the value is read
 *   into    the same, and the value is copied into a buffer
 *   copy    the same, and the value is copied into malloc'ed memory, which is freed
 *   one     one transaction around the whole round
 *
 * The answer is one line: nanoseconds of the round, keys found, and a sum over the values' first
 * bytes that keeps the compiler from leaving the reads out.
 */
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A Quicksilver cell: version, write index and CRC come before the value. */
enum { CELL_HEADER_BYTES = 13 };

enum mode { RENEW, SUM, INTO, COPY, ONE };

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

static char *read_file(const char *path, size_t *bytes)
{
	FILE *file = fopen(path, "rb");
	if (!file || fseek(file, 0, SEEK_END) != 0) {
		perror(path);
		exit(1);
	}
	*bytes = (size_t)ftell(file);
	rewind(file);
	char *content = malloc(*bytes);
	if (!content || fread(content, 1, *bytes, file) != *bytes) {
		perror(path);
		exit(1);
	}
	fclose(file);
	return content;
}

/* A value's bytes, eight at a time, as cheaply as they can be read. */
static uint64_t sum_of(const unsigned char *bytes, size_t length)
{
	uint64_t sum = 0, word;
	for (; length >= sizeof word; bytes += sizeof word, length -= sizeof word) {
		memcpy(&word, bytes, sizeof word);
		sum += word;
	}
	while (length-- > 0)
		sum += *bytes++;
	return sum;
}

static uint64_t use(const MDB_val *value, enum mode mode)
{
	const unsigned char *bytes = (const unsigned char *)value->mv_data + CELL_HEADER_BYTES;
	size_t length = value->mv_size - CELL_HEADER_BYTES;
	static unsigned char buffer[64 << 10];
	if (mode == SUM)
		return sum_of(bytes, length);
	if (mode != COPY && mode != INTO)
		return bytes[0];
	unsigned char *copy = mode == INTO && length <= sizeof buffer ? buffer : malloc(length);
	if (!copy)
		exit(1);
	memcpy(copy, bytes, length);
	/* The copy must be made: its address leaves the compiler's sight. */
	__asm__ volatile("" : : "r"(copy) : "memory");
	uint64_t first = copy[0];
	if (copy != buffer)
		free(copy);
	return first;
}

/* A word on standard input; whatever is not known is RENEW. */
static enum mode mode_of(const char *word)
{
	switch (word[0]) {
	case 's':
		return SUM;
	case 'i':
		return INTO;
	case 'c':
		return COPY;
	case 'o':
		return ONE;
	default:
		return RENEW;
	}
}

static void round_of(MDB_txn *txn, MDB_dbi data, enum mode mode, char *keys, size_t count,
		     size_t key_bytes)
{
	uint64_t sum = 0, found = 0;
	uint64_t start = now_ns();
	if (mode == ONE)
		check(mdb_txn_renew(txn), "renewing");
	for (size_t i = 0; i < count; i++) {
		MDB_val key = { key_bytes, keys + i * key_bytes }, value;
		if (mode != ONE)
			check(mdb_txn_renew(txn), "renewing");
		int code = mdb_get(txn, data, &key, &value);
		if (code == MDB_SUCCESS) {
			sum += use(&value, mode);
			found++;
		} else if (code != MDB_NOTFOUND) {
			check(code, "getting");
		}
		if (mode != ONE)
			mdb_txn_reset(txn);
	}
	if (mode == ONE)
		mdb_txn_reset(txn);
	printf("%llu %llu %llu\n", (unsigned long long)(now_ns() - start),
	       (unsigned long long)found, (unsigned long long)sum);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: peer ENVIRONMENT_DIR KEYS_FILE KEY_BYTES\n");
		return 2;
	}
	size_t key_bytes = (size_t)atoi(argv[3]), bytes;
	char *keys = read_file(argv[2], &bytes);

	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi data;
	check(mdb_env_create(&env), "creating");
	check(mdb_env_set_maxdbs(env, 16), "setting the number of buckets");
	check(mdb_env_open(env, argv[1], MDB_RDONLY | MDB_NOTLS, 0640), "opening");
	check(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), "beginning");
	check(mdb_dbi_open(txn, "data", 0, &data), "opening the bucket");
	check(mdb_txn_commit(txn), "keeping the bucket");
	check(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), "beginning");
	mdb_txn_reset(txn);

	char line[16];
	while (fgets(line, sizeof line, stdin))
		round_of(txn, data, mode_of(line), keys, bytes / key_bytes, key_bytes);
	mdb_txn_abort(txn);
	mdb_env_close(env);
	return 0;
}
