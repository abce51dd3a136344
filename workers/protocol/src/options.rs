//! What a caller may choose per picture.

use crate::InferError;

/// What a caller may choose per picture; what is not chosen is the model's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PictureOptions {
    /// Least score, 0 to 1.
    pub score: Option<f32>,
    /// Greatest overlap of two boxes of a class, 0 to 1.
    pub iou: Option<f32>,
    /// Most predictions, at least 1.
    pub top_k: Option<u32>,
    /// Only these labels.
    pub labels: Option<Vec<String>>,
    /// Also the picture, with the predictions drawn into it.
    pub draw: Option<DrawFormat>,
    /// Also what was found, each cut out as a JPEG with this part of its box's sides on each side, 0 to 1.
    pub crop: Option<f32>,
}

/// Format of a drawn picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum DrawFormat {
    Jpeg,
    Png,
}

impl PictureOptions {
    /// The names of the options that a request may have as parameters.
    pub const NAMES: [&'static str; 4] = ["score", "iou", "top_k", "labels"];

    /// Sets an option from its name and text, as in a URL's query.
    ///
    /// # Errors
    /// `InvalidArgument` for a value out of range, or a name that is none.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), InferError> {
        let fraction = || {
            text.parse::<f32>()
                .ok()
                .filter(|value| (0.0..=1.0).contains(value))
                .ok_or_else(|| {
                    InferError::invalid(format!(
                        "`{name}`: expected a number from 0 to 1, got {text:?}"
                    ))
                })
        };
        match name {
            "score" => self.score = Some(fraction()?),
            "iou" => self.iou = Some(fraction()?),
            "top_k" => {
                let top_k = text
                    .parse()
                    .ok()
                    .filter(|&top_k| top_k > 0)
                    .ok_or_else(|| {
                        InferError::invalid(format!(
                            "`top_k`: expected a whole number from 1, got {text:?}"
                        ))
                    })?;
                self.top_k = Some(top_k);
            }
            "labels" => {
                let labels: Vec<_> = text
                    .split(',')
                    .map(str::trim)
                    .filter(|label| !label.is_empty())
                    .map(str::to_owned)
                    .collect();
                if labels.is_empty() {
                    return Err(InferError::invalid(
                        "`labels`: expected labels separated by commas, got none",
                    ));
                }
                self.labels = Some(labels);
            }
            "crop" => self.crop = Some(fraction()?),
            "draw" => {
                self.draw = Some(match text {
                    "jpeg" => DrawFormat::Jpeg,
                    "png" => DrawFormat::Png,
                    _ => {
                        return Err(InferError::invalid(format!(
                            "`draw`: expected `jpeg` or `png`, got {text:?}"
                        )));
                    }
                });
            }
            _ => {
                return Err(InferError::invalid(format!(
                    "`{name}` is no option: expected `score`, `iou`, `top_k` or `labels`"
                )));
            }
        }
        Ok(())
    }
}
