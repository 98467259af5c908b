//! C and C++ programs against the library as it is installed: what tests/c and tests/cpp do right
//! and wrong, linked with the shared and the static library, plain, under AddressSanitizer and
//! under valgrind.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod database;
mod workshop;

use std::process::Command;

use database::database;
use workshop::{Library, Workshop, is_installed, is_well, is_well_under_valgrind};

const C: [&str; 3] = ["tests/c/reader.c", "tests/c/misuse.c", "tests/c/threads.c"];
const CPP: &str = "tests/cpp/reader.cpp";

/// What a careful C++ program may ask of a header beside that.
const CPP_WARNINGS: [&str; 3] =
    ["-Wold-style-cast", "-Wsign-conversion", "-Wzero-as-null-pointer-constant"];

const SANITIZED: [&str; 3] = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

#[test]
fn c_with_the_shared_library() {
    let (workshop, db) = (Workshop::open(), database());
    for source in C {
        let program = workshop.build("cc", &["-std=gnu11"], source, Library::Shared);
        is_well(Command::new(&program).arg(db.path()));
    }
}

#[test]
fn c_with_the_static_library() {
    let (workshop, db) = (Workshop::open(), database());
    for source in C {
        let program = workshop.build("cc", &["-std=gnu11"], source, Library::Static);
        is_well(Command::new(program).arg(db.path()));
    }
}

#[test]
fn c_under_valgrind() {
    let (workshop, db) = (Workshop::open(), database());
    for source in C {
        let program = workshop.build("cc", &["-std=gnu11"], source, Library::Shared);
        is_well_under_valgrind(&program, db.path());
    }
}

#[test]
fn c_under_address_sanitizer() {
    let (workshop, db) = (Workshop::open(), database());
    let flags = [&["-std=gnu11"], &SANITIZED[..]].concat();
    for source in C {
        for library in [Library::Shared, Library::Static] {
            let program = workshop.build("cc", &flags, source, library);
            is_well(Command::new(program).arg(db.path()));
        }
    }
}

#[test]
fn cpp_takes_the_c_header() {
    let (workshop, db) = (Workshop::open(), database());
    for standard in ["-std=c++11", "-std=c++20"] {
        let program = workshop.build("c++", &[standard], "tests/cpp/c_header.cpp", Library::Shared);
        is_well(Command::new(program).arg(db.path()));
    }
}

#[test]
fn cpp_with_every_compiler_and_standard() {
    let (workshop, db) = (Workshop::open(), database());
    for compiler in ["g++", "clang++"] {
        if !is_installed(compiler) {
            continue;
        }
        for standard in ["-std=c++17", "-std=c++20"] {
            let flags = [&[standard], &CPP_WARNINGS[..]].concat();
            let program = workshop.build(compiler, &flags, CPP, Library::Shared);
            is_well(Command::new(program).arg(db.path()));
        }
    }
}

#[test]
fn cpp_under_address_sanitizer_and_valgrind() {
    let (workshop, db) = (Workshop::open(), database());
    let flags = [&["-std=c++17"], &SANITIZED[..]].concat();
    let program = workshop.build("c++", &flags, CPP, Library::Static);
    is_well(Command::new(program).arg(db.path()));
    let program = workshop.build("c++", &["-std=c++17"], CPP, Library::Shared);
    is_well_under_valgrind(&program, db.path());
}
