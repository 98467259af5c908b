// Prints what lies under a prefix, and then what changes there, as it is written.
//
//     watch [--once N] DIR [PREFIX]
//
// Each line is "set KEY VALUE" or "del KEY". With --once it ends after N lines.
//
//     c++ -std=c++17 -o watch watch.cpp $(pkg-config --cflags --libs quicksilver)
//     ./watch /var/lib/quicksilver/dns zone/
#include <quicksilver.hpp>

#include <iostream>
#include <string>
#include <string_view>

namespace {

class Watch {
public:
    Watch(const std::string &dir, std::string prefix, long lines)
        : reader_(dir), prefix_(std::move(prefix)), lines_left_(lines) {}

    void run() {
        // From the moment that was printed on, nothing is missed and nothing comes twice.
        auto changes = reader_.changes(print_all(), prefix_);
        while (lines_left_ != 0) {
            const auto change = changes.next(quicksilver::forever);
            switch (change->kind) {
            case quicksilver::ChangeKind::set:
                print("set ", change->key, " ", change->value);
                break;
            case quicksilver::ChangeKind::del:
                print("del ", change->key);
                break;
            case quicksilver::ChangeKind::rescan:
                // Too much happened meanwhile, or the database was restored.
                print_all();
                break;
            }
        }
    }

private:
    // Prints everything of one moment, and returns its index.
    std::uint64_t print_all() {
        const quicksilver::Snapshot snapshot = reader_.snapshot();
        for (const auto &[key, value] : snapshot.prefix(prefix_))
            print("set ", key, " ", value);
        return snapshot.index();
    }

    template <typename... Part> void print(Part... parts) {
        if (lines_left_ == 0)
            return;
        (std::cout << ... << parts) << std::endl;
        if (lines_left_ > 0)
            lines_left_--;
    }

    quicksilver::Reader reader_;
    std::string prefix_;
    long lines_left_;
};

} // namespace

int main(int argc, char **argv) try {
    long lines = -1; // without end
    if (argc > 2 && std::string_view(argv[1]) == "--once") {
        lines = std::stol(argv[2]);
        argc -= 2;
        argv += 2;
    }
    if (argc != 2 && argc != 3) {
        std::cerr << "usage: watch [--once N] DIR [PREFIX]\n";
        return 2;
    }
    Watch(argv[1], argc == 3 ? argv[2] : "", lines).run();
    return 0;
} catch (const std::exception &error) {
    std::cerr << "watch: " << error.what() << '\n';
    return 1;
}
