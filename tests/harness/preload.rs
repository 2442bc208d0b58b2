//! Builds the C libraries that tests load into the server with `LD_PRELOAD`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `source` (relative to the crate) into `dir`. Prints a notice and returns `None` if
/// there is no C compiler.
pub(crate) fn build(source: &str, dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let library = dir.join(source.with_extension("so").file_name().unwrap());
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
    match cc.output() {
        Err(e) => {
            println!("skipped: could not run cc: {e}");
            None
        }
        Ok(built) => {
            let stderr = String::from_utf8_lossy(&built.stderr);
            assert!(built.status.success(), "{} does not compile: {stderr}", library.display());
            Some(library)
        }
    }
}
