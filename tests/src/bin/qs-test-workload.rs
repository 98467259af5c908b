//! A program that writes what a plan says, and says what it has acknowledged: what is killed, cut
//! off from its power, and given a disk that fails.
//!
//! `qs-test-workload DIR SEED STEP...`
//!
//! | step | |
//! |---|---|
//! | `commit=N` | so many commits, as a relay makes them, the log collected meanwhile |
//! | `forever` | commits, until somebody ends it |
//! | `rebuild` | another generation beside the live one, with commits meanwhile, and the switch to it |
//! | `snapshot` | a snapshot file of the live generation, with commits meanwhile |
//! | `restore=FILE` | a generation made of a snapshot that is further, and the switch to it |
//!
//! And what must never be released. Each is one of the mistakes that the tests are there for:
//!
//! | step | |
//! |---|---|
//! | `early=N` | commits that are acknowledged before they are made |
//! | `apart=N` | commits whose data is in one transaction and whose bookkeeping in the next one |
//! | `unchecked=N` | commits whose batches follow another past, which nobody compared with this one |
//!
//! It says one [`Word`] a line, each in one write, so that a trace of its system calls shows where
//! a step begins and what was promised when. A commit that was refused is tried again, once, after
//! the database was opened anew if that is what the error asks for.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use quicksilver::build::snapshot::{self, SnapshotFile};
use quicksilver::build::{self, State, directory, rebuild};
use quicksilver::environment::{Environment, live_generation};
use quicksilver_format::{Batch, BatchBuilder, Entry, Index, Position};
use quicksilver_replicator::store::{Store, StoreError};
use quicksilver_tests::crash::workload::{DB_ID, HISTORY, Plan, RETENTION, SIZES, Word};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Small, so that a copy takes many transactions.
const SLICE_BYTES: usize = 16 << 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, seed, steps @ ..] = &arguments[..] else {
        eprintln!("usage: qs-test-workload DIR SEED STEP...");
        return ExitCode::from(2);
    };
    match run(Path::new(dir), seed, steps) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path, seed: &str, steps: &[String]) -> Outcome<()> {
    let plan = Plan { seed: seed.parse()? };
    say(&Word::Plan(plan.seed))?;
    let mut writer = Writer::open(dir.to_owned(), plan)?;
    for step in steps {
        say(&Word::Step(step.clone()))?;
        let (name, argument) = step.split_once('=').unwrap_or((step, ""));
        writer = match name {
            "commit" => writer.commits(argument.parse()?)?,
            "forever" => writer.commits(u64::MAX)?,
            "rebuild" => writer.rebuild()?,
            "snapshot" => writer.snapshot()?,
            "restore" => writer.restore(Path::new(argument))?,
            "early" => writer.commits_acknowledged_early(argument.parse()?)?,
            "apart" => writer.commits_apart(argument.parse()?)?,
            "unchecked" => writer.commits_of_another_past(argument.parse()?)?,
            other => return Err(format!("no such step: {other}").into()),
        };
    }
    say(&Word::Done)
}

fn say(word: &Word) -> Outcome<()> {
    let line = format!("{word}\n");
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    Ok(out.flush()?)
}

fn acknowledge(end: Position) -> Outcome<()> {
    say(&Word::Acknowledged { index: end.index, hash: end.hash.to_string() })
}

/// The commit that the plan has next, and where the log then ends.
fn commit(store: &mut Store, plan: Plan) -> Result<Position, StoreError> {
    store.apply(&plan.commit(store.end()))?;
    Ok(store.end())
}

/// The one writer of the database, which is opened anew now and then.
struct Writer {
    dir: PathBuf,
    plan: Plan,
    store: Store,
}

impl Writer {
    fn open(dir: PathBuf, plan: Plan) -> Outcome<Writer> {
        let mut store = Store::open(&dir, DB_ID, HISTORY, SIZES)?;
        store.set_retention(RETENTION);
        directory::remove_others(&dir, store.environment().generation)?;
        say(&Word::Opened(store.end().index))?;
        Ok(Writer { dir, plan, store })
    }

    fn reopened(self) -> Outcome<Writer> {
        let Writer { dir, plan, store } = self;
        drop(store);
        Writer::open(dir, plan)
    }

    fn commits(mut self, count: u64) -> Outcome<Writer> {
        for _ in 0..count {
            match commit(&mut self.store, self.plan) {
                Ok(end) => acknowledge(end)?,
                Err(error) => self = self.commit_again(&error)?,
            }
        }
        Ok(self)
    }

    fn commit_again(mut self, refused: &StoreError) -> Outcome<Writer> {
        let kind = match refused {
            StoreError::Full(_) => "full",
            StoreError::Failed(_) => "failed",
            _ => "other",
        };
        say(&Word::Refused { kind: kind.to_owned(), text: refused.to_string() })?;
        if !refused.is_transient() {
            self = self.reopened()?;
        }
        acknowledge(commit(&mut self.store, self.plan)?)?;
        Ok(self)
    }

    /// A copy in many slices, with a commit after every third one.
    fn rebuild(mut self) -> Outcome<Writer> {
        let source = self.store.environment().clone();
        let hold = self.store.holds().hold(Index::ZERO);
        let next = source.generation.next();
        let dir = self.dir.clone();
        let mut between = Between::of(&mut self);
        let copy =
            rebuild::rebuild(&dir, &source, next, &options(), SLICE_BYTES, &mut |_| between.go())?;
        let mut copy = between.ended(copy)?;
        copy.catch_up()?;
        self = self.commits(2)?;
        let old = self.store.switch(copy)?.generation;
        say(&Word::Switched(next.to_string()))?;
        drop((hold, source));
        self = self.commits(1)?;
        directory::remove_generation(&self.dir, old)?;
        Ok(self)
    }

    fn snapshot(mut self) -> Outcome<Writer> {
        let source = self.store.environment().clone();
        let hold = self.store.holds().hold(Index::ZERO);
        let into = snapshot::directory_of(&self.dir);
        let mut between = Between::of(&mut self);
        let made = snapshot::create(&into, &source, SLICE_BYTES, &mut |_| between.go())?;
        say(&Word::Snapshot(between.ended(made)?.name()))?;
        drop(hold);
        Ok(self)
    }

    fn restore(mut self, file: &Path) -> Outcome<Writer> {
        let file = SnapshotFile::open(file)?;
        let next = self.store.environment().generation.next();
        snapshot::restore(&file, &self.dir, next, &options(), &mut |_| true)?;
        build::switch_to(&self.dir, next)?;
        self = self.reopened()?;
        acknowledge(self.store.end())?;
        say(&Word::Switched(next.to_string()))?;
        Ok(self)
    }
}

fn options() -> build::Options {
    build::Options {
        db_id: DB_ID,
        history: HISTORY,
        map_bytes: SIZES.map_bytes,
        max_readers: SIZES.max_readers,
    }
}

/// Commits that come between the slices of a copy, one after every third.
struct Between<'w> {
    writer: &'w mut Writer,
    slices: u32,
    failed: Option<Box<dyn std::error::Error>>,
}

impl<'w> Between<'w> {
    fn of(writer: &'w mut Writer) -> Self {
        Between { writer, slices: 0, failed: None }
    }

    /// False when a commit has failed, with which the copy ends.
    fn go(&mut self) -> bool {
        self.slices += 1;
        if self.slices.is_multiple_of(3) {
            let end = commit(&mut self.writer.store, self.writer.plan).map_err(Into::into);
            self.failed = end.and_then(acknowledge).err();
        }
        self.failed.is_none()
    }

    fn ended<T>(self, made: Option<T>) -> Outcome<T> {
        made.ok_or_else(|| self.failed.unwrap_or_else(|| "the copy was given up".into()))
    }
}

/// What must never be released.
impl Writer {
    fn commits_acknowledged_early(mut self, count: u64) -> Outcome<Writer> {
        for _ in 0..count {
            let batches = self.plan.commit(self.store.end());
            acknowledge(batches.last().map_or(self.store.end(), Batch::after))?;
            self.store.apply(&batches)?;
        }
        Ok(self)
    }

    fn commits_apart(self, count: u64) -> Outcome<Writer> {
        let plan = self.plan;
        self.without_the_store(|environment| {
            for _ in 0..count {
                let mut txn = environment.env.write()?;
                let before = State::read(environment, &txn)?;
                let batches = plan.commit(before.log.last);
                let state = build::apply::apply(environment, &mut txn, before, &batches)?;
                txn.commit()?;
                let mut txn = environment.env.write()?;
                state.write(environment.meta, &mut txn)?;
                txn.commit()?;
                acknowledge(state.log.last)?;
            }
            Ok(())
        })
    }

    /// What is written and at which indices is as planned; it follows another past.
    fn commits_of_another_past(self, count: u64) -> Outcome<Writer> {
        let plan = self.plan;
        self.without_the_store(|environment| {
            for _ in 0..count {
                let mut txn = environment.env.write()?;
                let before = State::read(environment, &txn)?;
                let hash = before.log.last.hash.chain(Entry::del(b"another past"));
                let mut end = Position { hash, ..before.log.last };
                let mut batches = Vec::new();
                for planned in plan.commit(before.log.last) {
                    let mut builder = BatchBuilder::new(end);
                    planned.entries().for_each(|(_, entry)| _ = builder.push(entry));
                    let batch = builder.seal(planned.header().sealed_at_us).ok_or("it is empty")?;
                    end = batch.after();
                    batches.push(batch);
                }
                let state = build::apply::apply(environment, &mut txn, before, &batches)?;
                state.write(environment.meta, &mut txn)?;
                txn.commit()?;
                acknowledge(end)?;
            }
            Ok(())
        })
    }

    /// Does something to the live generation that a store refuses to.
    fn without_the_store(self, harm: impl FnOnce(&Environment) -> Outcome<()>) -> Outcome<Writer> {
        let Writer { dir, plan, store } = self;
        drop(store);
        harm(&build::open_writer(&dir, live_generation(&dir)?, SIZES.max_readers)?)?;
        Writer::open(dir, plan)
    }
}
