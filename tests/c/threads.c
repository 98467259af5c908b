/*
 * Many threads use a handle while one of them closes it: each call does what it should or returns
 * QS_CLOSED, calls that wait are ended, and closing takes no longer than they.
 *
 *     threads DIR
 *
 * See reader.c for who runs it.
 */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FORK_THREADS = 4, FORKS = 20 };
enum { THREADS = 4, ROUNDS = 5, CALLS_BEFORE_CLOSE = 200 };

/* A wait ends at once, not at its timeout. Generous: valgrind is slow, and machines are busy. */
enum { WAIT_MS = 600 * 1000, SOON_S = 60 };

static atomic_int calls_made;

static qs_result use_get(void *db)
{
    qs_value value;
    qs_result result = qs_get(db, "hello", 5, &value);

    if (result == QS_OK) {
        CHECK(HOLDS(value, "world"));
        RETURNS(QS_OK, qs_value_free(&value));
    }
    return result;
}

static qs_result use_get_into(void *db)
{
    char buffer[8];
    size_t size;
    qs_result result = qs_get_into(db, "hello", 5, buffer, sizeof buffer, &size);

    CHECK(result != QS_OK || (size == 5 && memcmp(buffer, "world", 5) == 0));
    return result;
}

static qs_result use_index(void *db)
{
    uint64_t index;
    qs_result result = qs_index(db, &index);

    CHECK(index == (result == QS_OK ? KEYS : 0));
    return result;
}

static qs_result use_snapshot_of(void *db)
{
    qs_snapshot *snapshot;
    qs_slice value;
    qs_result result = qs_snapshot_begin(db, &snapshot);

    if (result == QS_OK) {
        RETURNS(QS_OK, qs_snapshot_get(snapshot, "hello", 5, &value));
        CHECK(HOLDS(value, "world"));
        RETURNS(QS_OK, qs_snapshot_end(snapshot));
    }
    return result;
}

static qs_result use_wait(void *db)
{
    atomic_fetch_add(&calls_made, CALLS_BEFORE_CLOSE);
    return qs_wait(db, UINT64_MAX, WAIT_MS, NULL);
}

static qs_result use_snapshot(void *snapshot)
{
    qs_slice value;

    /* What it points to may be gone by now: another thread ends the snapshot. */
    return qs_snapshot_get(snapshot, "long", 4, &value);
}

static qs_result use_scan_of(void *snapshot)
{
    qs_scan *scan;
    qs_slice key, value;
    qs_result result = qs_scan_begin(snapshot, NULL, &scan);

    if (result == QS_OK) {
        RETURNS(QS_OK, qs_scan_next(scan, &key, &value));
        CHECK(memcmp(key.data, "bin\0ary", 7) == 0);
        RETURNS(QS_OK, qs_scan_end(scan));
    }
    return result;
}

static qs_result use_scan(void *scan)
{
    qs_slice key, value;
    qs_result result = qs_scan_next(scan, &key, &value);

    return result == QS_NOT_FOUND ? QS_OK : result;
}

static qs_result use_changes(void *changes)
{
    qs_change change = QS_CHANGE_INIT;

    atomic_fetch_add(&calls_made, CALLS_BEFORE_CLOSE);
    return qs_changes_next(changes, WAIT_MS, &change);
}

typedef struct {
    qs_result (*use)(void *handle);
    void *handle;
} job;

static void *use_until_closed(void *argument)
{
    const job *it = argument;
    qs_result result;

    while ((result = it->use(it->handle)) == QS_OK)
        atomic_fetch_add(&calls_made, 1);
    RETURNS(QS_CLOSED, result);
    return NULL;
}

/* Lets threads use a handle, each in one of the ways, closes it under them, and waits for them. */
static void close_under(void *handle, qs_result (*close)(void *), qs_result (*const uses[])(void *),
                        size_t use_count)
{
    pthread_t threads[THREADS];
    job jobs[THREADS];
    struct timespec begin, end;
    size_t n;

    atomic_store(&calls_made, 0);
    for (n = 0; n < THREADS; n++) {
        jobs[n].use = uses[n % use_count];
        jobs[n].handle = handle;
        CHECK(pthread_create(&threads[n], NULL, use_until_closed, &jobs[n]) == 0);
    }
    while (atomic_load(&calls_made) < CALLS_BEFORE_CLOSE)
        nanosleep(&(struct timespec){0, 100000}, NULL);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    RETURNS(QS_OK, close(handle));
    clock_gettime(CLOCK_MONOTONIC, &end);
    CHECK(end.tv_sec - begin.tv_sec < SOON_S);
    RETURNS(QS_CLOSED, close(handle));
    for (n = 0; n < THREADS; n++)
        CHECK(pthread_join(threads[n], NULL) == 0);
}

static qs_result close_db(void *db)
{
    return qs_close(db);
}

static qs_result end_snapshot(void *snapshot)
{
    return qs_snapshot_end(snapshot);
}

static qs_result end_scan(void *scan)
{
    return qs_scan_end(scan);
}

static qs_result close_changes(void *changes)
{
    return qs_changes_close(changes);
}

/* Several threads close one handle: one of them does. */
static atomic_int closed_by;

static void *close_it(void *db)
{
    qs_result result = qs_close(db);

    CHECK(result == QS_OK || result == QS_CLOSED);
    atomic_fetch_add(&closed_by, result == QS_OK);
    return NULL;
}

static void one_of_many_closes(const char *dir)
{
    pthread_t threads[THREADS];
    qs_db *db;
    int n;

    RETURNS(QS_OK, qs_open(dir, NULL, &db));
    atomic_store(&closed_by, 0);
    for (n = 0; n < THREADS; n++)
        CHECK(pthread_create(&threads[n], NULL, close_it, db) == 0);
    for (n = 0; n < THREADS; n++)
        CHECK(pthread_join(threads[n], NULL) == 0);
    CHECK(atomic_load(&closed_by) == 1);
}

#ifndef __SANITIZE_ADDRESS__
/* A child is told, whatever the threads of its parent were in the middle of, and waits for none of
 * them; and it can open the database itself. */
static void fork_under_threads(const char *dir)
{
    pthread_t threads[FORK_THREADS];
    job jobs[FORK_THREADS];
    qs_db *db;
    qs_snapshot *snapshot;
    qs_scan *scan;
    qs_changes *changes;
    int n, status;

    RETURNS(QS_OK, qs_open(dir, NULL, &db));
    RETURNS(QS_OK, qs_snapshot_begin(db, &snapshot));
    RETURNS(QS_OK, qs_scan_begin(snapshot, NULL, &scan));
    RETURNS(QS_OK, qs_changes_open(db, KEYS, NULL, 0, &changes));
    jobs[0] = (job){use_snapshot_of, db};
    jobs[1] = (job){use_scan_of, snapshot};
    jobs[2] = (job){use_scan, scan};
    jobs[3] = (job){use_changes, changes};
    for (n = 0; n < FORK_THREADS; n++)
        CHECK(pthread_create(&threads[n], NULL, use_until_closed, &jobs[n]) == 0);
    for (n = 0; n < FORKS; n++) {
        pid_t child = fork();

        CHECK(child >= 0);
        if (child == 0) {
            qs_db *mine;

            alarm(SOON_S); /* rather than for ever */
            RETURNS(QS_FORKED, use_get(db));
            RETURNS(QS_FORKED, use_index(db));
            RETURNS(QS_FORKED, use_snapshot_of(db));
            RETURNS(QS_FORKED, use_wait(db));
            RETURNS(QS_FORKED, use_snapshot(snapshot));
            RETURNS(QS_FORKED, use_scan_of(snapshot));
            RETURNS(QS_FORKED, use_scan(scan));
            RETURNS(QS_FORKED, use_changes(changes));
            RETURNS(QS_FORKED, qs_changes_close(changes));
            RETURNS(QS_FORKED, qs_scan_end(scan));
            RETURNS(QS_FORKED, qs_snapshot_end(snapshot));
            RETURNS(QS_FORKED, qs_close(db));
            RETURNS(QS_OK, qs_open(dir, NULL, &mine));
            RETURNS(QS_OK, use_get(mine));
            RETURNS(QS_OK, use_snapshot_of(mine));
            RETURNS(QS_OK, qs_close(mine));
            /* What the threads had that are not here is no leak: end without being asked. */
            kill(getpid(), SIGKILL);
        }
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    RETURNS(QS_OK, qs_close(db));
    RETURNS(QS_OK, qs_scan_end(scan));
    RETURNS(QS_OK, qs_snapshot_end(snapshot));
    RETURNS(QS_OK, qs_changes_close(changes));
    for (n = 0; n < FORK_THREADS; n++)
        CHECK(pthread_join(threads[n], NULL) == 0);
}
#endif

/* The last error is the thread's own, and the thread may end. */
static void *fail_alone(void *unused)
{
    CHECK(strcmp(qs_last_error(), "") == 0);
    RETURNS(QS_INVALID_ARGUMENT, qs_close(unused));
    CHECK(strcmp(qs_last_error(), "db is NULL") == 0);
    return NULL;
}

static void errors_are_the_threads_own(void)
{
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, fail_alone, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(strcmp(qs_last_error(), "") == 0);
}

int main(int argc, char **argv)
{
    static qs_result (*const of_db[])(void *) = {use_get, use_get_into, use_index, use_snapshot_of};
    static qs_result (*const of_waiting_db[])(void *) = {use_wait, use_get};
    static qs_result (*const of_snapshot[])(void *) = {use_snapshot, use_scan_of};
    static qs_result (*const of_scan[])(void *) = {use_scan};
    static qs_result (*const of_changes[])(void *) = {use_changes};
    int round;

    if (argc != 2) {
        fprintf(stderr, "usage: %s DIR\n", argv[0]);
        return 2;
    }
    errors_are_the_threads_own();
#ifndef __SANITIZE_ADDRESS__ /* its allocator's own locks stay locked in a child */
    fork_under_threads(argv[1]);
#endif
    for (round = 0; round < ROUNDS; round++) {
        qs_db *db;
        qs_snapshot *snapshot;
        qs_scan *scan;
        qs_changes *changes;

        RETURNS(QS_OK, qs_open(argv[1], NULL, &db));
        RETURNS(QS_OK, qs_snapshot_begin(db, &snapshot));
        RETURNS(QS_OK, qs_scan_begin(snapshot, NULL, &scan));
        RETURNS(QS_OK, qs_changes_open(db, KEYS, NULL, 0, &changes));
        close_under(changes, close_changes, of_changes, 1);
        close_under(scan, end_scan, of_scan, 1);
        close_under(snapshot, end_snapshot, of_snapshot, 2);
        close_under(db, close_db, of_db, 4);
        RETURNS(QS_OK, qs_open(argv[1], NULL, &db));
        close_under(db, close_db, of_waiting_db, 2);
        one_of_many_closes(argv[1]);
    }
    puts("all is well");
    return 0;
}
