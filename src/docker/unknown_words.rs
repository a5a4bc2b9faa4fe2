//! Answers with words that bollard's models lack: it refuses the whole answer for one (Podman's state
//! `stopped`). Of such an answer, only the fields that readyd needs are read.

use bollard::{
    errors::Error,
    models::{
        ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
        ContainerSummaryStateEnum, HealthStatusEnum, RestartPolicyNameEnum,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::bounded;

/// What an inspection says in words that bollard's models lack.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OtherWords {
    /// The container's state.
    pub(super) state: Option<String>,
    /// The status of its health check.
    pub(super) health: Option<String>,
}

/// Reads an inspection that bollard has refused for a word.
pub(super) fn inspected(refused: Error) -> Result<(ContainerInspectResponse, OtherWords), Error> {
    let answer = content(refused)?;
    let (state, host) = (&answer["State"], &answer["HostConfig"]);
    let status = state["Status"].as_str().map(docker_word);
    let health = &state["Health"];
    let (state_word, other_state) = known::<ContainerStateStatusEnum>(status);
    let (health_word, other_health) = known::<HealthStatusEnum>(health["Status"].as_str());
    // A policy that nobody knows may start the container again.
    let policy = host["RestartPolicy"]["Name"].as_str();
    let policy = match known::<RestartPolicyNameEnum>(policy) {
        (_, Some(_)) => Some("always"),
        (policy, None) => policy,
    };
    let needed = json!({
        "Id": answer["Id"],
        "Name": answer["Name"],
        "Config": { "Labels": answer["Config"]["Labels"] },
        "HostConfig": { "NetworkMode": host["NetworkMode"], "RestartPolicy": { "Name": policy } },
        "State": {
            "Status": state_word,
            "ExitCode": state["ExitCode"],
            "OOMKilled": state["OOMKilled"],
            "StartedAt": state["StartedAt"],
            "Pid": state["Pid"],
            "Health": { "Status": health_word, "Log": health["Log"] },
        },
    });
    let other = OtherWords {
        state: other_state,
        health: other_health,
    };
    Ok((serde_json::from_value(needed)?, other))
}

/// Reads a list of containers that bollard has refused for a word.
pub(super) fn listed(refused: Error) -> Result<Vec<ContainerSummary>, Error> {
    let answer = content(refused)?;
    let containers = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    let needed = |container: &Value| {
        let state = container["State"].as_str();
        let (word, other) = known::<ContainerSummaryStateEnum>(state);
        json!({
            "Id": container["Id"],
            "Names": container["Names"],
            "Labels": container["Labels"],
            "State": word,
            // Where there is another word for the state, it is here.
            "Status": other,
            "NetworkSettings": { "Networks": container["NetworkSettings"]["Networks"] },
        })
    };
    let needed = containers.iter().map(needed).collect();
    Ok(serde_json::from_value(Value::Array(needed))?)
}

/// The answer itself, if it is one that was refused.
fn content(refused: Error) -> Result<Value, Error> {
    match &refused {
        Error::JsonDataError { contents, .. } => {
            serde_json::from_str(contents).map_err(|_| refused)
        }
        _ => Err(refused),
    }
}

/// Docker's own word for a state that Podman names otherwise (`ContainerStatus` in libpod/define).
fn docker_word(state: &str) -> &str {
    match state {
        "configured" | "initialized" => "created",
        "stopped" => "exited",
        state => state,
    }
}

/// The word, if there is one for it among those of `T`, which are an empty one else; and what it is then.
fn known<T: DeserializeOwned>(word: Option<&str>) -> (Option<&str>, Option<String>) {
    match word {
        Some(word) if serde_json::from_value::<T>(json!(word)).is_err() => {
            (Some(""), Some(bounded(word)))
        }
        word => (word, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: DeserializeOwned + std::fmt::Debug>(answer: &Value) -> Error {
        let message = serde_json::from_value::<T>(answer.clone()).unwrap_err();
        Error::JsonDataError {
            message: message.to_string(),
            contents: answer.to_string(),
            column: 0,
        }
    }

    fn inspection(status: &str, health: &str, policy: &str) -> Value {
        json!({
            "Id": "ab".repeat(32),
            "Name": "/node",
            "Config": { "Labels": { "sind.role": "worker" }, "Unread": 1 },
            "HostConfig": {
                "NetworkMode": "bridge",
                "RestartPolicy": { "Name": policy },
                "CgroupnsMode": "odd",
            },
            "State": {
                "Status": status, "ExitCode": 137, "OOMKilled": true, "Pid": 7,
                "StartedAt": "2026-11-27T08:23:18.247875447+01:00",
                "Health": { "Status": health, "Log": [{ "Output": "said" }] },
            },
        })
    }

    fn read(status: &str, health: &str, policy: &str) -> (ContainerInspectResponse, OtherWords) {
        let answer = inspection(status, health, policy);
        inspected(refused::<ContainerInspectResponse>(&answer)).unwrap()
    }

    #[test]
    fn an_inspection_is_read_whatever_its_words_are() {
        for (word, status) in [
            ("stopped", ContainerStateStatusEnum::EXITED),
            ("configured", ContainerStateStatusEnum::CREATED),
            ("initialized", ContainerStateStatusEnum::CREATED),
            ("running", ContainerStateStatusEnum::RUNNING),
        ] {
            let (response, other) = read(word, "healthy", "always");
            assert_eq!(other, OtherWords::default());
            let state = response.state.unwrap();
            assert_eq!(state.status, Some(status), "{word}");
            assert_eq!((state.exit_code, state.pid), (Some(137), Some(7)));
            assert_eq!(state.oom_killed, Some(true));
            assert!(state.started_at.unwrap().ends_with("+01:00"));
            let health = state.health.unwrap();
            assert_eq!(health.status, Some(HealthStatusEnum::HEALTHY));
            assert_eq!(health.log.unwrap()[0].output.as_deref(), Some("said"));
            assert_eq!(response.name.as_deref(), Some("/node"));
            assert_eq!(
                response.config.unwrap().labels.unwrap()["sind.role"],
                "worker"
            );
        }
        let (response, other) = read("dreaming", "tired", "on-monday");
        assert_eq!(other.state.as_deref(), Some("dreaming"));
        assert_eq!(other.health.as_deref(), Some("tired"));
        let policy = response.host_config.unwrap().restart_policy.unwrap();
        assert_eq!(policy.name, Some(RestartPolicyNameEnum::ALWAYS));
    }

    #[test]
    fn a_list_is_read_whatever_its_words_are() {
        let answer = json!([
            { "Id": "a", "Names": ["/one"], "State": "stopped", "Status": "Exited (0)" },
            { "Id": "b", "Names": ["/two"], "State": "running" },
        ]);
        let listed = listed(refused::<Vec<ContainerSummary>>(&answer)).unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!(listed[1].names.as_deref(), Some(&["/two".to_owned()][..]));
        assert_eq!(listed[0].status.as_deref(), Some("stopped"));
        assert_eq!(listed[1].state, Some(ContainerSummaryStateEnum::RUNNING));
    }

    #[test]
    fn what_is_no_answer_stays_refused() {
        let broken = Error::JsonDataError {
            message: "expected a value".to_owned(),
            contents: "<html>".to_owned(),
            column: 0,
        };
        assert!(matches!(
            inspected(broken),
            Err(Error::JsonDataError { .. })
        ));
        let other = inspected(Error::RequestTimeoutError);
        assert!(matches!(other, Err(Error::RequestTimeoutError)));
    }
}
