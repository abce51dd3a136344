//! What commands write to standard output: lines, and tables that fit a terminal.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

/// Least characters that are left of a cell that is cut, where its column's head is no longer.
const MIN_CELL: usize = 8;
/// Between two columns.
const GAP: &str = "  ";

/// Writes a line. Whoever reads may have read enough, as `head` has; nothing is wrong then.
///
/// # Errors
/// When it can't be written.
pub(crate) fn print(line: &str) -> std::io::Result<()> {
    write(format!("{line}\n").as_bytes())
}

/// Writes bytes, as [`print()`] a line.
///
/// # Errors
/// When they can't be written.
pub(crate) fn write(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Whether a person reads what is written.
pub(crate) fn is_read_by_a_person() -> bool {
    std::io::stdout().is_terminal()
}

/// Returns text that came from elsewhere as a terminal may show it: what would steer the terminal is
/// escaped.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => plain.push(' '),
            _ if character.is_control() => plain.extend(character.escape_unicode()),
            _ => plain.push(character),
        }
    }
    plain
}

/// Rows under a head, aligned. The first column is what a row is named by, and the last one may be a
/// sentence that is wrapped: both are never cut.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned)],
        }
    }

    /// Adds a row of any text.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| plain(&cell)));
    }

    /// Writes it, as wide as the terminal is at most: the widest columns are cut until it fits.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn print(&self) -> std::io::Result<()> {
        print(&self.lines(width()).join("\n"))
    }

    fn lines(&self, width: Option<usize>) -> Vec<String> {
        let mut widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        });
        if let Some(width) = width {
            self.fit(&mut widths, width);
        }
        let line = |row: &[String; N]| {
            let cells: Vec<String> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{:width$}", cut(cell, width)))
                .collect();
            cells.join(GAP).trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }

    /// Takes from the widest column that may be cut, until all fit or none may be cut any more.
    fn fit(&self, widths: &mut [usize; N], width: usize) {
        let least = |column: usize| {
            let head = self.rows.first().map_or(0, |row| row[column].len());
            head.max(MIN_CELL)
        };
        let room = width.saturating_sub(GAP.len() * N.saturating_sub(1));
        while widths.iter().sum::<usize>() > room {
            let widest = (1..N.saturating_sub(1))
                .filter(|&column| widths[column] > least(column))
                .max_by_key(|&column| widths[column]);
            let Some(widest) = widest else { return };
            widths[widest] -= 1;
        }
    }
}

/// Returns text of at most so many characters, and says where some are missing.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Returns how many characters a line has, where that is known: what `COLUMNS` says (POSIX), or the
/// terminal.
fn width() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok();
    let said = said.and_then(|columns| columns.parse().ok());
    let terminal = || {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        Some(usize::from(size.ws_col))
    };
    said.or_else(terminal).filter(|&width| width > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let mut table = Table::new(["NAME", "IMAGE", "STATE"]);
        let row = |name: &str, image: &str, state: &str| [name, image, state].map(str::to_owned);
        table.row(row("a-name-that-is-kept", "model:mean", "ready"));
        table.row(row("b", "ghcr.io/grycap/imagemagick", "unavailable"));
        table
    }

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let expected = [
            "NAME                 IMAGE                       STATE",
            "a-name-that-is-kept  model:mean                  ready",
            "b                    ghcr.io/grycap/imagemagick  unavailable",
        ];
        assert_eq!(table().lines(None), expected);
        assert_eq!(table().lines(Some(60)), expected);
    }

    #[test]
    fn what_does_not_fit_is_cut_where_it_is_widest_but_for_names() {
        let expected = [
            "NAME                 IMAGE       STATE",
            "a-name-that-is-kept  model:mean  ready",
            "b                    ghcr.io/g…  unavailable",
        ];
        assert_eq!(table().lines(Some(44)), expected);
        for width in 0..60 {
            let lines = table().lines(Some(width));
            assert!(lines[1].starts_with("a-name-that-is-kept  "), "{width}");
            assert!(lines[2].ends_with("  unavailable"), "{width}");
            let longest = lines.iter().map(|line| line.chars().count()).max();
            // Name and state, two gaps, and what a cell has at least.
            assert!(longest.unwrap() <= width.max(19 + 11 + 4 + 8), "{width}");
        }
    }

    #[test]
    fn what_would_steer_a_terminal_is_shown_and_not_done() {
        assert_eq!(plain("a\x1b[2Jb\r\nc"), "a\\u{1b}[2Jb\\u{d} c");
        let mut table = Table::new(["NAME"]);
        table.row(["\x07".to_owned()]);
        assert_eq!(table.lines(None)[1], "\\u{7}");
    }
}
