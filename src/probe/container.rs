//! `container`: it is running.

use super::Outcome;
use crate::{
    node::NodeName,
    runtime::{Container, Network, State},
    text::Reason,
};

/// The container's state decides, not its restart policy: `docker kill` leaves a container with
/// `--restart=always` exited for good.
pub(crate) fn judge(node: &NodeName, container: &Container) -> Outcome {
    let is = |state: &str| format!("container {node} is {state}");
    match &container.state {
        State::Running => Outcome::passed(),
        State::Created => Outcome::failed(is("created, but not started")),
        State::Paused => Outcome::failed(is("paused")),
        State::Restarting => Outcome::failed(is("restarting")),
        State::Removing => Outcome::failed(is("being removed")),
        State::Exited { code, oom } => {
            let oom = if *oom { " (OOM killed)" } else { "" };
            Outcome::terminal(is(&format!("exited (exit code {code}){oom}")))
        }
        State::Dead => Outcome::terminal(is("dead")),
        State::Other(state) => Outcome::failed(is(&format!("in the unknown state {state:?}"))),
    }
}

/// There is no such container.
pub(crate) fn missing(node: &NodeName, seen: bool) -> Outcome {
    if seen {
        Outcome::terminal(format!("container {node} was removed"))
    } else {
        Outcome::failed(format!("container {node} does not exist yet"))
    }
}

/// It was ended and started again, without a restart policy that would have done so.
pub(crate) fn started_again(node: &NodeName) -> Reason {
    Reason::new(format!(
        "container {node} has ended, and was started again: it has no restart policy, so the run \
         that was waited for is over"
    ))
}

/// Its label names no role: which probes it has to pass is anybody's guess, and a guess could call
/// it ready when it is not.
pub(crate) fn bad_role(node: &NodeName, key: &str, value: &str) -> Outcome {
    Outcome::failed(format!(
        "container {node} has the label {key}={value:.64}, which is not a role: the roles are \
         controller, submitter, worker, db and api"
    ))
}

/// Why a port of this node says nothing about it, where it is not the node's own.
pub(crate) fn shared_port(node: &NodeName, container: &Container, port: u16) -> Option<Outcome> {
    let whose = match &container.network {
        Network::Own => return None,
        Network::Host => "the network of the engine's machine".to_owned(),
        Network::Container(other) => format!("the network of container {other:.64}"),
    };
    Some(Outcome::failed(format!(
        "container {node} uses {whose}: what answers at port {port} there may be another's"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ContainerId;

    fn judged(state: State) -> Outcome {
        let container = Container {
            id: ContainerId("0".repeat(64)),
            name: "n".to_owned(),
            labels: [].into(),
            state,
            restarts: true,
            started_at: None,
            pid: None,
            network: Network::Own,
        };
        judge(&"n".parse().unwrap(), &container)
    }

    #[test]
    fn only_a_running_container_passes_and_only_an_ended_one_is_terminal() {
        let terminal = |reason: &str| Outcome::terminal(reason);
        let failed = |reason: &str| Outcome::failed(reason);
        let exited = |code, oom| State::Exited { code, oom };
        assert_eq!(judged(State::Running), Outcome::passed());
        assert_eq!(
            judged(exited(137, true)),
            terminal("container n is exited (exit code 137) (OOM killed)")
        );
        assert_eq!(
            judged(exited(0, false)),
            terminal("container n is exited (exit code 0)")
        );
        assert_eq!(judged(State::Dead), terminal("container n is dead"));
        assert_eq!(judged(State::Paused), failed("container n is paused"));
        assert_eq!(
            judged(State::Created),
            failed("container n is created, but not started")
        );
        assert_eq!(
            judged(State::Restarting),
            failed("container n is restarting")
        );
        assert_eq!(
            judged(State::Other("stopped".into())),
            failed("container n is in the unknown state \"stopped\"")
        );
    }
}
