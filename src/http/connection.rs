//! The life of a connection: head, body, answer, and again.

use super::body::Body;
use super::buffered_stream::BufferedStream;
use super::request::RequestHead;
use super::response::Date;
use super::{RequestError, Service, Stream, Timeouts};
use std::io as stdio;
use tokio::sync::watch;

/// What came instead of a head.
enum NoHead {
    /// Nothing more; the connection is over.
    End,
    /// Something that is answered, and ends the connection.
    Refused(RequestError),
}

/// Serves a connection until either side ends it, or `drain` turns true and no request runs.
pub async fn serve<S: Stream, V: Service>(
    stream: S,
    service: &V,
    timeouts: Timeouts,
    mut drain: watch::Receiver<bool>,
) {
    let mut io = BufferedStream::new(stream);
    let mut date = Date::default();
    loop {
        let head = match read_head(&mut io, timeouts, &mut drain).await {
            Ok(head) => head,
            Err(NoHead::End) => return,
            Err(NoHead::Refused(refusal)) => {
                let response = service.refuse(refusal).closing(true);
                if response.write(&mut io, &mut date, false, timeouts.write).await.is_ok() {
                    io.linger(timeouts.write).await;
                }
                return;
            }
        };
        let mut body = Body::new(&mut io, &head, timeouts.body);
        let mut response = service.call(&head, &mut body).await;
        response.close |= head.close || *drain.borrow() || !body.drainable();
        if head.old {
            response.for_old_client();
        }
        let close = response.close;
        // An answer that comes before its request was read goes out first: the client may wait for
        // it before it sends on.
        let left = body.left();
        let bodiless = head.method() == b"HEAD";
        if response.write(&mut io, &mut date, bodiless, timeouts.write).await.is_err() {
            return;
        }
        if close {
            io.linger(timeouts.write).await;
            return;
        }
        if left > 0 && !Body::rest(&mut io, left, timeouts.body).drain().await {
            return;
        }
    }
}

async fn read_head<S: Stream>(
    io: &mut BufferedStream<S>,
    timeouts: Timeouts,
    drain: &mut watch::Receiver<bool>,
) -> Result<RequestHead, NoHead> {
    let mut searched = 0;
    let mut end = None;
    loop {
        // Empty lines before a request are passed over (RFC 9112, 2.2), however they are cut.
        while io.input.starts_with(b"\r\n") {
            let _ = io.input.split_to(2);
            (searched, end) = (0, None);
        }
        if let Some(len) = RequestHead::find(&io.input, searched).map_err(NoHead::Refused)? {
            let head = RequestHead::parse(&io.input.split_to(len));
            return head.map_err(NoHead::Refused);
        }
        searched = io.input.len();
        let read = if searched == 0 {
            // Before the wait below, which may be given up at any point.
            io.flush(timeouts.write).await.map_err(|_| NoHead::End)?;
            if *drain.borrow_and_update() {
                return Err(NoHead::End);
            }
            tokio::select! {
                biased;
                read = io.fill(timeouts.idle) => read,
                _ = drain.changed() => continue,
            }
        } else {
            let now = tokio::time::Instant::now();
            let end = *end.get_or_insert(now + timeouts.head);
            io.fill(end.saturating_duration_since(now)).await
        };
        match read {
            Ok(0) => return Err(NoHead::End),
            Ok(_) => {}
            Err(e) if e.kind() == stdio::ErrorKind::TimedOut && searched > 0 => {
                return Err(NoHead::Refused(RequestError::HeadTimeout));
            }
            Err(_) => return Err(NoHead::End),
        }
    }
}
