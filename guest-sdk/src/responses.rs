//! Responses ahead of the last one, of a model that gives several to a request.

use crate::Response;

/// Sends a response to the client ahead of the one that [`Plugin::infer`](crate::Plugin::infer) returns, and returns when there
/// is room for the next one: as soon as the client reads. The deadline does not pass meanwhile.
///
/// After it, `infer` may return [`Response::none`]. A client that did not ask for several responses (by `infer_stream`,
/// `generate_stream` or `ModelStreamInfer`) gets one, from whichever of the two it comes; a run that gives it more is ended.
///
/// In a plugin's own tests there is no client: see [`emitted`].
pub fn emit(response: impl Into<Response>) {
    let response = response.into();
    #[cfg(target_arch = "wasm32")]
    crate::bindings::airlock::inference::responses::emit(&response);
    #[cfg(not(target_arch = "wasm32"))]
    EMITTED.with_borrow_mut(|emitted| emitted.push(response));
}

#[cfg(not(target_arch = "wasm32"))]
thread_local! {
    static EMITTED: std::cell::RefCell<Vec<Response>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Takes what was emitted on this thread so far: for a plugin's own tests, which run outside the gateway.
#[cfg(not(target_arch = "wasm32"))]
#[must_use]
pub fn emitted() -> Vec<Response> {
    EMITTED.take()
}
