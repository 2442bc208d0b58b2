//! The baseline: bare hyper, an upper bound for any durable store on the same HTTP library. GET
//! serves bytes from memory. PUT appends its body to a log that one thread writes and fsyncs in
//! groups. The baseline has no engine, authentication or keys.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use std::convert::Infallible;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Size at which the log wraps around, in bytes.
const WAL_BYTES: u64 = 1 << 30;
const GROUP: usize = 512;

type Job = (Bytes, oneshot::Sender<()>);

/// Runs the subcommand `serve-baseline PORT FILE append|prealloc`.
pub fn serve(mut args: impl Iterator<Item = String>) -> Result<(), String> {
    let mut arg = || args.next().ok_or("serve-baseline PORT FILE append|prealloc".to_owned());
    let (port, path, mode) = (crate::number(&arg()?)?, arg()?, arg()?);
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|e| e.to_string())?;
    let prealloc = mode == "prealloc";
    if prealloc {
        let zeros = vec![0; 1 << 20];
        for at in (0..WAL_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at).map_err(|e| e.to_string())?;
        }
        file.sync_all().map_err(|e| e.to_string())?;
    }
    let (log, jobs) = sync_channel(4096);
    std::thread::spawn(move || write(&file, &jobs, prealloc));
    let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
    runtime.block_on(listen(port, log)).map_err(|e| e.to_string())
}

fn write(file: &File, jobs: &Receiver<Job>, prealloc: bool) {
    let (mut at, mut buffer, mut responses) = (0, Vec::new(), Vec::new());
    while let Ok(first) = jobs.recv() {
        let mut next = Some(first);
        while let Some((body, response)) = next {
            buffer.extend_from_slice(&body);
            responses.push(response);
            next = (responses.len() < GROUP).then(|| jobs.try_recv().ok()).flatten();
        }
        if at + buffer.len() as u64 > WAL_BYTES {
            at = 0;
            if !prealloc {
                file.set_len(0).expect("cannot truncate the log");
            }
        }
        file.write_all_at(&buffer, at).expect("cannot write the log");
        file.sync_data().expect("cannot fsync the log");
        at += buffer.len() as u64;
        buffer.clear();
        buffer.shrink_to(64 << 20);
        for response in responses.drain(..) {
            let _ = response.send(());
        }
    }
}

async fn listen(port: u16, log: SyncSender<Job>) -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let sizes = [1 << 10, 1 << 20, 25 << 20].map(|size| Bytes::from(vec![b'x'; size]));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (sizes, log) = (sizes.clone(), log.clone());
        tokio::spawn(async move {
            let response = move |request| response(request, sizes.clone(), log.clone());
            let service = hyper::service::service_fn(response);
            let io = hyper_util::rt::TokioIo::new(stream);
            let mut http = hyper::server::conn::http1::Builder::new();
            let _ = http.pipeline_flush(true).serve_connection(io, service).await;
        });
    }
}

async fn response(
    request: Request<Incoming>,
    [small, large, huge]: [Bytes; 3],
    log: SyncSender<Job>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = if request.method() == Method::PUT {
        if let Ok(body) = request.into_body().collect().await {
            let (done, synced) = oneshot::channel();
            let _ = log.send((body.to_bytes(), done));
            let _ = synced.await;
        }
        Bytes::new()
    } else {
        match request.uri().path() {
            "/b1048576" => large,
            "/b26214400" => huge,
            _ => small,
        }
    };
    Ok(Response::new(Full::new(body)))
}
