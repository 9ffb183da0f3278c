//! Cleans text for a model: `TEXT`, BYTES `[-1]`, becomes `CLEAN`, BYTES `[-1]`.
//!
//! In this order: HTML tags and comments are taken out, with what `script` and `style` contain; character references
//! are decoded; letters are composed (Unicode NFC) and made lower case; runs of white space become one space.

mod html;

use airlock_guest::prelude::*;
use unicode_normalization::UnicodeNormalization;

struct TextClean;

impl Plugin for TextClean {
    fn load(_: Config, _: Files) -> Result<Self> {
        Ok(Self)
    }

    fn signature(&self) -> Signature {
        Signature::new().input("TEXT", Datatype::Bytes, &[-1]).output("CLEAN", Datatype::Bytes, &[-1])
    }

    fn infer(&self, request: Request) -> Result<Response> {
        let text = request.input("TEXT")?;
        let cleaned: Vec<String> = text.strings()?.into_iter().map(clean).collect();
        Ok(Tensor::from_strings("CLEAN", &text.shape, &cleaned)?.into())
    }
}

fn clean(text: &str) -> String {
    let text = html::decode_references(&html::strip_tags(text));
    // Lower case may come apart again, such as that of U+0130: compose what is left at the end.
    let text: String = text.to_lowercase().nfc().collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

airlock_guest::export!(TextClean);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::clean;

    #[test]
    fn tags_go_and_their_text_stays() {
        assert_eq!(clean("<p>Hello,   <b>W</b>orld!</p><p>Bye</p>"), "hello, world! bye");
        assert_eq!(clean("a<br/>b<!-- <p>not this</p> -->c"), "a b c");
        assert_eq!(clean("<a title='1 > 2' href=\"x\">link</a>"), "link");
        assert_eq!(clean("x<script>if (a < b) {}</script>y<STYLE>p{}</style >z"), "x y z");
    }

    #[test]
    fn what_is_no_tag_stays() {
        assert_eq!(clean("1 < 2 and 3 > 2"), "1 < 2 and 3 > 2");
        assert_eq!(clean("I <3 you"), "i <3 you");
        assert_eq!(clean("a < "), "a <");
    }

    #[test]
    fn what_never_ends_goes_to_the_end() {
        assert_eq!(clean("a<b"), "a");
        assert_eq!(clean("a<!-- b"), "a");
        assert_eq!(clean("a<script>b"), "a");
    }

    #[test]
    fn references_are_decoded_once() {
        assert_eq!(clean("a &amp;lt; b &#65;&#x42;&nbsp;c"), "a &lt; b ab c");
        assert_eq!(clean("Caf&eacute; &Uuml;&yuml;&nbsp;&hellip;"), "caf\u{e9} \u{fc}\u{ff} \u{2026}");
        assert_eq!(clean("&lt;p&gt; is a tag"), "<p> is a tag");
        assert_eq!(clean("&unknown; & &; &#xD800; &#99999999999;"), "&unknown; & &; &#xd800; &#99999999999;");
    }

    #[test]
    fn letters_are_composed_and_lower_case() {
        assert_eq!(clean("E\u{301}COLE"), "\u{e9}cole");
        assert_eq!(clean("\u{212b}"), "\u{e5}", "the sign for angstrom is the letter");
        assert_eq!(clean("stra\u{df}e \u{3a3}\u{391}\u{3a3}"), "stra\u{df}e \u{3c3}\u{3b1}\u{3c2}");
    }

    #[test]
    fn white_space_is_one_space_and_none_at_the_ends() {
        assert_eq!(clean("\t a\u{a0}\u{2003}b\r\n\nc "), "a b c");
        assert_eq!(clean(""), "");
    }

    proptest! {
        #[test]
        fn any_text_becomes_words_with_one_space_between(text in "(\\PC|[<>/!&;#'\"a-z \\-]|<[!a-z/]|&#?[0-9a-z]|\\s){0,60}") {
            let cleaned = clean(&text);
            prop_assert_eq!(&cleaned, &cleaned.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
}
