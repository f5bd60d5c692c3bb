//! The allocator of policies.
//!
//! A policy makes and drops small lists by the thousand: one for each placement. The allocator that comes with the target
//! spends more time on them than most policies do on deciding. This one keeps free blocks by size: giving one out and
//! taking it back are a few instructions each. Large blocks are left to the target's.
//!
//! Memory itself is asked of the host in large pieces: a snapshot is some twenty lists, and each growth of the memory is a
//! call out of the sandbox and one of the operating system.
//!
//! Small blocks are cut from chunks that are never given back, so they take as much memory as all sizes needed at their
//! peaks; the instance ends with the call anyway. Blocks are the same at each run, as everything in a policy is.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;

/// Sizes are multiples of it, and blocks are aligned to it.
const GRAIN: usize = 16;
/// Larger blocks are the target's business.
const LARGEST: usize = 2048;
/// What is asked of the target at a time, in bytes.
const CHUNK: usize = 32 << 10;
const CHUNK_LAYOUT: Layout = match Layout::from_size_align(CHUNK, GRAIN) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two, and a small size"),
};

/// From this size on blocks are likely to need more memory.
const BULKY: usize = 16 << 10;
/// How much the memory grows at a time where bulky blocks come, in bytes. It is no more than a small part of what a policy
/// may have: too much of it would end the call.
const AHEAD: usize = 2 << 20;
const AHEAD_LAYOUT: Layout = match Layout::from_size_align(AHEAD, GRAIN) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two, and a small size"),
};

/// Blocks of up to [`LARGEST`] bytes by size, others by the target's allocator.
pub(crate) struct Blocks(UnsafeCell<Shelves>);

struct Shelves {
    /// For each size the first free block, which begins with the address of the next one.
    free: [*mut u8; LARGEST / GRAIN],
    /// The rest of the last chunk.
    rest: *mut u8,
    left: usize,
    /// Bytes of bulky blocks until more memory is asked for.
    credit: usize,
}

// SAFETY: components have one thread; where there may be more, this module isn't compiled.
unsafe impl Sync for Blocks {}

impl Blocks {
    pub(crate) const fn new() -> Self {
        Blocks(UnsafeCell::new(Shelves { free: [null_mut(); LARGEST / GRAIN], rest: null_mut(), left: 0, credit: 0 }))
    }
}

impl Blocks {
    /// Has the target's allocator ask for much memory at a time before it needs it.
    fn prepare(&self, size: usize) {
        if !(BULKY..AHEAD).contains(&size) {
            return;
        }
        // SAFETY: nobody else is in here: there is one thread, and the target's allocator doesn't call this one.
        let shelves = unsafe { &mut *self.0.get() };
        if let Some(credit) = shelves.credit.checked_sub(size) {
            shelves.credit = credit;
            return;
        }
        shelves.credit = AHEAD - size;
        // SAFETY: the size isn't zero, and the block goes back under the layout that it was given out for. The allocator
        // keeps it: memory of a component never shrinks.
        unsafe {
            let block = System.alloc(AHEAD_LAYOUT);
            if !block.is_null() {
                System.dealloc(block, AHEAD_LAYOUT);
            }
        }
    }
}

/// The shelf for a layout, unless its blocks are too large or too special.
#[inline]
fn shelf(size: usize, align: usize) -> Option<usize> {
    (size <= LARGEST && align <= GRAIN).then(|| size.saturating_sub(1) / GRAIN)
}

impl Shelves {
    /// A block that was never used.
    #[cold]
    #[inline(never)]
    fn cut(&mut self, shelf: usize) -> *mut u8 {
        let size = (shelf + 1) * GRAIN;
        if self.left < size {
            // What is left of the old chunk is less than the largest block: not worth keeping.
            // SAFETY: the size isn't zero.
            let chunk = unsafe { System.alloc(CHUNK_LAYOUT) };
            if chunk.is_null() {
                return chunk;
            }
            (self.rest, self.left) = (chunk, CHUNK);
        }
        let block = self.rest;
        // SAFETY: `size` bytes are left from there, within one chunk.
        self.rest = unsafe { block.add(size) };
        self.left -= size;
        block
    }
}

// SAFETY: a block goes to one owner at a time: it leaves its shelf, or the chunk, when it is given out, and comes back with
// `dealloc` under the layout that it was given out for, which leads to the same shelf. It has the size of the shelf, which
// is no less than the layout's, and its alignment: chunks begin at multiples of it and are cut into multiples of it.
unsafe impl GlobalAlloc for Blocks {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(shelf) = shelf(layout.size(), layout.align()) else {
            self.prepare(layout.size());
            return unsafe { System.alloc(layout) };
        };
        // SAFETY: nobody else is in here: there is one thread, and nothing below allocates through it.
        let shelves = unsafe { &mut *self.0.get() };
        let block = shelves.free[shelf];
        if block.is_null() {
            return shelves.cut(shelf);
        }
        // SAFETY: free blocks begin with the next one's address, and are large enough and aligned for one.
        shelves.free[shelf] = unsafe { block.cast::<*mut u8>().read() };
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if shelf(layout.size(), layout.align()).is_none() {
            self.prepare(layout.size());
            return unsafe { System.alloc_zeroed(layout) };
        }
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: it is that large.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(shelf) = shelf(layout.size(), layout.align()) else {
            return unsafe { System.dealloc(block, layout) };
        };
        // SAFETY: as in `alloc`.
        let shelves = unsafe { &mut *self.0.get() };
        // SAFETY: nobody uses the block any more, and it has room for an address.
        unsafe { block.cast::<*mut u8>().write(shelves.free[shelf]) };
        shelves.free[shelf] = block;
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (old, new) = (shelf(layout.size(), layout.align()), shelf(size, layout.align()));
        if old.is_none() && new.is_none() {
            return unsafe { System.realloc(block, layout, size) };
        }
        if old == new {
            return block;
        }
        // SAFETY: the caller's alignment, and its size, which it vouches for.
        let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !moved.is_null() {
            // SAFETY: both are that large, and distinct.
            unsafe {
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block with what was written to it.
    struct Held {
        block: *mut u8,
        layout: Layout,
        mark: u8,
    }

    impl Held {
        fn check(&self) {
            assert_eq!(self.block as usize % self.layout.align(), 0);
            // SAFETY: it is ours and was written as a whole.
            let bytes = unsafe { std::slice::from_raw_parts(self.block, self.layout.size()) };
            assert!(bytes.iter().all(|byte| *byte == self.mark), "{:?} was written to by somebody else", self.layout);
        }
    }

    #[test]
    fn blocks_keep_what_their_owner_wrote() {
        let blocks = Blocks::new();
        let mut dice = 7_u64;
        let mut below = |limit: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((dice >> 33) % limit) as usize
        };
        let mut held: Vec<Held> = Vec::new();
        for turn in 0..20_000_usize {
            let mark = turn as u8;
            let size = 1 + if below(8) == 0 { below(5000) } else { below(200) };
            match below(5) {
                0 | 1 => {
                    let layout = Layout::from_size_align(size, 1 << below(7)).unwrap();
                    // SAFETY: the size isn't zero.
                    let block =
                        unsafe { if below(2) == 0 { blocks.alloc(layout) } else { blocks.alloc_zeroed(layout) } };
                    assert!(!block.is_null());
                    // SAFETY: it is that large.
                    unsafe { block.write_bytes(mark, size) };
                    held.push(Held { block, layout, mark });
                }
                2 if !held.is_empty() => {
                    let at = below(held.len() as u64);
                    let Held { block, layout, mark } = held.swap_remove(at);
                    let larger = Layout::from_size_align(size, layout.align()).unwrap();
                    // SAFETY: it is ours, under that layout.
                    let block = unsafe { blocks.realloc(block, layout, size) };
                    let kept = Layout::from_size_align(size.min(layout.size()), 1).unwrap();
                    Held { block, layout: kept, mark }.check();
                    // SAFETY: it is that large.
                    unsafe { block.write_bytes(mark, size) };
                    held.push(Held { block, layout: larger, mark });
                }
                3 | 4 if !held.is_empty() => {
                    let gone = held.swap_remove(below(held.len() as u64));
                    gone.check();
                    // SAFETY: it is ours, under that layout.
                    unsafe { blocks.dealloc(gone.block, gone.layout) };
                }
                _ => {}
            }
        }
        for gone in held {
            gone.check();
            // SAFETY: as above.
            unsafe { blocks.dealloc(gone.block, gone.layout) };
        }
    }

    #[test]
    fn what_was_given_back_is_given_out_again() {
        let blocks = Blocks::new();
        let layout = Layout::from_size_align(24, 8).unwrap();
        // SAFETY: the size isn't zero, and the block is ours under that layout.
        unsafe {
            let first = blocks.alloc(layout);
            blocks.dealloc(first, layout);
            // Of the same shelf.
            let again = blocks.alloc(Layout::from_size_align(32, 4).unwrap());
            assert_eq!(first, again);
            assert_eq!(blocks.realloc(again, Layout::from_size_align(32, 4).unwrap(), 17), again);
        }
    }
}
