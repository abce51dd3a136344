//! Which distributed trace something belongs to, as W3C Trace Context says it.
//!
//! Only identity: whether and where spans are exported is not known here.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::num::{NonZeroU64, NonZeroU128};

/// Names a trace: 32 hexadecimal digits, not all of them 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU128);

/// Names a span within a trace: 16 hexadecimal digits, not all of them 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

/// A span that others may belong to: what `traceparent` says
/// (<https://www.w3.org/TR/trace-context/#traceparent-header>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// Its trace.
    pub trace_id: TraceId,
    /// The span itself.
    pub span_id: SpanId,
    /// Whether it is recorded.
    pub is_sampled: bool,
}

/// Length of version 00: `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

// === impl TraceContext ===

impl TraceContext {
    /// Returns the first span of a new trace.
    pub fn root() -> Self {
        let (high, low) = (random(), random());
        Self {
            // Its lower half is not 0.
            trace_id: TraceId(NonZeroU128::from(low) | (u128::from(high.get()) << 64)),
            span_id: SpanId(random()),
            is_sampled: false,
        }
    }

    /// Returns another span of this trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span_id: SpanId(random()),
            ..self
        }
    }

    /// Reads a `traceparent`. Of versions that are yet to come it reads what version 00 has, as the
    /// standard asks; whatever is none is `None`, and has to be ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.as_bytes().split_at_checked(LENGTH)?;
        let mut fields = known.split(|&byte| byte == b'-');
        let [version, trace_id, span_id, flags] = [(); 4].map(|()| fields.next());
        let (version, flags) = (digits(version?, 2)?, digits(flags?, 2)?);
        let is_whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|&byte| byte == b'-'),
        };
        if !is_whole || fields.next().is_some() {
            return None;
        }
        Some(Self {
            trace_id: TraceId(NonZeroU128::new(digits(trace_id?, 32)?)?),
            span_id: SpanId(NonZeroU64::new(digits(span_id?, 16)? as u64)?),
            is_sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{}-{}-{flags:02x}", self.trace_id, self.span_id)
    }
}

/// Returns the number that so many digits are. Capitals are none (ibid., § 3.2.2).
fn digits(text: &[u8], n_digits: usize) -> Option<u128> {
    if text.len() != n_digits {
        return None;
    }
    text.iter().try_fold(0, |number, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// Returns a number that nobody else has: the standard library seeds its hashers with the system's
/// randomness and never twice the same, which ids need no more than.
fn random() -> NonZeroU64 {
    NonZeroU64::new(RandomState::new().build_hasher().finish()).unwrap_or(NonZeroU64::MIN)
}

// === impl TraceId, SpanId ===

impl TraceId {
    /// Returns it as a number.
    pub const fn get(self) -> u128 {
        self.0.get()
    }
}

impl SpanId {
    /// Returns it as a number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_standard_is_read() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        assert_eq!(
            context.trace_id.get(),
            0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736
        );
        assert_eq!(context.span_id.get(), 0x00f0_67aa_0ba9_02b7);
        assert!(context.is_sampled);
        assert_eq!(context.to_string(), EXAMPLE);
    }

    #[test]
    fn what_is_no_traceparent_is_ignored() {
        let example = EXAMPLE;
        for (what, text) in [
            ("nothing", String::new()),
            (
                "no trace",
                example.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            ),
            (
                "no span",
                example.replace("00f067aa0ba902b7", &"0".repeat(16)),
            ),
            ("capitals", example.to_uppercase()),
            ("a digit less", example.replacen("4b", "4", 1)),
            (
                "a digit from one field in the other",
                example.replacen("36-", "-36", 1),
            ),
            ("no digit", example.replacen("4b", "4g", 1)),
            ("a sign", example.replacen("4b", "+b", 1)),
            ("no flags", example[..53].to_owned()),
            ("more flags", format!("{example}0")),
            ("more fields", format!("{example}-00")),
            ("the version that is none", example.replacen("00", "ff", 1)),
            ("a space before", format!(" {}", &example[..54])),
            ("another script", "０".repeat(55)),
        ] {
            assert_eq!(TraceContext::parse(&text), None, "{what}: {text}");
        }
    }

    #[test]
    fn of_a_later_version_the_known_part_is_read() {
        for later in ["", "-", "-what comes then"] {
            let text = format!("01{}{later}", &EXAMPLE[2..]);
            assert_eq!(TraceContext::parse(&text), TraceContext::parse(EXAMPLE));
        }
        assert_eq!(TraceContext::parse(&format!("01{}00", &EXAMPLE[2..])), None);
    }

    #[test]
    fn ids_are_given_once() {
        let ids: HashSet<_> = (0..1000).map(|_| TraceContext::root().trace_id).collect();
        assert_eq!(ids.len(), 1000);
        let root = TraceContext::root();
        let child = root.child();
        assert_eq!(child.trace_id, root.trace_id);
        assert_ne!(child.span_id, root.span_id);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            trace_id in 1_u128..,
            span_id in 1_u64..,
            is_sampled: bool,
        ) {
            let context = TraceContext {
                trace_id: TraceId(NonZeroU128::new(trace_id).unwrap()),
                span_id: SpanId(NonZeroU64::new(span_id).unwrap()),
                is_sampled,
            };
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }

        #[test]
        fn any_text_is_read_without_panic_and_only_the_one_form_is_taken(
            text in prop_oneof![any::<String>(), "[0-9a-f-]{50,60}", "00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"],
        ) {
            if let Some(context) = TraceContext::parse(&text) {
                // Of the flags only the first is kept.
                prop_assert_eq!(&context.to_string()[2..53], &text[2..53]);
            }
        }
    }
}
