//! `readers`: which processes read a database of this machine, and how old their snapshots are.
//!
//! It looks at the reader table in the files, whether a replicator runs or not, and changes
//! nothing.

use std::fmt::Write;

use quicksilver::Error as ReadError;
use serde_json::json;

use super::Context;
use super::error::{Error, Exit};
use crate::readers::{ProcessSlots, processes, program_of};

/// A process and its program.
struct Row {
    slots: ProcessSlots,
    program: Option<String>,
}

pub(super) fn run(context: &mut Context<'_>) -> Result<Exit, Error> {
    let reader = context.target.reader()?;
    let env = reader.environment()?.env;
    let mut slots = env.readers().map_err(ReadError::from)?;
    // After the table, so that none in it is newer.
    let info = env.info().map_err(ReadError::from)?;
    // This process had to take one to look.
    slots.retain(|slot| slot.pid != std::process::id());
    let rows: Vec<Row> = processes(&slots, info.last_txn_id)
        .into_iter()
        .map(|slots| Row { slots, program: program_of(slots.pid) })
        .collect();
    if context.json {
        context.print_json(&as_json(&rows, slots.len(), info.max_readers))?;
    } else {
        context.print(as_text(&rows, slots.len(), info.max_readers).as_bytes())?;
    }
    Ok(Exit::Ok)
}

fn as_text(rows: &[Row], used: usize, limit: u32) -> String {
    let mut text = format!("{used} of {limit} reader slots taken\n");
    if !rows.is_empty() {
        text += "       PID  PROGRAM          IN USE   IDLE  OLDEST SNAPSHOT\n";
    }
    for Row { slots, program } in rows {
        let oldest = match slots.lag_commits {
            None => "-".to_owned(),
            Some(0) => "newest commit".to_owned(),
            Some(1) => "1 commit behind".to_owned(),
            Some(n) => format!("{n} commits behind"),
        };
        let program = program.as_deref().unwrap_or("-");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:>10}  {program:<15} {:>7} {:>6}  {oldest}",
            slots.pid, slots.in_use, slots.idle
        );
    }
    text
}

fn as_json(rows: &[Row], used: usize, limit: u32) -> serde_json::Value {
    let readers: Vec<_> = rows
        .iter()
        .map(|Row { slots, program }| {
            json!({
                "pid": slots.pid,
                "name": program,
                "in_use": slots.in_use,
                "idle": slots.idle,
                "lag_commits": slots.lag_commits,
            })
        })
        .collect();
    json!({ "used": used, "limit": limit, "readers": readers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_process() {
        let row = |pid, program: Option<&str>, lag_commits| Row {
            slots: ProcessSlots { pid, in_use: 1, idle: 2, lag_commits },
            program: program.map(str::to_owned),
        };
        let rows = [row(4_194_304, Some("dnsd"), Some(12)), row(7, None, None)];
        assert_eq!(
            as_text(&rows, 6, 4096),
            "6 of 4096 reader slots taken\n\
             \x20      PID  PROGRAM          IN USE   IDLE  OLDEST SNAPSHOT\n\
             \x20  4194304  dnsd                  1      2  12 commits behind\n\
             \x20        7  -                     1      2  -\n"
        );
        assert_eq!(as_text(&[], 0, 4096), "0 of 4096 reader slots taken\n");
        let json = as_json(&rows, 6, 4096);
        assert_eq!(json["readers"][0]["lag_commits"], 12);
        assert!(json["readers"][1]["name"].is_null());
    }
}
