//! Flags of the commands that move items: import, export, sync.

use super::ClientArgs;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// What an import does with an item that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IfExistsArg {
    /// Leave it as it is
    Skip,
    /// Replace it
    Overwrite,
    /// Count it as failed, and go on
    Fail,
}

/// What an input is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// One JSON object a line, as export writes them, or as the batch endpoint takes them
    Ndjson,
    /// A folder: the files are the values, their relative paths the keys
    Dir,
    /// A kv.json of the local emulator
    Viceroy,
    /// A fastly.toml, which names stores
    Fastly,
    /// Columns key and value; by a first line of names also metadata and time_to_live_sec
    Csv,
}

/// Flags of `steadfast import`.
#[derive(Args, Clone)]
pub struct ImportArgs {
    /// Store, by name or id, and what goes into it: a file, a folder, or - for the standard input.
    /// A fastly.toml alone fills the stores that it names, and makes them
    #[arg(value_names = ["STORE", "INPUT"], num_args = 1..=2, required = true)]
    pub what: Vec<PathBuf>,
    /// What the input is written as; told by its name or its beginning without this
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<FormatArg>,
    /// What to do with an item that is there
    #[arg(long, value_name = "WHAT", default_value = "overwrite")]
    pub if_exists: IfExistsArg,
    /// Go on where an import of the same input stopped
    #[arg(long)]
    pub resume: bool,
    /// File that keeps how far the import has come; without this INPUT.resume
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Requests at once
    #[arg(long, short, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
    /// Make the store if there is none of that name
    #[arg(long)]
    pub create: bool,
    /// Read and check all, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// File for what failed, one JSON object a line; without this the standard error tells it
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Largest value to take, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 25 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub max_value: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// What an export writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportTo {
    /// One JSON object a line, with all there is to an item
    Ndjson,
    /// A folder for the local emulator, and the lines of a fastly.toml that name it
    Viceroy,
}

/// Flags of `steadfast export`.
#[derive(Args, Clone)]
pub struct ExportArgs {
    /// Name of the store, or its id
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Folder to write to, with --to viceroy
    #[arg(value_name = "DIR", required_if_eq("to", "viceroy"), conflicts_with = "output")]
    pub dir: Option<PathBuf>,
    /// What is written
    #[arg(long, value_name = "FORMAT", default_value = "ndjson")]
    pub to: ExportTo,
    /// Only items whose keys begin so
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    /// File to write, or - for the standard output; compressed if its name ends with .zst
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast sync`.
#[derive(Args, Clone)]
pub struct SyncArgs {
    /// Store to take items from: a name or an id, or one at another server, as NAME@URL
    #[arg(value_name = "FROM")]
    pub from: String,
    /// Store to make like it, named in the same way
    #[arg(value_name = "TO")]
    pub to: String,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Delete what FROM has not, after a question
    #[arg(long)]
    pub delete: bool,
    /// Take items of the same size, metadata and time for the same, without reading them; both
    /// servers must be Steadfast
    #[arg(long)]
    pub quick: bool,
    /// Make the store TO if there is none of that name
    #[arg(long)]
    pub create: bool,
    /// Only items whose keys begin so
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    /// Do not ask: for scripts
    #[arg(long, short)]
    pub yes: bool,
    /// File that holds the token for FROM, where it is at another server than --endpoint
    #[arg(long, value_name = "FILE", env = "STEADFAST_FROM_TOKEN_FILE")]
    pub from_token_file: Option<PathBuf>,
    /// File that holds the token for TO, where it is at another server than --endpoint
    #[arg(long, value_name = "FILE", env = "STEADFAST_TO_TOKEN_FILE")]
    pub to_token_file: Option<PathBuf>,
    /// Largest value to copy, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 25 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub max_value: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}
