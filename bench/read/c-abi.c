/*
 * The same reads as peer.c, through libquicksilver as a C program uses it.
 *
 *   c-abi DATA_DIR KEYS_FILE KEY_BYTES
 *
 * Every line on standard input is one round over the keys and names how they are read:
 *
 *   into      qs_get_into a buffer for every key
 *   get       qs_get and qs_value_free for every key
 *   snapshot  one snapshot, and qs_snapshot_get for every key
 *   index     qs_index, as often as there are keys
 *
 * The answer is one line: nanoseconds of the round, keys found, and a sum over the values' first
 * bytes.
 */
#include <quicksilver.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void check(qs_result code, const char *doing)
{
	if (code != QS_OK) {
		fprintf(stderr, "c-abi: %s: %s\n", doing, qs_last_error());
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

struct tally {
	uint64_t found, sum;
};

static void get(const qs_db *db, const char *key, size_t key_bytes, struct tally *tally)
{
	qs_value value;
	qs_result code = qs_get(db, key, key_bytes, &value);
	if (code == QS_NOT_FOUND)
		return;
	check(code, "getting");
	tally->sum += value.data[0];
	tally->found++;
	qs_value_free(&value);
}

static void get_into(const qs_db *db, const char *key, size_t key_bytes, struct tally *tally)
{
	static unsigned char buffer[64 << 10];
	size_t size;
	qs_result code = qs_get_into(db, key, key_bytes, buffer, sizeof buffer, &size);
	if (code == QS_NOT_FOUND)
		return;
	check(code, "getting");
	tally->sum += buffer[0];
	tally->found++;
}

static void look(const qs_snapshot *snapshot, const char *key, size_t key_bytes,
		 struct tally *tally)
{
	qs_slice value;
	qs_result code = qs_snapshot_get(snapshot, key, key_bytes, &value);
	if (code == QS_NOT_FOUND)
		return;
	check(code, "looking");
	tally->sum += value.data[0];
	tally->found++;
}

static void ask_index(const qs_db *db, struct tally *tally)
{
	uint64_t index;
	check(qs_index(db, &index), "asking for the index");
	tally->sum += index;
	tally->found++;
}

/* One round over all keys. */
static void round_of(const qs_db *db, const char *way, const char *keys, size_t bytes,
		     size_t key_bytes, struct tally *tally)
{
	qs_snapshot *snapshot = NULL;
	if (way[0] == 's')
		check(qs_snapshot_begin(db, &snapshot), "beginning a snapshot");
	for (size_t at = 0; at + key_bytes <= bytes; at += key_bytes) {
		if (snapshot)
			look(snapshot, keys + at, key_bytes, tally);
		else if (strncmp(way, "index", 5) == 0)
			ask_index(db, tally);
		else if (strncmp(way, "into", 4) == 0)
			get_into(db, keys + at, key_bytes, tally);
		else
			get(db, keys + at, key_bytes, tally);
	}
	if (snapshot)
		check(qs_snapshot_end(snapshot), "ending the snapshot");
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: c-abi DATA_DIR KEYS_FILE KEY_BYTES\n");
		return 2;
	}
	size_t key_bytes = (size_t)atoi(argv[3]), bytes;
	char *keys = read_file(argv[2], &bytes);
	qs_db *db;
	check(qs_open(argv[1], NULL, &db), "opening");
	char line[16];
	while (fgets(line, sizeof line, stdin)) {
		struct tally tally = { 0, 0 };
		uint64_t start = now_ns();
		round_of(db, line, keys, bytes, key_bytes, &tally);
		printf("%llu %llu %llu\n", (unsigned long long)(now_ns() - start),
		       (unsigned long long)tally.found, (unsigned long long)tally.sum);
		fflush(stdout);
	}
	qs_close(db);
	return 0;
}
