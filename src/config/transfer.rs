//! Arguments of the commands that import, export and synchronize items.

use super::ClientArgs;
use crate::wire::IfExists;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// The format of the input of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    /// Newline-delimited JSON, as written by export and accepted by the batch endpoint
    Ndjson,
    /// A directory: each file is a value, and its relative path is the key
    #[value(name = "dir")]
    Directory,
    /// A kv.json file of the local emulator (Viceroy)
    #[value(name = "viceroy")]
    KvJson,
    /// A fastly.toml file, which declares stores and their items
    #[value(name = "fastly")]
    FastlyToml,
    /// CSV with the columns key and value; a header row can add metadata and time_to_live_sec
    Csv,
    /// Cloudflare's bulk JSON, as read by wrangler kv bulk put
    Cloudflare,
    /// The output of consul kv export
    Consul,
    /// The output of etcdctl get --prefix "" -w json
    Etcd,
}

impl ImportFormat {
    /// Returns the name of the format on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ImportFormat::Ndjson => "ndjson",
            ImportFormat::Directory => "dir",
            ImportFormat::KvJson => "viceroy",
            ImportFormat::FastlyToml => "fastly",
            ImportFormat::Csv => "csv",
            ImportFormat::Cloudflare => "cloudflare",
            ImportFormat::Consul => "consul",
            ImportFormat::Etcd => "etcd",
        }
    }
}

/// Arguments of `steadfast import`.
#[derive(Args, Clone)]
pub struct ImportArgs {
    /// Name or id of the store, and the file or directory to import; - for standard input. If STORE
    /// is omitted, a fastly.toml is imported into the stores it declares; stores that do not
    /// exist are created
    #[arg(value_names = ["STORE", "INPUT"], num_args = 1..=2, required = true)]
    pub operands: Vec<PathBuf>,
    /// Format of the input [default: detected from its name or content]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<ImportFormat>,
    /// How to treat items that already exist
    #[arg(long, value_name = "ACTION", default_value = "overwrite")]
    pub if_exists: IfExists,
    /// Continue an interrupted import of the same input
    #[arg(long)]
    pub resume: bool,
    /// File in which to save the progress of the import [default: INPUT.resume]
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Number of concurrent requests
    #[arg(long, short, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
    /// Create the store if it does not exist
    #[arg(long)]
    pub create: bool,
    /// Read and check all items, but do not import them
    #[arg(long)]
    pub dry_run: bool,
    /// Report failed items as NDJSON in this file instead of as text on standard error; ignored
    /// with --dry-run
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Maximum size of a value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 25 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub max_value: u64,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// The format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Newline-delimited JSON with all properties of each item
    Ndjson,
    /// A directory for the local emulator (Viceroy), and the fastly.toml section that declares it
    Viceroy,
}

/// Arguments of `steadfast export`.
#[derive(Args, Clone)]
pub struct ExportArgs {
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Directory to write to; requires --to viceroy
    #[arg(value_name = "DIR", required_if_eq("to", "viceroy"), conflicts_with = "output")]
    pub dir: Option<PathBuf>,
    /// Format of the export
    #[arg(long, value_name = "FORMAT", default_value = "ndjson")]
    pub to: ExportFormat,
    /// Only export keys with this prefix
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    /// Output file, compressed if its name ends in .zst; - for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Replace an existing file or export directory
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `steadfast sync`.
#[derive(Args, Clone)]
pub struct SyncArgs {
    /// Source store: a name or id, or NAME@URL for a store on another server
    #[arg(value_name = "FROM")]
    pub from: String,
    /// Destination store, in the same form
    #[arg(value_name = "TO")]
    pub to: String,
    /// Print the changes, but do not make them
    #[arg(long)]
    pub dry_run: bool,
    /// Delete items that exist only in the destination, after confirmation
    #[arg(long)]
    pub delete: bool,
    /// Treat items with the same size, metadata, expiry and modification time as equal without
    /// comparing their values; requires Steadfast servers on both sides
    #[arg(long)]
    pub quick: bool,
    /// Create the destination store if it does not exist
    #[arg(long)]
    pub create: bool,
    /// Only synchronize keys with this prefix
    #[arg(long, value_name = "PREFIX", value_parser = NonEmptyStringValueParser::new())]
    pub prefix: Option<String>,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
    /// File that contains the token for the server of FROM, if it is not the server at --endpoint
    #[arg(long, value_name = "FILE", env = "STEADFAST_FROM_TOKEN_FILE")]
    pub from_token_file: Option<PathBuf>,
    /// File that contains the token for the server of TO, if it is not the server at --endpoint
    #[arg(long, value_name = "FILE", env = "STEADFAST_TO_TOKEN_FILE")]
    pub to_token_file: Option<PathBuf>,
    /// Maximum size of a value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 25 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub max_value: u64,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}
