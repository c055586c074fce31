//! The thread that starts the servers.
//!
//! A process that asks to die with its parent dies with the *thread* that started it. Threads of
//! tests end with their tests and runtimes; this one lasts as long as the process.

use std::io;
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::sync::mpsc::{SyncSender, channel, sync_channel};

type Order = (Command, SyncSender<io::Result<Child>>);

static ORDERS: LazyLock<std::sync::mpsc::Sender<Order>> = LazyLock::new(|| {
    let (sender, orders) = channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, answer) in orders {
            // Whoever ordered is gone if this fails: then nobody waits.
            let _ = answer.send(command.spawn());
        }
    });
    sender
});

pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let (answer, child) = sync_channel(1);
    ORDERS.send((command, answer)).expect("the thread lives");
    child.recv().expect("the thread lives")
}
