//! YOLOX, with the grid not yet applied (the export's default).
//!
//! Source: Megvii-BaseDetection/YOLOX, `yolox/utils/demo_utils.py`, `demo_postprocess`.

use super::{Finder, Graph, OutputRow, Resolved, best, centred, classes_of};

pub(super) const EXPECTED: &str = "[batch, N, 5 + classes]";

/// Pixels of the input per cell, in the order of the rows.
const STRIDES: [usize; 3] = [8, 16, 32];

pub(super) fn resolve(graph: &Graph<'_>) -> Resolved {
    let (output, classes) = graph.find(|row| match *row {
        [_, axis] => classes_of(axis, 5),
        _ => None,
    })?;
    Some((vec![output], classes))
}

/// Each row is one cell: dx, dy, log width, log height (all in strides), objectness, classes.
pub(super) fn find(row: &OutputRow<'_>, finder: &mut Finder) -> Option<()> {
    let &[n_rows, axis] = row.shape else {
        return None;
    };
    let [width, height] = finder.size;
    let n_cells: usize = STRIDES
        .iter()
        .map(|stride| (width / stride) * (height / stride))
        .sum();
    if axis != 5 + finder.n_classes || n_rows != n_cells {
        return None;
    }
    let mut cells = row.data.chunks_exact(axis);
    for stride in STRIDES {
        let columns = width / stride;
        for (index, cell) in (0..columns * (height / stride)).zip(&mut cells) {
            let (&[dx, dy, log_width, log_height, objectness], classes) =
                cell.split_first_chunk()?;
            if objectness < finder.score {
                continue;
            }
            let (class, score) = best(classes.iter().copied());
            let score = objectness * score;
            if score >= finder.score {
                let stride = stride as f32;
                let rect = centred(
                    (dx + (index % columns) as f32) * stride,
                    (dy + (index / columns) as f32) * stride,
                    log_width.exp() * stride,
                    log_height.exp() * stride,
                );
                finder.push(class, score, rect);
            }
        }
    }
    Some(())
}
