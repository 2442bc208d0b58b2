//! Flags of `steadfast key`.

use super::ClientArgs;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Flags of `steadfast key put`.
#[derive(Args, Clone)]
pub struct KeyPutArgs {
    /// Name of the store, or its id
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Key of the item
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Value; - takes it from the standard input
    #[arg(value_name = "VALUE", required_unless_present = "file", conflicts_with = "file")]
    #[arg(allow_negative_numbers = true)]
    pub value: Option<OsString>,
    /// File that holds the value; - is the standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Metadata to keep with the item; without it the item has none
    #[arg(long, value_name = "TEXT", conflicts_with = "metadata_file")]
    pub metadata: Option<OsString>,
    /// File that holds the metadata, byte for byte but for a line end at its end
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// How long the item lives: seconds, or a number with s, m, h, d or w; for ever by default
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub ttl: Option<u32>,
    /// Fail if the item is there
    #[arg(long, group = "mode")]
    pub add: bool,
    /// Put the value behind the one that is there
    #[arg(long, group = "mode")]
    pub append: bool,
    /// Put the value before the one that is there
    #[arg(long, group = "mode")]
    pub prepend: bool,
    /// Fail unless the item has this generation; 0: unless it is not there
    #[arg(long, value_name = "N")]
    pub if_generation_match: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast key get`.
#[derive(Args, Clone)]
pub struct KeyGetArgs {
    /// Name of the store, or its id
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Key of the item
    #[arg(value_name = "KEY")]
    pub key: String,
    /// File to write the value to, instead of the standard output; it appears once it is whole
    #[arg(long, short, value_name = "FILE", conflicts_with = "json")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast key head`.
#[derive(Args, Clone)]
pub struct KeyHeadArgs {
    /// Name of the store, or its id
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Key of the item
    #[arg(value_name = "KEY")]
    pub key: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast key list`.
#[derive(Args, Clone)]
pub struct KeyListArgs {
    /// Name of the store, or its id
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Only keys that begin so
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// Show size, generation, time of change, time of expiry and metadata too
    #[arg(long, short)]
    pub long: bool,
    /// No more keys than this; all by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// Flags of `steadfast key delete`.
#[derive(Args, Clone)]
#[command(override_usage = "\
steadfast key delete [OPTIONS] <STORE> <KEY|--prefix <PREFIX>|--all|--from <FILE>>")]
#[group(id = "which", required = true, multiple = false, args = ["key", "prefix", "all", "from"])]
pub struct KeyDeleteArgs {
    /// Name of the store, or its id
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Key of the item
    #[arg(value_name = "KEY")]
    pub key: Option<String>,
    /// Delete all items whose keys begin so
    #[arg(long, value_name = "PREFIX")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub prefix: Option<String>,
    /// Delete all items of the store
    #[arg(long)]
    pub all: bool,
    /// Delete the items whose keys stand in this file, one a line, and count those that are not
    /// there too; - is the standard input
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Fail unless the item has this generation; with KEY only
    #[arg(long, value_name = "N", requires = "key")]
    pub if_generation_match: Option<u64>,
    /// Say how many items would be deleted, and delete none
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask: for scripts
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a text here would become the command's")]
    pub client: ClientArgs,
}

/// A time as people write it: 90, 90s, 10m, 2h, 3d, 1w; in seconds.
///
/// # Errors
/// In words.
pub fn seconds(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits).unwrap_or_default() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        other => return Err(format!("{other:?} is not one of s, m, h, d and w")),
    };
    let count: u32 =
        digits.parse().map_err(|_| "it must be a number of seconds, or 10m, 2h, 3d")?;
    match count.checked_mul(unit) {
        Some(0) => Err("it must be at least one second".into()),
        Some(seconds) => Ok(seconds),
        None => Err(format!("it must be at most {} seconds", u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in
            [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259_200), ("1w", 604_800)]
        {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "0", "0m", "m", "1y", "-1", "1.5h", "4294967296", "99999999w", "1 h", "1hh"]
        {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
