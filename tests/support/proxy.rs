//! A proxy between readyd and the engine's socket that injects faults: calls that stall, break off,
//! arrive late or get a malformed answer; streams that are cut or send everything twice; and an
//! engine that is gone.
//!
//! The engine is asked to close each connection behind its answer, so the first line of a connection
//! identifies the call.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::real::socket;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};

/// The fault of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call is accepted and never answered.
    Stall,
    /// The call's connection is closed.
    Cut,
    /// The answer is half a JSON document.
    Half,
    /// The answer is that of a command that was started, and then nothing follows.
    Started,
    /// The call is passed on after this delay.
    Late(Duration),
    /// Each chunk of the answer is sent twice.
    Twice,
}

#[derive(Default)]
struct Faults {
    faults: Vec<(String, Fault)>,
    /// The calls that were made, by their first line.
    calls: Vec<String>,
}

/// A socket that leads to the engine's socket, until it is cut.
pub struct Proxy {
    path: PathBuf,
    faults: Arc<Mutex<Faults>>,
    /// A new value cuts the streams whose first line contains it.
    severed: watch::Sender<String>,
    serving: Option<tokio::task::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Proxy {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        let mut proxy = Self {
            path,
            faults: Arc::default(),
            severed: watch::Sender::default(),
            serving: None,
            _directory: directory,
        };
        proxy.mend();
        proxy
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Cuts every connection, and accepts no new one.
    pub fn cut(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
        std::fs::remove_file(&self.path).unwrap();
    }

    /// Accepts connections again.
    pub fn mend(&mut self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        let serving = serve(listener, Arc::clone(&self.faults), self.severed.subscribe());
        self.serving = Some(tokio::spawn(serving));
    }

    /// Makes calls whose first line contains this fail with this fault from now on.
    pub fn fail(&self, line: &str, fault: Fault) {
        let mut faults = self.faults.lock().unwrap();
        faults.faults.push((line.to_owned(), fault));
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.faults.lock().unwrap().faults.clear();
    }

    /// Cuts the open connections whose first line contains this.
    pub fn sever(&self, line: &str) {
        self.severed.send_replace(line.to_owned());
    }

    /// Returns how many calls there were whose first line contains this.
    pub fn calls(&self, line: &str) -> usize {
        let faults = self.faults.lock().unwrap();
        faults
            .calls
            .iter()
            .filter(|call| call.contains(line))
            .count()
    }
}

async fn serve(
    listener: UnixListener,
    faults: Arc<Mutex<Faults>>,
    severed: watch::Receiver<String>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (faults, mut severed) = (Arc::clone(&faults), severed.clone());
        severed.mark_unchanged();
        connections.spawn(async move {
            let Some((client, head)) = head(client).await else {
                return;
            };
            let line = String::from_utf8_lossy(&head);
            let line = line.lines().next().unwrap_or_default().to_owned();
            let cut = async {
                let of_this = |part: &String| line.contains(part.as_str());
                let _ = severed.changed().await;
                while !of_this(&severed.borrow_and_update()) {
                    if severed.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                _ = connection(client, &head, &line, &faults) => {}
                () = cut => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Reads up to the end of a request's head.
async fn head(mut client: UnixStream) -> Option<(UnixStream, Vec<u8>)> {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = client
            .read(&mut chunk)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        head.extend_from_slice(&chunk[..read]);
    }
    Some((client, head))
}

async fn connection(
    mut client: UnixStream,
    head: &[u8],
    line: &str,
    faults: &Mutex<Faults>,
) -> std::io::Result<()> {
    let fault = {
        let mut faults = faults.lock().unwrap();
        faults.calls.push(line.to_owned());
        let mut of_line = faults.faults.iter().rev();
        let found = of_line.find(|(part, _)| line.contains(part));
        found.map(|(_, fault)| *fault)
    };
    match fault {
        Some(Fault::Cut) => return Ok(()),
        Some(Fault::Stall) => return std::future::pending().await,
        Some(Fault::Half) => {
            let half = "{\"Id\":\"abcd\",\"State\":{\"Sta";
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{half}",
                half.len()
            );
            return client.write_all(answer.as_bytes()).await;
        }
        Some(Fault::Started) => {
            let answer = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
                 Content-Type: application/vnd.docker.multiplexed-stream\r\n\r\n";
            client.write_all(answer.as_bytes()).await?;
            return std::future::pending().await;
        }
        Some(Fault::Late(delay)) => tokio::time::sleep(delay).await,
        Some(Fault::Twice) | None => {}
    }
    let mut engine = UnixStream::connect(socket()).await?;
    engine.write_all(&closing(head)).await?;
    if fault == Some(Fault::Twice) {
        return twice(&mut client, &mut engine).await;
    }
    tokio::io::copy_bidirectional(&mut client, &mut engine).await?;
    Ok(())
}

/// Asks for the end of the connection behind the answer, unless the request asks for another protocol.
fn closing(head: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let (line, rest) = text.split_once("\r\n").unwrap();
    if rest.to_lowercase().contains("\r\nupgrade:") || rest.to_lowercase().starts_with("upgrade:") {
        return head.to_owned();
    }
    format!("{line}\r\nConnection: close\r\n{rest}").into_bytes()
}

/// Passes an answer on, with each chunk of its body twice.
async fn twice(client: &mut UnixStream, engine: &mut UnixStream) -> std::io::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = engine.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        let said = &chunk[..read];
        client.write_all(said).await?;
        // An engine writes each event as a chunk of its own.
        if said[0].is_ascii_hexdigit() && said.ends_with(b"\r\n") {
            client.write_all(said).await?;
        }
    }
}
