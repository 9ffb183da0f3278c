//! The functions that the gateway calls, on top of [`Plugin`].

use std::{cell::OnceCell, fmt, marker::PhantomData};

use crate::{
    Error, Plugin, Request, Response, Result, Signature,
    bindings::{airlock::inference::types, exports::airlock::inference::plugin::Guest},
    log,
};

thread_local! {
    // A guest has one thread, so this is a plain static of its linear memory, and part of the snapshot.
    static PLUGIN: OnceCell<Box<dyn Plugin>> = const { OnceCell::new() };
}

/// A [`Plugin`] as the component's export.
pub struct Exported<P>(PhantomData<P>);

impl<P> fmt::Debug for Exported<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exported")
    }
}

impl<P: Plugin> Guest for Exported<P> {
    fn load(config: Vec<(String, String)>, files: Vec<types::File>) -> Result<(), types::Error> {
        log::write_panics();
        let plugin = P::load(config.into(), files.into()).map_err(Error::into_wit)?;
        PLUGIN
            .with(|loaded| loaded.set(Box::new(plugin)))
            .map_err(|_| types::Error::Failed("load was called a second time".into()))
    }

    fn signature() -> Signature {
        PLUGIN.with(|loaded| loaded.get().expect("the gateway calls load first").signature())
    }

    fn infer(request: Request) -> Result<Response, types::Error> {
        PLUGIN.with(|loaded| {
            loaded.get().expect("the gateway calls load first").infer(request).map_err(Error::into_wit)
        })
    }
}
