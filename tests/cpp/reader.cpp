// What a C++ program does with libquicksilver, right and wrong.
//
//     reader DIR
//
// ffi/tests/c_programs.rs makes the database in DIR, and builds and runs this in several ways.
#include <quicksilver.hpp>
#include <quicksilver.hpp> // twice: the header guards itself

#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

using namespace std::chrono_literals;
using quicksilver::ChangeKind;
using quicksilver::Error;
using quicksilver::Reader;
using quicksilver::ScanOptions;
using quicksilver::Snapshot;

namespace {

// What ffi/tests/workshop/mod.rs puts into the database.
constexpr std::size_t numbers = 200;
constexpr std::size_t keys = numbers + 6;
constexpr std::size_t long_bytes = 1 << 20;

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            std::cerr << __FILE__ << ':' << __LINE__ << ": not true: " << #condition << '\n';  \
            std::exit(1);                                                                      \
        }                                                                                      \
    } while (false)

// The code of the Error that a call throws, which says why.
template <typename Call> qs_result thrown(Call call) {
    try {
        call();
        return QS_OK;
    } catch (const Error &error) {
        CHECK(std::string_view(error.what()).size() > 5);
        return error.code();
    }
}

template <typename T> constexpr bool moves_only =
    std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
    !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;

static_assert(moves_only<Reader> && moves_only<Snapshot>);
static_assert(moves_only<quicksilver::Scan> && moves_only<quicksilver::Changes>);

void values_come_back(const Reader &reader) {
    CHECK(reader.get("hello") == "world");
    CHECK(!reader.get("nobody"));
    CHECK(reader.get("empty") == "");
    CHECK(reader.get(std::string_view("bin\0ary", 7))->size() == 256);
    const auto value = reader.get("long");
    CHECK(value && value->size() == long_bytes);
    CHECK((*value)[1000] == static_cast<char>(1000 % 251));

    char buffer[8] = "-------";
    CHECK(reader.get_into("hello", buffer, sizeof buffer) == 5u);
    CHECK(std::string_view(buffer) == "world--");
    CHECK(reader.get_into("long", buffer, sizeof buffer) == long_bytes);
    CHECK(std::string_view(buffer) == "world--");
    CHECK(!reader.get_into("nobody", buffer, sizeof buffer));

    const auto values = reader.multi_get({"hello", "nobody", "zone/example.org"});
    CHECK(values.size() == 3 && values[0] == "world" && !values[1] && values[2] == "192.0.2.1");
    CHECK(reader.multi_get({}).empty());
}

void a_snapshot_shows_values_in_place(const Reader &reader) {
    const Snapshot snapshot = reader.snapshot();
    CHECK(snapshot.get("hello") == "world");
    CHECK(!snapshot.get("nobody"));
    CHECK(snapshot.get("hello")->data() == snapshot.get("hello")->data());
    CHECK(snapshot.get("long")->data() == snapshot.get("long")->data());
    CHECK(snapshot.index() == keys && reader.index() == keys);
}

void scans_are_in_order(const Reader &reader) {
    const Snapshot snapshot = reader.snapshot();
    std::size_t n = 0;
    for (const auto &[key, value] : snapshot.prefix("n/")) {
        CHECK(value == "number " + std::to_string(n));
        CHECK(key.substr(0, 2) == "n/");
        ++n;
    }
    CHECK(n == numbers);

    ScanOptions options;
    options.prefix = "n/";
    options.to = "n/010";
    options.to_included = true;
    options.backward = true;
    options.limit = 3;
    std::vector<std::string> found;
    for (const auto &pair : snapshot.scan(options))
        found.emplace_back(pair.first);
    CHECK((found == std::vector<std::string>{"n/010", "n/009", "n/008"}));

    options = {};
    options.from = "zone/example.net";
    options.from_excluded = true;
    auto scan = snapshot.scan(options);
    CHECK(scan.next()->second == "192.0.2.1");
    CHECK(!scan.next() && !scan.next());

    // The scan keeps the snapshot that nobody holds.
    std::map<std::string, std::string> zones;
    for (const auto &[key, value] : reader.snapshot().prefix("zone/"))
        zones.emplace(key, value);
    CHECK(zones.size() == 2 && zones["zone/example.net"] == "192.0.2.2");

    std::size_t all = 0;
    auto everything = snapshot.scan();
    for (auto it = everything.begin(); it != everything.end(); it++)
        all += it->first.empty() ? 0u : 1u;
    CHECK(all == keys);
}

void changes_are_told_in_order(const Reader &reader) {
    auto changes = reader.changes(0, "zone/");
    std::vector<std::string> seen;
    while (const auto change = changes.next(0ms)) {
        CHECK(change->kind == ChangeKind::set && change->index > 0);
        seen.emplace_back(change->key);
    }
    CHECK((seen == std::vector<std::string>{"zone/example.net", "zone/example.org"}));
    CHECK(changes.position() == keys);
    CHECK(!reader.changes(keys).next(10ms));
}

void the_status_is_told(const Reader &reader) {
    const qs_db_status status = reader.status();
    CHECK(status.keys == keys && status.index == keys);
    CHECK(std::string(status.db_id).size() == 36);
    CHECK(reader.wait_for(keys, quicksilver::forever));
    CHECK(!reader.wait_for(keys + 1, 10ms));
}

void what_is_wrong_is_thrown(const std::string &dir, const std::string &db_id) {
    CHECK(thrown([] { Reader("/nonexistent"); }) == QS_NO_DATABASE);
    quicksilver::Options options;
    options.wait = 10ms;
    CHECK(thrown([&] { Reader("/nonexistent", options); }) == QS_NO_DATABASE);
    options.db_id = "00000000-0000-4000-8000-000000000000";
    CHECK(thrown([&] { Reader(dir, options); }) == QS_WRONG_DATABASE);
    options.db_id = db_id;
    CHECK(thrown([&] { Reader(dir, options); }) == QS_OK);
    const Reader reader(dir);
    CHECK(thrown([&] { reader.get(""); }) == QS_INVALID_ARGUMENT);
    CHECK(thrown([&] { reader.get(std::string(512, 'k')); }) == QS_INVALID_ARGUMENT);
    CHECK(thrown([&] { reader.changes(0, std::string(512, 'k')); }) == QS_INVALID_ARGUMENT);
}

void what_was_moved_from_is_empty(const std::string &dir) {
    Reader first(dir);
    const Reader second = std::move(first);
    CHECK(second.get("hello") == "world");
    CHECK(thrown([&] { first.get("hello"); }) == QS_INVALID_ARGUMENT);
    Snapshot snapshot = second.snapshot();
    const Snapshot other = std::move(snapshot);
    CHECK(other.get("hello") == "world");
    CHECK(thrown([&] { snapshot.get("hello"); }) == QS_INVALID_ARGUMENT);
    CHECK(thrown([&] { snapshot.scan(); }) == QS_INVALID_ARGUMENT);
}

// Destructors in any order.
void things_outlive_the_reader(const std::string &dir) {
    auto reader = std::make_unique<Reader>(dir);
    const Snapshot snapshot = reader->snapshot();
    auto changes = reader->changes(keys - 1);
    auto scan = snapshot.prefix("zone/");
    reader.reset();
    CHECK(snapshot.get("hello") == "world");
    CHECK(changes.next(0ms)->index == keys);
    CHECK(scan.next()->second == "192.0.2.2");
}

void threads_share_a_reader(const Reader &reader) {
    std::vector<std::thread> threads;
    for (int n = 0; n < 4; n++)
        threads.emplace_back([&] {
            for (int round = 0; round < 200; round++)
                CHECK(reader.get("hello") == "world");
        });
    for (auto &thread : threads)
        thread.join();
}

} // namespace

int main(int argc, char **argv) try {
    if (argc != 2)
        return 2;
    const std::string dir = argv[1];
    std::string db_id;
    {
        const Reader reader(dir);
        values_come_back(reader);
        a_snapshot_shows_values_in_place(reader);
        scans_are_in_order(reader);
        changes_are_told_in_order(reader);
        the_status_is_told(reader);
        threads_share_a_reader(reader);
        db_id = reader.status().db_id;
    }
    what_is_wrong_is_thrown(dir, db_id);
    what_was_moved_from_is_empty(dir);
    things_outlive_the_reader(dir);
    std::cout << "all is well\n";
    return 0;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
