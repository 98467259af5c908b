//! Format versions: what this release *can*, which is not what a database *is in*.
//!
//! A generation is in the format that its `format` record names ([`crate::meta::Format`]), and
//! whoever writes it goes on in that one, whatever else this release could write. It is raised to
//! the newest by `qsctl format finalize`, and by nothing else: until then the release before this
//! one can be started again on the same files, and programs that were linked with its reader can
//! read them. `docs/FORMAT.md`, "Versions", says how a new version is introduced.

/// The newest format this release writes, and the newest it knows.
pub const NEWEST_FORMAT_VERSION: u32 = if cfg!(feature = "next-format") { 2 } else { 1 };
/// The oldest format this release goes on writing: that of the release before it.
pub const OLDEST_WRITABLE_FORMAT_VERSION: u32 = 1;
/// The oldest format this release reads. Readers of every 1.x read version 1.
pub const OLDEST_READABLE_FORMAT_VERSION: u32 = 1;
/// The format of a new database: the newest that the release before this one knows, so that it,
/// and the readers that were linked with it, can be used on the files.
pub const NEW_DATABASE_FORMAT_VERSION: u32 = 1;

const _: () = {
    assert!(OLDEST_READABLE_FORMAT_VERSION <= OLDEST_WRITABLE_FORMAT_VERSION);
    assert!(OLDEST_WRITABLE_FORMAT_VERSION <= NEW_DATABASE_FORMAT_VERSION);
    assert!(NEW_DATABASE_FORMAT_VERSION <= NEWEST_FORMAT_VERSION);
};

/// What this release knows of one format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownFormat {
    /// Its number.
    pub version: u32,
    /// The oldest format a program must know to read it: its own number when older programs would
    /// misread it, a smaller one when what it added is nothing that a reader has to know.
    pub readable_from: u32,
    /// The first release that knows it.
    pub first_release: &'static str,
}

/// Every format this release writes or reads, oldest first.
pub const KNOWN_FORMATS: &[KnownFormat] = &[
    KnownFormat { version: 1, readable_from: 1, first_release: "0.1.0" },
    #[cfg(feature = "next-format")]
    KnownFormat { version: 2, readable_from: 2, first_release: "a release of the tests" },
];

/// What this release knows of a format; `None` when it is of a later one.
pub fn known(version: u32) -> Option<KnownFormat> {
    KNOWN_FORMATS.iter().copied().find(|format| format.version == version)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    #[test]
    fn every_format_up_to_the_newest_is_known() {
        let versions: Vec<u32> = KNOWN_FORMATS.iter().map(|format| format.version).collect();
        let expected: Vec<u32> = (OLDEST_READABLE_FORMAT_VERSION..=NEWEST_FORMAT_VERSION).collect();
        assert_eq!(versions, expected);
        assert!(KNOWN_FORMATS.iter().all(|format| format.readable_from <= format.version));
        assert!(known(NEWEST_FORMAT_VERSION + 1).is_none());
    }
}
