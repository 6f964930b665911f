//! What of a session's announcements becomes a broadcast of this relay.

use std::collections::HashMap;

use moq_net::origin::{self, Cost, Request};
use moq_net::{Error, PathOwned, announce};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::{From, Intake, Place};
use crate::control::check_name;

/// A broadcast that comes over MoQ is worth less than one that comes over the bond, which has cost 0: the bond's is
/// shown where both have one name.
const GUEST_COST: u64 = 1;

/// A session announces more broadcasts than it may.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("announced {announced} broadcasts, which is too many")]
pub struct TooMuch {
    /// At once.
    pub announced: usize,
}

/// One session's gate.
pub(super) struct Gate {
    intake: Intake,
    from: From,
    inbox: origin::Producer,
    /// All that is announced, also what is not let through.
    announced: HashMap<PathOwned, Option<Admitted>>,
    serving: JoinSet<()>,
}

/// A broadcast that was let through, until this is dropped.
struct Admitted {
    route: watch::Sender<origin::Route>,
    serving: AbortHandle,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Gate {
    pub fn new(intake: Intake, from: From, inbox: origin::Producer) -> Self {
        Self { intake, from, inbox, announced: HashMap::new(), serving: JoinSet::new() }
    }

    pub async fn run(mut self) -> TooMuch {
        // Hidden ones are counted too.
        let mut updates = self.inbox.consume().with_hidden(true).announced();
        loop {
            tokio::select! {
                update = updates.next() => match update {
                    Some(update) => self.hear(update),
                    None => return TooMuch { announced: self.announced.len() },
                },
                Some(_) = self.serving.join_next() => {}
            }
            if self.announced.len() > self.from.names() {
                return TooMuch { announced: self.announced.len() };
            }
        }
    }

    fn hear(&mut self, update: announce::Update) {
        let announce::Update { prefix, route, kind, .. } = update;
        if !kind.is_active() {
            self.announced.remove(&prefix);
            return;
        }
        if let Some(Some(admitted)) = self.announced.get(&prefix) {
            admitted.route.send_replace(self.priced(route));
            return;
        }
        let admitted = self.admit(&prefix, route);
        self.announced.insert(prefix, admitted);
    }

    fn priced(&self, route: origin::Route) -> origin::Route {
        match self.from {
            From::Guest => route.with_cost(GUEST_COST),
            // What the way to the upstream costs is its own, and more than nothing.
            From::Upstream => {
                let cost =
                    Cost { warm: route.cost.warm.max(GUEST_COST), cold: route.cost.cold.max(GUEST_COST) };
                route.with_cost(cost)
            }
        }
    }

    fn admit(&mut self, name: &PathOwned, route: origin::Route) -> Option<Admitted> {
        if let Err(reason) = check_name(name.as_str()) {
            tracing::debug!(%name, reason, "not let in");
            return None;
        }
        let Some(place) = Place::take(&self.intake, self.from) else {
            tracing::warn!(%name, "not let in: too many broadcasts come in over MoQ");
            return None;
        };
        let mut main = self.intake.origin.producer().clone();
        if self.from == From::Upstream {
            main = main.peer();
        }
        let told = self.intake.broadcasts.come(name.as_str(), self.from);
        // Several upstreams may have the same broadcast, and moq-net goes from one to the next. Of several programs
        // the first is shown until it leaves.
        let mut turn = (self.from == From::Guest).then(|| self.intake.turns.queue(name.as_str()));
        let (sender, routes) = watch::channel(self.priced(route));
        let inbox = self.inbox.consume();
        tracing::info!(%name, from = ?self.from, "on the air over MoQ");
        let mut passage = Passage { main, routes, name: name.clone(), inbox };
        let serving = self.serving.spawn(async move {
            // They live as long as the broadcast is served.
            let (_place, _told) = (place, told);
            if let Some(turn) = &mut turn
                && turn.mine.wait_for(|mine| *mine).await.is_err()
            {
                return;
            }
            passage.serve().await;
        });
        Some(Admitted { route: sender, serving })
    }
}

/// Between the viewers of one broadcast and the session that has it.
struct Passage {
    main: origin::Producer,
    routes: watch::Receiver<origin::Route>,
    name: PathOwned,
    inbox: origin::Consumer,
}

impl Passage {
    /// Offers the broadcast, and passes viewers' requests on, until this relay ends.
    async fn serve(&mut self) -> Option<()> {
        let route = self.routes.borrow_and_update().clone();
        let offer = self.main.dynamic(&self.name, route);
        let offer =
            offer.inspect_err(|error| tracing::debug!(name = %self.name, %error, "not let in")).ok()?;
        loop {
            tokio::select! {
                request = offer.requested_broadcast() => pass(request.ok()?, &self.name, &self.inbox).await,
                changed = self.routes.changed() => {
                    changed.ok()?;
                    let route = self.routes.borrow_and_update().clone();
                    offer.update(route).ok()?;
                }
            }
        }
    }
}

async fn pass(request: Request, name: &PathOwned, inbox: &origin::Consumer) {
    // An announcement covers all paths below it, but here a broadcast is one path.
    if request.path().as_str() != name.as_str() {
        return request.reject(Error::Unroutable);
    }
    match inbox.request_broadcast(name).await {
        Ok(broadcast) => request.accept(broadcast),
        Err(error) => request.reject(error),
    }
}
