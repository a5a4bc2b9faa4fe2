//! An entrance for fuzzing of what an engine answers.

use bollard::{
    errors::Error,
    models::{ContainerInspectResponse, ContainerSummary},
};

use super::{container, unknown_words};

/// An inspection, and a list of containers.
pub fn engine(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let refused = |error: serde_json::Error| Error::JsonDataError {
        message: error.to_string(),
        column: error.column(),
        contents: text.clone(),
    };
    let inspected = match serde_json::from_str::<ContainerInspectResponse>(&text) {
        Ok(inspected) => Ok((inspected, unknown_words::OtherWords::default())),
        Err(error) => unknown_words::inspected(refused(error)),
    };
    if let Ok((inspected, words)) = inspected {
        let _ = container(inspected, words, "inspecting container n");
    }
    if let Err(error) = serde_json::from_str::<Vec<ContainerSummary>>(&text) {
        let _ = unknown_words::listed(refused(error));
    }
}
