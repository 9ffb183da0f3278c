//! The guest's global allocator: it aligns every allocation for the widest element of a tensor.
//!
//! The gateway hands over a tensor as bytes, which asks for no alignment at all. Since the allocator aligns them
//! nevertheless, a view of those bytes as `f32` or `i64` never has to copy.

use std::alloc::{GlobalAlloc, Layout, System};

/// The widest elements of V2 are 64 bits. It is also what the system allocator of wasm32 gives without extra work.
pub(crate) const ALIGNMENT: usize = 8;

struct Aligned;

#[global_allocator]
static ALLOCATOR: Aligned = Aligned;

/// `None` if the size, rounded up, is more than a layout may have.
fn aligned(layout: Layout) -> Option<Layout> {
    layout.align_to(ALIGNMENT).ok()
}

#[allow(unsafe_code, reason = "a global allocator is unsafe by its nature")]
// SAFETY: every method passes its arguments to the system allocator with an alignment that is a function of the
// layout alone, so memory is resized and freed with the layout that it was allocated with. A stricter alignment
// satisfies the caller's, and a null pointer is a valid answer to any request.
unsafe impl GlobalAlloc for Aligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises a size other than zero.
        aligned(layout).map_or(std::ptr::null_mut(), |layout| unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        aligned(layout).map_or(std::ptr::null_mut(), |layout| unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the memory came from `alloc` with the same layout, which rounded it in the same way.
        unsafe { System.dealloc(pointer, aligned(layout).unwrap_or(layout)) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let layout = aligned(layout).unwrap_or(layout);
        if Layout::from_size_align(size, layout.align()).is_err() {
            return std::ptr::null_mut();
        }
        // SAFETY: the memory came from `alloc` with this rounded layout, and the new size fits it too.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
