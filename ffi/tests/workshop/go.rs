//! Go, with the installed library.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Workshop, is_installed, repository, run};

impl Workshop {
    /// `go` in the directory of the package; `None`, and a line that says so, where there is none.
    ///
    /// It downloads nothing, and keeps what it compiles for the next run. Programs that it builds
    /// find the library by themselves.
    pub(crate) fn go(&self, arguments: &[&str]) -> Option<Command> {
        if !is_installed("go") {
            return None;
        }
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
        let mut go = Command::new("go");
        go.current_dir(repository().join("ffi/go"))
            .env("PKG_CONFIG_PATH", self.libraries().join("pkgconfig"))
            .env("CGO_LDFLAGS", format!("-Wl,-rpath,{}", self.libraries().display()))
            .envs([("CGO_ENABLED", "1"), ("GOFLAGS", "-mod=mod"), ("GOWORK", "off")])
            .envs([("GOPROXY", "off"), ("GOTOOLCHAIN", "local")])
            .env("GOPATH", kept.join("path"))
            .env("GOCACHE", kept.join("cache"))
            .args(arguments);
        Some(go)
    }

    /// Compiles one of the package's programs.
    pub(crate) fn build_go(&self, name: &str) -> Option<PathBuf> {
        let program = self.prefix.path().join(format!("go-{name}"));
        let package = format!("./examples/{name}");
        run(self.go(&["build", "-o"])?.arg(&program).arg(package));
        Some(program)
    }
}
