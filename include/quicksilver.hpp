// Quicksilver for C++17 and later: read configuration data straight out of shared memory.
//
//     quicksilver::Reader reader("/var/lib/quicksilver/dns");
//     if (auto address = reader.get("zone/example.org"))
//         std::cout << *address << '\n';
//
// Everything here is inline and thin: link with libquicksilver, whose header quicksilver.h says
// more about each call.
//
// Conventions:
//   - A missing key is std::nullopt; what went wrong is an Error, with the code of the C call.
//   - Objects own what they stand for, and can be moved but not copied. One that was moved from
//     answers every call with an Error (QS_INVALID_ARGUMENT).
//   - Threads share one Reader. A Snapshot, Scan or Changes may go from thread to thread, and is
//     used by one at a time.
//   - A string_view that a call returns is the library's memory: the call says how long it lasts.
//   - Keys and values are bytes, and may contain '\0'.
#ifndef QUICKSILVER_HPP
#define QUICKSILVER_HPP

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quicksilver.h"

namespace quicksilver {

// Why a call failed: what() is for people, code() for programs.
class Error : public std::runtime_error {
public:
    Error(qs_result code, const std::string &message) : std::runtime_error(message), code_(code) {}

    qs_result code() const noexcept { return code_; }

private:
    qs_result code_;
};

// A timeout that never ends.
inline constexpr std::chrono::milliseconds forever{-1};

namespace detail {

inline void check(qs_result result) {
    if (result != QS_OK)
        throw Error(result, qs_last_error());
}

inline qs_slice slice(std::string_view bytes) noexcept {
    return {reinterpret_cast<const std::uint8_t *>(bytes.data()), bytes.size()};
}

inline std::string_view view(const qs_slice &slice) noexcept {
    return {reinterpret_cast<const char *>(slice.data), slice.size};
}

// Ends a handle. It is a number in the guise of a pointer, which nobody follows.
struct End {
    void operator()(qs_db *db) const noexcept { qs_close(db); }
    void operator()(qs_snapshot *snapshot) const noexcept { qs_snapshot_end(snapshot); }
    void operator()(qs_scan *scan) const noexcept { qs_scan_end(scan); }
    void operator()(qs_changes *changes) const noexcept { qs_changes_close(changes); }
};

template <typename T> using Handle = std::unique_ptr<T, End>;

} // namespace detail

// A key and its value.
using Pair = std::pair<std::string_view, std::string_view>;

// Which pairs, and in which order: all of them in key order, unless something is set. What is set
// together holds together.
struct ScanOptions {
    std::string_view prefix{};  // only keys that begin with it
    std::string_view from{};    // only keys that are not before it; any when empty
    std::string_view to{};      // only keys before it; any when empty
    bool from_excluded = false; // leave the key `from` itself out
    bool to_included = false;   // take the key `to` itself in
    bool backward = false;      // from the last pair to the first
    std::uint64_t limit = 0;    // at most so many pairs; 0 for any number
};

// A walk over the pairs of a snapshot, which it keeps alive. It can be walked once:
//
//     for (auto [key, value] : snapshot.prefix("zone/"))
//         std::cout << key << ' ' << value << '\n';
class Scan {
public:
    // The next pair, or nullopt after the last. The views are valid until the next call.
    std::optional<Pair> next() {
        qs_slice key{};
        qs_slice value{};
        const qs_result result = qs_scan_next(handle_.get(), &key, &value);
        if (result == QS_NOT_FOUND)
            return std::nullopt;
        detail::check(result);
        return Pair(detail::view(key), detail::view(value));
    }

    struct End {};

    class Iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = Pair;
        using difference_type = std::ptrdiff_t;
        using pointer = const Pair *;
        using reference = const Pair &;

        explicit Iterator(Scan &scan) : scan_(&scan), pair_(scan.next()) {}

        reference operator*() const noexcept { return *pair_; }
        pointer operator->() const noexcept { return &*pair_; }
        Iterator &operator++() {
            pair_ = scan_->next();
            return *this;
        }
        void operator++(int) { ++*this; }
        friend bool operator==(const Iterator &it, End) noexcept { return !it.pair_; }
        friend bool operator!=(const Iterator &it, End) noexcept { return it.pair_.has_value(); }

    private:
        Scan *scan_;
        std::optional<Pair> pair_;
    };

    Iterator begin() { return Iterator(*this); }
    End end() const noexcept { return {}; }

private:
    friend class Snapshot;
    explicit Scan(qs_scan *scan) noexcept : handle_(scan) {}

    detail::Handle<qs_scan> handle_;
};

// One moment of a database, in which nothing changes. Let it go soon: the database cannot use
// space again that it still shows.
class Snapshot {
public:
    // The value of a key, in place. The view is valid as long as the snapshot; never write to it.
    std::optional<std::string_view> get(std::string_view key) const & {
        qs_slice value{};
        const qs_result result =
            qs_snapshot_get(handle_.get(), key.data(), key.size(), &value);
        if (result == QS_NOT_FOUND)
            return std::nullopt;
        detail::check(result);
        return detail::view(value);
    }
    // The snapshot would be gone before anyone could look.
    std::optional<std::string_view> get(std::string_view key) const && = delete;

    // The index that it shows: Reader::changes(index()) goes on from here.
    std::uint64_t index() const {
        std::uint64_t index = 0;
        detail::check(qs_snapshot_index(handle_.get(), &index));
        return index;
    }

    Scan scan(const ScanOptions &options = {}) const {
        qs_scan_options raw{};
        raw.size = sizeof raw;
        raw.flags = (options.backward ? std::uint64_t{QS_SCAN_BACKWARD} : 0) |
                    (options.from_excluded ? std::uint64_t{QS_SCAN_FROM_EXCLUDED} : 0) |
                    (options.to_included ? std::uint64_t{QS_SCAN_TO_INCLUDED} : 0);
        raw.prefix = detail::slice(options.prefix);
        raw.from = detail::slice(options.from);
        raw.to = detail::slice(options.to);
        raw.limit = options.limit;
        qs_scan *scan = nullptr;
        detail::check(qs_scan_begin(handle_.get(), &raw, &scan));
        return Scan(scan);
    }

    // The pairs whose keys begin with `prefix`, in key order.
    Scan prefix(std::string_view prefix) const {
        ScanOptions options;
        options.prefix = prefix;
        return scan(options);
    }

private:
    friend class Reader;
    explicit Snapshot(qs_snapshot *snapshot) noexcept : handle_(snapshot) {}

    detail::Handle<qs_snapshot> handle_;
};

// What happened to a key; or rescan: changes are missing, so begin a new snapshot, read again
// what you need from it, and go on.
enum class ChangeKind { set, del, rescan };

// One change. Key and value are valid until the next call of Changes::next.
struct Change {
    ChangeKind kind;
    std::uint64_t index;
    std::string_view key;
    std::string_view value;
};

// What changes in a database, entry by entry, in the order of the writes.
//
// To go on where an earlier run of the program was, keep the index of the last change together with
// Status's history. An index says nothing of another past: when the database was restored
// meanwhile, the histories differ and the feed cannot know; begin from a snapshot then.
class Changes {
public:
    // Waits for the next change; nullopt when none came within the timeout (0: does not wait).
    std::optional<Change> next(std::chrono::milliseconds timeout) {
        qs_change change{};
        change.size = sizeof change;
        const qs_result result =
            qs_changes_next(handle_.get(), static_cast<std::int64_t>(timeout.count()), &change);
        if (result == QS_TIMEOUT)
            return std::nullopt;
        detail::check(result);
        const ChangeKind kind = change.kind == QS_CHANGE_SET   ? ChangeKind::set
                                : change.kind == QS_CHANGE_DEL ? ChangeKind::del
                                                               : ChangeKind::rescan;
        return Change{kind, change.index, detail::view(change.key), detail::view(change.value)};
    }

    // The index to go on from, with Reader::changes, in a later run of the program.
    std::uint64_t position() const {
        std::uint64_t index = 0;
        detail::check(qs_changes_position(handle_.get(), &index));
        return index;
    }

private:
    friend class Reader;
    explicit Changes(qs_changes *changes) noexcept : handle_(changes) {}

    detail::Handle<qs_changes> handle_;
};

// How to open a database.
struct Options {
    std::string db_id{};                  // the id that must be there (a UUID); any when empty
    std::chrono::milliseconds wait{0};    // for a database that is not there yet; or forever
};

// An open database. Open one at the start, and let all threads use it. After fork it is of no use
// in the child: open the database there.
class Reader {
public:
    // Opens the database in a directory, the data_dir of a replicator, which need not run.
    explicit Reader(const std::string &dir, const Options &options = {}) {
        qs_open_options raw{};
        raw.size = sizeof raw;
        raw.db_id = options.db_id.empty() ? nullptr : options.db_id.c_str();
        raw.wait_ms = static_cast<std::int64_t>(options.wait.count());
        qs_db *db = nullptr;
        detail::check(qs_open(dir.c_str(), &raw, &db));
        handle_.reset(db);
    }

    // The value of a key, copied.
    std::optional<std::string> get(std::string_view key) const {
        char most_fit[1024];
        std::optional<std::size_t> size = get_into(key, most_fit, sizeof most_fit);
        if (!size)
            return std::nullopt;
        if (*size <= sizeof most_fit)
            return std::string(most_fit, *size);
        // A longer one may have been written meanwhile.
        std::string value;
        do {
            value.resize(*size);
            size = get_into(key, value.data(), value.size());
        } while (size && *size > value.size());
        if (!size)
            return std::nullopt;
        value.resize(*size);
        return value;
    }

    // Copies the value of a key into a buffer, and returns its size. When that is more than
    // `capacity`, nothing was copied.
    std::optional<std::size_t> get_into(std::string_view key, void *buffer,
                                        std::size_t capacity) const {
        std::size_t size = 0;
        const qs_result result =
            qs_get_into(handle_.get(), key.data(), key.size(), buffer, capacity, &size);
        if (result == QS_NOT_FOUND)
            return std::nullopt;
        if (result != QS_TOO_SMALL)
            detail::check(result);
        return size;
    }

    // The values of several keys, all of one moment.
    std::vector<std::optional<std::string>>
    multi_get(const std::vector<std::string_view> &keys) const {
        const Snapshot moment = snapshot();
        std::vector<std::optional<std::string>> values;
        values.reserve(keys.size());
        for (const std::string_view key : keys)
            values.emplace_back(moment.get(key));
        return values;
    }

    Snapshot snapshot() const {
        qs_snapshot *snapshot = nullptr;
        detail::check(qs_snapshot_begin(handle_.get(), &snapshot));
        return Snapshot(snapshot);
    }

    // The index of the last entry that is visible here; costs a few nanoseconds.
    std::uint64_t index() const {
        std::uint64_t index = 0;
        detail::check(qs_index(handle_.get(), &index));
        return index;
    }

    // Waits until the entry with `index` is visible here; false when it was not within the
    // timeout.
    bool wait_for(std::uint64_t index, std::chrono::milliseconds timeout) const {
        const qs_result result = qs_wait(handle_.get(), index,
                                         static_cast<std::int64_t>(timeout.count()), nullptr);
        if (result == QS_TIMEOUT)
            return false;
        detail::check(result);
        return true;
    }

    // What the database says about itself and its replicator.
    qs_db_status status() const {
        qs_db_status status{};
        status.size = sizeof status;
        detail::check(qs_status(handle_.get(), &status));
        return status;
    }

    // The changes after an index, to keys that begin with `prefix`.
    Changes changes(std::uint64_t after, std::string_view prefix = {}) const {
        qs_changes *changes = nullptr;
        detail::check(
            qs_changes_open(handle_.get(), after, prefix.data(), prefix.size(), &changes));
        return Changes(changes);
    }

private:
    detail::Handle<qs_db> handle_;
};

} // namespace quicksilver

#endif
