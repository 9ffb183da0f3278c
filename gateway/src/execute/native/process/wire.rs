//! What a gateway and a worker that runs a model say to each other: frames of JSON, each after its length. Tensors lie in the
//! memory that both share; a frame says where.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    execute::LoadError,
    limits::{ModelLimits, NativeLimits},
    tensor::{Datatype, Signature, TensorSpec},
};

/// Bytes of one frame. A signature of the largest admitted size takes a fraction of it.
const MAX_FRAME: u32 = 4 << 20;

/// What the gateway says. The first order is always to load.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    Load(Load),
    Run(Run),
}

/// The model's bytes follow: the artifact's, then those of each file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    pub label: String,
    pub artifact: usize,
    pub files: Vec<(String, usize)>,
    pub declared_inputs: Vec<TensorSpec>,
    pub limits: ModelLimits,
    pub untrusted: bool,
    pub native: NativeLimits,
    /// Processor time from the worker's start to the end of loading.
    pub cpu: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// Tells the calls of one worker apart; never 0.
    pub call: u64,
    /// Until the deadline.
    pub time: Duration,
    pub inputs: Vec<Placed>,
    /// Names of the outputs that were asked for; empty means all.
    pub outputs: Vec<String>,
    /// From here on the worker may put its answer.
    pub free: u64,
}

/// A tensor whose bytes lie in the shared memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct Placed {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<u64>,
    pub offset: u64,
    pub length: usize,
}

/// What the worker says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Loaded(Signature),
    Refused(LoadError),
    /// The library that was to run the model cannot be loaded. The cause may name files, and is for the operator alone.
    NoLibrary {
        reason: String,
        cause: Option<String>,
    },
    /// `cpu` is the processor time that the call took.
    Ran {
        call: u64,
        cpu: Duration,
        result: Result<Vec<Placed>, Fault>,
    },
}

/// Why there is no result, in the words of `ExecuteError`.
#[derive(Debug, Serialize, Deserialize)]
pub enum Fault {
    InvalidInput(String),
    Failed(String),
    Trapped(String),
    Output(String),
    Deadline,
}

/// Writes one frame, in one piece if the other side reads.
pub fn write(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4).ok().filter(|length| *length <= MAX_FRAME);
    let length = length.ok_or_else(|| io::Error::other("there is too much to say for one frame"))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&frame)
}

/// Reads one frame; `None` where the stream ends before one begins. Nothing is reserved for bytes that were only announced.
pub fn read<T: DeserializeOwned>(mut from: impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read(&mut length)? {
        0 => return Ok(None),
        some => from.read_exact(&mut length[some..])?,
    }
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    let frame = take(from, length as usize)?;
    Ok(Some(serde_json::from_slice(&frame)?))
}

/// Exactly that many bytes.
pub fn take(from: impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}

/// Time between two looks at whether an answer is still wanted.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A stream that fails with `TimedOut` once a moment has passed, however slowly the other side reads or writes.
pub struct Until<'a> {
    stream: &'a UnixStream,
    end: Instant,
    wanted: &'a dyn Fn() -> bool,
    grace: Duration,
}

impl<'a> Until<'a> {
    pub fn new(stream: &'a UnixStream, end: Instant) -> Self {
        Self { stream, end, wanted: &|| true, grace: Duration::ZERO }
    }

    /// The end comes that much after nobody wants an answer any more, if that is before.
    pub fn while_wanted(self, wanted: &'a dyn Fn() -> bool, grace: Duration) -> Self {
        Self { wanted, grace, ..self }
    }

    /// Until the next look, which is never zero: the socket's own timeouts take none.
    fn wait(&mut self) -> io::Result<Duration> {
        let now = Instant::now();
        if !(self.wanted)() {
            self.end = self.end.min(now + self.grace);
        }
        let left = self.end.saturating_duration_since(now);
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.min(LOOK_INTERVAL)) }
    }
}

/// The socket's own timeout, or a signal that somebody else's handler took care of: neither is the other side's end.
fn goes_on(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(Some(self.wait()?))?;
            match (&mut &*self.stream).read(buffer) {
                Err(error) if goes_on(&error) => {}
                done => return done,
            }
        }
    }
}

impl Write for Until<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        loop {
            self.stream.set_write_timeout(Some(self.wait()?))?;
            match (&mut &*self.stream).write(buffer) {
                Err(error) if goes_on(&error) => {}
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_whole_bounded_and_json() {
        let mut stream = Vec::new();
        write(&mut stream, &Fault::Deadline).expect("room");
        write(&mut stream, &Fault::Failed("no".into())).expect("room");
        let mut from = &stream[..];
        assert!(matches!(read(&mut from), Ok(Some(Fault::Deadline))));
        assert!(matches!(read(&mut from), Ok(Some(Fault::Failed(text))) if text == "no"));
        assert!(matches!(read::<Fault>(&mut from), Ok(None)));
        for broken in [&stream[..3], &stream[..9], b"\xff\xff\xff\xff", b"\x02\0\0\0{", b"\x02\0\0\0{]"] {
            read::<Fault>(broken).expect_err("no frame");
        }
        write(&mut stream, &"x".repeat(5 << 20)).expect_err("too long");
    }

    #[test]
    fn a_side_that_trickles_or_does_not_read_is_late() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        (&theirs).write_all(&[9, 0]).expect("room");
        let soon = || Instant::now() + Duration::from_millis(30);
        let error = read::<Fault>(Until::new(&ours, soon())).expect_err("half a length");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = Until::new(&ours, soon()).write_all(&vec![0; 16 << 20]).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_answer_that_nobody_wants_is_not_waited_for() {
        let (ours, _theirs) = UnixStream::pair().expect("sockets");
        let looks = Cell::new(0);
        let wanted = || {
            looks.set(looks.get() + 1);
            looks.get() < 3
        };
        let late = Instant::now() + Duration::from_secs(3600);
        let stream = Until::new(&ours, late).while_wanted(&wanted, Duration::from_millis(1));
        assert_eq!(read::<Fault>(stream).expect_err("silence").kind(), io::ErrorKind::TimedOut);
        assert!(looks.get() >= 3);
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read::<Answer>(&bytes[..]);
            let length = u32::try_from(bytes.len()).expect("short").to_le_bytes();
            let _ = read::<Answer>(&[&length[..], &bytes].concat()[..]);
        }

        #[test]
        fn a_frame_that_was_changed_is_an_answer_or_an_error(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let output =
                Placed { name: "y".into(), datatype: Datatype::Fp32, shape: vec![1], offset: 128, length: 4 };
            let mut frame = Vec::new();
            write(&mut frame, &Answer::Ran { call: 1, cpu: Duration::ZERO, result: Ok(vec![output]) }).expect("room");
            for (index, byte) in changes {
                let index = index.index(frame.len());
                frame[index] = byte;
            }
            let _ = read::<Answer>(&frame[..]);
        }
    }
}
