//! The command line of this process.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How this process was started, so that it can be started again: by the same path, whatever is there then.
#[derive(Clone, Debug)]
pub struct Launch {
    pub(super) program: PathBuf,
    arguments: Vec<OsString>,
}

impl Launch {
    /// To be called at the start: later the path may be another file's.
    ///
    /// # Errors
    /// One line: the system does not say which file this is.
    pub fn of_this_process() -> Result<Launch, String> {
        use std::os::unix::fs::MetadataExt;
        let mut arguments = std::env::args_os();
        let called = arguments.next().map(PathBuf::from).unwrap_or_default();
        let file = std::env::current_exe().map_err(|error| error.to_string())?;
        // As it was called, where that names the same file: a link may point to another version then.
        let identity = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.dev(), found.ino()))
        };
        let search = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<PathBuf> = match called.components().count() {
            1 => std::env::split_paths(&search)
                .map(|dir| dir.join(&called))
                .collect(),
            _ => vec![called],
        };
        places.retain(|place| identity(place) == identity(&file));
        let absolute = places
            .first()
            .and_then(|place| std::path::absolute(place).ok());
        Ok(Launch {
            program: absolute.unwrap_or(file),
            arguments: arguments.collect(),
        })
    }

    /// To start it again.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}
