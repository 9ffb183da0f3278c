//! Lines for the gateway's log: [`info!`](crate::info), [`warn!`](crate::warn) and the others.

pub use crate::bindings::airlock::inference::log::Level;

/// Writes one line. The gateway bounds the number and the length of a call's lines.
pub fn write(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::airlock::inference::log::write(level, message);
    // In a plugin's own tests there is no gateway.
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?}: {message}");
}

/// Sends the message of a panic to the log; the trap that follows carries none.
pub(crate) fn write_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a panic without a message");
        match panic.location() {
            Some(at) => write(Level::Error, &format!("panicked at {at}: {message}")),
            None => write(Level::Error, &format!("panicked: {message}")),
        }
    }));
}

/// Writes a line to the gateway's log, at level trace. Takes what `format!` takes.
#[macro_export]
macro_rules! trace {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Trace, &::std::format!($($message)+)) };
}

/// Writes a line to the gateway's log, at level debug. Takes what `format!` takes.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Debug, &::std::format!($($message)+)) };
}

/// Writes a line to the gateway's log, at level info. Takes what `format!` takes.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Info, &::std::format!($($message)+)) };
}

/// Writes a line to the gateway's log, at level warn. Takes what `format!` takes.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Warn, &::std::format!($($message)+)) };
}

/// Writes a line to the gateway's log, at level error. Takes what `format!` takes.
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log::write($crate::log::Level::Error, &::std::format!($($message)+)) };
}
