use proptest::prelude::*;

use super::*;

/// The number at the start of `text`, in the middle of a JSON text.
fn scan(text: &str) -> Option<Short> {
    let json = [&[b'7'; BEFORE], text.as_bytes(), &[b'8'; AFTER]].concat();
    let padded = [&[b' '; BEFORE], text.as_bytes(), &[b','; AFTER]].concat();
    let among_digits = Short::scan(&json, BEFORE);
    let number = Short::scan(&padded, BEFORE);
    // What stands before a number does not count.
    if text.ends_with(|last: char| !last.is_ascii_digit()) {
        assert_eq!(among_digits, number, "{text}");
    }
    number
}

#[test]
fn short_numbers_are_scanned_and_nothing_else() {
    let number = |negative, mantissa, places, integer, length| {
        Some(Short { negative, mantissa, places, integer, length })
    };
    assert_eq!(scan("0"), number(false, 0, 0, true, 1));
    assert_eq!(scan("-0.0"), number(true, 0, 1, false, 4));
    assert_eq!(scan("10]"), number(false, 10, 0, true, 2));
    assert_eq!(scan("123456789012345,"), number(false, 123_456_789_012_345, 0, true, 15));
    assert_eq!(scan("-12345678901234 "), number(true, 12_345_678_901_234, 0, true, 15));
    assert_eq!(scan("0.1234567890123}"), number(false, 1_234_567_890_123, 13, false, 15));
    assert_eq!(scan("-1234567.890123,"), number(true, 1_234_567_890_123, 6, false, 15));
    assert_eq!(scan("12345678901234.5"), None);
    // The text of a number ends where it has to, whatever follows.
    assert_eq!(scan("1-2"), number(false, 1, 0, true, 1));
    assert_eq!(scan("1.5.2"), number(false, 15, 1, false, 3));
    for text in [
        "1234567890123456",
        "0.12345678901234",
        "01",
        "-01.5",
        "00",
        "-",
        "--1",
        "+1",
        ".5",
        "-.5",
        "1.",
        "-1.]",
        "1e5",
        "1.5E5",
        "NaN",
        "-Infinity",
        "\"1\"",
        "[1",
        " 1",
        "",
    ] {
        assert_eq!(scan(text), None, "{text}");
    }
}

#[test]
fn the_ends_of_a_text_are_left_to_others() {
    let json = [b' '; BEFORE + AFTER].map(|_| b'1');
    for start in 0..json.len() + 2 {
        let mut json = json;
        json[0] = b' ';
        let _ = Short::scan(&json, start);
    }
    assert_eq!(Short::scan(b"1,2", 0), None);
    assert_eq!(Short::scan(b"1,2", usize::MAX), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_short_number_is_what_the_longer_scan_finds(text in "-?[0-9]{0,4}[0-9.eE+-]{0,14}[],}e. ]?") {
        let json = [&[b' '; BEFORE], text.as_bytes(), &[b','; AFTER]].concat();
        let long = crate::decode::json::number::Number::scan(&json[BEFORE..]);
        if let Some(short) = Short::scan(&json, BEFORE) {
            let long = long.expect("a number");
            prop_assert_eq!(long.text().len(), short.length);
            prop_assert_eq!(long.is_integer(), short.integer);
            let value: f64 = std::str::from_utf8(long.text()).expect("ASCII").parse().expect("a number");
            prop_assert_eq!(short.to_f64().to_bits(), value.to_bits());
        } else if let Ok(long) = long {
            let exponent = long.text().iter().any(|byte| byte.eq_ignore_ascii_case(&b'e'));
            prop_assert!(exponent || long.text().len() >= WINDOW, "{}", text);
        }
    }

    #[test]
    fn every_processor_finds_the_same(
        windows in any::<(u128, u128)>(),
        all in any::<u128>(),
        digits in 0..WINDOW,
        places in 0..=WINDOW,
    ) {
        prop_assert_eq!(not_digits(all), portable::not_digits(all));
        // Of each byte a digit.
        let ascii = |window: u128| {
            u128::from_le_bytes(window.to_le_bytes().map(|byte| b'0' + byte % 10))
        };
        let (last, before_last) = (ascii(windows.0), ascii(windows.1));
        prop_assert_eq!(not_digits(last), 0);
        let (from_last, digits) = (last_bytes(places).expect("a mask"), last_bytes(digits).expect("a mask"));
        prop_assert_eq!(
            value(last, before_last, from_last, digits),
            portable::value(last, before_last, from_last, digits)
        );
    }
}
