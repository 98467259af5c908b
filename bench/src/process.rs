//! What a process has cost, from `/proc`.

use std::fs;

use crate::Result;

/// `sysconf(_SC_CLK_TCK)`: 100 on every Linux that we know.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used since it began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds of processor time, in user space and in the kernel.
    pub cpu_seconds: f64,
    /// Bytes it caused to be written to the disk.
    pub written_bytes: u64,
}

impl Usage {
    /// Of a process that runs, or that has ended and was not waited for.
    pub fn of(pid: u32) -> Result<Usage> {
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Ok(Usage {
            cpu_seconds: cpu_seconds(pid)?,
            written_bytes: written.ok_or("no write_bytes")?.parse()?,
        })
    }

    /// What was used after `earlier`.
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }
}

fn stat_fields(pid: u32) -> Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

/// Processor seconds only, which also an ended child still shows until it is waited for.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let fields = stat_fields(pid)?;
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).ok_or("a short stat")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// Whether a child has ended and was not waited for.
pub fn has_ended(pid: u32) -> Result<bool> {
    Ok(stat_fields(pid)?.first().is_some_and(|state| state == "Z"))
}
