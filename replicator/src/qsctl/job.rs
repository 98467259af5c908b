//! Jobs of a node's maintenance: begun over its client socket, and waited for.

use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use quicksilver::writer::Kind;
use quicksilver::writer::client::Command;
use quicksilver::writer::reply::Reply;
use quicksilver::writer::servers::Servers;

use super::Context;
use super::error::{Error, Exit};
use super::status;
use super::target::ask;
use crate::store::maintenance::{JobKind, JobOutcome, JobStatus};

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Has the one server that is named do a job, and shows how it goes and how it ends.
pub(super) fn run(kind: JobKind, order: Command, context: &mut Context<'_>) -> Result<Exit, Error> {
    let mut server = context.target.one_server()?;
    let job = begin(&mut server, order)?;
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{msg} {bar:30} {bytes} of {total_bytes}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(kind.name());
    let outcome = loop {
        let maintenance = status::of_server(&mut server)?.maintenance;
        let show = |running: &JobStatus| {
            bar.set_length(running.total_bytes);
            bar.set_position(running.done_bytes);
        };
        match (maintenance.running, maintenance.last.get(&kind)) {
            (Some(running), _) if running.job == job && running.kind == kind => show(&running),
            (_, Some(last)) if last.job == job => break last.clone(),
            _ => {
                return Err(Error::Busy(format!(
                    "the {} was given up: the node was started anew meanwhile. Nothing has changed; \
                     order it again",
                    kind.name()
                )));
            }
        }
        thread::sleep(LOOK_INTERVAL);
    };
    bar.finish_and_clear();
    let JobOutcome { ok, ref message, problems, .. } = outcome;
    if context.json {
        context.print_json(&outcome)?;
    } else if ok {
        context.print(format!("{message}\n").as_bytes())?;
    }
    match (ok, problems) {
        (true, _) => Ok(Exit::Ok),
        (false, 0) => Err(Error::Busy(format!("{}: {message}", kind.name()))),
        (false, _) => {
            context.note(message);
            Ok(Exit::Corrupt)
        }
    }
}

fn begin(server: &mut Servers, order: Command) -> Result<u64, Error> {
    let (connection, reply) = ask(server, order, Kind::Write)?;
    match reply {
        Reply::Integer(job) if job > 0 => Ok(job.unsigned_abs()),
        other => {
            let problem = format!("{other:?}, expected the number of a job");
            Err(connection.receiver.unexpected(&problem).into())
        }
    }
}
