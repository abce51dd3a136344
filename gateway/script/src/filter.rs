//! Which of a script's files an output takes.

/// Beginnings and ends of names; where there is none, any will do.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    /// What names begin with.
    pub prefix: &'a [String],
    /// What names end with.
    pub suffix: &'a [String],
}

impl Filter<'_> {
    /// Whether it takes a file of this name, relative to the output folder: one of the beginnings
    /// and one of the ends have to fit.
    pub fn takes(&self, name: &str) -> bool {
        let begins = self.prefix.iter().any(|prefix| name.starts_with(prefix));
        let ends = self.suffix.iter().any(|suffix| name.ends_with(suffix));
        (self.prefix.is_empty() || begins) && (self.suffix.is_empty() || ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_an_end_and_a_beginning_have_to_fit() {
        let list =
            |words: &str| -> Vec<String> { words.split_whitespace().map(str::to_owned).collect() };
        for (prefix, suffix, name, is_taken) in [
            ("", "", "any", true),
            ("out", "", "out.png", true),
            ("out", "", "in.png", false),
            ("", "png jpg", "a.jpg", true),
            ("", "png jpg", "a.gif", false),
            ("a b", "png", "b.png", true),
            ("a b", "png", "b.jpg", false),
            ("a b", "png", "c.png", false),
            // The name with its folder counts.
            ("sub/", "", "sub/a", true),
            ("a", "", "sub/a", false),
        ] {
            let (prefix, suffix) = (list(prefix), list(suffix));
            let filter = Filter {
                prefix: &prefix,
                suffix: &suffix,
            };
            assert_eq!(filter.takes(name), is_taken, "{name} {prefix:?} {suffix:?}");
        }
    }
}
