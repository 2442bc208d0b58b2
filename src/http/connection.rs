//! The request loop of a connection.

use super::body::Body;
use super::buffered_stream::BufferedStream;
use super::request::RequestHead;
use super::response::DateHeader;
use super::{RequestError, Service, Stream, Timeouts};
use std::io;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Maximum number of connections whose remaining input is discarded at the same time after a
/// request without a valid token. Further connections are closed right after the response, so a
/// client that is still sending may not receive the response.
const UNAUTHENTICATED_DRAINS: usize = 64;
static UNAUTHENTICATED: Semaphore = Semaphore::const_new(UNAUTHENTICATED_DRAINS);

/// Time limit for shutting down an idle connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why no request could be read.
enum HeadError {
    /// The connection was closed, exceeded its idle timeout, or is draining.
    Closed,
    /// The head is invalid; the error is sent before the connection closes.
    Rejected(RequestError),
}

/// Serves a connection until either side closes it. Once `drain` is true, the connection closes
/// after the current request.
pub async fn serve<S: Stream, V: Service>(
    stream: S,
    service: &V,
    timeouts: Timeouts,
    mut drain: watch::Receiver<bool>,
) {
    let mut io = BufferedStream::new(stream);
    let mut date = DateHeader::default();
    loop {
        let head = match read_head(&mut io, timeouts, &mut drain).await {
            Ok(head) => head,
            Err(HeadError::Closed) => {
                // Over TLS, this sends close_notify, which distinguishes a clean close from a lost
                // connection.
                let _ = io.shutdown(CLOSE_TIMEOUT).await;
                return;
            }
            Err(HeadError::Rejected(error)) => {
                return write_rejection(io, service, error, timeouts).await;
            }
        };
        let mut body = Body::new(&mut io, &head, timeouts.body);
        let mut response = service.call(&head, &mut body).await;
        if body.is_disconnected() {
            return;
        }
        response.close |= head.close || *drain.borrow() || !body.is_drainable();
        if head.http_10 {
            response.downgrade_to_http_10();
        }
        // Write the response before reading the rest of the body: the client may be waiting for it.
        let remaining = body.declared_bytes().unwrap_or(0);
        let mut permit = None;
        if response.unauthenticated && (response.close || remaining > io.input.len() as u64) {
            permit = UNAUTHENTICATED.try_acquire().ok();
            response.close |= permit.is_none();
        }
        let drains = !response.unauthenticated || permit.is_some();
        let closes = response.close;
        let omit_body = head.method() == b"HEAD";
        if response.write(&mut io, &mut date, omit_body, timeouts.write).await.is_err() {
            return;
        }
        if closes {
            return close(&mut io, drains, timeouts).await;
        }
        if remaining > 0 && !io.discard(remaining, timeouts.body).await {
            return;
        }
    }
}

/// Sends an error response without reading a request, and closes the connection.
pub async fn reject<S: Stream, V: Service>(
    stream: S,
    service: &V,
    error: RequestError,
    timeouts: Timeouts,
) {
    write_rejection(BufferedStream::new(stream), service, error, timeouts).await;
}

async fn write_rejection<S: Stream, V: Service>(
    mut io: BufferedStream<S>,
    service: &V,
    error: RequestError,
    timeouts: Timeouts,
) {
    let response = service.reject(error).closing(true);
    let mut date = DateHeader::default();
    let permit = UNAUTHENTICATED.try_acquire();
    if response.write(&mut io, &mut date, false, timeouts.write).await.is_ok() {
        close(&mut io, permit.is_ok(), timeouts).await;
    }
}

/// Sends the response and closes the connection. If `drains` is set, first discards the rest of the
/// input.
async fn close<S: Stream>(io: &mut BufferedStream<S>, drains: bool, timeouts: Timeouts) {
    if drains {
        io.linger(timeouts.write).await;
    } else if io.flush(timeouts.write).await.is_ok() {
        let _ = io.shutdown(CLOSE_TIMEOUT).await;
    }
}

async fn read_head<S: Stream>(
    io: &mut BufferedStream<S>,
    timeouts: Timeouts,
    drain: &mut watch::Receiver<bool>,
) -> Result<RequestHead, HeadError> {
    let mut searched = 0;
    let mut deadline = None;
    loop {
        // Skip empty lines before a request (RFC 9112 section 2.2), even if split across reads.
        while io.input.starts_with(b"\r\n") {
            let _ = io.input.split_to(2);
            (searched, deadline) = (0, None);
        }
        let end = RequestHead::find_end(&io.input, searched).map_err(HeadError::Rejected)?;
        if let Some(len) = end {
            return RequestHead::parse(&io.input.split_to(len)).map_err(HeadError::Rejected);
        }
        searched = io.input.len();
        let read = if searched == 0 {
            // Flush first, because the read below may be cancelled at any point.
            io.flush(timeouts.write).await.map_err(|_| HeadError::Closed)?;
            if *drain.borrow_and_update() {
                return Err(HeadError::Closed);
            }
            io.shrink();
            tokio::select! {
                biased;
                read = io.fill(timeouts.idle) => read,
                _ = drain.changed() => continue,
            }
        } else {
            let now = tokio::time::Instant::now();
            let deadline = *deadline.get_or_insert(now + timeouts.head);
            io.fill(deadline.saturating_duration_since(now)).await
        };
        match read {
            Ok(0) => return Err(HeadError::Closed),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::TimedOut && searched > 0 => {
                return Err(HeadError::Rejected(RequestError::HeadTimeout));
            }
            Err(_) => return Err(HeadError::Closed),
        }
    }
}
