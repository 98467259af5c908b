//! What a power cut may leave of what a program did to its files.
//!
//! A [`Disk`] has seen the events up to the cut. What was synced is there. Of the rest, chance
//! decides:
//!
//! * Of what was written to a file and not synced, any part may be there, in pages or in sectors of
//!   512 bytes, whatever was written before or after. A file that was extended is zero where
//!   nothing was kept.
//! * Of the names that were made, moved and removed, either the first few are there, as file
//!   systems with a journal have it, or any of them ([`Names`]); never one without an earlier one
//!   on the same name. Only syncing their directory keeps them: what is a habit of one file system
//!   beyond that is not relied on.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use rand::Rng;
use rand::rngs::StdRng;

use super::trace::Event;

/// What a drive writes whole.
const SECTOR_BYTES: usize = 512;
/// What a kernel writes back whole, unless the power goes.
const PAGE_BYTES: usize = 4096;
/// Writes to one file that may be outstanding; beyond that the kernel has written back the oldest.
const OUTSTANDING: usize = 256;

/// How what was not synced is lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// Of the content of files.
    pub content: Content,
    /// Of the names.
    pub names: Names,
}

/// What is left of writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Content {
    /// None of it.
    Nothing,
    /// All of it.
    Everything,
    /// Every piece of so many bytes with this probability.
    Pieces(usize, f64),
}

/// What is left of changes of names that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// All of them.
    All,
    /// The first few.
    Ordered,
    /// Any.
    Independent,
}

impl Loss {
    /// Nothing is lost.
    pub const NONE: Loss = Loss { content: Content::Everything, names: Names::All };

    /// One of all the ways to lose something.
    pub fn choose(rng: &mut StdRng) -> Loss {
        let probability = [0.1, 0.5, 0.9][rng.random_range(0..3)];
        let content = match rng.random_range(0..8) {
            0 => Content::Nothing,
            1 => Content::Everything,
            2..=4 => Content::Pieces(PAGE_BYTES, probability),
            _ => Content::Pieces(SECTOR_BYTES, probability),
        };
        let names = if rng.random_bool(0.5) { Names::Ordered } else { Names::Independent };
        Loss { content, names }
    }
}

type NodeId = usize;

#[derive(Debug)]
enum Node<'t> {
    File(File<'t>),
    Directory(Directory<'t>),
}

/// The names in a directory.
#[derive(Debug, Default)]
struct Directory<'t> {
    /// As the program sees them.
    now: BTreeMap<&'t str, NodeId>,
    /// As they are on disk in any case.
    durable: BTreeMap<&'t str, NodeId>,
}

#[derive(Debug, Default)]
struct File<'t> {
    durable: Vec<u8>,
    outstanding: Vec<Change<'t>>,
}

#[derive(Debug)]
enum Change<'t> {
    Write { offset: usize, data: &'t [u8], synced: bool },
    Resize { bytes: usize },
}

/// One change of names; it touches up to two.
#[derive(Debug, Clone, Copy)]
struct Renaming<'t> {
    node: NodeId,
    /// The name that it loses.
    from: Option<(NodeId, &'t str)>,
    /// The name that it gets.
    to: Option<(NodeId, &'t str)>,
    /// A directory that it touches was synced afterwards.
    synced: bool,
}

impl<'t> Renaming<'t> {
    fn places(&self) -> impl Iterator<Item = (NodeId, &'t str)> {
        self.from.into_iter().chain(self.to)
    }
}

/// The files of one directory at one moment.
#[derive(Debug)]
pub struct Disk<'t> {
    /// The first one is the directory itself.
    nodes: Vec<Node<'t>>,
    by_inode: HashMap<u64, NodeId>,
    renamings: Vec<Renaming<'t>>,
}

const ROOT: NodeId = 0;

impl<'t> Disk<'t> {
    /// An empty directory. The first event of a trace is about it.
    pub fn new(first: &Event<'t>) -> Disk<'t> {
        let &Event::MakeDirectory { inode, name: "" } = first else {
            panic!("a trace begins with {first:?}");
        };
        Disk {
            nodes: vec![Node::Directory(Directory::default())],
            by_inode: HashMap::from([(inode, ROOT)]),
            renamings: Vec::new(),
        }
    }

    /// Sees what was done next.
    pub fn apply(&mut self, event: &Event<'t>) {
        match *event {
            Event::Create { inode, name } => {
                self.make(inode, name, Node::File(File::default()));
            }
            // Another program goes on.
            Event::MakeDirectory { name: "", .. } => {}
            Event::MakeDirectory { inode, name } => {
                self.make(inode, name, Node::Directory(Directory::default()));
            }
            Event::Write { inode, offset, data } => {
                let offset = as_usize(offset);
                self.file(inode).change(Change::Write { offset, data, synced: false });
            }
            Event::Resize { inode, bytes } => {
                self.file(inode).change(Change::Resize { bytes: as_usize(bytes) });
            }
            Event::SyncRange { inode, offset, bytes } => {
                self.file(inode).sync_range(as_usize(offset), as_usize(bytes));
            }
            Event::Sync { inode } => {
                let node = self.by_inode[&inode];
                match &mut self.nodes[node] {
                    Node::File(file) => file.sync(),
                    Node::Directory(_) => self.sync_directory(node),
                }
            }
            Event::Rename { from, to } => {
                let (from, to) = (self.place(from), self.place(to));
                let node = self.directory(from.0).now[from.1];
                self.rename(Renaming { node, from: Some(from), to: Some(to), synced: false });
            }
            Event::Unlink { name } | Event::RemoveDirectory { name } => {
                let from = self.place(name);
                let node = self.directory(from.0).now[from.1];
                self.rename(Renaming { node, from: Some(from), to: None, synced: false });
            }
            Event::Mark(_) => {}
        }
    }

    /// What is there when the power comes back.
    pub fn after_cut<'d>(&'d self, loss: Loss, rng: &mut StdRng) -> Image<'d> {
        let mut names: HashMap<NodeId, BTreeMap<&str, NodeId>> = HashMap::new();
        for (id, node) in self.nodes.iter().enumerate() {
            if let Node::Directory(directory) = node {
                names.insert(id, directory.durable.clone());
            }
        }
        for renaming in self.kept(loss.names, rng) {
            if let Some((directory, name)) = renaming.from {
                names.entry(directory).or_default().remove(name);
            }
            if let Some((directory, name)) = renaming.to {
                names.entry(directory).or_default().insert(name, renaming.node);
            }
        }
        let mut image = Image::default();
        let mut directories = vec![(ROOT, String::new())];
        while let Some((directory, path)) = directories.pop() {
            for (name, &id) in &names[&directory] {
                let path =
                    if path.is_empty() { (*name).to_owned() } else { format!("{path}/{name}") };
                match &self.nodes[id] {
                    Node::File(file) => {
                        image.files.push((path, file.after_cut(loss.content, rng)));
                    }
                    Node::Directory(_) => {
                        image.directories.push(path.clone());
                        directories.push((id, path));
                    }
                }
            }
        }
        image
    }

    /// Of the changes that may be lost, those that are not.
    fn kept(&self, names: Names, rng: &mut StdRng) -> Vec<Renaming<'t>> {
        let all = &self.renamings;
        match names {
            Names::All => all.clone(),
            Names::Ordered => {
                let certain = all.iter().rposition(|r| r.synced).map_or(0, |last| last + 1);
                all[..rng.random_range(certain..=all.len())].to_vec()
            }
            Names::Independent => {
                let mut wanted: Vec<bool> =
                    all.iter().map(|r| r.synced || rng.random_bool(0.5)).collect();
                // From the last one back: what it builds on is kept with it.
                for later in (0..all.len()).rev().filter(|&n| n > 0) {
                    for earlier in 0..later {
                        let meets =
                            all[earlier].places().any(|p| all[later].places().any(|q| p == q));
                        wanted[earlier] |= wanted[later] && meets;
                    }
                }
                all.iter().zip(wanted).filter_map(|(r, wanted)| wanted.then_some(*r)).collect()
            }
        }
    }

    fn make(&mut self, inode: u64, name: &'t str, node: Node<'t>) {
        let id = self.nodes.len();
        self.nodes.push(node);
        self.by_inode.insert(inode, id);
        let to = self.place(name);
        self.rename(Renaming { node: id, from: None, to: Some(to), synced: false });
    }

    fn rename(&mut self, renaming: Renaming<'t>) {
        if let Some((directory, name)) = renaming.from {
            self.directory(directory).now.remove(name);
        }
        if let Some((directory, name)) = renaming.to {
            self.directory(directory).now.insert(name, renaming.node);
        }
        self.renamings.push(renaming);
    }

    fn sync_directory(&mut self, synced: NodeId) {
        for renaming in &mut self.renamings {
            let touches = renaming.places().any(|(directory, _)| directory == synced);
            renaming.synced |= touches;
        }
        // What nothing that may be lost comes before needs no more thought.
        let certain = self.renamings.iter().take_while(|r| r.synced).count();
        let certain: Vec<_> = self.renamings.drain(..certain).collect();
        for renaming in certain {
            if let Some((directory, name)) = renaming.from {
                self.directory(directory).durable.remove(name);
            }
            if let Some((directory, name)) = renaming.to {
                self.directory(directory).durable.insert(name, renaming.node);
            }
        }
    }

    /// The directory and the name in it that a path means now.
    fn place(&mut self, path: &'t str) -> (NodeId, &'t str) {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parents = parents.split('/').filter(|parent| !parent.is_empty());
        let directory = parents.fold(ROOT, |at, parent| self.directory(at).now[parent]);
        (directory, name)
    }

    fn directory(&mut self, id: NodeId) -> &mut Directory<'t> {
        match &mut self.nodes[id] {
            Node::Directory(directory) => directory,
            Node::File(_) => panic!("a file is no directory"),
        }
    }

    fn file(&mut self, inode: u64) -> &mut File<'t> {
        match &mut self.nodes[self.by_inode[&inode]] {
            Node::File(file) => file,
            Node::Directory(_) => panic!("a directory is no file"),
        }
    }
}

impl<'t> File<'t> {
    fn change(&mut self, change: Change<'t>) {
        self.outstanding.push(change);
        if self.outstanding.len() > OUTSTANDING {
            self.outstanding.remove(0).apply(&mut self.durable, Content::Everything, &mut || true);
        }
    }

    fn sync(&mut self) {
        for change in self.outstanding.drain(..) {
            change.apply(&mut self.durable, Content::Everything, &mut || true);
        }
    }

    fn sync_range(&mut self, from: usize, bytes: usize) {
        for change in &mut self.outstanding {
            if let Change::Write { offset, data, synced } = change {
                *synced |= *offset >= from && *offset + data.len() <= from + bytes;
            }
        }
    }

    fn after_cut(&self, content: Content, rng: &mut StdRng) -> Cow<'_, [u8]> {
        if self.outstanding.is_empty() {
            return Cow::Borrowed(&self.durable);
        }
        let mut bytes = self.durable.clone();
        let mut keep = || match content {
            Content::Nothing => false,
            Content::Everything => true,
            Content::Pieces(_, probability) => rng.random_bool(probability),
        };
        for change in &self.outstanding {
            change.apply(&mut bytes, content, &mut keep);
        }
        Cow::Owned(bytes)
    }
}

impl Change<'_> {
    /// Does to a file what is left of the change: `keep` decides about each piece.
    fn apply(&self, file: &mut Vec<u8>, content: Content, keep: &mut impl FnMut() -> bool) {
        match *self {
            Change::Resize { bytes } if keep() => file.resize(bytes, 0),
            Change::Resize { .. } => {}
            Change::Write { offset, data, synced } => {
                let piece_bytes = match content {
                    Content::Pieces(bytes, _) if !synced => bytes,
                    _ => usize::MAX,
                };
                let (mut at, end) = (offset, offset + data.len());
                while at < end {
                    // Pieces are where the drive or the kernel has them, not where a write begins.
                    let piece_end = end.min(at.saturating_add(piece_bytes - at % piece_bytes));
                    if synced || keep() {
                        file.resize(file.len().max(piece_end), 0);
                        file[at..piece_end].copy_from_slice(&data[at - offset..piece_end - offset]);
                    }
                    at = piece_end;
                }
            }
        }
    }
}

fn as_usize(n: u64) -> usize {
    usize::try_from(n).expect("a file of a test is small")
}

/// What is there when the power comes back.
#[derive(Debug, Default)]
pub struct Image<'d> {
    /// Parents before their children.
    directories: Vec<String>,
    files: Vec<(String, Cow<'d, [u8]>)>,
}

impl Image<'_> {
    /// Makes it, in a directory that is not there yet.
    ///
    /// # Panics
    /// With what the system says.
    pub fn write(&self, dir: &Path) {
        let done = |path: &Path, result: std::io::Result<()>| {
            result.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        };
        done(dir, fs::create_dir(dir));
        for path in self.directories.iter().map(|name| dir.join(name)) {
            done(&path, fs::create_dir(&path));
        }
        for (name, content) in &self.files {
            let path = dir.join(name);
            done(&path, fs::write(&path, content));
        }
    }

    /// Its files, by name.
    pub fn files(&self) -> BTreeMap<&str, &[u8]> {
        self.files.iter().map(|(name, content)| (&**name, &**content)).collect()
    }
}
