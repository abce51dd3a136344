//! What a bucket announces, and to whom: our part of it is changed, the rest stays as it was written.

use super::xml::{self, child, escape, text};

/// The events that we hear of.
const EVENT: &str = "s3:ObjectCreated:*";

/// The `NotificationConfiguration` of a bucket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Configuration {
    parts: Vec<Part>,
}

/// One that is announced to.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    /// As it was written.
    xml: String,
    /// The queue that it is for, and the beginning of keys; of anything else nothing.
    queue: Option<(String, String)>,
}

impl Configuration {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(body: &str) -> Result<Self, String> {
        let document = xml::parse(body)?;
        let root = document.root_element();
        if root.tag_name().name() != "NotificationConfiguration" {
            return Err(format!(
                "expected a NotificationConfiguration, got {:?}",
                super::excerpt(root.tag_name().name())
            ));
        }
        let elements = root.children().filter(roxmltree::Node::is_element);
        let parts = elements.map(|element| {
            let is_queue = element.tag_name().name() == "QueueConfiguration";
            let rules = child(element, "Filter").and_then(|filter| child(filter, "S3Key"));
            let rules = rules.iter().flat_map(|key| key.children());
            let prefix = rules
                .filter(|rule| text(*rule, "Name").eq_ignore_ascii_case("prefix"))
                .map(|rule| text(rule, "Value"))
                .next();
            let queue = || {
                (
                    without_region(text(element, "Queue")),
                    prefix.unwrap_or_default().to_owned(),
                )
            };
            Part {
                xml: body.get(element.range()).unwrap_or_default().to_owned(),
                queue: is_queue.then(queue),
            }
        });
        Ok(Self {
            parts: parts.collect(),
        })
    }

    /// Adds that new objects of a folder are announced to a target, and returns whether that is new.
    pub(super) fn add(&mut self, target: &str, folder: &str) -> bool {
        let queue = (without_region(target), prefix(folder));
        if self
            .parts
            .iter()
            .any(|part| part.queue.as_ref() == Some(&queue))
        {
            return false;
        }
        let (target, prefix) = (escape(target), escape(&queue.1));
        let filter = match prefix.as_str() {
            "" => String::new(),
            prefix => format!(
                "<Filter><S3Key><FilterRule><Name>prefix</Name><Value>{prefix}</Value></FilterRule></S3Key></Filter>"
            ),
        };
        self.parts.push(Part {
            xml: format!(
                "<QueueConfiguration>{filter}<Event>{EVENT}</Event><Queue>{target}</Queue></QueueConfiguration>"
            ),
            queue: Some(queue),
        });
        true
    }

    /// Takes that out again, and returns whether it was there.
    pub(super) fn remove(&mut self, target: &str, folder: &str) -> bool {
        let queue = (without_region(target), prefix(folder));
        let n_parts = self.parts.len();
        self.parts
            .retain(|part| part.queue.as_ref() != Some(&queue));
        self.parts.len() < n_parts
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(super) fn to_xml(&self) -> String {
        let parts: String = self.parts.iter().map(|part| part.xml.as_str()).collect();
        format!(
            "<NotificationConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</NotificationConfiguration>"
        )
    }
}

/// Returns what of the name of a target tells it from others: MinIO wants its region, and gives it back
/// without.
fn without_region(target: &str) -> String {
    let mut parts: Vec<_> = target.split(':').collect();
    if let Some(region) = parts.get_mut(3) {
        *region = "";
    }
    parts.join(":")
}

fn prefix(folder: &str) -> String {
    match folder {
        "" => String::new(),
        folder => format!("{folder}/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "arn:minio:sqs:us-east-1:HEARTH:webhook";
    const OTHERS: &str = "<QueueConfiguration><Id>x</Id><Event>s3:ObjectRemoved:*</Event>\
        <Queue>arn:minio:sqs::1:webhook</Queue></QueueConfiguration>\
        <TopicConfiguration><Topic>t</Topic><Event>e</Event></TopicConfiguration>";

    fn configuration(parts: &str) -> Configuration {
        let xml = format!(
            "<NotificationConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</NotificationConfiguration>"
        );
        Configuration::parse(&xml).unwrap()
    }

    #[test]
    fn ours_comes_and_goes_and_the_others_stay() {
        let mut changed = configuration(OTHERS);
        assert!(changed.add(TARGET, "in"));
        assert!(changed.add(TARGET, "a&b"));
        // It is what is read back.
        let mut changed = Configuration::parse(&changed.to_xml()).unwrap();
        assert!(changed.to_xml().contains(OTHERS));
        assert!(!changed.add(TARGET, "in"));
        // As MinIO gives it back.
        let given_back = changed.to_xml().replace("us-east-1", "");
        assert!(!Configuration::parse(&given_back).unwrap().add(TARGET, "in"));
        assert!(!changed.remove(TARGET, "out"));
        assert!(changed.remove(TARGET, "in"));
        assert!(changed.remove(TARGET, "a&b"));
        assert_eq!(changed.to_xml(), configuration(OTHERS).to_xml());
    }

    #[test]
    fn the_whole_bucket_has_no_filter() {
        let mut changed = configuration("");
        assert!(changed.add(TARGET, ""));
        assert!(!changed.to_xml().contains("Filter"));
        assert!(!configuration(&changed.parts[0].xml).add(TARGET, ""));
    }

    #[test]
    fn what_is_no_configuration_is_said() {
        let error = Configuration::parse("<html/>").unwrap_err();
        assert_eq!(error, "expected a NotificationConfiguration, got \"html\"");
    }
}
