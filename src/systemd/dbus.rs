//! Queries systemd over D-Bus (org.freedesktop.systemd1(5)), through any stream that leads to the
//! node's system bus.
//!
//! One call returns the states of any number of units. Other properties that a finding may need
//! (the type, the main process, the time of the last change) are queried only for the few units
//! that need them. A caller that follows a node subscribes to changes first, and queries the state
//! then.

mod subscription;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join, join_all, join3, try_join, try_join_all},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Mutex;
use zbus::{Connection, DynamicType, OwnedObjectPath, OwnedVariant, Type, conn::Builder};

use super::{
    jobs::microseconds,
    signals::Listeners,
    stream::ByteStream,
    values::{hex, number, pid, text, word},
};
use crate::{
    inbox::Inbox,
    unit::{FAILED_UNITS, JOBS, Job, SystemdState, Unit, UnitQuestion, is_booting},
};

/// How many units may have failed for the list of them to be asked for. systemd lists all or none, and
/// a list of thousands is long.
const LISTED: u32 = 1000;

/// The longest message with variants, in bytes. Parsed, it may take sixty times as much memory: a
/// variant of a byte array has a variant for each byte.
const VARIANTS_CAP: usize = 128 * 1024;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const ROOT: &str = "/org/freedesktop/systemd1";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// The reason why systemd gave no reply over D-Bus.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum DbusError {
    /// The connection is gone.
    #[error("the D-Bus connection to the node broke: {0}")]
    Broken(String),
    /// The bus does not let readyd in.
    #[error("the node's D-Bus does not let readyd in: {0}")]
    Refused(String),
    /// The bus or systemd replied with an error: systemd is not on the bus yet, say.
    #[error("systemd does not answer over D-Bus: {0}")]
    Said(String),
    /// The reply makes no sense.
    #[error("the node's D-Bus makes no sense: {0}")]
    Garbled(String),
}

/// A connection to a node's system bus.
#[derive(Debug)]
pub(crate) struct Bus {
    connection: Connection,
    listeners: Arc<Listeners>,
    /// The units whose changes this connection is subscribed to; `None` until it is subscribed to
    /// systemd as a whole.
    heard: Mutex<Option<BTreeSet<String>>>,
    /// The paths of units, by the names in the query.
    paths: Mutex<HashMap<String, String>>,
}

/// The properties that all units have, and the number of the last signal before the reply.
type Properties = (HashMap<String, OwnedVariant>, u64);

/// The time that a unit's monotonic timestamps are compared with. It comes from the same clock and
/// is read before the query that returns the timestamps, so that a unit is older, never younger,
/// than it seems.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MonotonicNow(pub(crate) Duration);

/// A row of `ListUnitsByNames`: name, description, load state, active state, sub state, followed
/// unit, path, number of the queued job, its type and its path.
type Row = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// A row of `ListJobs`: number, unit, type, state, path, and the unit's path.
type JobRow = (
    u32,
    String,
    String,
    String,
    OwnedObjectPath,
    OwnedObjectPath,
);

impl Bus {
    pub(crate) async fn connect(stream: ByteStream) -> Result<Self, DbusError> {
        let listeners = Arc::clone(&stream.listeners);
        let built = Builder::socket(stream).build().await;
        Ok(Self {
            connection: built.map_err(handshake_error)?,
            listeners,
            heard: Mutex::default(),
            paths: Mutex::default(),
        })
    }

    /// Whether the connection is known to be gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Queries systemd. Failed units come without their journal, which no D-Bus call returns.
    ///
    /// The listener, if there is one, receives a signal for each change after the state in this
    /// reply.
    pub(crate) async fn look(
        &self,
        question: &UnitQuestion,
        now: Option<MonotonicNow>,
        listener: Option<&Arc<Inbox>>,
    ) -> Result<SystemdState, DbusError> {
        let Some(listener) = listener else {
            return self.look_once(question, now).await;
        };
        let asked = question.units.iter().map(|unit| (*unit).to_owned());
        let mut told = self.listen(listener, asked.collect()).await?;
        let mut look = self.look_once(question, now).await?;
        // Signals carry a unit's real name, and the name in the question may be an alias.
        let names: Vec<_> = look.units.values().map(|unit| unit.id.clone()).collect();
        if told && !self.hears(&names).await {
            told = self.listen(listener, names).await?;
            look = self.look_once(question, now).await?;
            let names: Vec<_> = look.units.values().map(|unit| unit.id.clone()).collect();
            told &= self.hears(&names).await;
        }
        look.subscribed = told && !self.is_closed();
        Ok(look)
    }

    async fn look_once(
        &self,
        question: &UnitQuestion,
        now: Option<MonotonicNow>,
    ) -> Result<SystemdState, DbusError> {
        // For a repeated query, the paths are known, so the details are queried along with the
        // states.
        let paths = &self.paths.lock().await.clone();
        let known = question.proofs.iter().filter_map(|name| paths.get(*name));
        let early = self.all_properties(known.cloned().collect());
        let ((system, (rows, heard)), mut early) = join(
            try_join(self.system_state(), self.list(&question.units)),
            early,
        )
        .map(|(states, early)| states.map(|states| (states, early)))
        .await?;
        if rows.len() != question.units.len() {
            let (said, asked) = (rows.len(), question.units.len());
            let what = format!("it told of {said} units when asked for {asked}");
            return Err(DbusError::Garbled(what));
        }
        let units = question.units.iter().zip(rows).map(|(name, row)| {
            let proof = question.proofs.contains(name);
            // An alias and its unit have one path, so the details of the second are queried once
            // more.
            let early = early.remove(row.6.as_str());
            async move {
                if proof && !paths.contains_key(*name) {
                    let mut paths = self.paths.lock().await;
                    paths.insert((*name).to_owned(), row.6.as_str().to_owned());
                }
                let unit = self.unit(row, heard, proof, early, now).await?;
                Ok(((*name).to_owned(), unit))
            }
        });
        let failed = async {
            match system.as_str() {
                "degraded" => self.failed_units().await,
                _ => Ok(Some(Vec::new())),
            }
        };
        let jobs = async {
            if is_booting(&system) && question.jobs {
                self.jobs().await
            } else {
                Ok(Vec::new())
            }
        };
        let (units, failed_units, jobs) = join3(try_join_all(units), failed, jobs).await;
        let units = units?;
        // The reply includes a signal only if all of its parts include it.
        let heard = units.iter().map(|(_, (_, heard))| *heard).min();
        let units = units.into_iter().map(|(name, (unit, _))| (name, unit));
        Ok(SystemdState {
            units: units.collect::<BTreeMap<_, _>>(),
            failed_units: failed_units?,
            system,
            jobs: jobs?,
            subscribed: false,
            // A reply about no units misses no signal.
            last_signal: heard.unwrap_or(u64::MAX),
        })
    }

    async fn system_state(&self) -> Result<String, DbusError> {
        let state = self.property(ROOT, MANAGER, "SystemState").await?;
        Ok(word(&text(&state)))
    }

    async fn list(&self, units: &[&str]) -> Result<(Vec<Row>, u64), DbusError> {
        if units.is_empty() {
            return Ok((Vec::new(), 0));
        }
        self.call_at(SYSTEMD, ROOT, MANAGER, "ListUnitsByNames", &(units,))
            .await
    }

    /// Some jobs that run. Those that only wait for others say nothing.
    async fn jobs(&self) -> Result<Vec<Job>, DbusError> {
        let count = self.property(ROOT, MANAGER, "NJobs").await?;
        if u32::try_from(&*count).unwrap_or(u32::MAX) > LISTED {
            return Ok(Vec::new());
        }
        let rows: Vec<JobRow> = self.call(ROOT, MANAGER, "ListJobs", &()).await?;
        let running = rows.into_iter().filter(|row| row.3 == "running");
        let jobs = running
            .take(JOBS)
            .map(|(_, unit, _, _, _, path)| async move {
                // A unit may have gone since.
                let since = self.property(&path, UNIT, "InactiveExitTimestamp").await;
                let since = since.ok().and_then(|since| number(&since));
                Job {
                    unit: word(&unit),
                    since: since.and_then(microseconds),
                }
            });
        let mut jobs = join_all(jobs).await;
        jobs.sort();
        Ok(jobs)
    }

    async fn failed_units(&self) -> Result<Option<Vec<String>>, DbusError> {
        let count = self.property(ROOT, MANAGER, "NFailedUnits").await?;
        if u32::try_from(&*count).unwrap_or(u32::MAX) > LISTED {
            return Ok(None);
        }
        let rows: Vec<Row> = self
            .call(ROOT, MANAGER, "ListUnitsFiltered", &(&["failed"][..],))
            .await?;
        let mut names: Vec<_> = rows.iter().map(|row| word(&row.0)).collect();
        names.sort_unstable();
        names.truncate(FAILED_UNITS);
        Ok(Some(names))
    }

    /// The unit of a row, and the number of the last signal before the reply. An active unit needs
    /// no second query, unless its proof is wanted.
    async fn unit(
        &self,
        row: Row,
        heard: u64,
        proof: bool,
        early: Option<Properties>,
        now: Option<MonotonicNow>,
    ) -> Result<(Unit, u64), DbusError> {
        let (name, _, load, active, sub, _, path, job, _, _) = row;
        let unit = Unit {
            id: word(&name),
            load: word(&load),
            active: word(&active),
            sub: word(&sub),
            job: job != 0,
            ..Unit::default()
        };
        if !unit.exists() || (unit.is_active() && !proof) {
            return Ok((unit, heard));
        }
        self.detailed(unit, &path, early, now).await
    }

    /// The unit with all other properties that findings need.
    async fn detailed(
        &self,
        unit: Unit,
        path: &str,
        early: Option<Properties>,
        now: Option<MonotonicNow>,
    ) -> Result<(Unit, u64), DbusError> {
        // The calls are made and answered in this order. If the process is newer than the state,
        // the unit then seems younger than it is, never older.
        let all = async {
            match early {
                Some(early) => Ok(early),
                None => self.properties(path).await,
            }
        };
        let ((all, heard), service) = try_join(all, self.service(&unit, path)).await?;
        let of = |name: &str| all.get(name);
        let said = |name: &str| of(name).map(text).map(|text| word(&text));
        let stamp = |name: &str| of(name).and_then(number);
        let (Some(active), Some(sub)) = (said("ActiveState"), said("SubState")) else {
            return Err(DbusError::Garbled("a unit without ActiveState".to_owned()));
        };
        let (Some(changed), Some(entered)) = (
            stamp("StateChangeTimestampMonotonic"),
            stamp("ActiveEnterTimestampMonotonic"),
        ) else {
            return Err(DbusError::Garbled("a unit without timestamps".to_owned()));
        };
        let since = Duration::from_micros(entered.max(service.started));
        let condition_tried = stamp("ConditionTimestampMonotonic").unwrap_or(0) != 0;
        let condition_met = of("ConditionResult").and_then(|met| bool::try_from(met).ok());
        // This reply repeats everything that the row has, and is newer.
        let job = of("Job")
            .and_then(|job| <(u32, OwnedObjectPath)>::try_from(job.try_clone().ok()?).ok());
        let mut unit = Unit {
            load: said("LoadState").unwrap_or(unit.load),
            job: job.map_or(unit.job, |(number, _)| number != 0),
            active,
            sub,
            result: service.result,
            kind: service.kind,
            main_pid: service.main_pid,
            exec_pid: service.exec_pid,
            invocation: of("InvocationID").map(hex).unwrap_or_default(),
            condition_failed: condition_tried && condition_met == Some(false),
            changed,
            since,
            age: now.and_then(|MonotonicNow(now)| now.checked_sub(since)),
            id: unit.id,
            journal: unit.journal,
        };
        if unit.is_active() && unit.tells() {
            // The process is not always queried: see `service`. The invocation id tells one start
            // from another.
            (unit.main_pid, unit.exec_pid) = (0, 0);
        }
        Ok((unit, heard))
    }

    /// The properties that only services have; empty for another unit.
    ///
    /// For an active service whose type proves that it is up, findings need nothing but the type.
    /// The type stays the same until unit files are reloaded.
    async fn service(&self, unit: &Unit, path: &str) -> Result<Service, DbusError> {
        if !unit.id.ends_with(".service") {
            return Ok(Service::default());
        }
        if unit.is_active()
            && let Some(kind) = self.listeners.kind(&unit.id)
        {
            let known = Unit {
                kind,
                ..Unit::default()
            };
            if known.tells() {
                return Ok(Service {
                    kind: known.kind,
                    ..Service::default()
                });
            }
        }
        let (kind, heard) = self
            .call_at::<OwnedVariant>(SYSTEMD, path, PROPERTIES, "Get", &(SERVICE, "Type"))
            .await?;
        let kind = word(&text(&kind));
        self.listeners.keep_kind(&unit.id, &kind, heard);
        let property = |name| self.property(path, SERVICE, name);
        let (result, main, exec, started) = tokio::try_join!(
            property("Result"),
            property("MainPID"),
            property("ExecMainPID"),
            property("ExecMainStartTimestampMonotonic"),
        )?;
        Ok(Service {
            kind,
            result: word(&text(&result)),
            main_pid: pid(&main),
            exec_pid: pid(&exec),
            started: number(&started).unwrap_or(0),
        })
    }

    /// The properties of the units at these paths, without the units whose query fails.
    fn all_properties(&self, paths: Vec<String>) -> BoxFuture<'_, HashMap<String, Properties>> {
        let of_one = |path: String| async move {
            let properties = self.properties(&path).await.ok()?;
            Some((path, properties))
        };
        let all = join_all(paths.into_iter().map(of_one));
        Box::pin(all.map(|all| all.into_iter().flatten().collect()))
    }

    /// The properties that all units have, and the number of the last signal before the reply.
    async fn properties(&self, path: &str) -> Result<Properties, DbusError> {
        self.call_at(SYSTEMD, path, PROPERTIES, "GetAll", &(UNIT,))
            .await
    }

    async fn property(&self, path: &str, of: &str, name: &str) -> Result<OwnedVariant, DbusError> {
        self.call(path, PROPERTIES, "Get", &(of, name)).await
    }

    async fn call<T>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &(impl Serialize + DynamicType),
    ) -> Result<T, DbusError>
    where
        T: DeserializeOwned + Type,
    {
        let called = self.call_at(SYSTEMD, path, interface, method, body);
        Ok(called.await?.0)
    }

    /// Makes a call, and also returns the number of the last signal before the reply.
    async fn call_at<T>(
        &self,
        service: &str,
        path: &str,
        interface: &str,
        method: &str,
        body: &(impl Serialize + DynamicType),
    ) -> Result<(T, u64), DbusError>
    where
        T: DeserializeOwned + Type,
    {
        let reply = self
            .connection
            .call_method(Some(service), path, Some(interface), method, body)
            .await
            .map_err(call_error)?;
        let heard = self.listeners.heard_before(&reply);
        let length = reply.body().len();
        if length > VARIANTS_CAP && T::SIGNATURE.to_string().contains('v') {
            return Err(DbusError::Garbled(format!("a reply of {length} bytes")));
        }
        let said = reply.body().deserialize::<T>();
        said.map(|said| (said, heard))
            .map_err(|error| DbusError::Garbled(error.to_string()))
    }
}

/// The properties that only services have.
#[derive(Debug, Default)]
struct Service {
    kind: String,
    result: String,
    main_pid: u32,
    exec_pid: u32,
    /// When the main process started, in microseconds.
    started: u64,
}

fn handshake_error(error: zbus::Error) -> DbusError {
    match error {
        zbus::Error::Handshake(said) if said.contains("rejected") => DbusError::Refused(said),
        other => call_error(other),
    }
}

fn call_error(error: zbus::Error) -> DbusError {
    use std::io::ErrorKind;
    match error {
        zbus::Error::InputOutput(error) if error.kind() == ErrorKind::InvalidData => {
            DbusError::Garbled(error.to_string())
        }
        zbus::Error::InputOutput(error) => DbusError::Broken(match error.kind() {
            ErrorKind::UnexpectedEof => "it was closed".to_owned(),
            _ => error.to_string(),
        }),
        zbus::Error::Handshake(said) if said.contains("EOF") => {
            DbusError::Broken("it was closed in the handshake".to_owned())
        }
        zbus::Error::MethodError(name, said, _) => {
            DbusError::Said(said.unwrap_or_else(|| name.to_string()))
        }
        zbus::Error::FDO(error) => DbusError::Said(error.to_string()),
        other => DbusError::Garbled(other.to_string()),
    }
}
