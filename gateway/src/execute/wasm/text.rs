//! Text that guests wrote, made safe to show: bounded, and without control characters.

/// Longest text that a guest's error may have, in bytes.
pub(super) const MAX_ERROR: usize = 1 << 10;

/// Appends `text` with its control characters escaped, up to `budget` bytes. False if it was cut.
fn escape_into(out: &mut String, text: &str, budget: usize) -> bool {
    for c in text.chars() {
        let before = out.len();
        if c.is_control() || is_invisible(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        if out.len() > budget {
            out.truncate(before);
            return false;
        }
    }
    true
}

/// Line and paragraph separators and the marks that reorder text: they can forge what a reader of a log sees.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` with its control characters escaped and at most `budget` bytes long, and whether all of it fitted.
pub(super) fn escape(text: &str, budget: usize) -> (String, bool) {
    let mut out = String::with_capacity(text.len().min(budget));
    let whole = escape_into(&mut out, text, budget);
    (out, whole)
}

/// The same for a text that stands alone; what was cut off is shown as `…`.
pub(super) fn shown(text: &str, budget: usize) -> String {
    let (mut out, whole) = escape(text, budget);
    if !whole {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(shown("a\n\u{1b}[31mb\u{202e}c", 100), "a\\n\\u{1b}[31mb\\u{202e}c");
        assert_eq!(shown("grün 日本", 100), "grün 日本");
    }

    #[test]
    fn text_is_cut_within_its_budget_and_never_inside_a_character() {
        assert_eq!(escape("日本", 5), ("日".into(), false));
        assert_eq!(escape("a\u{1b}", 5), ("a".into(), false));
        assert_eq!(shown("abc", 2), "ab…");
    }
}
