//! Taking the state of a loaded instance over into its component.

use std::{
    collections::HashMap,
    pin::pin,
    task::{Context, Poll, Waker},
};

use wasmtime::{
    Error, Result, Store,
    component::{ComponentNamedList, Instance, Lift, WasmList},
};
use wasmtime_wizer::{ComponentContext, ComponentInstanceState, Wizer};

use super::host::Guest;

/// Bytes by which reading a memory out makes it grow: one page, for the list that describes it.
pub(super) const HEADROOM: usize = 64 << 10;

/// Rewrites the component so that it starts with the state that `instance` has now.
pub(super) fn take(
    context: &ComponentContext<'_>,
    store: &mut Store<Guest>,
    instance: Instance,
) -> Result<Vec<u8>> {
    let mut state = State { store, instance, memories: HashMap::new(), error: None };
    let wizer = {
        let mut wizer = Wizer::new();
        wizer.keep_init_func(true);
        wizer
    };
    let snapshot = ready(wizer.snapshot_component(context, &mut state))?;
    match state.error {
        Some(error) => {
            Err(error.context("its memory cannot be read out; it must be able to grow by one more page"))
        }
        None => snapshot,
    }
}

/// The result of a future whose every step is done at once, as all of ours are.
fn ready<F: Future>(future: F) -> Result<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => Err(Error::msg("taking the snapshot would have to wait")),
    }
}

/// Reads globals and memories through the accessors that were added to the component. The calls cannot report failure, so
/// the first one is kept and told at the end.
struct State<'a> {
    store: &'a mut Store<Guest>,
    instance: Instance,
    /// Memories are asked for twice, but calling twice would make them grow twice.
    memories: HashMap<String, WasmList<u8>>,
    error: Option<Error>,
}

impl State<'_> {
    fn call<R>(&mut self, interface: &str, function: &str) -> Result<R>
    where
        R: Lift + 'static,
        (R,): ComponentNamedList + Lift,
    {
        let missing = || Error::msg("an accessor is missing");
        let store = &mut *self.store;
        let interface = self.instance.get_export_index(&mut *store, None, interface).ok_or_else(missing)?;
        let function =
            self.instance.get_export_index(&mut *store, Some(&interface), function).ok_or_else(missing)?;
        let accessor = self.instance.get_typed_func::<(), (R,)>(&mut *store, &function)?;
        Ok(accessor.call(store, ())?.0)
    }

    fn value<R>(&mut self, interface: &str, function: &str) -> R
    where
        R: Lift + Default + 'static,
        (R,): ComponentNamedList + Lift,
    {
        self.call(interface, function).unwrap_or_else(|error| {
            self.error.get_or_insert(error);
            R::default()
        })
    }
}

impl ComponentInstanceState for State<'_> {
    async fn call_func_ret_list_u8(
        &mut self,
        interface: &str,
        function: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        if !self.memories.contains_key(function) {
            match self.call(interface, function) {
                Ok(list) => {
                    self.memories.insert(function.to_owned(), list);
                }
                Err(error) => {
                    self.error.get_or_insert(error);
                }
            }
        }
        // The list stays where it is, below the page that was added, and no guest code runs between the two readings.
        let bytes = self.memories.get(function).map(|list| list.as_le_slice(&*self.store));
        contents(bytes.unwrap_or_default());
    }

    async fn call_func_ret_s32(&mut self, interface: &str, function: &str) -> i32 {
        self.value(interface, function)
    }

    async fn call_func_ret_s64(&mut self, interface: &str, function: &str) -> i64 {
        self.value(interface, function)
    }

    async fn call_func_ret_f32(&mut self, interface: &str, function: &str) -> u32 {
        self.value::<f32>(interface, function).to_bits()
    }

    async fn call_func_ret_f64(&mut self, interface: &str, function: &str) -> u64 {
        self.value::<f64>(interface, function).to_bits()
    }
}
