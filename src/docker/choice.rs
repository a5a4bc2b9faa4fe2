//! Which engine is meant, as the docker command finds it.
//!
//! ```text
//! --docker-host ▶ --docker-context ▶ DOCKER_HOST ▶ DOCKER_CONTEXT ▶ currentContext ▶ the usual sockets
//! ```

use std::{
    fmt, fs,
    io::ErrorKind::{NotFound, PermissionDenied},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::host::{DockerHost, InvalidDockerHost};
use crate::text::said;

/// The name of the context that stands for none.
const DEFAULT: &str = "default";

/// An engine's address, and what has named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenHost {
    /// The address.
    pub host: DockerHost,
    /// What has named it.
    pub by: ChosenBy,
}

/// What has named an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChosenBy {
    /// The caller, by its address.
    Host,
    /// The variable `DOCKER_HOST`.
    HostVariable,
    /// A context, which the caller, the variable `DOCKER_CONTEXT` or Docker's configuration file has named.
    Context {
        /// The context's name.
        name: String,
        /// Who named it.
        by: String,
    },
    /// Nothing: it is whichever of the usual sockets is there.
    Nothing,
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("as asked for"),
            Self::HostVariable => f.write_str("by DOCKER_HOST"),
            Self::Context { name, by } => write!(f, "by the context {name}, of {by}"),
            Self::Nothing => f.write_str("at a usual socket, since nothing names an engine"),
        }
    }
}

/// The error for an engine that is named, and cannot be what is meant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEngine {
    /// The address cannot be used.
    #[error("{by}: {source}")]
    Host {
        /// What has named it.
        by: String,
        /// Why not.
        source: InvalidDockerHost,
    },
    /// There is no such context.
    #[error("{by} names the Docker context {name:?}, and there is none in {} ({})", directory.display(), listed(.known))]
    NoContext {
        /// What has named it.
        by: String,
        /// The context's name.
        name: String,
        /// Where contexts are.
        directory: PathBuf,
        /// The names of those that are there.
        known: Vec<String>,
    },
    /// A file of Docker's configuration cannot be read.
    #[error("Docker's configuration file {} cannot be read: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// TLS without verifying the engine is asked for.
    #[error("{by} asks for TLS without verifying the engine, which readyd does not do: {remedy}")]
    Unverified {
        /// What asks for it.
        by: String,
        /// What to do.
        remedy: &'static str,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "there are no contexts".to_owned()
    } else {
        format!("there are {}", names.join(", "))
    }
}

impl DockerHost {
    /// Chooses an engine as the docker command does: by this address, else by this context, else by the
    /// variables `DOCKER_HOST` and `DOCKER_CONTEXT`, else by the current context of Docker's configuration
    /// file. If nothing names one, it is whichever of the usual sockets is there when it is looked for, those
    /// of rootless engines and of Podman included. With `DOCKER_TLS_VERIFY` or `DOCKER_CERT_PATH`, an engine
    /// at a TCP address is reached over TLS alone.
    ///
    /// `variable` reads a variable of the environment.
    pub fn choose(
        host: Option<Self>,
        context: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<ChosenHost, InvalidEngine> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let search = Search {
            home: set("HOME").map(PathBuf::from),
            docker: set("DOCKER_CONFIG").map(PathBuf::from),
        };
        if let Some(host) = host {
            let host = secured(host, "--docker-host", &set, &search)?;
            let by = ChosenBy::Host;
            return Ok(ChosenHost { host, by });
        }
        // The context called default is what there is without one.
        if let Some(name) = context.filter(|name| *name != DEFAULT) {
            return search.context(name, "--docker-context", &set);
        }
        if let Some(text) = set("DOCKER_HOST") {
            let by = "DOCKER_HOST";
            let host = text.parse().map_err(|source| InvalidEngine::Host {
                by: by.to_owned(),
                source,
            })?;
            let host = secured(host, by, &set, &search)?;
            let by = ChosenBy::HostVariable;
            return Ok(ChosenHost { host, by });
        }
        if context.is_some() {
            return Ok(usual(&set));
        }
        if let Some(name) = set("DOCKER_CONTEXT") {
            return search.context(&name, "DOCKER_CONTEXT", &set);
        }
        if let Some((path, name)) = search.current_context()? {
            return search.context(&name, &path.display().to_string(), &set);
        }
        Ok(usual(&set))
    }
}

/// The engine that nothing names.
fn usual(variable: &impl Fn(&str) -> Option<String>) -> ChosenHost {
    let own = variable("XDG_RUNTIME_DIR");
    let home = variable("HOME");
    let sockets = [
        Some("/var/run/docker.sock".to_owned()),
        own.as_ref().map(|own| format!("{own}/docker.sock")),
        home.as_ref()
            .map(|home| format!("{home}/.docker/run/docker.sock")),
        home.as_ref()
            .map(|home| format!("{home}/.docker/desktop/docker.sock")),
        own.as_ref().map(|own| format!("{own}/podman/podman.sock")),
        Some("/run/podman/podman.sock".to_owned()),
    ];
    ChosenHost {
        host: DockerHost::usual(sockets.into_iter().flatten().collect()),
        by: ChosenBy::Nothing,
    }
}

/// Where Docker's configuration is.
struct Search {
    home: Option<PathBuf>,
    docker: Option<PathBuf>,
}

/// Docker's configuration file, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    current_context: Option<String>,
}

/// A context, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerContext {
    name: String,
    #[serde(default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    docker: Option<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(rename = "Host", default)]
    host: String,
    #[serde(rename = "SkipTLSVerify", default)]
    skip_tls_verify: bool,
}

impl Search {
    fn directory(&self) -> Option<PathBuf> {
        let home = || self.home.as_ref().map(|home| home.join(".docker"));
        self.docker.clone().or_else(home)
    }

    /// The configuration file's current context, and the file.
    fn current_context(&self) -> Result<Option<(PathBuf, String)>, InvalidEngine> {
        let Some(path) = self
            .directory()
            .map(|directory| directory.join("config.json"))
        else {
            return Ok(None);
        };
        let Some(Configuration { current_context }) = read(&path)? else {
            return Ok(None);
        };
        let name = current_context.filter(|name| !name.is_empty());
        Ok(name.map(|name| (path, name)))
    }

    /// The engine of a context that somebody has named.
    fn context(
        &self,
        name: &str,
        by: &str,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<ChosenHost, InvalidEngine> {
        if name == DEFAULT {
            return Ok(usual(variable));
        }
        let contexts = self.directory().unwrap_or_default().join("contexts");
        let (found, directory) = find(&contexts.join("meta"), name, by)?;
        let of = || format!("the Docker context {name:?}");
        let endpoint = found
            .endpoints
            .docker
            .filter(|docker| !docker.host.is_empty());
        let Some(endpoint) = endpoint else {
            let mut chosen = usual(variable);
            chosen.by = named(name, by);
            return Ok(chosen);
        };
        let wrong = |source| InvalidEngine::Host { by: of(), source };
        let mut host: DockerHost = endpoint.host.parse().map_err(wrong)?;
        let certificates = contexts.join("tls").join(directory).join("docker");
        if host.is_tcp() && (certificates.is_dir() || host.is_tls()) {
            if endpoint.skip_tls_verify {
                return Err(InvalidEngine::Unverified {
                    by: of(),
                    remedy: "give the context the CA of the engine, and take SkipTLSVerify from it",
                });
            }
            host = host.with_certificates(&certificates).map_err(wrong)?;
        }
        let by = named(name, by);
        Ok(ChosenHost { host, by })
    }
}

fn named(name: &str, by: &str) -> ChosenBy {
    ChosenBy::Context {
        name: name.to_owned(),
        by: by.to_owned(),
    }
}

/// Finds a context, and the name of its directory, which is a digest of the context's name.
fn find(meta: &Path, name: &str, by: &str) -> Result<(DockerContext, PathBuf), InvalidEngine> {
    let mut known = Vec::new();
    for entry in fs::read_dir(meta).into_iter().flatten().flatten() {
        let Some(context) = read::<DockerContext>(&entry.path().join("meta.json"))? else {
            continue;
        };
        if context.name == name {
            return Ok((context, entry.file_name().into()));
        }
        known.push(context.name);
    }
    known.sort_unstable();
    Err(InvalidEngine::NoContext {
        by: by.to_owned(),
        name: name.to_owned(),
        directory: meta.to_owned(),
        known,
    })
}

/// Reads a file of JSON, if there is one.
fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, InvalidEngine> {
    let failed = |why: String| InvalidEngine::File {
        path: path.to_owned(),
        why,
    };
    match fs::read(path) {
        Ok(bytes) => {
            let parsed = serde_json::from_slice(&bytes);
            parsed.map(Some).map_err(|error| failed(error.to_string()))
        }
        // What this user may not read is another's.
        Err(error) if matches!(error.kind(), NotFound | PermissionDenied) => Ok(None),
        Err(error) => Err(failed(said(&error))),
    }
}

/// Gives a TCP address its certificates, where the environment asks for TLS.
fn secured(
    host: DockerHost,
    by: &str,
    variable: &impl Fn(&str) -> Option<String>,
    search: &Search,
) -> Result<DockerHost, InvalidEngine> {
    let path = variable("DOCKER_CERT_PATH");
    let is_verified = variable("DOCKER_TLS_VERIFY").is_some() || path.is_some() || host.is_tls();
    if !host.is_tcp() {
        return Ok(host);
    }
    if !is_verified {
        if variable("DOCKER_TLS").is_some() {
            return Err(InvalidEngine::Unverified {
                by: "DOCKER_TLS".to_owned(),
                remedy: "set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to where ca.pem is",
            });
        }
        return Ok(host);
    }
    let certificates = path.map(PathBuf::from).or_else(|| search.directory());
    host.with_certificates(&certificates.unwrap_or_default())
        .map_err(|source| InvalidEngine::Host {
            by: by.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables<'a>(set: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn where_nothing_names_an_engine_the_usual_sockets_are_looked_for() {
        let own = tempfile::tempdir().unwrap();
        let path = own.path().display().to_string();
        let set = [
            ("HOME", &*path),
            ("XDG_RUNTIME_DIR", &path),
            ("DOCKER_HOST", ""),
        ];
        let chosen = DockerHost::choose(None, None, variables(&set)).unwrap();
        assert_eq!(chosen.by, ChosenBy::Nothing);
        let said = chosen
            .host
            .connect(|_| ())
            .map(|_| ())
            .map_err(|error| error.to_string());
        // The tests' own engine may be at one of them.
        if let Err(said) = said {
            assert!(
                said.contains(&format!("none at {path}/docker.sock")),
                "{said}"
            );
            fs::create_dir(own.path().join("podman")).unwrap();
            fs::write(own.path().join("podman/podman.sock"), "").unwrap();
            let podman = format!("unix://{path}/podman/podman.sock");
            assert_eq!(chosen.host.to_string(), podman);
        }
        // The context called default is what there is without one.
        let host = [("DOCKER_HOST", "unix:///a"), ("DOCKER_CONTEXT", "b")];
        let chosen = DockerHost::choose(None, Some("default"), variables(&host)).unwrap();
        assert_eq!(chosen.host, "unix:///a".parse().unwrap());
    }

    #[test]
    fn a_context_that_does_not_verify_is_refused() {
        let own = tempfile::tempdir().unwrap();
        let path = own.path().display().to_string();
        let context = |name: &str, endpoint: &str, tls: bool| {
            let contexts = own.path().join("contexts");
            let meta = contexts.join("meta").join(name);
            fs::create_dir_all(&meta).unwrap();
            let text = format!(r#"{{"Name":"{name}","Endpoints":{{{endpoint}}}}}"#);
            fs::write(meta.join("meta.json"), text).unwrap();
            if tls {
                fs::create_dir_all(contexts.join("tls").join(name).join("docker")).unwrap();
            }
        };
        let skip = r#""docker":{"Host":"tcp://h:2376","SkipTLSVerify":true}"#;
        context("skips", skip, true);
        context("plain", r#""docker":{"Host":"tcp://h:2375"}"#, false);
        context("local", r#""docker":{"Host":"unix:///a"}"#, false);
        context("empty", "", false);
        context("ssh", r#""docker":{"Host":"ssh://h"}"#, false);
        context("bare", r#""docker":{"Host":"tcp://h:2376"}"#, true);
        let set = [("DOCKER_CONFIG", &*path)];
        let choose = |name| {
            let chosen = DockerHost::choose(None, Some(name), variables(&set));
            chosen.map(|chosen| chosen.host.to_string())
        };
        assert_eq!(choose("plain").unwrap(), "tcp://h:2375");
        assert_eq!(choose("local").unwrap(), "unix:///a");
        assert!(choose("empty").unwrap().starts_with("unix:///"));
        for (name, says) in [
            ("skips", "without verifying the engine"),
            ("ssh", "ssh:// is not supported"),
            ("bare", "ca.pem: No such file"),
            ("x", "(there are bare, empty, local, plain, skips, ssh)"),
        ] {
            let said = choose(name).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
    }
}
