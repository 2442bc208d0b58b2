//! Confirmation of destructive commands.

use super::error::{CommandError, Result, usage_error};
use super::output::print_status;
use std::io::{self, IsTerminal, Write};

/// Asks the user to confirm `action`, such as `delete store "site"`, unless `yes` is set. Without a
/// terminal, `yes` is required.
pub(super) async fn confirm(action: &str, yes: bool) -> Result<()> {
    if yes {
        print_status(&format!("{action}: confirmed by --yes"));
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        let hint = "pass --yes, or run the command in a terminal";
        return Err(usage_error(format!("refusing to {action} without confirmation: {hint}")));
    }
    let _ = write!(io::stderr(), "{action}? [y/N] ");
    // Read on a separate thread, so that an interrupt can end the command.
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    match answer.await {
        Ok(Ok(line)) if matches!(line.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) | Err(_) => Err(CommandError::Declined),
    }
}
