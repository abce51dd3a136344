//! YOLOv8 (also v9, 11): boxes decoded in the graph, no objectness, one column per box.
//!
//! Source: ultralytics/ultralytics, `ultralytics/utils/nms.py` with one label per box.

use super::{Finder, Graph, OutputRow, Resolved, centred, classes_of};

pub(super) const EXPECTED: &str = "[batch, 4 + classes, N]";

pub(super) fn resolve(graph: &Graph<'_>) -> Resolved {
    let (output, classes) = graph.find(|row| match *row {
        [axis, _] => classes_of(axis, 4),
        _ => None,
    })?;
    Some((vec![output], classes))
}

/// Each column is one box: centre x, y, width, height in pixels, classes.
pub(super) fn find(row: &OutputRow<'_>, finder: &mut Finder) -> Option<()> {
    let &[axis, n] = row.shape else {
        return None;
    };
    if axis != 4 + finder.n_classes || n == 0 {
        return None;
    }
    let mut lines = row.data.chunks_exact(n);
    let (xs, ys, widths, heights) = (lines.next()?, lines.next()?, lines.next()?, lines.next()?);
    // Line by line, as the numbers lie in memory.
    let mut best = vec![(f32::NEG_INFINITY, 0_u32); n];
    for (class, scores) in (0..).zip(lines) {
        for (best, &score) in best.iter_mut().zip(scores) {
            if score > best.0 {
                *best = (score, class);
            }
        }
    }
    for (index, (score, class)) in best.into_iter().enumerate() {
        if score >= finder.score {
            let rect = centred(xs[index], ys[index], widths[index], heights[index]);
            finder.push(class as usize, score, rect);
        }
    }
    Some(())
}
