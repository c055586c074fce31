//! The question whether a request can be paid for, asked in the same step as its limits.

use super::hold::Hold;
use super::ledger::{Books, Ledger, WhenAway, lock};
use super::lines::{Known, Line};
use super::redis::{self, Sums};
use super::wallet::Wallet;
use super::{Bill, Due, Held, Payer, Pays, Reason, Shortage};
use crate::store::part::{self, Common, Part};
use ::redis::Cmd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// While Redis is away a balance is believed for so long after it was last heard of.
const GRACE: Duration = Duration::from_secs(60);

/// A question on its way.
pub struct Asking {
    ledger: Arc<Ledger>,
    bill: Bill,
    /// The number of the hold that it will become.
    id: u64,
    side: Side,
    said: Said,
}

/// Where it is decided.
enum Side {
    /// The account's wallet; `None` if there is no such account yet.
    Wallet(Option<Arc<Mutex<Wallet>>>),
    Line {
        line: Arc<Line>,
        /// Redis may have taken the hold.
        asked: bool,
    },
}

/// What came of it.
enum Said {
    Nothing,
    Held(Held),
    Short(Shortage),
    /// There is no such account.
    Unknown,
}

impl Asking {
    /// A question of a ledger, that will become hold number `id`.
    pub(super) fn new(ledger: Arc<Ledger>, id: u64, bill: Bill) -> Asking {
        let account = &bill.payer.account;
        let side = match &ledger.books {
            Books::Embedded(embedded) => Side::Wallet(embedded.wallet(account)),
            Books::Nodes(nodes) => Side::Line {
                line: nodes.lines.of(account),
                asked: false,
            },
        };
        Asking {
            ledger,
            bill,
            id,
            side,
            said: Said::Nothing,
        }
    }

    /// Makes the account, if the answer was that there is none: then it can be asked again.
    pub async fn open(&mut self) -> bool {
        let Said::Unknown = self.said else {
            return false;
        };
        let account = self.bill.payer.account.clone();
        if self.ledger.open(&account).await.is_err() {
            return false;
        }
        if let (Side::Wallet(wallet), Books::Embedded(embedded)) =
            (&mut self.side, &self.ledger.books)
        {
            *wallet = embedded.wallet(&account);
        }
        self.said = Said::Nothing;
        true
    }

    /// Why it refused.
    pub fn shortage(mut self) -> Shortage {
        let shortage = match std::mem::replace(&mut self.said, Said::Nothing) {
            Said::Short(shortage) => shortage,
            _ => unanswerable(&self.bill),
        };
        self.ledger.short(&shortage);
        shortage
    }

    /// Writes down that the request goes out, and that at least `prompt` is due if nothing more is heard of it.
    ///
    /// # Errors
    /// [`Shortage`]: it cannot be paid for, or that cannot be written down.
    pub fn finish(mut self, prompt: &Due) -> Result<Hold, Shortage> {
        let held = match std::mem::replace(&mut self.said, Said::Nothing) {
            Said::Held(held) => held,
            other => {
                self.said = other;
                return Err(self.shortage());
            }
        };
        if self.ledger.journal.reserve(&held, prompt).is_err() {
            self.give_back(&held);
            return Err(self.shortage());
        }
        if let Side::Line { line, .. } = &self.side {
            line.begun(held.id);
        }
        self.ledger.metrics.holds.inc();
        Ok(Hold::new(held, self.ledger.clone()))
    }

    /// Nothing was sent for it.
    fn give_back(&self, held: &Held) {
        match &self.side {
            Side::Wallet(Some(wallet)) => lock(wallet).release(held),
            Side::Wallet(None) => {}
            Side::Line { line, asked, .. } if *asked => {
                line.unknown(held.id);
                self.put(line);
            }
            Side::Line { .. } => {}
        }
    }

    fn put(&self, line: &Arc<Line>) {
        if let Books::Nodes(nodes) = &self.ledger.books {
            nodes.put(line.clone());
        }
    }

    /// What this node may decide while Redis is away; the words of the policy are [`WhenAway`]'s.
    fn away(&self, known: Option<&mut Known>, others: &mut dyn FnMut() -> bool) -> Said {
        let settings = &self.ledger.settings;
        let Books::Nodes(nodes) = &self.ledger.books else {
            return Said::Nothing;
        };
        let needed = match self.bill.payer.pays {
            Pays::Balance => self.bill.money.micros(),
            Pays::Package(_) => i64::try_from(self.bill.tokens).unwrap_or(i64::MAX),
        };
        let count = i64::from(nodes.shared.link.nodes().max(1));
        let caps = self.bill.payer.caps;
        // What a key has spent is not known here.
        let capped = caps.daily.is_some() || caps.monthly.is_some();
        let allowed = match (settings.when_away, &known) {
            _ if !settings.enforce => true,
            (WhenAway::Allow, _) => true,
            _ if needed == 0 && self.bill.payer.pays == Pays::Balance => true,
            (_, None) => false,
            _ if capped => false,
            (WhenAway::Local, Some(known)) => {
                known.exposure.saturating_add(needed) <= known.free / count
            }
            // All nodes together spend no more than half of what was there.
            (WhenAway::Deny, Some(known)) => {
                let rest = known.free.saturating_sub(known.exposure);
                known.at.elapsed() <= GRACE
                    && rest >= needed.saturating_mul(2)
                    && known.exposure.saturating_add(needed) <= known.free / 2 / count
            }
        };
        if !allowed {
            return Said::Short(unanswerable(&self.bill));
        }
        if !others() {
            return Said::Nothing;
        }
        if let Some(known) = known {
            known.exposure = known.exposure.saturating_add(needed);
        }
        let wall = self.ledger.clock.now().wall;
        Said::Held(
            self.bill
                .held_unseen(self.id, settings.calendar.period(wall)),
        )
    }
}

/// Nobody can say whether it can be paid for.
fn unanswerable(bill: &Bill) -> Shortage {
    Shortage {
        reason: Reason::Store,
        left: 0,
        needed: bill.money.micros(),
        resets: None,
    }
}

impl Part for Asking {
    fn locally(&mut self, others: &mut dyn FnMut() -> bool) {
        self.said = match &self.side {
            Side::Wallet(None) => Said::Unknown,
            Side::Wallet(Some(wallet)) => {
                let (id, calendar) = (self.id, self.ledger.settings.calendar);
                let wall = self.ledger.clock.now().wall;
                let mut wallet = lock(wallet);
                let held = match wallet.hold(&self.bill, id, wall, calendar) {
                    Ok(held) => Ok(held),
                    Err(shortage) if self.ledger.settings.enforce => Err(shortage),
                    Err(shortage) => {
                        self.ledger.short(&shortage);
                        Ok(wallet.hold_anyway(&self.bill, id, wall, calendar))
                    }
                };
                match held {
                    Err(shortage) => Said::Short(shortage),
                    Ok(held) if others() => Said::Held(held),
                    Ok(held) => {
                        wallet.release(&held);
                        Said::Nothing
                    }
                }
            }
            Side::Line { line, .. } => {
                let pays = package(&self.bill);
                line.decide(pays, |known| self.away(known, others))
            }
        };
    }

    fn kind(&self) -> usize {
        // Each holds on to its own.
        Arc::as_ptr(&self.bill.payer).addr()
    }

    fn common(&self) -> Box<dyn Common> {
        Box::new(Telling {
            ledger: self.ledger.clone(),
            payer: self.bill.payer.clone(),
            line: match &self.side {
                Side::Line { line, .. } => Some(line.clone()),
                Side::Wallet(_) => None,
            },
            charges: Sums::default(),
        })
    }

    fn ask(&mut self) -> [i64; 3] {
        if let Side::Line { asked, .. } = &mut self.side {
            *asked = true;
        }
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let Bill { money, tokens, .. } = self.bill;
        [money.micros(), whole(tokens), whole(self.id)]
    }

    fn read(&mut self, said: &part::Said, granted: bool) -> Option<bool> {
        let said = redis::read(said, &self.bill)?;
        let Side::Line { line, .. } = &self.side else {
            return None;
        };
        if said.unknown {
            line.unanswered();
            self.said = Said::Unknown;
            return Some(false);
        }
        line.heard(package(&self.bill), said.free);
        match said.shortage {
            Some(shortage) if self.ledger.settings.enforce => {
                self.said = Said::Short(shortage);
                return Some(false);
            }
            Some(shortage) => self.ledger.short(&shortage),
            None => {}
        }
        if granted {
            let mut held = self.bill.held_unseen(self.id, said.period);
            held.package = said.package;
            self.said = Said::Held(held);
        }
        Some(true)
    }

    fn unanswered(&mut self) {
        if let Side::Line { line, .. } = &self.side {
            line.unanswered();
            line.unknown(self.id);
            self.put(line);
        }
    }
}

fn package(bill: &Bill) -> Option<&Arc<str>> {
    match &bill.payer.pays {
        Pays::Balance => None,
        Pays::Package(name) => Some(name),
    }
}

/// What goes along with all who ask for one payer: charges that came before, and who it is.
struct Telling {
    ledger: Arc<Ledger>,
    payer: Arc<Payer>,
    line: Option<Arc<Line>>,
    charges: Sums,
}

impl Common for Telling {
    fn key(&self, call: &mut Cmd) {
        if let Books::Nodes(nodes) = &self.ledger.books {
            call.arg(nodes.shared.key(&self.payer.account, "w"));
        }
    }

    fn load(&mut self) -> usize {
        if let Some(line) = &self.line {
            self.charges = Sums::of(&line.take());
        }
        redis::PAYER + self.charges.length()
    }

    fn write(&self, call: &mut Cmd) {
        if let Books::Nodes(nodes) = &self.ledger.books {
            nodes.shared.write(call, &self.payer, &self.charges);
        }
    }

    fn read(&self, said: [i64; 2]) {
        let [mark, again] = said;
        if let (Some(line), Ok(mark), Books::Nodes(nodes)) =
            (&self.line, u64::try_from(mark), &self.ledger.books)
        {
            line.answered(mark, again == 1);
            if again == 1 {
                nodes.put(line.clone());
            }
        }
    }

    fn unanswered(&self) {
        if let (Some(line), Books::Nodes(nodes)) = (&self.line, &self.ledger.books) {
            line.unanswered();
            nodes.put(line.clone());
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // Nobody waits for the answer any more.
        if let Said::Held(held) = std::mem::replace(&mut self.said, Said::Nothing) {
            self.give_back(&held);
        }
    }
}
