//! Arguments of `steadfast key`.

use super::ClientArgs;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// Arguments of `steadfast key put`.
#[derive(Args, Clone)]
pub struct KeyPutArgs {
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Key of the item
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Value of the item; - for standard input
    #[arg(value_name = "VALUE", required_unless_present = "file", conflicts_with = "file")]
    #[arg(allow_negative_numbers = true)]
    pub value: Option<OsString>,
    /// File that contains the value; - for standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Metadata to store with the item [default: none]
    #[arg(long, value_name = "TEXT", conflicts_with = "metadata_file")]
    pub metadata: Option<OsString>,
    /// File that contains the metadata; one trailing line break is removed
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Time to live, in seconds or with a unit (30m, 12h, 90d, 2w) [default: never expires]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub ttl: Option<u32>,
    /// Fail if the item exists
    #[arg(long, group = "mode")]
    pub add: bool,
    /// Append to the existing value
    #[arg(long, group = "mode")]
    pub append: bool,
    /// Prepend to the existing value
    #[arg(long, group = "mode")]
    pub prepend: bool,
    /// Only write if the item has this generation; 0 means that the item must not exist
    #[arg(long, value_name = "N")]
    pub if_generation_match: Option<u64>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `steadfast key get`.
#[derive(Args, Clone)]
pub struct KeyGetArgs {
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Key of the item
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Write the value to this file instead of standard output; the file appears once it is
    /// complete
    #[arg(long, short, value_name = "FILE", conflicts_with = "json")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `steadfast key head`.
#[derive(Args, Clone)]
pub struct KeyHeadArgs {
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Key of the item
    #[arg(value_name = "KEY")]
    pub key: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `steadfast key list`.
#[derive(Args, Clone)]
pub struct KeyListArgs {
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Only list keys with this prefix
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// Also show size, generation, modification time, expiry and metadata
    #[arg(long, short)]
    pub long: bool,
    /// Maximum number of keys to list [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `steadfast key delete`.
#[derive(Args, Clone)]
#[command(override_usage = "\
steadfast key delete [OPTIONS] <STORE> <KEY|--prefix <PREFIX>|--all|--from <FILE>>")]
#[group(id = "which", required = true, multiple = false, args = ["key", "prefix", "all", "from"])]
pub struct KeyDeleteArgs {
    /// Name or id of the store
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Key of the item
    #[arg(value_name = "KEY")]
    pub key: Option<String>,
    /// Delete all items with this key prefix
    #[arg(long, value_name = "PREFIX")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub prefix: Option<String>,
    /// Delete all items in the store
    #[arg(long)]
    pub all: bool,
    /// Delete the items whose keys are in this file, one per line; - for standard input. Keys
    /// that do not exist count as deleted
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Only delete the item if it has this generation; requires KEY
    #[arg(long, value_name = "N", requires = "key")]
    pub if_generation_match: Option<u64>,
    /// Print how many items would be deleted, but do not delete them
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Parses a duration such as 90, 90s, 10m, 2h, 3d or 1w into seconds.
///
/// # Errors
/// Returns a message for the user if the duration is invalid or too long.
// The humantime crate is unsuitable: it rejects a number without a unit and accepts fractions of a
// second.
pub fn parse_duration(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits).unwrap_or_default() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        other => return Err(format!("unknown unit {other:?}: use s, m, h, d or w")),
    };
    let count: u32 = digits
        .parse()
        .map_err(|_| "must be a number of seconds, or a duration such as 10m, 2h or 3d")?;
    match count.checked_mul(unit) {
        Some(0) => Err("must be at least one second".into()),
        Some(seconds) => Ok(seconds),
        None => Err(format!("must be at most {} seconds", u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_duration;

    #[test]
    fn a_duration_without_a_unit_is_in_seconds() {
        for (text, expected) in
            [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259_200), ("1w", 604_800)]
        {
            assert_eq!(parse_duration(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "0", "0m", "m", "1y", "-1", "1.5h", "4294967296", "99999999w", "1 h", "1hh"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
