//! One node's link: the best way in that works, made anew when it breaks.
//!
//! ```text
//! host ──no way in──▶ bridge ──no way in──▶ exec
//!  │ ▲                 │ ▲
//!  └─┘ broke: once     └─┘ broke: once
//! ```
//!
//! For a node without a bus, exec is the best way, because systemctl needs no bus there.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

#[cfg(target_os = "linux")]
use super::host::{HostLink, Threads};
use super::{
    Greeting, Link, LinkChoice, LinkError, Reply, Target, Wanted, bridge::BridgeLink,
    exec::ExecLink,
};
use crate::{
    inbox::Inbox,
    question::{Answer, PortQuestion, Question},
    unit::{SystemdState, UnitQuestion},
};

/// After this time, a way that broke twice is tried again, although the next best way works.
const AGAIN: Duration = Duration::from_secs(30);

/// The way into one run of one container.
pub(crate) struct NodeLink {
    target: Target,
    choice: LinkChoice,
    #[cfg(target_os = "linux")]
    threads: Arc<Threads>,
    current: Mutex<Current>,
    support: Mutex<HashMap<&'static str, Support>>,
    #[cfg(test)]
    pub(super) maker: Option<super::Maker>,
}

/// The way that is taken, and its link.
#[derive(Default)]
struct Current {
    way: usize,
    link: Option<Arc<dyn Link>>,
    /// When the best way is tried again, if it was left because it broke.
    again: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    #[cfg(target_os = "linux")]
    Host,
    Bridge,
    Exec,
}

/// Whether a node understands a query that not every node understands, and that another query can
/// replace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Support {
    /// The query was not made yet.
    #[default]
    Unknown,
    /// The node replied to the query.
    Works,
    /// The daemon of this start (an invocation id) did not understand the query, but understood the
    /// other one. It did so once, which may have been too early, or more than once.
    Useless {
        /// The invocation id.
        start: String,
        /// Whether it happened more than once.
        surely: bool,
    },
}

impl NodeLink {
    pub(super) fn new(
        target: Target,
        choice: LinkChoice,
        #[cfg(target_os = "linux")] threads: Arc<Threads>,
    ) -> Self {
        Self {
            target,
            choice,
            #[cfg(target_os = "linux")]
            threads,
            current: Mutex::default(),
            support: Mutex::default(),
            #[cfg(test)]
            maker: None,
        }
    }

    /// Queries systemd.
    pub(crate) async fn systemd(
        &self,
        question: &UnitQuestion,
        listener: Option<&Arc<Inbox>>,
        by: Instant,
    ) -> Reply<SystemdState> {
        self.asked(move |link| async move { link.systemd(question, listener, by).await })
            .await
    }

    /// Queries a port or a command.
    pub(crate) async fn ask(&self, question: &Question, by: Instant) -> Reply<Answer> {
        self.asked(move |link| async move { link.ask(question, by).await })
            .await
    }

    /// Queries a port that must not be read often.
    pub(crate) async fn greeting(
        &self,
        question: PortQuestion,
        wanted: Wanted<'_>,
        by: Instant,
    ) -> Option<Greeting> {
        let Target {
            greetings,
            environment,
            container,
            ..
        } = &self.target;
        let asked = Question::Port(question);
        let read = || self.ask(&asked, by);
        let greeting =
            greetings.greeting(container.run(), question.port, wanted, environment, read);
        tokio::select! {
            biased;
            greeting = greeting => Some(greeting),
            () = environment.sleep_until(by) => None,
        }
    }

    /// Whether that port was read only just now.
    pub(crate) fn is_spared(&self, question: PortQuestion) -> bool {
        let Target {
            greetings,
            environment,
            container,
            ..
        } = &self.target;
        greetings.is_spared(&container.run(), question.port, environment.now())
    }

    /// Whether the node is known to understand this query.
    pub(crate) fn support(&self, question: &'static str) -> Support {
        let support = self.support.lock().unwrap_or_else(PoisonError::into_inner);
        support.get(question).cloned().unwrap_or_default()
    }

    /// Remembers this for as long as the link is kept.
    pub(crate) fn remember(&self, question: &'static str, support: Support) {
        let mut known = self.support.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(question, support);
    }

    /// Drops the current link, so that the next query makes a new one.
    pub(crate) fn renew(&self) {
        *self.lock() = Current::default();
    }

    async fn asked<T, F>(&self, ask: impl Fn(Arc<dyn Link>) -> F) -> Reply<T>
    where
        F: Future<Output = Reply<T>>,
    {
        let mut remade = false;
        loop {
            let (way, link) = self.current();
            let mut reply = ask(Arc::clone(&link)).await;
            match &mut reply.result {
                Err(LinkError::Broken(why)) if !remade => {
                    tracing::debug!(container = %self.target.container.id, why, "the link broke, and is made anew");
                    self.replace(&link, way, None);
                    remade = true;
                }
                Err(error @ (LinkError::Broken(_) | LinkError::Unusable(_)))
                    if way + 1 < self.ways().len() =>
                {
                    tracing::debug!(container = %self.target.container.id, %error, "the next way in is taken");
                    let broke = matches!(error, LinkError::Broken(_));
                    let again = broke.then(|| self.target.environment.now() + AGAIN);
                    self.replace(&link, way + 1, again);
                    remade = false;
                }
                Err(LinkError::NoBus(_)) if self.choice == LinkChoice::Auto => {
                    if self.target.is_young() {
                        return reply;
                    }
                    tracing::debug!(container = %self.target.container.id, "the node has no bus: systemctl is asked");
                    return ask(self.make(Way::Exec)).await;
                }
                Err(error @ (LinkError::Broken(_) | LinkError::Unusable(_))) => {
                    // The next query begins with the best way again.
                    self.replace(&link, 0, None);
                    if let (LinkError::Unusable(why), true) =
                        (error, self.choice != LinkChoice::Auto)
                    {
                        let choice = self.choice;
                        *why =
                            format!("{why} (readyd may take no other way: its link is {choice})");
                    }
                    return reply;
                }
                _ => return reply,
            }
        }
    }

    fn ways(&self) -> &'static [Way] {
        match self.choice {
            #[cfg(target_os = "linux")]
            LinkChoice::Auto => &[Way::Host, Way::Bridge, Way::Exec],
            #[cfg(target_os = "linux")]
            LinkChoice::Host => &[Way::Host],
            #[cfg(not(target_os = "linux"))]
            LinkChoice::Auto => &[Way::Bridge, Way::Exec],
            // There is no host link on other systems, so this choice gets exec.
            #[cfg(not(target_os = "linux"))]
            LinkChoice::Host => &[Way::Exec],
            LinkChoice::Bridge => &[Way::Bridge],
            LinkChoice::Exec => &[Way::Exec],
        }
    }

    /// The link, and the index of its way.
    fn current(&self) -> (usize, Arc<dyn Link>) {
        let mut current = self.lock();
        if current
            .again
            .is_some_and(|again| self.target.environment.now() >= again)
        {
            *current = Current::default();
        }
        let way = current.way;
        let link = current
            .link
            .get_or_insert_with(|| self.make(self.ways()[way]));
        (way, Arc::clone(link))
    }

    fn make(&self, way: Way) -> Arc<dyn Link> {
        #[cfg(test)]
        if let Some(maker) = &self.maker {
            return maker(&self.target.container);
        }
        let target = self.target.clone();
        match way {
            #[cfg(target_os = "linux")]
            Way::Host => Arc::new(HostLink::new(target, Arc::clone(&self.threads))),
            Way::Bridge => Arc::new(BridgeLink::new(target)),
            Way::Exec => Arc::new(ExecLink::new(target)),
        }
    }

    /// Replaces this link by a new one, unless another caller already has.
    fn replace(&self, link: &Arc<dyn Link>, way: usize, again: Option<Instant>) {
        let mut current = self.lock();
        if current
            .link
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, link))
        {
            *current = Current {
                way,
                link: None,
                again: again.or(current.again),
            };
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
