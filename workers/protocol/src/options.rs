//! What a caller may choose per picture.

/// What a caller may choose per picture; what is not chosen is the model's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PictureOptions {
    /// Least score, 0 to 1.
    pub score: Option<f32>,
    /// Greatest overlap of two boxes of a class, 0 to 1.
    pub iou: Option<f32>,
    /// Most predictions.
    pub top_k: Option<u32>,
    /// Only these labels.
    pub labels: Option<Vec<String>>,
    /// Also the picture, with the predictions drawn into it.
    pub draw: Option<DrawFormat>,
}

/// Format of a drawn picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum DrawFormat {
    Jpeg,
    Png,
}
