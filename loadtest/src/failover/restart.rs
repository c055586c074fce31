//! Redis is killed and started again with its append-only file; or it hangs, and does late what was given up.

use std::path::Path;
use std::time::{Duration, Instant};

use super::site::Site;
use crate::Result;
use crate::ledger::claims::Claims;
use crate::process::Scratch;
use crate::redis::{Disk, Redis};

/// It is away for so long, and well for so long before and after.
const AWAY: Duration = Duration::from_millis(1_500);
const WELL: Duration = Duration::from_millis(2_500);

/// What happens to Redis.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// SIGKILL; it comes back with what is on disk.
    Killed(Disk),
    /// SIGSTOP, then SIGCONT: charges are sent again that it takes as well.
    Hung,
}

impl Fault {
    /// In the order of the run.
    pub const ALL: [Fault; 3] = [
        Fault::Killed(Disk::EverySecond),
        Fault::Killed(Disk::Always),
        Fault::Hung,
    ];

    fn name(self) -> String {
        match self {
            Fault::Killed(disk) => format!("SIGKILL, started again, {}", disk.name()),
            Fault::Hung => "SIGSTOP, SIGCONT".to_owned(),
        }
    }

    fn disk(self) -> Disk {
        match self {
            Fault::Killed(disk) => disk,
            Fault::Hung => Disk::EverySecond,
        }
    }
}

/// Lets it happen so many times.
pub async fn run(
    program: &Path,
    scratch: &Scratch,
    fault: Fault,
    times: u32,
    seed: u64,
    text: &mut String,
    claims: &mut Claims,
) -> Result<()> {
    let mut redis = Redis::with_disk(fault.disk(), None, scratch).await?;
    let mut site = Site::start(program, scratch, redis.address(), seed).await?;
    site.rest(WELL).await?;
    for _ in 0..times {
        let begun = Instant::now();
        match fault {
            Fault::Killed(_) => redis.kill()?,
            Fault::Hung => redis.signal("STOP")?,
        }
        site.rest(AWAY).await?;
        let ended = Instant::now();
        match fault {
            Fault::Killed(_) => redis.restart(scratch).await?,
            Fault::Hung => redis.signal("CONT")?,
        }
        site.recover(begun, ended).await?;
        site.rest(WELL).await?;
    }
    site.judge(&fault.name(), times, &[], text, claims).await?;
    Ok(())
}
