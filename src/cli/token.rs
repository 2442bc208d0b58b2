//! `steadfast token`.

use super::console::{self, Out, Stop, confirm, exit_status, note, usage};
use crate::client::{Client, Error};
use crate::config::{TokenCreateArgs, TokenListArgs, TokenRevokeArgs, TokenScope};
use crate::wire::{LimitedToken, TokenRequest};
use clap::Subcommand;
use serde_json::json;
use std::process::ExitCode;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, UtcOffset};

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token for others, and print it: it is shown this once
    #[command(after_help = concat!("\
Examples:
  steadfast token create ci
  steadfast token create reader --scope global:read --store site --prefix blog/ --expires 90d
  steadfast token create ci > ci.token

Only the root token may do this, and only at a Steadfast server.", exit_status!()))]
    Create(TokenCreateArgs),
    /// List the tokens there are, without the tokens themselves
    #[command(after_help = concat!("\
Examples:
  steadfast token list
  steadfast token list --json | jq -r 'select(.name == \"ci\") | .id'

Only the root token may do this, and only at a Steadfast server.", exit_status!()))]
    List(TokenListArgs),
    /// Make a token worthless, at once
    #[command(after_help = concat!("\
Example:
  steadfast token revoke 6sv72yijpvg249233s6w9f

Only the root token may do this, and only at a Steadfast server.", exit_status!()))]
    Revoke(TokenRevokeArgs),
}

pub(super) fn run(command: TokenCommand) -> ExitCode {
    match command {
        TokenCommand::Create(args) => console::run(&args.client, |client| create(client, &args)),
        TokenCommand::List(args) => console::run(&args.client, |client| list(client, &args)),
        TokenCommand::Revoke(args) => console::run(&args.client, |client| revoke(client, &args)),
    }
}

/// A server that has no such path is none of ours.
async fn only_steadfast(client: &Client) -> Result<(), Stop> {
    if client.is_steadfast().await? {
        return Ok(());
    }
    let text =
        format!("{} is no Steadfast server: it keeps its tokens elsewhere", client.endpoint());
    Err(Error::NotFound(text).into())
}

async fn create(client: Client, args: &TokenCreateArgs) -> Result<(), Stop> {
    let expires_at = args.expires.as_deref().map(moment).transpose()?;
    only_steadfast(&client).await?;
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
    let made = client.create_token(&request).await?;
    let mut out = Out::new();
    if args.client.json {
        out.json(&made)?;
    } else {
        let at = client.endpoint();
        note(&format!("made token {:?} ({}) at {at}; keep it now", made.name, made.id));
        out.line(made.access_token.as_deref().unwrap_or_default())?;
    }
    out.flush()
}

/// A time from now on, or a time as it stands in JSON.
fn moment(text: &str) -> Result<String, Stop> {
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        let at = at.to_offset(UtcOffset::UTC).format(&Rfc3339);
        return at.map_err(|e| usage(format!("--expires: {e}")));
    }
    let seconds = crate::config::seconds(text).map_err(|_| {
        usage("--expires must be a time from now such as 90d, or such as 2027-01-31T00:00:00Z")
    })?;
    // The person's own clock is what they mean; the server judges by its own.
    let at = OffsetDateTime::now_utc().checked_add(Duration::seconds(seconds.into()));
    let at = at.and_then(|at| at.replace_nanosecond(0).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).ok_or_else(|| usage("--expires is too far away"))
}

async fn list(client: Client, args: &TokenListArgs) -> Result<(), Stop> {
    only_steadfast(&client).await?;
    let tokens = client.tokens().await?;
    let mut out = Out::new();
    for token in &tokens {
        if args.client.json {
            out.json(token)?;
        } else {
            let line = row(&out, token);
            out.line(&line)?;
        }
    }
    out.flush()
}

fn row(out: &Out, token: &LimitedToken) -> String {
    let expires = token.expires_at.as_deref().unwrap_or("-");
    let mut line = format!(
        "{}  {:11}  {}  {expires:27}  {}",
        token.id,
        token.scope,
        token.created_at,
        out.shown(&token.name)
    );
    if !token.stores.is_empty() {
        line.push_str(&format!("  stores {}", token.stores.join(",")));
    }
    if !token.prefix.is_empty() {
        line.push_str(&format!("  prefix {}", out.shown(&token.prefix)));
    }
    line
}

async fn revoke(client: Client, args: &TokenRevokeArgs) -> Result<(), Stop> {
    only_steadfast(&client).await?;
    let known = client.tokens().await?.into_iter().find(|token| token.id == args.id);
    let Some(token) = known else {
        let text = format!("no token has the id {:?} at {}", args.id, client.endpoint());
        return Err(Error::NotFound(text).into());
    };
    let whole = format!("token {:?} ({}) at {}", token.name, token.id, client.endpoint());
    confirm(&format!("revoke {whole}"), args.yes).await?;
    client.revoke_token(&token.id).await?;
    note(&format!("revoked {whole}"));
    let mut out = Out::new();
    if args.client.json {
        out.json(&json!({ "id": token.id, "name": token.name, "revoked": true }))?;
    }
    out.flush()
}
