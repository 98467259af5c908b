//! `verify`: everything a database can be checked for by itself.

use std::time::Instant;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use quicksilver::verify::{Progress, Report, Stage, verify};
use quicksilver::writer::client::Command;
use serde_json::json;

use super::error::{Error, Exit};
use super::target::Place;
use super::{Context, job};
use crate::store::maintenance::JobKind;

/// Here, or by the node that `--server` names.
pub(super) fn run(context: &mut Context<'_>) -> Result<Exit, Error> {
    if let Place::Servers(_) = context.target.place()? {
        return job::run(JobKind::Verification, Command::new("QS.VERIFY"), context);
    }
    let reader = context.target.reader()?;
    let started = Instant::now();
    let bar = bar();
    let mut stage = None;
    let result = verify(&reader.environment()?, |progress| show(&bar, &mut stage, progress));
    bar.finish_and_clear();
    let report = result?;
    let index = reader.index()?.get();
    let seconds = started.elapsed().as_secs_f64();
    if context.json {
        context.print_json(&as_json(&report, index, seconds))?;
    } else {
        context.print(as_text(&report, index, seconds).as_bytes())?;
    }
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Corrupt })
}

/// On stderr, and only when that is a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = "{msg:7} {bar:30} {human_pos} of {human_len}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, shown: &mut Option<Stage>, progress: Progress) {
    if *shown != Some(progress.stage) {
        *shown = Some(progress.stage);
        bar.reset();
        bar.set_message(match progress.stage {
            Stage::Values => "values",
            Stage::Digest => "digest",
            Stage::Log => "log",
        });
    }
    bar.set_length(progress.total);
    bar.set_position(progress.done);
}

fn as_text(report: &Report, index: u64, seconds: f64) -> String {
    let keys = HumanCount(report.keys);
    let bytes = HumanBytes(report.bytes);
    let digest = match report.digest {
        Some((at, digest)) => format!("{digest} at index {at}"),
        None => "not compared: it takes longer than a reader may hold a transaction".to_owned(),
    };
    let log = match report.log {
        Some((first, last)) => {
            format!("entries {first} to {last} in {} batches", HumanCount(report.batches))
        }
        None => "empty".to_owned(),
    };
    let head = match report.problem_count {
        0 => format!("ok, index {index}, {seconds:.1} s"),
        1 => format!("CORRUPT: 1 problem, index {index}, {seconds:.1} s"),
        n => format!("CORRUPT: {} problems, index {index}, {seconds:.1} s", HumanCount(n)),
    };
    let mut text =
        format!("{head}\nvalues  {keys} keys, {bytes}\ndigest  {digest}\nlog     {log}\n");
    for problem in &report.problems {
        text += &format!("problem {problem}\n");
    }
    let more = report.problem_count.saturating_sub(report.problems.len() as u64);
    if more > 0 {
        text += &format!("problem and {} more\n", HumanCount(more));
    }
    if !report.is_clean() {
        text += "do not trust this copy: rebuild it from a healthy node\n";
    }
    text
}

fn as_json(report: &Report, index: u64, seconds: f64) -> serde_json::Value {
    json!({
        "ok": report.is_clean(),
        "index": index,
        "keys": report.keys,
        "bytes": report.bytes,
        "digest": report.digest.map(|(_, digest)| digest.to_string()),
        "digest_index": report.digest.map(|(at, _)| at.get()),
        "log_first": report.log.map(|(first, _)| first.get()),
        "log_last": report.log.map(|(_, last)| last.get()),
        "batches": report.batches,
        "problem_count": report.problem_count,
        "problems": report.problems,
        "seconds": seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_listed_and_counted() {
        let report = Report {
            keys: 1234,
            problems: vec!["corrupt: bucket data, key a".to_owned()],
            problem_count: 3,
            ..Report::default()
        };
        let text = as_text(&report, 7, 0.2);
        assert!(
            text.starts_with("CORRUPT: 3 problems, index 7, 0.2 s\nvalues  1,234 keys"),
            "{text}"
        );
        assert!(
            text.contains("problem corrupt: bucket data, key a\nproblem and 2 more\n"),
            "{text}"
        );
        assert_eq!(as_json(&report, 7, 0.2)["ok"], false);
    }
}
