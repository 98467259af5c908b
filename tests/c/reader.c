/*
 * What a C program does with libquicksilver when it does everything right.
 *
 *     reader DIR
 *
 * ffi/tests/c_programs.rs makes the database in DIR, builds this in several ways, and runs it
 * plain, under AddressSanitizer and under valgrind.
 */
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

static void text_is_there(void)
{
    CHECK(strchr(qs_version(), '.') != NULL);
    CHECK(strcmp(qs_last_error(), "") == 0);
    CHECK(strcmp(qs_strerror(QS_OK), "ok") == 0);
    CHECK(strcmp(qs_strerror(QS_TIMEOUT), "nothing came within the time") == 0);
    CHECK(strcmp(qs_strerror(-7), "unknown result code") == 0);
    CHECK(strcmp(qs_strerror(12345), "unknown result code") == 0);
}

static void values_come_back(const qs_db *db)
{
    qs_value value;
    size_t n;

    RETURNS(QS_OK, qs_get(db, "hello", 5, &value));
    CHECK(value.size == 5 && strcmp((const char *)value.data, "world") == 0);
    RETURNS(QS_OK, qs_value_free(&value));
    CHECK(IS_EMPTY(value));
    RETURNS(QS_OK, qs_value_free(&value));

    /* A key may be any bytes, and so may a value. */
    RETURNS(QS_OK, qs_get(db, "bin\0ary", 7, &value));
    CHECK(value.size == 256);
    for (n = 0; n < 256; n++)
        CHECK(value.data[n] == n);
    RETURNS(QS_OK, qs_value_free(&value));

    RETURNS(QS_OK, qs_get(db, "empty", 5, &value));
    CHECK(value.size == 0 && value.data != NULL && value.data[0] == 0);
    RETURNS(QS_OK, qs_value_free(&value));

    RETURNS(QS_OK, qs_get(db, "long", 4, &value));
    CHECK(value.size == LONG_BYTES);
    for (n = 0; n < LONG_BYTES; n++)
        CHECK(value.data[n] == n % 251);
    RETURNS(QS_OK, qs_value_free(&value));
}

static void missing_keys_are_not_errors(const qs_db *db)
{
    qs_value value;
    size_t size = 7;

    RETURNS(QS_NOT_FOUND, qs_get(db, "nobody", 6, &value));
    CHECK(IS_EMPTY(value));
    RETURNS(QS_NOT_FOUND, qs_get(db, "bin", 3, &value));
    RETURNS(QS_NOT_FOUND, qs_get_into(db, "nobody", 6, NULL, 0, &size));
    CHECK(size == 0);
    CHECK(strcmp(qs_last_error(), "") == 0);
}

static void values_go_into_a_buffer(const qs_db *db)
{
    char buffer[8] = "-------";
    char *large = malloc(LONG_BYTES);
    size_t size = 0;

    RETURNS(QS_OK, qs_get_into(db, "hello", 5, buffer, sizeof buffer, &size));
    CHECK(size == 5 && memcmp(buffer, "world--", 8) == 0);
    RETURNS(QS_OK, qs_get_into(db, "hello", 5, buffer + 2, 5, &size));
    CHECK(memcmp(buffer, "woworld", 8) == 0);
    /* Too small: nothing is written, and how much there is is said. */
    RETURNS(QS_TOO_SMALL, qs_get_into(db, "hello", 5, buffer, 4, &size));
    CHECK(size == 5 && memcmp(buffer, "woworld", 8) == 0);
    RETURNS(QS_TOO_SMALL, qs_get_into(db, "long", 4, NULL, 0, &size));
    CHECK(size == LONG_BYTES && large != NULL);
    RETURNS(QS_OK, qs_get_into(db, "long", 4, large, size, &size));
    CHECK(large[1000] == (char)(1000 % 251));
    RETURNS(QS_OK, qs_get_into(db, "empty", 5, NULL, 0, &size));
    CHECK(size == 0);
    CHECK(strcmp(qs_last_error(), "") == 0);
    free(large);
}

static void several_values_at_once(const qs_db *db)
{
    qs_slice keys[3];
    qs_value values[3];
    int n;

    keys[0] = slice("hello");
    keys[1] = slice("nobody");
    keys[2] = slice("zone/example.org");
    RETURNS(QS_OK, qs_multi_get(db, keys, 3, values));
    CHECK(HOLDS(values[0], "world"));
    CHECK(IS_EMPTY(values[1]));
    CHECK(HOLDS(values[2], "192.0.2.1"));
    for (n = 0; n < 3; n++)
        RETURNS(QS_OK, qs_value_free(&values[n]));
    RETURNS(QS_OK, qs_multi_get(db, NULL, 0, NULL));
}

static void a_snapshot_shows_values_in_place(qs_snapshot *snapshot)
{
    qs_slice value, again;
    uint64_t index = 0;

    RETURNS(QS_OK, qs_snapshot_get(snapshot, "hello", 5, &value));
    CHECK(HOLDS(value, "world"));
    RETURNS(QS_OK, qs_snapshot_get(snapshot, "hello", 5, &again));
    CHECK(value.data == again.data);
    RETURNS(QS_OK, qs_snapshot_get(snapshot, "empty", 5, &value));
    CHECK(value.data != NULL && value.size == 0);
    RETURNS(QS_NOT_FOUND, qs_snapshot_get(snapshot, "nobody", 6, &value));
    CHECK(IS_EMPTY(value));
    /* A long value is put together once. */
    RETURNS(QS_OK, qs_snapshot_get(snapshot, "long", 4, &value));
    CHECK(value.size == LONG_BYTES && value.data[LONG_BYTES - 1] == (LONG_BYTES - 1) % 251);
    RETURNS(QS_OK, qs_snapshot_get(snapshot, "long", 4, &again));
    CHECK(value.data == again.data);
    RETURNS(QS_OK, qs_snapshot_index(snapshot, &index));
    CHECK(index == KEYS);
}

/* Walks over the pairs, which have to be the numbers from `first` in steps of `step`. */
static int walk_numbers(qs_snapshot *snapshot, const qs_scan_options *options, int first, int step)
{
    char key_text[8], value_text[16];
    qs_slice key, value;
    qs_scan *scan;
    int n;

    RETURNS(QS_OK, qs_scan_begin(snapshot, options, &scan));
    for (n = 0; qs_scan_next(scan, &key, &value) == QS_OK; n++) {
        snprintf(key_text, sizeof key_text, "n/%03d", first + step * n);
        snprintf(value_text, sizeof value_text, "number %d", first + step * n);
        CHECK(HOLDS(key, key_text));
        CHECK(HOLDS(value, value_text));
    }
    RETURNS(QS_NOT_FOUND, qs_scan_next(scan, &key, &value));
    CHECK(IS_EMPTY(key) && IS_EMPTY(value));
    RETURNS(QS_OK, qs_scan_end(scan));
    return n;
}

static void scans_are_in_order(qs_snapshot *snapshot)
{
    qs_scan_options options = QS_SCAN_OPTIONS_INIT;

    options.prefix = slice("n/");
    CHECK(walk_numbers(snapshot, &options, 0, 1) == NUMBERS);
    options.limit = 70;
    CHECK(walk_numbers(snapshot, &options, 0, 1) == 70);
    options.flags = QS_SCAN_BACKWARD;
    CHECK(walk_numbers(snapshot, &options, NUMBERS - 1, -1) == 70);
    options.limit = 0;
    CHECK(walk_numbers(snapshot, &options, NUMBERS - 1, -1) == NUMBERS);

    options.from = slice("n/010");
    options.to = slice("n/020");
    options.flags = 0;
    CHECK(walk_numbers(snapshot, &options, 10, 1) == 10);
    options.flags = QS_SCAN_TO_INCLUDED;
    CHECK(walk_numbers(snapshot, &options, 10, 1) == 11);
    options.flags = QS_SCAN_FROM_EXCLUDED;
    CHECK(walk_numbers(snapshot, &options, 11, 1) == 9);
    options.flags = QS_SCAN_FROM_EXCLUDED | QS_SCAN_TO_INCLUDED | QS_SCAN_BACKWARD;
    CHECK(walk_numbers(snapshot, &options, 20, -1) == 10);
    /* The bounds hold together with the prefix. */
    options.flags = 0;
    options.from = slice("a");
    options.to = slice("z");
    CHECK(walk_numbers(snapshot, &options, 0, 1) == NUMBERS);
    options.from = slice("n/5");
    options.to = slice("n/4");
    CHECK(walk_numbers(snapshot, &options, 0, 1) == 0);
    options.prefix = slice("nothing/");
    CHECK(walk_numbers(snapshot, &options, 0, 1) == 0);
}

static void a_scan_shows_everything_and_outlives_its_snapshot(const qs_db *db)
{
    qs_snapshot *snapshot;
    qs_scan *scan;
    qs_slice key, value, last = {NULL, 0};
    char last_key[QS_KEY_MAX_BYTES] = "";
    int n;

    RETURNS(QS_OK, qs_snapshot_begin(db, &snapshot));
    RETURNS(QS_OK, qs_scan_begin(snapshot, NULL, &scan));
    RETURNS(QS_OK, qs_snapshot_end(snapshot));
    for (n = 0; qs_scan_next(scan, &key, &value) == QS_OK; n++) {
        size_t shorter = key.size < last.size ? key.size : last.size;
        int order = memcmp(last_key, key.data, shorter);
        CHECK(order < 0 || (order == 0 && last.size < key.size));
        memcpy(last_key, key.data, key.size);
        last = key;
        if (HOLDS(key, "long"))
            CHECK(value.size == LONG_BYTES && value.data[1000] == 1000 % 251);
    }
    CHECK(n == KEYS);
    RETURNS(QS_OK, qs_scan_end(scan));
}

static void the_status_is_told(const qs_db *db)
{
    qs_db_status status = QS_DB_STATUS_INIT;
    uint64_t index = 0;

    RETURNS(QS_OK, qs_status(db, &status));
    CHECK(status.size == sizeof status);
    CHECK(status.index == KEYS && status.keys == KEYS && status.generation == 1);
    CHECK(status.bytes > LONG_BYTES && status.oldest_index >= 1);
    CHECK(strlen(status.db_id) == 36 && strlen(status.history) == 36);
    CHECK(strcmp(status.db_id, status.history) != 0);
    CHECK(status.lag_ms == -1 && status.heartbeat_us == 0);
    CHECK(status.sealed_at_us > 0 && status.committed_at_us > 0);
    RETURNS(QS_OK, qs_index(db, &index));
    CHECK(index == KEYS);
}

static void waiting_ends(const qs_db *db)
{
    uint64_t now = 0;

    RETURNS(QS_OK, qs_wait(db, KEYS, -1, &now));
    CHECK(now == KEYS);
    RETURNS(QS_OK, qs_wait(db, 0, 0, NULL));
    RETURNS(QS_TIMEOUT, qs_wait(db, KEYS + 1, 0, &now));
    CHECK(now == KEYS);
    RETURNS(QS_TIMEOUT, qs_wait(db, UINT64_MAX, 20, NULL));
    CHECK(strcmp(qs_last_error(), "") == 0);
}

static void changes_are_told_in_order(const qs_db *db)
{
    qs_change change = QS_CHANGE_INIT;
    qs_changes *changes;
    uint64_t index, position = 0, seen = 0;

    RETURNS(QS_OK, qs_changes_open(db, 0, NULL, 0, &changes));
    for (index = 1; index <= KEYS; index++) {
        RETURNS(QS_OK, qs_changes_next(changes, 0, &change));
        CHECK(change.size == sizeof change);
        CHECK(change.index == index && change.kind == QS_CHANGE_SET && change.key.size > 0);
        if (HOLDS(change.key, "hello"))
            CHECK(HOLDS(change.value, "world"));
        RETURNS(QS_OK, qs_changes_position(changes, &position));
        CHECK(position == index);
    }
    RETURNS(QS_TIMEOUT, qs_changes_next(changes, 0, &change));
    CHECK(change.kind == QS_CHANGE_NONE && change.index == 0 && IS_EMPTY(change.key));
    RETURNS(QS_OK, qs_changes_close(changes));

    RETURNS(QS_OK, qs_changes_open(db, 0, "zone/", 5, &changes));
    while (qs_changes_next(changes, 20, &change) == QS_OK) {
        CHECK(change.key.size == strlen("zone/example.org"));
        seen++;
    }
    CHECK(seen == 2);
    /* What does not concern the prefix is behind it too. */
    RETURNS(QS_OK, qs_changes_position(changes, &position));
    CHECK(position == KEYS);
    RETURNS(QS_OK, qs_changes_close(changes));
}

static void a_child_opens_the_database_itself(const char *dir)
{
    int status = -1;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        qs_db *mine;
        RETURNS(QS_OK, qs_open(dir, NULL, &mine));
        values_come_back(mine);
        RETURNS(QS_OK, qs_close(mine));
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void the_database_can_be_named(const char *dir, const char *db_id)
{
    qs_open_options options = QS_OPEN_OPTIONS_INIT;
    qs_db *db;

    options.db_id = db_id;
    options.wait_ms = 10;
    RETURNS(QS_OK, qs_open(dir, &options, &db));
    RETURNS(QS_OK, qs_close(db));
}

static void the_database_can_be_opened_twice(const char *dir, const qs_db *db)
{
    qs_db *other;

    RETURNS(QS_OK, qs_open(dir, NULL, &other));
    CHECK(other != db);
    values_come_back(other);
    RETURNS(QS_OK, qs_close(other));
    values_come_back(db);
}

/* What was got outlives what it was got from. */
static void things_outlive_the_database(qs_db *db)
{
    qs_change change = QS_CHANGE_INIT;
    qs_snapshot *snapshot;
    qs_changes *changes;
    qs_slice slice_of_it;
    qs_value value;

    RETURNS(QS_OK, qs_get(db, "hello", 5, &value));
    RETURNS(QS_OK, qs_snapshot_begin(db, &snapshot));
    RETURNS(QS_OK, qs_changes_open(db, KEYS - 1, NULL, 0, &changes));
    RETURNS(QS_OK, qs_close(db));
    CHECK(HOLDS(value, "world"));
    RETURNS(QS_OK, qs_value_free(&value));
    RETURNS(QS_OK, qs_snapshot_get(snapshot, "hello", 5, &slice_of_it));
    CHECK(HOLDS(slice_of_it, "world"));
    RETURNS(QS_OK, qs_snapshot_end(snapshot));
    RETURNS(QS_OK, qs_changes_next(changes, 0, &change));
    CHECK(change.index == KEYS);
    RETURNS(QS_OK, qs_changes_close(changes));
}

int main(int argc, char **argv)
{
    qs_db_status status = QS_DB_STATUS_INIT;
    qs_snapshot *snapshot;
    qs_db *db;

    if (argc != 2) {
        fprintf(stderr, "usage: %s DIR\n", argv[0]);
        return 2;
    }
    text_is_there();
    RETURNS(QS_OK, qs_open(argv[1], NULL, &db));
    values_come_back(db);
    missing_keys_are_not_errors(db);
    values_go_into_a_buffer(db);
    several_values_at_once(db);
    RETURNS(QS_OK, qs_snapshot_begin(db, &snapshot));
    a_snapshot_shows_values_in_place(snapshot);
    scans_are_in_order(snapshot);
    RETURNS(QS_OK, qs_snapshot_end(snapshot));
    a_scan_shows_everything_and_outlives_its_snapshot(db);
    the_status_is_told(db);
    waiting_ends(db);
    changes_are_told_in_order(db);
    a_child_opens_the_database_itself(argv[1]);
    the_database_can_be_opened_twice(argv[1], db);
    RETURNS(QS_OK, qs_status(db, &status));
    things_outlive_the_database(db);
    the_database_can_be_named(argv[1], status.db_id);
    puts("all is well");
    return 0;
}
