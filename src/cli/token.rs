//! `steadfast token`: the commands for limited tokens.

use super::confirm::confirm;
use super::error::{Result, exit_status, usage_error};
use super::output::{Output, print_json_if, print_status};
use super::runtime;
use crate::client::{Client, Error};
use crate::config::{ClientArgs, TokenCreateArgs, TokenRevokeArgs, TokenScope, parse_duration};
use crate::wire::{LimitedToken, MICROS_MAX, TokenRequest, parse_rfc3339, rfc3339};
use clap::Subcommand;
use serde_json::json;
use std::process::ExitCode;
use time::OffsetDateTime;

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Create a limited token and print it; it cannot be shown again
    #[command(after_help = concat!("\
Examples:
  steadfast token create ci
  steadfast token create reader --scope global:read --store site --prefix blog/ --expires 90d
  steadfast token create ci > ci.token

Requires the root token and a Steadfast server.", exit_status!()))]
    Create(TokenCreateArgs),
    /// List the limited tokens, but not their secrets
    #[command(after_help = concat!("\
Examples:
  steadfast token list
  steadfast token list --json | jq -r 'select(.name == \"ci\") | .id'

Requires the root token and a Steadfast server.", exit_status!()))]
    List(ClientArgs),
    /// Revoke a limited token, which becomes invalid at once
    #[command(after_help = concat!("\
Example:
  steadfast token revoke 6sv72yijpvg249233s6w9f

Requires the root token and a Steadfast server.", exit_status!()))]
    Revoke(TokenRevokeArgs),
}

pub(super) fn run(command: TokenCommand) -> ExitCode {
    match command {
        TokenCommand::Create(args) => runtime::run(&args.client, |client| create(client, &args)),
        TokenCommand::List(args) => runtime::run(&args, |client| list(client, args.json)),
        TokenCommand::Revoke(args) => runtime::run(&args.client, |client| revoke(client, &args)),
    }
}

async fn require_steadfast(client: &Client) -> Result<()> {
    if client.is_steadfast().await? {
        return Ok(());
    }
    let text = format!(
        "{} is not a Steadfast server: manage its tokens with the tools of the hosted service",
        client.endpoint()
    );
    Err(Error::NotFound(text).into())
}

async fn create(client: Client, args: &TokenCreateArgs) -> Result<()> {
    let expires_at = args.expires.as_deref().map(parse_expiry).transpose()?;
    require_steadfast(&client).await?;
    let mut stores = Vec::new();
    for name in &args.stores {
        stores.push(client.resolve(name).await?.id);
    }
    let request = TokenRequest {
        name: args.name.clone(),
        scope: match args.scope {
            TokenScope::Global => "global".into(),
            TokenScope::Read => "global:read".into(),
        },
        stores: (!stores.is_empty()).then_some(stores),
        prefix: args.prefix.clone(),
        expires_at,
    };
    let token = client.create_token(&request).await?;
    let mut out = Output::new();
    if args.client.json {
        out.json(&token)?;
    } else {
        print_status(&format!("created {}; it cannot be shown again", label(&client, &token)));
        out.line(token.access_token.as_deref().unwrap_or_default())?;
    }
    out.flush()
}

fn label(client: &Client, token: &LimitedToken) -> String {
    format!("token {:?} ({}) at {}", token.name, token.id, client.endpoint())
}

/// Converts an RFC 3339 time, or a duration from now, to an RFC 3339 time in UTC.
fn parse_expiry(text: &str) -> Result<String> {
    if let Some(time) = parse_rfc3339(text) {
        return Ok(rfc3339(time));
    }
    let seconds = parse_duration(text).map_err(|_| {
        usage_error(
            "--expires must be a duration such as 90d or a time such as 2027-01-31T00:00:00Z",
        )
    })?;
    // The duration is added to the time of this machine, but the server checks the expiry with its
    // own clock.
    let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default();
    let time = now.saturating_add(seconds.into()).saturating_mul(1_000_000);
    if time > MICROS_MAX {
        return Err(usage_error("--expires must not be after the year 9999"));
    }
    Ok(rfc3339(time))
}

async fn list(client: Client, json: bool) -> Result<()> {
    require_steadfast(&client).await?;
    let tokens = client.tokens().await?;
    let mut out = Output::new();
    for token in &tokens {
        if json {
            out.json(token)?;
        } else {
            let line = row(&out, token);
            out.line(&line)?;
        }
    }
    out.flush()
}

fn row(out: &Output, token: &LimitedToken) -> String {
    let expires = token.expires_at.as_deref().unwrap_or("-");
    let mut line = format!(
        "{}  {:11}  {}  {expires:27}  {}",
        token.id,
        token.scope,
        token.created_at,
        out.sanitize(&token.name)
    );
    if !token.stores.is_empty() {
        line.push_str(&format!("  stores {}", token.stores.join(",")));
    }
    if !token.prefix.is_empty() {
        line.push_str(&format!("  prefix {}", out.sanitize(&token.prefix)));
    }
    line
}

async fn revoke(client: Client, args: &TokenRevokeArgs) -> Result<()> {
    require_steadfast(&client).await?;
    let mut tokens = client.tokens().await?.into_iter();
    let Some(token) = tokens.find(|token| token.id == args.id) else {
        let text = format!("no token with id {:?} at {}", args.id, client.endpoint());
        return Err(Error::NotFound(text).into());
    };
    let label = label(&client, &token);
    confirm(&format!("revoke {label}"), args.yes).await?;
    client.revoke_token(&token.id).await?;
    print_status(&format!("revoked {label}"));
    let result = json!({ "id": token.id, "name": token.name, "revoked": true });
    print_json_if(args.client.json, &result)
}
