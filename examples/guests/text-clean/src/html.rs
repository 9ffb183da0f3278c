//! The parts of HTML that plain text is wrapped in.

/// Tags inside of a word or sentence: they leave no space behind.
const INLINE: [&str; 16] = [
    "a", "abbr", "b", "cite", "code", "del", "em", "i", "ins", "mark", "s", "small", "span", "strong", "sub",
    "u",
];

/// The text without tags, comments and the contents of `script` and `style`. A tag that ends a paragraph or the like
/// leaves a space behind. `<` is the begin of a tag only before a letter, `/`, `!` or `?`, as in the HTML standard.
pub(crate) fn strip_tags(text: &str) -> String {
    let mut stripped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        stripped.push_str(before);
        let after = &tag[1..];
        if !after.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?')) {
            stripped.push('<');
            rest = after;
            continue;
        }
        if let Some(comment) = after.strip_prefix("!--") {
            stripped.push(' ');
            rest = comment.split_once("-->").map_or("", |(_, rest)| rest);
            continue;
        }
        let name_end = after[1..].find(|c: char| !c.is_ascii_alphanumeric()).map_or(after.len(), |at| at + 1);
        let name = after[..name_end].trim_start_matches('/').to_ascii_lowercase();
        rest = after_tag(after);
        if matches!(after[..name_end].to_ascii_lowercase().as_str(), "script" | "style") {
            rest = after_contents(rest, &name);
        }
        if !INLINE.contains(&name.as_str()) {
            stripped.push(' ');
        }
    }
    stripped + rest
}

/// What follows the tag's `>`, which may also stand in a quoted attribute.
fn after_tag(tag: &str) -> &str {
    let mut quote = None;
    for (at, c) in tag.char_indices() {
        match quote {
            None if c == '>' => return &tag[at + 1..],
            None if matches!(c, '"' | '\'') => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
    }
    ""
}

/// What follows the closing tag of that name.
fn after_contents<'a>(text: &'a str, name: &str) -> &'a str {
    let mut rest = text;
    while let Some((_, tag)) = rest.split_once("</") {
        if tag.get(..name.len()).is_some_and(|given| given.eq_ignore_ascii_case(name)) {
            return after_tag(tag);
        }
        rest = tag;
    }
    ""
}

/// The text with character references decoded: numbers, Latin-1 and the common punctuation. Others stay.
pub(crate) fn decode_references(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        decoded.push_str(before);
        // No reference is longer, and looking further would make a text of ampersands take quadratic time.
        let end = after.bytes().take(12).position(|byte| byte == b';');
        let reference = end.and_then(|end| Some((decode(&after[..end])?, &after[end + 1..])));
        match reference {
            Some((character, after)) => {
                decoded.push(character);
                rest = after;
            }
            None => {
                decoded.push('&');
                rest = after;
            }
        }
    }
    decoded + rest
}

fn decode(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => number.parse(),
        };
        return char::from_u32(code.ok()?);
    }
    if let Some(at) = LATIN_1.iter().position(|latin| *latin == name) {
        return char::from_u32(0xa0 + u32::try_from(at).ok()?);
    }
    Some(match name {
        "amp" => '&',
        "apos" => '\'',
        "bull" => '\u{2022}',
        "euro" => '\u{20ac}',
        "gt" => '>',
        "hellip" => '\u{2026}',
        "ldquo" => '\u{201c}',
        "lsquo" => '\u{2018}',
        "lt" => '<',
        "mdash" => '\u{2014}',
        "ndash" => '\u{2013}',
        "quot" => '"',
        "rdquo" => '\u{201d}',
        "rsquo" => '\u{2019}',
        "trade" => '\u{2122}',
        _ => return None,
    })
}

/// The names of U+00A0 to U+00FF.
#[rustfmt::skip]
const LATIN_1: [&str; 96] = [
    "nbsp", "iexcl", "cent", "pound", "curren", "yen", "brvbar", "sect", "uml", "copy", "ordf", "laquo", "not", "shy",
    "reg", "macr", "deg", "plusmn", "sup2", "sup3", "acute", "micro", "para", "middot", "cedil", "sup1", "ordm",
    "raquo", "frac14", "frac12", "frac34", "iquest", "Agrave", "Aacute", "Acirc", "Atilde", "Auml", "Aring", "AElig",
    "Ccedil", "Egrave", "Eacute", "Ecirc", "Euml", "Igrave", "Iacute", "Icirc", "Iuml", "ETH", "Ntilde", "Ograve",
    "Oacute", "Ocirc", "Otilde", "Ouml", "times", "Oslash", "Ugrave", "Uacute", "Ucirc", "Uuml", "Yacute", "THORN",
    "szlig", "agrave", "aacute", "acirc", "atilde", "auml", "aring", "aelig", "ccedil", "egrave", "eacute", "ecirc",
    "euml", "igrave", "iacute", "icirc", "iuml", "eth", "ntilde", "ograve", "oacute", "ocirc", "otilde", "ouml",
    "divide", "oslash", "ugrave", "uacute", "ucirc", "uuml", "yacute", "thorn", "yuml",
];
