//! The end of a connection or of a stream that has not been read to its end.

use pingora::protocols::http::v1::server::HttpSession as H1;
use pingora::protocols::http::v2::server::HttpSession as H2;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// How long, and how much, a closing connection still listens, so that the client reads our answer
/// before it learns that we stopped reading its body.
pub(super) const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 << 20;

/// Says that nothing more comes, then listens a little while longer: closing with unread bytes
/// would reset the connection and take the answer with it.
pub(super) async fn linger(mut wire: Box<H1>, unread: bool) {
    wire.shutdown().await;
    if !unread {
        return;
    }
    let mut stream = wire.into_inner();
    let drain = async {
        let mut sink = vec![0; 16 << 10];
        let mut total = 0;
        while let Ok(read) = stream.read(&mut sink).await {
            total += read;
            if read == 0 || total > LINGER_BYTES {
                break;
            }
        }
    };
    let _ = timeout(LINGER, drain).await;
    stream.shutdown().await;
}

/// The same for a stream of HTTP/2: dropped with unread bytes it is reset, and clients then forget
/// the answer that they have.
pub(super) async fn drain(mut wire: Box<H2>) {
    let read = async {
        let mut total = 0;
        while let Ok(Some(chunk)) = wire.read_body_bytes().await {
            total += chunk.len();
            if total > LINGER_BYTES {
                break;
            }
        }
    };
    let _ = timeout(LINGER, read).await;
}
