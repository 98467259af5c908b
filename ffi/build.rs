//! Gives the shared library its soname: programs record this name, not the file's, so a release
//! that breaks the ABI gets another number and can be installed beside this one. And keeps it
//! loaded: threads and `fork` call back into it.
//!
//! Nothing has to be hidden here: rustc exports from a cdylib what is `no_mangle` and nothing
//! else. `scripts/install` links what people use, with versions; `tests/installed.rs` compares both
//! with `quicksilver.map`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libquicksilver.so.1");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
