/*
 * Waits for a database, then for an index in it, and prints a value.
 *
 *     live DIR INDEX KEY
 *
 * tests/tests/c_programs.rs runs it beside replicators.
 */
#include "check.h"

enum { LONG_ENOUGH_MS = 60 * 1000, LOOKS = 2000 };

int main(int argc, char **argv)
{
    qs_open_options options = QS_OPEN_OPTIONS_INIT;
    qs_db_status status = QS_DB_STATUS_INIT;
    qs_db *db;
    qs_value value;
    uint64_t index, now;

    if (argc != 4) {
        fprintf(stderr, "usage: %s DIR INDEX KEY\n", argv[0]);
        return 2;
    }
    index = strtoull(argv[2], NULL, 10);
    options.wait_ms = LONG_ENOUGH_MS;
    RETURNS(QS_OK, qs_open(argv[1], &options, &db));
    RETURNS(QS_OK, qs_wait(db, index, LONG_ENOUGH_MS, &now));
    CHECK(now >= index);
    RETURNS(QS_OK, qs_get(db, argv[3], strlen(argv[3]), &value));
    printf("%s\n", (const char *)value.data);
    RETURNS(QS_OK, qs_value_free(&value));
    RETURNS(QS_OK, qs_status(db, &status));
    CHECK(status.index >= index && status.replicator_pid > 0);
    /* The first batch may be visible a moment before the replicator says that it follows. */
    for (int looks = 0; status.state != QS_STATE_FOLLOWING && looks < LOOKS; looks++) {
        qs_wait(db, UINT64_MAX, 10, &now);
        RETURNS(QS_OK, qs_status(db, &status));
    }
    CHECK(status.state == QS_STATE_FOLLOWING);
    RETURNS(QS_OK, qs_close(db));
    return 0;
}
