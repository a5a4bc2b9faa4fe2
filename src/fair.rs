//! A budget that is shared fairly: each caller that waits gets its turn after the other callers, not
//! after all that they want.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// A number that tells callers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CallerId(u64);

impl CallerId {
    pub(crate) fn new(number: u64) -> Self {
        Self(number)
    }
}

/// How much may be under way at once. A clone is the same budget.
#[derive(Debug, Clone)]
pub(crate) struct FairBudget(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    /// What waits, by caller. A caller without any has no entry.
    waiting: HashMap<CallerId, VecDeque<oneshot::Sender<Permit>>>,
    /// The callers that wait, in the order of their turns.
    turns: VecDeque<CallerId>,
}

/// The right to one of what may be under way. Dropping it passes it on.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Option<FairBudget>,
}

impl FairBudget {
    pub(crate) fn new(permits: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: permits,
            waiting: HashMap::new(),
            turns: VecDeque::new(),
        })))
    }

    /// Waits for the caller's turn. Dropping the future gives the turn up.
    pub(crate) async fn permit(&self, caller: CallerId) -> Permit {
        let turn = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return self.issue();
            }
            let (sender, turn) = oneshot::channel();
            let State { waiting, turns, .. } = &mut *state;
            let queue = waiting.entry(caller).or_insert_with(|| {
                turns.push_back(caller);
                VecDeque::new()
            });
            queue.push_back(sender);
            turn
        };
        match turn.await {
            Ok(permit) => permit,
            // The budget lives as long as whoever waits for it, and never drops a turn.
            Err(_) => std::future::pending().await,
        }
    }

    fn issue(&self) -> Permit {
        Permit {
            budget: Some(self.clone()),
        }
    }

    /// Passes a permit on to whose turn it is.
    fn pass_on(&self) {
        let mut state = self.state();
        while let Some(caller) = state.turns.pop_front() {
            let Some(queue) = state.waiting.get_mut(&caller) else {
                continue;
            };
            let next = queue.pop_front();
            if queue.is_empty() {
                state.waiting.remove(&caller);
            } else {
                state.turns.push_back(caller);
            }
            let Some(Err(mut unused)) = next.map(|next| next.send(self.issue())) else {
                return;
            };
            // Nobody waits there any more. This one is passed on here, and not when it is dropped.
            unused.budget = None;
        }
        state.free += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A std lock: it is never held across an await.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(budget) = self.budget.take() {
            budget.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::BoxFuture, poll};

    use super::*;

    fn wait(budget: &FairBudget, caller: u64) -> BoxFuture<'static, Permit> {
        let budget = budget.clone();
        async move { budget.permit(CallerId(caller)).await }.boxed()
    }

    #[tokio::test]
    async fn a_caller_with_one_wish_waits_for_one_of_another_who_has_a_thousand() {
        let budget = FairBudget::new(1);
        let first = budget.permit(CallerId(1)).await;
        let mut many: Vec<_> = (0..1000).map(|_| wait(&budget, 1)).collect();
        for wish in &mut many {
            assert!(poll!(wish).is_pending());
        }
        let mut one = wait(&budget, 2);
        assert!(poll!(&mut one).is_pending());
        drop(first);
        let second = poll!(&mut many[0]);
        assert!(second.is_ready() && poll!(&mut one).is_pending());
        drop(second);
        assert!(poll!(&mut one).is_ready());
        drop((one, many));
        assert_eq!(budget.state().free, 1);
    }

    #[tokio::test]
    async fn turns_that_are_given_up_are_passed_on() {
        let budget = FairBudget::new(2);
        let held = (
            budget.permit(CallerId(1)).await,
            budget.permit(CallerId(1)).await,
        );
        let mut waiting: Vec<_> = (0..6).map(|n| wait(&budget, n % 3)).collect();
        for turn in &mut waiting {
            assert!(poll!(turn).is_pending());
        }
        // One is given up before its turn, and one after it, but before it is noticed.
        drop(waiting.remove(1));
        drop(held);
        drop(waiting.remove(0));
        // Each is dropped as soon as it is there.
        let turns = waiting.into_iter().map(|turn| async { drop(turn.await) });
        futures_util::future::join_all(turns).await;
        let state = budget.state();
        assert_eq!(
            (state.free, state.waiting.len(), state.turns.len()),
            (2, 0, 0)
        );
    }
}
