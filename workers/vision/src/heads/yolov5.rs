//! YOLOv5 (also v6, v7): boxes decoded in the graph.
//!
//! Source: ultralytics/yolov5, `utils/general.py`, `non_max_suppression` with one label per box.

use super::{Finder, Graph, OutputRow, Resolved, best, centred, classes_of};

pub(super) const EXPECTED: &str = "[batch, N, 5 + classes]";

pub(super) fn resolve(graph: &Graph<'_>) -> Resolved {
    let (output, classes) = graph.find(|row| match *row {
        [_, axis] => classes_of(axis, 5),
        _ => None,
    })?;
    Some((vec![output], classes))
}

/// Each row is one box: centre x, y, width, height in pixels, objectness, classes.
pub(super) fn find(row: &OutputRow<'_>, finder: &mut Finder) -> Option<()> {
    let &[_, axis] = row.shape else {
        return None;
    };
    if axis != 5 + finder.n_classes {
        return None;
    }
    for candidate in row.data.chunks_exact(axis) {
        let (&[x, y, width, height, objectness], classes) = candidate.split_first_chunk()?;
        if objectness < finder.score {
            continue;
        }
        let (class, score) = best(classes.iter().copied());
        finder.push(class, objectness * score, centred(x, y, width, height));
    }
    Some(())
}
