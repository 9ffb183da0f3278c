//! Continues a text, word by word: a response for each word, as language models give them.
//!
//! `PROMPT`, BYTES `[1]`, is continued to `WORD`, BYTES `[1]`, again and again. Which words follow which is read from the
//! configuration's parameter `text` when the model is loaded. The request's parameters are `max_words` (20) and `seed` (0): the
//! same seed gives the same words.

use std::collections::HashMap;

use airlock_guest::prelude::*;

struct Babble {
    /// The words that have followed a word, as often as they did.
    followers: HashMap<String, Vec<String>>,
    /// Where to go on after a word that nothing has followed.
    first: String,
}

impl Plugin for Babble {
    fn load(config: Config, _: Files) -> Result<Self> {
        Self::learn(config.require("text")?)
    }

    fn signature(&self) -> Signature {
        Signature::new().input("PROMPT", Datatype::Bytes, &[1]).output("WORD", Datatype::Bytes, &[1])
    }

    fn infer(&self, request: Request) -> Result<Response> {
        let prompt = request.input("PROMPT")?.strings()?.concat();
        let number = |name, default| match request.parameter(name) {
            None => Ok(default),
            Some(Parameter::Int64(number)) => u64::try_from(*number)
                .map_err(|_| Error::invalid_input(format_args!("'{name}' must not be negative"))),
            Some(_) => Err(Error::invalid_input(format_args!("'{name}' must be a whole number"))),
        };
        let mut chance = number("seed", 0)?;
        let mut word = prompt.split_whitespace().last().unwrap_or_default();
        for _ in 0..number("max_words", 20)? {
            word = self.after(word, &mut chance);
            responses::emit(Tensor::from_strings("WORD", &[1], &[word])?);
        }
        Ok(Response::none())
    }
}

impl Babble {
    fn learn(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let Some(first) = words.first() else {
            return Err(Error::failed("the parameter 'text' has no words"));
        };
        let mut followers: HashMap<String, Vec<String>> = HashMap::new();
        for pair in words.windows(2) {
            followers.entry(pair[0].to_lowercase()).or_default().push(pair[1].to_owned());
        }
        Ok(Self { followers, first: (*first).to_owned() })
    }

    fn after(&self, word: &str, chance: &mut u64) -> &str {
        // Guests have no randomness of their own: a linear congruential generator (Knuth, MMIX) stands in for it.
        *chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let followers = self.followers.get(&word.to_lowercase()).map_or(&[][..], Vec::as_slice);
        let pick = usize::try_from(*chance >> 33).unwrap_or_default().checked_rem(followers.len());
        pick.map_or(&self.first, |pick| &followers[pick])
    }
}

airlock_guest::export!(Babble);

#[cfg(test)]
mod tests {
    use super::*;

    fn words(prompt: &str, max_words: i64) -> Vec<String> {
        let babble = Babble::learn("a cat saw a dog saw a bird").expect("it has words");
        let request = Request {
            id: None,
            parameters: vec![("max_words".into(), max_words.into())],
            inputs: vec![Tensor::from_strings("PROMPT", &[1], &[prompt]).expect("it fits")],
            outputs: vec![],
        };
        let last = babble.infer(request).expect("an answer");
        assert!(last.outputs.is_empty());
        let word = |response: Response| response.outputs[0].strings().expect("text").concat();
        responses::emitted().into_iter().map(word).collect()
    }

    #[test]
    fn each_word_has_followed_the_one_before() {
        assert_eq!(words("the cat", 2), ["saw", "a"]);
        assert_eq!(words("no such word", 1), ["a"]);
        assert_eq!(words("a bird", 1), ["a"]);
        for pair in words("", 50).windows(2) {
            assert!(
                ["a cat", "cat saw", "saw a", "a dog", "dog saw", "a bird", "bird a"]
                    .contains(&&*pair.join(" "))
            );
        }
    }

    #[test]
    fn there_may_be_no_words_at_all() {
        assert!(words("a", 0).is_empty());
        assert!(Babble::learn(" ").is_err());
    }
}
