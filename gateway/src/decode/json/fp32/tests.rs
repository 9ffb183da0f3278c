use proptest::prelude::*;

use super::*;

/// The values of the numbers that are read from the start of a text, and how much of it they take.
fn read_from(text: &str, most: u64) -> (Vec<f32>, usize) {
    let json = [text.as_bytes(), &[b' '; CHUNK]].concat();
    let mut bytes = Vec::new();
    let (count, end) = read(&json, 0, most, &mut bytes);
    let values: Vec<f32> = bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect();
    assert_eq!(values.len(), count);
    (values, end)
}

/// Everything that is read is as the standard library has it, and how much of it.
fn check(text: &str) -> usize {
    let (values, end) = read_from(text, u64::MAX);
    let texts = text[..end].split_terminator(',').map(|number| number.strip_prefix(' ').unwrap_or(number));
    let expected: Vec<u32> =
        texts.map(|number| number.parse().map(f32::to_bits).unwrap_or_else(|_| panic!("{number}"))).collect();
    assert_eq!(values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), expected, "{text}");
    assert!(end == 0 || text[..end].ends_with(','), "{text}");
    values.len()
}

/// Without the instructions nothing is read at once, and there is nothing to test.
fn reads() -> bool {
    read_from("1,", 1).1 > 0
}

#[test]
fn numbers_are_read_up_to_the_first_that_is_not_plain() {
    for (text, plain) in [
        ("1,2,3,", 3),
        ("1, 2, 3, 4", 3),
        ("0,-0,-0.0,0.5,-12.25,123456789012345,0.1234567890123456,1.5,2.5,", 9),
        // As Python writes an FP32, which is an FP64 to it.
        ("0.30000001192092896, -0.10000000149011612, -123456.789012345678,", 3),
        ("0.00012345678901234567890,1,", 0),
        ("12345678901234567890,1,", 0),
        ("9999999999999999999,1,", 2),
        ("0.0000000000000000000001,1,", 2),
        ("0.00000000000000000000001,1,", 0),
        // Half way between two FP32.
        ("16777217,1,", 0),
        ("1,16777217,1,", 1),
        ("1,2,16777217.0,1,", 2),
        ("1,2e5,", 1),
        ("1,NaN,", 1),
        ("1,[2,3,", 1),
        ("1,2],3,", 1),
        ("1,\n2,", 1),
        ("1 ,2,", 0),
        ("1,  2,", 0),
        (" 1,2,", 2),
        ("", 0),
        ("1", 0),
    ] {
        if reads() {
            let read = check(text);
            assert_eq!(read, plain, "{text}");
        }
    }
}

#[test]
fn what_json_does_not_write_so_is_not_read() {
    for wrong in [
        "", " ", "-", "--1", "+1", "1-", "1-2", ".5", "-.5", "5.", "-5.", "1.2.3", "1..2", "1.-2", "00",
        "01", "-01", "-00.5", "00.5", "1 2", "1. 2", "- 1", ".", "-.",
    ] {
        for text in [
            format!("{wrong},1,2,"),
            format!("1,{wrong},2,"),
            format!("1,2, {wrong},"),
            format!("1,2,{wrong},"),
        ] {
            let (values, end) = read_from(&text, u64::MAX);
            assert!(!text[..end].contains(&format!("{wrong},")) || wrong.trim().is_empty(), "{text}");
            assert!(values.iter().all(|value| [1.0, 2.0].contains(value)), "{text}");
        }
    }
}

#[test]
fn no_more_are_read_than_asked_for() {
    let text = "1,2,3,4,5,6,7,8,9,10,11,".repeat(20);
    for most in 0..70 {
        let (values, end) = read_from(&text, most);
        assert!(values.len() as u64 <= most);
        assert_eq!(text[..end].matches(',').count(), values.len());
        assert!(!reads() || values.len() as u64 == most.min(BLOCK as u64), "{most}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_text_is_read_right_or_not_at_all(text in "([-]?[0-9]{0,3}[.]?[0-9]{0,22}[-e. \\]]?,[ ]?){0,12}") {
        let (values, end) = read_from(&text, u64::MAX);
        for (number, value) in text[..end].split_terminator(',').zip(values) {
            let number = number.strip_prefix(' ').unwrap_or(number);
            // Without the gateway's own scanner: what serde takes for a number is one.
            let raw: serde_json::Number = serde_json::from_str(number).expect("a number");
            prop_assert_eq!(number.parse::<f32>().map(f32::to_bits), Ok(value.to_bits()), "{}", raw);
        }
    }

    #[test]
    fn values_are_read_as_they_were(bits in proptest::collection::vec(any::<u32>(), 1..40), exponents in 100..140_u32) {
        let values: Vec<f32> = bits
            .iter()
            .map(|bits| f32::from_bits(bits & 0x807f_ffff | (exponents.wrapping_add(bits >> 28)) << 23))
            .collect();
        // The shortest, as Python writes them, and with all digits that there are.
        let shortest = values.iter().map(|value| format!("{value},")).collect::<String>();
        let long = values.iter().map(|value| format!("{}, ", f64::from(*value))).collect::<String>();
        let exact = values.iter().map(|value| format!("{value:.18},")).collect::<String>();
        for text in [shortest, long, exact] {
            check(&text);
        }
    }
}
