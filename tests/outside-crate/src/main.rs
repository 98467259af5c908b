//! Prints the value of a key: `outside-crate DIR KEY`.

use std::io::Write;
use std::process::ExitCode;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(key)) = (args.next(), args.next()) else {
        eprintln!("usage: outside-crate DIR KEY");
        return Ok(ExitCode::from(2));
    };
    let reader = quicksilver::Reader::open(dir)?;
    match reader.get(key.as_bytes())? {
        Some(value) => {
            std::io::stdout().write_all(&value)?;
            Ok(ExitCode::SUCCESS)
        }
        None => Ok(ExitCode::FAILURE),
    }
}
