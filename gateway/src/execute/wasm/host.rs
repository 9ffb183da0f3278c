//! What a guest can call: a bounded log, other models, and its client for responses ahead of the last.

use std::sync::Arc;

use tokio::time::timeout_at;
use tracing::{debug, enabled, error, info, trace, warn};
use wasmtime::{
    Engine, Error, Result, StoreContextMut, Trap,
    component::{Linker, WasmStr},
};

use crate::{
    execute::{Call, NestedError, Share},
    limits::{MAX_CALL_DEPTH, SandboxLimits},
    log_allowance::LogAllowance,
    tensor,
};

use super::{
    bindings::{GuestError, LOG, Level, MODELS, RESPONSES, Response, Tensor},
    limiter::Limiter,
    responses::Outgoing,
    text::quotable,
};

/// Bytes of one line in the log.
const MAX_LINE: usize = 256;

/// The state of one store: of one request, or of one `load`.
pub(super) struct Guest {
    pub(super) limiter: Limiter,
    log: Log,
    /// The call that this store serves; none while the model is being loaded.
    call: Option<Call>,
    /// What its responses go through; taken when it has given its last.
    pub(super) outgoing: Option<Outgoing>,
}

impl Guest {
    pub(super) fn loading(label: &Arc<str>, limits: &SandboxLimits) -> Self {
        let log = Log { label: Arc::clone(label), teller: None, left: limits.log_bytes, dropped: 0 };
        Self { limiter: Limiter::new(limits), log, call: None, outgoing: None }
    }

    pub(super) fn serving(label: &Arc<str>, limits: &SandboxLimits, call: Call, outgoing: Outgoing) -> Self {
        let mut guest = Self::loading(label, limits);
        guest.log.teller = Some((Arc::clone(&call.log), Arc::clone(&call.share)));
        (guest.call, guest.outgoing) = (Some(call), Some(outgoing));
        guest
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
    /// Whose allowance the lines are taken from, beside that of the call; none in a worker, where the gateway reads along.
    teller: Option<(Arc<LogAllowance>, Arc<Share>)>,
    left: usize,
    /// Lines that were cut or left out for want of room in this call.
    dropped: u64,
}

impl Log {
    /// Bytes that the next line may have. If there are none, it is counted as dropped and need not even be read.
    fn room(&mut self) -> Option<usize> {
        if self.left == 0 {
            self.dropped += 1;
            return None;
        }
        Some(self.left.min(MAX_LINE))
    }

    fn write(&mut self, level: Level, (line, whole): (String, bool)) {
        let had_room = self.left >= MAX_LINE;
        self.left = self.left.saturating_sub(line.len());
        if !whole && !had_room {
            // After a line that was cut for want of room, shorter ones would slip through and read as if nothing were missing.
            self.left = 0;
        }
        // One that the tenant's allowance leaves out is counted there.
        let admitted = line.is_empty() || self.admits(line.len());
        self.dropped += u64::from(!whole && admitted);
        if line.is_empty() || !admitted {
            return;
        }
        let (model, tenant, end) = (&*self.label, self.tenant(), if whole { "" } else { "…" });
        // In quotes, so that it cannot pass for a line of the gateway's own or for a field of it.
        match level {
            Level::Trace => trace!(target: "guest", tenant, model, "guest says \"{line}\"{end}"),
            Level::Debug => debug!(target: "guest", tenant, model, "guest says \"{line}\"{end}"),
            Level::Info => info!(target: "guest", tenant, model, "guest says \"{line}\"{end}"),
            Level::Warn => warn!(target: "guest", tenant, model, "guest says \"{line}\"{end}"),
            Level::Error => error!(target: "guest", tenant, model, "guest says \"{line}\"{end}"),
        }
    }

    fn admits(&self, bytes: usize) -> bool {
        let bytes = bytes + self.label.len();
        self.teller.as_ref().is_none_or(|(allowance, share)| allowance.admits(&share.tenant, bytes))
    }

    fn tenant(&self) -> Option<&str> {
        self.teller.as_ref().map(|(_, share)| share.tenant.as_str())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let lines = self.dropped;
        let told = |(allowance, share): &(Arc<LogAllowance>, Arc<Share>)| {
            allowance.admits_count(&share.tenant, self.label.len(), lines)
        };
        if lines > 0 && self.teller.as_ref().is_none_or(told) {
            let (model, tenant) = (&*self.label, self.tenant());
            warn!(target: "guest", tenant, model, "{lines} lines were cut or left out: over the bytes of one call or line");
        }
    }
}

/// Whether anybody reads lines of this level.
fn is_read(level: Level) -> bool {
    match level {
        Level::Trace => enabled!(target: "guest", tracing::Level::TRACE),
        Level::Debug => enabled!(target: "guest", tracing::Level::DEBUG),
        Level::Info => enabled!(target: "guest", tracing::Level::INFO),
        Level::Warn => enabled!(target: "guest", tracing::Level::WARN),
        Level::Error => enabled!(target: "guest", tracing::Level::ERROR),
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
    linker.instance(RESPONSES)?.func_wrap_async(
        "emit",
        |mut store: StoreContextMut<'_, Guest>, (response,): (Response,)| {
            Box::new(async move {
                let Guest { call, outgoing, .. } = store.data_mut();
                let (Some(call), Some(outgoing)) = (call, outgoing) else { return Err(no_client()) };
                Ok(outgoing.emit(response, call).await?)
            })
        },
    )?;
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
    linker.instance(RESPONSES)?.func_wrap("emit", |_, _: (Response,)| Err::<(), _>(no_client()))?;
    Ok(linker)
}

fn no_client() -> Error {
    Error::msg("responses.emit is called while the model is being loaded")
}

type InferParams = (String, Option<String>, Vec<Tensor>);

fn add_log(linker: &mut Linker<Guest>) -> Result<()> {
    linker.instance(LOG)?.func_wrap(
        "write",
        |mut store: StoreContextMut<'_, Guest>, (level, message): (Level, WasmStr)| {
            if !is_read(level) {
                return Ok(());
            }
            let Some(room) = store.data_mut().log.room() else { return Ok(()) };
            // Read in place: a guest that floods the log costs the gateway no copies.
            let line = quotable(&message.to_str(&store)?, room);
            store.data_mut().log.write(level, line);
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
    match timeout_at(call.deadline.now().instant().into(), nested).await {
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

    /// What the gateway's log holds after a call that wrote these lines and may write that many bytes.
    fn logged(left: usize, teller: Option<(Arc<LogAllowance>, Arc<Share>)>, lines: &[&str]) -> Vec<String> {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .without_time()
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let mut log = Log { label: "m/1".into(), teller, left, dropped: 0 };
            for line in lines {
                let Some(room) = log.room() else { continue };
                log.write(Level::Info, quotable(line, room));
            }
        });
        let bytes = sink.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).expect("text").lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn lines_are_quoted_and_carry_the_model_and_no_control_characters() {
        let forged = "a\nb\u{1b}[1m\" model=\"other/1";
        let expected = r#"INFO guest: guest says "a\nb\u{1b}[1m\" model=\"other/1" model="m/1""#;
        assert_eq!(logged(100, None, &[forged]), [expected]);
    }

    #[test]
    fn lines_beyond_the_allowance_are_counted_and_told_once() {
        let lines = logged(20, None, &["0123456789", "0123456789abc", "x", "y"]);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].starts_with("INFO guest: guest says \"0123456789\"… "), "{lines:?}");
        assert!(lines[2].starts_with("WARN guest: 3 lines were cut or left out"), "{lines:?}");
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_ones_are_written() {
        let lines = logged(4096, None, &["x".repeat(1 << 20).as_str(), "short"]);
        assert!(
            lines[0].starts_with(&format!("INFO guest: guest says \"{}\"… ", "x".repeat(256))),
            "{lines:?}"
        );
        assert!(lines[1].contains("says \"short\" "), "{lines:?}");
        assert!(lines[2].contains("1 lines were cut"), "{lines:?}");
    }

    #[test]
    fn calls_of_one_tenant_share_its_allowance() {
        let (allowance, share) = (Arc::new(LogAllowance::new(1000)), Arc::<Share>::default());
        let call = || logged(4096, Some((Arc::clone(&allowance), Arc::clone(&share))), &["a", "b", "c"]);
        let written: Vec<usize> = (0..5).map(|_| call().len()).collect();
        assert_eq!(written, [3, 3, 3, 0, 0]);
        assert!(call().is_empty());
    }
}
