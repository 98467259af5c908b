/*
 * Prints what lies under a prefix, and then what changes there, as it is written.
 *
 *     watch [--once N] DIR [PREFIX]
 *
 * Each line is "set KEY VALUE" or "del KEY". With --once it ends after N lines.
 *
 *     cc -o watch watch.c $(pkg-config --cflags --libs quicksilver)
 *     ./watch /var/lib/quicksilver/dns zone/
 */
#include <quicksilver.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long lines_left = -1; /* without end */

/* Ends the program: nothing works without what failed. */
static void fail(const char *what)
{
    fprintf(stderr, "watch: %s: %s\n", what, qs_last_error());
    exit(1);
}

static void print_line(const char *what, qs_slice key, qs_slice value)
{
    /* Bytes, not text: they may hold anything, and no NUL follows them. */
    printf("%s ", what);
    fwrite(key.data, 1, key.size, stdout);
    if (value.data != NULL) {
        putchar(' ');
        fwrite(value.data, 1, value.size, stdout);
    }
    putchar('\n');
    fflush(stdout);
    if (lines_left > 0 && --lines_left == 0)
        exit(0);
}

/* Prints everything of one moment, and returns its index. */
static uint64_t print_all(const qs_db *db, const char *prefix)
{
    qs_scan_options options = QS_SCAN_OPTIONS_INIT;
    qs_snapshot *snapshot;
    qs_scan *scan;
    qs_slice key, value;
    qs_result result;
    uint64_t index;

    options.prefix.data = (const uint8_t *)prefix;
    options.prefix.size = strlen(prefix);
    if (qs_snapshot_begin(db, &snapshot) != QS_OK ||
        qs_snapshot_index(snapshot, &index) != QS_OK ||
        qs_scan_begin(snapshot, &options, &scan) != QS_OK)
        fail("cannot read");
    while ((result = qs_scan_next(scan, &key, &value)) == QS_OK)
        print_line("set", key, value);
    if (result != QS_NOT_FOUND) /* the end */
        fail("cannot read on");
    qs_scan_end(scan);
    qs_snapshot_end(snapshot);
    return index;
}

int main(int argc, char **argv)
{
    qs_change change = QS_CHANGE_INIT;
    qs_changes *changes;
    qs_db *db;
    const char *prefix;

    if (argc > 2 && strcmp(argv[1], "--once") == 0) {
        lines_left = atol(argv[2]);
        argc -= 2;
        argv += 2;
    }
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: watch [--once N] DIR [PREFIX]\n");
        return 2;
    }
    prefix = argc == 3 ? argv[2] : "";
    if (qs_open(argv[1], NULL, &db) != QS_OK)
        fail("cannot open the database");

    /* From the moment that was printed on, nothing is missed and nothing comes twice. */
    if (qs_changes_open(db, print_all(db, prefix), prefix, strlen(prefix), &changes) != QS_OK)
        fail("cannot watch");
    while (qs_changes_next(changes, -1, &change) == QS_OK) {
        switch (change.kind) {
        case QS_CHANGE_SET:
            print_line("set", change.key, change.value);
            break;
        case QS_CHANGE_DEL:
            print_line("del", change.key, change.value);
            break;
        default: /* too much happened meanwhile, or the database was restored */
            print_all(db, prefix);
            break;
        }
    }
    fail("cannot watch on");
}
