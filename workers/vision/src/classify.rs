//! From a classifier's output to its best classes.

use model_store::{Activation, PictureOutput, TensorSpec};
use workers_protocol::{InferError, PictureOptions};

use crate::heads::{OutputRow, class_labels, describe, row_shape};
use crate::selection::{Defaults, Selection};

/// Reads the output of an image classification.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// Which of the graph's outputs it is.
    output: usize,
    activation: Activation,
    labels: Vec<String>,
    defaults: Defaults,
}

/// A class and how sure the model is of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classified {
    /// Index of the label.
    pub class: u32,
    /// After the activation; 0 to 1 but for a model without one whose outputs are not
    /// probabilities.
    pub score: f32,
}

impl Classifier {
    /// Returns a reader of the first of `outputs` (of the graph) that has one number per class:
    /// `[batch, classes]`, other axes being 1.
    ///
    /// `labels` may be empty; then the labels are the classes' numbers.
    /// By default the best 5 classes of any score.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such output, or the number of labels is not that of
    /// its classes.
    pub fn new(
        declared: &PictureOutput,
        labels: Vec<String>,
        outputs: &[TensorSpec],
    ) -> Result<Self, InferError> {
        // -1 is a free number of classes.
        let classes = |spec: &TensorSpec| {
            let wide: Vec<i64> = row_shape(spec)?
                .into_iter()
                .filter(|&side| side != 1)
                .collect();
            match wide[..] {
                [] => Some(1),
                [classes] => Some(classes),
                _ => None,
            }
        };
        let (output, classes) = outputs
            .iter()
            .enumerate()
            .find_map(|(index, spec)| Some((index, classes(spec)?)))
            .ok_or_else(|| {
                InferError::invalid(format!(
                    "a classifier has an FP32 output [batch, classes], the graph has {}",
                    describe(outputs)
                ))
            })?;
        let defaults = Defaults {
            score: 0.0,
            iou: 1.0,
            top_k: 5,
        };
        Ok(Self {
            output,
            activation: declared.activation,
            labels: class_labels(labels, classes, &outputs[output])?,
            defaults: defaults.declared(declared)?,
        })
    }

    /// Returns the name of each class.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Checks what a caller chose.
    ///
    /// # Errors
    /// `InvalidArgument` when a number is out of range or the model has no such label.
    pub fn select(&self, options: &PictureOptions) -> Result<Selection, InferError> {
        Selection::new(options, self.defaults, &self.labels)
    }

    /// Returns the best classes of one picture, best first. `outputs` are the graph's, in order.
    ///
    /// # Errors
    /// `Internal` when the model returns other than one number per label.
    pub fn classify(
        &self,
        outputs: &[OutputRow<'_>],
        selection: &Selection,
    ) -> Result<Vec<Classified>, InferError> {
        let values = outputs.get(self.output).map_or(&[][..], |row| row.data);
        if values.len() != self.labels.len() {
            return Err(InferError::internal(format!(
                "the model returned {} numbers for a picture, expected one for each of {} classes",
                values.len(),
                self.labels.len()
            )));
        }
        let mut scores: Vec<Classified> = (0..)
            .zip(activate(self.activation, values))
            .map(|(class, score)| Classified { class, score })
            .filter(|one| one.score >= selection.score && selection.wants(one.class as usize))
            .collect();
        let better = |a: &Classified, b: &Classified| b.score.total_cmp(&a.score);
        if scores.len() > selection.top_k {
            scores.select_nth_unstable_by(selection.top_k, better);
            scores.truncate(selection.top_k);
        }
        scores.sort_by(better);
        Ok(scores)
    }
}

fn activate(activation: Activation, values: &[f32]) -> Vec<f32> {
    match activation {
        Activation::None => values.to_vec(),
        Activation::Sigmoid => values.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Activation::Softmax => {
            // Without the greatest the exponentials would overflow.
            let greatest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f32> = values.iter().map(|x| (x - greatest).exp()).collect();
            let sum: f32 = powers.iter().sum();
            powers.into_iter().map(|power| power / sum).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{labels, output, row};

    fn classifier(activation: Activation, classes: i64) -> Classifier {
        let declared = PictureOutput {
            activation,
            ..PictureOutput::default()
        };
        Classifier::new(&declared, Vec::new(), &[output("logits", &[-1, classes])]).unwrap()
    }

    fn classify(
        activation: Activation,
        values: &[f32],
        options: &PictureOptions,
    ) -> Vec<Classified> {
        let classifier = classifier(activation, values.len() as i64);
        let selection = classifier.select(options).unwrap();
        classifier
            .classify(&[row(&[values.len()], values)], &selection)
            .unwrap()
    }

    #[test]
    fn softmax_returns_the_best_five_in_order() {
        let values = [0.0, 3.0, 1.0, 2.0, -1.0, 5.0, 4.0];
        let best = classify(Activation::Softmax, &values, &PictureOptions::default());
        let classes: Vec<u32> = best.iter().map(|one| one.class).collect();
        assert_eq!(classes, [5, 6, 1, 3, 2]);
        let sum: f32 = values.iter().map(|x| (x - 5.0_f32).exp()).sum();
        assert!((best[0].score - 1.0 / sum).abs() < 1e-6);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let best = classify(
            Activation::Softmax,
            &[1e30, 0.0],
            &PictureOptions::default(),
        );
        assert_eq!((best[0].class, best[0].score), (0, 1.0));
    }

    #[test]
    fn sigmoid_scores_classes_independently() {
        let best = classify(Activation::Sigmoid, &[0.0, 0.0], &PictureOptions::default());
        assert_eq!(
            best.iter().map(|one| one.score).collect::<Vec<_>>(),
            [0.5, 0.5]
        );
    }

    #[test]
    fn probabilities_are_taken_as_they_are_and_not_a_number_is_dropped() {
        let values = [0.25, f32::NAN, 0.75];
        let best = classify(Activation::None, &values, &PictureOptions::default());
        let found: Vec<_> = best.iter().map(|one| (one.class, one.score)).collect();
        assert_eq!(found, [(2, 0.75), (0, 0.25)]);
    }

    #[test]
    fn a_caller_chooses_score_number_and_labels() {
        let options = PictureOptions {
            score: Some(0.2),
            top_k: Some(2),
            labels: Some(labels(&["0", "2", "3"])),
            ..PictureOptions::default()
        };
        let best = classify(Activation::None, &[0.3, 0.9, 0.4, 0.1], &options);
        assert_eq!(best.iter().map(|one| one.class).collect::<Vec<_>>(), [2, 0]);
    }

    #[test]
    fn axes_of_one_are_ignored_and_the_rest_must_be_one() {
        let declared = PictureOutput::default();
        let new = |shape: &[i64]| Classifier::new(&declared, Vec::new(), &[output("y", shape)]);
        assert_eq!(new(&[-1, 3, 1, 1]).unwrap().labels(), ["0", "1", "2"]);
        let error = new(&[-1, 3, 7, 7]).unwrap_err();
        assert_eq!(
            error.message,
            "a classifier has an FP32 output [batch, classes], the graph has `y` FP32 [-1, 3, 7, 7]"
        );
    }

    #[test]
    fn labels_are_as_many_as_classes() {
        let declared = PictureOutput::default();
        let outputs = [output("y", &[-1, 3])];
        let error = Classifier::new(&declared, labels(&["a", "b"]), &outputs).unwrap_err();
        assert_eq!(
            error.message,
            "`labels`: output `y` [-1, 3] has 3 classes, got 2 names"
        );
    }

    #[test]
    fn an_output_of_another_length_is_an_error() {
        let classifier = classifier(Activation::None, 3);
        let selection = classifier.select(&PictureOptions::default()).unwrap();
        assert!(
            classifier
                .classify(&[row(&[2], &[0.1, 0.2])], &selection)
                .is_err()
        );
        assert!(classifier.classify(&[], &selection).is_err());
    }

    proptest! {
        #[test]
        fn softmax_sums_to_one(values in proptest::collection::vec(-50.0_f32..50.0, 1..40)) {
            let sum: f32 = activate(Activation::Softmax, &values).iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-4);
        }
    }
}
