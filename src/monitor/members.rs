//! The nodes of a cluster wait, as they come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::wait::ClusterTarget;
use crate::{
    cluster::{
        ListedNode, NodeSelector,
        directory::{Directory, DirectoryReader, Listing},
    },
    container::ContainerId,
    node::{Identity, NodeName},
    probe::ProbeError,
    reason::{Reason, ReasonCode},
};

/// The state in which an engine takes a container away.
const REMOVING: &str = "removing";

/// Which containers are the cluster's, as far as this wait has seen for itself.
pub(super) struct Members {
    /// The cluster that is waited for; none where nodes are only watched.
    target: Option<ClusterTarget>,
    selector: NodeSelector,
    identity: Identity,
    reader: DirectoryReader,
    started: Instant,
    /// The newest list; none until one has come that was asked for since the wait began.
    listing: Option<Arc<Listing>>,
    trouble: Option<ProbeError>,
    /// The nodes that are there.
    present: BTreeMap<(NodeName, ContainerId), Present>,
    /// The places of those that are about to be removed.
    removing: BTreeSet<usize>,
    /// The moment for which another list has been asked.
    refreshed_for: Option<Instant>,
}

/// A node that is there.
struct Present {
    /// Its place in the wait.
    place: usize,
    listed: Arc<ListedNode>,
}

/// What has changed from one list to the next.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) joined: Vec<ListedNode>,
    /// Those that are listed otherwise than before.
    pub(super) changed: Vec<(usize, Arc<ListedNode>)>,
    pub(super) left: Vec<(usize, NodeName)>,
}

impl Members {
    pub(super) fn new(
        directory: &Directory,
        identity: &Identity,
        selector: NodeSelector,
        target: Option<ClusterTarget>,
        started: Instant,
    ) -> Self {
        Self {
            selector,
            target,
            identity: identity.clone(),
            reader: directory.read(),
            started,
            listing: None,
            trouble: None,
            present: BTreeMap::new(),
            removing: BTreeSet::new(),
            refreshed_for: None,
        }
    }

    pub(super) async fn changed(&mut self) {
        self.reader.changed().await;
    }

    /// Takes the newest list. A list that could not be had changes nothing.
    pub(super) fn take(&mut self) -> Changes {
        let newest = self.reader.newest();
        self.trouble.clone_from(&newest.trouble);
        let is_own = newest.asked.is_some_and(|asked| asked >= self.started);
        let is_known = |known: &Arc<Listing>| known.asked == newest.asked;
        if !is_own || self.listing.as_ref().is_some_and(is_known) {
            return Changes::default();
        }
        let nodes = self.reader.nodes(&newest, &self.identity, &self.selector);
        self.listing = Some(newest);
        let key = |node: &ListedNode| (node.name.clone(), node.id.clone());
        let keys: BTreeSet<_> = nodes.iter().map(key).collect();
        let mut changes = Changes::default();
        self.present.retain(|key, present| {
            let stays = keys.contains(key);
            if !stays {
                changes.left.push((present.place, key.0.clone()));
            }
            stays
        });
        self.removing.clear();
        for node in nodes {
            let Some(present) = self.present.get_mut(&key(&node)) else {
                changes.joined.push(node);
                continue;
            };
            if node.state == REMOVING {
                self.removing.insert(present.place);
            }
            if *present.listed != node {
                present.listed = Arc::new(node);
                let listed = Arc::clone(&present.listed);
                changes.changed.push((present.place, listed));
            }
        }
        changes
    }

    /// Notes where a node that has joined stands.
    pub(super) fn note(&mut self, listed: Arc<ListedNode>, place: usize) {
        let key = (listed.name.clone(), listed.id.clone());
        self.present.insert(key, Present { place, listed });
    }

    /// When the newest list was asked for.
    pub(super) fn asked(&self) -> Option<Instant> {
        self.listing.as_ref().and_then(|listing| listing.asked)
    }

    /// Whether the node in that place is there, and not about to be removed.
    pub(super) fn stays(&self, place: usize) -> bool {
        self.present.values().any(|other| other.place == place) && !self.removing.contains(&place)
    }

    /// Whether a list that was asked for since then shows as many nodes as there have to be, and no more than
    /// are known. Else one is asked for, once for each moment.
    pub(super) fn are_complete_since(&mut self, moment: Instant) -> bool {
        if self.present.len() < self.min_nodes() as usize {
            return false;
        }
        if self.asked().is_some_and(|asked| asked >= moment) {
            return true;
        }
        self.refresh_for(moment);
        false
    }

    /// Wants a list that is asked for after this moment, which has come.
    pub(super) fn refresh_for(&mut self, moment: Instant) {
        if self.refreshed_for != Some(moment) {
            self.refreshed_for = Some(moment);
            self.reader.refresh();
        }
    }

    pub(super) fn present(&self) -> u32 {
        u32::try_from(self.present.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn min_nodes(&self) -> u32 {
        let wanted = self.target.as_ref().map(|target| target.min_nodes);
        wanted.unwrap_or_default().max(1)
    }

    /// Why the cluster itself keeps the wait from being over.
    pub(super) fn blocked(&self) -> Option<Reason> {
        if let Some(ProbeError(why)) = &self.trouble {
            return Some(why.clone());
        }
        if self.listing.is_none() {
            let why = "the engine's list of containers has not come yet";
            return Some(Reason::new(ReasonCode::NotAnsweredYet, why));
        }
        let (present, wanted) = (self.present(), self.min_nodes());
        let target = self.target.as_ref().filter(|_| present < wanted)?;
        let nodes = if wanted == 1 { "node" } else { "nodes" };
        let why = format!("cluster {target} has {present} of {wanted} {nodes}");
        Some(Reason::new(ReasonCode::ClusterIncomplete, why))
    }
}
