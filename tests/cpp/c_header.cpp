// The C header in a C++ program: it compiles without warnings, links, and the calls have C names.
//
//     c_header DIR
#include <quicksilver.h>
#include <quicksilver.h>

#include <cstdio>
#include <string>

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    qs_open_options options = QS_OPEN_OPTIONS_INIT;
    qs_db *db = nullptr;
    qs_value value = {};
    if (qs_open(argv[1], &options, &db) != QS_OK || qs_get(db, "hello", 5, &value) != QS_OK) {
        std::fprintf(stderr, "%s\n", qs_last_error());
        return 1;
    }
    const std::string text(reinterpret_cast<const char *>(value.data), value.size);
    qs_value_free(&value);
    const qs_result closed = qs_close(db);
    std::puts(text == "world" ? "all is well" : text.c_str());
    return closed == QS_OK ? 0 : 1;
}
