//! Protocol buffers' text format, as far as configurations are written in it: fields, messages in
//! braces or angle brackets, lists, strings with escapes, comments.
//!
//! Source: Protocol Buffers, "Text Format Language Specification".

use crate::StoreError;

/// Deepest nesting; `input[0].reshape.shape` is at 3.
const MAX_DEPTH: usize = 16;

/// Most fields and list elements in all; each costs some hundred bytes.
const MAX_FIELDS: usize = 10_000;

/// Most characters that an error repeats.
const MAX_EXCERPT_CHARS: usize = 40;

/// A field as written. A list is as many fields of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    /// Where its name is, from 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A number, or a name such as `true` or `TYPE_FP32`.
    Word(String),
    /// What was in quotes, unescaped.
    Text(String),
    Message(Vec<Field>),
}

/// Returns the fields of the outermost message, in order.
///
/// # Errors
/// [`StoreError::Invalid`] with the line, what was expected and what came;
/// [`StoreError::TooLarge`] over 10,000 fields.
pub(super) fn parse(text: &str) -> Result<Vec<Field>, StoreError> {
    let mut parser = Parser {
        rest: text,
        line: 1,
        n_fields: 0,
    };
    parser.message(None, 0)
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
    n_fields: usize,
}

impl Parser<'_> {
    /// Reads fields up to what closes them, or to the end.
    fn message(&mut self, close: Option<char>, depth: usize) -> Result<Vec<Field>, StoreError> {
        if depth > MAX_DEPTH {
            return self.invalid(&format!(
                "expected at most {MAX_DEPTH} messages in each other"
            ));
        }
        let mut fields = Vec::new();
        loop {
            self.skip_blank();
            match (self.peek(), close) {
                (None, None) => return Ok(fields),
                (Some(next), Some(close)) if next == close => {
                    self.advance(1);
                    return Ok(fields);
                }
                _ => {}
            }
            let line = self.line;
            let name = self.word(|letter| letter.is_ascii_alphanumeric() || letter == '_');
            if name.is_empty() {
                let expected = close.map_or_else(String::new, |close| format!(" or `{close}`"));
                return self.expected(&format!("a field's name{expected}"));
            }
            self.skip_blank();
            let has_colon = self.eat(':');
            self.skip_blank();
            match self.peek() {
                Some('[') => {
                    self.advance(1);
                    self.list(&name, line, depth, &mut fields)?;
                }
                Some('{' | '<') => {
                    let value = self.value(depth)?;
                    self.push(&mut fields, &name, line, value)?;
                }
                _ if has_colon => {
                    let value = self.value(depth)?;
                    self.push(&mut fields, &name, line, value)?;
                }
                _ => return self.expected(&format!("`:` or `{{` after `{name}`")),
            }
            self.skip_blank();
            // One separator, which may be left out.
            let _ = self.eat(',') || self.eat(';');
        }
    }

    fn list(
        &mut self,
        name: &str,
        line: usize,
        depth: usize,
        fields: &mut Vec<Field>,
    ) -> Result<(), StoreError> {
        self.skip_blank();
        if self.eat(']') {
            return Ok(());
        }
        loop {
            self.skip_blank();
            let value = self.value(depth)?;
            self.push(fields, name, line, value)?;
            self.skip_blank();
            if self.eat(']') {
                return Ok(());
            }
            if !self.eat(',') {
                return self.expected(&format!("`,` or `]` in the list of `{name}`"));
            }
        }
    }

    fn push(
        &mut self,
        fields: &mut Vec<Field>,
        name: &str,
        line: usize,
        value: Value,
    ) -> Result<(), StoreError> {
        self.n_fields += 1;
        if self.n_fields > MAX_FIELDS {
            return Err(StoreError::TooLarge(format!(
                "expected at most {MAX_FIELDS} fields and list elements, line {line} has one more"
            )));
        }
        fields.push(Field {
            name: name.to_owned(),
            line,
            value,
        });
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Value, StoreError> {
        match self.peek() {
            Some('{') => {
                self.advance(1);
                self.message(Some('}'), depth + 1).map(Value::Message)
            }
            Some('<') => {
                self.advance(1);
                self.message(Some('>'), depth + 1).map(Value::Message)
            }
            Some('"' | '\'') => self.text().map(Value::Text),
            _ => {
                let is_part =
                    |letter: char| letter.is_ascii_alphanumeric() || "_-+.".contains(letter);
                let word = self.word(is_part);
                if word.is_empty() {
                    return self.expected("a value");
                }
                Ok(Value::Word(word))
            }
        }
    }

    /// Reads a string, and those that follow it: they are one.
    fn text(&mut self) -> Result<String, StoreError> {
        let mut bytes = Vec::new();
        while let Some(quote @ ('"' | '\'')) = self.peek() {
            self.advance(1);
            loop {
                match self.peek() {
                    None | Some('\n') => {
                        return self.expected(&format!("{quote} at the end of a string"));
                    }
                    Some(letter) if letter == quote => break self.advance(1),
                    Some('\\') => {
                        self.advance(1);
                        self.escaped(&mut bytes)?;
                    }
                    Some(letter) => {
                        self.advance(letter.len_utf8());
                        bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                }
            }
            self.skip_blank();
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(error) => self.invalid(&format!("expected a string in UTF-8: {error}")),
        }
    }

    /// Reads what follows a backslash.
    fn escaped(&mut self, bytes: &mut Vec<u8>) -> Result<(), StoreError> {
        let Some(letter) = self.peek() else {
            return self.expected("a letter after `\\`");
        };
        let plain = match letter {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 0x0b,
            '\\' | '\'' | '"' | '?' => letter as u8,
            '0'..='7' => {
                let digits = self.digits(3, 8);
                return match digits.and_then(|code| u8::try_from(code).ok()) {
                    Some(byte) => {
                        bytes.push(byte);
                        Ok(())
                    }
                    None => self.invalid("expected `\\377` at most"),
                };
            }
            'x' | 'u' | 'U' => {
                self.advance(1);
                let most = match letter {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let code = self.digits(most, 16);
                let byte = code
                    .filter(|_| letter == 'x')
                    .and_then(|code| u8::try_from(code).ok());
                let wide = code.filter(|_| letter != 'x').and_then(char::from_u32);
                return match (byte, wide) {
                    (Some(byte), _) => {
                        bytes.push(byte);
                        Ok(())
                    }
                    (None, Some(wide)) => {
                        bytes.extend_from_slice(wide.encode_utf8(&mut [0; 4]).as_bytes());
                        Ok(())
                    }
                    (None, None) => {
                        self.invalid(&format!("expected a character's number after `\\{letter}`"))
                    }
                };
            }
            _ => return self.invalid(&format!("`\\{letter}` is no escape of a string")),
        };
        self.advance(1);
        bytes.push(plain);
        Ok(())
    }

    /// Reads up to so many digits; `None` where there is none.
    fn digits(&mut self, most: usize, radix: u32) -> Option<u32> {
        let digits = self.rest.chars().take(most);
        let n_digits = digits.take_while(|digit| digit.is_digit(radix)).count();
        let number = self.rest.get(..n_digits)?;
        let number = u32::from_str_radix(number, radix).ok();
        self.advance(n_digits);
        number
    }

    fn word(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|letter| !is_part(letter));
        let word = self.rest.get(..end.unwrap_or(self.rest.len()));
        let word = word.unwrap_or_default().to_owned();
        self.advance(word.len());
        word
    }

    /// Skips white space and comments.
    fn skip_blank(&mut self) {
        while let Some(next) = self.peek() {
            if next == '#' {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.advance(end);
            } else if next.is_ascii_whitespace() {
                self.line += usize::from(next == '\n');
                self.advance(1);
            } else {
                return;
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let is_there = self.peek() == Some(wanted);
        if is_there {
            self.advance(wanted.len_utf8());
        }
        is_there
    }

    /// Goes on by so many bytes, which end between characters.
    fn advance(&mut self, n_bytes: usize) {
        self.rest = self.rest.get(n_bytes..).unwrap_or_default();
    }

    fn expected<T>(&self, what: &str) -> Result<T, StoreError> {
        let rest = self.rest.lines().next().unwrap_or_default();
        let got: String = rest.chars().take(MAX_EXCERPT_CHARS).collect();
        let got = match (self.rest.is_empty(), got.is_empty()) {
            (true, _) => "the end".to_owned(),
            (false, true) => "the end of the line".to_owned(),
            (false, false) => format!("{got:?}"),
        };
        self.invalid(&format!("expected {what}, got {got}"))
    }

    fn invalid<T>(&self, message: &str) -> Result<T, StoreError> {
        Err(StoreError::Invalid(format!(
            "line {}: {message}",
            self.line
        )))
    }
}
