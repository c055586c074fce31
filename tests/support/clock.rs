//! A clock that a test moves.

use std::time::Duration;

/// Moves the clock of this runtime on, at once. It has one thread, so nothing else runs meanwhile.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
