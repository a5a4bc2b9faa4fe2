//! Text that may come from a node, cleaned and bounded before anything else uses it.
//!
//! A container's output is hostile input. All text in a report passes through here once, and its
//! type proves that.

use std::fmt;

/// The maximum length of a reason's [`Line`], in bytes.
pub const REASON_BYTES: usize = 1024;
/// The maximum length of a [`Detail`], in bytes.
pub const DETAIL_BYTES: usize = 8 * 1024;

/// One line of clean text, never empty, at most [`REASON_BYTES`] long.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Line(String);

impl Line {
    /// Makes a line from any text. Line breaks become spaces.
    #[must_use]
    pub fn new(text: impl AsRef<str>) -> Self {
        let mut line = clean(text.as_ref(), false);
        truncate(&mut line, REASON_BYTES);
        if line.is_empty() {
            line.push_str("no reason was given");
        }
        Self(line)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Text of more than a line, such as the end of a journal: clean, possibly empty, at most
/// [`DETAIL_BYTES`] long. Longer text keeps its end, because the end of a journal says what
/// happened.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Detail(String);

impl Detail {
    /// Makes a detail from any text. Line breaks stay.
    #[must_use]
    pub fn new(text: impl AsRef<str>) -> Self {
        let mut lines = clean(text.as_ref(), true);
        if lines.len() > DETAIL_BYTES {
            let mut from = lines.len() - DETAIL_BYTES;
            while !lines.is_char_boundary(from) {
                from += 1;
            }
            lines.drain(..from);
        }
        Self(lines)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the text is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Removes the characters that could move a cursor, reorder a line or end it: C0 and C1 controls,
/// the line and paragraph separators, and the bidirectional format characters (UAX #9). Runs of
/// white space in between become one space. Line breaks stay only if `lines` is true.
#[must_use]
pub fn clean(text: &str, lines: bool) -> String {
    let mut out = String::with_capacity(text.len().min(DETAIL_BYTES));
    for c in text.chars() {
        match c {
            '\n' if lines => {
                out.truncate(out.trim_end_matches(' ').len());
                out.push('\n');
            }
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => {
                if !out.ends_with([' ', '\n']) && !out.is_empty() {
                    out.push(' ');
                }
            }
            c if c.is_control() || is_bidi(c) || c == '\u{feff}' => {}
            c => out.push(c),
        }
    }
    out.trim().to_owned()
}

/// Cuts text to at most `bytes` bytes, at a character's boundary, and marks the cut.
pub fn truncate(text: &mut String, bytes: usize) {
    const MARK: &str = "…";
    if text.len() <= bytes {
        return;
    }
    let mut end = bytes.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(MARK);
}

/// The system's error message without its number: `Connection refused`.
/// An error and what caused it, each once, as a reason has them: `a: b: c`.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

pub(crate) fn said(error: &std::io::Error) -> String {
    let said = error.to_string();
    let words = said.split(" (os error").next().unwrap_or_default();
    words.to_owned()
}

fn is_bidi(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn terminal_escapes_lose_their_escape() {
        assert_eq!(Line::new("\u{1b}[31mred\u{9b}2J").as_str(), "[31mred2J");
    }

    #[test]
    fn a_reason_is_one_line_and_never_empty() {
        assert_eq!(Line::new("a\r\nb\tc\u{2028}d").as_str(), "a b c d");
        assert_eq!(Line::new("\u{7}").as_str(), "no reason was given");
    }

    #[test]
    fn a_detail_keeps_its_lines_and_of_too_many_the_last() {
        assert_eq!(Detail::new("one\r\ntwo\n").as_str(), "one\ntwo");
        let long = format!("{}\nlast", "x".repeat(DETAIL_BYTES));
        let detail = Detail::new(long);
        assert_eq!(detail.as_str().len(), DETAIL_BYTES);
        assert!(detail.as_str().ends_with("\nlast"));
    }

    proptest! {
        #[test]
        fn nothing_hostile_survives(text in any::<String>()) {
            let hostile = |c: char| (c.is_control() && c != '\n') || is_bidi(c);
            let reason = Line::new(&text);
            prop_assert!(!reason.as_str().contains('\n') && !reason.as_str().contains(hostile));
            prop_assert!((1..=REASON_BYTES).contains(&reason.as_str().len()));
            let detail = Detail::new(&text);
            prop_assert!(!detail.as_str().contains(hostile));
            prop_assert!(detail.as_str().len() <= DETAIL_BYTES);
        }
    }
}
