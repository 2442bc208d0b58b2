//! Client errors and their exit statuses.

use crate::wire::Problem;
use std::time::Duration;

/// The class of an error, which determines the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The store, item or token does not exist.
    NotFound,
    /// A precondition failed: for example, the name is taken or the item has a different
    /// generation.
    Precondition,
    /// The token is missing, unknown or lacks permission.
    Auth,
    /// The server is unreachable, or the connection was lost.
    Unreachable,
    /// The command line is invalid, or the server rejected an argument.
    Usage,
    /// Any other failure.
    Other,
}

impl ErrorKind {
    /// Returns the exit status of a command that fails with this error.
    pub fn exit_status(self) -> u8 {
        match self {
            ErrorKind::Other => 1,
            ErrorKind::Usage => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::Precondition => 4,
            ErrorKind::Auth => 5,
            ErrorKind::Unreachable => 6,
        }
    }
}

/// The reason a request failed. Messages name the subject of the request and never contain the
/// token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The server responded with an error status.
    #[error("{subject}: {message}")]
    Status {
        /// The subject of the request.
        subject: String,
        /// The response status.
        status: u16,
        /// The server's message, or the meaning of the status.
        message: String,
        /// The delay that the server requests before a retry.
        retry_after: Option<Duration>,
    },
    /// No connection was established, so the server did not receive the request.
    #[error("{subject}: cannot reach {endpoint}: {reason}")]
    Unreachable {
        /// The subject of the request.
        subject: String,
        /// The server's address.
        endpoint: String,
        /// The cause reported by the system.
        reason: String,
    },
    /// The connection was lost or timed out before the response was complete.
    #[error("{subject}: lost the connection to {endpoint}: {reason}")]
    Disconnected {
        /// The subject of the request.
        subject: String,
        /// The server's address.
        endpoint: String,
        /// The cause reported by the system.
        reason: String,
    },
    /// No object has the given name or id.
    #[error("{0}")]
    NotFound(String),
    /// No token is configured.
    #[error("{0}")]
    NoToken(String),
    /// The command line or the request is invalid.
    #[error("{0}")]
    Usage(String),
    /// A local operation failed, such as reading a file.
    #[error("{0}")]
    Local(String),
    /// The response does not follow the API.
    #[error("{subject}: invalid KV Store API response: {reason}")]
    Unexpected {
        /// The subject of the request.
        subject: String,
        /// The defect in the response.
        reason: String,
    },
}

impl Error {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Status { status: 404, .. } | Error::NotFound(_) => ErrorKind::NotFound,
            Error::Status { status: 412 | 409, .. } => ErrorKind::Precondition,
            // Only the message distinguishes a name that is taken from one that is invalid.
            Error::Status { status: 400, message, .. } if message.contains("already exists") => {
                ErrorKind::Precondition
            }
            Error::Status { status: 401 | 403, .. } | Error::NoToken(_) => ErrorKind::Auth,
            Error::Status { status: 400, .. } | Error::Usage(_) => ErrorKind::Usage,
            Error::Status { .. } | Error::Local(_) | Error::Unexpected { .. } => ErrorKind::Other,
            Error::Unreachable { .. } | Error::Disconnected { .. } => ErrorKind::Unreachable,
        }
    }

    /// Returns the status of the response, if there was one.
    pub fn status(&self) -> Option<u16> {
        if let Error::Status { status, .. } = self { Some(*status) } else { None }
    }

    /// Returns whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Status { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            Error::Unreachable { .. } | Error::Disconnected { .. } => true,
            Error::NotFound(_) | Error::NoToken(_) | Error::Usage(_) => false,
            Error::Local(_) | Error::Unexpected { .. } => false,
        }
    }

    /// Returns the delay that the server requests before a retry.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Error::Status { retry_after, .. } = self { *retry_after } else { None }
    }

    /// Creates an error from an error response and the part of its body that was read.
    pub(super) fn from_response(
        subject: &str,
        status: u16,
        body: &[u8],
        retry_after: Option<Duration>,
    ) -> Error {
        let message = message(status, body);
        Error::Status { subject: subject.into(), status, message, retry_after }
    }
}

/// Returns the server's message, or the meaning of the status if there is none.
fn message(status: u16, body: &[u8]) -> String {
    /// A [`Problem`] with optional fields.
    #[derive(serde::Deserialize)]
    struct PartialProblem {
        #[serde(default)]
        msg: String,
        #[serde(default)]
        title: String,
        #[serde(default)]
        detail: String,
    }
    let problem = serde_json::from_slice::<Problem>(body)
        .map(|p| PartialProblem { msg: p.msg, title: p.title, detail: p.detail })
        .or_else(|_| serde_json::from_slice::<PartialProblem>(body));
    if let Ok(PartialProblem { msg, title, detail }) = problem {
        let summary = if title.is_empty() { msg } else { title };
        let detail = if detail == summary { String::new() } else { detail };
        let parts = [summary, detail].into_iter().filter(|part| !part.is_empty());
        let text = parts.map(|part| printable(&part)).collect::<Vec<_>>().join(": ");
        if !text.is_empty() {
            return format!("{text} ({status})");
        }
    }
    let meaning = match status {
        401 => "missing or invalid token",
        403 => "the token lacks permission",
        404 => "not found",
        409 => "the store is not empty, or the name is taken",
        412 => "the item exists or has another generation",
        413 => "the value is too large",
        429 => "too many requests",
        300..=399 => "redirects are not followed",
        500..=599 => "server error",
        _ => "request rejected",
    };
    format!("{meaning} ({status})")
}

/// Truncates a text and replaces control characters, which a terminal might interpret.
fn printable(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, body: &str) -> Error {
        Error::from_response("item k of store s", status, body.as_bytes(), None)
    }

    #[test]
    fn each_error_status_has_an_exit_status() {
        let codes =
            [(404, 3), (412, 4), (409, 4), (401, 5), (403, 5), (400, 2), (413, 1), (500, 1)];
        for (status, code) in codes {
            assert_eq!(error(status, "").kind().exit_status(), code, "{status}");
        }
        let taken = r#"{"title":"Bad request","detail":"store with name 'x' already exists"}"#;
        assert_eq!(error(400, taken).kind(), ErrorKind::Precondition);
    }

    #[test]
    fn server_messages_are_shown_without_control_characters() {
        let body = r#"{"msg":"m","title":"Bad","detail":"the \u001b[31mkey","status":400}"#;
        let shown = error(400, body).to_string();
        assert_eq!(shown, "item k of store s: Bad: the  [31mkey (400)");
        let shown = error(404, r#"{"msg":"Record not found"}"#).to_string();
        assert_eq!(shown, "item k of store s: Record not found (404)");
        assert!(error(412, "").to_string().contains("another generation"));
    }
}
