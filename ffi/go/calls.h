/*
 * The calls of libquicksilver in the form in which Go makes them:
 *
 *   - A failure comes with its message. qs_last_error belongs to the thread, and by its next call
 *     a goroutine may be on another one.
 *   - A handle is a number. The library gives it the guise of a pointer, which Go's collector
 *     would take for one.
 *   - Answers are returned by value: memory of Go's that C writes to has to be on the heap.
 *   - No pointer leads to a pointer into Go's memory.
 */
#ifndef QUICKSILVER_GO_CALLS_H
#define QUICKSILVER_GO_CALLS_H

#include <stdlib.h>
#include <string.h>

#include <quicksilver.h>

/* How a call ended. */
typedef struct {
    qs_result code;
    /* Why it failed; NULL when it did not. The caller frees it. */
    char *message;
} call_end;

/* Of a call that gives a number: a handle, a size or an index. */
typedef struct {
    call_end end;
    uint64_t number;
} call_number;

typedef struct {
    call_end end;
    uintptr_t handle;
    uint64_t index;
} call_snapshot;

typedef struct {
    call_end end;
    qs_slice value;
} call_value;

/* The values, and the array, are the caller's: call_values_free. */
typedef struct {
    call_end end;
    qs_value *values;
} call_values;

typedef struct {
    call_end end;
    qs_slice key, value;
} call_pair;

typedef struct {
    call_end end;
    qs_change change;
} call_change;

static inline call_end call_ended(qs_result code)
{
    call_end end = {code, NULL};

    switch (code) {
    case QS_OK:
    case QS_NOT_FOUND:
    case QS_TOO_SMALL:
    case QS_TIMEOUT:
        break; /* no failures: the last error is another call's */
    default:
        end.message = strdup(qs_last_error());
    }
    return end;
}

static inline call_number call_open(const char *dir, const char *db_id, int64_t wait_ms)
{
    qs_open_options options = QS_OPEN_OPTIONS_INIT;
    qs_db *db;
    call_number answer;

    options.db_id = db_id;
    options.wait_ms = wait_ms;
    answer.end = call_ended(qs_open(dir, &options, &db));
    answer.number = (uintptr_t)db;
    return answer;
}

static inline call_end call_close(uintptr_t db)
{
    return call_ended(qs_close((qs_db *)db));
}

static inline call_number call_get_into(uintptr_t db, const uint8_t *key, size_t key_size,
                                        uint8_t *buffer, size_t capacity)
{
    call_number answer;
    size_t size;

    answer.end = call_ended(qs_get_into((qs_db *)db, key, key_size, buffer, capacity, &size));
    answer.number = size;
    return answer;
}

/* The keys lie one behind the other. */
static inline call_values call_multi_get(uintptr_t db, const uint8_t *keys, const size_t *sizes,
                                         size_t count)
{
    call_values answer = {{QS_NO_MEMORY, NULL}, NULL};
    qs_slice *slices = calloc(count, sizeof *slices);
    size_t n;

    answer.values = calloc(count, sizeof *answer.values);
    if (slices != NULL && answer.values != NULL) {
        for (n = 0; n < count; n++) {
            slices[n].data = keys;
            slices[n].size = sizes[n];
            keys += sizes[n];
        }
        answer.end = call_ended(qs_multi_get((qs_db *)db, slices, count, answer.values));
    }
    free(slices);
    return answer;
}

static inline void call_values_free(qs_value *values, size_t count)
{
    size_t n;

    for (n = 0; values != NULL && n < count; n++)
        qs_value_free(&values[n]);
    free(values);
}

static inline call_number call_index(uintptr_t db)
{
    call_number answer;

    answer.end = call_ended(qs_index((qs_db *)db, &answer.number));
    return answer;
}

static inline call_end call_wait(uintptr_t db, uint64_t index, int64_t timeout_ms)
{
    return call_ended(qs_wait((qs_db *)db, index, timeout_ms, NULL));
}

static inline call_end call_status(uintptr_t db, qs_db_status *status)
{
    *status = (qs_db_status)QS_DB_STATUS_INIT;
    return call_ended(qs_status((qs_db *)db, status));
}

static inline call_snapshot call_snapshot_begin(uintptr_t db)
{
    call_snapshot answer = {{QS_OK, NULL}, 0, 0};
    qs_snapshot *snapshot;
    qs_result result = qs_snapshot_begin((qs_db *)db, &snapshot);

    if (result == QS_OK)
        result = qs_snapshot_index(snapshot, &answer.index);
    answer.end = call_ended(result);
    answer.handle = (uintptr_t)snapshot;
    return answer;
}

static inline call_value call_snapshot_get(uintptr_t snapshot, const uint8_t *key, size_t key_size)
{
    call_value answer;

    answer.end = call_ended(
        qs_snapshot_get((qs_snapshot *)snapshot, key, key_size, &answer.value));
    return answer;
}

static inline call_end call_snapshot_end(uintptr_t snapshot)
{
    return call_ended(qs_snapshot_end((qs_snapshot *)snapshot));
}

static inline call_number call_scan_begin(uintptr_t snapshot, uint64_t flags, uint64_t limit,
                                          const uint8_t *prefix, size_t prefix_size,
                                          const uint8_t *from, size_t from_size,
                                          const uint8_t *to, size_t to_size)
{
    qs_scan_options options = QS_SCAN_OPTIONS_INIT;
    qs_scan *scan;
    call_number answer;

    options.flags = flags;
    options.limit = limit;
    options.prefix = (qs_slice){prefix, prefix_size};
    options.from = (qs_slice){from, from_size};
    options.to = (qs_slice){to, to_size};
    answer.end = call_ended(qs_scan_begin((qs_snapshot *)snapshot, &options, &scan));
    answer.number = (uintptr_t)scan;
    return answer;
}

static inline call_pair call_scan_next(uintptr_t scan)
{
    call_pair answer;

    answer.end = call_ended(qs_scan_next((qs_scan *)scan, &answer.key, &answer.value));
    return answer;
}

static inline call_end call_scan_end(uintptr_t scan)
{
    return call_ended(qs_scan_end((qs_scan *)scan));
}

static inline call_number call_changes_open(uintptr_t db, uint64_t after, const uint8_t *prefix,
                                            size_t prefix_size)
{
    qs_changes *changes;
    call_number answer;

    answer.end = call_ended(qs_changes_open((qs_db *)db, after, prefix, prefix_size, &changes));
    answer.number = (uintptr_t)changes;
    return answer;
}

static inline call_change call_changes_next(uintptr_t changes, int64_t timeout_ms)
{
    call_change answer = {{QS_OK, NULL}, QS_CHANGE_INIT};

    answer.end = call_ended(qs_changes_next((qs_changes *)changes, timeout_ms, &answer.change));
    return answer;
}

static inline call_number call_changes_position(uintptr_t changes)
{
    call_number answer;

    answer.end = call_ended(qs_changes_position((qs_changes *)changes, &answer.number));
    return answer;
}

static inline call_end call_changes_close(uintptr_t changes)
{
    return call_ended(qs_changes_close((qs_changes *)changes));
}

#endif
