//! Refusals: the one place that knows both what went wrong and its status (contract.md, section
//! 1: error bodies).

use crate::http::TARGET_BYTES_MAX;
use crate::http::{BodyError, FIELDS_BYTES_MAX, FIELDS_MAX, Payload, RequestError, Response};
use crate::kv;
use crate::wire::Problem;
use bytes::Bytes;

/// Why a request was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What the store says.
    #[error(transparent)]
    Kv(#[from] kv::Error),
    /// The request's body did not come whole.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A parameter, field or body breaks its rule.
    #[error("{0}")]
    Invalid(String),
    /// No token, or an unknown one.
    #[error("Provided credentials are missing or invalid")]
    Unauthorized,
    /// No such path.
    #[error("no such path")]
    NoPath,
    /// The path has other methods.
    #[error("this path allows {0}")]
    Method(&'static str),
    /// A range that the value does not have; with the value's size.
    #[error("the value has {0} bytes")]
    Range(u64),
    /// A bound of the server was reached for too long.
    #[error("the server is overloaded: {0}; try again later")]
    Overloaded(&'static str),
}

impl From<&Error> for u16 {
    fn from(e: &Error) -> u16 {
        match e {
            Error::Kv(e) => kv_status(e),
            Error::Body(BodyError::Timeout(_)) => 408,
            Error::Body(BodyError::Cut | BodyError::Malformed(_)) | Error::Invalid(_) => 400,
            Error::Unauthorized => 401,
            Error::NoPath => 404,
            Error::Method(_) => 405,
            Error::Range(_) => 416,
            Error::Overloaded(_) => 503,
        }
    }
}

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
    /// The status of the answer.
    pub(crate) fn status(&self) -> u16 {
        self.into()
    }

    /// The answer. What went wrong inside stays out of it: a 5xx names the request instead.
    pub(crate) fn response(&self, request: u64) -> Response {
        let status = self.status();
        if status == 412 {
            return Response::new(412);
        }
        let mut detail = self.to_string();
        if let Error::Kv(kv::Error::Full(_)) = self {
            detail = format!("storage is full (request {request:016x})");
        } else if let Error::Kv(kv::Error::Unavailable(_)) = self {
            detail = format!("storage cannot be reached (request {request:016x})");
        } else if let Error::Kv(kv::Error::Internal(_)) = self {
            detail = format!("the server's log says more under request {request:016x}");
        } else if status >= 500 {
            detail = format!("{detail} (request {request:016x})");
        }
        let mut response = problem(status, &detail);
        if let Error::Method(allowed) = self {
            response = response.field("Allow", allowed.as_bytes());
        } else if let Error::Range(size) = self {
            response = response.field("Content-Range", format!("bytes */{size}").as_bytes());
        } else if status == 503 {
            response = response.number("Retry-After", 1);
        }
        // A body that broke off leaves nothing to read on from.
        response.closing(matches!(self, Error::Body(_)))
    }
}

/// The answer to what is no request that could be served.
pub(crate) fn refuse(refusal: &RequestError) -> Response {
    match refusal {
        RequestError::Malformed(what) => problem(400, &format!("malformed request: {what}")),
        RequestError::TargetTooLong => {
            problem(414, &format!("the path and query must have at most {TARGET_BYTES_MAX} bytes"))
        }
        RequestError::FieldsTooLarge => problem(
            431,
            &format!(
                "header fields must have at most {FIELDS_BYTES_MAX} bytes and be at most \
                 {FIELDS_MAX}"
            ),
        ),
        RequestError::HeadTimeout => problem(408, "the request's head did not come in time"),
        RequestError::UnknownCoding => problem(501, "Transfer-Encoding must be chunked"),
        RequestError::UnknownExpectation => problem(417, "Expect must be 100-continue"),
        RequestError::UnknownVersion => problem(505, "the version must be HTTP/1.1 or HTTP/1.0"),
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

/// An answer in JSON.
pub(crate) fn json(status: u16, value: &impl serde::Serialize) -> Response {
    // The shapes of `wire` have string keys only, and so always serialize.
    json_bytes(status, serde_json::to_vec(value).unwrap_or_default())
}

/// An answer of JSON that is made already.
pub(crate) fn json_bytes(status: u16, body: impl Into<Bytes>) -> Response {
    Response::new(status)
        .field("Content-Type", b"application/json")
        .field("Cache-Control", b"no-store")
        .field("Pragma", b"no-cache")
        .payload(Payload::Bytes(body.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_has_its_status() {
        let kv = |e: kv::Error| Error::Kv(e).status();
        assert_eq!(kv(kv::Error::invalid("key", "must be there")), 400);
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
    }

    #[test]
    fn what_went_wrong_inside_is_not_told_outside() {
        for e in [kv::Error::Internal("/secret".into()), kv::Error::Full("/secret".into())] {
            let response = Error::Kv(e).response(0xabc);
            let Payload::Bytes(body) = response.payload else { panic!("a body of bytes") };
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.contains("0000000000000abc") && !body.contains("secret"), "{body}");
        }
    }
}
