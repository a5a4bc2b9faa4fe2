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
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

#[cfg(target_os = "linux")]
use super::host::{HostLink, Threads};
use super::{
    EXEC, Greeting, HOST, Link, LinkChoice, LinkError, NO_OTHER_WAY, Reply, Target, Wanted,
    bridge::BridgeLink, exec::ExecLink,
};
use crate::{
    inbox::Inbox,
    question::{About, Answer, DaemonQuestion, ListeningSocket, PortQuestion, Question},
    reason::ReasonCode,
    unit::{SystemdState, UnitQuestion},
};

/// After this time, a way that broke twice is tried again, although the next best way works.
const AGAIN: Duration = Duration::from_secs(30);

/// For how long it is kept where a process listens that does not where it should, and which process is the
/// first of a container without a bus.
const LISTENERS: Duration = Duration::from_secs(2);

/// The way into one run of one container.
pub(crate) struct NodeLink {
    target: Target,
    choice: LinkChoice,
    #[cfg(target_os = "linux")]
    threads: Arc<Threads>,
    current: Mutex<Current>,
    support: Mutex<HashMap<&'static str, Support>>,
    /// What commands of Slurm are told to ask as a daemon would, by its name and its start (an invocation
    /// id and a main process).
    arguments: Mutex<HashMap<&'static str, (String, Vec<String>)>>,
    /// Where a process was found to listen that did not where it should, and when.
    listeners: Mutex<HashMap<&'static str, (Instant, Vec<SocketAddr>)>>,
    /// Until when systemctl is asked, because the bus was silent.
    silent_bus: Mutex<Option<Instant>>,
    /// The program of the container's first process, and when it was looked for.
    first: Mutex<Option<(Instant, Option<String>)>>,
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
            arguments: Mutex::default(),
            listeners: Mutex::default(),
            silent_bus: Mutex::default(),
            first: Mutex::default(),
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
        let by_systemctl = || async {
            let exec = self.make(Way::Exec);
            exec.systemd(question, listener, by).await
        };
        if self.bus_is_silent() {
            return by_systemctl().await;
        }
        let mut reply = self
            .asked(move |link| async move { link.systemd(question, listener, by).await })
            .await;
        // systemctl needs no bus, and tells whether it is systemd that hangs.
        if matches!(reply.result, Err(LinkError::Slow { limit: Some(_), .. }))
            && self.choice == LinkChoice::Auto
            && reply.via != EXEC
            && !self.target.is_young()
        {
            tracing::debug!(container = %self.target.container.id, "the node's bus is silent: systemctl is asked");
            *self.silent_until() = Some(self.target.environment.now() + AGAIN);
            reply = by_systemctl().await;
        }
        if let Err(error) = &mut reply.result
            && error.code() == ReasonCode::BusUnavailable
            && (reply.via == HOST || !self.target.is_young())
            && let Some(program) = self.first_program(by).await
            && program != "systemd"
        {
            let why = format!(
                "the container's first process is {program:.100}, not systemd: a node without systemd has \
                 to be asked for with the profile process (in the request, by --profile process, or by \
                 the label readyd.profile=process)"
            );
            *error = LinkError::node(ReasonCode::ProfileInvalid, why);
        }
        reply
    }

    fn bus_is_silent(&self) -> bool {
        let now = self.target.environment.now();
        self.silent_until().is_some_and(|until| now < until)
    }

    fn silent_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.silent_bus
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The program of the container's first process; none where nobody can tell.
    async fn first_program(&self, by: Instant) -> Option<String> {
        let now = self.target.environment.now();
        let known = || self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, program)) = &*known()
            && *asked + LISTENERS > now
        {
            return program.clone();
        }
        let question = Question::Daemon(DaemonQuestion {
            process: "systemd",
            main_pid: Some(1),
            about: About::Start,
        });
        let program = match self.ask(&question, by).await.result {
            Ok(Answer::Daemon(processes)) => {
                let first = processes.into_iter().find(|process| process.pid == 1);
                let path = first
                    .and_then(|first| first.start)
                    .map(|start| start.executable);
                let name = path.and_then(|path| path.rsplit('/').next().map(str::to_owned));
                name.filter(|name| !name.is_empty())
            }
            _ => None,
        };
        *known() = Some((now, program.clone()));
        program
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
        let read = || self.dial(question, by);
        let greeting =
            greetings.greeting(container.run(), question.port, wanted, environment, read);
        tokio::select! {
            biased;
            greeting = greeting => Some(greeting),
            () = environment.sleep_until(by) => None,
        }
    }

    /// Dials a port. Where it does not accept, the process that should listen there is looked for, and
    /// dialled at its own address.
    async fn dial(&self, question: PortQuestion, by: Instant) -> Reply<Answer> {
        let reply = self.ask(&Question::Port(question), by).await;
        let (Ok(Answer::Closed(said)), Some(process)) = (&reply.result, question.process) else {
            return reply;
        };
        let listens = self.kept_listeners(process, by).await;
        let same_port = listens.iter().find(|own| own.port() == question.port);
        if let Some(own) = same_port {
            return self.ask(&Question::Port(question.reaching(*own)), by).await;
        }
        let elsewhere: Vec<_> = listens.iter().take(4).map(SocketAddr::to_string).collect();
        let dialled = format!("{said} (dialled at {})", question.address);
        let said = if elsewhere.is_empty() {
            dialled
        } else {
            format!("{dialled}; {process} listens on {}", elsewhere.join(", "))
        };
        Reply {
            via: reply.via,
            result: Ok(Answer::Closed(said)),
        }
    }

    /// The addresses on which it was found to listen, not long ago: a port that is closed may be dialled
    /// again and again.
    async fn kept_listeners(&self, process: &'static str, by: Instant) -> Vec<SocketAddr> {
        let now = self.target.environment.now();
        let known = || {
            self.listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some((found, addresses)) = known().get(process)
            && *found + LISTENERS > now
        {
            return addresses.clone();
        }
        let addresses = self.listens(process, by).await;
        known().insert(process, (now, addresses.clone()));
        addresses
    }

    /// The addresses on which the processes of that name listen, or systemd in their place; none where
    /// nobody can tell.
    async fn listens(&self, process: &'static str, by: Instant) -> Vec<SocketAddr> {
        // systemd, the node's first process, listens on the sockets of its socket units.
        for name in [process, "systemd"] {
            let question = Question::Daemon(DaemonQuestion {
                process: name,
                main_pid: None,
                about: About::Sockets,
            });
            let Ok(Answer::Daemon(processes)) = self.ask(&question, by).await.result else {
                return Vec::new();
            };
            let sockets = processes
                .iter()
                .flat_map(|own| own.listens.iter().flatten());
            let mut addresses: Vec<_> = sockets
                .filter_map(|socket| match socket {
                    ListeningSocket::Tcp(address) => Some(*address),
                    ListeningSocket::Unix(_) => None,
                })
                .collect();
            if !addresses.is_empty() {
                addresses.sort_unstable();
                addresses.dedup();
                return addresses;
            }
        }
        Vec::new()
    }

    /// Whether it is certain, at a glance, that no process of that name runs in the node.
    pub(crate) fn is_surely_missing(&self, process: &'static str) -> bool {
        let (_, link) = self.current();
        link.is_surely_missing(process)
    }

    /// Completes once that process of the node has ended; never, where nobody tells.
    pub(crate) async fn process_end(&self, pid: u32) {
        let (_, link) = self.current();
        link.process_end(pid).await;
    }

    /// The node is said to have no systemd, whose boot a command could disturb.
    pub(crate) fn expect_no_systemd(&self) {
        self.target.is_up();
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

    /// What commands are told to ask as this start of a daemon would, if it is known.
    pub(crate) fn arguments(&self, daemon: &'static str, start: &str) -> Option<Vec<String>> {
        let known = self
            .arguments
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (known_start, arguments) = known.get(daemon)?;
        (known_start == start).then(|| arguments.clone())
    }

    /// Remembers this for as long as the link is kept, unless the start has no name to know it by.
    pub(crate) fn remember_arguments(&self, daemon: &'static str, start: &str, told: &[String]) {
        if !start.is_empty() {
            let mut known = self
                .arguments
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            known.insert(daemon, (start.to_owned(), told.to_vec()));
        }
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
                Err(LinkError::NoBus { why, .. }) if self.choice == LinkChoice::Auto => {
                    if self.target.is_young() {
                        return reply;
                    }
                    tracing::debug!(container = %self.target.container.id, why, "the node has no bus: systemctl is asked");
                    return ask(self.make(Way::Exec)).await;
                }
                Err(error @ (LinkError::Broken(_) | LinkError::Unusable(_))) => {
                    // The next query begins with the best way again.
                    self.replace(&link, 0, None);
                    if let (LinkError::Unusable(why), true) =
                        (error, self.choice != LinkChoice::Auto)
                    {
                        let choice = self.choice;
                        *why = format!("{why}{NO_OTHER_WAY}: its link is {choice})");
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
