//! Looks at what is left of a workload, as a replicator that starts does, in a process of its own:
//! what it maps and opens is gone when it ends, however it ends.
//!
//! `qs-test-crash-check DIR SEED INDEX`
//!
//! It says the index that it found, at least `INDEX`; or, and fails, what is wrong.

use std::path::Path;
use std::process::ExitCode;

use quicksilver_format::Index;
use quicksilver_tests::crash::check::{Depth, check};
use quicksilver_tests::crash::workload::{Model, Plan};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Option<Vec<u64>> =
        arguments.iter().skip(1).map(|argument| argument.parse().ok()).collect();
    let (Some(dir), Some(&[seed, index])) = (arguments.first(), numbers.as_deref()) else {
        eprintln!("usage: qs-test-crash-check DIR SEED INDEX");
        return ExitCode::from(2);
    };
    let mut model = Model::new(Plan { seed });
    match check(Path::new(dir), &mut model, Index::new(index), Depth::Everything) {
        Ok(found) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("{problem}");
            ExitCode::FAILURE
        }
    }
}
