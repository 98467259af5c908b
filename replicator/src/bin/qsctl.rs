//! `qsctl`, the operator's tool.

fn main() -> std::process::ExitCode {
    quicksilver_replicator::qsctl::main()
}
