use proptest::prelude::*;

use super::*;

fn scan(text: &str) -> Number<'_> {
    let number = Number::scan(text.as_bytes()).expect("a number");
    assert_eq!(number.text(), text.as_bytes());
    number
}

fn f32_of(text: &str) -> Option<u32> {
    scan(text).to_f32().map(f32::to_bits)
}

#[test]
fn the_grammar_is_that_of_json() {
    for (text, length) in [
        ("0", 1),
        ("-0", 2),
        ("10,", 2),
        ("1.50]", 4),
        ("1e5 ", 3),
        ("1E+05", 5),
        ("-1.5e-3x", 7),
        ("0x1", 1),
    ] {
        assert_eq!(Number::scan(text.as_bytes()).map(|number| number.text().len()), Ok(length), "{text}");
    }
    for (text, offset) in [
        ("", 0),
        ("-", 1),
        ("+1", 0),
        (".5", 0),
        ("01", 1),
        ("-007", 2),
        ("1.", 2),
        ("1.e5", 2),
        ("1e", 2),
        ("1e+", 3),
        ("--1", 1),
        ("NaN", 0),
    ] {
        assert_eq!(Number::scan(text.as_bytes()).map(|number| number.text().len()), Err(offset), "{text}");
    }
}

#[test]
fn integers_keep_their_full_range() {
    for value in [0, 1, i128::from(i64::MIN), i128::from(i64::MAX), i128::from(u64::MAX)] {
        assert_eq!(scan(&value.to_string()).to_integer(), Some(value));
    }
    assert_eq!(scan("-0").to_integer(), Some(0));
    assert_eq!(scan("18446744073709551616").to_integer(), None);
    assert_eq!(scan(&"9".repeat(400)).to_integer(), None);
    assert!(!scan("1.0").is_integer() && !scan("1e2").is_integer());
}

#[test]
fn floats_beyond_their_range_are_infinite_or_refused() {
    assert_eq!(f32_of("1e39"), Some(f32::INFINITY.to_bits()));
    assert_eq!(f32_of("-1e39"), Some(f32::NEG_INFINITY.to_bits()));
    assert_eq!(f32_of("3.4028235e38"), Some(f32::MAX.to_bits()));
    // Half a unit in the last place above the greatest FP32 is where infinity starts.
    assert_eq!(f32_of("340282356779733661637539395458142568447"), Some(f32::MAX.to_bits()));
    assert_eq!(f32_of("340282356779733661637539395458142568448"), Some(f32::INFINITY.to_bits()));
    for text in ["1e999", "-1e999", "1e99999999999999999999", &"9".repeat(400)] {
        assert_eq!(scan(text).to_f32(), None, "{text}");
        assert_eq!(scan(text).to_f64(), None, "{text}");
        assert_eq!(scan(text).to_f16(), None, "{text}");
    }
    for text in ["1e-999", "0e999999999999", "0.0", &format!("0.{}1", "0".repeat(400))] {
        assert_eq!(f32_of(text), Some(0), "{text}");
        assert_eq!(scan(text).to_f64(), Some(0.0), "{text}");
    }
    assert_eq!(f32_of("-0"), Some((-0.0f32).to_bits()));
    assert_eq!(f32_of("-0.0"), Some((-0.0f32).to_bits()));
    assert_eq!(scan("65520").to_f16(), Some(f16::INFINITY));
    assert_eq!(scan("65519.99").to_f16(), Some(f16::MAX));
}

#[test]
#[expect(clippy::cast_possible_truncation, reason = "the second rounding is the point")]
fn fp32_is_rounded_once() {
    // The nearest FP64 of this decimal is a midpoint of two FP32, so that a second rounding would go down.
    let text = "1.00000005960464477540";
    assert_eq!(text.parse::<f64>().map(|value| (value as f32).to_bits()), Ok(1.0f32.to_bits()));
    assert_eq!(f32_of(text), Some(1.0000001f32.to_bits()));
}

#[test]
fn every_fp16_and_the_middle_to_its_neighbour_is_read_right() {
    for bits in 0..f16::MAX.to_bits() {
        let (low, high) = (f16::from_bits(bits), f16::from_bits(bits + 1));
        assert_eq!(scan(&low.to_f32().to_string()).to_f16(), Some(low));
        let middle = f64::midpoint(low.to_f64(), high.to_f64());
        let even = if bits % 2 == 0 { low } else { high };
        assert_eq!(scan(&format!("{middle:e}")).to_f16(), Some(even));
        // So little aside that FP32 cannot tell it from the middle.
        assert_eq!(scan(&format!("{:e}", middle * (1.0 + 1e-14))).to_f16(), Some(high));
        assert_eq!(scan(&format!("{:e}", middle * (1.0 - 1e-14))).to_f16(), Some(low));
    }
}

/// Texts of numbers: plain ones, those around a midpoint of two FP32, and any that JSON allows.
fn number_text() -> impl Strategy<Value = String> {
    let printed = any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |value| value.is_finite());
    let middle = (0..0x7f7f_ffff_u32, -3..=3_i32, 0..25_usize).prop_map(|(bits, aside, digits)| {
        let (low, high) = (f32::from_bits(bits), f32::from_bits(bits + 1));
        let middle = f64::midpoint(f64::from(low), f64::from(high));
        let near = f64::from_bits(middle.to_bits().wrapping_add_signed(i64::from(aside)));
        format!("{near:.digits$e}")
    });
    prop_oneof![
        printed.clone().prop_map(|value| value.to_string()),
        printed.prop_map(|value| f64::from(value).to_string()),
        any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| format!("{value:e}")),
        middle,
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][-+]?[0-9]{1,2})?",
        "-?0\\.0{0,22}[0-9]{1,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn floats_are_those_of_the_standard_library(text in number_text()) {
        let number = scan(&text);
        let expected: f64 = text.parse().expect("a number");
        prop_assert_eq!(number.to_f64().map(f64::to_bits), Some(expected.to_bits()).filter(|_| expected.is_finite()));
        let expected_f32: f32 = text.parse().expect("a number");
        let in_range = expected.is_finite();
        prop_assert_eq!(number.to_f32().map(f32::to_bits), Some(expected_f32.to_bits()).filter(|_| in_range));
    }

    #[test]
    fn integers_are_those_of_the_standard_library(value in any::<u64>(), negative in any::<bool>(), shift in 0..64) {
        let value = i128::from(value >> shift) * if negative { -1 } else { 1 };
        prop_assert_eq!(scan(&value.to_string()).to_integer(), Some(value));
    }

    #[test]
    fn exactly_the_numbers_of_json_are_scanned(text in "[-+0-9.eE]{0,12}") {
        let scanned = Number::scan(text.as_bytes()).is_ok_and(|number| number.text() == text.as_bytes());
        let expected = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        prop_assert_eq!(scanned, expected);
    }
}
