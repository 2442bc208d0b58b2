//! Confirmation of destructive commands.

use super::error::{CommandError, Result, usage_error};
use super::output::print_status;
use std::io::{self, IsTerminal, Write};

/// Asks for confirmation of `action`, such as `delete store "site"`, unless `yes` is set. `yes` is
/// required without a terminal.
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
    // On a separate thread, so that an interrupt can end the command.
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    match answer.await {
        Ok(Ok(line)) if matches!(line.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) | Err(_) => Err(CommandError::Declined),
    }
}
