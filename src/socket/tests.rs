use super::*;
use std::io::Read;
use std::net::{TcpListener, TcpStream as Far};
use tokio::io::AsyncWriteExt;

async fn pair() -> (Socket, Far) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let near = near.await.unwrap();
    let (far, _) = listener.accept().unwrap();
    far.set_nonblocking(true).unwrap();
    (Socket::new(near), far)
}

/// What has arrived by now.
fn arrived(mut far: &Far) -> Vec<u8> {
    let mut all = vec![0; 1 << 20];
    let length = far.read(&mut all).unwrap_or(0);
    all.truncate(length);
    all
}

/// Reads so much, while the event loop goes on.
async fn read(far: &Far, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let reading = async {
        while all.len() < length {
            all.extend(arrived(far));
            yield_now().await;
        }
    };
    let read = timeout(Duration::from_secs(10), reading).await;
    read.expect("it arrives");
    all
}

#[tokio::test]
async fn what_is_written_in_a_turn_leaves_at_its_end() {
    let (mut one, at_one) = pair().await;
    let (mut other, at_other) = pair().await;
    one.write_all(b"header, ").await.unwrap();
    one.flush().await.unwrap();
    other.write_all(b"another").await.unwrap();
    one.write_all(b"body").await.unwrap();
    assert_eq!(arrived(&at_one), b"");
    assert_eq!(arrived(&at_other), b"");
    yield_now().await;
    assert_eq!(read(&at_one, 12).await, b"header, body");
    assert_eq!(read(&at_other, 7).await, b"another");
}

#[tokio::test]
async fn a_crowd_does_not_wait_for_the_end_of_the_turn() {
    let mut pairs = Vec::new();
    for _ in 0..BATCH {
        pairs.push(pair().await);
    }
    for (near, _) in &mut pairs {
        near.write_all(b"now").await.unwrap();
    }
    for (_, far) in &pairs {
        assert_eq!(arrived(far), b"now");
    }
}

#[tokio::test]
async fn much_leaves_at_once_and_behind_what_waits() {
    let (mut near, far) = pair().await;
    near.write_all(b"header").await.unwrap();
    near.write_all(&[7; WAITING + 1]).await.unwrap();
    let arrived = arrived(&far);
    assert_eq!(arrived.len(), 6 + WAITING + 1);
    assert_eq!(&arrived[..6], b"header");
}

#[tokio::test]
async fn a_header_goes_before_its_body_however_large_that_is() {
    let (mut near, far) = pair().await;
    near.write_all(b"header").await.unwrap();
    // More than any socket takes at once.
    let body: Vec<u8> = (0..4_u32 << 20).flat_map(u32::to_le_bytes).collect();
    let (written, heard) = tokio::join!(near.write_all(&body), read(&far, 6 + body.len()));
    written.unwrap();
    assert_eq!(&heard[..6], b"header");
    assert!(heard[6..] == body);
}

#[tokio::test]
async fn who_does_not_read_is_waited_for_and_misses_nothing() {
    let (mut near, far) = pair().await;
    let mut all = Vec::new();
    // More than the system has room for.
    for number in 0..4000_u32 {
        all.extend_from_slice(&number.to_le_bytes().repeat(1 << 10));
    }
    let writing = async {
        for piece in all.chunks(4 << 10) {
            near.write_all(piece).await.unwrap();
        }
    };
    let mut writing = std::pin::pin!(writing);
    let soon = timeout(Duration::from_millis(100), &mut writing).await;
    assert!(soon.is_err(), "nobody has read it");
    let (_, heard) = tokio::join!(writing, read(&far, all.len()));
    assert!(heard == all);
}

#[tokio::test]
async fn behind_who_does_not_read_nothing_is_gathered() {
    let (mut near, far) = pair().await;
    let mut all = 0;
    let filling = async {
        loop {
            all += near.write(&[7; 4 << 10]).await.unwrap();
            // It counts as flushed only when the system has it.
            near.flush().await.unwrap();
            yield_now().await;
        }
    };
    let soon = timeout(Duration::from_millis(100), filling).await;
    assert!(soon.is_err(), "nobody has read it");
    assert_eq!(read(&far, all).await.len(), all);
    near.write_all(b"the end").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(arrived(&far), b"the end");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_takes_is_given_up_once_nobody_has_the_connection() {
    let (mut near, _far) = pair().await;
    while !near.write.out().followed {
        near.write_all(&[7; WAITING]).await.unwrap();
        // Until the turn is over: it is the one that finds no room.
        while near.write.out().listed {
            yield_now().await;
        }
    }
    let write = near.write.clone();
    tokio::time::sleep(10 * ORPHANED).await;
    assert!(write.out().followed && write.out().failed.is_none());
    drop(near);
    tokio::time::sleep(3 * ORPHANED).await;
    assert!(!write.out().followed && write.out().failed.is_some());
}

#[tokio::test]
async fn it_is_shut_down_and_dropped_only_behind_what_waits() {
    let (mut near, far) = pair().await;
    near.write_all(b"the last").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(arrived(&far), b"the last");
    let (mut near, far) = pair().await;
    near.write_all(b"words").await.unwrap();
    drop(near);
    assert_eq!(arrived(&far), b"words");
}

#[tokio::test]
async fn who_has_left_is_noticed_by_the_next_write() {
    let (mut near, far) = pair().await;
    drop(far);
    let writing = async {
        while near.write_all(b"anybody?").await.is_ok() {
            yield_now().await;
        }
    };
    let written = timeout(Duration::from_secs(10), writing).await;
    written.expect("an error");
}

#[test]
fn a_runtime_that_ends_sends_what_waits_and_the_next_one_on_its_thread_does_too() {
    for _ in 0..2 {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let (near, far) = runtime.block_on(async {
            let (mut near, far) = pair().await;
            near.write_all(b"words").await.unwrap();
            (near, far)
        });
        drop(runtime);
        assert_eq!(arrived(&far), b"words");
        drop(near);
    }
}
