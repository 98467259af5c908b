//! Makes what power cuts may have left of a recorded run, and opens each of it as a replicator does.
//!
//! `qs-test-crash-images TRACE SEED COUNT AFTER FIRST`
//!
//! `COUNT` images from number `FIRST` on, of cuts after at least `AFTER` events. It says one line for each image before it opens it, and ends with the first that is wrong.

use std::path::Path;
use std::process::ExitCode;

use quicksilver_tests::crash::replay::{Images, make_images};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Option<Vec<u64>> =
        arguments.iter().skip(1).map(|argument| argument.parse().ok()).collect();
    let (Some(trace), Some(&[seed, count, after, first])) = (arguments.first(), numbers.as_deref())
    else {
        eprintln!("usage: qs-test-crash-images TRACE SEED COUNT AFTER FIRST");
        return ExitCode::from(2);
    };
    let images = Images { seed, count, after: usize::try_from(after).unwrap_or(usize::MAX) };
    match make_images(Path::new(trace), first, images) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("{problem}");
            ExitCode::FAILURE
        }
    }
}
