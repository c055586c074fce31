//! The serving side: connections, and playing scripts on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::ReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::script::{End, Script};
use super::seen::{Outcome, Seen};
use super::{Shared, lock, receive};

/// Counts something for as long as it lives, even if its task is aborted.
struct Counted(Arc<Shared>, fn(&Shared) -> &AtomicUsize);

impl Counted {
    fn new(shared: &Arc<Shared>, which: fn(&Shared) -> &AtomicUsize) -> Counted {
        which(shared).fetch_add(1, Ordering::SeqCst);
        shared.changed();
        Counted(shared.clone(), which)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::SeqCst);
        self.0.changed();
    }
}

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let requests = Arc::new(AtomicUsize::new(0));
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                tasks.spawn(connection(shared.clone(), requests.clone(), stream, number));
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn connection(
    shared: Arc<Shared>,
    requests: Arc<AtomicUsize>,
    mut stream: TcpStream,
    connection: usize,
) {
    let _open = Counted::new(&shared, |shared| &shared.open_connections);
    let _ = stream.set_nodelay(true);
    let mut buffer = BytesMut::new();
    loop {
        let head = match receive::head(&mut stream, &mut buffer).await {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(why) => {
                lock(&shared.malformed).push(why);
                shared.changed();
                let refusal = Script::answer(400).body("malformed").close();
                let _ = refusal.play(&mut stream, false).await;
                return;
            }
        };
        let number = requests.fetch_add(1, Ordering::SeqCst);
        let (bodiless, last) = (head.method == "HEAD", head.last);
        shared.seen().push(Seen::new(number, connection, &head));
        shared.changed();

        let mut early_end = None;
        if let Some(script) = shared.early() {
            early_end = answer(&shared, number, &mut stream, &mut buffer, &script, bodiless).await;
            if early_end != Some(End::Kept) {
                break finish(stream, early_end).await;
            }
        }
        let discard = shared.discarding.load(Ordering::SeqCst);
        match receive::body(&mut stream, &mut buffer, &head, discard, |received| {
            shared.update(number, |seen| seen.receive(received))
        })
        .await
        {
            Ok(body) => shared.update(number, |seen| seen.complete(body)),
            Err(why) => {
                if let Some(why) = why {
                    lock(&shared.malformed).push(why);
                }
                shared.update(number, |seen| seen.end(Outcome::Cancelled));
                return;
            }
        }
        if early_end.is_none() {
            let record = shared
                .seen()
                .iter()
                .find(|seen| seen.number == number)
                .cloned();
            let script =
                record.map_or_else(|| Script::answer(500), |record| shared.script(&record));
            let end = answer(&shared, number, &mut stream, &mut buffer, &script, bodiless).await;
            if end != Some(End::Kept) || last {
                break finish(stream, end).await;
            }
        }
    }
}

/// Plays a script while watching for the other side's leaving (`None`).
async fn answer(
    shared: &Arc<Shared>,
    number: usize,
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    script: &Script,
    bodiless: bool,
) -> Option<End> {
    shared.update(number, |seen| seen.outcome = Outcome::Answering);
    let open = Counted::new(shared, |shared| &shared.open_streams);
    let (mut from, mut to) = stream.split();
    let end = tokio::select! {
        biased;
        end = script.play(&mut to, bodiless) => end.ok(),
        () = left(&mut from, buffer) => None,
    };
    drop(open);
    shared.update(number, |seen| {
        seen.end(match end {
            Some(End::Kept | End::Closed) => Outcome::Complete,
            Some(End::Cut | End::Reset) => Outcome::Broken,
            None => Outcome::Cancelled,
        });
    });
    end
}

async fn left(from: &mut ReadHalf<'_>, buffer: &mut BytesMut) {
    // What arrives meanwhile belongs to the next request.
    while matches!(from.read_buf(buffer).await, Ok(n) if n > 0) {}
}

async fn finish(mut stream: TcpStream, end: Option<End>) {
    if end == Some(End::Reset) {
        let _ = stream.set_zero_linger();
    } else {
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
    }
}
