//! Numbers as JSON writes them, to elements: the nearest one, ties to even.
//!
//! Hot path: most have at most nineteen digits and a small exponent, and take one pass and one
//! multiplication or division of doubles; the rest is the standard library's.
//! Source: W. D. Clinger, "How to read floating point numbers accurately" (1990).

/// A number, as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal<'a> {
    /// All of it.
    pub(super) text: &'a str,
    is_negative: bool,
    /// Its digits without the point; meaningless where they are many.
    digits: u64,
    /// More than `digits` holds.
    has_many_digits: bool,
    /// The power of ten that the digits are to be multiplied with.
    exponent: i32,
    /// Has neither point nor exponent.
    is_integer: bool,
}

/// An element that a number may be read as.
pub(super) trait Element: Sized {
    /// Returns the element, or `None` where there is none that is as large, or whole.
    fn of(decimal: Decimal<'_>) -> Option<Self>;
}

/// Most digits that any `u64` holds.
const MAX_DIGITS: usize = 19;

/// The powers of ten that doubles hold exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

// === impl Decimal ===

impl<'a> Decimal<'a> {
    /// Reads the number that a text begins with, if it does (RFC 8259 § 6).
    #[inline(always)]
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        let is_negative = bytes.first() == Some(&b'-');
        let begin = usize::from(is_negative);
        let mut at = begin;
        let mut digits = 0_u64;
        let mut read_digits = |at: &mut usize| {
            let from = *at;
            while let Some(digit) = bytes.get(*at).map(|byte| byte.wrapping_sub(b'0'))
                && digit < 10
            {
                digits = digits.wrapping_mul(10).wrapping_add(digit.into());
                *at += 1;
            }
            *at - from
        };
        let n_before = read_digits(&mut at);
        if n_before == 0 || (n_before > 1 && bytes.get(begin) == Some(&b'0')) {
            return None;
        }
        let mut n_after = 0;
        if bytes.get(at) == Some(&b'.') {
            at += 1;
            n_after = read_digits(&mut at);
            if n_after == 0 {
                return None;
            }
        }
        let mut exponent = i32::try_from(n_after).map_or(i32::MIN, |n_after| -n_after);
        let has_exponent = matches!(bytes.get(at), Some(b'e' | b'E'));
        if has_exponent {
            at += 1;
            let is_reciprocal = bytes.get(at) == Some(&b'-');
            at += usize::from(matches!(bytes.get(at), Some(b'-' | b'+')));
            let (from, mut written) = (at, 0_i32);
            while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
                written = written
                    .saturating_mul(10)
                    .saturating_add((digit - b'0').into());
                at += 1;
            }
            if at == from {
                return None;
            }
            let written = if is_reciprocal { -written } else { written };
            exponent = exponent.saturating_add(written);
        }
        Some(Self {
            text: text.get(..at)?,
            is_negative,
            digits,
            // Zeros in front count too: such numbers are rare.
            has_many_digits: n_before + n_after > MAX_DIGITS,
            exponent,
            is_integer: n_after == 0 && !has_exponent,
        })
    }

    /// Returns the double that is nearest but for two units in its last place, if that takes no more
    /// than one operation; and whether it is the nearest.
    #[inline]
    fn double(self) -> Option<(f64, bool)> {
        if self.has_many_digits {
            return None;
        }
        let power = *POWERS.get(usize::try_from(self.exponent.unsigned_abs()).ok()?)?;
        let digits = self.digits as f64;
        let value = match self.exponent < 0 {
            true => digits / power,
            false => digits * power,
        };
        // Both are exact then, and rounded once.
        let is_nearest = self.digits <= 1 << f64::MANTISSA_DIGITS;
        Some((if self.is_negative { -value } else { value }, is_nearest))
    }
}

// === elements ===

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Element for $integer {
            #[inline]
            fn of(decimal: Decimal<'_>) -> Option<Self> {
                if !decimal.is_integer {
                    None
                } else if decimal.has_many_digits {
                    decimal.text.parse().ok()
                } else {
                    let value = i128::from(decimal.digits);
                    Self::try_from(if decimal.is_negative { -value } else { value }).ok()
                }
            }
        }
    )*};
}

integers!(u8, u16, u32, u64, i8, i16, i32, i64);

impl Element for f64 {
    #[inline]
    fn of(decimal: Decimal<'_>) -> Option<Self> {
        match decimal.double() {
            Some((value, true)) => Some(value),
            _ => decimal
                .text
                .parse()
                .ok()
                .filter(|value: &Self| value.is_finite()),
        }
    }
}

impl Element for f32 {
    #[inline]
    fn of(decimal: Decimal<'_>) -> Option<Self> {
        /// Bits of a double that a single has not.
        const SURPLUS: u64 = (1 << (f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS)) - 1;
        if let Some((value, _)) = decimal.double() {
            // Of two singles the nearer is clear, unless the double is about in their middle.
            let from_middle = (value.to_bits() & SURPLUS).abs_diff(SURPLUS / 2 + 1);
            let is_normal =
                (f64::from(Self::MIN_POSITIVE)..f64::from(Self::MAX)).contains(&value.abs());
            if (from_middle > 4 && is_normal) || value == 0.0 {
                return Some(value as Self);
            }
        }
        decimal
            .text
            .parse()
            .ok()
            .filter(|value: &Self| value.is_finite())
    }
}
