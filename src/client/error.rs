//! What can go wrong between a client and a server, and the exit status that tells it.

use crate::wire::Problem;
use std::time::Duration;

/// What a failure means for the one who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such store, item or token.
    NotFound,
    /// A condition is not met: another generation, a name that is taken, a store that is not empty.
    Precondition,
    /// The token is missing, unknown, or may not do this.
    Auth,
    /// The server could not be reached, or the connection was cut.
    Unreachable,
    /// The command was called wrongly, or the server does not take an argument.
    Usage,
    /// All else.
    Other,
}

impl Kind {
    /// The exit status of a command that ends so.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Other => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::Precondition => 4,
            Kind::Auth => 5,
            Kind::Unreachable => 6,
        }
    }
}

/// Why a request failed. The texts name what was asked for, and never the token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The server refused it.
    #[error("{what}: {said}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The status of the answer.
        status: u16,
        /// What the answer says.
        said: String,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// No connection was made: the server has seen nothing of the request.
    #[error("{what}: cannot reach {endpoint}: {why}")]
    Unreachable {
        /// What was asked for.
        what: String,
        /// Where.
        endpoint: String,
        /// What the system says.
        why: String,
    },
    /// The connection was cut, or stood still, before the answer was whole.
    #[error("{what}: the connection to {endpoint} was cut: {why}")]
    Cut {
        /// What was asked for.
        what: String,
        /// Where.
        endpoint: String,
        /// What the system says.
        why: String,
    },
    /// Nothing of that name is there.
    #[error("{0}")]
    NotFound(String),
    /// There is no token to send.
    #[error("{0}")]
    NoToken(String),
    /// The request makes no sense.
    #[error("{0}")]
    Usage(String),
    /// What was to be sent could not be read, or what came could not be kept.
    #[error("{0}")]
    Local(String),
    /// The answer is none that this API knows.
    #[error("{what}: the answer is not one of a KV Store API: {why}")]
    Unexpected {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// What the failure means.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Refused { status: 404, .. } | Error::NotFound(_) => Kind::NotFound,
            Error::Refused { status: 412 | 409, .. } => Kind::Precondition,
            // A taken name is a 400, and only its text tells it from a name that is not allowed.
            Error::Refused { status: 400, said, .. } if said.contains("already exists") => {
                Kind::Precondition
            }
            Error::Refused { status: 401 | 403, .. } | Error::NoToken(_) => Kind::Auth,
            Error::Refused { status: 400, .. } | Error::Usage(_) => Kind::Usage,
            Error::Refused { .. } | Error::Local(_) | Error::Unexpected { .. } => Kind::Other,
            Error::Unreachable { .. } | Error::Cut { .. } => Kind::Unreachable,
        }
    }

    /// The status of the answer, where there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            Error::Unreachable { .. }
            | Error::Cut { .. }
            | Error::NotFound(_)
            | Error::NoToken(_)
            | Error::Usage(_)
            | Error::Local(_)
            | Error::Unexpected { .. } => None,
        }
    }

    /// Whether the same request may go well a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Refused { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            Error::Unreachable { .. } | Error::Cut { .. } => true,
            Error::NotFound(_) | Error::NoToken(_) | Error::Usage(_) => false,
            Error::Local(_) | Error::Unexpected { .. } => false,
        }
    }

    /// How long the server asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Refused { retry_after, .. } => *retry_after,
            Error::Unreachable { .. }
            | Error::Cut { .. }
            | Error::NotFound(_)
            | Error::NoToken(_)
            | Error::Usage(_)
            | Error::Local(_)
            | Error::Unexpected { .. } => None,
        }
    }

    /// From an answer that refuses, with as much of its body as was read.
    pub(super) fn refused(
        what: &str,
        status: u16,
        body: &[u8],
        retry_after: Option<Duration>,
    ) -> Error {
        Error::Refused { what: what.into(), status, said: said(status, body), retry_after }
    }
}

/// The server's own words, or what its status means.
fn said(status: u16, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Words {
        #[serde(default)]
        msg: String,
        #[serde(default)]
        title: String,
        #[serde(default)]
        detail: String,
    }
    let words = serde_json::from_slice::<Problem>(body)
        .map(|p| Words { msg: p.msg, title: p.title, detail: p.detail })
        .or_else(|_| serde_json::from_slice::<Words>(body));
    if let Ok(Words { msg, title, detail }) = words {
        let head = if title.is_empty() { msg } else { title };
        let detail = if detail == head { String::new() } else { detail };
        let parts = [head, detail].into_iter().filter(|part| !part.is_empty());
        let text = parts.map(|part| plain(&part)).collect::<Vec<_>>().join(": ");
        if !text.is_empty() {
            return format!("{text} ({status})");
        }
    }
    let meaning = match status {
        401 => "the token is missing or not known",
        403 => "the token may not do this",
        404 => "it is not there",
        409 => "the store is not empty, or the name is taken",
        412 => "the item exists, or has another generation",
        413 => "the value is too large",
        429 => "too many requests",
        300..=399 => "the server wants to send the request elsewhere, which is not done",
        500..=599 => "the server failed",
        _ => "the server refused it",
    };
    format!("{meaning} ({status})")
}

/// Without what would drive a terminal.
fn plain(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Error {
        Error::refused("item k of store s", status, body.as_bytes(), None)
    }

    #[test]
    fn each_failure_has_its_exit_status() {
        let codes =
            [(404, 3), (412, 4), (409, 4), (401, 5), (403, 5), (400, 2), (413, 1), (500, 1)];
        for (status, code) in codes {
            assert_eq!(refused(status, "").kind().exit_code(), code, "{status}");
        }
        let taken = r#"{"title":"Bad request","detail":"store with name 'x' already exists"}"#;
        assert_eq!(refused(400, taken).kind(), Kind::Precondition);
    }

    #[test]
    fn the_servers_words_are_shown_without_what_drives_a_terminal() {
        let body = r#"{"msg":"m","title":"Bad","detail":"the \u001b[31mkey","status":400}"#;
        let shown = refused(400, body).to_string();
        assert_eq!(shown, "item k of store s: Bad: the  [31mkey (400)");
        let shown = refused(404, r#"{"msg":"Record not found"}"#).to_string();
        assert_eq!(shown, "item k of store s: Record not found (404)");
        assert!(refused(412, "").to_string().contains("another generation"));
    }
}
