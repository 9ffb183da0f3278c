//! The memory that a gateway and one worker share: a file without a name, of a size that neither can change.
//!
//! Nobody maps it. Each side copies in and out with positioned reads and writes, once each: what the other writes meanwhile
//! can then be wrong bytes and nothing worse, and what was copied out does not change after it was checked.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
};

use rustix::{
    buffer::spare_capacity,
    fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, memfd_create},
    io::{Errno, pread},
};

/// Where the first tensor may begin; before it are the numbers of the call that nobody waits for any more, and of the last one
/// that the worker began.
pub const FIRST: u64 = 64;

/// Bytes that stay with a worker from one call to the next; what is more goes back to the machine at once.
pub const KEPT_BYTES: u64 = 64 << 20;

#[derive(Debug)]
pub struct Shared {
    file: File,
    size: u64,
}

impl Shared {
    /// Memory of that many bytes, of which only those that are written are ever taken.
    pub fn new(size: u64) -> io::Result<Self> {
        Ok(Self { file: sealed("airlock-tensors", size)?, size })
    }

    /// Memory that another process made.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        fcntl_get_seals(&file)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }

    /// A handle for a worker to inherit as its stdout, which cannot be written: nothing that is printed gets among tensors.
    pub fn handle(&self) -> io::Result<OwnedFd> {
        Ok(File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?.into())
    }

    /// The memory behind that handle, in the worker.
    pub fn inherited() -> io::Result<Self> {
        Self::of(File::options().read(true).write(true).open("/proc/self/fd/1")?.into())
    }

    /// The first offset at or after `end` at which a tensor may begin, if `length` bytes fit there.
    pub fn place(&self, end: u64, length: usize) -> Option<u64> {
        let offset = end.max(FIRST).checked_next_multiple_of(64)?;
        (offset.checked_add(length as u64)? <= self.size).then_some(offset)
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Fills a buffer from `offset` on.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// A copy of `length` bytes, for which nothing is reserved beyond what is there.
    pub fn copy(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Err(io::Error::other("it lies outside of the shared memory"));
        }
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = offset + bytes.len() as u64;
            match pread(&self.file, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The buffer may have more room than was asked for.
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Says that nobody waits for that call any more.
    pub fn abandon(&self, call: u64) {
        // If it cannot be said, the call ends at its deadline.
        let _ = self.write(0, &call.to_le_bytes());
    }

    pub fn is_abandoned(&self, call: u64) -> bool {
        self.is_at(0, call)
    }

    /// Says that the worker has that call in hand.
    pub fn begin(&self, call: u64) -> io::Result<()> {
        self.write(8, &call.to_le_bytes())
    }

    pub fn has_begun(&self, call: u64) -> bool {
        self.is_at(8, call)
    }

    fn is_at(&self, offset: u64, call: u64) -> bool {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes).is_ok() && u64::from_le_bytes(bytes) == call
    }

    /// Gives memory back, if there is more than `kept` bytes of it. Everything in it is then gone.
    pub fn trim(&self, kept: u64) {
        let taken = self.file.metadata().map_or(0, |metadata| metadata.blocks().saturating_mul(512));
        if taken > kept {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if let Err(error) = fallocate(&self.file, hole, 0, self.size) {
                tracing::warn!("memory shared with a worker cannot be given back: {error}");
            }
        }
    }
}

/// A file in memory that keeps its size.
pub fn sealed(name: &str, size: u64) -> io::Result<File> {
    let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(size)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_in_and_out_and_nothing_beyond_the_end() {
        let shared = Shared::new(1000).expect("memory");
        let printed = Shared::of(shared.handle().expect("a handle")).expect("the same memory");
        printed.write(100, b"printed").expect_err("it is there to be opened again");
        let other = Shared::of(shared.file.try_clone().expect("a handle").into()).expect("the same memory");
        let offset = shared.place(65, 100).expect("room");
        assert_eq!(offset, 128);
        shared.write(offset, &[7; 100]).expect("room");
        assert_eq!(other.copy(offset, 100).expect("there"), [7; 100]);
        let mut some = [0; 3];
        other.read(offset + 98, &mut some).expect("there");
        assert_eq!(some, [7, 7, 0]);
        for (offset, length) in [(1000, 1), (901, 100), (u64::MAX, 1), (0, usize::MAX)] {
            other.copy(offset, length).expect_err("beyond the end");
        }
        assert_eq!((other.place(0, 937), other.place(0, 936)), (None, Some(FIRST)));
        assert_eq!(other.place(u64::MAX, 0), None);
        other.write(990, &[1; 20]).expect_err("beyond the end");
        other.file.set_len(2000).expect_err("sealed");
        other.file.set_len(0).expect_err("sealed");
    }

    #[test]
    fn calls_are_begun_and_abandoned_by_their_numbers() {
        let shared = Shared::new(FIRST).expect("memory");
        assert!(!shared.is_abandoned(1));
        shared.abandon(2);
        assert!(shared.is_abandoned(2) && !shared.is_abandoned(1) && !shared.is_abandoned(3));
        shared.begin(3).expect("room");
        assert!(shared.has_begun(3) && !shared.has_begun(2) && shared.is_abandoned(2));
    }

    #[test]
    fn much_memory_is_given_back() {
        let shared = Shared::new(128 << 20).expect("memory");
        let taken = || shared.file.metadata().expect("a file").blocks() * 512;
        shared.write(FIRST, &[1; 4096]).expect("room");
        shared.trim(KEPT_BYTES);
        assert!(taken() > 0);
        shared.write(0, &vec![1; 80 << 20]).expect("room");
        shared.trim(KEPT_BYTES);
        assert_eq!((taken(), shared.copy(0, 1).expect("there")), (0, vec![0]));
    }
}
