//! What commands write: lines, tables that fit a terminal, and what changes in its place.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::time::Duration;

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

/// Lines that are written again in their place, on standard error, where a person sees them.
#[derive(Debug, Default)]
pub(crate) struct Live {
    n_lines: usize,
}

impl Live {
    /// Returns none where nobody would see it.
    pub(crate) fn start() -> Option<Self> {
        std::io::stderr().is_terminal().then(Self::default)
    }

    /// Writes these lines instead of those before; of each what fits the width is seen.
    ///
    /// # Errors
    /// When they can't be written.
    pub(crate) fn draw(&mut self, lines: &[String]) -> std::io::Result<()> {
        let mut text = self.erased();
        // Without wrapping, so that a line is one (DECAWM), and with it again.
        text.push_str("\x1b[?7l");
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("\x1b[?7h");
        self.n_lines = lines.len();
        complain(&text)
    }

    /// Writes a line above, which stays.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn leave(&mut self, line: &str) -> std::io::Result<()> {
        let erased = self.erased();
        self.n_lines = 0;
        complain(&format!("{erased}{line}\n"))
    }

    /// Takes them away.
    ///
    /// # Errors
    /// When that can't be written.
    pub(crate) fn clear(&mut self) -> std::io::Result<()> {
        let erased = self.erased();
        self.n_lines = 0;
        complain(&erased)
    }

    /// Returns what erases the lines: up to the first (CPL), and all below (ED).
    fn erased(&self) -> String {
        match self.n_lines {
            0 => String::new(),
            n => format!("\x1b[{n}F\x1b[J"),
        }
    }
}

/// Writes to standard error, whose reader may have gone.
///
/// # Errors
/// When it can't be written.
pub(crate) fn complain(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stderr().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Returns a bar of what is done.
pub(crate) fn bar(done: u64, of: u64) -> String {
    const WIDTH: u64 = 30;
    let n = match of {
        0 => WIDTH,
        of => (u128::from(done.min(of)) * u128::from(WIDTH) / u128::from(of)) as u64,
    };
    let (done, left) = ("█".repeat(n as usize), "░".repeat((WIDTH - n) as usize));
    format!("{done}{left}")
}

/// Returns bytes as people read them.
pub(crate) fn bytes(n: u64) -> String {
    let (mut value, mut unit) = (n as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    match unit {
        "B" => format!("{n} B"),
        unit => format!("{value:.1} {unit}"),
    }
}

/// Returns a time as people read it.
pub(crate) fn duration(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{}:{:02} min", s / 60, s % 60),
        _ => format!("{}:{:02} h", s / 3600, s / 60 % 60),
    }
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
    fn amounts_are_read_at_a_glance() {
        assert_eq!(
            [0, 1023, 1536, 5 << 30].map(bytes),
            ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
        );
        let times = [0, 59, 61, 3720].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(times, ["0 s", "59 s", "1:01 min", "1:02 h"]);
        let half = format!("{}{}", "█".repeat(15), "░".repeat(15));
        assert_eq!(bar(1, 2), half);
        assert_eq!(
            [bar(0, 0), bar(9, 3), bar(u64::MAX, u64::MAX)],
            [(); 3].map(|()| "█".repeat(30))
        );
    }

    #[test]
    fn what_would_steer_a_terminal_is_shown_and_not_done() {
        assert_eq!(plain("a\x1b[2Jb\r\nc"), "a\\u{1b}[2Jb\\u{d} c");
        let mut table = Table::new(["NAME"]);
        table.row(["\x07".to_owned()]);
        assert_eq!(table.lines(None)[1], "\\u{7}");
    }
}
