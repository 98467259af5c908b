//! `compact`: a database is made again, with full pages and none free: by the node that runs, or of the
//! files of one that does not. Programs that read it go on, and are on the new generation with their
//! next read.

use std::fs;
use std::path::Path;
use std::time::Instant;

use clap::Args;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use quicksilver::build::rebuild::{Progress, SLICE_BYTES, rebuild};
use quicksilver::build::{
    self, BuildError, Built, DEFAULT_MAX_READERS, Options, RoleLock, directory,
};
use quicksilver::environment::{Environment, live_generation};
use quicksilver::writer::client::Command;
use serde_json::json;

use super::error::{Error, Exit};
use super::target::Place;
use super::{Context, job};
use crate::store::maintenance::{JobKind, check_room};

/// Arguments of `compact`.
#[derive(Debug, Args)]
pub(super) struct CompactArgs {
    /// Most bytes that the file may ever have, log included, in the new generation. Default: as in
    /// the old one.
    #[arg(long, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range((1 << 20)..=(1 << 46)))]
    map_bytes: Option<u64>,
}

/// On the node that `--server` names, or, when no replicator runs, on the files of `--db`.
pub(super) fn run(args: CompactArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    match context.target.place()? {
        Place::Db(_) => files(args, context),
        Place::Servers(_) if args.map_bytes.is_some() => Err(Error::Usage(
            "--map-bytes is with --db: a node takes limits.map_bytes of its configuration"
                .to_owned(),
        )),
        Place::Servers(_) => job::run(JobKind::Compaction, Command::new("QS.COMPACT"), context),
    }
}

/// Takes the role lock: no replicator runs.
pub(super) fn take_role(dir: &Path) -> Result<RoleLock, Error> {
    RoleLock::take(dir).map_err(|e| match e {
        BuildError::Busy { holder, .. } => {
            let holder = holder.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            Error::Busy(format!(
                "{}: a replicator{holder} writes this database; stop it first, or ask it (--server). \
                 Programs that read go on meanwhile",
                dir.display()
            ))
        }
        other => other.into(),
    })
}

fn files(args: CompactArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let started = Instant::now();
    let dir = context.target.db()?;
    let role = take_role(dir)?;
    let live = live_generation(dir)?;
    directory::remove_others(dir, live)?;
    let source = build::open_writer(dir, live, DEFAULT_MAX_READERS)?;
    let before = file_bytes(&source)?;
    check_room(dir, &source, "the next generation").map_err(|e| Error::Busy(e.to_string()))?;
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} keys, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let show = |progress: Progress| {
        bar.set_length(progress.total_keys.max(progress.keys));
        bar.set_position(progress.keys);
        true
    };
    let built = compact(dir, &source, &args, show);
    bar.finish_and_clear();
    let built = built?;
    drop(source);
    directory::remove_generation(dir, live)?;
    drop(role);
    let seconds = started.elapsed().as_secs_f64();
    let after = fs::metadata(dir.join(built.generation.to_string()).join("data.mdb"));
    let after = after.map_err(Error::file(dir))?.len();
    if context.json {
        context.print_json(&json!({
            "generation": built.generation.get(),
            "index": built.position.index.get(),
            "digest": built.digest.to_string(),
            "keys": built.keys,
            "bytes_before": before,
            "bytes_after": after,
            "seconds": seconds,
        }))?;
    } else {
        context.print(
            format!(
                "compacted {} keys: {} before, {} now, {seconds:.1} s\nlive is {}, index {}\n",
                HumanCount(built.keys),
                HumanBytes(before),
                HumanBytes(after),
                built.generation,
                built.position.index,
            )
            .as_bytes(),
        )?;
    }
    Ok(Exit::Ok)
}

fn compact(
    dir: &Path,
    source: &Environment,
    args: &CompactArgs,
    mut show: impl FnMut(Progress) -> bool,
) -> Result<Built, Error> {
    let txn = source.env.read().map_err(quicksilver::Error::from)?;
    let identity = source.identity(&txn)?;
    drop(txn);
    let info = source.env.info().map_err(quicksilver::Error::from)?;
    let map_bytes = args.map_bytes.and_then(|bytes| usize::try_from(bytes).ok());
    let options = Options {
        db_id: identity.db_id,
        history: identity.history,
        map_bytes: map_bytes.unwrap_or(info.map_bytes),
        max_readers: info.max_readers,
    };
    let next = source.generation.next();
    let rebuilt = rebuild(dir, source, next, &options, SLICE_BYTES, &mut show)?;
    let built = rebuilt.ok_or_else(|| Error::Busy("the copy was given up".to_owned()))?.finish()?;
    build::switch_to(dir, next)?;
    Ok(built)
}

fn file_bytes(source: &Environment) -> Result<u64, Error> {
    let path = source.env.path().join("data.mdb");
    Ok(fs::metadata(&path).map_err(Error::file(path))?.len())
}
