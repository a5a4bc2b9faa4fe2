//! A proxy between readyd and the engine's socket, for faults: while it is cut, nobody listens.

use std::path::{Path, PathBuf};

use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

/// A socket that leads to the engine's, until it is cut.
pub struct Proxy {
    path: PathBuf,
    serving: Option<tokio::task::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Proxy {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let mut proxy = Self {
            path,
            serving: None,
            _directory: directory,
        };
        proxy.mend();
        proxy
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Cuts every connection, and lets nobody in.
    pub fn cut(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
        std::fs::remove_file(&self.path).unwrap();
    }

    /// Lets everyone in again.
    pub fn mend(&mut self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        self.serving = Some(tokio::spawn(serve(listener)));
    }
}

async fn serve(listener: UnixListener) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        connections.spawn(async move {
            let mut engine = UnixStream::connect(socket()).await?;
            tokio::io::copy_bidirectional(&mut client, &mut engine).await
        });
        while connections.try_join_next().is_some() {}
    }
}

/// The engine's own socket.
fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let path = host
        .strip_prefix("unix://")
        .unwrap_or("/var/run/docker.sock");
    Path::new(path).to_owned()
}
