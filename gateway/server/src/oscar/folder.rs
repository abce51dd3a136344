//! Where a service's objects come from and go to, and services that would call themselves for ever.

use gateway_oscar::{Draw, Kind, Service as Definition, StorageIo};
use gateway_script::Filter;
use workers_protocol::InferError;

/// A folder at a storage provider, and which names in it count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    /// `TYPE.ID`, as `minio.default`.
    pub(crate) provider: String,
    pub(crate) bucket: String,
    /// What all its keys begin with: the folder and a slash; empty for the whole bucket.
    pub(crate) prefix: String,
    /// What names in it begin with, and end with.
    beginnings: Vec<String>,
    endings: Vec<String>,
}

/// A service, as far as it leads to others.
struct Step<'a> {
    name: &'a str,
    inputs: Vec<Folder>,
    outputs: Vec<Folder>,
    /// What the names of its results end with; any where there is none.
    results: Vec<&'static str>,
}

// === impl Folder ===

impl Folder {
    /// Returns the folder of an input or output of a service.
    ///
    /// # Errors
    /// `InvalidArgument` of an empty path.
    pub(crate) fn of(io: &StorageIo, service: &str) -> Result<Self, InferError> {
        let path = io.bucket_path(service);
        let path = path.map_err(|error| InferError::invalid(error.to_string()))?;
        let reference = io.reference();
        Ok(Self {
            provider: format!("{}.{}", reference.provider, reference.id),
            bucket: path.bucket,
            prefix: match path.folder.is_empty() {
                true => String::new(),
                false => format!("{}/", path.folder),
            },
            beginnings: io.prefix.clone(),
            endings: io.suffix.clone(),
        })
    }

    /// Returns the name of an object relative to the folder, if it is in there.
    pub(crate) fn relative<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)
    }

    /// Whether an object of this key is in the folder, and its name counts.
    pub(crate) fn takes(&self, key: &str) -> bool {
        let filter = Filter {
            prefix: &self.beginnings,
            suffix: &self.endings,
        };
        self.relative(key).is_some_and(|name| filter.takes(name))
    }

    /// Whether something that is written to this folder, with such an end, may be taken by another.
    fn leads_to(&self, other: &Self, results: &[&str]) -> bool {
        let is_within = |one: &Self, two: &Self| one.prefix.starts_with(&two.prefix);
        // Names within a folder may have folders of their own, so either may be in the other.
        if self.provider != other.provider
            || self.bucket != other.bucket
            || !(is_within(self, other) || is_within(other, self))
        {
            return false;
        }
        // What both take ends as both say, so that one end is the end of the other.
        let end = |one: &str, two: &str| one.ends_with(two) || two.ends_with(one);
        let begin = |one: &str, two: &str| one.starts_with(two) || two.starts_with(one);
        fit(&self.endings, &other.endings, end)
            && fit(results, &other.endings, end)
            && fit(results, &self.endings, end)
            && (self.prefix != other.prefix || fit(&self.beginnings, &other.beginnings, begin))
    }
}

/// Whether anything of one list fits to anything of another; everything does to an empty one.
fn fit<S: AsRef<str>, T: AsRef<str>>(
    ones: &[S],
    others: &[T],
    fit: impl Fn(&str, &str) -> bool,
) -> bool {
    let fits = |one: &S| others.iter().any(|other| fit(one.as_ref(), other.as_ref()));
    ones.is_empty() || others.is_empty() || ones.iter().any(fits)
}

/// Checks that what a service writes does not come back to it, by itself or through others.
///
/// # Errors
/// `InvalidArgument`, with the chain.
pub(crate) fn check_loops<'a>(
    new: &'a Definition,
    others: impl Iterator<Item = &'a Definition>,
) -> Result<(), InferError> {
    let mut steps = vec![Step::of(new)?];
    for other in others.filter(|other| other.name != new.name) {
        steps.push(Step::of(other)?);
    }
    let mut is_met = vec![false; steps.len()];
    let mut chain = Vec::new();
    if !returns(&steps, &mut is_met, &mut chain) {
        return Ok(());
    }
    let chain: Vec<_> = chain
        .iter()
        .rev()
        .map(|(name, folder): &(&str, &Folder)| {
            let (provider, bucket, prefix) = (&folder.provider, &folder.bucket, &folder.prefix);
            format!("`{name}` writes to {bucket}/{prefix} at {provider}")
        })
        .collect();
    Err(InferError::invalid(format!(
        "`{}` would be called by its own results, for ever: {}, which `{}` reads",
        new.name,
        chain.join(", which is read by the next: "),
        new.name
    )))
}

/// Finds the way back to the first step. Each is looked at once: what leads nowhere from there leads
/// nowhere.
fn returns<'a>(
    steps: &'a [Step<'a>],
    is_met: &mut [bool],
    chain: &mut Vec<(&'a str, &'a Folder)>,
) -> bool {
    // Not by recursion: a chain may be as long as there are services.
    let mut path: Vec<(usize, usize)> = vec![(0, 0)];
    while let Some((at, next)) = path.last_mut() {
        let (here, to) = (&steps[*at], *next);
        *next += 1;
        let Some(other) = steps.get(to) else {
            path.pop();
            continue;
        };
        if here.written_for(other).is_none() {
            continue;
        }
        if to == 0 {
            let mut to = 0;
            for (at, _) in path.iter().rev() {
                let folder = steps[*at].written_for(&steps[to]);
                chain.extend(folder.map(|folder| (steps[*at].name, folder)));
                to = *at;
            }
            return true;
        }
        if !is_met[to] {
            is_met[to] = true;
            path.push((to, 0));
        }
    }
    false
}

impl<'a> Step<'a> {
    fn of(definition: &'a Definition) -> Result<Self, InferError> {
        let name = definition.name.as_str();
        let folders = |list: &[StorageIo]| {
            let folders = list.iter().map(|io| Folder::of(io, name));
            folders.collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            name,
            inputs: folders(&definition.input)?,
            outputs: folders(&definition.output)?,
            results: results(definition),
        })
    }

    /// Returns the folder that this one writes to and another reads.
    fn written_for(&self, other: &Self) -> Option<&Folder> {
        self.outputs.iter().find(|output| {
            let inputs = &mut other.inputs.iter();
            inputs.any(|input| output.leads_to(input, &self.results))
        })
    }
}

/// Returns what the names of a service's results end with; none where that is not known.
fn results(definition: &Definition) -> Vec<&'static str> {
    if definition.kind() == Kind::Script {
        return Vec::new();
    }
    let mut results = vec![".json", ".jsonl"];
    let model = definition.model().unwrap_or_default();
    results.extend(model.crop.map(|_| ".jpg"));
    match model.draw {
        Some(Draw::Jpeg) => results.extend([".jpg", ".mp4"]),
        Some(Draw::Png) => results.extend([".png", ".mp4"]),
        None => {}
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Definition {
        let mut definition = Definition::from_json(text.as_bytes()).unwrap();
        definition.set_defaults();
        definition
    }

    /// A script, with paths that it reads and writes.
    fn script(name: &str, input: &str, output: &str) -> Definition {
        service(&format!(
            r#"{{"name": "{name}", "image": "i", "script": "s",
                 "input": [{{"storage_provider": "minio", "path": "{input}"}}],
                 "output": [{{"storage_provider": "minio.default", "path": "{output}"}}]}}"#
        ))
    }

    fn model(name: &str, input: &str, output: &str) -> Definition {
        service(&format!(
            r#"{{"name": "{name}", "image": "model:m",
                 "input": [{{"storage_provider": "minio", "path": "b/in", {input}}}],
                 "output": [{{"storage_provider": "minio", "path": "b/in", {output}}}]}}"#
        ))
    }

    #[test]
    fn a_folder_takes_what_is_in_it_and_named_so() {
        let definition = service(
            r#"{"name": "s", "image": "model:m", "input": [
                {"storage_provider": "minio", "path": " /b/in/deep/ ", "suffix": [".jpg"]},
                {"storage_provider": "minio.default", "path": "own"}]}"#,
        );
        let folder = Folder::of(&definition.input[0], "s").unwrap();
        assert_eq!(
            (folder.bucket.as_str(), folder.prefix.as_str()),
            ("b", "in/deep/")
        );
        assert!(folder.takes("in/deep/a.jpg") && folder.takes("in/deep/x/../a.jpg"));
        for other in ["in/deep/a.png", "in/deeper/a.jpg", "in/deep", "a.jpg"] {
            assert!(!folder.takes(other), "{other}");
        }
        assert_eq!(folder.relative("in/deep/x/a.jpg"), Some("x/a.jpg"));
        let own = Folder::of(&definition.input[1], "s").unwrap();
        assert_eq!(
            (own.provider.as_str(), own.bucket.as_str()),
            ("minio.default", "s")
        );
    }

    #[test]
    fn a_loop_is_refused_with_its_chain() {
        let said = |new: &Definition, others: &[Definition]| {
            let checked = check_loops(new, others.iter());
            checked.map_err(|error| error.message)
        };
        let itself = said(&script("a", "b/x", "b/x/deeper"), &[]).unwrap_err();
        assert_eq!(
            itself,
            "`a` would be called by its own results, for ever: `a` writes to b/x/deeper/ at \
             minio.default, which `a` reads"
        );
        let others = [script("two", "b/y", "c/z"), script("three", "c/z", "b/x")];
        let chain = said(&script("one", "b/x", "b/y"), &others).unwrap_err();
        assert_eq!(
            chain,
            "`one` would be called by its own results, for ever: `one` writes to b/y/ at minio.default, \
             which is read by the next: `two` writes to c/z/ at minio.default, which is read by the \
             next: `three` writes to b/x/ at minio.default, which `one` reads"
        );
        // A loop of others is not this one's, and what it was before does not count.
        assert_eq!(said(&script("one", "b/a", "b/y"), &others), Ok(()));
        assert_eq!(said(&script("two", "b/y", "c/end"), &others), Ok(()));
        assert_eq!(said(&script("a", "b/in", "b/in-too"), &[]), Ok(()));
        assert_eq!(said(&script("a", "b/in", "c/in"), &[]), Ok(()));
    }

    #[test]
    fn names_that_can_not_come_back_make_no_loop() {
        let is_loop = |input: &str, output: &str| {
            let new = model("a", input, output);
            check_loops(&new, std::iter::empty()).is_err()
        };
        assert!(is_loop(r#""suffix": []"#, r#""suffix": []"#));
        assert!(is_loop(r#""suffix": ["json"]"#, r#""suffix": []"#));
        assert!(!is_loop(r#""suffix": [".jpg", "png"]"#, r#""suffix": []"#));
        assert!(!is_loop(r#""suffix": []"#, r#""suffix": [".png"]"#));
        assert!(is_loop(r#""suffix": []"#, r#""prefix": ["out"]"#));
        assert!(!is_loop(r#""prefix": ["in"]"#, r#""prefix": ["out"]"#));
    }
}
