//! What a guest can call: a bounded log, and other models.

use std::sync::Arc;

use tokio::time::timeout_at;
use tracing::{debug, error, info, trace, warn};
use wasmtime::{
    Engine, Result, StoreContextMut, Trap,
    component::{Linker, WasmStr},
};

use crate::{
    execute::{Call, NestedError},
    limits::{MAX_CALL_DEPTH, SandboxLimits},
    tensor,
};

use super::{
    bindings::{GuestError, LOG, Level, MODELS, Tensor},
    limiter::Limiter,
    text::escape,
};

/// The state of one store: of one request, or of one `load`.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) limiter: Limiter,
    log: Log,
    /// The call that this store serves; none while the model is being loaded.
    call: Option<Call>,
}

impl Guest {
    pub(super) fn new(label: &Arc<str>, limits: &SandboxLimits, call: Option<Call>) -> Self {
        Self { limiter: Limiter::new(limits), log: Log::new(label.clone(), limits.log_bytes), call }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(call) = &self.call {
            call.consumed.memory(self.limiter.memory_bytes());
        }
    }
}

/// A guest's lines on their way to the gateway's log, with what it may still write.
#[derive(Debug)]
struct Log {
    label: Arc<str>,
    left: usize,
    /// Lines that were cut or left out for want of room.
    dropped: u64,
}

impl Log {
    fn new(label: Arc<str>, bytes: usize) -> Self {
        Self { label, left: bytes, dropped: 0 }
    }

    fn write(&mut self, level: Level, line: &str, whole: bool) {
        self.left = self.left.saturating_sub(line.len());
        if !whole {
            self.dropped += 1;
            // After a line that was cut, shorter ones would slip through and read as if nothing were missing.
            self.left = 0;
        }
        if line.is_empty() {
            return;
        }
        let model = &*self.label;
        match level {
            Level::Trace => trace!(target: "guest", model, "{line}"),
            Level::Debug => debug!(target: "guest", model, "{line}"),
            Level::Info => info!(target: "guest", model, "{line}"),
            Level::Warn => warn!(target: "guest", model, "{line}"),
            Level::Error => error!(target: "guest", model, "{line}"),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.dropped > 0 {
            let model = &*self.label;
            warn!(target: "guest", model, "{} lines were cut or left out: over the bytes of one call", self.dropped);
        }
    }
}

/// The imports of a guest that serves requests, as a fiber.
pub(super) fn serving(engine: &Engine) -> Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    add_log(&mut linker)?;
    linker.instance(MODELS)?.func_wrap_async("infer", |store, (model, version, inputs): InferParams| {
        let call = store.data().call.clone();
        Box::new(async move { Ok((call_model(call, model, version, inputs).await?,)) })
    })?;
    Ok(linker)
}

/// The imports of a guest that is being loaded, which runs synchronously.
pub(super) fn loading(engine: &Engine) -> Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    add_log(&mut linker)?;
    linker.instance(MODELS)?.func_wrap("infer", |_, _: InferParams| {
        let refusal =
            GuestError::Failed("other models cannot be called while the model is being loaded".into());
        Ok((Err::<Vec<Tensor>, _>(refusal),))
    })?;
    Ok(linker)
}

type InferParams = (String, Option<String>, Vec<Tensor>);

fn add_log(linker: &mut Linker<Guest>) -> Result<()> {
    linker.instance(LOG)?.func_wrap(
        "write",
        |mut store: StoreContextMut<'_, Guest>, (level, message): (Level, WasmStr)| {
            // Read in place: a guest that floods the log costs the gateway no copies.
            let (line, whole) = escape(&message.to_str(&store)?, store.data().log.left);
            store.data_mut().log.write(level, &line, whole);
            Ok(())
        },
    )
}

async fn call_model(
    call: Option<Call>,
    model: String,
    version: Option<String>,
    inputs: Vec<Tensor>,
) -> Result<Result<Vec<Tensor>, GuestError>> {
    let Some(call) = call.filter(|call| call.depth < MAX_CALL_DEPTH) else {
        let text = format!("models may call each other at most {MAX_CALL_DEPTH} deep");
        return Ok(Err(GuestError::Failed(text)));
    };
    let inputs = match inputs.into_iter().map(tensor::Tensor::try_from).collect() {
        Ok(inputs) => inputs,
        Err(error) => return Ok(Err(GuestError::InvalidInput(error.to_string()))),
    };
    let nested = call.models.infer(&model, version.as_deref(), inputs, &call);
    match timeout_at(call.deadline.instant().into(), nested).await {
        Ok(answer) => Ok(answer
            .map(|outputs| outputs.into_iter().map(Tensor::from).collect())
            .map_err(NestedError::into)),
        Err(_) => Err(Trap::Interrupt.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Mutex, PoisonError},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the gateway's log holds after a call that wrote these lines and may write 20 bytes.
    fn logged(lines: &[&str]) -> Vec<String> {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .without_time()
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let mut log = Log::new("m/1".into(), 20);
            for line in lines {
                let (line, whole) = escape(line, log.left);
                log.write(Level::Info, &line, whole);
            }
        });
        let bytes = sink.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).expect("text").lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn lines_carry_the_model_and_no_control_characters() {
        assert_eq!(logged(&["a\nb\u{1b}[1m"]), ["INFO guest: a\\nb\\u{1b}[1m model=\"m/1\""]);
    }

    #[test]
    fn lines_beyond_the_allowance_are_counted_and_told_once() {
        let lines = logged(&["0123456789", "0123456789abc", "x", "y"]);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].starts_with("INFO guest: 0123456789 "), "{lines:?}");
        assert!(lines[2].starts_with("WARN guest: 3 lines were cut or left out"), "{lines:?}");
    }
}
