//! A quota for each key: how much of something one node, say, may have at once.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Counts by key. A key that has nothing costs nothing. A clone counts the same.
#[derive(Debug)]
pub(crate) struct Quota<K: Eq + Hash> {
    limit: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash + Clone> Quota<K> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: Arc::default(),
        }
    }

    /// Takes one of the key's share; `None` if all of it is taken.
    pub(crate) fn take(&self, key: &K) -> Option<Share<K>> {
        let mut all = lock(&self.taken);
        let taken = all.entry(key.clone()).or_default();
        if *taken >= self.limit {
            return None;
        }
        *taken += 1;
        Some(Share {
            key: key.clone(),
            taken: Arc::clone(&self.taken),
        })
    }

    /// Whether nothing is taken.
    #[cfg(test)]
    pub(crate) fn is_untouched(&self) -> bool {
        lock(&self.taken).is_empty()
    }
}

/// One of a key's share. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share<K: Eq + Hash> {
    key: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut all = lock(&self.taken);
        if let Some(taken) = all.get_mut(&self.key) {
            *taken -= 1;
            if *taken == 0 {
                all.remove(&self.key);
            }
        }
    }
}

fn lock<K>(taken: &Mutex<HashMap<K, usize>>) -> MutexGuard<'_, HashMap<K, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_a_share_of_its_own_and_gets_it_back() {
        let quota = Quota::new(2);
        let first = quota.take(&"a");
        let second = quota.take(&"a");
        assert!(first.is_some() && second.is_some());
        assert!(quota.take(&"a").is_none());
        assert!(quota.take(&"b").is_some());
        drop(first);
        assert!(quota.take(&"a").is_some());
        drop(second);
        assert!(quota.is_untouched());
    }
}
