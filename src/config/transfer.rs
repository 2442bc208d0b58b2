//! Arguments of the commands that import, export and synchronize items.

use super::ClientArgs;
use crate::wire::IfExists;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// The format of an import's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ItemFormat {
    /// Newline-delimited JSON, as written by export or sent to the batch endpoint
    Ndjson,
    /// A directory: files are values, and their relative paths are keys
    #[value(name = "dir")]
    Directory,
    /// A kv.json of the local emulator (Viceroy)
    #[value(name = "viceroy")]
    KvJson,
    /// A fastly.toml, which names the stores and their items
    #[value(name = "fastly")]
    FastlyToml,
    /// CSV with the columns key and value, and with a header row also metadata and
    /// time_to_live_sec
    Csv,
}

impl ItemFormat {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ItemFormat::Ndjson => "ndjson",
            ItemFormat::Directory => "dir",
            ItemFormat::KvJson => "viceroy",
            ItemFormat::FastlyToml => "fastly",
            ItemFormat::Csv => "csv",
        }
    }
}

/// Arguments of `steadfast import`.
#[derive(Args, Clone)]
pub struct ImportArgs {
    /// Store (name or id), and the file or directory to import, or - for standard input. Without
    /// STORE, a fastly.toml is imported into all stores it names, which are created as needed
    #[arg(value_names = ["STORE", "INPUT"], num_args = 1..=2, required = true)]
    pub operands: Vec<PathBuf>,
    /// Format of the input; detected from its name or content if omitted
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<ItemFormat>,
    /// How to treat existing items
    #[arg(long, value_name = "ACTION", default_value = "overwrite")]
    pub if_exists: IfExists,
    /// Continue an interrupted import of the same input
    #[arg(long)]
    pub resume: bool,
    /// File to save the progress of the import to, instead of INPUT.resume
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Number of concurrent requests
    #[arg(long, short, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
    /// Create the store if it does not exist
    #[arg(long)]
    pub create: bool,
    /// Read and check all items without writing any
    #[arg(long)]
    pub dry_run: bool,
    /// File to write failures to as NDJSON, instead of text on standard error
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Largest value to import, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 25 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub max_value: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would replace the command's help")]
    pub client: ClientArgs,
}

/// The format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportTo {
    /// Newline-delimited JSON with all properties of each item
    Ndjson,
    /// A directory for the local emulator, and the fastly.toml section that refers to it
    Viceroy,
}

/// Arguments of `steadfast export`.
#[derive(Args, Clone)]
pub struct ExportArgs {
    /// Store (name or id)
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Directory to write to, with --to viceroy
    #[arg(value_name = "DIR", required_if_eq("to", "viceroy"), conflicts_with = "output")]
    pub dir: Option<PathBuf>,
    /// Format of the export
    #[arg(long, value_name = "FORMAT", default_value = "ndjson")]
    pub to: ExportTo,
    /// Only export keys with this prefix
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    /// File to write to, or - for standard output; compressed if the name ends in .zst
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Replace an existing file or export directory
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would replace the command's help")]
    pub client: ClientArgs,
}

/// Arguments of `steadfast sync`.
#[derive(Args, Clone)]
pub struct SyncArgs {
    /// Source store: a name or id, or NAME@URL for a store at another server
    #[arg(value_name = "FROM")]
    pub from: String,
    /// Destination store, given in the same way
    #[arg(value_name = "TO")]
    pub to: String,
    /// Print the changes without making them
    #[arg(long)]
    pub dry_run: bool,
    /// Delete items that exist only in the destination, after confirmation
    #[arg(long)]
    pub delete: bool,
    /// Treat items with the same size, metadata, expiry and modification time as equal without
    /// comparing values; requires Steadfast at both ends
    #[arg(long)]
    pub quick: bool,
    /// Create the destination store if it does not exist
    #[arg(long)]
    pub create: bool,
    /// Only synchronize keys with this prefix
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
    /// File with the token for FROM, if it is at another server than --endpoint
    #[arg(long, value_name = "FILE", env = "STEADFAST_FROM_TOKEN_FILE")]
    pub from_token_file: Option<PathBuf>,
    /// File with the token for TO, if it is at another server than --endpoint
    #[arg(long, value_name = "FILE", env = "STEADFAST_TO_TOKEN_FILE")]
    pub to_token_file: Option<PathBuf>,
    /// Largest value to copy, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 25 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub max_value: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would replace the command's help")]
    pub client: ClientArgs,
}
