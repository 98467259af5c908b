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
 *   - Results. Every call returns a qs_result, except the three that return text and cannot
 *     fail. What it gives goes through pointers, and is empty (NULL, 0) unless the call returns
 *     QS_OK; exceptions are documented. qs_last_error says more about a failure.
 *   - Arguments. NULL where something is needed is QS_INVALID_ARGUMENT, never a crash.
 *   - Handles (qs_db, qs_snapshot, qs_scan, qs_changes) are numbers in the guise of pointers: do
 *     not look behind them. One that was closed is QS_CLOSED, for ever; one of another kind, or
 *     something else, is QS_INVALID_ARGUMENT; one that was made before fork is QS_FORKED.
 *   - Threads. Every function may be called from every thread. Calls on one qs_db run side by
 *     side; calls on one qs_snapshot, qs_scan or qs_changes wait for each other. Closing waits
 *     for the calls that run.
 *   - Blocking. A call waits for something only where its comment says "Blocks".
 *   - Ownership. Memory of the library is returned to the library (qs_value_free), never to
 *     free(). What a qs_slice shows is the library's, for as long as the call's comment says.
 *   - No call unwinds or throws. None may be made in a signal handler, and no thread may be
 *     cancelled (pthread_cancel) in one.
 *   - A structure with a `size` begins with it, so that programs that were compiled against an
 *     older header go on working. Begin with its ..._INIT.
 */

#ifndef QUICKSILVER_H
#define QUICKSILVER_H

#include <stddef.h>
#include <stdint.h>

/**
 * The first value of a qs_open_options.
 */
#define QS_OPEN_OPTIONS_INIT { sizeof(qs_open_options), NULL, 0 }

/**
 * The first value of a qs_scan_options.
 */
#define QS_SCAN_OPTIONS_INIT \
    { sizeof(qs_scan_options), 0, { NULL, 0 }, { NULL, 0 }, { NULL, 0 }, 0 }

/**
 * The first value of a qs_db_status.
 */
#define QS_DB_STATUS_INIT \
    { sizeof(qs_db_status), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, { 0 }, { 0 }, { 0 }, { 0 } }

/**
 * The first value of a qs_change.
 */
#define QS_CHANGE_INIT { sizeof(qs_change), 0, 0, { NULL, 0 }, { NULL, 0 } }

/**
 * Longest key, in bytes. The shortest has one.
 */
#define QS_KEY_MAX_BYTES 511

/**
 * `qs_scan_options.flags`: from the last pair to the first.
 */
#define QS_SCAN_BACKWARD 1

/**
 * `qs_scan_options.flags`: leave the key `from` itself out.
 */
#define QS_SCAN_FROM_EXCLUDED 2

/**
 * `qs_scan_options.flags`: take the key `to` itself in.
 */
#define QS_SCAN_TO_INCLUDED 4

/**
 * Bytes of an id as text: 36 characters, and NULs.
 */
#define QS_ID_BYTES 40

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
     * There is no such key, or no further pair. Not an error; `qs_last_error` is left as it was.
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
     * Another copy of the library in this process has the database open: use one copy.
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
     * The database cannot be read in this environment: a read-only mount, a network file system,
     * a process with the same number in another PID namespace, or an unsuitable LMDB library.
     */
    QS_UNSUPPORTED = 15,
    /**
     * The value is longer than the buffer; how long was stored. Not an error; `qs_last_error` is
     * left as it was.
     */
    QS_TOO_SMALL = 16,
    /**
     * Nothing came within the time. Not an error; `qs_last_error` is left as it was.
     */
    QS_TIMEOUT = 17,
    /**
     * An older copy of the database was put in its place; the handle has seen newer data. It goes
     * on when the replicator has caught up, or open the database anew.
     */
    QS_BEHIND = 18,
} qs_result;

/**
 * What a replicator is doing. Later releases may say more.
 */
typedef enum qs_state {
    /**
     * Nobody knows: no replicator has run here yet, or it is of a later release that says another word.
     */
    QS_STATE_UNKNOWN = 0,
    /**
     * Opening its environment.
     */
    QS_STATE_STARTING = 1,
    /**
     * A root that accepts writes.
     */
    QS_STATE_ROOT = 2,
    /**
     * Following an upstream.
     */
    QS_STATE_FOLLOWING = 3,
    /**
     * Without an upstream, serving what it has.
     */
    QS_STATE_DISCONNECTED = 4,
    /**
     * Its log differs from its upstream's: applies nothing, serves what it has.
     */
    QS_STATE_DIVERGED = 5,
    /**
     * Its storage failed: applies nothing, serves what it has.
     */
    QS_STATE_FAILED = 6,
    /**
     * Left in good order.
     */
    QS_STATE_STOPPED = 7,
} qs_state;

/**
 * What a change is.
 */
typedef enum qs_change_kind {
    /**
     * No change: what is left after a call that did not return one.
     */
    QS_CHANGE_NONE = 0,
    /**
     * The key has this value from this index on.
     */
    QS_CHANGE_SET = 1,
    /**
     * The key is gone from this index on.
     */
    QS_CHANGE_DEL = 2,
    /**
     * Changes are missing: the feed fell behind what the log keeps, or the database was restored
     * to another past. Begin a new snapshot, read again what you need from it, and go on: the
     * feed continues behind `index`. What the snapshot shows already may come once more.
     */
    QS_CHANGE_RESCAN = 3,
} qs_change_kind;

/**
 * What changes in a database, entry by entry. Made by `qs_changes_open`, ended by
 * `qs_changes_close`. One thread at a time: what `qs_changes_next` gave is valid until it is
 * called again.
 */
typedef struct qs_changes qs_changes;

/**
 * An open database. Made by `qs_open`, ended by `qs_close`; any number of threads may use it at
 * the same time.
 */
typedef struct qs_db qs_db;

/**
 * A walk over the pairs of a snapshot. Made by `qs_scan_begin`, ended by `qs_scan_end`. One
 * thread at a time: what `qs_scan_next` gave is valid until it is called again.
 */
typedef struct qs_scan qs_scan;

/**
 * One moment of a database, in which nothing changes. Made by `qs_snapshot_begin`, ended by
 * `qs_snapshot_end`. It may go from thread to thread; calls of several threads wait for each
 * other.
 */
typedef struct qs_snapshot qs_snapshot;

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
    /**
     * How long to wait for a database that is not there yet, in milliseconds: 0 not at all,
     * negative without end. A replicator that starts for the first time makes it within a
     * second or two.
     */
    int64_t wait_ms;
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

/**
 * Bytes that belong to somebody else. On the way in they are the caller's and need last only
 * as long as the call; on the way out they are the library's, and each function says for how
 * long. There is no NUL behind them.
 */
typedef struct qs_slice {
    /**
     * The first byte; may be NULL when `size` is 0.
     */
    const uint8_t *data;
    /**
     * How many bytes.
     */
    size_t size;
} qs_slice;

/**
 * Which pairs, and in which order. Start from `QS_SCAN_OPTIONS_INIT`, which means all of them in
 * key order (byte by byte), and change what you need. What is given together holds together.
 */
typedef struct qs_scan_options {
    /**
     * `sizeof(qs_scan_options)`.
     */
    size_t size;
    /**
     * `QS_SCAN_BACKWARD`, `QS_SCAN_FROM_EXCLUDED`, `QS_SCAN_TO_INCLUDED`, added; 0 for none.
     */
    uint64_t flags;
    /**
     * Only keys that begin with these bytes; all when empty.
     */
    struct qs_slice prefix;
    /**
     * Only keys that are not before this one; all when empty.
     */
    struct qs_slice from;
    /**
     * Only keys before this one; all when empty.
     */
    struct qs_slice to;
    /**
     * At most so many pairs; 0 for any number.
     */
    uint64_t limit;
} qs_scan_options;

/**
 * What a database says about itself and its replicator. Start from `QS_DB_STATUS_INIT`, which
 * sets `size`. Times are microseconds since 1970, UTC; 0 when unknown.
 */
typedef struct qs_db_status {
    /**
     * `sizeof(qs_db_status)`.
     */
    size_t size;
    /**
     * Index of the last entry that is visible here; 0 before the first.
     */
    uint64_t index;
    /**
     * Index of the oldest entry that is still in the log: a feed that begins before it is told to
     * rescan. One more than `index` when the log is empty.
     */
    uint64_t oldest_index;
    /**
     * Which generation of the files is read.
     */
    uint64_t generation;
    /**
     * Number of keys.
     */
    uint64_t keys;
    /**
     * Bytes of all keys and values.
     */
    uint64_t bytes;
    /**
     * When the root made the last batch that is visible here.
     */
    uint64_t sealed_at_us;
    /**
     * When that batch became visible here.
     */
    uint64_t committed_at_us;
    /**
     * The root's clock, as last heard here: everything that was written before is visible.
     */
    uint64_t heartbeat_us;
    /**
     * How long ago that was, by this machine's clock: the age of the data. Never negative; -1
     * when unknown.
     */
    int64_t lag_ms;
    /**
     * When the replicator started.
     */
    uint64_t started_at_us;
    /**
     * The replicator's process id, in its own namespace; 0 when unknown.
     */
    uint64_t replicator_pid;
    /**
     * What it does: a `qs_state`.
     */
    uint64_t state;
    /**
     * Hash over all entries up to `index`: the same on every machine. Its bytes in this order
     * are what `/status` and `qsctl status` print in hexadecimal.
     */
    uint8_t hash[32];
    /**
     * Digest of all pairs at `index`: the same on every machine. As with `hash`.
     */
    uint8_t digest[16];
    /**
     * The database's id, text that ends with NUL.
     */
    char db_id[QS_ID_BYTES];
    /**
     * Which of the database's pasts this is, text that ends with NUL: another one after the
     * database was restored.
     */
    char history[QS_ID_BYTES];
} qs_db_status;

/**
 * One change. Start from `QS_CHANGE_INIT`, which sets `size`.
 */
typedef struct qs_change {
    /**
     * `sizeof(qs_change)`.
     */
    size_t size;
    /**
     * A `qs_change_kind`; treat numbers that you do not know as `QS_CHANGE_RESCAN`.
     */
    uint64_t kind;
    /**
     * The entry's index: its place in the order of all writes to the database.
     */
    uint64_t index;
    /**
     * The key; empty for `QS_CHANGE_RESCAN`.
     */
    struct qs_slice key;
    /**
     * The value of a `QS_CHANGE_SET`; else empty.
     */
    struct qs_slice value;
} qs_change;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Opens the database in the directory `dir`, the `data_dir` of a replicator, and stores a handle
 * in `*out`; NULL after a failure.
 *
 * The replicator need not run: what it left is readable. When it makes a new generation of the
 * files the handle follows. One handle serves all threads: open a database once, at the start;
 * opening it once more shares what is open, and gives a handle of its own. After `fork` the
 * handles are of no use in the child, which opens the database itself.
 *
 * Ownership: the handle is the caller's until `qs_close`. `dir` and `options` are not kept;
 * `options` may be NULL.
 *
 * Blocks: while another process opens or closes the same database, and up to
 * `options->wait_ms`.
 *
 * Returns: `QS_OK`; `QS_NO_DATABASE`, `QS_WRONG_DATABASE`, `QS_PERMISSION`, `QS_FORMAT`,
 * `QS_CORRUPT`, `QS_UNSUPPORTED`, `QS_ALREADY_OPEN`, `QS_BUSY`, `QS_NO_MEMORY`, `QS_IO`,
 * `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `dir` is NULL or a NUL-terminated string. `options` is NULL, or points to as many readable
 * bytes as its `size` says. `out` is NULL or points to a pointer.
 */
enum qs_result qs_open(const char *dir, const struct qs_open_options *options, struct qs_db **out);

/**
 * Closes a handle. Calls that begin later, and a second `qs_close`, return `QS_CLOSED`.
 *
 * Ownership: values that were got through the handle remain the caller's. Snapshots, scans and
 * change feeds go on until their own end.
 *
 * Blocks: until the calls that other threads have begun on the handle have ended. Those that
 * wait for something are ended, with `QS_CLOSED`, within a tenth of a second.
 *
 * Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * None: whatever `db` is, it is recognised by its number and not followed.
 */
enum qs_result qs_close(struct qs_db *db);

/**
 * Copies the value of the key of `key_size` bytes at `key` into new memory and describes it in
 * `*value`. Keys and values are bytes, and may contain NUL. Whatever is not `QS_OK` leaves
 * `*value` empty.
 *
 * Ownership: the value is the caller's, also after `qs_close`; end it with `qs_value_free`. What
 * `*value` held before is overwritten, not freed.
 *
 * Returns: `QS_OK`; `QS_NOT_FOUND`; `QS_CORRUPT`, `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`,
 * `QS_NO_MEMORY`, `QS_IO`, `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `key` is NULL or points to `key_size` readable bytes. `value` is NULL or points to a
 * `qs_value`.
 */
enum qs_result qs_get(const struct qs_db *db,
                      const void *key,
                      size_t key_size,
                      struct qs_value *value);

/**
 * Copies the value of a key into memory of the caller: the fastest way to read one.
 *
 * `*size` becomes the size of the value, also when it does not fit into the `capacity` bytes at
 * `buffer`: then the buffer is left as it was. With `capacity` 0 `buffer` may be NULL, and the
 * call tells the size. It becomes 0 when there is no value.
 *
 * Returns: `QS_OK`; `QS_NOT_FOUND`; `QS_TOO_SMALL`: try again with more room, in a loop, for
 * the next value may be longer; `QS_CORRUPT`, `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`, `QS_IO`,
 * `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `key` is NULL or points to `key_size` readable bytes. `size` is NULL or points to a `size_t`.
 * `buffer` is NULL or points to `capacity` writable bytes; neither of the two is among them.
 */
enum qs_result qs_get_into(const struct qs_db *db,
                           const void *key,
                           size_t key_size,
                           void *buffer,
                           size_t capacity,
                           size_t *size);

/**
 * Copies the values of `count` keys, all of one moment, into new memory: `values[n]` is that of
 * `keys[n]`, or empty (`data` is NULL) when there is no such key. That some keys are missing is
 * `QS_OK`; whatever else is returned leaves all values empty.
 *
 * Ownership: as with `qs_get`; each value is ended with `qs_value_free`.
 *
 * Returns: `QS_OK`; `QS_CORRUPT`, `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`, `QS_NO_MEMORY`, `QS_IO`,
 * `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `keys` points to `count` slices, each of which is readable, and `values` to as many
 * `qs_value`s; either may be NULL.
 */
enum qs_result qs_multi_get(const struct qs_db *db,
                            const struct qs_slice *keys,
                            size_t count,
                            struct qs_value *values);

/**
 * Ends a value: frees its bytes and makes `*value` empty. A value that is empty, or NULL, is
 * fine and does nothing, so freeing the same `qs_value` twice is harmless.
 *
 * Returns: `QS_OK`; `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `value` is NULL, or points to a `qs_value` that is zeroed or was written by this library and
 * not changed since. A copy of one that was freed must not be freed.
 */
enum qs_result qs_value_free(struct qs_value *value);

/**
 * Begins a snapshot: everything that is read from it is of one moment, however long it lasts.
 * Stores a handle in `*out`; NULL after a failure.
 *
 * End it soon: while it lasts the database cannot use space again that it still shows, so the
 * file grows; and each one takes one of the database's reader slots (4096, for all processes).
 *
 * Ownership: the handle is the caller's until `qs_snapshot_end`. It does not depend on `db`,
 * which may be closed before.
 *
 * Returns: `QS_OK`; `QS_BUSY`, `QS_CLOSED`, `QS_FORKED`, `QS_CORRUPT`, `QS_NO_MEMORY`, `QS_IO`,
 * `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `out` is NULL or points to a pointer.
 */
enum qs_result qs_snapshot_begin(const struct qs_db *db, struct qs_snapshot **out);

/**
 * Shows the value of a key, without copying it, in `*value`; `data` is NULL when there is none.
 * No NUL byte follows the value.
 *
 * Ownership: the library's. The bytes are valid, and do not change, until `qs_snapshot_end`,
 * whatever else is read. Never write to them: they are shared memory, mapped read-only. (A
 * value of more than about 4000 bytes is put together in memory of its own, once per snapshot,
 * and kept until its end.)
 *
 * Returns: `QS_OK`; `QS_NOT_FOUND`; `QS_CORRUPT`, `QS_CLOSED`, `QS_FORKED`, `QS_IO`,
 * `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `key` is NULL or points to `key_size` readable bytes. `value` is NULL or points to a
 * `qs_slice`.
 */
enum qs_result qs_snapshot_get(const struct qs_snapshot *snapshot,
                               const void *key,
                               size_t key_size,
                               struct qs_slice *value);

/**
 * Stores the index that a snapshot shows: the last entry that is in it. What comes after it is
 * what `qs_changes_open` with this index gives.
 *
 * Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `index` is NULL or points to a `uint64_t`.
 */
enum qs_result qs_snapshot_index(const struct qs_snapshot *snapshot, uint64_t *index);

/**
 * Ends a snapshot. What `qs_snapshot_get` has shown is gone; scans of it go on until their own
 * end. Calls that begin later, and a second `qs_snapshot_end`, return `QS_CLOSED`.
 *
 * Blocks: until the calls that other threads have begun on it have ended.
 *
 * Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * No thread looks at what the snapshot has shown any more. Whatever `snapshot` is, it is
 * recognised by its number and not followed.
 */
enum qs_result qs_snapshot_end(struct qs_snapshot *snapshot);

/**
 * Begins a scan over a snapshot and stores a handle in `*out`; NULL after a failure.
 *
 * Ownership: the handle is the caller's until `qs_scan_end`. `options` is not kept, and may be
 * NULL: all pairs, in order. The scan keeps what it shows of the snapshot alive, also when the
 * snapshot is ended before it.
 *
 * Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`, `QS_NO_MEMORY`, `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `options` is NULL, or points to as many readable bytes as its `size` says, and its slices are
 * readable. `out` is NULL or points to a pointer.
 */
enum qs_result qs_scan_begin(const struct qs_snapshot *snapshot,
                             const struct qs_scan_options *options,
                             struct qs_scan **out);

/**
 * Shows the next pair in `*key` and `*value`, without copying them where possible; empty unless
 * it returns `QS_OK`. No NUL byte follows them. After the last pair it returns `QS_NOT_FOUND`,
 * for ever; after an error that error, for ever.
 *
 * Ownership: the library's. The bytes are valid until the next call with this scan.
 *
 * Returns: `QS_OK`; `QS_NOT_FOUND`; `QS_CORRUPT`, `QS_CLOSED`, `QS_FORKED`, `QS_IO`,
 * `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `key` and `value` are NULL or point to a `qs_slice` of their own each. No thread looks at the pair before
 * any more.
 */
enum qs_result qs_scan_next(struct qs_scan *scan,
                            struct qs_slice *key,
                            struct qs_slice *value);

/**
 * Ends a scan. Calls that begin later, and a second `qs_scan_end`, return `QS_CLOSED`.
 *
 * Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * No thread looks at what the scan has shown any more. Whatever `scan` is, it is recognised by
 * its number and not followed.
 */
enum qs_result qs_scan_end(struct qs_scan *scan);

/**
 * Stores the index of the last entry that is visible here in `*index`; 0 when the database has
 * had none. It costs a few nanoseconds: "is there anything new?" may be asked on every request.
 *
 * Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_CORRUPT`, `QS_BUSY`, `QS_IO`,
 * `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `index` is NULL or points to a `uint64_t`.
 */
enum qs_result qs_index(const struct qs_db *db, uint64_t *index);

/**
 * Waits until the entry with `index` is visible here, at most `timeout_ms` milliseconds (0 not
 * at all, negative without end), and stores the last index then in `*now`, with `QS_OK` as with
 * `QS_TIMEOUT`; 0 otherwise. `now` may be NULL.
 *
 * A writer learns the index of its write from the root (`QS.INDEX`); waiting for `qs_index`
 * plus one waits for the next change of any kind.
 *
 * Blocks: up to the timeout. `qs_close` in another thread ends it with `QS_CLOSED` within a
 * tenth of a second.
 *
 * Returns: `QS_OK`; `QS_TIMEOUT`; `QS_CLOSED`, `QS_FORKED`, `QS_CORRUPT`, `QS_BUSY`, `QS_IO`,
 * `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `now` is NULL or points to a `uint64_t`.
 */
enum qs_result qs_wait(const struct qs_db *db, uint64_t index, int64_t timeout_ms, uint64_t *now);

/**
 * Describes the database and its replicator in `*status`; empty after a failure.
 *
 * Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_CORRUPT`, `QS_BUSY`, `QS_IO`,
 * `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `status` is NULL, or points to as many writable bytes as its `size` says.
 */
enum qs_result qs_status(const struct qs_db *db, struct qs_db_status *status);

/**
 * Opens a feed of the changes after `after_index` to keys that begin with the `prefix_size`
 * bytes at `prefix` (all keys when 0), and stores a handle in `*out`; NULL after a failure.
 *
 * To keep a copy of something up to date: begin a snapshot, take its `qs_snapshot_index`, read
 * what you need, end it, open a feed after that index, and apply what it gives. To go on where
 * an earlier run stopped: keep `qs_changes_position`, and beside it the `history` of
 * `qs_status`. When that is another one now, the database was restored meanwhile, and the index
 * means nothing: begin from a snapshot.
 *
 * Ownership: the handle is the caller's until `qs_changes_close`. It does not depend on `db`,
 * which may be closed before. `prefix` is not kept.
 *
 * Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`, `QS_CORRUPT`, `QS_NO_MEMORY`, `QS_IO`,
 * `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `prefix` is NULL or points to `prefix_size` readable bytes. `out` is NULL or points to a
 * pointer.
 */
enum qs_result qs_changes_open(const struct qs_db *db,
                               uint64_t after_index,
                               const void *prefix,
                               size_t prefix_size,
                               struct qs_changes **out);

/**
 * Waits for the next change, at most `timeout_ms` milliseconds (0 not at all, negative without
 * end), and describes it in `*change`; empty unless it returns `QS_OK`. Changes come in the
 * order of their indices, none is left out, and none comes before `qs_get` shows it.
 *
 * Ownership: the bytes of key and value are the library's, and valid until the next call with
 * this feed.
 *
 * Blocks: up to the timeout. Closing the feed in another thread ends it with `QS_CLOSED` within
 * a tenth of a second; closing the database does not.
 *
 * Returns: `QS_OK`; `QS_TIMEOUT`; `QS_CLOSED`, `QS_FORKED`, `QS_BUSY`, `QS_CORRUPT`,
 * `QS_NO_MEMORY`, `QS_IO`, `QS_INVALID_ARGUMENT`. After an error nothing is lost: call again.
 *
 * What must hold:
 * `change` is NULL, or points to as many writable bytes as its `size` says. No thread looks at
 * the change before any more.
 */
enum qs_result qs_changes_next(struct qs_changes *changes,
                               int64_t timeout_ms,
                               struct qs_change *change);

/**
 * Stores the index behind which a feed goes on: everything up to it was given, or does not
 * concern the prefix. A later `qs_changes_open` with it misses nothing, as long as the log
 * reaches back so far.
 *
 * Blocks: while another thread waits in `qs_changes_next` on the same feed.
 *
 * Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * `index` is NULL or points to a `uint64_t`.
 */
enum qs_result qs_changes_position(const struct qs_changes *changes, uint64_t *index);

/**
 * Closes a feed. Calls that begin later, and a second `qs_changes_close`, return `QS_CLOSED`.
 *
 * Blocks: until the calls that other threads have begun on it have ended; one that waits for a
 * change is ended, with `QS_CLOSED`, within a tenth of a second.
 *
 * Returns: `QS_OK`; `QS_CLOSED`, `QS_FORKED`, `QS_INVALID_ARGUMENT`.
 *
 * What must hold:
 * No thread looks at what the feed has given any more. Whatever `changes` is, it is recognised
 * by its number and not followed.
 */
enum qs_result qs_changes_close(struct qs_changes *changes);

/**
 * Why the calling thread's last failed call failed, for people: it names the directory, the key,
 * what was found and what to do. Empty when none has failed; never NULL. `QS_OK`,
 * `QS_NOT_FOUND`, `QS_TOO_SMALL` and `QS_TIMEOUT` leave it as it was.
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
