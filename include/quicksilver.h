/*
 * Quicksilver: read configuration data straight out of shared memory.
 * Generated from ffi/src by ffi/tests/header.rs; do not edit.
 *
 *     qs_db *db;
 *     qs_value value;
 *     if (qs_open("/var/lib/quicksilver/dns", NULL, &db) != QS_OK)
 *         errx(1, "%s", qs_last_error());
 *     if (qs_get(db, "key", 3, &value) == QS_OK) {
 *         fwrite(value.data, 1, value.size, stdout);
 *         qs_value_free(&value);
 *     }
 *     qs_close(db);
 *
 * Conventions:
 *   - Every call returns a qs_result, except the three that return text and cannot fail.
 *   - Results go through pointers, and are empty (NULL, 0) after a failure.
 *   - NULL where something is needed is QS_INVALID_ARGUMENT; a handle that was closed is
 *     QS_CLOSED, for ever.
 *   - Every function may be called from every thread. No call unwinds or throws.
 *   - Memory of the library is returned to the library (qs_value_free), never to free().
 *   - A structure that is passed in begins with its size, so that programs that were compiled
 *     against an older header go on working.
 */

#ifndef QUICKSILVER_H
#define QUICKSILVER_H

#include <stddef.h>
#include <stdint.h>

/**
 * The first value of a qs_open_options.
 */
#define QS_OPEN_OPTIONS_INIT { sizeof(qs_open_options), NULL }

/**
 * Longest key, in bytes. The shortest has one.
 */
#define QS_KEY_MAX_BYTES 511

/**
 * What a call returns. The numbers are fixed: a code is never reused for something else. Later
 * releases may return codes that are not listed here; treat those as errors.
 */
typedef enum qs_result {
    /**
     * Done.
     */
    QS_OK = 0,
    /**
     * There is no such key. Not an error; `qs_last_error` is left as it was.
     */
    QS_NOT_FOUND = 1,
    /**
     * An argument is NULL where it must not be, or is out of its bounds.
     */
    QS_INVALID_ARGUMENT = 2,
    /**
     * The handle was closed.
     */
    QS_CLOSED = 3,
    /**
     * Stored data is damaged. No value was returned; see `qsctl verify`.
     */
    QS_CORRUPT = 4,
    /**
     * There is no database in that directory.
     */
    QS_NO_DATABASE = 5,
    /**
     * The process lacks a permission: readers need read access to the data file and read and
     * write access to the lock file.
     */
    QS_PERMISSION = 6,
    /**
     * The database is in a format that this library cannot read: upgrade the library.
     */
    QS_FORMAT = 7,
    /**
     * The handle was opened before `fork`; open the database again in the child.
     */
    QS_FORKED = 8,
    /**
     * The operating system refused; `qs_last_error` has its answer.
     */
    QS_IO = 9,
    /**
     * A bug in the library was caught at its boundary. The handle may still be used.
     */
    QS_PANIC = 10,
    /**
     * The directory holds another database than the one that was asked for.
     */
    QS_WRONG_DATABASE = 11,
    /**
     * This process has the database open already: share that handle.
     */
    QS_ALREADY_OPEN = 12,
    /**
     * All reader slots are taken, or the database stayed locked: try again later.
     */
    QS_BUSY = 13,
    /**
     * There was not enough memory or address space.
     */
    QS_NO_MEMORY = 14,
    /**
     * The database cannot be read in this environment: a read-only mount, a process with the
     * same number in another PID namespace, or an unsuitable LMDB library.
     */
    QS_UNSUPPORTED = 15,
} qs_result;

/**
 * An open database. Made by `qs_open`, ended by `qs_close`; every thread may use it.
 */
typedef struct qs_db qs_db;

/**
 * How to open a database. Start from `QS_OPEN_OPTIONS_INIT`, which sets `size`, and change what
 * you need: a program that was compiled against an older header goes on working.
 */
typedef struct qs_open_options {
    /**
     * `sizeof(qs_open_options)`.
     */
    size_t size;
    /**
     * The id of the database that must be there (a UUID in text form), or NULL for any.
     */
    const char *db_id;
} qs_open_options;

/**
 * A value that the caller owns until `qs_value_free`.
 */
typedef struct qs_value {
    /**
     * The value's bytes, followed by a NUL byte that is not part of it, so that a value that is
     * text can be used as a string. NULL when there is no value. Do not change.
     */
    const uint8_t *data;
    /**
     * How many bytes the value has. Do not change.
     */
    size_t size;
} qs_value;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Opens the database in the directory `dir`, the `data_dir` of a replicator, and stores a handle
 * in `*out`; NULL after a failure.
 *
 * The replicator need not run. A process opens a database once and shares the handle between its
 * threads; opening it again while it is open is `QS_ALREADY_OPEN`. After `fork` the handle is of
 * no use in the child: open the database there.
 *
 * Ownership: the handle is the caller's until `qs_close`. `dir` and `options` are not kept;
 * `options` may be NULL.
 *
 * What must hold:
 * `dir` is NULL or a NUL-terminated string. `options` is NULL, or points to as many readable
 * bytes as its `size` says. `out` is NULL or points to a pointer.
 */
enum qs_result qs_open(const char *dir, const struct qs_open_options *options, struct qs_db **out);

/**
 * Closes a handle. Calls that other threads have begun on it are waited for; calls that begin
 * later, and a second `qs_close`, return `QS_CLOSED`.
 *
 * Ownership: values that were got through the handle remain the caller's.
 *
 * What must hold:
 * `db` is NULL or came from `qs_open`; it may have been closed.
 */
enum qs_result qs_close(struct qs_db *db);

/**
 * Copies the value of the key of `key_size` bytes at `key` into new memory and describes it in
 * `*value`. Keys and values are bytes, and may contain NUL. Without such a key it returns
 * `QS_NOT_FOUND`; whatever is not `QS_OK` leaves `*value` empty.
 *
 * Ownership: the value is the caller's, also after `qs_close`; end it with `qs_value_free`. What
 * `*value` held before is overwritten, not freed.
 *
 * What must hold:
 * `db` is NULL or came from `qs_open`. `key` is NULL or points to `key_size` readable bytes.
 * `value` is NULL or points to a `qs_value`.
 */
enum qs_result qs_get(const struct qs_db *db,
                      const void *key,
                      size_t key_size,
                      struct qs_value *value);

/**
 * Ends a value: frees its bytes and makes `*value` empty. A value that is empty, or NULL, is
 * fine and does nothing, so freeing the same `qs_value` twice is harmless.
 *
 * What must hold:
 * `value` is NULL, or points to a `qs_value` that is zeroed or was written by this library and
 * not changed since. A copy of one that was freed must not be freed.
 */
enum qs_result qs_value_free(struct qs_value *value);

/**
 * Stores the index of the last entry that is visible here in `*index`; 0 when the database has
 * had none. It costs a few nanoseconds: "is there anything new?" may be asked on every request.
 *
 * What must hold:
 * `db` is NULL or came from `qs_open`. `index` is NULL or points to a `uint64_t`.
 */
enum qs_result qs_index(const struct qs_db *db, uint64_t *index);

/**
 * Why the calling thread's last failed call failed, for people: it names the directory, the key,
 * what was found and what to do. Empty when none has failed; never NULL. `QS_OK` and
 * `QS_NOT_FOUND` leave it as it was.
 *
 * Ownership: the library's. It is valid until the next call of this thread that fails, and until
 * the thread ends: copy it to keep it.
 */
const char *qs_last_error(void);

/**
 * A code in a few words; never NULL, also for numbers that mean nothing.
 *
 * Ownership: static.
 */
const char *qs_strerror(int result);

/**
 * The library's version, as in "1.2.3".
 *
 * Ownership: static.
 */
const char *qs_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* QUICKSILVER_H */
