//! Memory of large results, kept for results of the same size: where the allocator gives it back in between, the kernel clears
//! page after page of it anew, which can take longer than to compute what is written there.
#![expect(unsafe_code, reason = "memory is allocated without being cleared")]

use std::{
    fmt, mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tract_onnx::tract_core::internal::*;

/// Smaller ones are the allocator's to keep.
const LEAST: usize = 256 << 10;
/// For the widest vectors, and whole lines of a cache.
const ALIGNMENT: usize = 64;
/// A page that takes the place of 512, of which each would be a fault when it is first written to.
const HUGE: usize = 2 << 20;

static SPARE: Mutex<Spare> = Mutex::new(Spare { most: 0, bytes: 0, buffers: Vec::new() });

#[derive(Debug)]
struct Spare {
    most: usize,
    bytes: usize,
    /// With how often [`age`] has seen each; the last one was used last.
    buffers: Vec<(PlainStorage, u32)>,
}

/// Keeps up to so many bytes that nobody uses; none, unless this is called.
pub fn keep(bytes: usize) {
    let mut spare = spare();
    spare.most = bytes;
    spare.make_room(0);
}

/// Gives back what nobody has used since this was called `times` times.
pub fn age(times: u32) {
    let mut old = Vec::new();
    let mut spare = spare();
    for (_, seen) in &mut spare.buffers {
        *seen += 1;
    }
    while spare.buffers.first().is_some_and(|(_, seen)| *seen > times) {
        old.push(spare.buffers.remove(0));
        spare.bytes -= old.last().map_or(0, |(buffer, _)| buffer.as_bytes().len());
    }
    drop(spare);
}

fn spare() -> MutexGuard<'static, Spare> {
    // Nothing panics while the lock is held.
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spare {
    fn make_room(&mut self, bytes: usize) {
        while self.bytes + bytes > self.most && !self.buffers.is_empty() {
            let (buffer, _) = self.buffers.remove(0);
            self.bytes -= buffer.as_bytes().len();
        }
    }

    fn take(&mut self, bytes: usize) -> Option<PlainStorage> {
        let index = self.buffers.iter().rposition(|(buffer, _)| buffer.as_bytes().len() == bytes)?;
        self.bytes -= bytes;
        Some(self.buffers.remove(index).0)
    }

    fn give(&mut self, buffer: PlainStorage) {
        let bytes = buffer.as_bytes().len();
        if bytes <= self.most {
            self.make_room(bytes);
            self.bytes += bytes;
            self.buffers.push((buffer, 0));
        }
    }
}

/// A tensor whose values are anything until they are written.
///
/// # Safety
/// They are written before they are read.
pub unsafe fn tensor(shape: &[usize]) -> TractResult<Tensor> {
    let bytes = shape.iter().try_fold(size_of::<f32>(), |bytes, size| bytes.checked_mul(*size));
    let bytes = bytes.context("too large a result")?;
    if bytes < LEAST {
        // SAFETY: as the caller says.
        return unsafe { Tensor::uninitialized::<f32>(shape) };
    }
    let taken = spare().take(bytes);
    let buffer = match taken {
        Some(buffer) => buffer,
        None => fresh(bytes)?.into(),
    };
    Ok(Tensor::from_storage(f32::datum_type(), shape, Kept(buffer)))
}

fn fresh(bytes: usize) -> TractResult<Blob> {
    let alignment = if cfg!(target_os = "linux") && bytes >= 2 * HUGE { HUGE } else { ALIGNMENT };
    ensure!(bytes <= isize::MAX as usize - alignment, "too large a result");
    // SAFETY: a size that there can be, with an alignment that is a power of two.
    let blob = unsafe { Blob::new_for_size_and_align(bytes, alignment) };
    #[cfg(target_os = "linux")]
    if alignment == HUGE {
        let place = blob.as_bytes().as_ptr().cast_mut().cast();
        // SAFETY: the pages are the blob's, or the allocator's behind it, and what they hold stays. Nothing depends on the answer.
        unsafe { libc::madvise(place, bytes, libc::MADV_HUGEPAGE) };
    }
    Ok(blob)
}

/// Memory of a tensor, which is kept when that is dropped.
struct Kept(PlainStorage);

impl Drop for Kept {
    fn drop(&mut self) {
        let buffer = mem::take(&mut self.0);
        if !buffer.as_bytes().is_empty() {
            spare().give(buffer);
        }
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Kept {}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} bytes", self.0.as_bytes().len())
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl TensorStorage for Kept {
    fn byte_len(&self) -> usize {
        self.0.as_bytes().len()
    }

    fn is_empty(&self) -> bool {
        self.byte_len() == 0
    }

    fn deep_clone(&self) -> Box<dyn TensorStorage> {
        Box::new(self.0.clone())
    }

    fn as_plain_ram(&self) -> Option<&PlainStorage> {
        Some(&self.0)
    }

    fn as_plain_ram_mut(&mut self) -> Option<&mut PlainStorage> {
        Some(&mut self.0)
    }

    fn into_plain_ram(mut self: Box<Self>) -> Option<PlainStorage> {
        Some(mem::take(&mut self.0))
    }

    fn dyn_hash(&self, state: &mut dyn std::hash::Hasher) {
        self.0.dyn_hash(state);
    }

    fn exotic_fact(&self, _: &[usize]) -> TractResult<Option<Box<dyn ExoticFact>>> {
        Ok(None)
    }

    fn is_exotic(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a size that no other test has results of.
    const SIZE: usize = 1_234_567;

    fn address(tensor: &Tensor) -> *const u8 {
        tensor.as_bytes().as_ptr()
    }

    fn of(count: usize) -> Tensor {
        // SAFETY: nothing is read.
        unsafe { tensor(&[count]) }.expect("memory")
    }

    #[test]
    fn memory_is_used_again_until_it_is_too_old_or_too_much() {
        keep(usize::MAX);
        let first = of(SIZE);
        let place = address(&first);
        drop(first);
        let second = of(SIZE);
        assert_eq!((address(&second), second.len(), second.shape()), (place, SIZE, &[SIZE][..]));
        let kept =
            || spare().buffers.iter().filter(|(buffer, _)| buffer.as_bytes().len() == 4 * SIZE).count();
        assert_eq!(kept(), 0);
        drop((second, of(SIZE)));
        assert_eq!(kept(), 2);
        age(1);
        assert_eq!(kept(), 2);
        age(1);
        assert_eq!(kept(), 0);
        // One that becomes another tensor's is its own.
        let moved = of(SIZE).into_plain_ram().expect("it is plain");
        drop(moved);
        assert_eq!(kept(), 0);
        keep(4 * SIZE);
        drop((of(SIZE), of(SIZE)));
        assert_eq!(kept(), 1);
        keep(0);
        assert_eq!(spare().bytes, 0);
        drop(of(SIZE));
        assert_eq!(kept(), 0);
    }
}
