//! Gives the shared library its soname: programs record this name, not the file's, so a release
//! that breaks the ABI gets another number and can be installed beside this one.
//!
//! Nothing has to be hidden here: rustc exports from a cdylib what is `no_mangle` and nothing
//! else (`tests/c_program.rs` compares the exported symbols with the promised ones).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libquicksilver.so.1");
}
