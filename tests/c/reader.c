/*
 * What a C program does with libquicksilver, right and wrong.
 *
 *     reader DIR
 *
 * ffi/tests/c_program.rs makes the database in DIR, builds this against the shared and the static
 * library, and runs it plain, under AddressSanitizer and under valgrind.
 */
#include "check.h"
#include "quicksilver.h"
#include "quicksilver.h" /* twice: the header guards itself */

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LONG_BYTES = 1 << 20, READER_THREADS = 4 };

static void text_is_there(void)
{
    CHECK(strchr(qs_version(), '.') != NULL);
    CHECK(strcmp(qs_last_error(), "") == 0);
    CHECK(strcmp(qs_strerror(QS_OK), "ok") == 0);
    CHECK(strcmp(qs_strerror(-7), "unknown result code") == 0);
    CHECK(strcmp(qs_strerror(12345), "unknown result code") == 0);
}

static void values_come_back(qs_db *db)
{
    qs_value value;
    size_t n;

    RETURNS(QS_OK, qs_get(db, "hello", 5, &value));
    CHECK(value.size == 5 && strcmp((const char *)value.data, "world") == 0);
    RETURNS(QS_OK, qs_value_free(&value));
    CHECK(value.data == NULL && value.size == 0);
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

static void missing_keys_are_not_errors(qs_db *db)
{
    qs_value value;
    uint64_t index = 0;

    RETURNS(QS_NOT_FOUND, qs_get(db, "nobody", 6, &value));
    CHECK(value.data == NULL && value.size == 0);
    RETURNS(QS_NOT_FOUND, qs_get(db, "bin", 3, &value));
    CHECK(strcmp(qs_last_error(), "") == 0);
    RETURNS(QS_OK, qs_index(db, &index));
    CHECK(index == 4);
}

static void keys_out_of_bounds(qs_db *db)
{
    char key[QS_KEY_MAX_BYTES + 1];
    qs_value value;

    memset(key, 'k', sizeof key);
    RETURNS(QS_NOT_FOUND, qs_get(db, key, QS_KEY_MAX_BYTES, &value));
    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, key, QS_KEY_MAX_BYTES + 1, &value));
    CHECK(strstr(qs_last_error(), "512 bytes") != NULL);
    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, key, (size_t)-1, &value));
    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, key, 0, &value));
    CHECK(value.data == NULL && value.size == 0);
}

static void every_null(const char *dir, qs_db *db)
{
    qs_open_options options = QS_OPEN_OPTIONS_INIT;
    qs_db *out = db;
    qs_value value;
    uint64_t index;

    RETURNS(QS_INVALID_ARGUMENT, qs_open(NULL, NULL, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_open(NULL, &options, &out));
    CHECK(out == NULL);
    RETURNS(QS_INVALID_ARGUMENT, qs_open(dir, &options, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_get(NULL, NULL, 0, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_get(NULL, "hello", 5, &value));
    CHECK(strcmp(qs_last_error(), "db is NULL") == 0);
    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, NULL, 5, &value));
    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, NULL, 0, &value));
    CHECK(value.data == NULL && value.size == 0);
    RETURNS(QS_INVALID_ARGUMENT, qs_get(db, "hello", 5, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_index(NULL, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_index(NULL, &index));
    RETURNS(QS_INVALID_ARGUMENT, qs_index(db, NULL));
    RETURNS(QS_INVALID_ARGUMENT, qs_close(NULL));
    RETURNS(QS_OK, qs_value_free(NULL));
}

static void options_are_checked(const char *dir)
{
    qs_open_options options = QS_OPEN_OPTIONS_INIT;
    qs_db *out;

    RETURNS(QS_NO_DATABASE, qs_open("/nonexistent", NULL, &out));
    CHECK(strstr(qs_last_error(), "/nonexistent") != NULL);
    options.db_id = "not an id";
    RETURNS(QS_INVALID_ARGUMENT, qs_open(dir, &options, &out));
    options.db_id = "00000000-0000-4000-8000-000000000000";
    RETURNS(QS_WRONG_DATABASE, qs_open(dir, &options, &out));
    options.db_id = NULL;
    options.size = 1;
    RETURNS(QS_INVALID_ARGUMENT, qs_open(dir, &options, &out));
    CHECK(out == NULL);
}

static void a_child_has_to_open_again(const char *dir, qs_db *db)
{
    int status = 0;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        qs_db *mine;
        qs_value value;
        RETURNS(QS_FORKED, qs_get(db, "hello", 5, &value));
        RETURNS(QS_FORKED, qs_close(db));
        RETURNS(QS_OK, qs_open(dir, NULL, &mine));
        RETURNS(QS_OK, qs_get(mine, "hello", 5, &value));
        RETURNS(QS_OK, qs_value_free(&value));
        RETURNS(QS_OK, qs_close(mine));
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void *read_until_closed(void *argument)
{
    qs_db *db = argument;
    qs_value value;
    qs_result result;
    long count;

    for (count = 0; (result = qs_get(db, "hello", 5, &value)) == QS_OK; count++) {
        CHECK(value.size == 5 && memcmp(value.data, "world", 5) == 0);
        RETURNS(QS_OK, qs_value_free(&value));
    }
    RETURNS(QS_CLOSED, result);
    return NULL;
}

static void closing_under_readers(qs_db *db)
{
    pthread_t threads[READER_THREADS];
    qs_value value;
    int n;

    for (n = 0; n < READER_THREADS; n++)
        CHECK(pthread_create(&threads[n], NULL, read_until_closed, db) == 0);
    for (n = 0; n < 1000; n++) {
        RETURNS(QS_OK, qs_get(db, "hello", 5, &value));
        RETURNS(QS_OK, qs_value_free(&value));
    }
    RETURNS(QS_OK, qs_close(db));
    for (n = 0; n < READER_THREADS; n++)
        CHECK(pthread_join(threads[n], NULL) == 0);
}

static void use_after_close(const char *dir, qs_db *db, qs_value *kept)
{
    qs_db *again;
    qs_value value;
    uint64_t index = 7;
    int n;

    RETURNS(QS_OK, qs_open(dir, NULL, &again));
    CHECK(again != db);
    for (n = 0; n < 3; n++) {
        RETURNS(QS_CLOSED, qs_get(db, "hello", 5, &value));
        CHECK(value.data == NULL && value.size == 0);
        RETURNS(QS_CLOSED, qs_index(db, &index));
        CHECK(index == 0);
        RETURNS(QS_CLOSED, qs_close(db));
    }
    RETURNS(QS_OK, qs_close(again));
    /* A value outlives its handle. */
    CHECK(strcmp((const char *)kept->data, "world") == 0);
    RETURNS(QS_OK, qs_value_free(kept));
}

int main(int argc, char **argv)
{
    qs_open_options options = QS_OPEN_OPTIONS_INIT;
    qs_db *db, *second;
    qs_value kept;

    if (argc != 2) {
        fprintf(stderr, "usage: %s DIR\n", argv[0]);
        return 2;
    }
    text_is_there();
    RETURNS(QS_OK, qs_open(argv[1], &options, &db));
    values_come_back(db);
    missing_keys_are_not_errors(db);
    keys_out_of_bounds(db);
    every_null(argv[1], db);
    RETURNS(QS_ALREADY_OPEN, qs_open(argv[1], NULL, &second));
    a_child_has_to_open_again(argv[1], db);
    RETURNS(QS_OK, qs_get(db, "hello", 5, &kept));
    closing_under_readers(db);
    use_after_close(argv[1], db, &kept);
    options_are_checked(argv[1]);
    puts("all is well");
    return 0;
}
