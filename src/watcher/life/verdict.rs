//! What is made of the facts: each plan's probes, as far as the facts carry, and what is still needed.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{
        fact::Fact,
        plan::{Plan, Published, Seen},
        round::Round,
        step::{Step, step},
        subject::{ENGINE, Span},
    },
    EngineBack, Life, is_told, names_of,
};
use crate::{
    environment::after,
    probe::{CouldNotLook, Means, Outcome, Probe, ProbeKey, container},
    report::{ProbeResult, Trigger},
    runtime::{Container, State},
    text::{Detail, Reason},
};

/// How old what systemd or an answer has said may be for a plan to pass.
const FRESH: Duration = Duration::from_secs(1);

/// How long after an engine's return a container that it starts again may take: until then, having
/// ended is not the end.
const RETURN: Duration = Duration::from_secs(10);

/// How much later a container with a restart policy has to be found ended still.
const LEFT: Duration = Duration::from_secs(1);

/// How soon what no event tells is asked for again, at first.
const EAGER: Duration = Duration::from_millis(10);

/// And later: after a sixteenth of the time for which nothing has changed, so that whatever comes is
/// found out late by no more than that, and asking gets ever more seldom.
const PATIENCE: u32 = 16;

/// How often what is told is looked at all the same.
const RESYNC: Duration = Duration::from_secs(30);

/// For how long a banner counts while its unit is unchanged, where changes are not told.
///
/// sshd locks out who reads its banner more often than once in a second and never logs in
/// (`sshd_config(5)`, `PerSourcePenalties`).
const KEPT: Duration = Duration::from_secs(1);

/// What going through the plans has shown to be needed.
#[derive(Default)]
pub(super) struct Needs {
    pub(super) container: bool,
    pub(super) systemd: bool,
    pub(super) answers: Vec<Probe>,
    /// When something will have to be asked for again.
    pub(super) due: Vec<(What, Instant)>,
    /// When going through the plans again will come to something else.
    pub(super) wake: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Container,
    Systemd,
    Answer(ProbeKey),
}

/// What one plan has gone by.
struct Used {
    /// The earliest that any of it was asked for.
    started: Instant,
    /// The latest that any of it but the container was answered.
    latest: Option<Instant>,
    systemd: bool,
    /// The answers that only time can make old.
    answers: Vec<ProbeKey>,
    certain: bool,
    stale: bool,
}

impl Used {
    fn span(&mut self, span: Span) {
        self.started = self.started.min(span.0);
        self.latest = self.latest.max(Some(span.1));
    }
}

/// How far a probe came.
enum Came {
    Settled(ProbeResult, Detail, &'static str, Duration),
    /// There is no answer yet.
    Open,
}

/// What the container itself is to its probes.
enum Standing {
    /// This, to every one.
    Every(Outcome),
    /// It runs; its label may name no role.
    Runs(Option<Outcome>),
}

impl Life {
    /// Goes through the probes of every plan, publishes what is new, and tells what is needed.
    pub(super) fn go_through(&mut self, now: Instant) -> Needs {
        let mut needs = Needs::default();
        for plan in self.plans.clone() {
            self.go_through_plan(&plan, &mut needs, now);
        }
        needs
    }

    fn go_through_plan(&mut self, plan: &Plan, needs: &mut Needs, now: Instant) {
        let before = Arc::clone(&plan.published.borrow());
        let environment = self.sight.environment.clone();
        let wanted = &plan.wanted;
        let mut used = Used {
            started: now,
            latest: None,
            systemd: false,
            answers: Vec::new(),
            certain: true,
            stale: false,
        };
        let Some(found) = self.container.value.clone() else {
            needs.container = true;
            return;
        };
        let container_span = self.container.span;
        used.started = used.started.min(container_span.0);
        needs.container = self.container.needs_asking();
        used.certain = self.container.counts();
        used.stale = self.container.is_stale();

        let mut role = before.role;
        let mut absent = false;
        let mut open = false;
        let mut round = match found {
            Err(error) => {
                let CouldNotLook(reason) = error.into();
                let mut round = Round::new(&environment, &before.probes, wanted.probes(role));
                round.settle(ProbeResult::Unknown(reason), Detail::default(), "");
                needs
                    .due
                    .push((What::Container, self.retry(container_span)));
                round
            }
            Ok(None) => {
                absent = true;
                let missing = container::missing(&self.key.node, self.seen.is_some());
                let mut round = Round::new(&environment, &before.probes, wanted.probes(role));
                round.settle(ProbeResult::Looked(missing), Detail::default(), ENGINE);
                let due = self.container_due(None);
                needs.due.push((What::Container, due));
                round
            }
            Ok(Some(container)) => {
                let labelled = match wanted.role {
                    Some(role) => Ok(Some(role)),
                    None => self.sight.role(&self.key.node, &container),
                };
                role = labelled.clone().ok().flatten();
                // Reports of an earlier run say nothing of how long something has been so.
                let same_run = before.started >= self.run_since;
                let known: &[_] = if same_run { &before.probes } else { &[] };
                let mut round = Round::new(&environment, known, wanted.probes(role));
                let due = self.container_due(Some(&container));
                needs.due.push((What::Container, due));
                let standing = self.standing(&container, labelled.err());
                open = self.run_probes(&mut round, &standing, needs, &mut used);
                round
            }
        };
        if open {
            let unsettled = Published {
                role,
                probes: round.so_far().into(),
                settled: false,
                passed_since: None,
                ..self.published(&before, &used, absent)
            };
            publish(plan, &before, unsettled);
            return;
        }
        // A node without a probe would have proved nothing.
        let passed = round.has_passed() && !round.probes.is_empty();
        if passed && !self.closes(&used, needs, before.passed_since.is_none()) {
            hold(plan, !used.certain);
            return;
        }
        round.skip_rest();
        let passed_since = passed.then(|| before.passed_since.unwrap_or(now));
        let next = Published {
            role,
            probes: round.reports.into(),
            settled: true,
            passed_since,
            ..self.published(&before, &used, absent)
        };
        if !next.says_the_same(&before) {
            self.quiet_since = now;
        }
        publish(plan, &before, next);
    }

    fn published(&self, before: &Published, used: &Used, absent: bool) -> Published {
        let (trigger, detail) = match (before.trigger, before.settled) {
            (Trigger::Initial, false) => (Trigger::Initial, Arc::from("")),
            _ => self.trigger.clone(),
        };
        Published {
            trigger,
            detail,
            round: self.rounds.max(1),
            started: used.started,
            doubtful: !used.certain,
            stale: used.stale,
            absent,
            seen: (self.seen.as_ref()).map(|(container, at)| Seen::new(container, *at)),
            observed: self.sight.environment.wall(),
            ..before.clone()
        }
    }

    /// What the container itself is to every probe; passed if they have to be asked.
    fn standing(&self, container: &Container, bad_role: Option<Outcome>) -> Standing {
        if let Some(waiting) = self
            .starts_again(container)
            .or_else(|| self.may_start_again(container))
        {
            return Standing::Every(waiting);
        }
        match container::judge(&self.key.node, container) {
            Outcome::Passed(_) => Standing::Runs(bad_role),
            outcome => Standing::Every(outcome),
        }
    }

    /// What an ended container is while an engine that came back may still start it again.
    fn starts_again(&self, container: &Container) -> Option<Outcome> {
        // What was seen before the time was over does not count after it.
        if self.container.span.0 >= self.returned_by(container)? {
            return None;
        }
        let outcome = container::judge(&self.key.node, container);
        let ended = outcome.reason().map_or("", Reason::as_str);
        Some(Outcome::failed(format!(
            "{ended}; the engine came back and may start it again"
        )))
    }

    /// What an ended container is until a second look has found that its policy leaves it so.
    fn may_start_again(&self, container: &Container) -> Option<Outcome> {
        if self.container.span.0 >= self.left_by()? {
            return None;
        }
        let outcome = container::judge(&self.key.node, container);
        let ended = outcome.reason().map_or("", Reason::as_str);
        Some(Outcome::failed(format!(
            "{ended}; its restart policy may start it again"
        )))
    }

    /// From when on a look that finds the container ended shows that its policy leaves it so.
    fn left_by(&self) -> Option<Instant> {
        let (_, found) = self.ended.as_ref()?;
        Some(*found + LEFT)
    }

    fn returned_by(&self, container: &Container) -> Option<Instant> {
        let back = match self.engine_back? {
            EngineBack::Since(back) => back,
            // What was seen before it went away does not count, either.
            EngineBack::NotYet => self.container.span.0,
        };
        let ended = matches!(container.state, State::Exited { .. } | State::Dead);
        (ended && container.restarts).then(|| back + RETURN)
    }

    /// Goes through a plan's probes, up to the first that has not passed; true if that one has no
    /// answer yet.
    fn run_probes(
        &mut self,
        round: &mut Round,
        standing: &Standing,
        needs: &mut Needs,
        used: &mut Used,
    ) -> bool {
        while let Some(probe) = round.next() {
            let came = match standing {
                Standing::Every(outcome) => engine(outcome.clone(), self.container.span),
                Standing::Runs(bad_role) if probe.is_container() => {
                    let outcome = bad_role.clone().unwrap_or_else(Outcome::passed);
                    engine(outcome, self.container.span)
                }
                Standing::Runs(_) => self.run_probe(&probe, needs, used),
            };
            match came {
                Came::Settled(result, detail, via, elapsed) => {
                    round.elapsed = elapsed;
                    round.settle(result, detail, via);
                }
                Came::Open => return true,
            }
        }
        false
    }

    fn run_probe(&mut self, probe: &Probe, needs: &mut Needs, used: &mut Used) -> Came {
        let key = probe.key();
        let span = self.container.span;
        let asked = self.systemd.value.as_ref();
        let names = names_of(probe);
        let needs_systemd = !names.is_empty() || matches!(probe.means(), Ok(Means::Systemd));
        if needs_systemd {
            used.systemd = true;
            needs.systemd |= self.systemd.needs_asking();
            used.certain &= self.systemd.counts();
            used.stale |= self.systemd.is_stale();
            match asked {
                None => return Came::Open,
                Some(asked) if stands_no_longer(&self.systemd, asked.said.is_ok(), self.now()) => {
                    return Came::Open;
                }
                Some(_) => {}
            }
        }
        let answered = self
            .answers
            .get(&key)
            .and_then(|known| known.fact.value.as_ref());
        let (found, elapsed) = match step(probe, false, asked, answered, span) {
            Step::AskSystemd => {
                needs.systemd = true;
                return Came::Open;
            }
            Step::Ask(..) | Step::Check => {
                needs.answers.push(probe.clone());
                return Came::Open;
            }
            Step::Unknown(CouldNotLook(reason), span) => {
                used.span(span);
                let answers = answered.is_some_and(|answered| answered.span == span);
                let what = if answers {
                    What::Answer(key)
                } else {
                    What::Systemd
                };
                needs.due.push((what, self.retry(span)));
                let unknown = ProbeResult::Unknown(reason);
                return Came::Settled(unknown, Detail::default(), "", span.1 - span.0);
            }
            // It is not kept: the container is looked at instead.
            Step::Ended(..) => return Came::Open,
            Step::Found(found) => {
                let elapsed = found.span.1 - found.span.0;
                (found, elapsed)
            }
        };
        let via = found.via;
        if needs_systemd {
            used.span(self.systemd.span);
        }
        let weighed = self.memory.weigh(probe.name(), found.finding, found.span);
        if let Some(again) = weighed.again {
            needs.due.push((What::Systemd, again));
        }
        let passes = weighed.outcome.is_passed();
        let mut kept = false;
        if let Some(known) = self.answers.get(&key)
            && known.fact.value.is_some()
        {
            used.certain &= known.fact.counts();
            used.stale |= known.fact.is_stale();
            if known.fact.needs_asking() {
                needs.answers.push(probe.clone());
                if stands_no_longer(&known.fact, passes, self.now()) {
                    return Came::Open;
                }
                needs.wake = earlier(needs.wake, known.fact.stands_until());
            }
            kept = passes && known.keeps() && known.behind.is_some();
            if !kept {
                used.span(known.fact.span);
                used.answers.push(key.clone());
            }
        }
        let (of_systemd, of_answer) = self.next_due(probe, !passes, kept);
        let of_systemd = of_systemd.filter(|_| needs_systemd);
        needs.due.extend(of_systemd.map(|due| (What::Systemd, due)));
        needs
            .due
            .extend(of_answer.map(|due| (What::Answer(key), due)));
        let outcome = ProbeResult::Looked(weighed.outcome);
        Came::Settled(outcome, weighed.detail, via, elapsed)
    }

    /// When systemd, and the probe's own answer, have to be asked again though nothing is told.
    fn next_due(
        &self,
        probe: &Probe,
        stops: bool,
        kept: bool,
    ) -> (Option<Instant>, Option<Instant>) {
        let poll = after(self.systemd.span.1, self.poll());
        let of_systemd = self.systemd.value.as_ref().map(|asked| match &asked.said {
            Ok(look) if look.told => {
                let is_systemd = matches!(probe.means(), Ok(Means::Systemd));
                // The end of a boot is told; how else it changes is not.
                let boots = matches!(look.system.as_str(), "starting" | "initializing");
                if stops && is_systemd && !boots {
                    self.retry(self.systemd.span)
                } else {
                    self.systemd.span.1 + RESYNC
                }
            }
            _ if stops => self.retry(self.systemd.span),
            _ => poll,
        });
        let Some(known) = self.answers.get(&probe.key()) else {
            return (of_systemd, None);
        };
        let end = known.fact.span.1;
        let told = self.systemd.value.as_ref().is_some_and(is_told);
        let of_answer = match (stops, kept) {
            // Of those whose unit stops them, the answer was not gone by.
            (true, _) => Some(self.retry(known.fact.span)),
            (false, true) if told => None,
            (false, true) => Some(after(end, self.poll().max(KEPT))),
            (false, false) => Some(after(end, self.poll())),
        };
        (of_systemd, of_answer)
    }

    fn container_due(&self, container: Option<&Container>) -> Instant {
        let span = self.container.span;
        let back = container.and_then(|container| self.returned_by(container));
        let comes = |at: &Instant| self.container.span.0 < *at;
        let back = earlier(back.filter(comes), self.left_by().filter(comes));
        let runs = container.is_some_and(|container| container.state == State::Running);
        let due = match (self.live && self.feed.is_live(), runs) {
            (true, _) => span.1 + RESYNC,
            (false, true) => after(span.1, self.poll()),
            (false, false) => self.retry(span),
        };
        back.map_or(due, |back| due.min(back))
    }

    /// Whether a plan that has passed may say so: nothing that it goes by is in doubt, and what was
    /// seen first was still so at the end.
    fn closes(&mut self, used: &Used, needs: &mut Needs, newly: bool) -> bool {
        if !used.certain {
            return false;
        }
        if !newly {
            return true;
        }
        let latest = used.latest.unwrap_or(self.container.span.0);
        // Of systemd as a whole, not all is told.
        let fresh = self.systemd.span.1 + FRESH;
        if used.systemd && fresh < latest.max(self.container.span.0) {
            self.systemd.want_anew();
            needs.systemd = true;
            return false;
        }
        // Nor is it told when an answer would be another; those that were behind a probe that did not
        // pass have not been asked for since.
        let looked = self.container.span.0;
        let mut old = false;
        for key in &used.answers {
            if let Some(known) = self.answers.get_mut(key)
                && known.fact.span.1 + FRESH < looked
            {
                known.fact.want_anew();
                needs.answers.push(known.probe.clone());
                old = true;
            }
        }
        if old {
            return false;
        }
        // Events may be late, and an exec goes by an id that a restart keeps. But who has just answered
        // over the node's own bus runs.
        let told = self.systemd.value.as_ref().is_some_and(is_told);
        let live = self.live && self.feed.is_live() && self.container.counts();
        let runs = used.systemd && told && live && self.systemd.span.1 >= latest;
        if !runs && self.container.span.0 < latest {
            self.container.want_anew();
            needs.container = true;
            return false;
        }
        true
    }

    pub(super) fn now(&self) -> Instant {
        self.sight.environment.now()
    }

    /// The shortest interval that a client polls at.
    fn poll(&self) -> Duration {
        let intervals = self.plans.iter().filter_map(|plan| plan.interval());
        intervals.min().unwrap_or(RESYNC)
    }

    /// When what no event tells is asked for again: often at first, and ever more seldom; and never
    /// so often that asking is all that is done.
    fn retry(&self, span: Span) -> Instant {
        let quiet = span.1.saturating_duration_since(self.quiet_since);
        let took = span.1 - span.0;
        let delay = EAGER.max(quiet / PATIENCE).max(took).min(self.poll());
        span.1 + self.sight.environment.jitter(delay)
    }
}

fn engine(outcome: Outcome, span: Span) -> Came {
    let result = ProbeResult::Looked(outcome);
    Came::Settled(result, Detail::default(), ENGINE, span.1 - span.0)
}

/// Says nothing new, but whether something has happened that is not in the newest state.
fn hold(plan: &Plan, doubtful: bool) {
    plan.published.send_if_modified(|published| {
        if published.doubtful != doubtful {
            Arc::make_mut(published).doubtful = doubtful;
        }
        false
    });
}

fn publish(plan: &Plan, before: &Published, next: Published) {
    let passes = next.passed_since.is_some();
    // Who waits for the moment in which all nodes are ready acts on these, too.
    let clear = before.doubtful && !next.doubtful || before.stale && !next.stale;
    let moved = passes && next.started > before.started || clear;
    let first = !(before.settled || next.settled) && before.round == 0;
    let news = moved || first || !next.says_the_same(before);
    plan.published.send_if_modified(|published| {
        *published = Arc::new(next);
        news
    });
}

/// Whether a passed fact has been asked for once more for too long to be taken for granted.
fn stands_no_longer<T>(fact: &Fact<T>, passed: bool, now: Instant) -> bool {
    passed && fact.stands_until().is_some_and(|until| now >= until)
}

pub(super) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
