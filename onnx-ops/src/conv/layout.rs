//! Between channels first and channels last.

/// What is turned at once: a few lines of each side's cache lines.
const BLOCK: usize = 16;

/// Writes each of `images` matrices `[rows, columns]` as `[columns, rows]`.
pub fn transpose(images: usize, rows: usize, columns: usize, from: &[f32], to: &mut [f32]) {
    let size = rows * columns;
    assert!(from.len() == images * size && to.len() == images * size, "images of another size");
    if size == 0 {
        return;
    }
    for (from, to) in from.chunks_exact(size).zip(to.chunks_exact_mut(size)) {
        for row in (0..rows).step_by(BLOCK) {
            let height = BLOCK.min(rows - row);
            for column in (0..columns).step_by(BLOCK) {
                for column in column..(column + BLOCK).min(columns) {
                    let to = &mut to[column * rows + row..][..height];
                    for (to, from) in
                        to.iter_mut().zip(from[row * columns + column..].iter().step_by(columns))
                    {
                        *to = *from;
                    }
                }
            }
        }
    }
}

/// Writes the first value of each of `N` slices, then the second one of each, and so on: a few vectors, as `N` is known.
#[inline]
pub fn interleave<const N: usize>(from: [&[f32]; N], to: &mut [f32]) {
    let count = to.len() / N;
    let from = from.map(|from| &from[..count]);
    for (index, to) in to.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from[index];
        }
    }
}
