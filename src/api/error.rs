//! API errors. Only this module maps failures to statuses and error bodies (docs/contract.md
//! section 1).

use super::limiter::Permit;
use crate::http::{
    BodyError, FIELDS_BYTES_MAX, FIELDS_MAX, Payload, RequestError, Response, TARGET_BYTES_MAX,
};
use crate::kv;
use crate::kv::clock::SECOND;
use crate::simulation::{Fault, RateLimited};
use crate::wire::Problem;
use bytes::Bytes;
use std::io;

/// The message of the hosted API's 429 responses (docs/contract.md section 4).
const RATE_LIMITED: &str = "You have exceeded your hourly rate limit. Please contact \
                            support@fastly.com if you think this is a mistake.";

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The KV layer failed or refused the operation.
    #[error(transparent)]
    Kv(#[from] kv::Error),
    /// The request body could not be read completely.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A parameter, header or body is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The token is missing or unknown. The challenge names the authentication scheme.
    #[error("Provided credentials are missing or invalid")]
    Unauthorized(&'static str),
    /// No route has this path.
    #[error("no such path")]
    UnknownPath,
    /// The route allows only these methods.
    #[error("this path allows {0}")]
    MethodNotAllowed(&'static str),
    /// The range is outside the value, whose size in bytes is given.
    #[error("the range is outside the value, which has {0} bytes")]
    Range(u64),
    /// A server limit was exhausted for too long.
    #[error("the server is overloaded: {0}; try again later")]
    Overloaded(&'static str),
}

/// Maps a KV error to its status.
pub(super) fn kv_status(e: &kv::Error) -> u16 {
    match e {
        kv::Error::Invalid { .. } | kv::Error::StoreExists(_) => 400,
        kv::Error::Forbidden(_) => 403,
        kv::Error::NoStore | kv::Error::NoItem | kv::Error::NoToken => 404,
        kv::Error::StoreNotEmpty => 409,
        kv::Error::Precondition => 412,
        kv::Error::TooLarge(_) => 413,
        kv::Error::Busy | kv::Error::Unavailable(_) => 503,
        kv::Error::Full(_) => 507,
        kv::Error::Internal(_) => 500,
    }
}

impl Error {
    /// Maps the error to its status.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Error::Kv(e) => kv_status(e),
            Error::Body(BodyError::Timeout(_) | BodyError::TooSlow) => 408,
            // nginx logs this status when a client disconnects. No response is sent.
            Error::Body(BodyError::Disconnected) => 499,
            Error::Body(BodyError::Truncated | BodyError::Malformed(_)) | Error::Invalid(_) => 400,
            Error::Unauthorized(_) => 401,
            Error::UnknownPath => 404,
            Error::MethodNotAllowed(_) => 405,
            Error::Range(_) => 416,
            Error::Overloaded(_) => 503,
        }
    }

    /// Builds the response. Internal causes are only logged; the response contains the request id.
    pub(crate) fn response(&self, request_id: u64) -> Response {
        let status = self.status();
        if status == 412 {
            return without_body(412);
        }
        let mut detail = self.to_string();
        if let Error::Kv(kv::Error::Full(_)) = self {
            detail = format!("storage is full (request {request_id:016x})");
        } else if let Error::Kv(kv::Error::Unavailable(_)) = self {
            detail = format!("storage cannot be reached (request {request_id:016x})");
        } else if let Error::Kv(kv::Error::Internal(_)) = self {
            detail = format!("internal error; see the server log for request {request_id:016x}");
        } else if status >= 500 {
            detail = format!("{detail} (request {request_id:016x})");
        }
        let mut response = problem(status, &detail);
        if let Error::MethodNotAllowed(allowed) = self {
            response = response.header("Allow", allowed.as_bytes());
        } else if let Error::Unauthorized(challenge) = self {
            response = response.header("WWW-Authenticate", challenge.as_bytes()).unauthenticated();
        } else if let Error::Range(size) = self {
            response = response.header("Content-Range", format!("bytes */{size}").as_bytes());
        } else if status == 503 {
            response = response.header_u64("Retry-After", 1);
        }
        // After an incomplete body, the position of the next request is unknown.
        response.closing(matches!(self, Error::Body(_)))
    }
}

/// Builds the response to a request whose head is invalid.
pub(crate) fn request_error(e: &RequestError) -> Response {
    match e {
        RequestError::PlainHttp => {
            problem(400, "this port serves HTTPS, but the client uses plain HTTP: use https://")
        }
        RequestError::Malformed(what) => problem(400, &format!("malformed request: {what}")),
        RequestError::Tls => {
            problem(400, "this port serves plain HTTP, but the client uses TLS: use http://")
        }
        RequestError::TargetTooLong => {
            problem(414, &format!("path and query must be at most {TARGET_BYTES_MAX} bytes"))
        }
        RequestError::FieldsTooLarge => problem(
            431,
            &format!(
                "at most {FIELDS_MAX} headers and {FIELDS_BYTES_MAX} bytes of headers are allowed"
            ),
        ),
        RequestError::HeadTimeout => problem(408, "timed out reading the request head"),
        RequestError::UnknownCoding => problem(501, "Transfer-Encoding must be chunked"),
        RequestError::UnknownExpectation => problem(417, "Expect must be 100-continue"),
        RequestError::UnknownVersion => problem(505, "HTTP version must be 1.1 or 1.0"),
    }
}

fn problem(status: u16, detail: &str) -> Response {
    let title = match status {
        400 => "Bad request",
        401 => "Provided credentials are missing or invalid",
        403 => "Forbidden",
        404 => "Record not found",
        405 => "Method not allowed",
        408 => "Request timeout",
        409 => "Conflict",
        413 => "Payload too large",
        414 => "URI too long",
        416 => "Range not satisfiable",
        417 => "Expectation failed",
        429 => RATE_LIMITED,
        431 => "Request header fields too large",
        501 => "Not implemented",
        503 => "Service unavailable",
        505 => "HTTP version not supported",
        507 => "Insufficient storage",
        _ => "Internal server error",
    };
    let problem = Problem { msg: title.into(), title: title.into(), detail: detail.into(), status };
    json(status, &problem)
}

/// Builds the response to a write that a simulated rate limit refused at the time `now`, in
/// microseconds since the Unix epoch.
///
/// The status and message are those of the hosted API, and the `Fastly-RateLimit` headers have the
/// documented form: the remaining requests, and the Unix time at which the next one is allowed.
pub(super) fn rate_limited(limited: &RateLimited, now: u64) -> Response {
    let wait = u64::try_from(limited.retry_after.as_micros()).unwrap_or(u64::MAX);
    problem(429, &format!("simulated rate limit: {}", limited.limit))
        .header_u64("Retry-After", wait.div_ceil(SECOND))
        .header_u64("Fastly-RateLimit-Remaining", 0)
        .header_u64("Fastly-RateLimit-Reset", now.saturating_add(wait).div_ceil(SECOND))
}

/// Builds the response of a request that fails with a simulated error.
pub(super) fn simulated_fault(fault: &Fault) -> Response {
    let response = problem(
        fault.status,
        match fault.after_commit {
            true => "simulated error; the write took effect",
            false => "simulated error; the request had no effect",
        },
    );
    if fault.status == 503 { response.header_u64("Retry-After", 1) } else { response }
}

/// Builds a response without a body. Like every response of the hosted API, it must not be cached
/// (docs/contract.md section 11.11).
pub(crate) fn without_body(status: u16) -> Response {
    Response::new(status).header("Cache-Control", b"no-store").header("Pragma", b"no-cache")
}

/// Builds a JSON response.
pub(crate) fn json(status: u16, value: &impl serde::Serialize) -> Response {
    // The types in `wire` have only string keys, so serialization cannot fail.
    json_bytes(status, serde_json::to_vec(value).unwrap_or_default())
}

/// Builds a JSON response from serialized JSON.
pub(crate) fn json_bytes(status: u16, body: impl Into<Bytes>) -> Response {
    Response::new(status)
        .header("Content-Type", b"application/json")
        .header("Cache-Control", b"no-store")
        .header("Pragma", b"no-cache")
        .payload(Payload::Bytes(body.into()))
}

/// Builds a JSON response that holds `permit` for the memory of its body.
pub(super) fn json_admitted(value: &impl serde::Serialize, permit: Permit) -> Response {
    json_bytes_admitted(serde_json::to_vec(value).unwrap_or_default(), permit)
}

/// Builds a JSON response from serialized JSON. The response holds `permit` for its body's memory.
pub(super) fn json_bytes_admitted(body: Vec<u8>, mut permit: Permit) -> Response {
    permit.shrink(body.capacity() as u64);
    let contention = permit.contention();
    json_bytes(200, body).yielding_to(contention).holding(Some(permit))
}

/// Logs a failure that occurs after the response head has been sent. Returns the error that closes
/// the connection.
pub(super) fn log_aborted(request_id: u64, e: &kv::Error) -> io::Error {
    let request_id = format_args!("{request_id:016x}");
    tracing::error!(%request_id, error = %e, "response aborted");
    io::Error::other(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_a_status() {
        let kv = |e: kv::Error| Error::Kv(e).status();
        assert_eq!(kv(kv::Error::invalid("key", "is required")), 400);
        assert_eq!(kv(kv::Error::StoreExists("a".into())), 400);
        assert_eq!(kv(kv::Error::Forbidden("no")), 403);
        assert_eq!((kv(kv::Error::NoStore), kv(kv::Error::NoItem)), (404, 404));
        assert_eq!(kv(kv::Error::NoToken), 404);
        assert_eq!(kv(kv::Error::StoreNotEmpty), 409);
        assert_eq!(kv(kv::Error::Precondition), 412);
        assert_eq!(kv(kv::Error::TooLarge(1)), 413);
        assert_eq!(kv(kv::Error::Internal("disk".into())), 500);
        assert_eq!(kv(kv::Error::Busy), 503);
        assert_eq!(kv(kv::Error::Full("disk".into())), 507);
        assert_eq!(Error::Overloaded("bytes").status(), 503);
        assert_eq!(Error::Body(BodyError::TooSlow).status(), 408);
        assert_eq!(Error::Body(BodyError::Disconnected).status(), 499);
    }

    #[test]
    fn internal_causes_are_not_sent_to_clients() {
        for e in [kv::Error::Internal("/secret".into()), kv::Error::Full("/secret".into())] {
            let response = Error::Kv(e).response(0xabc);
            let Payload::Bytes(body) = response.payload else { panic!("not in memory") };
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.contains("0000000000000abc") && !body.contains("secret"), "{body}");
        }
    }
}
