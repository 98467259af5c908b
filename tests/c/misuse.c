/*
 * What a C program does with libquicksilver when it does something wrong: every function with
 * every wrong argument gives an error code, and leaves nothing behind.
 *
 *     misuse DIR
 *
 * See reader.c for who runs it. threads.c does the same from several threads.
 */
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

typedef enum { DB, SNAPSHOT, SCAN, CHANGES, KINDS } kind;

/* --- every function that takes a handle, with good arguments beside it ---------------------- */

static qs_result call_get(void *db)
{
    qs_value value = {(const uint8_t *)"", 7};
    qs_result result = qs_get(db, "hello", 5, &value);
    CHECK(IS_EMPTY(value));
    return result;
}

static qs_result call_get_into(void *db)
{
    char buffer[8] = "1234567";
    size_t size = 7;
    qs_result result = qs_get_into(db, "hello", 5, buffer, sizeof buffer, &size);
    CHECK(size == 0 && strcmp(buffer, "1234567") == 0);
    return result;
}

static qs_result call_multi_get(void *db)
{
    qs_value values[2] = {{(const uint8_t *)"", 7}, {(const uint8_t *)"", 7}};
    qs_slice keys[2];
    qs_result result;

    keys[0] = slice("hello");
    keys[1] = slice("empty");
    result = qs_multi_get(db, keys, 2, values);
    CHECK(IS_EMPTY(values[0]) && IS_EMPTY(values[1]));
    return result;
}

static qs_result call_snapshot_begin(void *db)
{
    qs_snapshot *snapshot = db;
    qs_result result = qs_snapshot_begin(db, &snapshot);
    CHECK(snapshot == NULL);
    return result;
}

static qs_result call_index(void *db)
{
    uint64_t index = 7;
    qs_result result = qs_index(db, &index);
    CHECK(index == 0);
    return result;
}

static qs_result call_wait(void *db)
{
    uint64_t now = 7;
    qs_result result = qs_wait(db, UINT64_MAX, -1, &now);
    CHECK(now == 0);
    return result;
}

static qs_result call_status(void *db)
{
    qs_db_status status = QS_DB_STATUS_INIT, empty = QS_DB_STATUS_INIT;
    qs_result result;

    status.keys = 7;
    strcpy(status.db_id, "no");
    result = qs_status(db, &status);
    CHECK(memcmp(&status, &empty, sizeof status) == 0);
    return result;
}

static qs_result call_changes_open(void *db)
{
    qs_changes *changes = db;
    qs_result result = qs_changes_open(db, 0, "zone/", 5, &changes);
    CHECK(changes == NULL);
    return result;
}

static qs_result call_close(void *db)
{
    return qs_close(db);
}

static qs_result call_snapshot_get(void *snapshot)
{
    qs_slice value = {(const uint8_t *)"", 7};
    qs_result result = qs_snapshot_get(snapshot, "hello", 5, &value);
    CHECK(IS_EMPTY(value));
    return result;
}

static qs_result call_snapshot_index(void *snapshot)
{
    uint64_t index = 7;
    qs_result result = qs_snapshot_index(snapshot, &index);
    CHECK(index == 0);
    return result;
}

static qs_result call_scan_begin(void *snapshot)
{
    qs_scan *scan = snapshot;
    qs_result result = qs_scan_begin(snapshot, NULL, &scan);
    CHECK(scan == NULL);
    return result;
}

static qs_result call_snapshot_end(void *snapshot)
{
    return qs_snapshot_end(snapshot);
}

static qs_result call_scan_next(void *scan)
{
    qs_slice key = {(const uint8_t *)"", 7}, value = {(const uint8_t *)"", 7};
    qs_result result = qs_scan_next(scan, &key, &value);
    CHECK(IS_EMPTY(key) && IS_EMPTY(value));
    return result;
}

static qs_result call_scan_end(void *scan)
{
    return qs_scan_end(scan);
}

static qs_result call_changes_next(void *changes)
{
    qs_change change = QS_CHANGE_INIT;
    qs_result result;

    change.kind = QS_CHANGE_SET;
    change.key = slice("no");
    result = qs_changes_next(changes, -1, &change);
    CHECK(change.size == sizeof change && change.kind == QS_CHANGE_NONE);
    CHECK(IS_EMPTY(change.key) && IS_EMPTY(change.value) && change.index == 0);
    return result;
}

static qs_result call_changes_position(void *changes)
{
    uint64_t index = 7;
    qs_result result = qs_changes_position(changes, &index);
    CHECK(index == 0);
    return result;
}

static qs_result call_changes_close(void *changes)
{
    return qs_changes_close(changes);
}

static const struct {
    const char *name;
    kind takes;
    qs_result (*call)(void *handle);
} CALLS[] = {
    {"qs_get", DB, call_get},
    {"qs_get_into", DB, call_get_into},
    {"qs_multi_get", DB, call_multi_get},
    {"qs_snapshot_begin", DB, call_snapshot_begin},
    {"qs_index", DB, call_index},
    {"qs_wait", DB, call_wait},
    {"qs_status", DB, call_status},
    {"qs_changes_open", DB, call_changes_open},
    {"qs_close", DB, call_close},
    {"qs_snapshot_get", SNAPSHOT, call_snapshot_get},
    {"qs_snapshot_index", SNAPSHOT, call_snapshot_index},
    {"qs_scan_begin", SNAPSHOT, call_scan_begin},
    {"qs_snapshot_end", SNAPSHOT, call_snapshot_end},
    {"qs_scan_next", SCAN, call_scan_next},
    {"qs_scan_end", SCAN, call_scan_end},
    {"qs_changes_next", CHANGES, call_changes_next},
    {"qs_changes_position", CHANGES, call_changes_position},
    {"qs_changes_close", CHANGES, call_changes_close},
};

enum { CALL_COUNT = sizeof CALLS / sizeof CALLS[0] };

/* Expects a call to refuse a handle, and to say why. */
static void refuses(size_t call, void *handle, qs_result code, const char *why)
{
    qs_result found = CALLS[call].call(handle);

    if (found != code || strstr(qs_last_error(), why) == NULL) {
        fprintf(stderr, "%s(%p) returned %d (%s), expected %d and \"%s\"; last error: %s\n",
                CALLS[call].name, handle, (int)found, qs_strerror((int)found), (int)code, why,
                qs_last_error());
        _Exit(1);
    }
}

/* --- the handles ----------------------------------------------------------------------------- */

static void open_one_of_each(const char *dir, void *handles[KINDS])
{
    qs_db *db;
    qs_snapshot *snapshot;
    qs_scan *scan;
    qs_changes *changes;

    RETURNS(QS_OK, qs_open(dir, NULL, &db));
    RETURNS(QS_OK, qs_snapshot_begin(db, &snapshot));
    RETURNS(QS_OK, qs_scan_begin(snapshot, NULL, &scan));
    RETURNS(QS_OK, qs_changes_open(db, 0, NULL, 0, &changes));
    handles[DB] = db;
    handles[SNAPSHOT] = snapshot;
    handles[SCAN] = scan;
    handles[CHANGES] = changes;
}

static void close_each(void *const handles[KINDS])
{
    RETURNS(QS_OK, qs_changes_close(handles[CHANGES]));
    RETURNS(QS_OK, qs_scan_end(handles[SCAN]));
    RETURNS(QS_OK, qs_snapshot_end(handles[SNAPSHOT]));
    RETURNS(QS_OK, qs_close(handles[DB]));
}

static void what_is_no_handle_is_refused(void)
{
    uint64_t words[8];
    size_t call, n;

    memset(words, 0x5a, sizeof words);
    for (call = 0; call < CALL_COUNT; call++) {
        /* The two last look like handles of the right kind, but were never handed out. */
        uintptr_t like_a_handle = ((uintptr_t)0xd1 + CALLS[call].takes) << 56;
        uintptr_t strangers[] = {1, 8, 4096, UINTPTR_MAX, UINTPTR_MAX / 2, (uintptr_t)words,
                                 (uintptr_t)words + 1, like_a_handle, like_a_handle + 0xffff9999};
        refuses(call, NULL, QS_INVALID_ARGUMENT, " is NULL");
        for (n = 0; n < sizeof strangers / sizeof strangers[0]; n++)
            refuses(call, (void *)strangers[n], QS_INVALID_ARGUMENT, "is not from qs_");
    }
}

static void a_handle_of_another_kind_is_refused(void *const handles[KINDS])
{
    static const char *const from[KINDS] = {"qs_open", "qs_snapshot_begin", "qs_scan_begin",
                                            "qs_changes_open"};
    size_t call;
    int other;

    for (call = 0; call < CALL_COUNT; call++)
        for (other = 0; other < KINDS; other++)
            if (other != (int)CALLS[call].takes)
                refuses(call, handles[other], QS_INVALID_ARGUMENT, from[other]);
}

static void a_closed_handle_stays_closed(const char *dir, void *const closed[KINDS])
{
    void *again[KINDS];
    size_t call;
    int round;

    /* Also when what was behind it is in use for something else. */
    open_one_of_each(dir, again);
    for (round = 0; round < 3; round++)
        for (call = 0; call < CALL_COUNT; call++) {
            CHECK(again[CALLS[call].takes] != closed[CALLS[call].takes]);
            refuses(call, closed[CALLS[call].takes], QS_CLOSED, "was closed");
        }
    close_each(again);
}

/* Nothing in a child may touch what belongs to the parent, or wait for one of its threads. */
static void a_forked_child_is_told(void *const handles[KINDS], void *const closed[KINDS])
{
    int status = -1;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        size_t call;
        for (call = 0; call < CALL_COUNT; call++) {
            refuses(call, handles[CALLS[call].takes], QS_FORKED, "before fork");
            refuses(call, closed[CALLS[call].takes], QS_CLOSED, "was closed");
        }
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* --- the other arguments --------------------------------------------------------------------- */

static void every_other_null_is_refused(const char *dir, void *const handles[KINDS])
{
    qs_db *db = handles[DB], *out_db = db;
    qs_snapshot *snapshot = handles[SNAPSHOT];
    qs_scan *scan = handles[SCAN];
    qs_changes *changes = handles[CHANGES], *out_changes = changes;
    qs_open_options options = QS_OPEN_OPTIONS_INIT;
    qs_value value = {(const uint8_t *)"", 7};
    qs_slice bytes = {(const uint8_t *)"", 7}, keys[2];
    size_t size = 7;
    char buffer[8];

    keys[0] = slice("hello");
    keys[1].data = NULL;
    keys[1].size = 5;

    RETURNS(QS_INVALID_ARGUMENT, qs_open(NULL, &options, &out_db));
    CHECK(out_db == NULL && strcmp(qs_last_error(), "dir is NULL") == 0);
    RETURNS(QS_INVALID_ARGUMENT, qs_open(dir, &options, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_open(NULL, NULL, NULL));

    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, NULL, 5, &value));
    CHECK(IS_EMPTY(value) && strcmp(qs_last_error(), "key is NULL") == 0);
    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, NULL, 0, &value));
    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, "hello", 5, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_get(NULL, NULL, 0, NULL));

    RETURNS(QS_INVALID_ARGUMENT, qs_get_into(db, NULL, 5, buffer, sizeof buffer, &size));
    CHECK(size == 0);
    RETURNS(QS_INVALID_ARGUMENT, qs_get_into(db, "hello", 5, NULL, sizeof buffer, &size));
    RETURNS(QS_INVALID_ARGUMENT, qs_get_into(db, "hello", 5, buffer, sizeof buffer, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_get_into(NULL, NULL, 0, NULL, 0, NULL));

    RETURNS(QS_INVALID_ARGUMENT, qs_multi_get(db, NULL, 1, &value));
    RETURNS(QS_INVALID_ARGUMENT, qs_multi_get(db, keys, 1, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_multi_get(NULL, NULL, 0, NULL));
    {
        qs_value values[2] = {{(const uint8_t *)"", 7}, {(const uint8_t *)"", 7}};
        RETURNS(QS_INVALID_ARGUMENT, qs_multi_get(db, keys, 2, values));
        CHECK(IS_EMPTY(values[0]) && IS_EMPTY(values[1]));
        CHECK(strcmp(qs_last_error(), "keys[1]: key is NULL") == 0);
        RETURNS(QS_INVALID_ARGUMENT, qs_multi_get(db, keys, SIZE_MAX / 8, values));
    }
    RETURNS(QS_OK, qs_value_free(NULL));

    RETURNS(QS_INVALID_ARGUMENT, qs_snapshot_begin(db, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_snapshot_get(snapshot, NULL, 5, &bytes));
    CHECK(IS_EMPTY(bytes));
    RETURNS(QS_INVALID_ARGUMENT, qs_snapshot_get(snapshot, "hello", 5, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_snapshot_index(snapshot, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_scan_begin(snapshot, NULL, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_scan_next(scan, NULL, &bytes));
    RETURNS(QS_INVALID_ARGUMENT, qs_scan_next(scan, &bytes, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_scan_next(scan, NULL, NULL));
    CHECK(strcmp(qs_last_error(), "key is NULL") == 0);
    bytes = slice("hello");
    RETURNS(QS_INVALID_ARGUMENT, qs_scan_next(scan, &bytes, &bytes));
    CHECK(strcmp(qs_last_error(), "key and value are the same place") == 0);
    bytes.data = NULL;
    bytes.size = 0;
    CHECK(IS_EMPTY(bytes));

    RETURNS(QS_INVALID_ARGUMENT, qs_index(db, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_status(db, NULL));
    RETURNS(QS_OK, qs_wait(db, 1, 0, NULL));

    RETURNS(QS_INVALID_ARGUMENT, qs_changes_open(db, 0, NULL, 0, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_changes_open(db, 0, NULL, 5, &out_changes));
    CHECK(out_changes == NULL && strcmp(qs_last_error(), "prefix is NULL") == 0);
    RETURNS(QS_INVALID_ARGUMENT, qs_changes_next(changes, 0, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_changes_position(changes, NULL));
}

static void keys_out_of_bounds_are_refused(void *const handles[KINDS])
{
    qs_db *db = handles[DB];
    qs_snapshot *snapshot = handles[SNAPSHOT];
    qs_scan_options options = QS_SCAN_OPTIONS_INIT;
    qs_changes *changes;
    qs_scan *scan;
    char key[QS_KEY_MAX_BYTES + 1];
    qs_slice bytes, other;
    qs_value value;
    size_t size;

    memset(key, 'k', sizeof key);
    RETURNS(QS_NOT_FOUND, qs_get(db, key, QS_KEY_MAX_BYTES, &value));
    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, key, QS_KEY_MAX_BYTES + 1, &value));
    CHECK(IS_EMPTY(value) && strstr(qs_last_error(), "512 bytes") != NULL);
    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, key, SIZE_MAX, &value));
    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, key, 0, &value));
    RETURNS(QS_INVALID_ARGUMENT, qs_get_into(db, key, sizeof key, NULL, 0, &size));
    RETURNS(QS_INVALID_ARGUMENT, qs_snapshot_get(snapshot, key, sizeof key, &bytes));
    RETURNS(QS_INVALID_ARGUMENT, qs_snapshot_get(snapshot, key, 0, &bytes));
    RETURNS(QS_INVALID_ARGUMENT, qs_changes_open(db, 0, key, sizeof key, &changes));

    options.prefix.data = (const uint8_t *)key;
    options.prefix.size = QS_KEY_MAX_BYTES;
    RETURNS(QS_OK, qs_scan_begin(snapshot, &options, &scan));
    RETURNS(QS_NOT_FOUND, qs_scan_next(scan, &bytes, &other));
    RETURNS(QS_OK, qs_scan_end(scan));
    options.prefix.size = sizeof key;
    RETURNS(QS_INVALID_ARGUMENT, qs_scan_begin(snapshot, &options, &scan));
    CHECK(strstr(qs_last_error(), "options->prefix") != NULL);
    options.prefix.size = 0;
    options.from.size = 1;
    RETURNS(QS_INVALID_ARGUMENT, qs_scan_begin(snapshot, &options, &scan));
    CHECK(strcmp(qs_last_error(), "options->from is NULL") == 0);
    options.from.size = 0;
    options.flags = 8;
    RETURNS(QS_INVALID_ARGUMENT, qs_scan_begin(snapshot, &options, &scan));
    CHECK(scan == NULL && strstr(qs_last_error(), "flags") != NULL);
}

static void a_structure_of_the_wrong_size_is_refused(const char *dir, void *const handles[KINDS])
{
    qs_open_options open_options = QS_OPEN_OPTIONS_INIT;
    qs_scan_options scan_options = QS_SCAN_OPTIONS_INIT;
    qs_db_status status = QS_DB_STATUS_INIT;
    qs_change change = QS_CHANGE_INIT;
    static const size_t wrong[] = {0, 1, 8, 16, 4097, SIZE_MAX};
    qs_db *db;
    qs_scan *scan;
    size_t n;

    for (n = 0; n < sizeof wrong / sizeof wrong[0]; n++) {
        open_options.size = scan_options.size = status.size = change.size = wrong[n];
        RETURNS(QS_INVALID_ARGUMENT, qs_open(dir, &open_options, &db));
        CHECK(strstr(qs_last_error(), "QS_OPEN_OPTIONS_INIT") != NULL);
        RETURNS(QS_INVALID_ARGUMENT,
                qs_scan_begin(handles[SNAPSHOT], &scan_options, &scan));
        CHECK(strstr(qs_last_error(), "QS_SCAN_OPTIONS_INIT") != NULL);
        RETURNS(QS_INVALID_ARGUMENT, qs_status(handles[DB], &status));
        CHECK(strstr(qs_last_error(), "QS_DB_STATUS_INIT") != NULL);
        RETURNS(QS_INVALID_ARGUMENT, qs_changes_next(handles[CHANGES], 0, &change));
        CHECK(strstr(qs_last_error(), "QS_CHANGE_INIT") != NULL);
    }
}

static void what_cannot_be_opened_says_why(const char *dir)
{
    qs_open_options options = QS_OPEN_OPTIONS_INIT;
    qs_db *db;

    RETURNS(QS_NO_DATABASE, qs_open("/nonexistent", NULL, &db));
    CHECK(db == NULL && strstr(qs_last_error(), "/nonexistent") != NULL);
    options.wait_ms = 30;
    RETURNS(QS_NO_DATABASE, qs_open("/nonexistent", &options, &db));
    options.db_id = "not an id";
    RETURNS(QS_INVALID_ARGUMENT, qs_open(dir, &options, &db));
    options.db_id = "00000000-0000-4000-8000-000000000000";
    RETURNS(QS_WRONG_DATABASE, qs_open(dir, &options, &db));
    CHECK(db == NULL);
}

int main(int argc, char **argv)
{
    void *handles[KINDS], *closed[KINDS];

    if (argc != 2) {
        fprintf(stderr, "usage: %s DIR\n", argv[0]);
        return 2;
    }
    what_is_no_handle_is_refused();
    open_one_of_each(argv[1], closed);
    close_each(closed);
    a_closed_handle_stays_closed(argv[1], closed);
    open_one_of_each(argv[1], handles);
    a_handle_of_another_kind_is_refused(handles);
    a_forked_child_is_told(handles, closed);
    every_other_null_is_refused(argv[1], handles);
    keys_out_of_bounds_are_refused(handles);
    a_structure_of_the_wrong_size_is_refused(argv[1], handles);
    close_each(handles);
    what_cannot_be_opened_says_why(argv[1]);
    puts("all is well");
    return 0;
}
