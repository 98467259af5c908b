//! `snapshot`: files that hold a whole database at one index.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use quicksilver::build::rebuild::{Progress, SLICE_BYTES};
use quicksilver::build::snapshot::{self, SnapshotFile};
use quicksilver::build::{self, DEFAULT_MAX_READERS, Options, directory};
use quicksilver::environment::{Environment, live_generation};
use quicksilver::writer::Kind;
use quicksilver::writer::client::Command;
use quicksilver::writer::reply::Reply;
use quicksilver_format::HistoryId;
use quicksilver_format::layout::{Generation, SNAPSHOT_SUFFIX};
use quicksilver_format::status::NodeState;
use serde_json::json;

use super::error::{Error, Exit};
use super::target::{Place, ask};
use super::{Context, compact, job};
use crate::store::maintenance::{JobKind, SnapshotInfo, list_snapshots};

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a snapshot: on the node that --server names, or of the files of --db.
    ///
    /// The database is written and read meanwhile. The file lies in the database's directory, in
    /// snapshots/, unless --into says otherwise. It is checked before it gets its name.
    Create {
        /// Another directory for it; only with --db.
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
    },
    /// List the snapshots of a node.
    List,
    /// Check a snapshot: every block, every value, the log, and the digest.
    Verify(FileArgs),
    /// Make a database of a snapshot, or put it in the place of the one that is there.
    ///
    /// The replicator must not run. With --db DIR a database is made there if there is none. One that
    /// is there must be the same database. It is taken back to an older index only with --rewind,
    /// which begins another history: programs that read then read everything anew.
    Restore {
        #[command(flatten)]
        file: FileArgs,
        /// Take the database back in time.
        #[arg(long)]
        rewind: bool,
        /// Most bytes that the file may ever have, log included. Default: as in the generation that is
        /// there, or 16 GiB.
        #[arg(long, value_name = "BYTES",
              value_parser = clap::value_parser!(u64).range((1 << 20)..=(1 << 46)))]
        map_bytes: Option<u64>,
    },
    /// Remove a snapshot of a node.
    Remove {
        /// As `list` shows it.
        name: String,
    },
}

/// Which file.
#[derive(Debug, Args)]
struct FileArgs {
    /// A path, or the name of a snapshot of --db.
    file: PathBuf,
}

pub(super) fn run(args: SnapshotArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    match args.action {
        Action::Create { into } => create(into, context),
        Action::List => list(context),
        Action::Verify(file) => verify(&file, context),
        Action::Restore { file, rewind, map_bytes } => restore(&file, rewind, map_bytes, context),
        Action::Remove { name } => remove(&name, context),
    }
}

fn create(into: Option<PathBuf>, context: &mut Context<'_>) -> Result<Exit, Error> {
    let dir = match context.target.place()? {
        Place::Db(dir) => dir.to_owned(),
        Place::Servers(_) if into.is_some() => {
            return Err(Error::Usage(
                "--into is with --db: a node makes its snapshots in its own directory".to_owned(),
            ));
        }
        Place::Servers(_) => {
            let order = Command::new("QS.SNAPSHOT").arg("CREATE");
            return job::run(JobKind::Snapshot, order, context);
        }
    };
    let reader = context.target.reader()?;
    let bar = bar();
    let into = into.unwrap_or_else(|| snapshot::directory_of(&dir));
    let made = snapshot::create(&into, &reader.environment()?, SLICE_BYTES, &mut show(&bar));
    bar.finish_and_clear();
    let made = made?.ok_or_else(|| Error::Busy("the snapshot was given up".to_owned()))?;
    let info = SnapshotInfo::of(&made);
    match context.json {
        true => context.print_json(&info)?,
        false => {
            let path = made.path().display();
            context.print(format!("{path}\n{}", in_words(&info)).as_bytes())?;
        }
    }
    Ok(Exit::Ok)
}

fn list(context: &mut Context<'_>) -> Result<Exit, Error> {
    let snapshots = match context.target.place()? {
        Place::Db(dir) => list_snapshots(dir)?,
        Place::Servers(_) => {
            let mut server = context.target.one_server()?;
            let command = Command::new("QS.SNAPSHOT").arg("LIST");
            let (connection, reply) = ask(&mut server, command, Kind::Read)?;
            let unexpected = |problem: &str| connection.receiver.unexpected(problem);
            let Reply::Bulk(text) = reply else {
                return Err(unexpected("to QS.SNAPSHOT LIST, expected JSON").into());
            };
            serde_json::from_slice(&text)
                .map_err(|e| unexpected(&format!("to QS.SNAPSHOT LIST: {e}")))?
        }
    };
    if context.json {
        context.print_json(&snapshots)?;
        return Ok(Exit::Ok);
    }
    for info in &snapshots {
        context.print(format!("{}\n{}", info.name, in_words(info)).as_bytes())?;
    }
    if snapshots.is_empty() {
        context.note("no snapshots; `qsctl snapshot create` makes one");
    }
    Ok(Exit::Ok)
}

fn in_words(info: &SnapshotInfo) -> String {
    if let Some(problem) = &info.problem {
        return format!("  cannot be used: {problem}\n");
    }
    format!(
        "  index {}, {} keys, {} in the file\n  digest {}\n",
        info.index,
        HumanCount(info.keys),
        HumanBytes(info.file_bytes),
        info.digest
    )
}

/// A path, or a name among the snapshots of --db.
fn open(args: &FileArgs, context: &Context<'_>) -> Result<SnapshotFile, Error> {
    let is_name = args.file.components().count() == 1
        && args.file.to_str().is_some_and(|name| name.ends_with(SNAPSHOT_SUFFIX))
        && !args.file.exists();
    let path = match (is_name, context.target.db()) {
        (true, Ok(dir)) => snapshot::directory_of(dir).join(&args.file),
        _ => args.file.clone(),
    };
    Ok(SnapshotFile::open(&path)?)
}

fn verify(args: &FileArgs, context: &mut Context<'_>) -> Result<Exit, Error> {
    let file = open(args, context)?;
    let bar = bar();
    let blocks = file.manifest().blocks.len() as u64;
    let checked = file.check(&mut |now| {
        bar.set_length(blocks);
        bar.set_position(now.blocks);
        true
    });
    bar.finish_and_clear();
    if let Err(error) = checked {
        context.note(format_args!("{}: {error}", file.path().display()));
        return Ok(Exit::Corrupt);
    }
    let info = SnapshotInfo::of(&file);
    match context.json {
        true => context.print_json(&info)?,
        false => context.print(format!("ok\n{}", in_words(&info)).as_bytes())?,
    }
    Ok(Exit::Ok)
}

fn remove(name: &str, context: &mut Context<'_>) -> Result<Exit, Error> {
    match context.target.place()? {
        Place::Db(dir) => snapshot::remove(dir, name)?,
        Place::Servers(_) => {
            let mut server = context.target.one_server()?;
            let command = Command::new("QS.SNAPSHOT").arg("REMOVE").arg(name);
            ask(&mut server, command, Kind::Write)?;
        }
    }
    if !context.json {
        context.print(format!("removed {name}\n").as_bytes())?;
    }
    Ok(Exit::Ok)
}

/// What is there already, where a snapshot is restored to.
struct There {
    generation: Generation,
    index: u64,
    history: HistoryId,
    map_bytes: usize,
    max_readers: u32,
}

fn restore(
    file: &FileArgs,
    rewind: bool,
    map_bytes: Option<u64>,
    context: &mut Context<'_>,
) -> Result<Exit, Error> {
    let file = open(file, context)?;
    let dir = context.target.db()?;
    directory::make(dir)?;
    let role = compact::take_role(dir)?;
    let there = there(dir)?;
    let manifest = file.manifest();
    let (index, from) = (manifest.end.position.index.get(), manifest.identity.history);
    let back = there.as_ref().filter(|there| there.index > index);
    if let (Some(there), false) = (back, rewind) {
        return Err(Error::Busy(format!(
            "{}: is at index {}, the snapshot at {index}: it would take the database back. --rewind \
             does it, and begins another history",
            dir.display(),
            there.index
        )));
    }
    let history = match (&there, back.is_some()) {
        (_, true) => HistoryId::random(),
        (Some(there), false) if from == HistoryId::NONE => there.history,
        _ => from,
    };
    let options = Options {
        db_id: manifest.identity.db_id,
        history,
        map_bytes: map_bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .or(there.as_ref().map(|there| there.map_bytes))
            .unwrap_or(Options::default().map_bytes),
        max_readers: there.as_ref().map_or(DEFAULT_MAX_READERS, |there| there.max_readers),
    };
    let generation = there.as_ref().map_or(Generation::FIRST, |there| there.generation.next());
    let bar = bar();
    let built = build::snapshot::restore(&file, dir, generation, &options, &mut show(&bar));
    bar.finish_and_clear();
    let built = built?.ok_or_else(|| Error::Busy("it was given up".to_owned()))?;
    build::switch_to(dir, generation)?;
    if let Some(there) = there {
        directory::remove_generation(dir, there.generation)?;
    } else {
        build::open_page(dir, options.db_id)?.set_state(NodeState::Stopped);
    }
    drop(role);
    if context.json {
        context.print_json(&json!({
            "generation": generation.get(),
            "index": built.position.index.get(),
            "digest": built.digest.to_string(),
            "keys": built.keys,
            "history": history.to_string(),
        }))?;
    } else {
        let keys = HumanCount(built.keys);
        let db_id = options.db_id;
        context.print(
            format!("restored {keys} keys, index {index}\nlive is {generation} of {db_id}\n")
                .as_bytes(),
        )?;
    }
    Ok(Exit::Ok)
}

fn there(dir: &Path) -> Result<Option<There>, Error> {
    let generation = match live_generation(dir) {
        Ok(generation) => generation,
        Err(quicksilver::Error::NoDatabase { .. }) => {
            directory::refuse_database(dir)?;
            return Ok(None);
        }
        Err(e) => return Err(e.into()),
    };
    directory::remove_others(dir, generation)?;
    let environment = Environment::open_reader(dir, generation)?;
    let lmdb = |e: quicksilver::LmdbError| Error::Read(e.into());
    let txn = environment.env.read().map_err(lmdb)?;
    let info = environment.env.info().map_err(lmdb)?;
    Ok(Some(There {
        generation,
        index: environment.applied(&txn)?.position.index.get(),
        history: environment.identity(&txn)?.history,
        map_bytes: info.map_bytes,
        max_readers: info.max_readers,
    }))
}

fn bar() -> ProgressBar {
    ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{bar:30} {human_pos} of {human_len}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    )
}

fn show(bar: &ProgressBar) -> impl FnMut(Progress) -> bool + '_ {
    |progress| {
        bar.set_length(progress.total_keys.max(progress.keys));
        bar.set_position(progress.keys);
        true
    }
}
