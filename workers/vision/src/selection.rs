//! What a caller chose, checked before anything runs.

use model_store::PictureOutput;
use workers_protocol::{InferError, PictureOptions};

/// Predictions of a picture at most, whatever is asked for; also the candidates among which
/// overlaps are looked for, so that the quadratic part has a bound.
pub(crate) const MAX_PREDICTIONS: usize = 4096;

/// How many labels an error names.
const NAMED_LABELS: usize = 20;

/// Which predictions a caller wants: [`PictureOptions`], checked, with the model's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Least score.
    pub(crate) score: f32,
    /// Greatest overlap of two boxes of a class.
    pub(crate) iou: f32,
    /// Most predictions, from 1 to [`MAX_PREDICTIONS`].
    pub(crate) top_k: usize,
    /// By class: wanted or not. `None`: all are.
    pub(crate) classes: Option<Vec<bool>>,
}

/// What holds where the caller chose nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Defaults {
    pub(crate) score: f32,
    pub(crate) iou: f32,
    pub(crate) top_k: usize,
}

impl Defaults {
    /// Replaces what the manifest declares.
    pub(crate) fn declared(self, output: &PictureOutput) -> Result<Self, InferError> {
        let options = PictureOptions {
            score: output.score,
            iou: output.iou,
            top_k: output.top_k,
            ..PictureOptions::default()
        };
        let selection = Selection::new(&options, self, &[])?;
        Ok(Self {
            score: selection.score,
            iou: selection.iou,
            top_k: selection.top_k,
        })
    }
}

impl Selection {
    pub(crate) fn new(
        options: &PictureOptions,
        defaults: Defaults,
        labels: &[String],
    ) -> Result<Self, InferError> {
        let classes = options
            .labels
            .as_ref()
            .map(|wanted| wanted_classes(wanted, labels))
            .transpose()?;
        Ok(Self {
            score: fraction("score", options.score)?.unwrap_or(defaults.score),
            iou: fraction("iou", options.iou)?.unwrap_or(defaults.iou),
            top_k: match options.top_k {
                Some(0) => return Err(InferError::invalid("`top_k`: expected at least 1, got 0")),
                Some(top_k) => MAX_PREDICTIONS.min(top_k as usize),
                None => defaults.top_k,
            },
            classes,
        })
    }

    pub(crate) fn wants(&self, class: usize) -> bool {
        self.classes
            .as_ref()
            .is_none_or(|wanted| wanted.get(class).is_some_and(|&wanted| wanted))
    }
}

fn fraction(name: &str, value: Option<f32>) -> Result<Option<f32>, InferError> {
    match value {
        Some(value) if !(0.0..=1.0).contains(&value) => Err(InferError::invalid(format!(
            "`{name}`: expected a number from 0 to 1, got {value}"
        ))),
        value => Ok(value),
    }
}

fn wanted_classes(wanted: &[String], labels: &[String]) -> Result<Vec<bool>, InferError> {
    if let Some(unknown) = wanted.iter().find(|&label| !labels.contains(label)) {
        let known = labels.iter().take(NAMED_LABELS).map(String::as_str);
        let known = known.collect::<Vec<_>>().join(", ");
        let more = match labels.len().saturating_sub(NAMED_LABELS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let unknown: String = unknown.chars().take(64).collect();
        return Err(InferError::invalid(format!(
            "`labels`: the model has no {unknown:?}, it has {known}{more}"
        )));
    }
    Ok(labels.iter().map(|label| wanted.contains(label)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults = Defaults {
        score: 0.3,
        iou: 0.45,
        top_k: 300,
    };

    fn select(options: &PictureOptions) -> Result<Selection, InferError> {
        Selection::new(options, DEFAULTS, &["cat".into(), "dog".into()])
    }

    #[test]
    fn what_is_not_chosen_is_the_default() {
        let selection = select(&PictureOptions::default()).unwrap();
        assert_eq!((selection.score, selection.iou), (0.3, 0.45));
        assert_eq!((selection.top_k, selection.classes), (300, None));
    }

    #[test]
    fn only_the_named_labels_are_wanted() {
        let selection = select(&PictureOptions {
            labels: Some(vec!["dog".into()]),
            ..PictureOptions::default()
        })
        .unwrap();
        assert_eq!(
            [0, 1, 2].map(|class| selection.wants(class)),
            [false, true, false]
        );
    }

    #[test]
    fn an_unknown_label_is_refused_with_the_known_ones() {
        let error = select(&PictureOptions {
            labels: Some(vec!["horse".into()]),
            ..PictureOptions::default()
        })
        .unwrap_err();
        assert_eq!(
            error.message,
            "`labels`: the model has no \"horse\", it has cat, dog"
        );
    }

    #[test]
    fn the_refusal_of_a_label_stays_short() {
        let labels: Vec<_> = (0..1000).map(|class| format!("class {class}")).collect();
        let options = PictureOptions {
            labels: Some(vec!["x".repeat(100_000)]),
            ..PictureOptions::default()
        };
        let error = Selection::new(&options, DEFAULTS, &labels).unwrap_err();
        assert!(error.message.len() < 500, "{} bytes", error.message.len());
        assert!(error.message.ends_with("class 19 and 980 more"));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for value in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
            let score = PictureOptions {
                score: Some(value),
                ..PictureOptions::default()
            };
            let iou = PictureOptions {
                iou: Some(value),
                ..PictureOptions::default()
            };
            assert!(select(&score).is_err() && select(&iou).is_err(), "{value}");
        }
        let none = PictureOptions {
            top_k: Some(0),
            ..PictureOptions::default()
        };
        assert!(select(&none).is_err());
    }

    #[test]
    fn the_number_of_predictions_is_bounded() {
        let selection = select(&PictureOptions {
            top_k: Some(u32::MAX),
            ..PictureOptions::default()
        });
        assert_eq!(selection.unwrap().top_k, MAX_PREDICTIONS);
    }
}
