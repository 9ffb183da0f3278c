//! Text that guests wrote, made safe to show: bounded, and without control characters.

/// Longest text that a guest's error may have, in bytes.
pub(super) const MAX_ERROR: usize = 1 << 10;

/// `text` with the characters escaped that `odd` says, and at most `budget` bytes long; and whether all of it fitted.
fn escape(text: &str, budget: usize, odd: impl Fn(char) -> bool) -> (String, bool) {
    let mut out = String::with_capacity(text.len().min(budget));
    for c in text.chars() {
        let before = out.len();
        if odd(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        if out.len() > budget {
            out.truncate(before);
            return (out, false);
        }
    }
    (out, true)
}

/// Line and paragraph separators and the marks that reorder text: they can forge what a reader of a log sees.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// For between quotes: with its control characters, quotes and backslashes escaped, at most `budget` bytes long, and whether
/// all of it fitted. Where it ends, and what of it was a guest's, can be seen.
pub(super) fn quotable(text: &str, budget: usize) -> (String, bool) {
    escape(text, budget, |c| c.is_control() || is_invisible(c) || matches!(c, '"' | '\\'))
}

/// For a text that stands alone: with its control characters escaped, and what was cut off shown as `…`.
pub(super) fn shown(text: &str, budget: usize) -> String {
    let (mut out, whole) = escape(text, budget, |c| c.is_control() || is_invisible(c));
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
    fn a_quoted_text_cannot_end_its_quotes() {
        assert_eq!(quotable(r#"a" model="b\"#, 100), (r#"a\" model=\"b\\"#.into(), true));
    }

    #[test]
    fn text_is_cut_within_its_budget_and_never_inside_a_character() {
        assert_eq!(quotable("日本", 5), ("日".into(), false));
        assert_eq!(quotable("a\u{1b}", 5), ("a".into(), false));
        assert_eq!(shown("abc", 2), "ab…");
    }
}
