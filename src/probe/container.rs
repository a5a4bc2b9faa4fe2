//! The probe `container`: the container is running.

use super::{Evidence, Finding, Judgement, Outcome, Proof};
use crate::{
    container::{Container, Network, State},
    node::NodeName,
    reason::{Reason, ReasonCode},
};

/// Judges the container by its state, not by its restart policy: `docker kill` leaves a container
/// with `--restart=always` exited for good. But an exited container that its policy may start again
/// needs a second look.
pub(crate) fn judge(node: &NodeName, container: &Container) -> Finding {
    let is = |state: &str| format!("container {node} is {state}");
    let ended = |judgement| Finding {
        judgement,
        evidence: Evidence::detail(container.last_words.clone()),
    };
    match &container.state {
        State::Running => Finding::passed(),
        State::Created => Finding::failed(
            ReasonCode::ContainerNotStarted,
            is("created, but not started"),
        ),
        State::Paused => Finding::failed(ReasonCode::ContainerPaused, is("paused")),
        State::Restarting => Finding::failed(ReasonCode::ContainerRestarting, is("restarting")),
        State::Stopping => Finding::failed(ReasonCode::ContainerEnded, is("stopping")),
        State::Removing => Finding::failed(ReasonCode::ContainerEnded, is("being removed")),
        State::Exited { code, oom } => {
            let oom = if *oom { " (OOM killed)" } else { "" };
            let exited = Reason::new(
                ReasonCode::ContainerEnded,
                is(&format!("exited (exit code {code}){oom}")),
            );
            if container.restarts {
                let proof = Proof::Run(container.run());
                let reason = exited;
                ended(Judgement::Dead { proof, reason })
            } else {
                ended(Judgement::Clear(Outcome::Terminal(exited)))
            }
        }
        State::Dead => {
            let dead = Outcome::terminal(ReasonCode::ContainerEnded, is("dead"));
            ended(Judgement::Clear(dead))
        }
        State::Other(state) => Finding::failed(
            ReasonCode::ContainerNotStarted,
            is(&format!("in the unknown state {state:?}")),
        ),
    }
}

/// Returns the outcome of a container that does not exist.
pub(crate) fn missing(node: &NodeName, seen: bool) -> Outcome {
    if seen {
        Outcome::terminal(
            ReasonCode::ContainerMissing,
            format!("container {node} was removed"),
        )
    } else {
        Outcome::failed(
            ReasonCode::ContainerMissing,
            format!("container {node} does not exist yet"),
        )
    }
}

/// Returns the reason for a container that has ended and was started again, without a restart
/// policy that would have done so.
pub(crate) fn started_again(node: &NodeName) -> Reason {
    Reason::new(
        ReasonCode::ContainerEnded,
        format!(
            "container {node} has ended, and was started again: it has no restart policy, so the run \
         that was waited for is over"
        ),
    )
}

/// Returns the outcome of a container whose label is not a role. The probes that it has to pass are
/// then unknown, and with a guess readyd could report it ready when it is not.
pub(crate) fn bad_role(node: &NodeName, key: &str, value: &str) -> Outcome {
    Outcome::failed(
        ReasonCode::RoleInvalid,
        format!(
            "container {node} has the label {key}={value:.64}, which is not a role: the roles are \
         controller, submitter, worker, db and api"
        ),
    )
}

/// Returns the outcome of a container whose profile label is no profile.
pub(crate) fn bad_profile(node: &NodeName, key: &str, value: &str) -> Outcome {
    Outcome::failed(
        ReasonCode::ProfileInvalid,
        format!(
            "container {node} has the label {key}={value:.64}, which is not a profile: the profiles are \
             systemd and process"
        ),
    )
}

/// Returns why a port of this node says nothing about the node, if its network is not its own.
pub(crate) fn shared_port(node: &NodeName, container: &Container, port: u16) -> Option<Outcome> {
    let whose = match &container.network {
        Network::Own => return None,
        Network::Host => "the network of the engine's machine".to_owned(),
        Network::Container(other) => format!("the network of container {other:.64}"),
    };
    Some(Outcome::failed(
        ReasonCode::Unproven,
        format!(
            "container {node} uses {whose}: what answers at port {port} there may be another's"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::ContainerId;

    fn container(state: State, restarts: bool) -> Container {
        Container {
            id: ContainerId("0".repeat(64)),
            name: "n".to_owned(),
            labels: [].into(),
            state,
            restarts,
            started_at: None,
            pid: None,
            network: Network::Own,
            health: None,
            last_words: crate::text::Detail::default(),
        }
    }

    fn judged(state: State) -> Finding {
        judge(&"n".parse().unwrap(), &container(state, false))
    }

    fn exited(code: i64, oom: bool) -> State {
        State::Exited { code, oom }
    }

    #[test]
    fn only_a_running_container_passes_and_only_an_ended_one_is_terminal() {
        let ended = ReasonCode::ContainerEnded;
        let terminal = |reason: &str| Finding::from(Outcome::terminal(ended, reason));
        let failed = |code, reason: &str| Finding::failed(code, reason);
        for (state, finding) in [
            (State::Running, Finding::passed()),
            (
                exited(137, true),
                terminal("container n is exited (exit code 137) (OOM killed)"),
            ),
            (
                exited(0, false),
                terminal("container n is exited (exit code 0)"),
            ),
            (State::Dead, terminal("container n is dead")),
            (
                State::Paused,
                failed(ReasonCode::ContainerPaused, "container n is paused"),
            ),
            (
                State::Created,
                failed(
                    ReasonCode::ContainerNotStarted,
                    "container n is created, but not started",
                ),
            ),
            (
                State::Restarting,
                failed(ReasonCode::ContainerRestarting, "container n is restarting"),
            ),
            (
                State::Removing,
                failed(ended, "container n is being removed"),
            ),
            (
                State::Other("stopped".into()),
                failed(
                    ReasonCode::ContainerNotStarted,
                    "container n is in the unknown state \"stopped\"",
                ),
            ),
        ] {
            assert_eq!(judged(state), finding);
        }
    }

    #[test]
    fn what_a_policy_may_start_again_takes_a_second_look() {
        let exited = container(exited(1, false), true);
        let node = "n".parse().unwrap();
        let Judgement::Dead { proof, reason } = judge(&node, &exited).judgement else {
            panic!("it was judged at once");
        };
        assert_eq!(reason.as_str(), "container n is exited (exit code 1)");
        assert_eq!(proof, Proof::Run(exited.run()));
        let dead = container(State::Dead, true);
        assert_eq!(
            judge(&node, &dead),
            judged(State::Dead),
            "no policy starts that"
        );
    }
}
