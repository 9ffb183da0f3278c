//! Runnable plans, one for each combination of concrete input shapes, kept in a bounded cache.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lru::LruCache;
use tract_onnx::{
    prelude::{TValue, TVec, TractError, TypedSimplePlan},
    tract_core::plan::{SimpleState, eval},
};

use super::pool::Watch;

/// The shapes of all inputs, in the graph's order.
pub type Shapes = Vec<Vec<usize>>;

/// A graph that was optimised for concrete input shapes. Runs share nothing but the weights.
#[derive(Debug)]
pub struct Plan {
    runnable: Arc<TypedSimplePlan>,
    /// Nanoseconds of the last run; [`u64::MAX`] before the first.
    took: AtomicU64,
}

/// A run up to which a thread that serves sockets may be kept from them.
const SHORT: Duration = Duration::from_micros(100);

/// Why a run ended without outputs.
#[derive(Debug)]
pub enum RunError {
    /// Nobody waits for the answer any more.
    Over,
    Failed(TractError),
}

#[derive(Debug, thiserror::Error)]
#[error("stopped between two nodes")]
struct Stopped;

impl Plan {
    pub fn new(runnable: Arc<TypedSimplePlan>) -> Self {
        Self { runnable, took: AtomicU64::new(u64::MAX) }
    }

    /// Whether its last run took less time than it would to hand the next one over to another thread, or not much more. With
    /// its shapes given, a plan takes the same time whatever its inputs hold, but for the turns that others take.
    pub fn is_short(&self) -> bool {
        u128::from(self.took.load(Ordering::Relaxed)) <= SHORT.as_nanos()
    }

    /// Computes all outputs. Looks at the watch before each node of the graph; one node that takes long, or the body of a
    /// `Scan`, is not interrupted.
    pub fn run(&self, inputs: TVec<TValue>, watch: &Watch<'_>) -> Result<TVec<TValue>, RunError> {
        // A state of its own for each run: what a recurrent node remembers never reaches another request.
        let begun = Instant::now();
        let run = SimpleState::new(&self.runnable).and_then(|mut state| {
            state.run_plan_with_eval(inputs, |context, node_state, node, inputs| {
                if watch.is_over() {
                    return Err(TractError::new(Stopped));
                }
                eval(context, node_state, node, inputs)
            })
        });
        self.took.store(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        run.map_err(|error| if error.is::<Stopped>() { RunError::Over } else { RunError::Failed(error) })
    }
}

/// Why there is no plan for some shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The graph does not work with these shapes; the engine's reason.
    Refused(String),
    /// The engine panicked over them; its message.
    Panicked(String),
}

type Built = Result<Arc<Plan>, PlanError>;

/// The plans of one model, the least recently used of them dropped beyond a fixed number.
#[derive(Debug)]
pub struct PlanCache {
    plans: Mutex<Plans>,
}

#[derive(Debug)]
struct Plans {
    ready: LruCache<Shapes, Arc<Plan>>,
    /// Under construction. A failure leaves nothing behind, so that bad shapes never push out good plans.
    building: HashMap<Shapes, Arc<OnceLock<Built>>>,
}

impl PlanCache {
    pub fn new(max_plans: usize) -> Self {
        let capacity = NonZeroUsize::new(max_plans).unwrap_or(NonZeroUsize::MIN);
        Self { plans: Mutex::new(Plans { ready: LruCache::new(capacity), building: HashMap::new() }) }
    }

    /// The plan for these shapes, if it is there.
    pub fn get(&self, shapes: &Shapes) -> Option<Arc<Plan>> {
        self.lock().ready.get(shapes).map(Arc::clone)
    }

    /// The plan for these shapes. The first to ask builds it, others that ask meanwhile wait for the same one.
    pub fn get_or_build(&self, shapes: &Shapes, build: impl FnOnce() -> Result<Plan, PlanError>) -> Built {
        let cell = {
            let mut plans = self.lock();
            if let Some(plan) = plans.ready.get(shapes) {
                return Ok(Arc::clone(plan));
            }
            Arc::clone(plans.building.entry(shapes.clone()).or_default())
        };
        let built = cell.get_or_init(|| build().map(Arc::new)).clone();
        let mut plans = self.lock();
        // Whoever comes back first moves it over; by then others may even be building it anew.
        if plans.building.get(shapes).is_some_and(|other| Arc::ptr_eq(other, &cell)) {
            plans.building.remove(shapes);
            if let Ok(plan) = &built {
                plans.ready.put(shapes.clone(), Arc::clone(plan));
            }
        }
        built
    }

    /// How many plans are kept at the moment.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    fn lock(&self) -> MutexGuard<'_, Plans> {
        // Nothing panics while the lock is held, and the maps are whole at every point.
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
