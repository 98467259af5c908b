//! `include/quicksilver.h` says what the library does: it is generated from the library's source,
//! and this test fails when the two differ. `QS_UPDATE_HEADER=1` writes it anew.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};

use cbindgen::{Builder, Config, DocumentationLength, ExportConfig, Language, Style};

/// The sources that declare something, in the order of the header.
const SOURCES: [&str; 10] = [
    "result.rs",
    "bytes.rs",
    "handle.rs",
    "open.rs",
    "read.rs",
    "snapshot.rs",
    "scan.rs",
    "status.rs",
    "changes.rs",
    "text.rs",
];

const INTRODUCTION: &str = "\
/*
 * Quicksilver: read configuration data straight out of shared memory.
 * Generated from ffi/src by ffi/tests/header.rs; do not edit.
 *
 *     qs_db *db;
 *     qs_value value;
 *     if (qs_open(\"/var/lib/quicksilver/dns\", NULL, &db) != QS_OK)
 *         errx(1, \"%s\", qs_last_error());
 *     if (qs_get(db, \"key\", 3, &value) == QS_OK) {
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
 *   - Blocking. A call waits for something only where its comment says \"Blocks\".
 *   - Ownership. Memory of the library is returned to the library (qs_value_free), never to
 *     free(). What a qs_slice shows is the library's, for as long as the call's comment says.
 *   - No call unwinds or throws. None may be made in a signal handler, and no thread may be
 *     cancelled (pthread_cancel) in one.
 *   - A structure with a `size` begins with it, so that programs that were compiled against an
 *     older header go on working. Begin with its ..._INIT.
 */";

const INITIALISERS: &str = "
/**
 * The first value of a qs_open_options.
 */
#define QS_OPEN_OPTIONS_INIT { sizeof(qs_open_options), NULL, 0 }

/**
 * The first value of a qs_scan_options.
 */
#define QS_SCAN_OPTIONS_INIT \\
    { sizeof(qs_scan_options), 0, { NULL, 0 }, { NULL, 0 }, { NULL, 0 }, 0 }

/**
 * The first value of a qs_db_status.
 */
#define QS_DB_STATUS_INIT \\
    { sizeof(qs_db_status), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, { 0 }, { 0 }, { 0 }, { 0 } }

/**
 * The first value of a qs_change.
 */
#define QS_CHANGE_INIT { sizeof(qs_change), 0, 0, { NULL, 0 }, { NULL, 0 } }";

fn config() -> Config {
    Config {
        language: Language::C,
        header: Some(INTRODUCTION.to_owned()),
        after_includes: Some(INITIALISERS.to_owned()),
        include_guard: Some("QUICKSILVER_H".to_owned()),
        no_includes: true,
        sys_includes: vec!["stddef.h".to_owned(), "stdint.h".to_owned()],
        cpp_compat: true,
        style: Style::Both,
        usize_is_size_t: true,
        // Their numbers are in fields that later releases may put other numbers into.
        export: ExportConfig {
            include: vec!["qs_state".to_owned(), "qs_change_kind".to_owned()],
            ..ExportConfig::default()
        },
        documentation_length: DocumentationLength::Full,
        line_length: 100,
        tab_width: 4,
        ..Config::default()
    }
}

fn generate() -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let builder = SOURCES
        .iter()
        .fold(Builder::new().with_config(config()), |b, file| b.with_src(source.join(file)));
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    // A section for Rust's readers; to a C programmer all of it is plain text.
    String::from_utf8(header).unwrap().replace(" * # Safety\n", " * What must hold:\n")
}

#[test]
fn the_header_is_what_the_source_says() {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "include", "quicksilver.h"].iter().collect();
    let expected = generate();
    if std::env::var_os("QS_UPDATE_HEADER").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let differs = expected.lines().zip(found.lines()).position(|(new, old)| new != old);
    assert!(
        expected == found,
        "include/quicksilver.h differs from ffi/src at line {}; QS_UPDATE_HEADER=1 cargo test -p \
         quicksilver-ffi --test header writes it anew",
        differs.unwrap_or(found.lines().count()) + 1
    );
}
